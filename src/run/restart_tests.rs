//! A crash at any point: no last state is lost, no older one follows a newer one, and nothing is sent again that was
//! accepted before the position was saved, or the state directory written.

mod cluster;
mod disk;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::mpsc,
};

use http::StatusCode;
use proptest::prelude::*;
use tokio::sync::{oneshot, watch};

use self::{
    cluster::{Cluster, Entry},
    disk::{Accepted, Disk},
};
use super::*;
use crate::{
    delivery::Delivery,
    digest::Digest,
    dispatch::Attempt,
    endpoint::Endpoint,
    pod::{Pod, ResourceVersion},
    position::Position,
    registry::Kind,
    route::Origin,
    sink::Outcome,
    source::{Scope, What},
    store::{Changes, Command, Fault, Kept, Size, Store},
    verdict::End,
};

const PODS: usize = 5;

pub(super) fn endpoint(number: usize) -> Endpoint {
    format!("http://host-{number}/").parse().unwrap()
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Change {
        pod: usize,
    },
    Delete {
        pod: usize,
    },
    Read,
    Bookmark,
    Start,
    Settle {
        which: usize,
        accepted: bool,
    },
    /// The position is told, and saved if `lease`; and what has changed is on its way to the disk.
    Save {
        lease: bool,
    },
    /// What is on its way to the disk has come there, or not.
    Disk {
        is_kept: bool,
    },
    /// What is read breaks off.
    Break,
    /// What is read breaks off, and the API server forgets everything but what is there.
    Forget,
    /// If something is on its way to the disk, it may still come there. The next process has so many endpoints.
    Crash {
        is_kept: bool,
        endpoints: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..PODS).prop_map(|pod| Step::Change { pod }),
        2 => (0..PODS).prop_map(|pod| Step::Delete { pod }),
        6 => Just(Step::Read),
        1 => Just(Step::Bookmark),
        6 => Just(Step::Start),
        6 => (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(which, accepted)| Step::Settle { which, accepted }),
        3 => any::<bool>().prop_map(|lease| Step::Save { lease }),
        3 => prop::bool::weighted(0.8).prop_map(|is_kept| Step::Disk { is_kept }),
        1 => Just(Step::Break),
        1 => Just(Step::Forget),
        2 => (any::<bool>(), 1..=2_usize).prop_map(|(is_kept, endpoints)| Step::Crash { is_kept, endpoints }),
    ]
}

