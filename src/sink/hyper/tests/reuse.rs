//! How many connections there are.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    sync::{Barrier, Notify},
    task::yield_now,
};

use super::{
    impatient, plain, post, post_at_once, request,
    server::{Server, answer, read_request},
    status, within,
};
use crate::sink::{
    WebhookSink,
    hyper::{connect::Opened, connection::Connection, origin::Origin},
};

#[tokio::test]
async fn requests_one_after_the_other_share_a_connection() {
    let server = Server::http1(|| async { answer(204) }).await;
    let sink = plain();
    for _ in 0..1000 {
        assert_eq!(status(&post(&sink, &server.url()).await), 204);
    }
    assert_eq!((server.requests(), server.connections()), (1000, 1));
}

#[tokio::test]
async fn an_answer_with_a_body_leaves_its_connection_usable() {
    let server = Server::http1(|| async { answer(200).map(|_| vec![b'x'; 60_000].into()) }).await;
    let sink = plain();
    for _ in 0..50 {
        assert_eq!(status(&post(&sink, &server.url()).await), 200);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn there_are_no_more_connections_than_requests_in_flight() {
    let server = Server::http1(|| async { answer(204) }).await;
    let sink = plain();
    for _ in 0..100 {
        for outcome in post_at_once(&sink, &server.url(), 16).await {
            assert_eq!(status(&outcome), 204);
        }
    }
    assert_eq!(server.requests(), 1600);
    assert!(server.connections() <= 16, "{}", server.connections());
}

#[tokio::test]
async fn requests_over_http1_go_in_parallel() {
    let all = Arc::new(Barrier::new(16));
    let server = Server::http1(move || {
        let all = all.clone();
        async move {
            all.wait().await;
            answer(204)
        }
    })
    .await;
    for outcome in post_at_once(&plain(), &server.url(), 16).await {
        assert_eq!(status(&outcome), 204);
    }
    assert_eq!(server.most_connections(), 16);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_replaced_unseen() {
    let server = Server::start(|mut stream, seen| async move {
        if read_request(&mut stream, &seen).await.is_some() {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let sink = plain();
    for round in 1..=100 {
        assert_eq!(status(&post(&sink, &server.url()).await), 204);
        server.all_closed().await;
        // Lets the runtime hear of it. The sink has not necessarily.
        yield_now().await;
        assert_eq!((server.requests(), server.connections()), (round, round));
    }
}

#[tokio::test]
async fn a_request_that_came_back_unsent_goes_over_another_connection() {
    let server = Server::http1(|| async { answer(204) }).await;
    let sink = plain();
    let mut visit = sink.pool.visit(Origin::of(&server.url().parse().unwrap()).unwrap());
    // The other end is closed, and nothing here has had a turn to hear of it before the post takes the connection.
    let stream = Box::new(duplex(1024).0);
    let closed = Connection::start(Opened { stream, http2: false, forward: None }, &visit).await.unwrap();
    visit.keep(closed);
    drop(visit);
    assert_eq!(status(&post(&sink, &server.url()).await), 204);
    assert_eq!((server.requests(), server.connections()), (1, 1));
}

#[tokio::test]
async fn an_origin_whose_connections_were_closed_is_forgotten() {
    let server = Server::http1(|| async {
        let mut last = answer(204);
        last.headers_mut().insert("connection", "close".parse().unwrap());
        last
    })
    .await;
    let sink = plain();
    post_at_once(&sink, &server.url(), 4).await;
    within("forgetting", async {
        while sink.pool.known_origins() > 0 {
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let server = Server::http1(|| async { answer(204) }).await;
    let sink = impatient(Duration::from_millis(50));
    for _ in 0..2 {
        post_at_once(&sink, &server.url(), 4).await;
        server.all_closed().await;
        assert_eq!(sink.pool.known_origins(), 0);
    }
}

#[tokio::test]
async fn an_answer_counts_even_if_the_request_was_not_read_to_its_end() {
    let posted = Arc::new(Notify::new());
    let waiting = posted.clone();
    let server = Server::start(move |mut stream, _| {
        let waiting = waiting.clone();
        async move {
            stream.read_u8().await.unwrap();
            stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            waiting.notified().await;
        }
    })
    .await;
    let sink = plain();
    // More than the buffers of two sockets hold.
    let request = request(&server.url()).map(|_| vec![b'x'; 64 << 20].into());
    assert_eq!(status(&within("a post", sink.post(request)).await), 413);
    assert_eq!(sink.pool.known_origins(), 0);
    posted.notify_one();
}
