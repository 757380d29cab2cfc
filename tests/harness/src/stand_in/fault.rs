//! What the stand-in does wrong when told.

use std::time::Duration;

use bytes::Bytes;

/// Which requests a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A list, or a page of one.
    List,
    /// A watch from a resource version.
    Watch,
    /// A watch that begins with a list: `sendInitialEvents`.
    StreamingList,
    /// One pod.
    Get,
    /// Anything else: discovery, probes, writes.
    Other,
}

/// What happens to a request instead of, or before, its usual answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Refused with an HTTP status and a `Status` body in an API server's words.
    Refuse(u16),
    /// The same, with `Retry-After` in seconds.
    RefuseRetryAfter(u16, u32),
    /// Any answer: HTTP status, content type, body.
    Answer(u16, &'static str, Bytes),
    /// The usual answer, after a while.
    Slow(Duration),
    /// No answer; the connection stays open.
    Hang,
    /// No answer; the connection closes.
    Close,
    /// The usual answer cut after so many bytes, and the connection closed.
    CutAfter(usize),
    /// For a list: there is always a next page, with a new token each time or ever the same.
    EndlessList {
        /// Whether each token differs from the one before.
        fresh_tokens: bool,
    },
    /// For a watch: opened, and ended by an `ERROR` event with a code (410, 429, 500, 504) and, if any, the seconds
    /// after which to come again.
    ErrorEvent(u16, Option<u32>),
}

impl Fault {
    /// A page of HTML where JSON is expected, as a proxy answers.
    #[must_use]
    pub fn html() -> Self {
        Self::Answer(200, "text/html", "<html><body>Please log in</body></html>\n".into())
    }

    /// A 200 without a body.
    #[must_use]
    pub fn empty() -> Self {
        Self::Answer(200, "application/json", Bytes::new())
    }
}

/// What happens to the watches that are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing is sent any more, and nothing closed.
    HalfOpen,
    /// The watch ends in order, as it does every few minutes.
    End,
    /// The connection breaks between two events.
    Break,
    /// The connection breaks in the middle of an event.
    CutEvent,
    /// A line that is no JSON; the watch goes on.
    Rubbish,
    /// Any bytes; the watch goes on. A line needs its line feed.
    Bytes(Bytes),
    /// An `ERROR` event with a code and, if any, the seconds after which to come again; then the watch ends.
    ErrorEvent(u16, Option<u32>),
}
