//! A webhook receiver on loopback that records what arrives and misbehaves as told.

mod answer;
mod record;
mod server;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

pub use crate::receiver::{answer::Answer, record::Received};
use crate::{
    listening::Listening,
    pki::Authority,
    receiver::{record::Record, server::acceptor},
};

/// A receiver that answers `204 No Content` until it is told otherwise.
pub struct Receiver {
    listening: Listening,
    record: Arc<Record>,
    tls: Option<Tls>,
}

struct Tls {
    acceptor: TlsAcceptor,
    ca_pem: String,
}

/// What was waited for did not arrive within the limit.
#[derive(Debug)]
pub struct NotReceived(String);

impl Receiver {
    /// A receiver of plain HTTP, both 1.1 and 2.
    pub async fn http() -> io::Result<Self> {
        Self::start(None).await
    }

    /// A receiver of HTTPS as `127.0.0.1` and `localhost`, signed by an authority of its own.
    pub async fn https() -> io::Result<Self> {
        Self::https_as(&["127.0.0.1", "localhost"]).await
    }

    /// A receiver of HTTPS that shows a certificate for other names.
    pub async fn https_as(names: &[&str]) -> io::Result<Self> {
        let authority = Authority::new("k8vent-harness receiver");
        let tls = Tls { acceptor: acceptor(&authority.server(names)), ca_pem: authority.pem() };
        Self::start(Some(tls)).await
    }

    async fn start(tls: Option<Tls>) -> io::Result<Self> {
        let listening = Listening::start("receiver").await?;
        let this = Self { listening, record: Arc::new(Record::new()), tls };
        this.up().await?;
        Ok(this)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// The URL of a path that begins with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address())
    }

    /// The certificate of the authority that signed the receiver's, in PEM.
    ///
    /// # Panics
    ///
    /// When the receiver speaks plain HTTP.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.tls.as_ref().expect("the receiver speaks HTTPS").ca_pem
    }

    /// Answers every request from now on in the same way.
    pub fn answer(&self, answer: Answer) {
        self.answer_with(move |_| answer.clone());
    }

    /// Answers every request from now on as the function says. It is called just before the request is recorded, by one
    /// thread.
    pub fn answer_with(&self, answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        *self.record.answer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(answer);
    }

    /// Whether requests are kept; without that it only counts them, which is several times faster.
    pub fn keep_requests(&self, keep: bool) {
        self.record.keep.store(keep, Ordering::Relaxed);
    }

    /// Forgets the requests so far; the counts go on.
    pub fn clear(&self) {
        self.record.requests.send_modify(Vec::clear);
    }

    /// The requests so far, in the order in which they were complete.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.record.requests.borrow().clone()
    }

    /// How many requests were complete since the start, kept or not.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.record.count.borrow()
    }

    /// How many connections have been accepted since the start.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.record.accepted.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.record.open.load(Ordering::Relaxed)
    }

    /// Waits until the kept requests fit, and returns them; those that came before the call count.
    pub async fn wait_for(
        &self,
        limit: Duration,
        mut fits: impl FnMut(&[Received]) -> bool,
    ) -> Result<Vec<Received>, NotReceived> {
        let mut requests = self.record.requests.subscribe();
        let waited = timeout(limit, requests.wait_for(|requests| fits(requests))).await;
        match waited {
            Ok(Ok(requests)) => Ok(requests.clone()),
            Ok(Err(_)) | Err(_) => Err(NotReceived::new(limit, &self.requests())),
        }
    }

    /// Waits until so many requests have been complete since the start, kept or not.
    pub async fn wait_for_count(&self, limit: Duration, count: u64) -> Result<(), NotReceived> {
        let mut counted = self.record.count.subscribe();
        let waited = timeout(limit, counted.wait_for(|counted| *counted >= count)).await;
        let too_few = || format!("{} of {count} requests came within {limit:?}", self.count());
        if matches!(waited, Ok(Ok(_))) { Ok(()) } else { Err(NotReceived(too_few())) }
    }

    /// Closes the port and every connection: new ones are refused.
    pub async fn down(&self) {
        self.listening.down().await;
    }

    /// Opens the same port again after [`down`](Self::down).
    pub async fn up(&self) -> io::Result<()> {
        let record = Arc::clone(&self.record);
        let tls = self.tls.as_ref().map(|tls| tls.acceptor.clone());
        self.listening.up(move |stream| server::connection(stream, tls.clone(), Arc::clone(&record))).await
    }
}

impl NotReceived {
    fn new(limit: Duration, requests: &[Received]) -> Self {
        let shown = requests.iter().rev().take(30).rev().map(|request| format!("\n  {request}"));
        Self(format!(
            "what was waited for did not arrive within {limit:?}; the last of {} requests:{}",
            requests.len(),
            shown.collect::<String>()
        ))
    }
}

impl fmt::Display for NotReceived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotReceived {}

#[cfg(test)]
mod tests;
