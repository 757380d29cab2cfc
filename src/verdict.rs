//! What the end of an attempt means for the delivery. The rule is here alone.

use std::time::Duration;

use crate::{
    sink::{Outcome, Stage},
    source::GetError,
};

/// The longest wait that a webhook may ask for: a slip in its `Retry-After` must not park a delivery for days.
pub const RETRY_AFTER_CAP: Duration = Duration::from_mins(5);

/// How an attempt ended, or why it was not made.
#[derive(Debug)]
pub enum End {
    /// The request was sent, or could not be.
    Posted(Outcome),
    /// The body had been given up, and the pod is in another version by now, which the watch will tell.
    Superseded,
    /// The body had been given up, and could not be read again.
    Unread(GetError),
    /// It was broken off: requests may not be sent any more.
    Cancelled,
}

/// What becomes of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Accepted,
    /// It is tried again; the endpoint is not well.
    Failed {
        /// How long the endpoint asked to be left alone, capped.
        retry_after: Option<Duration>,
    },
    /// It is tried again; the endpoint had no part in it.
    NotSent,
}

impl End {
    /// 2xx is accepted, anything else is tried again: a webhook that is misconfigured today answers 404 and is mended
    /// tomorrow.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Posted(Outcome::Answered { status, .. }) if status.is_success() => Verdict::Accepted,
            Self::Posted(Outcome::Answered { retry_after, .. }) => {
                Verdict::Failed { retry_after: retry_after.map(|wait| wait.min(RETRY_AFTER_CAP)) }
            }
            Self::Posted(Outcome::TimedOut | Outcome::Unreachable(_)) => Verdict::Failed { retry_after: None },
            Self::Superseded | Self::Unread(_) | Self::Cancelled => Verdict::NotSent,
        }
    }

    /// As metrics and logs name it: a small fixed set of words.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Posted(Outcome::Answered { status, .. }) => match status.as_u16() / 100 {
                2 => "2xx",
                3 => "3xx",
                4 => "4xx",
                5 => "5xx",
                _ => "other",
            },
            Self::Posted(Outcome::TimedOut) => "timeout",
            Self::Posted(Outcome::Unreachable(fault)) => match fault.stage {
                Stage::Connect => "connect",
                Stage::Tls => "tls",
                Stage::Exchange => "broken",
            },
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Unread(_) => "unread",
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::sink::Fault;

    fn answered(status: u16, retry_after: Option<u64>) -> End {
        End::Posted(Outcome::Answered {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    fn unreachable(stage: Stage) -> End {
        End::Posted(Outcome::Unreachable(Fault { stage, source: "reset".into() }))
    }

    #[test]
    fn only_2xx_is_accepted_and_everything_else_is_tried_again() {
        const FAILED: Verdict = Verdict::Failed { retry_after: None };
        for (end, verdict, word) in [
            (answered(200, None), Verdict::Accepted, "2xx"),
            (answered(204, Some(9)), Verdict::Accepted, "2xx"),
            (answered(299, None), Verdict::Accepted, "2xx"),
            (answered(301, None), FAILED, "3xx"),
            (answered(400, None), FAILED, "4xx"),
            (answered(410, None), FAILED, "4xx"),
            (answered(500, None), FAILED, "5xx"),
            (answered(999, None), FAILED, "other"),
            (End::Posted(Outcome::TimedOut), FAILED, "timeout"),
            (unreachable(Stage::Connect), FAILED, "connect"),
            (unreachable(Stage::Tls), FAILED, "tls"),
            (unreachable(Stage::Exchange), FAILED, "broken"),
            (End::Superseded, Verdict::NotSent, "superseded"),
            (End::Unread(GetError("down".into())), Verdict::NotSent, "unread"),
        ] {
            assert_eq!((end.verdict(), end.as_str()), (verdict, word), "{end:?}");
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_cap() {
        for (asked, granted) in [(0, 0), (299, 299), (300, 300), (301, 300), (u64::MAX, 300)] {
            let verdict = Verdict::Failed { retry_after: Some(Duration::from_secs(granted)) };
            assert_eq!(answered(503, Some(asked)).verdict(), verdict, "{asked}");
        }
    }
}
