//! POSTs over HTTP/1.1 and HTTP/2: the adapter of [`WebhookSink`].

use std::time::SystemTime;

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, Uri,
    header::{HOST, PROXY_AUTHORIZATION, RETRY_AFTER},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::proxy::matcher::Matcher;
use rustls::RootCertStore;

use crate::sink::{
    Fault, Outcome, Stage, WebhookSink,
    hyper::{
        connect::{Connector, Proxied},
        pool::{Lease, Pool},
        roots::RootsError,
    },
};

mod connect;
mod pool;
mod retry_after;
pub mod roots;

/// The most that is read of an answer: more than any webhook has to say, and little enough for all attempts at once.
const ANSWER_CAP: usize = 64 << 10;

/// POSTs to webhooks, over connections that it keeps for the next attempt.
///
/// There are never more connections to a host than attempts in flight to it were at once, and one to a host that
/// speaks HTTP/2. Redirects are not followed. There is no time limit here: the core drops what takes too long, which
/// closes the connection.
pub struct HyperSink {
    pool: Pool,
    connector: Connector,
}

impl HyperSink {
    /// Trusts the system's certificate authorities, else bundled ones, and goes through the proxies that
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` name.
    pub fn from_env() -> Result<Self, RootsError> {
        Ok(Self::new(roots::system_or_bundled()?, Matcher::from_env()))
    }

    /// Trusts `roots` and goes through `proxies`.
    #[must_use]
    pub fn new(roots: RootCertStore, proxies: Matcher) -> Self {
        Self { pool: Pool::default(), connector: Connector::new(roots, proxies) }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Outcome, Fault> {
        let target = request.uri().clone();
        let mut request = request.map(Full::new);
        loop {
            let proxied = self.connector.proxied(&target);
            let mut lease = self.pool.lease(&target, &self.connector).await?;
            address(&mut request, &target, lease.speaks_http2(), proxied);
            match lease.send(request).await {
                Ok(response) => return answered(lease, response).await,
                // The connection had been closed, as idle ones are: the webhook has not seen the request.
                Err(mut error) if !lease.is_new() && error.message().is_some() => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(exchange_fault(error.into_error())),
                },
                Err(error) => return Err(exchange_fault(error.into_error())),
            }
        }
    }
}

impl WebhookSink for HyperSink {
    async fn post(&self, request: Request<Bytes>) -> Outcome {
        self.exchange(request).await.unwrap_or_else(Outcome::Unreachable)
    }
}

fn exchange_fault(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
    Fault { stage: Stage::Exchange, source: error.into() }
}

/// Writes the target as the connection wants it: the whole of it for HTTP/2 and for a proxy, else the path, with the
/// host in a header (RFC 9112, section 3.2).
fn address(request: &mut Request<Full<Bytes>>, target: &Uri, http2: bool, proxied: Option<Proxied>) {
    *request.uri_mut() = target.clone();
    request.headers_mut().remove(HOST);
    if http2 {
        return;
    }
    if let Some(host) = host(target) {
        request.headers_mut().insert(HOST, host);
    }
    let Some(Proxied { authorization }) = proxied else {
        *request.uri_mut() = target.path_and_query().map_or_else(Uri::default, |path| path.clone().into());
        return;
    };
    if let Some(authorization) = authorization {
        request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
    }
}

/// The host, with the port unless it is the scheme's own.
fn host(target: &Uri) -> Option<HeaderValue> {
    let default = if target.scheme_str() == Some("https") { 443 } else { 80 };
    let text = match target.port_u16().filter(|port| *port != default) {
        Some(port) => format!("{}:{port}", target.host()?),
        None => target.host()?.to_owned(),
    };
    HeaderValue::try_from(text).ok()
}

/// Reads the answer to its end, after which the connection is free for others, or to the cap.
async fn answered(lease: Lease<'_>, response: Response<Incoming>) -> Result<Outcome, Fault> {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| retry_after::parse(value.as_bytes(), SystemTime::now()));
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(exchange_fault)?;
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER_CAP {
            return Ok(Outcome::Answered { status, retry_after });
        }
    }
    lease.give_back().await;
    Ok(Outcome::Answered { status, retry_after })
}

#[cfg(test)]
mod tests;
