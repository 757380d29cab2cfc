use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use http::StatusCode;
use k8vent_harness::{Answer, Receiver};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;

/// More than anything here takes, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(20);

fn sink_through(roots: RootCertStore, proxies: Matcher) -> HyperSink {
    HyperSink::new(roots, proxies)
}

fn plain() -> HyperSink {
    sink_through(RootCertStore::empty(), Matcher::builder().build())
}

fn trusting(receiver: &Receiver) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(receiver.ca_pem().as_bytes()).unwrap()).unwrap();
    roots
}

fn tls(receiver: &Receiver) -> HyperSink {
    sink_through(trusting(receiver), Matcher::builder().build())
}

fn request(url: &str) -> Request<Bytes> {
    Request::post(url).header("content-type", "application/json").body(Bytes::from(vec![b'x'; 6000])).unwrap()
}

async fn post(sink: &HyperSink, url: &str) -> Outcome {
    timeout(LIMIT, sink.post(request(url))).await.expect("it ends by itself")
}

fn status(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Answered { status, .. } => status.as_u16(),
        other => panic!("{other:?}"),
    }
}

fn stage(outcome: &Outcome) -> Stage {
    match outcome {
        Outcome::Unreachable(fault) => fault.stage,
        other => panic!("{other:?}"),
    }
}

/// A server that does `serve` with each connection, by its number.
async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(usize, TcpStream) -> F + Send + 'static,
) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(number, stream));
        }
    });
    (url, task)
}

/// Reads the head of a request, and the body that its length tells.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.map_or(0, |length| length.parse().unwrap());
            while bytes.len() < whole {
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            }
            return Some(head);
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn answers_of_every_status_are_data_and_redirects_are_not_followed() {
    let receiver = Receiver::http().await.unwrap();
    let sink = plain();
    for code in [200, 204, 400, 404, 429, 500, 503] {
        receiver.answer(Answer::Status(code));
        assert_eq!(status(&post(&sink, &receiver.url("/hook")).await), code);
    }
    receiver.answer(Answer::Redirect(receiver.url("/elsewhere")));
    assert_eq!(status(&post(&sink, &receiver.url("/hook")).await), 307);
    assert!(receiver.requests().iter().all(|request| request.path == "/hook"));
    receiver.answer(Answer::StatusWithRetryAfter(503, "7".to_owned()));
    let outcome = post(&sink, &receiver.url("/hook")).await;
    let asked = Some(Duration::from_secs(7));
    assert!(
        matches!(outcome, Outcome::Answered { status: StatusCode::SERVICE_UNAVAILABLE, retry_after } if retry_after == asked)
    );
}

#[tokio::test]
async fn the_request_arrives_as_it_was_given() {
    let receiver = Receiver::http().await.unwrap();
    let url = receiver.url("/a/b?c=d%20e");
    assert_eq!(status(&post(&plain(), &url).await), 204);
    let received = &receiver.requests()[0];
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", "/a/b?c=d%20e"));
    assert_eq!(received.header("host"), Some(receiver.address().to_string().as_str()));
    assert_eq!(received.header("content-length"), Some("6000"));
    assert_eq!(received.body, vec![b'x'; 6000]);
}

#[tokio::test]
async fn a_thousand_requests_one_after_the_other_use_one_connection() {
    let receiver = Receiver::http().await.unwrap();
    let sink = plain();
    for _ in 0..1000 {
        assert_eq!(status(&post(&sink, &receiver.url("/")).await), 204);
    }
    assert_eq!((receiver.count(), receiver.connections()), (1000, 1));
}

