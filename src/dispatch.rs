//! All endpoints' queues: what is due next, and what became of it. No clock, no socket, no channel.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    delivery::Delivery,
    endpoint::Endpoint,
    metrics::Metrics,
    pod::{PodId, ResourceVersion},
    queue::{Budget, Lent, Queue, Settled, Settling},
    route::Origin,
    status::Line,
    verdict::{End, Verdict},
};

/// The limits that a [`Dispatcher`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most attempts in flight to one endpoint.
    pub concurrency: usize,
    /// The most bytes of waiting bodies, of all endpoints together.
    pub queue_bytes: usize,
    /// How long a state may wait for an endpoint.
    pub give_up_after: Duration,
}

/// The queues of all endpoints. An endpoint that came from an annotation is forgotten when nothing waits for it.
#[derive(Debug)]
pub struct Dispatcher {
    limits: Limits,
    metrics: Metrics,
    queues: HashMap<Endpoint, Entry>,
    /// When each queue that can start something can, the earliest first.
    starts: BTreeSet<(Instant, Endpoint)>,
    budget: Budget,
    turns: u64,
    backlog: usize,
}

#[derive(Debug)]
struct Entry {
    queue: Queue,
    origin: Origin,
    /// The queue's element of `starts`.
    start: Option<Instant>,
    /// The queue's part of the whole backlog.
    backlog: usize,
    /// How the last attempt ended, and when.
    last: Option<(&'static str, Instant)>,
}

/// An attempt to be made. It must come back by [`Dispatcher::settle`].
#[derive(Debug)]
pub struct Attempt {
    /// Where to.
    pub endpoint: Endpoint,
    lent: Lent,
}

impl Attempt {
    /// What to deliver.
    #[must_use]
    pub fn delivery(&self) -> &Delivery {
        &self.lent.delivery
    }
}

impl Dispatcher {
    /// Has no queues yet.
    #[must_use]
    pub fn new(limits: Limits, metrics: Metrics) -> Self {
        let budget = Budget::new(limits.queue_bytes);
        Self { limits, metrics, queues: HashMap::new(), starts: BTreeSet::new(), budget, turns: 0, backlog: 0 }
    }

    /// Lets `delivery` wait for `endpoint`.
    pub fn offer(&mut self, endpoint: &Endpoint, delivery: Delivery, now: Instant) {
        let number = self.next_turn();
        if !self.queues.contains_key(endpoint) {
            let origin = delivery.origin;
            let queue = Queue::new(self.metrics.series(endpoint, origin));
            self.queues.insert(endpoint.clone(), Entry { queue, origin, start: None, backlog: 0, last: None });
        }
        if let Some(entry) = self.queues.get_mut(endpoint) {
            entry.queue.offer(delivery, now, number, &mut self.budget);
        }
        self.reschedule(endpoint);
    }

    /// The next attempt that is due by `now`.
    pub fn next(&mut self, now: Instant) -> Option<Attempt> {
        let (start, endpoint) = self.starts.first()?;
        if *start > now {
            return None;
        }
        let endpoint = endpoint.clone();
        let entry = self.queues.get_mut(&endpoint)?;
        let lent = entry.queue.take(self.limits.concurrency, now, &mut self.budget);
        self.reschedule(&endpoint);
        Some(Attempt { lent: lent?, endpoint })
    }

    /// When [`Dispatcher::next`] has something, unless it is offered or settled before.
    #[must_use]
    pub fn next_start(&self) -> Option<Instant> {
        self.starts.first().map(|(start, _)| *start)
    }

    /// Takes an attempt back that took so long and ended like this. `random` is from 0 to 1.
    pub fn settle(&mut self, attempt: Attempt, end: &End, took: Duration, now: Instant, random: f64) {
        let number = self.next_turn();
        let Attempt { endpoint, lent } = attempt;
        let Some(entry) = self.queues.get_mut(&endpoint) else { return };
        entry.last = Some((end.as_str(), now));
        entry.queue.series().attempted(end.as_str(), took.as_secs_f64());
        let verdict = end.verdict();
        tell(&endpoint, &lent, end, verdict);
        let settling = Settling { now, random, number, budget: &mut self.budget };
        match entry.queue.settle(lent, verdict, settling) {
            Settled::Quietly => {}
            Settled::Closed => tracing::warn!(%endpoint, "endpoint is down: probing it"),
            Settled::Opened => tracing::info!(%endpoint, "endpoint is back"),
        }
        self.reschedule(&endpoint);
        self.forget_if_idle(&endpoint);
    }

