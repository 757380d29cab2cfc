//! What waits for one endpoint, and what is in flight to it.
//!
//! The queue coalesces: of each pod at most one state waits, the newest, so that it is bounded by the number of pods
//! whatever the endpoint does. One pod is never in flight twice.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    delivery::Delivery,
    gate::{Gate, Start},
    metrics::Series,
    pod::{PodId, ResourceVersion},
    registry::Kind,
    verdict::Verdict,
};

/// A delivery's turn: the instant from which it is due, and a number that tells those of one instant apart.
type Turn = (Instant, u64);

/// The deliveries of one endpoint.
#[derive(Debug)]
pub(crate) struct Queue {
    gate: Gate,
    pods: HashMap<PodId, Slot>,
    /// The waiting deliveries of pods that are not in flight, by their turns.
    line: BTreeMap<Turn, PodId>,
    in_flight: usize,
    series: Series,
}

/// A pod that the endpoint has not accepted everything of. At least one of the two is set.
#[derive(Debug, Default)]
struct Slot {
    waiting: Option<Waiting>,
    in_flight: Option<Delivery>,
}

#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    offered: Instant,
    failures: u32,
    turn: Turn,
}

impl Slot {
    fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        self.in_flight.iter().chain(self.waiting.as_ref().map(|waiting| &waiting.delivery))
    }
}

/// An attempt to be made; [`Queue::settle`] takes it back.
#[derive(Debug)]
pub(crate) struct Lent {
    /// What to deliver.
    pub(crate) delivery: Delivery,
    offered: Instant,
    failures: u32,
}

impl Lent {
    /// The number of attempts of this pod at this endpoint that failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

/// The bytes of waiting bodies, of all endpoints. A body that waits for two endpoints counts twice.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: 0 }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Reserves memory for the body of a delivery that is to wait, or has it give its body up.
    fn admit(&mut self, delivery: &mut Delivery) {
        let bytes = delivery.body.as_ref().map_or(0, bytes::Bytes::len);
        if self.used.saturating_add(bytes) <= self.limit {
            self.used += bytes;
        } else {
            delivery.body = None;
        }
    }

    fn release(&mut self, delivery: &Delivery) {
        self.used -= delivery.body.as_ref().map_or(0, bytes::Bytes::len);
    }
}

impl Queue {
    pub(crate) fn new(series: Series) -> Self {
        Self { gate: Gate::default(), pods: HashMap::new(), line: BTreeMap::new(), in_flight: 0, series }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    pub(crate) fn series(&self) -> &Series {
        &self.series
    }

    /// How many pods have a state that waits or is in flight.
    pub(crate) fn len(&self) -> usize {
        self.pods.len()
    }

    /// The pods that have a state that waits or is in flight.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &PodId> {
        self.pods.keys()
    }

    /// The version up to which everything has ended; `None` while nothing waits and nothing is in flight.
    pub(crate) fn ended(&self) -> Option<ResourceVersion> {
        self.pods.values().flat_map(Slot::deliveries).map(|delivery| delivery.since).min()
    }

    /// What the endpoint has not had of a pod.
    pub(crate) fn due(&self, pod: &PodId) -> Option<Delivery> {
        let Slot { in_flight, waiting } = self.pods.get(pod)?;
        let Some(Waiting { delivery, .. }) = waiting else { return in_flight.clone() };
        let kind = in_flight.as_ref().map_or(delivery.kind, |earlier| unseen(earlier.kind, delivery.kind));
        Some(Delivery { kind, ..delivery.clone() })
    }

