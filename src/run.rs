//! The core loop: events in, attempts out, until asked to end.
//!
//! One task owns the registry and all queues, so nothing here is locked and every order is the order of its turns.

use std::{
    ops::ControlFlow,
    pin::{Pin, pin},
    time::Duration,
};

use futures_util::{
    Stream, StreamExt,
    stream::{FusedStream, FuturesUnordered},
};
use jiff::Timestamp;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use self::{attempt::Maker, journal::Journal, pace::Pace, past::Past, restore::Restored};
pub use self::{
    journal::{Directory, Term},
    past::Record,
};
use crate::{
    delivery::Delivery,
    dispatch::{Attempt, Dispatcher, Limits},
    endpoint::Endpoint,
    fence::Fence,
    health::Health,
    metrics::Metrics,
    pod::ResourceVersion,
    registry::{Change, Registry},
    request::RequestBuilder,
    route::{Route, Router},
    sink::WebhookSink,
    source::{PodEvent, PodSource, What},
    status::{Board, Work},
    store::{Fault, Memory},
    verdict::End,
};

mod attempt;
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
    let mut core = Core {
        past: Past::new(record, router.global()),
        registry: Registry::new(router),
        dispatcher: Dispatcher::new(limits, shared.metrics.clone()),
        journal: None,
        restored: Restored::default(),
        shared,
        fence: fence.clone(),
        limits,
        scopes,
    };
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

struct Core {
    past: Past,
    registry: Registry,
    dispatcher: Dispatcher,
    /// None without a state directory.
    journal: Option<Journal>,
    /// What was due before this start, and the list has not told of yet.
    restored: Restored,
    shared: Shared,
    fence: Fence,
    limits: Limits,
    scopes: usize,
}

impl Core {
    /// Takes up what was known before, and gives where reading begins.
    async fn begin(&mut self, directory: Option<Directory>) -> Vec<ResourceVersion> {
        if let Some(directory) = directory {
            let loaded = directory.store.load().await;
            self.take_up(directory, loaded);
        }
        self.past.since()
    }

    fn take_up(&mut self, directory: Directory, loaded: Result<Option<Memory>, Fault>) {
        let (journal, memory) = Journal::open(directory, loaded, self.past.has_position(), &self.shared.metrics);
        self.journal = Some(journal);
        if let Some(memory) = memory {
            self.restore(memory);
        }
        // Written at once: from here on nobody else's term is the last.
        self.keep();
    }

    /// Takes in an event. Breaks when what is known was wrong, and everything has to be read anew.
    fn observe(&mut self, event: PodEvent) -> ControlFlow<()> {
        let now = Instant::now();
        self.shared.health.progress(now);
        self.shared.metrics.last_progress.set(Timestamp::now().as_second());
        self.count(&event.what);
        let listed = if let What::ListEnded(version) = event.what { Some(version) } else { None };
        if listed.is_some_and(|listed| self.past.is_refuted(listed)) {
            self.begin_anew();
            return ControlFlow::Break(());
        }
        if let What::Listed(pod) = &event.what {
            self.listed(pod);
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

    /// Knows nothing any more. What waits is of a cluster that is no more, and left to the list.
    fn begin_anew(&mut self) {
        self.registry.clear();
        self.restored = Restored::default();
        let dispatcher = Dispatcher::new(self.limits, self.shared.metrics.clone());
        std::mem::replace(&mut self.dispatcher, dispatcher).hand_over();
        if let Some(journal) = &mut self.journal {
            journal.begin_anew();
        }
    }

    fn settle(&mut self, attempt: Attempt, end: &End, took: Duration) {
        if let Some(journal) = &mut self.journal {
            journal.touched(&attempt.delivery().pod, &attempt.endpoint);
        }
        self.dispatcher.settle(attempt, end, took, Instant::now(), fastrand::f64());
    }

    fn give_up(&mut self) {
        let given_up = self.dispatcher.give_up(Instant::now());
        if let Some(journal) = &mut self.journal {
            for (pod, endpoint) in &given_up {
                journal.touched(pod, endpoint);
            }
        }
    }

    /// Has what has changed written to the state directory.
    fn keep(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        if journal.is_overlong(self.registry.len() + self.dispatcher.deliveries()) {
            journal.begin_anew();
            self.registry.pods().for_each(|pod| journal.known(pod));
            self.dispatcher.pods().for_each(|(endpoint, pod)| journal.touched(pod, endpoint));
        }
        journal.keep(
            self.registry.told(self.scopes),
            self.past.global().iter().filter(|endpoint| self.restored.has_had_all(endpoint)),
            |pod| self.registry.known(pod),
            |pod, endpoint| Some(self.dispatcher.due(endpoint, pod)?.due(endpoint.digest())),
            &self.shared.metrics,
        );
    }

    /// Waits for the state directory: first for what is being written, then for the rest.
    async fn finish(&mut self) {
        for _ in 0..2 {
            self.keep();
            if let Some(journal) = &mut self.journal {
                journal.finish(&self.shared.metrics).await;
            }
        }
    }

    fn tell(&mut self) {
        self.keep();
        self.past.tell(&self.registry, &self.dispatcher, self.scopes, &self.shared.metrics);
        self.shared.board.work(Work {
            now: Instant::now(),
            pods: self.registry.len(),
            seen: self.registry.seen(self.scopes),
            told: self.shared.health.last_progress(),
            may_send: self.fence.is_open(),
            disk: self.journal.as_ref().map(Journal::disk),
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
                let lost = if self.past.is_remembered() { "created and deleted" } else { "deleted" };
                tracing::error!(
                    %after, %until,
                    "the API server has forgotten what happened between these resource versions: \
                     pods {lost} in that time are not told of"
                );
                self.shared.metrics.spans_unknown.inc();
            }
            What::Listed(_) | What::ListEnded(_) | What::Changed(_) | What::Deleted(_) | What::Bookmark(_) => {}
        }
    }

    fn offer(&mut self, change: &Change, now: Instant) {
        let Route { endpoints, origin, refused, .. } = &*change.route;
        self.shared.metrics.refused(*refused);
        if let Some(journal) = &mut self.journal {
            journal.changed(change);
        }
        self.release(&change.pod.id, None);
        let lacks = |endpoint: &&Endpoint| self.past.lacks(endpoint, *origin, change.pod.version, change.past);
        let mut lacking = endpoints.iter().filter(lacks).peekable();
        if lacking.peek().is_none() {
            return;
        }
        let delivery = Delivery::new(change, Timestamp::now());
        for endpoint in lacking {
            if let Some(journal) = &mut self.journal {
                journal.touched(&change.pod.id, endpoint);
            }
            self.dispatcher.offer(endpoint, delivery.clone(), now);
        }
    }

    /// What has to be done after each turn.
    fn gauge(&mut self) {
        if self.journal.as_ref().is_some_and(Journal::is_full) {
            self.keep();
        }
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

#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod tests;
