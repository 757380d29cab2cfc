//! Whether an endpoint may be attempted: an endpoint that is down is probed, not hammered by every waiting pod.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// So many failures with no success between them mean that the endpoint is down, and not that it dislikes one pod.
const TRIP: u32 = 3;

/// The health of an endpoint, as its last answers tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It may be attempted at full concurrency. So many failures came since the last success.
    Open {
        /// Failures in a row.
        failures: u32,
    },
    /// It may be attempted by one delivery at a time, and not before an instant.
    Probing {
        /// Failures in a row since the gate closed.
        failures: u32,
        /// The earliest start of the next attempt.
        not_before: Instant,
    },
}

/// When the next attempt may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Now,
    /// From this instant on; it may be past.
    NotBefore(Instant),
    /// Once the attempt that is under way has ended.
    WhenSettled,
}

impl Default for Gate {
    fn default() -> Self {
        Self::Open { failures: 0 }
    }
}

impl Gate {
    /// Whether the endpoint is not known to be down.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// When an attempt may start while `in_flight` of the allowed `concurrency` are under way.
    #[must_use]
    pub fn start(self, in_flight: usize, concurrency: usize) -> Start {
        match self {
            Self::Open { .. } if in_flight < concurrency => Start::Now,
            Self::Probing { not_before, .. } if in_flight == 0 => Start::NotBefore(not_before),
            Self::Open { .. } | Self::Probing { .. } => Start::WhenSettled,
        }
    }

    /// The endpoint accepted a state. Gives whether that opened the gate.
    pub fn accepted(&mut self) -> bool {
        let was_closed = !self.is_open();
        *self = Self::default();
        was_closed
    }

    /// An attempt failed, and the endpoint asked for `retry_after`. Gives whether that closed the gate.
    pub fn failed(&mut self, retry_after: Option<Duration>, now: Instant, random: f64) -> bool {
        let asked = retry_after.map(|wait| now + wait);
        match *self {
            Self::Open { failures } if asked.is_none() && failures + 1 < TRIP => {
                *self = Self::Open { failures: failures + 1 };
                false
            }
            Self::Open { .. } => {
                let wait = now + Backoff::DELIVERY.after(1, random);
                *self = Self::Probing { failures: 1, not_before: asked.map_or(wait, |asked| asked.max(wait)) };
                true
            }
            // Attempts from before the gate closed tell nothing new, except how long to stay away.
            Self::Probing { failures, not_before } if now < not_before => {
                *self = Self::Probing { failures, not_before: asked.map_or(not_before, |asked| asked.max(not_before)) };
                false
            }
            Self::Probing { failures, .. } => {
                let failures = failures.saturating_add(1);
                let wait = now + Backoff::DELIVERY.after(failures, random);
                *self = Self::Probing { failures, not_before: asked.map_or(wait, |asked| asked.max(wait)) };
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 16;

    fn closed(now: Instant) -> Gate {
        let mut gate = Gate::default();
        let closed: Vec<_> = (0..TRIP).map(|_| gate.failed(None, now, 0.5)).collect();
        assert_eq!(closed, [false, false, true]);
        gate
    }

    #[test]
    fn an_open_gate_lets_up_to_the_concurrency_through() {
        assert_eq!(Gate::default().start(15, LIMIT), Start::Now);
        assert_eq!(Gate::default().start(16, LIMIT), Start::WhenSettled);
    }

    #[test]
    fn a_success_between_failures_keeps_the_gate_open() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for _ in 0..10 {
            assert!(!gate.failed(None, now, 0.5));
            assert!(!gate.failed(None, now, 0.5));
            assert!(!gate.accepted());
        }
    }

    #[test]
    fn a_closed_gate_lets_one_probe_through_when_its_backoff_has_passed() {
        let now = Instant::now();
        let gate = closed(now);
        assert_eq!(gate.start(0, LIMIT), Start::NotBefore(now + Duration::from_millis(500)));
        assert_eq!(gate.start(1, LIMIT), Start::WhenSettled);
    }

    #[test]
    fn each_failed_probe_makes_the_next_wait_longer() {
        let now = Instant::now();
        let mut gate = closed(now);
        let later = now + Duration::from_millis(500);
        gate.failed(None, later, 0.5);
        assert_eq!(gate.start(0, LIMIT), Start::NotBefore(later + Duration::from_millis(750)));
    }

    #[test]
    fn attempts_from_before_the_gate_closed_do_not_make_the_wait_longer() {
        let now = Instant::now();
        let mut gate = closed(now);
        for _ in 0..13 {
            gate.failed(None, now, 0.5);
        }
        assert_eq!(gate.start(0, LIMIT), Start::NotBefore(now + Duration::from_millis(500)));
    }

    #[test]
    fn one_accepted_state_opens_the_gate() {
        let now = Instant::now();
        let mut gate = closed(now);
        assert!(gate.accepted());
        assert_eq!(gate, Gate::default());
    }

    #[test]
    fn an_endpoint_that_says_how_long_is_left_alone_so_long() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!(gate.failed(Some(Duration::from_secs(7)), now, 0.5));
        assert_eq!(gate.start(0, LIMIT), Start::NotBefore(now + Duration::from_secs(7)));
        gate.failed(Some(Duration::from_secs(9)), now, 0.5);
        assert_eq!(gate.start(0, LIMIT), Start::NotBefore(now + Duration::from_secs(9)));
    }
}
