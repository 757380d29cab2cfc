//! What of the core's memory is on disk, and what has changed since.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::{
    chain::Chain,
    digest::Digest,
    endpoint::Endpoint,
    metrics::Metrics,
    pod::{PodId, ResourceVersion},
    registry::{Change, Kind},
    status::Disk,
    store::{Changes, Due, Fault, Kept, Known, Mark, Memory, Size, Store},
};

/// The most bytes of bodies that wait for the disk, beside as many that are on their way to it. A state beyond goes
/// without its body: the store then has an older one of its pod.
const MOST_BYTES: usize = 16 << 20;

/// So many bytes of bodies are written before their time. Until then the states of a pod take each other's place.
const MANY_BYTES: usize = 8 << 20;

/// The same for bodies of pods that are new, as in the first list: nothing will take the place of most of them.
const MANY_NEW_BYTES: usize = 256 << 10;

/// While nothing can be written, pods come and go, and each leaves a mark that it is gone. When there are so many more
/// marks than pods and deliveries, all that there is takes their place.
const MORE_MARKS: usize = 10_000;

/// How long the end waits for the disk, each of two times.
const FINISH_LIMIT: Duration = Duration::from_secs(1);

/// How soon what could not be written is tried again. The file is read as a whole for that.
const RETRY: Duration = Duration::from_secs(5);

/// Where memory is kept beyond the process: `--state-dir`.
#[derive(Debug)]
pub struct Directory {
    /// The files.
    pub store: Store,
    /// What is read: which pods of which cluster.
    pub selection: Digest,
    /// The term of the Lease; `None` where there is none.
    pub term: Option<Term>,
}

/// Names the time for which the Lease is in the same hands: those of a replica, and of itself started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// This time.
    pub own: String,
    /// The last one before, in other hands or, where the Lease was released, in any.
    pub before: Option<String>,
}

impl Term {
    /// Whether nobody else has had the Lease since a time of this name.
    fn follows(&self, term: Option<&String>) -> bool {
        term.is_some_and(|term| *term == self.own) || term == self.before.as_ref()
    }
}

/// Gathers what changes, and has it kept.
///
/// It gathers only which pods and endpoints have changed. How they are is looked up when it is written, so that what is
/// written at once is as of one moment, and what could not be written is written as it is the next time.
pub(super) struct Journal {
    store: Store,
    selection: Digest,
    term: Option<String>,
    /// What is in the store is void.
    anew: bool,
    marks: Marks,
    mark: Option<Mark>,
    writing: Option<Writing>,
    failing: Option<Failing>,
    /// How many bytes the store takes.
    bytes: u64,
}

/// Nothing can be written.
struct Failing {
    since: Instant,
    retry: Instant,
}

impl Failing {
    fn new(since: Instant) -> Self {
        Self { since, retry: Instant::now() + RETRY }
    }
}

struct Writing {
    kept: oneshot::Receiver<Kept>,
    marks: Marks,
    anew: bool,
}

/// What has changed.
#[derive(Default)]
struct Marks {
    /// Pods, and their newest body if there is room for it.
    pods: HashMap<PodId, Option<(ResourceVersion, Bytes)>>,
    /// Pods and endpoints; without the endpoint itself when there is none of the digest any more.
    endpoints: HashMap<(PodId, Digest), Option<Endpoint>>,
    /// Of the bodies.
    bytes: usize,
    /// Of the bodies that came with pods which were new.
    new_bytes: usize,
}

