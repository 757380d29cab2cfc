//! Webhooks behind TLS.

use std::{sync::Arc, time::Duration};

use hyper_util::client::proxy::matcher::Matcher;
use rustls::RootCertStore;
use tokio::{
    sync::{Barrier, Notify},
    task::yield_now,
};
use tokio_rustls::TlsAcceptor;

use super::{
    HyperSink, Pool, Stage, plain, post, post_at_once, request,
    server::{Authority, Server, answer, serve_http},
    stage, status, within,
};
use crate::{fence::Fence, sink::WebhookSink};

const BOTH: &[&str] = &["h2", "http/1.1"];

fn trusting(roots: RootCertStore) -> HyperSink {
    HyperSink::new(Matcher::builder().build(), roots, Fence::open()).unwrap()
}

#[tokio::test]
async fn http2_takes_one_connection_even_for_the_first_requests() {
    let authority = Authority::new();
    let all = Arc::new(Barrier::new(16));
    let server = Server::tls(authority.server(BOTH), move || {
        let all = all.clone();
        async move {
            all.wait().await;
            answer(204)
        }
    })
    .await;
    let sink = trusting(authority.roots());
    for _ in 0..2 {
        for outcome in post_at_once(&sink, &server.secure_url(), 16).await {
            assert_eq!(status(&outcome), 204);
        }
    }
    assert_eq!((server.requests(), server.connections()), (32, 1));
    assert!(server.last_head().starts_with(&format!("POST {} ", server.secure_url())), "{}", server.last_head());
}

#[tokio::test]
async fn http1_inside_tls_goes_in_parallel_and_is_reused() {
    let authority = Authority::new();
    let all = Arc::new(Barrier::new(16));
    for protocols in [&["http/1.1"][..], &[]] {
        let all = all.clone();
        let server = Server::tls(authority.server(protocols), move || {
            let all = all.clone();
            async move {
                all.wait().await;
                answer(204)
            }
        })
        .await;
        let sink = trusting(authority.roots());
        for _ in 0..3 {
            for outcome in post_at_once(&sink, &server.secure_url(), 16).await {
                assert_eq!(status(&outcome), 204);
            }
        }
        assert_eq!((server.requests(), server.connections()), (48, 16));
    }
}

#[tokio::test]
async fn an_unknown_authority_fails_at_tls() {
    let server = Server::tls(Authority::new().server(BOTH), || async { answer(204) }).await;
    let sink = trusting(Authority::new().roots());
    assert_eq!(stage(post(&sink, &server.secure_url()).await), Stage::Tls);
    assert_eq!(server.requests(), 0);
    assert_eq!(sink.pool.known_origins(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_fails_at_tls() {
    let authority = Authority::new();
    let server = Server::tls(authority.server(BOTH), || async { answer(204) }).await;
    let url = format!("https://{}/", server.address);
    assert_eq!(stage(post(&trusting(authority.roots()), &url).await), Stage::Tls);
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_server_without_tls_fails_at_tls() {
    let server = Server::http1(|| async { answer(204) }).await;
    assert_eq!(stage(post(&plain(), &server.secure_url()).await), Stage::Tls);
}

#[tokio::test]
async fn a_dropped_attempt_leaves_the_http2_connection() {
    let authority = Authority::new();
    let arrived = Arc::new(Notify::new());
    let answers = Arc::new(Notify::new());
    let server = Server::tls(authority.server(BOTH), {
        let (arrived, answers) = (arrived.clone(), answers.clone());
        move || {
            let (arrived, answers) = (arrived.clone(), answers.clone());
            async move {
                arrived.notify_one();
                answers.notified().await;
                answer(204)
            }
        }
    })
    .await;
    let sink = trusting(authority.roots());
    tokio::select! {
        outcome = sink.post(request(&server.secure_url())) => panic!("{outcome:?}"),
        () = within("the request", arrived.notified()) => {}
    }
    let url = server.secure_url();
    let (outcome, ()) = tokio::join!(post(&sink, &url), async {
        within("the request", arrived.notified()).await;
        answers.notify_waiters();
    });
    assert_eq!(status(&outcome), 204);
    assert_eq!((server.requests(), server.connections()), (2, 1));
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed() {
    let authority = Authority::new();
    let server = Server::tls(authority.server(BOTH), || async { answer(204) }).await;
    let sink = HyperSink { pool: Pool::new(Duration::from_millis(50)), ..trusting(authority.roots()) };
    for _ in 0..2 {
        assert_eq!(status(&post(&sink, &server.secure_url()).await), 204);
        server.all_closed().await;
        assert_eq!(sink.pool.known_origins(), 0);
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_http2_connection_that_was_closed_while_idle_is_replaced_unseen() {
    let authority = Authority::new();
    let config = authority.server(BOTH);
    let hang_up = Arc::new(Notify::new());
    let told = hang_up.clone();
    let server = Server::start(move |stream, seen| {
        let (acceptor, told) = (TlsAcceptor::from(config.clone()), told.clone());
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            tokio::select! {
                () = serve_http(stream, true, || async { answer(204) }, seen) => {}
                () = told.notified() => {}
            }
        }
    })
    .await;
    let sink = trusting(authority.roots());
    for round in 1..=20 {
        for outcome in post_at_once(&sink, &server.secure_url(), 4).await {
            assert_eq!(status(&outcome), 204);
        }
        hang_up.notify_one();
        server.all_closed().await;
        yield_now().await;
        assert_eq!((server.requests(), server.connections()), (4 * round, round));
    }
}
