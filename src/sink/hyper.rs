//! The adapter to the webhooks: HTTP/1.1 and HTTP/2 over TCP and TLS, through a proxy where one is set.
//!
//! ```text
//! post ─ origin ─ pool ──────────────── connection ─ answer
//!                   └ connect ─ tls ───────┘
//! ```
//!
//! Each request either takes a connection from the pool or opens one itself. Nothing races for it, so an origin never
//! has more connections than it had requests in flight at once.

use std::{error::Error as StdError, mem, sync::Arc};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use hyper_util::client::proxy::matcher::Matcher;
use rustls::RootCertStore;

use self::{
    answer::Answer,
    connect::Connector,
    connection::{Connection, Sent},
    fenced::Fenced,
    origin::{NotAbsolute, Origin},
    pool::{Checkout, IDLE_LIMIT, Pool, Visit},
    tls::Tls,
};
use super::{Fault, Outcome, Stage, WebhookSink};
use crate::fence::Fence;

mod origin;

mod pool;

mod connect;

mod tls;

mod connection;

mod fenced;

mod answer;

#[cfg(test)]
mod tests;

/// Posts to webhooks with hyper.
///
/// It sets no limit on the time an attempt takes; whoever calls [`post`](WebhookSink::post) does, by dropping it. That
/// closes an HTTP/1.1 connection and resets an HTTP/2 stream. Dropping the sink closes every connection.
pub struct HyperSink {
    pool: Arc<Pool>,
    connector: Connector,
    fence: Fence,
}

/// Why there is no sink.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A certificate file was named and is not usable.
    #[error("cannot read the certificates that SSL_CERT_FILE names; give a readable PEM file")]
    CertFile(#[source] rustls_native_certs::Error),
    /// Certificates were named, and there are none.
    #[error("SSL_CERT_FILE or SSL_CERT_DIR is set, but no certificate is there; name PEM certificates or unset it")]
    NoCertificates,
    /// A variable is to name a proxy, and does not.
    #[error("{0} does not name a proxy; set it to http://HOST:PORT or unset it")]
    Proxy(&'static str),
    /// A proxy was named that speaks something else than HTTP.
    #[error("SOCKS proxies are not supported; set HTTP_PROXY and HTTPS_PROXY to an http:// or https:// proxy")]
    SocksProxy,
    /// The TLS library refuses its settings.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

impl HyperSink {
    /// A sink that trusts `roots` and goes through the proxies that `proxies` tells. What it writes while `fence` is
    /// closed is not sent, and breaks the connection.
    pub fn new(proxies: Matcher, roots: RootCertStore, fence: Fence) -> Result<Self, SinkError> {
        let connector = Connector::new(proxies, Tls::new(roots)?)?;
        Ok(Self { pool: Pool::new(IDLE_LIMIT), connector, fence })
    }

    /// A sink set up by the environment.
    ///
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` (or in small letters) tell the proxies. The trusted
    /// certificates are the system's, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name; a system without any, like
    /// an image from scratch, gets the ones that come with k8vent.
    pub fn from_env(fence: Fence) -> Result<Self, SinkError> {
        Self::new(connect::proxies_from_env()?, tls::system_roots()?, fence)
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, Fault> {
        let mut request = request.map(Full::new);
        let target = mem::take(request.uri_mut());
        let origin = Origin::of(&target).ok_or_else(|| Stage::Connect.fault(NotAbsolute))?;
        let mut visit = self.pool.visit(origin);
        loop {
            let (mut connection, reused) = self.connection(&visit, &target).await?;
            match connection.send(request, &target).await {
                Sent::Answered(response) => {
                    let answer = Answer::read(response).await.map_err(|error| Stage::Exchange.fault(error))?;
                    if answer.whole && connection.settled().await {
                        visit.keep(connection);
                    }
                    return Ok(answer);
                }
                // The server closed the connection while it was idle. No byte has left: the next one may have it.
                Sent::Returned(returned, _) if reused => {
                    visit.discard(&connection);
                    request = returned;
                }
                Sent::Returned(_, error) | Sent::Failed(error) => return Err(Stage::Exchange.fault(error)),
            }
        }
    }

    /// A connection for one request, and whether it has been used before.
    async fn connection(&self, visit: &Visit<'_>, target: &Uri) -> Result<(Connection, bool), Fault> {
        let first = match visit.checkout() {
            Checkout::Reuse(connection) => return Ok((connection, true)),
            Checkout::Open => return self.open(visit, target).await,
            Checkout::Negotiate(first) => first,
        };
        let turn = first.lock().await;
        // Whoever had the turn before may have found out what the server speaks.
        match visit.checkout() {
            Checkout::Reuse(connection) => Ok((connection, true)),
            Checkout::Open => {
                drop(turn);
                self.open(visit, target).await
            }
            Checkout::Negotiate(_) => self.open(visit, target).await,
        }
    }

    async fn open(&self, visit: &Visit<'_>, target: &Uri) -> Result<(Connection, bool), Fault> {
        let mut opened = self.connector.connect(visit.origin(), target).await?;
        if self.fence.may_close() {
            opened.stream = Box::new(Fenced::new(opened.stream, self.fence.clone()));
        }
        let connection = Connection::start(opened, visit).await.map_err(|error| Stage::Exchange.fault(error))?;
        visit.opened(&connection);
        Ok((connection, false))
    }
}

impl WebhookSink for HyperSink {
    async fn post(&self, request: Request<Bytes>) -> Outcome {
        match self.exchange(request).await {
            Ok(Answer { status, retry_after, .. }) => Outcome::Answered { status, retry_after },
            Err(fault) => Outcome::Unreachable(fault),
        }
    }
}

impl Stage {
    fn fault(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Fault {
        Fault { stage: self, source: source.into() }
    }
}
