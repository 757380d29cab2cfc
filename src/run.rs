//! The core loop: events in, attempts out, until asked to end.
//!
//! One task owns the registry and all queues, so nothing here is locked and every order is the order of its turns.

use std::{
    ops::ControlFlow,
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt,
    stream::{FusedStream, FuturesUnordered},
};
use jiff::Timestamp;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

pub use self::past::Record;
use self::{pace::Pace, past::Past};
use crate::{
    delivery::{Delivery, body},
    dispatch::{Attempt, Dispatcher, Limits},
    fence::Fence,
    health::Health,
    metrics::Metrics,
    pod::Pod,
    registry::{Change, Kind, Registry},
    request::RequestBuilder,
    route::{Route, Router},
    sink::{Outcome, WebhookSink},
    source::{GetError, PodEvent, PodSource, What},
    status::{Board, Work},
    verdict::End,
};

mod pace;
mod past;

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
    let Plan { router, requests, limits, timeout, drain_timeout, scopes, fence, record } = plan;
    let mut core = Core {
        past: Past::new(record, router.global()),
        registry: Registry::new(router),
        dispatcher: Dispatcher::new(limits, shared.metrics.clone()),
        shared,
        fence: fence.clone(),
        scopes,
    };
    let mut events = Some(Box::pin(source.events(core.past.since())));
    let mut attempts = FuturesUnordered::new();
    let mut stop = pin!(stop);
    let mut start = pin!(sleep_until(Instant::now()));
    let mut give_up = every((limits.give_up_after / 16).clamp(Duration::from_millis(50), Duration::from_mins(1)));
    let mut tell = every(TELL);
    let mut deadline = None;
    let mut pace = Pace::new();

    let ended = loop {
        while let Some(attempt) = fence.is_open().then(|| core.dispatcher.next(Instant::now())).flatten() {
            attempts.push(make(attempt, source, sink, &requests, timeout, &fence));
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
                core.dispatcher.settle(attempt, &end, took, Instant::now(), fastrand::f64());
            }
            event = next(&mut events, pace.may_read(core.dispatcher.backlog())) => {
                let Some(event) = event else { break Ended::SourceEnded };
                if core.observe(event).is_break() {
                    events = Some(Box::pin(source.events(Vec::new())));
                }
                pace.has_read();
            }
            () = async { start.as_mut().await; fence.until_open().await }, if next_start.is_some() => {}
            _ = give_up.tick() => core.dispatcher.give_up(Instant::now()),
            _ = tell.tick() => core.tell(),
        }
        core.gauge();
    };
    core.tell();
    ended
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

struct Core {
    past: Past,
    registry: Registry,
    dispatcher: Dispatcher,
    shared: Shared,
    fence: Fence,
    scopes: usize,
}

impl Core {
    /// Takes in an event. Breaks when what is known was wrong, and everything has to be read anew.
    fn observe(&mut self, event: PodEvent) -> ControlFlow<()> {
        let now = Instant::now();
        self.shared.health.progress(now);
        self.shared.metrics.last_progress.set(Timestamp::now().as_second());
        self.count(&event.what);
        let listed = if let What::ListEnded(version) = event.what { Some(version) } else { None };
        if listed.is_some_and(|listed| self.past.is_refuted(listed)) {
            self.registry.clear();
            return ControlFlow::Break(());
        }
        for change in self.registry.observe(event) {
            self.offer(&change, now);
        }
        if listed.is_some() {
            tracing::info!(pods = self.registry.len(), "list complete");
            if self.registry.is_complete(self.scopes) {
                self.shared.health.listed();
            }
        }
        ControlFlow::Continue(())
    }

    fn tell(&self) {
        self.past.tell(&self.registry, &self.dispatcher, self.scopes, &self.shared.metrics);
        self.shared.board.work(Work {
            now: Instant::now(),
            pods: self.registry.len(),
            seen: self.registry.seen(self.scopes),
            told: self.shared.health.last_progress(),
            may_send: self.fence.is_open(),
            endpoints: self.dispatcher.lines().collect(),
        });
    }

