//! Webhooks behind a proxy.

use std::{error::Error as _, net::SocketAddr, sync::Arc};

use hyper_util::client::proxy::matcher::Matcher;
use rustls::RootCertStore;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{
    HyperSink, Stage, fault, post, post_at_once,
    server::{Authority, Seen, Server, answer, read_request},
    stage, status,
};
use crate::{fence::Fence, sink::hyper::SinkError};

/// `user:secret`, in Basic form.
const CREDENTIALS: &str = "proxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\n";

/// Opens every tunnel to `to`, whatever was asked for.
async fn tunnel(mut stream: impl AsyncRead + AsyncWrite + Unpin, seen: Arc<Seen>, to: SocketAddr) {
    if read_request(&mut stream, &seen).await.is_none() {
        return;
    }
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let mut target = TcpStream::connect(to).await.unwrap();
    // How a tunnel ends is its users' affair.
    let _ = copy_bidirectional(&mut stream, &mut target).await;
}

/// Gives every request `reply`.
async fn replying(reply: &'static str) -> Server {
    Server::start(move |mut stream, seen| async move {
        while read_request(&mut stream, &seen).await.is_some() {
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    })
    .await
}

fn via(proxy: &Server, no: &str, roots: RootCertStore) -> HyperSink {
    let proxies = Matcher::builder().all(format!("http://user:secret@{}", proxy.address)).no(no.to_owned()).build();
    HyperSink::new(proxies, roots, Fence::open()).unwrap()
}

#[tokio::test]
async fn a_secure_webhook_is_reached_through_a_tunnel() {
    let authority = Authority::new();
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let server = Server::tls(authority.server(protocols), || async { answer(204) }).await;
        let to = server.address;
        let proxy = Server::start(move |stream, seen| tunnel(stream, seen, to)).await;
        let sink = via(&proxy, "", authority.roots());
        for _ in 0..3 {
            assert_eq!(status(&post(&sink, "https://localhost/hook").await), 204);
        }
        assert_eq!((proxy.requests(), server.requests()), (1, 3));
        let head = proxy.last_head();
        assert!(head.starts_with("CONNECT localhost:443 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: localhost:443\r\n"), "{head}");
        assert!(head.contains(CREDENTIALS), "{head}");
        assert!(!server.last_head().contains("proxy-authorization"));
    }
}

#[tokio::test]
async fn a_proxy_may_itself_be_behind_tls() {
    let authority = Authority::new();
    let server = Server::tls(authority.server(&["h2"]), || async { answer(204) }).await;
    let (to, config) = (server.address, authority.server(&[]));
    let proxy = Server::start(move |stream, seen| {
        let acceptor = TlsAcceptor::from(config.clone());
        async move { tunnel(acceptor.accept(stream).await.unwrap(), seen, to).await }
    })
    .await;
    let proxies = Matcher::builder().https(format!("https://localhost:{}", proxy.address.port())).build();
    let sink = HyperSink::new(proxies, authority.roots(), Fence::open()).unwrap();
    for outcome in post_at_once(&sink, "https://localhost/hook", 4).await {
        assert_eq!(status(&outcome), 204);
    }
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_plain_webhook_is_asked_of_the_proxy_in_absolute_form() {
    let proxy = replying("HTTP/1.1 204 No Content\r\n\r\n").await;
    let sink = via(&proxy, "", RootCertStore::empty());
    for _ in 0..3 {
        assert_eq!(status(&post(&sink, "http://webhook.invalid/hook?key=1").await), 204);
    }
    let head = proxy.last_head();
    assert!(head.starts_with("POST http://webhook.invalid/hook?key=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: webhook.invalid\r\n"), "{head}");
    assert!(head.contains(CREDENTIALS), "{head}");
    assert_eq!((proxy.requests(), proxy.connections()), (3, 1));
}

#[tokio::test]
async fn no_proxy_goes_straight() {
    let proxy = replying("HTTP/1.1 500 Internal Server Error\r\n\r\n").await;
    let server = Server::http1(|| async { answer(204) }).await;
    let sink = via(&proxy, "example.com, 127.0.0.1", RootCertStore::empty());
    assert_eq!(status(&post(&sink, &server.url()).await), 204);
    assert_eq!(proxy.connections(), 0);
    assert!(!server.last_head().contains("proxy-authorization"));
}

#[tokio::test]
async fn a_refused_tunnel_fails_at_connect_and_tells_the_status() {
    let proxy = replying("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    let sink = via(&proxy, "", RootCertStore::empty());
    let fault = fault(post(&sink, "https://webhook.invalid/hook").await);
    assert_eq!(fault.stage, Stage::Connect);
    assert!(fault.source.to_string().contains("403 Forbidden"), "{}", fault.source);
    assert!(fault.source().is_some());
    proxy.all_closed().await;
}

#[tokio::test]
async fn a_proxy_that_hangs_up_fails_at_connect() {
    let proxy = Server::start(|mut stream, seen| async move {
        read_request(&mut stream, &seen).await;
    })
    .await;
    let sink = via(&proxy, "", RootCertStore::empty());
    assert_eq!(stage(post(&sink, "https://webhook.invalid/hook").await), Stage::Connect);
    assert_eq!(proxy.requests(), 1);
}

#[tokio::test]
async fn a_socks_proxy_is_refused_at_the_start() {
    for scheme in ["socks4", "socks5", "socks5h"] {
        let proxies = Matcher::builder().https(format!("{scheme}://127.0.0.1:1080")).build();
        let sink = HyperSink::new(proxies, RootCertStore::empty(), Fence::open());
        assert!(matches!(sink, Err(SinkError::SocksProxy)), "{scheme}");
    }
}
