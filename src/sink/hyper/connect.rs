//! Opens connections: name, TCP, proxy, TLS.

use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, proxy::Tunnel},
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

use crate::sink::{Fault, Stage};

/// The protocols that are offered in the TLS handshake (RFC 7301), the better one first.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Opens connections to webhooks.
pub(super) struct Connector {
    tcp: HttpConnector,
    tls: TlsConnector,
    proxies: Matcher,
}

/// A connection, and what is spoken on it.
pub(super) enum Opened {
    /// Plain text, on which HTTP/1.1 is spoken.
    Plain(TokioIo<TcpStream>),
    /// TLS.
    Tls {
        /// The connection.
        stream: Box<TokioIo<TlsStream<TcpStream>>>,
        /// Whether HTTP/2 was agreed on.
        http2: bool,
    },
}

/// Plain HTTP goes through a proxy that reads each request (RFC 9112, section 3.2.2).
pub(super) struct Proxied {
    /// What the proxy wants in each request.
    pub(super) authorization: Option<HeaderValue>,
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the proxy is not reached by http://, which is all that is supported")]
    ProxyScheme,
    #[error("the host is no name that a certificate could be for")]
    Name,
}

impl Connector {
    pub(super) fn new(roots: RootCertStore, proxies: Matcher) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring offers TLS 1.2 and 1.3")
            .with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, tls: TlsConnector::from(Arc::new(config)), proxies }
    }

    /// The proxy that reads each request to `target`. A tunnel is none: it reads nothing.
    pub(super) fn proxied(&self, target: &Uri) -> Option<Proxied> {
        if target.scheme_str() == Some("https") {
            return None;
        }
        let proxy = self.proxies.intercept(target)?;
        Some(Proxied { authorization: proxy.basic_auth().cloned() })
    }

    /// Opens a connection to `target`, through its proxy if it has one.
    pub(super) async fn open(&self, target: &Uri) -> Result<Opened, Fault> {
        let proxy = self.proxies.intercept(target);
        if proxy.as_ref().is_some_and(|proxy| proxy.uri().scheme_str() != Some("http")) {
            return Err(fault(Stage::Connect, ConnectError::ProxyScheme));
        }
        let https = target.scheme_str() == Some("https");
        let tcp = match proxy {
            None => self.tcp.clone().call(target.clone()).await.map_err(|error| fault(Stage::Connect, error))?,
            Some(proxy) if https => self.tunnel(&proxy, target).await?,
            Some(proxy) => {
                self.tcp.clone().call(proxy.uri().clone()).await.map_err(|error| fault(Stage::Connect, error))?
            }
        };
        if https { self.handshake(tcp.into_inner(), target).await } else { Ok(Opened::Plain(tcp)) }
    }

    async fn tunnel(&self, proxy: &Intercept, target: &Uri) -> Result<TokioIo<TcpStream>, Fault> {
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.tcp.clone());
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        tunnel.call(target.clone()).await.map_err(|error| fault(Stage::Connect, error))
    }

    async fn handshake(&self, tcp: TcpStream, target: &Uri) -> Result<Opened, Fault> {
        let host = target.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| fault(Stage::Tls, ConnectError::Name))?;
        let stream = self.tls.connect(name, tcp).await.map_err(|error| fault(Stage::Tls, error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok(Opened::Tls { stream: Box::new(TokioIo::new(stream)), http2 })
    }
}

fn fault(stage: Stage, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
    Fault { stage, source: error.into() }
}