    /// Gives up what has waited for too long by `now`, and tells of which pods and for which endpoints.
    pub fn give_up(&mut self, now: Instant) -> Vec<(PodId, Endpoint)> {
        let mut given_up = Vec::new();
        let Some(deadline) = now.checked_sub(self.limits.give_up_after) else { return given_up };
        let endpoints: Vec<_> = self.queues.keys().cloned().collect();
        for endpoint in endpoints {
            let Some(entry) = self.queues.get_mut(&endpoint) else { continue };
            for Delivery { pod, version, kind, .. } in entry.queue.give_up(deadline, &mut self.budget) {
                let kind = kind.as_str();
                tracing::error!(%endpoint, %pod, %version, kind, "given up: it waited longer than --give-up-after");
                given_up.push((pod, endpoint.clone()));
            }
            self.reschedule(&endpoint);
            self.forget_if_idle(&endpoint);
        }
        given_up
    }

    /// What an endpoint has not had of a pod.
    #[must_use]
    pub fn due(&self, endpoint: &Endpoint, pod: &PodId) -> Option<Delivery> {
        self.queues.get(endpoint)?.queue.due(pod)
    }

    /// What an operator sees of each endpoint.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        self.queues.iter().map(|(endpoint, Entry { queue, start, last, .. })| Line {
            endpoint: endpoint.to_string(),
            pods: queue.len(),
            since: queue.oldest(),
            is_down: queue.is_down(),
            last: *last,
            next: *start,
            ended: queue.ended(),
        })
    }

    /// Leaves everything that waits or is in flight to another replica, and counts it so.
    pub fn hand_over(self) {
        for entry in self.queues.values() {
            entry.queue.hand_over();
        }
    }

    /// Whether nothing waits and nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queues.values().all(|entry| entry.queue.is_empty())
    }

    /// For how many pods something waits or is in flight, by endpoint; endpoints without are left out.
    pub fn left(&self) -> impl Iterator<Item = (&Endpoint, usize)> {
        self.queues.iter().map(|(endpoint, entry)| (endpoint, entry.queue.len())).filter(|(_, left)| *left > 0)
    }

    /// How many deliveries there are, those that wait for one in flight not counted.
    #[must_use]
    pub fn deliveries(&self) -> usize {
        self.queues.values().map(|entry| entry.queue.len()).sum()
    }

    /// Of which pods something waits or is in flight, and for which endpoints.
    pub fn pods(&self) -> impl Iterator<Item = (&Endpoint, &PodId)> {
        self.queues.iter().flat_map(|(endpoint, entry)| entry.queue.pods().map(move |pod| (endpoint, pod)))
    }

    /// The endpoints that have not had everything, and the version up to which they have.
    pub fn behind(&self) -> impl Iterator<Item = (&Endpoint, ResourceVersion)> {
        self.queues.iter().filter_map(|(endpoint, entry)| Some((endpoint, entry.queue.ended()?)))
    }

    /// Bytes of the bodies that wait.
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        self.budget.used()
    }

    /// How many deliveries wait for nothing but their turn, at endpoints that are not down.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    fn reschedule(&mut self, endpoint: &Endpoint) {
        let Some(entry) = self.queues.get_mut(endpoint) else { return };
        let backlog = entry.queue.backlog();
        self.backlog = self.backlog + backlog - std::mem::replace(&mut entry.backlog, backlog);
        let start = entry.queue.next_start(self.limits.concurrency);
        if start == entry.start {
            return;
        }
        if let Some(old) = std::mem::replace(&mut entry.start, start) {
            self.starts.remove(&(old, endpoint.clone()));
        }
        if let Some(start) = start {
            self.starts.insert((start, endpoint.clone()));
        }
    }

    fn forget_if_idle(&mut self, endpoint: &Endpoint) {
        if self.queues.get(endpoint).is_some_and(|e| e.origin == Origin::Annotation && e.queue.is_empty()) {
            self.queues.remove(endpoint);
        }
    }
}

/// Failures are told once for each pod as a warning, and at debug level when they go on.
fn tell(endpoint: &Endpoint, lent: &Lent, end: &End, verdict: Verdict) {
    let (pod, result) = (&lent.delivery.pod, end.as_str());
    match verdict {
        Verdict::Accepted => tracing::debug!(%endpoint, %pod, result, "accepted"),
        Verdict::Failed { .. } if lent.failures() == 0 => {
            tracing::warn!(%endpoint, %pod, result, error = %Told(end), "attempt failed, will be tried again");
        }
        Verdict::Failed { .. } | Verdict::NotSent => {
            tracing::debug!(%endpoint, %pod, result, error = %Told(end), "attempt failed again");
        }
    }
}

/// An end with its causes, in one line.
struct Told<'a>(&'a End);

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::sink::Outcome;
        match self.0 {
            End::Posted(Outcome::Answered { status, .. }) => write!(f, "answered {status}"),
            End::Posted(Outcome::TimedOut) => f.write_str("no complete answer within --timeout"),
            End::Posted(Outcome::Unreachable(fault)) => write!(f, "{}", crate::chain::Chain(fault)),
            End::Superseded => f.write_str("superseded by a version that the watch has not told yet"),
            End::Cancelled => f.write_str("broken off: this replica may not send any more"),
            End::Unread(error) => write!(f, "{}", crate::chain::Chain(error)),
        }
    }
}

#[cfg(test)]
mod tests;
