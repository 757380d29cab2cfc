//! What a receiver has received.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::sync::watch;

use crate::receiver::Answer;

/// A request, recorded when its body was complete.
#[derive(Debug, Clone)]
pub struct Received {
    /// When the body was complete.
    pub at: Instant,
    /// The method.
    pub method: Method,
    /// The path, with the query if there is one.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, to the byte.
    pub body: Bytes,
    /// Which connection it came on: they are counted from 1.
    pub connection: u64,
}

impl Received {
    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{self} is no JSON: {error}"))
    }

    /// A header's value, if it is there.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// One line, short enough to list many.
impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.header("ce-id").unwrap_or("without ce-id");
        let start = String::from_utf8_lossy(&self.body[..self.body.len().min(80)]);
        write!(f, "{} {} {id}, {} bytes: {start}", self.method, self.path, self.body.len())
    }
}

type Script = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

/// What the receiver and its connections share.
pub(super) struct Record {
    pub(super) requests: watch::Sender<Vec<Received>>,
    pub(super) count: watch::Sender<u64>,
    pub(super) keep: AtomicBool,
    pub(super) accepted: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) answer: Mutex<Script>,
}

impl Record {
    pub(super) fn new() -> Self {
        Self {
            requests: watch::Sender::new(Vec::new()),
            count: watch::Sender::new(0),
            keep: AtomicBool::new(true),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            answer: Mutex::new(Arc::new(|_| Answer::ACCEPTED)),
        }
    }

    /// Keeps and counts a request, and says what to answer.
    pub(super) fn take(&self, received: Received) -> Answer {
        let script = Arc::clone(&self.answer.lock().unwrap_or_else(PoisonError::into_inner));
        self.count.send_modify(|count| *count += 1);
        let answer = script(&received);
        if self.keep.load(Ordering::Relaxed) {
            self.requests.send_modify(|requests| requests.push(received));
        }
        answer
    }
}
