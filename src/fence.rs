//! Until when requests may be sent: what keeps two replicas from sending at a time.

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Says whether requests may be sent now. Clones share it.
///
/// A process that was stopped for a while finds on waking what it was about to do, and does it, unless every step asks
/// the clock first. So it is asked before each attempt and before each write to a connection.
#[derive(Debug, Clone)]
pub struct Fence(Option<Arc<watch::Sender<State>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Open until then.
    Until(Instant),
    /// Closed for good.
    Revoked,
}

impl State {
    fn is_open(self) -> bool {
        matches!(self, Self::Until(until) if Instant::now() < until)
    }
}

impl Fence {
    /// Always open: nobody else sends.
    #[must_use]
    pub fn open() -> Self {
        Self(None)
    }

    /// Closed until it is [extended](Self::extend).
    #[must_use]
    pub fn closed() -> Self {
        Self(Some(Arc::new(watch::Sender::new(State::Until(Instant::now())))))
    }

    /// Whether it is ever closed.
    #[must_use]
    pub fn may_close(&self) -> bool {
        self.0.is_some()
    }

    /// Opens it until `until`, or closes it where that has passed.
    pub fn extend(&self, until: Instant) {
        if let Some(sender) = &self.0 {
            sender.send_replace(State::Until(until));
        }
    }

    /// Closes it for good.
    pub fn revoke(&self) {
        if let Some(sender) = &self.0 {
            sender.send_replace(State::Revoked);
        }
    }

    /// Whether a request may be sent at this moment.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.as_ref().is_none_or(|state| state.borrow().is_open())
    }

    /// Waits until it is closed.
    pub async fn until_closed(&self) {
        let Some(sender) = &self.0 else { return std::future::pending().await };
        let mut changes = sender.subscribe();
        loop {
            let State::Until(until) = *changes.borrow_and_update() else { return };
            if until <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(until) => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Waits until it is open.
    pub async fn until_open(&self) {
        self.until_it_is(|state| state.is_open()).await;
    }

    /// Waits until it is closed for good.
    pub async fn until_revoked(&self) {
        if self.0.is_none() {
            return std::future::pending().await;
        }
        self.until_it_is(|state| *state == State::Revoked).await;
    }

    async fn until_it_is(&self, fits: impl FnMut(&State) -> bool) {
        let Some(sender) = &self.0 else { return };
        // The sender lives as long as this does, so the wait does not fail.
        let _ = sender.subscribe().wait_for(fits).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_closes_by_the_clock_alone() {
        let fence = Fence::closed();
        assert!(!fence.is_open());
        fence.extend(Instant::now() + SECOND + Duration::from_millis(1));
        fence.until_open().await;
        advance(SECOND).await;
        assert!(fence.is_open());
        advance(Duration::from_millis(1)).await;
        assert!(!fence.is_open());
        fence.until_closed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_extends_it_keeps_it_open() {
        let fence = Fence::closed();
        fence.extend(Instant::now() + SECOND);
        let clone = fence.clone();
        let extended = tokio::spawn(async move { clone.until_closed().await });
        for _ in 0..5 {
            advance(SECOND / 2).await;
            fence.extend(Instant::now() + SECOND);
        }
        assert!(!extended.is_finished());
        fence.revoke();
        fence.until_revoked().await;
        timeout(SECOND, extended).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_closes_one_that_is_always_open() {
        let fence = Fence::open();
        fence.extend(Instant::now());
        fence.revoke();
        fence.until_open().await;
        assert!(fence.is_open());
        assert!(timeout(SECOND, fence.until_closed()).await.is_err());
        assert!(timeout(SECOND, fence.until_revoked()).await.is_err());
    }
}
