//! What a receiver answers.

use std::{convert::Infallible, pin::Pin, task, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{LOCATION, RETRY_AFTER},
};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};

/// An answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A status without a body.
    Status(u16),
    /// A status with a `Retry-After` header as given.
    StatusWithRetryAfter(u16, String),
    /// `307 Temporary Redirect` to a URL.
    Redirect(String),
    /// Nothing: the connection stays open until the client gives up.
    Hang,
    /// Nothing: the connection closes once the request has been read.
    CloseEarly,
    /// A 200 that never ends.
    EndlessBody,
    /// A 200 with a body.
    BodyOf(Bytes),
    /// Another answer, later.
    DelayThen(Duration, Box<Answer>),
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("told to close")]
pub(super) struct Close;

pub(super) type AnswerBody = Either<Full<Bytes>, Endless>;

impl Answer {
    /// `204 No Content`, the usual one.
    pub const ACCEPTED: Self = Self::Status(204);

    /// Another answer, after a while.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self::DelayThen(delay, Box::new(self))
    }

    pub(super) async fn give(self) -> Result<Response<AnswerBody>, Close> {
        let mut answer = self;
        while let Self::DelayThen(delay, then) = answer {
            tokio::time::sleep(delay).await;
            answer = *then;
        }
        let mut response = Response::new(Either::Left(Full::default()));
        match answer {
            Self::Status(status) => *response.status_mut() = code(status),
            Self::StatusWithRetryAfter(status, after) => {
                *response.status_mut() = code(status);
                response.headers_mut().insert(RETRY_AFTER, header(&after));
            }
            Self::Redirect(url) => {
                *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
                response.headers_mut().insert(LOCATION, header(&url));
            }
            Self::Hang => std::future::pending::<()>().await,
            Self::CloseEarly => return Err(Close),
            Self::EndlessBody => *response.body_mut() = Either::Right(Endless),
            Self::BodyOf(bytes) => *response.body_mut() = Either::Left(Full::new(bytes)),
            Self::DelayThen(..) => unreachable!("delays have been waited for above"),
        }
        Ok(response)
    }
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("the test names a status")
}

fn header(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("the test gives a value that fits a header")
}

/// A body that never ends.
pub(super) struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static BLOCK: [u8; 64 * 1024] = [b'x'; 64 * 1024];
        task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&BLOCK)))))
    }
}
