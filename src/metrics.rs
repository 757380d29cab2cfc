//! What k8vent counts, as Prometheus reads it.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::{endpoint::Endpoint, pod::ResourceVersion, route::Origin};

/// Upper bounds in seconds: from a receiver on the same node to the default `--timeout`.
const ATTEMPT_SECONDS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// The label of all endpoints that come from annotations.
const ANNOTATION: &str = "annotation";

/// All series. Cheap to clone; clones share the series.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// 1 while this replica is the one that sends, else 0.
    pub leader: Gauge,
    /// Pods that are known.
    pub pods_known: Gauge,
    /// Pods, in lists or events, that could not be read.
    pub pods_unreadable: Counter,
    /// Lists begun.
    pub lists: Counter,
    /// Watches opened.
    pub watches: Counter,
    /// Spans of time of which the API server could not tell any more what happened.
    pub spans_unknown: Counter,
    /// When the API server last told something, in seconds since 1970.
    pub last_progress: Gauge,
    /// Bytes of bodies that wait.
    pub queue_bytes: Gauge,
    /// Up to where everything was read, as a resource version.
    pub seen: Gauge,
    /// Positions written to the Lease.
    pub saves: Counter,
    /// Up to where everything is remembered in `--state-dir`, as a resource version.
    pub kept: Gauge,
    /// States in `--state-dir` that wait for their endpoints.
    pub kept_waiting: Gauge,
    /// Bytes that `--state-dir` takes on disk.
    pub store_bytes: Gauge,
    /// So often `--state-dir` could not be read or written.
    pub store_errors: Counter,
    position: Family<To, Gauge>,
    states: StateFamilies,
    attempts: Family<Attempted, Counter>,
    attempt_seconds: Histograms,
}

#[derive(Debug, Clone, Default)]
struct StateFamilies {
    offered: Family<To, Counter>,
    settled: Family<Settled, Counter>,
    waiting: Family<To, Gauge>,
    in_flight: Family<To, Gauge>,
}

#[derive(Debug, Clone)]
struct Histograms(Family<To, Histogram>);

impl Default for Histograms {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(ATTEMPT_SECONDS)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Settled {
    endpoint: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempted {
    endpoint: String,
    result: &'static str,
}

/// The series of one endpoint.
///
/// All endpoints that come from annotations share one set: who may create pods must not be able to create series
/// without end.
#[derive(Clone)]
pub struct Series {
    label: String,
    offered: Counter,
    accepted: Counter,
    replaced: Counter,
    given_up: Counter,
    refused: Counter,
    handed_over: Counter,
    waiting: Gauge,
    in_flight: Gauge,
    seconds: Histogram,
    attempts: Family<Attempted, Counter>,
}

impl Metrics {
    /// The series of `endpoint`, which `origin` named.
    #[must_use]
    pub fn series(&self, endpoint: &Endpoint, origin: Origin) -> Series {
        match origin {
            Origin::Global => self.labelled(endpoint.label()),
            Origin::Annotation => self.labelled(ANNOTATION),
        }
    }

    /// Up to where everything has ended for a global endpoint.
    pub fn position(&self, endpoint: &Endpoint, ended: ResourceVersion) {
        let ended = i64::try_from(ended.0).unwrap_or(i64::MAX);
        self.position.get_or_create(&To { endpoint: endpoint.label().to_owned() }).set(ended);
    }

    /// Counts URLs of annotations that were refused: each is a state offered and refused.
    pub fn refused(&self, urls: u64) {
        let series = self.labelled(ANNOTATION);
        series.offered.inc_by(urls);
        series.refused.inc_by(urls);
    }

    fn labelled(&self, label: &str) -> Series {
        let to = To { endpoint: label.to_owned() };
        let settled = |result| self.states.settled.get_or_create_owned(&Settled { endpoint: label.to_owned(), result });
        Series {
            label: label.to_owned(),
            offered: self.states.offered.get_or_create_owned(&to),
            accepted: settled("accepted"),
            replaced: settled("replaced"),
            given_up: settled("given_up"),
            refused: settled("refused"),
            handed_over: settled("handed_over"),
            waiting: self.states.waiting.get_or_create_owned(&to),
            in_flight: self.states.in_flight.get_or_create_owned(&to),
            seconds: self.attempt_seconds.0.get_or_create_owned(&to),
            attempts: self.attempts.clone(),
        }
    }

