//! The sockets of a receiver.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    pki::Identity,
    receiver::{
        answer::{AnswerBody, Close},
        record::{Received, Record},
    },
};

/// A connection in the counts, whichever way it ends.
struct Open {
    record: Arc<Record>,
    number: u64,
}

impl Open {
    fn new(record: Arc<Record>) -> Self {
        record.open.fetch_add(1, Ordering::Relaxed);
        let number = record.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        Self { record, number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.record.open.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, record: Arc<Record>) {
    let open = Open::new(record);
    let Some(tls) = tls else { return serve(stream, &open).await };
    // A client that does not trust the certificate ends the handshake: nothing to serve.
    if let Ok(stream) = tls.accept(stream).await {
        serve(stream, &open).await;
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, open: &Open) {
    let service = service_fn(|request| respond(request, Arc::clone(&open.record), open.number));
    let builder = auto::Builder::new(TokioExecutor::new());
    // A client that goes away in the middle is what tests do.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(
    request: Request<Incoming>,
    record: Arc<Record>,
    connection: u64,
) -> Result<Response<AnswerBody>, Close> {
    let (head, body) = request.into_parts();
    // A body that breaks off was never received.
    let body = body.collect().await.map_err(|_| Close)?.to_bytes();
    let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let received = Received { at: Instant::now(), method: head.method, path, headers: head.headers, body, connection };
    record.take(received).give().await
}

pub(super) fn acceptor(identity: &Identity) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("we wrote this PEM");
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("we wrote this PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key belongs to the certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
