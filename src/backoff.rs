//! How long to wait after a failure.

use std::time::Duration;

/// Exponential backoff with jitter.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The wait after the first failure, before jitter.
    pub first: Duration,
    /// The longest wait, jitter included.
    pub cap: Duration,
}

/// What each failure in a row multiplies the wait by.
const FACTOR: f64 = 1.5;

/// A wait is moved by up to this part of itself, so that those who failed together do not return together.
const JITTER: f64 = 0.5;

impl Backoff {
    /// For attempts at webhooks, as the README promises it.
    pub const DELIVERY: Self = Self { first: Duration::from_millis(500), cap: Duration::from_mins(1) };

    /// For requests to the API server: an outage is over within seconds as a rule, and there is only one of us.
    pub const API_SERVER: Self = Self { first: Duration::from_millis(500), cap: Duration::from_secs(30) };

    /// The wait after the given number of `failures` in a row, at least 1. `random` is from 0 to 1.
    #[must_use]
    pub fn after(self, failures: u32, random: f64) -> Duration {
        let steps = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let plain = (self.first.as_secs_f64() * FACTOR.powi(steps)).min(self.cap.as_secs_f64());
        let jittered = plain * (1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0));
        Duration::from_secs_f64(jittered.min(self.cap.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_by_half_each_and_stay_under_the_cap() {
        let waits: Vec<_> = (1..=14).map(|n| Backoff::DELIVERY.after(n, 0.5).as_millis()).collect();
        assert_eq!(waits[..5], [500, 750, 1125, 1687, 2531]);
        assert_eq!(waits[13], 60_000);
        assert_eq!(Backoff::DELIVERY.after(u32::MAX, 1.0), Duration::from_mins(1));
    }

    #[test]
    fn jitter_moves_a_wait_by_half_of_itself_at_most() {
        assert_eq!(Backoff::DELIVERY.after(1, 0.0), Duration::from_millis(250));
        assert_eq!(Backoff::DELIVERY.after(1, 1.0), Duration::from_millis(750));
        assert_eq!(Backoff::DELIVERY.after(0, 0.5), Duration::from_millis(500));
    }
}