pub(super) fn pod(incarnation: usize, version: u64) -> Pod {
    let json =
        format!(r#"{{"metadata":{{"name":"p","namespace":"s","uid":"{incarnation}","resourceVersion":"{version}"}}}}"#);
    Pod::read(json.as_bytes()).unwrap()
}

/// A process, which may crash, and what survives it: the saved position, the state directory, and what the receivers
/// have accepted.
struct World {
    cluster: Cluster,
    core: Core,
    told: watch::Receiver<Option<Position>>,
    commands: mpsc::Receiver<Command>,
    /// On its way to the disk, with what the process knew was accepted when it was sent there.
    writing: Option<(Changes, oneshot::Sender<Kept>, Accepted)>,
    /// What the process has to read before it comes to the log.
    list: VecDeque<What>,
    /// Where the watch after the first list is to begin, if it can.
    since: VecDeque<ResourceVersion>,
    /// How many entries of the log the process has read, or passes over because the watch begins after them.
    read: usize,
    in_flight: Vec<Attempt>,
    has_lease: bool,
    saved: Option<Position>,
    disk: Option<Disk>,
    /// The last version that each endpoint accepted of each pod, and whether it was the delete.
    accepted: BTreeMap<(Endpoint, String), (u64, bool)>,
    /// By the id of the state.
    all: Accepted,
    /// What this process knows was accepted.
    known_to_process: Accepted,
    endpoints: usize,
    /// Pods of which nobody can know any more that they ever were, and those that an endpoint never had because it was
    /// not there.
    excused: BTreeSet<(usize, String)>,
}

impl World {
    fn new(has_lease: bool, has_disk: bool) -> Self {
        let (core, told) = core(None, has_lease, 2);
        let mut world = Self {
            cluster: Cluster::new(),
            core,
            told,
            commands: Store::by_hand().1,
            writing: None,
            list: VecDeque::new(),
            since: VecDeque::new(),
            read: 0,
            in_flight: vec![],
            has_lease,
            saved: None,
            disk: has_disk.then(Disk::default),
            accepted: BTreeMap::new(),
            all: BTreeSet::new(),
            known_to_process: BTreeSet::new(),
            endpoints: 2,
            excused: BTreeSet::new(),
        };
        world.start_process();
        // What happens before the first position is saved, and a crash takes, nobody can know.
        world.read_all();
        world.save(true);
        world.written(true);
        world.save(true);
        world.written(true);
        world
    }

    fn observe(&mut self, what: What) {
        assert!(self.core.observe(PodEvent { scope: Scope(0), what }).is_continue());
    }

    /// A new process, and how its reading begins.
    fn start_process(&mut self) {
        (self.core, self.told) = core(self.saved.clone().filter(|_| self.has_lease), self.has_lease, self.endpoints);
        self.writing = None;
        self.known_to_process.clear();
        let memory = self.disk.as_ref().map(|disk| disk.memory.clone());
        if let Some(memory) = memory {
            let (store, commands) = Store::by_hand();
            self.commands = commands;
            // It is the same replica that is started again.
            let term = Term { own: "1".to_owned(), before: None };
            let directory = Directory { store, selection: Digest::of(""), term: self.has_lease.then_some(term) };
            self.core.take_up(directory, Ok(memory));
            self.send_to_disk();
        }
        self.since = self.core.past.since().into();
        if self.is_new(1)
            && let Some(disk) = &mut self.disk
        {
            disk.accepted.retain(|(to, _)| *to != endpoint(1));
        }
        self.list();
    }

    /// The process has the list as of now before it, and then the watch.
    fn list(&mut self) {
        let Cluster { version, forgotten, ref there, .. } = self.cluster;
        let there = there.values().map(|(incarnation, version)| What::Listed(pod(*incarnation, *version)));
        self.list =
            [What::ListBegan].into_iter().chain(there).chain([What::ListEnded(ResourceVersion(version))]).collect();
        let mut since = self.since.iter().filter(|since| since.0 < version);
        let begin = *since.find(|since| since.0 >= forgotten).unwrap_or(&ResourceVersion(version));
        for after in self.since.iter().filter(|since| **since < begin) {
            self.list.push_back(What::Forgotten { after: *after, until: begin });
        }
        self.list.push_back(What::Watching(begin));
        self.read = self.cluster.log.partition_point(|(version, _)| *version <= begin.0);
        let passed_over: Vec<_> = self.cluster.gone_by(begin).into_iter().filter(|pod| self.is_unknown(pod)).collect();
        if self.is_new(1) {
            let gone = self.cluster.gone_by(ResourceVersion(self.cluster.version));
            self.excused.extend(gone.into_iter().map(|pod| (1, pod)));
        }
        self.excused.extend(passed_over.into_iter().flat_map(|pod| [(0, pod.clone()), (1, pod)]));
    }

    /// Whether an endpoint was not there before, as far as anybody knows. It gets no delete of a pod that it never had.
    fn is_new(&self, number: usize) -> bool {
        let digest = endpoint(number).digest();
        let saved = self.saved.as_ref().filter(|_| self.has_lease);
        let is_in_position = saved.is_none_or(|saved| saved.of(digest, Origin::Global).is_some());
        let memory = self.disk.as_ref().and_then(|disk| disk.memory.as_ref());
        !is_in_position || memory.is_some_and(|memory| !memory.mark.global.contains(&digest))
    }

    fn is_unknown(&self, pod: &str) -> bool {
        let id = self::pod(pod.parse().unwrap(), 1).id;
        let is_due = (0..2).any(|number| self.core.dispatcher.due(&endpoint(number), &id).is_some());
        let is_on_disk = self.disk.as_ref().is_some_and(|disk| disk.knows(pod));
        self.core.registry.known(&id).is_none() && !is_due && !is_on_disk
    }

    fn forget(&mut self) {
        self.cluster.forgotten = self.cluster.version;
        if self.list.is_empty() {
            self.since.clear();
        }
        self.list();
    }

    fn read(&mut self) {
        if let Some(what) = self.list.pop_front() {
            return self.observe(what);
        }
        let Some((version, Entry { incarnation, deleted })) = self.cluster.log.get(self.read).copied() else { return };
        self.read += 1;
        let pod = pod(incarnation, version);
        self.observe(if deleted { What::Deleted(pod) } else { What::Changed(pod) });
    }

    fn read_all(&mut self) {
        while !self.list.is_empty() || self.read < self.cluster.log.len() {
            self.read();
        }
    }

    fn bookmark(&mut self) {
        if self.list.is_empty() && self.read == self.cluster.log.len() {
            self.observe(What::Bookmark(ResourceVersion(self.cluster.version)));
        }
    }

    fn settle(&mut self, which: usize, accepted: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let attempt = self.in_flight.swap_remove(which % self.in_flight.len());
        if accepted {
            self.accept(&attempt.endpoint, attempt.delivery());
        }
        let status = if accepted { StatusCode::NO_CONTENT } else { StatusCode::BAD_GATEWAY };
        let end = End::Posted(Outcome::Answered { status, retry_after: None });
        self.core.settle(attempt, &end, Duration::ZERO);
    }

    fn accept(&mut self, to: &Endpoint, delivery: &Delivery) {
        let (pod, version, id) = (delivery.pod.uid().to_owned(), delivery.version.0, delivery.id());
        let is_deleted = delivery.kind == Kind::Deleted;
        let before = self.accepted.insert((to.clone(), pod), (version, is_deleted));
        assert!(
            before.is_none_or(|(before, gone)| (before <= version && !gone) || is_deleted),
            "{id} after {before:?}"
        );
        let is_repeated = !self.all.insert((to.clone(), id.clone()));
        let had = self.saved.as_ref().filter(|_| self.has_lease);
        let had = had.and_then(|saved| saved.of(to.digest(), Origin::Global));
        assert!(!is_repeated || had.is_none_or(|had| version > had.0), "{id} again, after {had:?}");
        let is_kept = self.disk.as_ref().is_some_and(|disk| disk.accepted.contains(&(to.clone(), id.clone())));
        self.known_to_process.insert((to.clone(), id.clone()));
        assert!(!is_kept, "{id} again, after it was kept that it was accepted");
    }

    /// Starts what is due, or will be within the hour.
    fn start(&mut self) {
        self.in_flight.extend(self.core.dispatcher.next(Instant::now() + Duration::from_hours(1)));
    }

    fn save(&mut self, lease: bool) {
        self.core.tell();
        if let Some(position) = self.told.borrow().clone().filter(|_| lease) {
            self.saved = Some(position);
        }
        self.send_to_disk();
    }

    fn send_to_disk(&mut self) {
        if let Ok(Command::Keep(changes, reply)) = self.commands.try_recv() {
            assert!(self.writing.is_none(), "one write at a time");
            self.writing = Some((changes, reply, self.known_to_process.clone()));
        }
    }

    fn written(&mut self, is_kept: bool) {
        let (Some((changes, reply, accepted)), Some(disk)) = (self.writing.take(), &mut self.disk) else { return };
        if is_kept {
            disk.keep(changes, &accepted);
        }
        reply.send(if is_kept { Ok(Size::default()) } else { Err(Fault::closed()) }).unwrap();
    }

    fn crash(&mut self, is_kept: bool, endpoints: usize) {
        if is_kept {
            self.written(true);
        }
        self.endpoints = endpoints;
        self.in_flight.clear();
        self.start_process();
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Change { pod } => self.cluster.change(pod),
            Step::Delete { pod } => self.cluster.delete(pod),
            Step::Read => self.read(),
            Step::Bookmark => self.bookmark(),
            Step::Start => self.start(),
            Step::Settle { which, accepted } => self.settle(which, accepted),
            Step::Save { lease } => self.save(lease),
            Step::Disk { is_kept } => self.written(is_kept),
            // A watch goes on where it was.
            Step::Break if self.list.is_empty() => {}
            Step::Break => self.list(),
            Step::Forget => self.forget(),
            Step::Crash { is_kept, endpoints } => self.crash(is_kept, endpoints),
        }
    }

    /// Everything is read, and every endpoint is well.
    fn finish(&mut self) {
        self.read_all();
        for _ in 0..1000 {
            self.start();
            self.settle(0, true);
        }
        assert!(self.core.dispatcher.is_idle());
    }

    fn check(&self) {
        let mut last = BTreeMap::new();
        for (version, Entry { incarnation, deleted }) in &self.cluster.log {
            last.insert(incarnation.to_string(), (*version, *deleted));
        }
        for (pod, (version, is_deleted)) in last {
            for number in (0..self.endpoints).filter(|number| !self.excused.contains(&(*number, pod.clone()))) {
                let accepted = self.accepted.get(&(endpoint(number), pod.clone()));
                let is_last = accepted.is_some_and(|(had, gone)| if is_deleted { *gone } else { *had == version });
                assert!(is_last, "of {pod}, {number} had {accepted:?} and not {version}");
            }
        }
    }
}