impl Marks {
    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.endpoints.is_empty()
    }

    fn pod(&mut self, pod: PodId, body: Option<(ResourceVersion, Bytes)>) {
        let length = |body: &Option<(ResourceVersion, Bytes)>| body.as_ref().map_or(0, |(_, json)| json.len());
        let entry = self.pods.entry(pod);
        let before = if let Entry::Occupied(entry) = &entry { length(entry.get()) } else { 0 };
        let body = body.filter(|(_, json)| self.bytes - before + json.len() <= MOST_BYTES);
        self.bytes = self.bytes - before + length(&body);
        entry.insert_entry(body);
    }

    /// Takes back what was not kept; what has changed since goes before it.
    fn take_back(&mut self, older: Self) {
        for (pod, body) in older.pods {
            if self.pods.get(&pod).is_none_or(Option::is_none) {
                self.pod(pod, body);
            }
        }
        for (key, endpoint) in older.endpoints {
            self.endpoints.entry(key).or_insert(endpoint);
        }
    }
}

impl Journal {
    /// A journal for `directory`, and of what was `loaded` from there what still holds. Where there is a position
    /// (`has_position`) and another replica has had the Lease since, that one has gone further, and nothing holds.
    pub(super) fn open(
        directory: Directory,
        loaded: Result<Option<Memory>, Fault>,
        has_position: bool,
        metrics: &Metrics,
    ) -> (Self, Option<Memory>) {
        let Directory { store, selection, term } = directory;
        let (memory, failing) = match loaded {
            Ok(memory) => (memory, None),
            Err(fault) => {
                metrics.store_errors.inc();
                tracing::error!(error = %Chain(&fault), "the state directory cannot be read: starting as if it were empty");
                (None, Some(Failing::new(Instant::now())))
            }
        };
        let found = memory.is_some() || failing.is_some();
        let memory = memory.filter(|memory| {
            let is_of_others = memory.mark.selection != selection;
            let kept = memory.mark.term.as_ref();
            let is_outdated = has_position && term.as_ref().is_some_and(|term| !term.follows(kept));
            if is_of_others {
                tracing::warn!("the state directory is of another cluster, other namespaces or selectors: starting as if it were empty");
            } else if is_outdated {
                tracing::info!("another replica has held the Lease since the state directory was written: its position is used");
            }
            !is_of_others && !is_outdated
        });
        let journal = Self {
            store,
            selection,
            term: term.map(|term| term.own),
            anew: found && memory.is_none(),
            marks: Marks::default(),
            mark: None,
            writing: None,
            failing,
            bytes: 0,
        };
        (journal, memory)
    }

    /// Gives up all that is in the store.
    pub(super) fn begin_anew(&mut self) {
        self.anew = true;
        self.marks = Marks::default();
        if let Some(writing) = &mut self.writing {
            writing.marks = Marks::default();
        }
    }

    /// Whether it would be less to write all that there is, which is so much, than what has changed.
    pub(super) fn is_overlong(&self, all: usize) -> bool {
        self.marks.pods.len() + self.marks.endpoints.len() > 2 * all + MORE_MARKS
    }

    /// A pod is known, in a state that the store may not have.
    pub(super) fn known(&mut self, pod: &PodId) {
        self.marks.pod(pod.clone(), None);
    }

    /// The state of a pod has changed.
    pub(super) fn changed(&mut self, change: &Change) {
        let json = &change.pod.json;
        if change.kind == Kind::Added {
            self.marks.new_bytes += json.len();
        }
        self.marks.pod(change.pod.id.clone(), (!json.is_empty()).then(|| (change.pod.version, json.clone())));
    }

    /// What is due to an endpoint has changed.
    pub(super) fn touched(&mut self, pod: &PodId, endpoint: &Endpoint) {
        self.marks.endpoints.insert((pod.clone(), endpoint.digest()), Some(endpoint.clone()));
    }

    /// An endpoint to which something was due is not there any more, or has had it from another replica.
    pub(super) fn forgotten(&mut self, due: &Due) {
        self.marks.endpoints.insert((due.pod.clone(), due.endpoint), None);
    }

    /// Whether so much has changed that it should be written at once.
    pub(super) fn is_full(&self) -> bool {
        self.marks.bytes >= MANY_BYTES || self.marks.new_bytes >= MANY_NEW_BYTES
    }

