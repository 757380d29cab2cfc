//! Webhooks and proxies to post to: each on a port of its own, each counting what it sees.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::within;

/// A server on a port of its own, which ends when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
    _accepting: JoinSet<()>,
}

/// What a server has seen.
#[derive(Default)]
pub(super) struct Seen {
    connections: watch::Sender<Connections>,
    heads: Mutex<Vec<String>>,
}

#[derive(Default, Clone, Copy)]
struct Connections {
    open: usize,
    most: usize,
    ever: usize,
}

impl Server {
    /// Runs `serve` on each connection.
    pub(super) async fn start<F>(serve: impl Fn(TcpStream, Arc<Seen>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let mut accepting = JoinSet::new();
        let counting = seen.clone();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serve(stream, counting.clone());
                let open = Open::count(counting.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(open);
                });
            }
        });
        Self { address, seen, _accepting: accepting }
    }

    /// Answers every request of HTTP/1.1 with `answer`.
    pub(super) async fn http1<F>(answer: impl Fn() -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        Self::start(move |stream, seen| serve_http(stream, false, answer.clone(), seen)).await
    }

    /// The same inside TLS, and over HTTP/2 if both ends speak it.
    pub(super) async fn tls<F>(
        config: Arc<ServerConfig>,
        answer: impl Fn() -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        Self::start(move |stream, seen| {
            let (acceptor, answer) = (TlsAcceptor::from(config.clone()), answer.clone());
            async move {
                // A client that does not trust the certificate hangs up.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                serve_http(stream, http2, answer, seen).await;
            }
        })
        .await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook?key=1", self.address)
    }

    /// By name, for certificates.
    pub(super) fn secure_url(&self) -> String {
        format!("https://localhost:{}/hook?key=1", self.address.port())
    }

    /// How many connections there have been.
    pub(super) fn connections(&self) -> usize {
        self.seen.connections.borrow().ever
    }

    /// How many connections were open at once.
    pub(super) fn most_connections(&self) -> usize {
        self.seen.connections.borrow().most
    }

    /// How many requests there have been.
    pub(super) fn requests(&self) -> usize {
        self.seen.heads.lock().unwrap().len()
    }

    /// The head of the request last seen.
    pub(super) fn last_head(&self) -> String {
        self.seen.heads.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// Waits until no connection is open.
    pub(super) async fn all_closed(&self) {
        let mut connections = self.seen.connections.subscribe();
        within("closing", connections.wait_for(|connections| connections.open == 0)).await.unwrap();
    }
}

/// An answer without a body.
pub(super) fn answer(status: u16) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::default()).unwrap()
}

/// Serves HTTP on a stream until the client closes it.
pub(super) async fn serve_http<F>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    http2: bool,
    answer: impl Fn() -> F + Clone + Send + Sync + 'static,
    seen: Arc<Seen>,
) where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, answer) = (seen.clone(), answer.clone());
        async move {
            let head = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
            request.into_body().collect().await?;
            seen.saw(head);
            Ok::<_, hyper::Error>(answer().await)
        }
    });
    let io = TokioIo::new(stream);
    // How a connection ends is the client's affair.
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}

impl Seen {
    pub(super) fn saw(&self, head: String) {
        self.heads.lock().unwrap().push(head);
    }
}

struct Open(Arc<Seen>);

impl Open {
    fn count(seen: Arc<Seen>) -> Self {
        seen.connections.send_modify(|connections| {
            connections.ever += 1;
            connections.open += 1;
            connections.most = connections.most.max(connections.open);
        });
        Self(seen)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.send_modify(|connections| connections.open -= 1);
    }
}

/// Reads one request of HTTP/1.1, counts it and gives its head; `None` when there is no whole one.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin), seen: &Seen) -> Option<String> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        bytes.push(stream.read_u8().await.ok()?);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    seen.saw(head.clone());
    Some(head)
}

/// A private authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A store that trusts nothing else.
    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    /// A server for `localhost` that speaks `protocols`.
    pub(super) fn server(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