pub(super) fn core(
    found: Option<Position>,
    has_lease: bool,
    endpoints: usize,
) -> (Core, watch::Receiver<Option<Position>>) {
    let (told, positions) = watch::channel(None);
    let router = Router::new((0..endpoints).map(endpoint).collect(), BTreeMap::new());
    let record = Record { selection: Digest::of(""), found, told };
    let shared = Shared::new(Instant::now());
    let limits = Limits { concurrency: 2, queue_bytes: 1 << 20, give_up_after: Duration::from_hours(1) };
    let core = Core::new(router, has_lease.then_some(record), limits, 1, Fence::open(), shared);
    (core, positions)
}

fn no_last_state_is_lost(has_lease: bool, has_disk: bool, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(has_lease, has_disk);
        for step in steps {
            world.run(step);
            // A disk that has failed is tried again after some seconds.
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        world.finish();
        world.check();
    });
}

proptest! {
    #[test]
    fn no_crash_loses_a_last_state_with_a_lease(steps in prop::collection::vec(step(), 0..120)) {
        no_last_state_is_lost(true, false, steps);
    }

    #[test]
    fn no_crash_loses_a_last_state_with_a_state_directory(steps in prop::collection::vec(step(), 0..120)) {
        no_last_state_is_lost(false, true, steps);
    }

    #[test]
    fn no_crash_loses_a_last_state_with_both(steps in prop::collection::vec(step(), 0..120)) {
        no_last_state_is_lost(true, true, steps);
    }
}
