//! One connection and what is sent over it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::{
    answer::BODY_CAP_BYTES,
    connect::{Forward, Opened},
    pool::Visit,
};

/// How long an HTTP/1.1 connection may take, after its answer, to be ready for another request.
///
/// It is ready at once, unless the server answered without reading the whole request. Such a server gets a new
/// connection; waiting on would make an answered request late.
const SETTLE_LIMIT: Duration = Duration::from_millis(50);

/// How often an HTTP/2 connection with requests in flight is asked for a sign of life, and how long it has to give one.
///
/// A request that runs out of time leaves its connection open. Without this, one that died without a word would swallow
/// every later request too; so both together stay below the usual limit of 30 s for an attempt.
const PING_LIMIT: Duration = Duration::from_secs(10);

/// A request on its way: its body is in memory as a whole.
pub(super) type Outgoing = Request<Full<Bytes>>;

/// A connection that takes requests.
pub(super) enum Connection {
    /// For one request at a time.
    Http1(Http1),
    /// Shared by all requests to the origin.
    Http2(Arc<Http2>),
}

/// A connection for one request at a time.
pub(super) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    host: HeaderValue,
    forward: Option<Forward>,
}

/// A connection for many requests.
pub(super) struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
}

/// What became of a request.
pub(super) enum Sent {
    /// The head of an answer is here.
    Answered(Response<Incoming>),
    /// The connection was closed before any of the request was sent.
    Returned(Outgoing, hyper::Error),
    /// The connection broke, and the server may have seen the request.
    Failed(hyper::Error),
}

impl Connection {
    /// Begins HTTP on a stream to the origin of `visit`; the pool drives it from there.
    pub(super) async fn start(opened: Opened, visit: &Visit<'_>) -> Result<Self, hyper::Error> {
        let io = TokioIo::new(opened.stream);
        if opened.http2 {
            let (sender, driver) = http2::Builder::new(visit.executor())
                .timer(TokioTimer::new())
                .keep_alive_interval(PING_LIMIT)
                .keep_alive_timeout(PING_LIMIT)
                .handshake(io)
                .await?;
            visit.drive(driver);
            return Ok(Self::Http2(Arc::new(Http2 { sender })));
        }
        // The head of an answer has no right to more memory than its body.
        let (sender, driver) = http1::Builder::new().max_buf_size(BODY_CAP_BYTES).handshake(io).await?;
        visit.drive(driver);
        Ok(Self::Http1(Http1 { sender, host: visit.origin().host_header(), forward: opened.forward }))
    }

    /// Sends `request` to `target`, and waits for the head of the answer.
    pub(super) async fn send(&mut self, mut request: Outgoing, target: &Uri) -> Sent {
        let result = match self {
            Self::Http1(connection) => {
                connection.address(&mut request, target);
                connection.sender.try_send_request(request).await
            }
            Self::Http2(connection) => {
                request.headers_mut().remove(header::HOST);
                request.uri_mut().clone_from(target);
                connection.sender.clone().try_send_request(request).await
            }
        };
        match result {
            Ok(response) => Sent::Answered(response),
            Err(error) => Sent::from(error),
        }
    }

    /// Whether the connection can take another request, now that the answer has been read to its end.
    pub(super) async fn settled(&mut self) -> bool {
        match self {
            Self::Http1(Http1 { sender, .. }) => {
                sender.is_ready() || matches!(timeout(SETTLE_LIMIT, sender.ready()).await, Ok(Ok(())))
            }
            Self::Http2(connection) => connection.is_open(),
        }
    }
}

impl Http1 {
    /// Whether the connection has not been closed, as far as is known here.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Writes the target in the form that the other end of the connection wants.
    fn address(&self, request: &mut Outgoing, target: &Uri) {
        request.headers_mut().insert(header::HOST, self.host.clone());
        let Some(forward) = &self.forward else {
            let path = target.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
            *request.uri_mut() = Uri::from(path);
            return;
        };
        if let Some(authorization) = &forward.authorization {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
        request.uri_mut().clone_from(target);
    }
}

impl Http2 {
    /// Whether the connection has not been closed, as far as is known here.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl From<TrySendError<Outgoing>> for Sent {
    fn from(mut error: TrySendError<Outgoing>) -> Self {
        match error.take_message() {
            Some(request) => Self::Returned(request, error.into_error()),
            None => Self::Failed(error.into_error()),
        }
    }
}