    /// Since when the oldest of what waits has waited.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.pods.values().filter_map(|slot| slot.waiting.as_ref()).map(|waiting| waiting.offered).min()
    }

    /// Whether the endpoint is down, and probed.
    pub(crate) fn is_down(&self) -> bool {
        !self.gate.is_open()
    }

    /// Lets a delivery wait. It takes the place of an older state of its pod that waits, and that one's turn.
    pub(crate) fn offer(&mut self, mut delivery: Delivery, now: Instant, number: u64, budget: &mut Budget) {
        self.series.offered();
        let slot = self.pods.entry(delivery.pod.clone()).or_default();
        let (failures, turn) = match slot.waiting.take() {
            Some(old) => {
                budget.release(&old.delivery);
                delivery.kind = unseen(old.delivery.kind, delivery.kind);
                self.series.replaced_waiting();
                (old.failures, old.turn)
            }
            None => (0, (now, number)),
        };
        if slot.in_flight.is_none() {
            self.line.insert(turn, delivery.pod.clone());
        }
        budget.admit(&mut delivery);
        slot.waiting = Some(Waiting { delivery, offered: now, failures, turn });
    }

    /// From when on [`Queue::take`] gives an attempt; `None` while nothing but the end of one can change that.
    pub(crate) fn next_start(&self, concurrency: usize) -> Option<Instant> {
        let (&(due, _), _) = self.line.first_key_value()?;
        match self.gate.start(self.in_flight, concurrency) {
            Start::Now => Some(due),
            Start::NotBefore(instant) => Some(instant.max(due)),
            Start::WhenSettled => None,
        }
    }

    /// How many deliveries wait for nothing but their turn: none at an endpoint that is down.
    pub(crate) fn backlog(&self) -> usize {
        if self.gate.is_open() { self.line.len() } else { 0 }
    }

    /// The delivery whose turn it is.
    pub(crate) fn take(&mut self, concurrency: usize, now: Instant, budget: &mut Budget) -> Option<Lent> {
        if self.next_start(concurrency)? > now {
            return None;
        }
        let (_, pod) = self.line.pop_first()?;
        let slot = self.pods.get_mut(&pod)?;
        let Waiting { delivery, offered, failures, .. } = slot.waiting.take()?;
        budget.release(&delivery);
        slot.in_flight = Some(delivery.clone());
        self.in_flight += 1;
        self.series.started();
        Some(Lent { delivery, offered, failures })
    }

    /// Takes an attempt back. What was not accepted waits again, unless a newer state of its pod waits already.
    pub(crate) fn settle(&mut self, lent: Lent, verdict: Verdict, mut at: Settling<'_>) -> Settled {
        self.in_flight -= 1;
        let Some(slot) = self.pods.get_mut(&lent.delivery.pod) else { return Settled::Quietly };
        slot.in_flight = None;
        match verdict {
            Verdict::Accepted => {
                self.series.accepted();
                self.accepted(&lent.delivery.pod, at.now)
            }
            Verdict::Failed { retry_after } => {
                let closed = self.gate.failed(retry_after, at.now, at.random);
                self.wait_again(lent, &mut at);
                if closed { Settled::Closed } else { Settled::Quietly }
            }
            Verdict::NotSent => {
                self.wait_again(lent, &mut at);
                Settled::Quietly
            }
        }
    }

    fn accepted(&mut self, pod: &PodId, now: Instant) -> Settled {
        let slot = self.pods.get_mut(pod);
        if let Some(Slot { waiting: Some(waiting), .. }) = slot {
            waiting.failures = 0;
            waiting.turn.0 = waiting.turn.0.min(now);
            self.line.insert(waiting.turn, pod.clone());
        } else {
            self.pods.remove(pod);
        }
        if self.gate.accepted() {
            self.all_due(now);
            return Settled::Opened;
        }
        Settled::Quietly
    }

    /// The endpoint is back: whatever waits out a backoff of its own is due.
    fn all_due(&mut self, now: Instant) {
        for (old, pod) in self.line.split_off(&(now, u64::MAX)) {
            let turn = (now, old.1);
            if let Some(waiting) = self.pods.get_mut(&pod).and_then(|slot| slot.waiting.as_mut()) {
                waiting.turn = turn;
            }
            self.line.insert(turn, pod);
        }
    }

    fn wait_again(&mut self, lent: Lent, at: &mut Settling<'_>) {
        let Lent { mut delivery, offered, failures } = lent;
        let failures = failures.saturating_add(1);
        let turn = (at.now + Backoff::DELIVERY.after(failures, at.random), at.number);
        let pod = delivery.pod.clone();
        let Some(slot) = self.pods.get_mut(&pod) else { return };
        match &mut slot.waiting {
            Some(newer) => {
                self.series.replaced_in_flight();
                newer.delivery.kind = unseen(delivery.kind, newer.delivery.kind);
                newer.failures = failures;
                newer.turn = turn;
            }
            waiting @ None => {
                self.series.waits_again();
                at.budget.admit(&mut delivery);
                *waiting = Some(Waiting { delivery, offered, failures, turn });
            }
        }
        self.line.insert(turn, pod);
    }

    /// Leaves everything to another replica.
    pub(crate) fn hand_over(&self) {
        for slot in self.pods.values() {
            if slot.waiting.is_some() {
                self.series.handed_over_waiting();
            }
            if slot.in_flight.is_some() {
                self.series.handed_over_in_flight();
            }
        }
    }

    /// Gives up what has waited since `deadline` or longer, and is not in flight.
    pub(crate) fn give_up(&mut self, deadline: Instant, budget: &mut Budget) -> Vec<Delivery> {
        let mut given_up = Vec::new();
        self.pods.retain(|_, slot| {
            if let Some(old) = slot.waiting.take_if(|waiting| slot.in_flight.is_none() && waiting.offered <= deadline) {
                self.line.remove(&old.turn);
                budget.release(&old.delivery);
                self.series.given_up();
                given_up.push(old.delivery);
            }
            slot.in_flight.is_some() || slot.waiting.is_some()
        });
        given_up
    }
}

/// When an attempt is taken back.
pub(crate) struct Settling<'a> {
    pub(crate) now: Instant,
    /// From 0 to 1.
    pub(crate) random: f64,
    /// Greater than that of all turns before.
    pub(crate) number: u64,
    pub(crate) budget: &'a mut Budget,
}

/// What the end of an attempt means for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Nothing new.
    Quietly,
    /// It is down, and probed from now on.
    Closed,
    /// It is back.
    Opened,
}

/// What a state is to an endpoint that has not accepted the `earlier` one: a pod that was added and then updated is
/// still one that was added.
fn unseen(earlier: Kind, kind: Kind) -> Kind {
    match (earlier, kind) {
        (Kind::Added, Kind::Updated) => Kind::Added,
        _ => kind,
    }
}