    fn count(&self, what: &What) {
        match what {
            What::ListBegan => {
                self.shared.metrics.lists.inc();
            }
            What::Watching(version) => {
                tracing::debug!(%version, "watching");
                self.shared.metrics.watches.inc();
            }
            What::Unreadable(error) => {
                tracing::warn!(%error, uid = error.uid, "a pod cannot be read and is passed over");
                self.shared.metrics.pods_unreadable.inc();
            }
            What::Forgotten { after, until } => {
                tracing::error!(
                    %after, %until,
                    "the API server has forgotten what happened between these resource versions: \
                     pods deleted in that time are not told of"
                );
                self.shared.metrics.spans_unknown.inc();
            }
            What::Listed(_) | What::ListEnded(_) | What::Changed(_) | What::Deleted(_) | What::Bookmark(_) => {}
        }
    }

    fn offer(&mut self, change: &Change, now: Instant) {
        let Route { endpoints, origin, refused, .. } = &*change.route;
        self.shared.metrics.refused(*refused);
        let mut lacking = endpoints.iter().filter(|endpoint| self.past.lacks(endpoint, *origin, change));
        let Some(first) = lacking.next() else { return };
        let delivery = Delivery::new(change, Timestamp::now());
        for endpoint in lacking {
            self.dispatcher.offer(endpoint, delivery.clone(), now);
        }
        self.dispatcher.offer(first, delivery, now);
    }

    fn gauge(&self) {
        self.shared.metrics.pods_known.set(i64::try_from(self.registry.len()).unwrap_or(i64::MAX));
        self.shared.metrics.queue_bytes.set(i64::try_from(self.dispatcher.queue_bytes()).unwrap_or(i64::MAX));
    }

    fn hand_over(self) -> Ended {
        self.shared.metrics.pods_known.set(0);
        self.shared.metrics.queue_bytes.set(0);
        self.dispatcher.hand_over();
        Ended::HandedOver
    }

    /// Says what was left.
    fn ended(&self) -> Ended {
        let mut all = 0;
        for (endpoint, pods) in self.dispatcher.left() {
            tracing::error!(%endpoint, pods, "not delivered before the end");
            all += pods;
        }
        if all == 0 { Ended::Drained } else { Ended::Left(all) }
    }
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

/// Makes an attempt, and gives it back with how it ended and how long it took.
async fn make(
    attempt: Attempt,
    source: &impl PodSource,
    sink: &impl WebhookSink,
    requests: &RequestBuilder,
    limit: Duration,
    fence: &Fence,
) -> (Attempt, End, Duration) {
    let start = Instant::now();
    let post = async {
        match bytes(attempt.delivery(), source, limit).await {
            Ok(body) => {
                let request = requests.build(&attempt.endpoint, attempt.delivery(), body, Timestamp::now());
                End::Posted(timeout(limit, sink.post(request)).await.unwrap_or(Outcome::TimedOut))
            }
            Err(end) => end,
        }
    };
    let end = tokio::select! {
        biased;
        () = fence.until_closed() => End::Cancelled,
        end = post => end,
    };
    (attempt, end, start.elapsed())
}

/// The body of a delivery, read again where it was given up.
async fn bytes(delivery: &Delivery, source: &impl PodSource, limit: Duration) -> Result<Bytes, End> {
    if let Some(body) = &delivery.body {
        return Ok(body.clone());
    }
    if delivery.kind == Kind::Deleted {
        let pod = Pod::identity_json(&delivery.pod, delivery.version, None);
        return Ok(body(&pod, &delivery.env));
    }
    match timeout(limit, source.get(&delivery.pod)).await {
        Ok(Ok(Some(pod))) if pod.version == delivery.version => Ok(body(&pod.json, &delivery.env)),
        Ok(Ok(_)) => Err(End::Superseded),
        Ok(Err(error)) => Err(End::Unread(error)),
        Err(elapsed) => Err(End::Unread(GetError(elapsed.into()))),
    }
}

#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod tests;
