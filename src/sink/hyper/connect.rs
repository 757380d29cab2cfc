//! From an origin to a stream of bytes that reaches it.

use std::{env, error::Error as StdError, future::poll_fn, pin::pin};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::{
    client::{
        legacy::connect::HttpConnector,
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::{
    SinkError,
    origin::Origin,
    tls::{Tls, TlsError},
};
use crate::sink::{Fault, Stage};

/// What every layer below HTTP reads from and writes to.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// TCP, or TLS over it, or that again over a tunnel: boxed once for each connection.
pub(super) type Stream = Box<dyn Io>;

/// A stream on which HTTP can begin.
pub(super) struct Opened {
    /// The stream.
    pub(super) stream: Stream,
    /// Whether the server chose HTTP/2.
    pub(super) http2: bool,
    /// Set when a proxy reads the requests.
    pub(super) forward: Option<Forward>,
}

/// What a proxy that passes plain requests on wants in each of them.
pub(super) struct Forward {
    /// `Proxy-Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

/// Opens streams to webhooks, directly or through a proxy.
pub(super) struct Connector {
    tcp: HttpConnector,
    proxies: Matcher,
    tls: Tls,
}

/// Why there is no stream through a proxy.
#[derive(Debug, thiserror::Error)]
enum ProxyError {
    #[error("no connection to the proxy")]
    Unreachable(#[source] Box<dyn StdError + Send + Sync>),
    #[error("no TLS with the proxy")]
    Tls(#[source] TlsError),
    #[error("the proxy did not answer the request for a tunnel")]
    Broken(#[source] hyper::Error),
    #[error("the proxy refused the tunnel with status {0}")]
    Refused(StatusCode),
    #[error("the proxy sent data before the tunnel was in use")]
    TooSoon,
}

/// Webhooks of either scheme, to ask for their proxy.
///
/// The name is reserved, so that of all that `NO_PROXY` may say only `*` means it; then no proxy is used at all.
const ANY: [&str; 2] = ["http://any.invalid", "https://any.invalid"];

/// The proxies that the environment names.
///
/// [`Matcher::from_env`] goes without a proxy when it does not understand one. A cluster with a proxy has a reason for
/// it, so that is an error here.
pub(super) fn proxies_from_env() -> Result<Matcher, SinkError> {
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        if env::var(variable).is_ok_and(|value| !value.is_empty() && !is_proxy(value)) {
            return Err(SinkError::Proxy(variable));
        }
    }
    Ok(Matcher::from_env())
}

fn is_proxy(value: String) -> bool {
    Matcher::builder().all(value).build().intercept(&Uri::from_static(ANY[0])).is_some()
}

impl Connector {
    /// Refuses proxies that it cannot go through.
    pub(super) fn new(proxies: Matcher, tls: Tls) -> Result<Self, SinkError> {
        for any in ANY {
            let proxy = proxies.intercept(&Uri::from_static(any));
            if proxy.is_some_and(|proxy| proxy.uri().scheme_str().is_some_and(|scheme| scheme.starts_with("socks"))) {
                return Err(SinkError::SocksProxy);
            }
        }
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // A request is written in one go; waiting for more only makes it late.
        tcp.set_nodelay(true);
        Ok(Self { tcp, proxies, tls })
    }

    /// Opens a stream to `origin`, which is the one of `target`.
    pub(super) async fn connect(&self, origin: &Origin, target: &Uri) -> Result<Opened, Fault> {
        let proxy = self.proxies.intercept(target);
        let stream = match &proxy {
            None => self.tcp(target).await.map_err(|error| Stage::Connect.fault(error))?,
            Some(proxy) => self.through(proxy, origin).await.map_err(|error| Stage::Connect.fault(error))?,
        };
        if origin.is_secure() {
            let (stream, http2) =
                self.tls.to_webhook(origin.name(), stream).await.map_err(|error| Stage::Tls.fault(error))?;
            return Ok(Opened { stream, http2, forward: None });
        }
        let forward = proxy.map(|proxy| Forward { authorization: proxy.basic_auth().cloned() });
        Ok(Opened { stream, http2: false, forward })
    }

    async fn tcp(&self, to: &Uri) -> Result<Stream, Box<dyn StdError + Send + Sync>> {
        let mut tcp = self.tcp.clone();
        poll_fn(|cx| tcp.poll_ready(cx)).await?;
        Ok(Box::new(tcp.call(to.clone()).await?.into_inner()))
    }

    /// A stream to the proxy, and for a secure origin to what lies behind it.
    async fn through(&self, proxy: &Intercept, origin: &Origin) -> Result<Stream, ProxyError> {
        let mut stream = self.tcp(proxy.uri()).await.map_err(ProxyError::Unreachable)?;
        if let Some(proxy) = Origin::of(proxy.uri()).filter(Origin::is_secure) {
            stream = self.tls.to_proxy(proxy.name(), stream).await.map_err(ProxyError::Tls)?;
        }
        if origin.is_secure() {
            stream = tunnel(stream, origin, proxy.basic_auth()).await?;
        }
        Ok(stream)
    }
}

/// Has the proxy at the other end of `stream` connect it to `origin`.
async fn tunnel(stream: Stream, origin: &Origin, authorization: Option<&HeaderValue>) -> Result<Stream, ProxyError> {
    let request = connect_request(origin, authorization);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ProxyError::Broken)?;
    let connection = pin!(connection.without_shutdown());
    let answer = pin!(sender.send_request(request));
    let parts = match select(connection, answer).await {
        Either::Left((parts, answer)) => {
            accepted(answer.await)?;
            parts
        }
        Either::Right((answer, connection)) => {
            accepted(answer)?;
            connection.await
        }
    }
    .map_err(ProxyError::Broken)?;
    // In TLS the client speaks first, so these bytes are not the webhook's.
    if parts.read_buf.is_empty() { Ok(parts.io.into_inner()) } else { Err(ProxyError::TooSoon) }
}

fn connect_request(origin: &Origin, authorization: Option<&HeaderValue>) -> Request<Empty<Bytes>> {
    let to: Authority = origin.with_port().parse().expect("host and port of a valid authority");
    let mut request = Request::new(Empty::new());
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(to.as_str()).expect("visible ASCII"));
    if let Some(authorization) = authorization {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
    }
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from(to);
    request
}

fn accepted(answer: Result<Response<Incoming>, hyper::Error>) -> Result<(), ProxyError> {
    match answer.map_err(ProxyError::Broken)?.status() {
        status if status.is_success() => Ok(()),
        status => Err(ProxyError::Refused(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_no_proxy_is_told_from_what_does() {
        for value in ["http://proxy:3128", "https://u:p@proxy", "proxy:3128", "192.0.2.1:3128", "socks5://proxy"] {
            assert!(is_proxy(value.to_owned()), "{value}");
        }
        for value in ["ftp://proxy", "http://", "http:// proxy", "/proxy", "http//proxy:3128"] {
            assert!(!is_proxy(value.to_owned()), "{value}");
        }
    }
}
