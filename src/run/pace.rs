//! Reading gives delivering the precedence.
//!
//! What is read faster than it is delivered costs memory, and is replaced before it is sent. But an endpoint that is
//! slow must hold up no other: reading waits for a moment at most.

use std::{pin::Pin, time::Duration};

use tokio::{
    task::yield_now,
    time::{Instant, Sleep, sleep},
};

/// So much may wait at endpoints that are well before reading waits: enough to keep all of the usual attempts busy.
const BACKLOG: usize = 64;

/// Reading waits no longer than this for the backlog to shrink.
const PATIENCE: Duration = Duration::from_millis(1);

/// So many events are read before reading waits (again): sixteen times what a busy cluster brings in that time.
const PER_WAIT: usize = 64;

/// After so many events in a row the other tasks have their turn: connections must not wait for a long stretch of
/// events that has already arrived.
const PER_TURN: usize = 16;

/// When the next event may be read.
pub(super) struct Pace {
    read: usize,
    left: usize,
    wait: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { read: 0, left: PER_WAIT, wait: Box::pin(sleep(Duration::ZERO)), waiting: false }
    }

    /// Waits until an event may be read. Dropped and called again, it goes on waiting where it was.
    pub(super) async fn may_read(&mut self, backlog: usize) {
        if backlog < BACKLOG {
            self.left = PER_WAIT;
            self.waiting = false;
        } else if self.left == 0 {
            if !self.waiting {
                self.waiting = true;
                self.wait.as_mut().reset(Instant::now() + PATIENCE);
            }
            self.wait.as_mut().await;
            self.waiting = false;
            self.left = PER_WAIT;
        }
        if self.read >= PER_TURN {
            self.read = 0;
            yield_now().await;
        }
    }

    /// An event was read.
    pub(super) fn has_read(&mut self) {
        self.read += 1;
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// How many events may be read at once.
    fn burst(pace: &mut Pace, backlog: usize) -> usize {
        let mut count = 0;
        // A turn of the other tasks is no wait.
        while count < 1000
            && (pace.may_read(backlog).now_or_never().is_some() || pace.may_read(backlog).now_or_never().is_some())
        {
            pace.has_read();
            count += 1;
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn reading_does_not_wait_while_deliveries_keep_up() {
        assert_eq!(burst(&mut Pace::new(), BACKLOG - 1), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_lets_so_much_through_and_no_more_until_a_moment_has_passed() {
        let mut pace = Pace::new();
        assert_eq!(burst(&mut pace, BACKLOG), PER_WAIT);
        assert_eq!(burst(&mut pace, BACKLOG), 0);
        let start = Instant::now();
        pace.may_read(BACKLOG).await;
        assert_eq!(start.elapsed(), PATIENCE);
        assert_eq!(burst(&mut pace, BACKLOG), PER_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn reading_goes_on_as_soon_as_the_backlog_has_shrunk() {
        let mut pace = Pace::new();
        burst(&mut pace, BACKLOG);
        assert_eq!(burst(&mut pace, BACKLOG - 1), 1000);
    }
}