    /// Has written what has changed, as `known` and `due` tell that it is, unless the last time is still going on. `told`
    /// and `global` are those of the [`Mark`].
    pub(super) fn keep<'a>(
        &mut self,
        told: Option<Vec<ResourceVersion>>,
        global: impl Iterator<Item = &'a Endpoint>,
        known: impl Fn(&PodId) -> Option<Known>,
        due: impl Fn(&PodId, &Endpoint) -> Option<Due>,
        metrics: &Metrics,
    ) {
        if let Some(writing) = &mut self.writing {
            match writing.kept.try_recv() {
                Ok(kept) => self.kept(kept, metrics),
                Err(oneshot::error::TryRecvError::Empty) => return,
                Err(oneshot::error::TryRecvError::Closed) => self.kept(Err(Fault::closed()), metrics),
            }
        }
        let global = global.map(Endpoint::digest).collect();
        let mark = Mark { selection: self.selection, term: self.term.clone(), told, global };
        if self.marks.is_empty() && !self.anew && self.mark.as_ref() == Some(&mark) {
            return;
        }
        if self.failing.as_ref().is_some_and(|failing| Instant::now() < failing.retry) {
            return;
        }
        let (marks, anew) = (std::mem::take(&mut self.marks), std::mem::take(&mut self.anew));
        let bodies = marks.pods.iter().filter_map(|(pod, body)| Some((pod.clone(), body.clone()?)));
        let changes = Changes {
            mark: mark.clone(),
            anew,
            known: marks.pods.keys().map(|pod| (pod.clone(), known(pod))).collect(),
            due: marks
                .endpoints
                .iter()
                .map(|((pod, digest), endpoint)| {
                    (pod.clone(), *digest, endpoint.as_ref().and_then(|endpoint| due(pod, endpoint)))
                })
                .collect(),
            bodies: bodies.map(|(pod, (version, json))| (pod, version, json)).collect(),
        };
        self.mark = Some(mark);
        self.writing = Some(Writing { kept: self.store.keep(changes), marks, anew });
    }

    /// Waits until what is being written is.
    pub(super) async fn finish(&mut self, metrics: &Metrics) {
        let Some(writing) = &mut self.writing else { return };
        if let Ok(kept) = timeout(FINISH_LIMIT, &mut writing.kept).await {
            self.kept(kept.unwrap_or_else(|_| Err(Fault::closed())), metrics);
        } else {
            tracing::error!("the state directory takes too long: it is behind");
        }
    }

    fn kept(&mut self, kept: Kept, metrics: &Metrics) {
        let Some(Writing { marks, anew, .. }) = self.writing.take() else { return };
        match kept {
            Ok(Size { bytes, due }) => {
                self.bytes = bytes;
                metrics.kept_waiting.set(i64::try_from(due).unwrap_or(i64::MAX));
                let kept = self.mark.as_ref().and_then(|mark| mark.told.as_ref()?.iter().min());
                metrics.kept.set(kept.map_or(0, |version| i64::try_from(version.0).unwrap_or(i64::MAX)));
                metrics.store_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
                if self.failing.take().is_some() {
                    tracing::info!("the state directory is written again");
                }
            }
            Err(fault) => {
                self.marks.take_back(marks);
                self.anew |= anew;
                self.mark = None;
                metrics.store_errors.inc();
                if self.failing.is_none() {
                    tracing::error!(
                        error = %Chain(&fault),
                        "the state directory cannot be written: deliveries go on, and a restart will begin where it is now"
                    );
                }
                let since = self.failing.as_ref().map_or_else(Instant::now, |failing| failing.since);
                self.failing = Some(Failing::new(since));
            }
        }
    }

    /// What an operator sees of it.
    pub(super) fn disk(&self) -> Disk {
        Disk { bytes: self.bytes, failing: self.failing.as_ref().map(|failing| failing.since) }
    }
}
