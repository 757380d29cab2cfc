//! The core loop: events in, attempts out, until asked to end.
//!
//! One task owns the registry and all queues, so nothing here is locked and every order is the order of its turns.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use futures_util::{
    Stream, StreamExt,
    stream::{FusedStream, FuturesUnordered},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use self::{attempt::Maker, core::Core, pace::Pace};
pub use self::{
    journal::{Directory, Term},
    past::Record,
};
use crate::{
    dispatch::Limits,
    fence::Fence,
    health::Health,
    metrics::Metrics,
    request::RequestBuilder,
    route::Router,
    sink::WebhookSink,
    source::{PodEvent, PodSource},
    status::Board,
};

mod attempt;
mod core;
mod journal;
mod pace;
mod past;
mod restore;

/// What the core needs to know.
#[derive(Debug)]
pub struct Plan {
    /// Where pods go.
    pub router: Router,
    /// How requests are made.
    pub requests: RequestBuilder,
    /// What the queues keep to.
    pub limits: Limits,
    /// The limit over one attempt: connecting, sending, and reading the answer.
    pub timeout: Duration,
    /// How long to go on delivering after the first signal.
    pub drain_timeout: Duration,
    /// How many scopes the source reads.
    pub scopes: usize,
    /// When requests may be sent.
    pub fence: Fence,
    /// What was delivered before; none where nothing of it is kept.
    pub record: Option<Record>,
    /// What was known before, and waited; none without a state directory.
    pub directory: Option<Directory>,
}

/// What others look at while it runs.
#[derive(Debug, Clone)]
pub struct Shared {
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/livez` and `/readyz`.
    pub health: Health,
    /// For `/status`.
    pub board: Board,
}

impl Shared {
    /// Nothing has happened yet, as of `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { metrics: Metrics::default(), health: Health::new(now), board: Board::default() }
    }
}

/// How often the position and the status are told.
const TELL: Duration = Duration::from_secs(1);

/// How [`run`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Asked to, and everything was delivered.
    Drained,
    /// Asked to, and for so many pods something was left when the time was over or the second signal came.
    Left(usize),
    /// Another replica sends now; what was left is its to deliver.
    HandedOver,
    /// The source ended, which it must not.
    SourceEnded,
}

/// Reads `source` and delivers to `sink` until `stop` gives its first item; then delivers what waits, until nothing is
/// left, [`Plan::drain_timeout`] has passed, or `stop` gives its second.
pub async fn run(
    source: &impl PodSource,
    sink: &impl WebhookSink,
    plan: Plan,
    shared: Shared,
    stop: impl Stream<Item = ()>,
) -> Ended {
    let Plan { router, requests, limits, timeout, drain_timeout, scopes, fence, record, directory } = plan;
    let store = directory.as_ref().map(|directory| directory.store.clone());
    let maker = Maker { source, sink, requests, limit: timeout, fence: fence.clone(), store };
    let mut core = Core::new(router, record, limits, scopes, fence.clone(), shared);
    let mut events = Some(Box::pin(source.events(core.begin(directory).await)));
    let mut attempts = FuturesUnordered::new();
    let mut stop = pin!(stop);
    let mut start = pin!(sleep_until(Instant::now()));
    let mut give_up = every((limits.give_up_after / 16).clamp(Duration::from_millis(50), Duration::from_mins(1)));
    let mut tell = every(TELL);
    let mut deadline = None;
    let mut pace = Pace::new();

    let ended = loop {
        while let Some(attempt) = fence.is_open().then(|| core.dispatcher.next(Instant::now())).flatten() {
            attempts.push(maker.make(attempt));
        }
        if events.is_none() && core.dispatcher.is_idle() {
            break Ended::Drained;
        }
        let next_start = core.dispatcher.next_start();
        if let Some(next_start) = next_start.filter(|next| *next != start.deadline()) {
            start.as_mut().reset(next_start);
        }
        tokio::select! {
            biased;
            Some(()) = stop.next() => {
                if events.is_none() {
                    break core.ended();
                }
                events = None;
                deadline = Some(Instant::now() + drain_timeout);
                core.shared.health.draining();
                tracing::info!(seconds = drain_timeout.as_secs_f64(), "draining");
            }
            () = fence.until_revoked() => {
                drop(attempts);
                return core.hand_over();
            }
            () = until(deadline) => break core.ended(),
            Some((attempt, end, took)) = attempts.next(), if !attempts.is_terminated() => {
                core.settle(attempt, &end, took);
            }
            event = next(&mut events, pace.may_read(core.dispatcher.backlog())) => {
                let Some(event) = event else { break Ended::SourceEnded };
                if core.observe(event).is_break() {
                    // Their queues are gone.
                    attempts.clear();
                    events = Some(Box::pin(source.events(Vec::new())));
                }
                pace.has_read();
            }
            () = async { start.as_mut().await; fence.until_open().await }, if next_start.is_some() => {}
            _ = give_up.tick() => core.give_up(),
            _ = tell.tick() => core.tell(),
        }
        core.gauge();
    };
    core.tell();
    core.finish().await;
    ended
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next event, once it may be read; none ever when nothing is read any more.
async fn next<S: Stream<Item = PodEvent>>(
    events: &mut Option<Pin<Box<S>>>,
    may_read: impl Future<Output = ()>,
) -> Option<PodEvent> {
    let Some(events) = events else { return std::future::pending().await };
    may_read.await;
    events.next().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod tests;
