//! The port to the webhooks: one POST in, what became of it out.

use std::{error::Error as StdError, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};

pub mod hyper;
pub mod print;

/// Carries one attempt to a webhook.
///
/// An implementation sends the request once and never retries one that the webhook may have seen: retries, their
/// order and the time limit belong to the core. Dropping the future gives the attempt up and must release what it
/// holds; whether the webhook has seen the request is then unknown.
#[cfg_attr(test, mockall::automock)]
pub trait WebhookSink: Send + Sync {
    /// POSTs `request`, whose URI is absolute, and says how it ended.
    fn post(&self, request: Request<Bytes>) -> impl Future<Output = Outcome> + Send;
}

/// How one attempt ended.
#[derive(Debug)]
pub enum Outcome {
    /// The webhook answered, and its answer was read to the end or to the cap.
    Answered {
        /// The status of the answer; 2xx means that the state is accepted.
        status: StatusCode,
        /// How long the webhook asks to be left alone (`Retry-After` of RFC 9110, section 10.2.3, in either form),
        /// counted from the answer. Not capped.
        retry_after: Option<Duration>,
    },
    /// The limit over the whole attempt ended first.
    TimedOut,
    /// No complete answer came.
    Unreachable(Fault),
}

/// Why no complete answer came.
#[derive(Debug, thiserror::Error)]
#[error("{}", .stage.describe())]
pub struct Fault {
    /// How far the attempt got.
    pub stage: Stage,
    /// What went wrong there.
    #[source]
    pub source: Box<dyn StdError + Send + Sync>,
}

/// How far an attempt got before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Resolving the name, opening the connection, or having the proxy open it.
    Connect,
    /// The TLS handshake, the certificate included.
    Tls,
    /// Sending the request or reading the answer.
    Exchange,
}

impl Stage {
    fn describe(self) -> &'static str {
        match self {
            Self::Connect => "cannot connect",
            Self::Tls => "TLS handshake failed",
            Self::Exchange => "connection failed before the answer was complete",
        }
    }
}
