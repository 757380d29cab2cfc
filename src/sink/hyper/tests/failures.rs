//! What goes wrong, and what is left of it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{io::AsyncWriteExt, net::TcpListener, sync::Notify};

use super::{
    Stage, plain, post, request,
    server::{Server, answer, read_request},
    stage, status, within,
};
use crate::sink::WebhookSink;

#[tokio::test]
async fn a_refused_connection_fails_at_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let sink = plain();
    assert_eq!(stage(post(&sink, &url).await), Stage::Connect);
    assert_eq!(sink.pool.known_origins(), 0);
}

#[tokio::test]
async fn an_unknown_host_fails_at_connect() {
    assert_eq!(stage(post(&plain(), "http://nowhere.invalid/").await), Stage::Connect);
}

#[tokio::test]
async fn a_uri_that_is_no_webhook_fails_at_connect() {
    for uri in ["/path", "ftp://a.example/", "http://user:password@127.0.0.1/"] {
        assert_eq!(stage(post(&plain(), uri).await), Stage::Connect);
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_seen_is_not_sent_again() {
    let server = Server::start(|mut stream, seen| async move {
        read_request(&mut stream, &seen).await;
    })
    .await;
    assert_eq!(stage(post(&plain(), &server.url()).await), Stage::Exchange);
    assert_eq!((server.requests(), server.connections()), (1, 1));
}

#[tokio::test]
async fn a_reused_connection_that_breaks_after_the_request_fails_it() {
    let server = Server::start(|mut stream, seen| async move {
        read_request(&mut stream, &seen).await;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        read_request(&mut stream, &seen).await;
    })
    .await;
    let sink = plain();
    assert_eq!(status(&post(&sink, &server.url()).await), 204);
    assert_eq!(stage(post(&sink, &server.url()).await), Stage::Exchange);
    assert_eq!((server.requests(), server.connections()), (2, 1));
}

#[tokio::test]
async fn a_server_that_hangs_up_at_once_is_not_tried_again() {
    let server = Server::start(|stream, _| async { drop(stream) }).await;
    assert_eq!(stage(post(&plain(), &server.url()).await), Stage::Exchange);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_answer() {
    let server = Server::start(|mut stream, seen| async move {
        read_request(&mut stream, &seen).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
    })
    .await;
    assert_eq!(stage(post(&plain(), &server.url()).await), Stage::Exchange);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_endless_body_is_an_answer_and_ends_the_connection() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let server = Server::start(move |mut stream, seen| {
        let count = count.clone();
        async move {
            read_request(&mut stream, &seen).await;
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let chunk = [b"400\r\n".as_slice(), &[b'x'; 1024], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {
                count.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    let sink = plain();
    assert_eq!(status(&post(&sink, &server.url()).await), 200);
    server.all_closed().await;
    // What is above the cap lay in the buffers of the two sockets.
    assert!(written.load(Ordering::Relaxed) < 32 << 20);
    assert_eq!(sink.pool.known_origins(), 0);
}

#[tokio::test]
async fn a_dropped_attempt_closes_its_connection() {
    let arrived = Arc::new(Notify::new());
    let notify = arrived.clone();
    let server = Server::start(move |mut stream, seen| {
        let notify = notify.clone();
        async move {
            read_request(&mut stream, &seen).await;
            notify.notify_one();
            // Never answers; ends when the other end does.
            read_request(&mut stream, &seen).await;
        }
    })
    .await;
    let sink = plain();
    tokio::select! {
        outcome = sink.post(request(&server.url())) => panic!("{outcome:?}"),
        () = within("the request", arrived.notified()) => {}
    }
    server.all_closed().await;
    assert_eq!(sink.pool.known_origins(), 0);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_dropped_sink_closes_its_connections() {
    let server = Server::http1(|| async { answer(204) }).await;
    let sink = plain();
    assert_eq!(status(&post(&sink, &server.url()).await), 204);
    drop(sink);
    server.all_closed().await;
}
