//! Probes, metrics and the status over HTTP: `--listen`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{health::Unwell, run::Shared};

/// More connections than probes and a few scrapers need; further ones wait in the kernel.
const CONNECTIONS: usize = 32;

/// How long a connection may take all in all: probes and scrapes are short, and none may hold a place for ever.
const CONNECTION_LIMIT: Duration = Duration::from_mins(1);

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers `/livez`, `/readyz`, `/metrics` and `/status`, for ever.
pub async fn serve(listener: TcpListener, shared: Shared) -> Infallible {
    let state = Arc::new(shared);
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(timeout(CONNECTION_LIMIT, connection(stream, state.clone())));
            }
            // Out of file descriptors, as a rule: some will be closed.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on --listen");
                sleep(Duration::from_secs(1)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, state: Arc<Shared>) {
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &state))));
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection on --listen failed");
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let Shared { metrics, health, board } = shared;
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => probe(health.live(Instant::now())),
        (&Method::GET | &Method::HEAD, "/readyz") => probe(health.ready()),
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, OPEN_METRICS, metrics.text()),
        (&Method::GET | &Method::HEAD, "/status") => (StatusCode::OK, TEXT, board.status().to_string()),
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, TEXT, "here are /livez, /readyz, /metrics and /status\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET is all that is answered\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn probe(state: Result<(), Unwell>) -> (StatusCode, &'static str, String) {
    match state {
        Ok(()) => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        Err(unwell) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{unwell}\n")),
    }
}