    /// All series in the Prometheus text format (`OpenMetrics` 1.0).
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry());
        text
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("k8vent");
        let r = &mut registry;
        r.register("build", "The running version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register("leader", "Whether this replica is the one that sends", self.leader.clone());
        r.register("pods_known", "Pods that are known", self.pods_known.clone());
        r.register("pods_unreadable", "Pods that could not be read and were passed over", self.pods_unreadable.clone());
        r.register("lists", "Lists begun", self.lists.clone());
        r.register("watches", "Watches opened", self.watches.clone());
        r.register(
            "spans_unknown",
            "Spans between a position and a list of which deletes are not known",
            self.spans_unknown.clone(),
        );
        r.register("seen_resource_version", "Up to where everything was read", self.seen.clone());
        r.register("position_resource_version", "Up to where everything has ended", self.position.clone());
        r.register("position_saves", "Positions written to the Lease", self.saves.clone());
        r.register("kept_resource_version", "Up to where the state directory remembers everything", self.kept.clone());
        r.register("kept_states_waiting", "States that wait, in the state directory", self.kept_waiting.clone());
        r.register_with_unit("store", "What the state directory takes on disk", Unit::Bytes, self.store_bytes.clone());
        r.register("store_errors", "Failures to read or write the state directory", self.store_errors.clone());
        r.register("last_progress_timestamp", "When the API server last told something", self.last_progress.clone());
        r.register_with_unit("queue", "Bodies that wait", Unit::Bytes, self.queue_bytes.clone());
        r.register("states_offered", "States offered to the endpoint", self.states.offered.clone());
        r.register("states_settled", "States that ended, by how", self.states.settled.clone());
        r.register("states_waiting", "States that wait for the endpoint", self.states.waiting.clone());
        r.register("states_in_flight", "States in flight to the endpoint", self.states.in_flight.clone());
        r.register("attempts", "Attempts, by how they ended", self.attempts.clone());
        r.register_with_unit("attempt", "How long attempts took", Unit::Seconds, self.attempt_seconds.0.clone());
        registry
    }
}

impl Series {
    /// A state is offered, and begins to wait.
    pub fn offered(&self) {
        self.offered.inc();
        self.waiting.inc();
    }

    /// A newer state took the place of one that waited.
    pub fn replaced_waiting(&self) {
        self.waiting.dec();
        self.replaced.inc();
    }

    /// A state that waited is in flight.
    pub fn started(&self) {
        self.waiting.dec();
        self.in_flight.inc();
    }

    /// The state in flight is accepted.
    pub fn accepted(&self) {
        self.in_flight.dec();
        self.accepted.inc();
    }

    /// The state in flight was not accepted, and waits again.
    pub fn waits_again(&self) {
        self.in_flight.dec();
        self.waiting.inc();
    }

    /// The state in flight was not accepted, and a newer one waits already.
    pub fn replaced_in_flight(&self) {
        self.in_flight.dec();
        self.replaced.inc();
    }

    /// A state that waited was given up.
    pub fn given_up(&self) {
        self.waiting.dec();
        self.given_up.inc();
    }

    /// A state that waited is another replica's to deliver.
    pub fn handed_over_waiting(&self) {
        self.waiting.dec();
        self.handed_over.inc();
    }

    /// A state in flight is another replica's to deliver.
    pub fn handed_over_in_flight(&self) {
        self.in_flight.dec();
        self.handed_over.inc();
    }

    /// An attempt ended with `result` after so many `seconds`.
    pub fn attempted(&self, result: &'static str, seconds: f64) {
        self.attempts.get_or_create(&Attempted { endpoint: self.label.clone(), result }).inc();
        self.seconds.observe(seconds);
    }

    /// Every state offered ends in exactly one counter, or waits, or is in flight.
    #[cfg(test)]
    pub(crate) fn sum_holds(&self) -> bool {
        let ended = self.accepted.get()
            + self.replaced.get()
            + self.given_up.get()
            + self.refused.get()
            + self.handed_over.get();
        let held = u64::try_from(self.waiting.get() + self.in_flight.get()).unwrap();
        self.offered.get() == ended + held
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").field("endpoint", &self.label).finish_non_exhaustive()
    }
}