#[tokio::test]
async fn there_are_never_more_connections_than_requests_at_once() {
    let plain_receiver = Receiver::http().await.unwrap();
    let tls_receiver = Receiver::https().await.unwrap();
    for (receiver, sink, most) in [(&plain_receiver, plain(), 16), (&tls_receiver, tls(&tls_receiver), 1)] {
        let one_after_the_other = || async {
            for _ in 0..100 {
                assert_eq!(status(&post(&sink, &receiver.url("/")).await), 204);
            }
        };
        join_all((0..16).map(|_| one_after_the_other())).await;
        assert_eq!(receiver.count(), 1600);
        assert!(receiver.connections() <= most, "{} connections", receiver.connections());
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_replaced_and_nobody_notices() {
    let receiver = Receiver::http().await.unwrap();
    let sink = plain();
    for round in 1..=5 {
        assert_eq!(status(&post(&sink, &receiver.url("/")).await), 204);
        assert_eq!(receiver.count(), round);
        receiver.down().await;
        // A close that has not arrived yet is seen by nobody: that attempt fails, and is the core's to repeat.
        let noticed = async {
            while sink.pool.has_idle() {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, noticed).await.unwrap();
        receiver.up().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_without_saying_so_is_no_failure() {
    let (url, _server) = server(|_, mut stream| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    })
    .await;
    let sink = plain();
    for _ in 0..50 {
        assert_eq!(status(&post(&sink, &url).await), 204);
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_seen_is_not_sent_again() {
    let receiver = Receiver::http().await.unwrap();
    let sink = plain();
    assert_eq!(status(&post(&sink, &receiver.url("/")).await), 204);
    receiver.answer(Answer::CloseEarly);
    assert_eq!(stage(&post(&sink, &receiver.url("/")).await), Stage::Exchange);
    assert_eq!(receiver.count(), 2);
}

#[tokio::test]
async fn a_refused_connection_is_told_from_a_broken_one() {
    let receiver = Receiver::http().await.unwrap();
    let url = receiver.url("/");
    receiver.down().await;
    assert_eq!(stage(&post(&plain(), &url).await), Stage::Connect);
    assert_eq!(stage(&post(&plain(), "http://no-such-host.invalid/").await), Stage::Connect);
    let (url, _server) = server(|_, stream| async move { drop(stream) }).await;
    assert_eq!(stage(&post(&plain(), &url).await), Stage::Exchange);
}

#[tokio::test]
async fn a_certificate_is_checked_for_its_authority_and_for_its_name() {
    let receiver = Receiver::https().await.unwrap();
    assert_eq!(stage(&post(&plain(), &receiver.url("/")).await), Stage::Tls);
    assert_eq!(status(&post(&tls(&receiver), &receiver.url("/")).await), 204);
    let other = Receiver::https_as(&["example.com"]).await.unwrap();
    assert_eq!(stage(&post(&tls(&other), &other.url("/")).await), Stage::Tls);
    let (no_tls, _server) = server(|_, mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    })
    .await;
    assert_eq!(stage(&post(&tls(&receiver), &no_tls.replace("http:", "https:")).await), Stage::Tls);
}

#[tokio::test]
async fn an_answer_without_end_is_read_to_the_cap_and_its_connection_closed() {
    let receiver = Receiver::http().await.unwrap();
    let sink = plain();
    receiver.answer(Answer::EndlessBody);
    assert_eq!(status(&post(&sink, &receiver.url("/")).await), 200);
    receiver.answer(Answer::BodyOf(Bytes::from(vec![b'x'; ANSWER_CAP])));
    assert_eq!(status(&post(&sink, &receiver.url("/")).await), 200);
    assert_eq!(status(&post(&sink, &receiver.url("/")).await), 200);
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure() {
    let (url, _server) = server(|_, mut stream| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxxx").await.unwrap();
    })
    .await;
    assert_eq!(stage(&post(&plain(), &url).await), Stage::Exchange);
}

#[tokio::test]
async fn rubbish_for_an_answer_is_a_failure() {
    for rubbish in
        ["hello\r\n\r\n", "HTTP/9.9 999 x\r\n\r\n", "\0\0\0\0", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
    {
        let (url, _server) = server(move |_, mut stream| async move {
            read_request(&mut stream).await.unwrap();
            stream.write_all(rubbish.as_bytes()).await.unwrap();
        })
        .await;
        assert_eq!(stage(&post(&plain(), &url).await), Stage::Exchange, "{rubbish:?}");
    }
}

#[tokio::test]
async fn an_attempt_that_is_dropped_closes_its_connection() {
    let (closed, mut told) = tokio::sync::mpsc::unbounded_channel();
    let closed = Arc::new(closed);
    let (url, _server) = server(move |_, mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            // No answer: the next thing that happens is the end.
            let end = stream.read_u8().await;
            closed.send(end.is_err()).unwrap();
        }
    })
    .await;
    let sink = plain();
    assert!(timeout(Duration::from_millis(300), sink.post(request(&url))).await.is_err());
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap(), Some(true));
    assert!(sink.pool.is_empty());
}

#[tokio::test]
async fn https_goes_through_a_tunnel_of_the_proxy() {
    let receiver = Receiver::https().await.unwrap();
    let to = receiver.address();
    let (proxy, _server) = server(move |_, mut stream| async move {
        let head = read_request(&mut stream).await.unwrap();
        assert!(head.starts_with(&format!("CONNECT {to} HTTP/1.1")), "{head}");
        assert!(head.to_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut target = TcpStream::connect(to).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut target).await;
    })
    .await;
    let proxy = proxy.replace("http://", "http://user:pass@").replace("/hook", "");
    let through = |no: &str| Matcher::builder().https(proxy.clone()).no(no).build();
    let sink = sink_through(trusting(&receiver), through(""));
    assert_eq!(status(&post(&sink, &receiver.url("/")).await), 204);
    let direct = sink_through(trusting(&receiver), through("127.0.0.1"));
    assert_eq!(status(&post(&direct, &receiver.url("/")).await), 204);
}

#[tokio::test]
async fn plain_http_goes_to_the_proxy_with_its_whole_url() {
    let (proxy, _server) = server(|_, mut stream| async move {
        while let Some(head) = read_request(&mut stream).await {
            assert!(head.starts_with("POST http://example.invalid/hook?x=1 HTTP/1.1"), "{head}");
            assert!(head.to_lowercase().contains("host: example.invalid"), "{head}");
            stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let sink = sink_through(RootCertStore::empty(), Matcher::builder().http(proxy).build());
    for _ in 0..3 {
        assert_eq!(status(&post(&sink, "http://example.invalid/hook?x=1").await), 202);
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told() {
    let (proxy, _server) = server(|_, mut stream| async move {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
    })
    .await;
    let sink = sink_through(RootCertStore::empty(), Matcher::builder().https(proxy).build());
    assert_eq!(stage(&post(&sink, "https://example.invalid/").await), Stage::Connect);
    let socks = sink_through(RootCertStore::empty(), Matcher::builder().all("socks5://127.0.0.1:1").build());
    assert_eq!(stage(&post(&socks, "https://example.invalid/").await), Stage::Connect);
}
