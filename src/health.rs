//! What the probes ask for: is the watch alive, is the first list complete.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How long the API server may tell nothing before the watch counts as stuck.
///
/// It sends a bookmark every minute and closes a watch after ten at the most, and [the source](crate::source) opens a
/// silent one anew long before this.
pub const STUCK_AFTER: Duration = Duration::from_mins(5);

/// Shared between the core, which knows, and the probes, which ask. Clones share it.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listed: AtomicBool,
    standby: AtomicBool,
    draining: AtomicBool,
    progress: Mutex<Instant>,
}

/// Why a probe fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwell {
    /// The API server has told nothing for so long.
    #[error("the API server has told nothing for {} s: is it reachable, and may pods be listed? see the log", .0.as_secs())]
    Stuck(Duration),
    /// The first list is not complete.
    #[error("the first list of pods is not complete")]
    NotListed,
    /// The process was asked to end.
    #[error("draining")]
    Draining,
}

impl Health {
    /// Alive and not ready, as of `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let progress = Mutex::new(now);
        let (listed, standby, draining) = Default::default();
        Self(Arc::new(Inner { listed, standby, draining, progress }))
    }

    /// The API server told something.
    pub fn progress(&self, now: Instant) {
        *self.0.progress.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// The first list is complete.
    pub fn listed(&self) {
        self.0.listed.store(true, Ordering::Relaxed);
    }

    /// Whether another replica reads and sends, and this one waits to take its place.
    pub fn standby(&self, standby: bool) {
        self.0.standby.store(standby, Ordering::Relaxed);
        self.0.listed.fetch_and(!standby, Ordering::Relaxed);
    }

    /// No more pods are read.
    pub fn draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// When the API server last told something.
    #[must_use]
    pub fn last_progress(&self) -> Instant {
        *self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the watch makes progress. While draining it need not.
    pub fn live(&self, now: Instant) -> Result<(), Unwell> {
        let silent = now.duration_since(self.last_progress());
        if silent < STUCK_AFTER || self.0.draining.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Unwell::Stuck(silent))
        }
    }

    /// Whether the first list is complete, or is another replica's to read, and nobody asked us to end.
    pub fn ready(&self) -> Result<(), Unwell> {
        if self.0.draining.load(Ordering::Relaxed) {
            return Err(Unwell::Draining);
        }
        if self.0.listed.load(Ordering::Relaxed) || self.0.standby.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Unwell::NotListed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_from_the_first_list_to_the_drain() {
        let health = Health::new(Instant::now());
        assert_eq!(health.ready(), Err(Unwell::NotListed));
        health.listed();
        assert_eq!(health.ready(), Ok(()));
        health.draining();
        assert_eq!(health.ready(), Err(Unwell::Draining));
    }

    #[test]
    fn a_standby_is_ready_and_has_to_list_when_its_time_comes() {
        let health = Health::new(Instant::now());
        health.listed();
        health.standby(true);
        assert_eq!(health.ready(), Ok(()));
        health.standby(false);
        assert_eq!(health.ready(), Err(Unwell::NotListed));
    }

    #[test]
    fn is_live_until_the_api_server_has_told_nothing_for_five_minutes() {
        let start = Instant::now();
        let health = Health::new(start);
        let edge = start + STUCK_AFTER;
        assert_eq!(health.live(edge - Duration::from_millis(1)), Ok(()));
        assert_eq!(health.live(edge), Err(Unwell::Stuck(STUCK_AFTER)));
        health.progress(edge);
        assert_eq!(health.live(edge), Ok(()));
    }

    #[test]
    fn is_live_while_draining() {
        let start = Instant::now();
        let health = Health::new(start);
        health.draining();
        assert_eq!(health.live(start + 2 * STUCK_AFTER), Ok(()));
    }
}
