//! The sink against real servers.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::RootCertStore;

use super::{HyperSink, Pool};
use crate::{
    fence::Fence,
    sink::{Fault, Outcome, Stage, WebhookSink},
};

mod server;

mod answers;

mod failures;

mod proxies;

mod reuse;

mod secure;

/// More than any step here takes; a test that waits this long has failed.
const LIMIT: Duration = Duration::from_secs(20);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

fn plain() -> HyperSink {
    HyperSink::new(Matcher::builder().build(), RootCertStore::empty(), Fence::open()).unwrap()
}

/// A sink whose connections are closed after `idle` without a request.
fn impatient(idle: Duration) -> HyperSink {
    HyperSink { pool: Pool::new(idle), ..plain() }
}

fn request(url: &str) -> Request<Bytes> {
    Request::post(url)
        .header("content-type", "application/json")
        .body(Bytes::from_static(br#"{"pod":{},"env":{}}"#))
        .unwrap()
}

async fn post(sink: &HyperSink, url: &str) -> Outcome {
    within("a post", sink.post(request(url))).await
}

async fn post_at_once(sink: &HyperSink, url: &str, count: usize) -> Vec<Outcome> {
    join_all((0..count).map(|_| post(sink, url))).await
}

#[track_caller]
fn status(outcome: &Outcome) -> StatusCode {
    match outcome {
        Outcome::Answered { status, .. } => *status,
        other => panic!("no answer: {other:?}"),
    }
}

#[track_caller]
fn fault(outcome: Outcome) -> Fault {
    match outcome {
        Outcome::Unreachable(fault) => fault,
        other => panic!("no fault: {other:?}"),
    }
}

#[track_caller]
fn stage(outcome: Outcome) -> Stage {
    fault(outcome).stage
}
