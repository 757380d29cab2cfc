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
    pod::{Pod, PodId, ResourceVersion},
    position::Position,
    registry::Kind,
    route::Origin,
    sink::Outcome,
    source::{Scope, What},
    store::{Changes, Command, Fault, Kept, Memory, Size, Store},
    verdict::End,
};

const PODS: usize = 5;
/// Namespaces that are watched each on its own.
const SCOPES: usize = 2;
const REPLICAS: usize = 2;

/// The endpoint that a pod's annotation names. The others are global.
const NAMED: usize = 2;

pub(super) fn endpoint(number: usize) -> Endpoint {
    format!("http://host-{number}/").parse().unwrap()
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// And the pod names a webhook itself, or does not any more.
    Change {
        pod: usize,
        is_annotated: bool,
    },
    Delete {
        pod: usize,
    },
    Read {
        scope: usize,
        events: usize,
    },
    Bookmark {
        scope: usize,
    },
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
    Break {
        scope: usize,
    },
    /// What is read breaks off, and the API server forgets everything but what is there.
    Forget {
        scope: usize,
    },
    /// What is on its way to the disk may still come there, and what is in flight to the receivers.
    Crash {
        is_kept: bool,
        arrives: bool,
        next: Next,
    },
}

/// The process after a crash.
#[derive(Debug, Clone, Copy)]
struct Next {
    endpoints: usize,
    /// With a Lease it may be another replica, which has a state directory of its own.
    replica: usize,
    /// Whether the Lease was released before.
    is_released: bool,
}

fn next() -> impl Strategy<Value = Next> {
    (1..=2_usize, 0..REPLICAS, any::<bool>()).prop_map(|(endpoints, replica, is_released)| Next {
        endpoints,
        replica,
        is_released,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..PODS, prop::bool::weighted(0.3)).prop_map(|(pod, is_annotated)| Step::Change { pod, is_annotated }),
        2 => (0..PODS).prop_map(|pod| Step::Delete { pod }),
        8 => (0..SCOPES, 1..8_usize).prop_map(|(scope, events)| Step::Read { scope, events }),
        1 => (0..SCOPES).prop_map(|scope| Step::Bookmark { scope }),
        6 => Just(Step::Start),
        6 => (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(which, accepted)| Step::Settle { which, accepted }),
        3 => any::<bool>().prop_map(|lease| Step::Save { lease }),
        3 => prop::bool::weighted(0.8).prop_map(|is_kept| Step::Disk { is_kept }),
        1 => (0..SCOPES).prop_map(|scope| Step::Break { scope }),
        1 => (0..SCOPES).prop_map(|scope| Step::Forget { scope }),
        1 => (any::<bool>(), any::<bool>(), next())
            .prop_map(|(is_kept, arrives, next)| Step::Crash { is_kept, arrives, next }),
    ]
}

pub(super) fn pod(incarnation: usize, version: u64) -> Pod {
    let json =
        format!(r#"{{"metadata":{{"name":"p","namespace":"s","uid":"{incarnation}","resourceVersion":"{version}"}}}}"#);
    Pod::read(json.as_bytes()).unwrap()
}

/// Those that are known, and those that something is due of.
fn pods(memory: &Memory) -> impl Iterator<Item = &PodId> {
    memory.known.iter().map(|known| &known.id).chain(memory.due.iter().map(|due| &due.pod))
}

/// How far the process has read one of the scopes.
#[derive(Default)]
struct Reading {
    /// What it has to read before it comes to the log.
    list: VecDeque<What>,
    /// Where the watch after the first list is to begin, if it can.
    since: VecDeque<ResourceVersion>,
    /// How many entries of the log it has read, or passes over because the watch begins after them.
    read: usize,
}

/// An endpoint, a pod, and the version of it that the endpoint has to have, unless it has had a newer one.
type Owed = (Endpoint, String, u64);

/// What is owed of pods, if they are still in these versions.
type OwedOf = BTreeMap<String, (u64, Vec<Owed>)>;

/// A process, which may crash, and what survives it: the saved position, the state directories, and what the receivers
/// have accepted.
struct World {
    cluster: Cluster,
    core: Core,
    told: watch::Receiver<Option<Position>>,
    commands: mpsc::Receiver<Command>,
    /// On its way to the disk, with what the process knew was accepted when it was sent there.
    writing: Option<(Changes, oneshot::Sender<Kept>, Accepted)>,
    readings: [Reading; SCOPES],
    in_flight: Vec<Attempt>,
    has_lease: bool,
    saved: Option<Position>,
    /// How often the Lease has changed hands.
    transitions: u32,
    /// The replica that holds it.
    replica: usize,
    /// One for each replica, or none.
    disks: Vec<Disk>,
    /// The last version that each endpoint accepted of each pod, and whether it was the delete.
    accepted: BTreeMap<(Endpoint, String), (u64, bool)>,
    /// By the id of the state.
    all: Accepted,
    /// What this process knows was accepted.
    known_to_process: Accepted,
    endpoints: usize,
    /// The pods that the process knew from its disk.
    remembered: BTreeSet<String>,
    /// What was due at the start of a pod, if it is still in this version when it is listed; and what of it proved to be.
    due: OwedOf,
    owed: Vec<Owed>,
    /// Whether no process before has told the disk of a whole list, while there is a saved position.
    is_first_list: bool,
    /// The deletes that an endpoint need not get: of pods of which nobody can know any more that they were, or that their
    /// annotation was another in the end; and of those that it never had because it was not there.
    excused: BTreeSet<(usize, String)>,
}

impl World {
    fn new(has_lease: bool, has_disk: bool) -> Self {
        let (core, told) = core(None, has_lease, 2, SCOPES);
        let mut world = Self {
            cluster: Cluster::new(),
            core,
            told,
            commands: Store::by_hand().1,
            writing: None,
            readings: Default::default(),
            in_flight: vec![],
            has_lease,
            saved: None,
            transitions: 1,
            replica: 0,
            disks: (0..REPLICAS).filter(|_| has_disk).map(|_| Disk::default()).collect(),
            accepted: BTreeMap::new(),
            all: BTreeSet::new(),
            known_to_process: BTreeSet::new(),
            endpoints: 2,
            remembered: BTreeSet::new(),
            due: BTreeMap::new(),
            owed: vec![],
            is_first_list: false,
            excused: BTreeSet::new(),
        };
        world.start_process();
        // What happens before the first position is saved, and a crash takes, nobody can know.
        (0..SCOPES).for_each(|scope| world.read_all(scope));
        world.save(true);
        world.written(true);
        world.save(true);
        world.written(true);
        world
    }

    fn observe(&mut self, scope: usize, what: What) {
        if let What::Listed(pod) = &what
            && let Some((version, due)) = self.due.remove(pod.id.uid())
            && version == pod.version.0
        {
            self.owed.extend(due);
        }
        assert!(self.core.observe(PodEvent { scope: Scope(scope), what }).is_continue());
    }

    /// A new process, and how its reading begins.
    fn start_process(&mut self) {
        let saved = self.saved.clone().filter(|_| self.has_lease);
        (self.core, self.told) = core(saved, self.has_lease, self.endpoints, SCOPES);
        self.writing = None;
        self.known_to_process.clear();
        let (is_void, is_new) = (self.memory().is_none(), self.is_new(1));
        let remembered = self.memory().into_iter().flat_map(pods).map(|pod| pod.uid().to_owned());
        self.remembered = remembered.collect();
        (self.due, self.owed) = self.memory().map(|memory| self.due(memory)).unwrap_or_default();
        self.is_first_list = self.has_lease && self.memory().is_none_or(|memory| memory.mark.told.is_none());
        let term = self.has_lease.then(|| self.term());
        if let Some(disk) = self.disks.get_mut(self.replica) {
            let (store, commands) = Store::by_hand();
            self.commands = commands;
            self.core.take_up(Directory { store, selection: Digest::of(""), term }, Ok(disk.memory.clone()));
            disk.accepted.retain(|(to, _)| !(is_void || is_new && *to == endpoint(1)));
        }
        self.send_to_disk();
        assert_eq!(self.core.past.since(), self.since());
        for scope in 0..SCOPES {
            self.readings[scope].since = self.since().into();
            self.list(scope);
        }
    }

    /// What is due, by the pods that are known, with the versions in which they are; and of those that are gone.
    fn due(&self, memory: &Memory) -> (OwedOf, Vec<Owed>) {
        let endpoints: Vec<_> = (0..self.endpoints).chain([NAMED]).map(endpoint).collect();
        let known = memory.known.iter().map(|pod| (pod.id.uid().to_owned(), (pod.version.0, vec![])));
        let (mut due, mut of_gone) = (known.collect::<OwedOf>(), vec![]);
        for row in &memory.due {
            let Some(to) = endpoints.iter().find(|to| to.digest() == row.endpoint) else { continue };
            let of_pod = due.get_mut(row.pod.uid()).map_or(&mut of_gone, |(_, due)| due);
            of_pod.push((to.clone(), row.pod.uid().to_owned(), row.version.0));
        }
        (due, of_gone)
    }

    /// Where the watch has to begin at a start.
    fn since(&self) -> Vec<ResourceVersion> {
        match self.memory().and_then(|memory| memory.mark.told.as_ref()) {
            Some(told) => told.iter().copied().min().into_iter().collect(),
            None => self.saved.as_ref().filter(|_| self.has_lease).map(Position::versions).unwrap_or_default(),
        }
    }

    /// The process has the list as of now before it, and then the watch.
    fn list(&mut self, scope: usize) {
        let Cluster { version, forgotten, .. } = self.cluster;
        let there = self.cluster.there(scope).map(|(version, entry)| What::Listed(entry.pod(*version)));
        let mut list: VecDeque<_> =
            [What::ListBegan].into_iter().chain(there).chain([What::ListEnded(ResourceVersion(version))]).collect();
        let reading = &mut self.readings[scope];
        let mut since = reading.since.iter().filter(|since| since.0 < version);
        let begin = *since.find(|since| since.0 >= forgotten).unwrap_or(&ResourceVersion(version));
        for after in reading.since.iter().filter(|since| **since < begin) {
            list.push_back(What::Forgotten { after: *after, until: begin });
        }
        list.push_back(What::Watching(begin));
        reading.list = list;
        reading.read = self.cluster.log.partition_point(|(version, _)| *version <= begin.0);
        let mut excused = vec![];
        for gone in self.cluster.gone_by(scope, begin).filter(|gone| !self.knows(*gone)) {
            excused.extend((0..=NAMED).map(|number| (number, gone.uid())));
        }
        if self.is_new(1) {
            excused.extend(self.cluster.gone_by(scope, ResourceVersion(version)).map(|gone| (1, gone.uid())));
        }
        self.excused.extend(excused);
    }

    fn term(&self) -> Term {
        Term { own: self.transitions.to_string(), before: Some((self.transitions - 1).to_string()) }
    }

    /// What the replica has on disk, unless another one has held the Lease since.
    fn memory(&self) -> Option<&Memory> {
        let memory = self.disks.get(self.replica)?.memory.as_ref()?;
        let Term { own, before } = self.term();
        (!self.has_lease || memory.mark.term == Some(own) || memory.mark.term == before).then_some(memory)
    }

    /// Whether an endpoint was not there before, as far as anybody knows. It gets no delete of a pod that it never had.
    fn is_new(&self, number: usize) -> bool {
        let digest = endpoint(number).digest();
        let saved = self.saved.as_ref().filter(|_| self.has_lease);
        let is_in_position = saved.is_none_or(|saved| saved.of(digest, Origin::Global).is_some());
        !is_in_position || self.memory().is_some_and(|memory| !memory.mark.global.contains(&digest))
    }

    /// Whether the process knows of a pod that is gone, and where its last state goes.
    fn knows(&self, last: Entry) -> bool {
        let pod = last.pod(1);
        let known = self.core.registry.known(&pod.id).map(|known| known.annotation);
        let due = (0..=NAMED).filter_map(|number| self.core.dispatcher.due(&endpoint(number), &pod.id));
        let mut due = due.filter(|due| due.kind == Kind::Deleted).map(|due| due.annotation);
        known.or(due.next()).is_some_and(|annotation| annotation == pod.annotation)
    }

    fn forget(&mut self, scope: usize) {
        self.cluster.forgotten = self.cluster.version;
        let reading = &mut self.readings[scope];
        if reading.list.is_empty() {
            reading.since.clear();
        }
        self.list(scope);
    }

    fn read(&mut self, scope: usize) {
        let reading = &mut self.readings[scope];
        if let Some(what) = reading.list.pop_front() {
            return self.observe(scope, what);
        }
        let Some((version, entry)) = self.cluster.log.get(reading.read).copied() else { return };
        reading.read += 1;
        let pod = entry.pod(version);
        if entry.scope == scope {
            self.observe(scope, if entry.is_deleted { What::Deleted(pod) } else { What::Changed(pod) });
        }
    }

    fn read_all(&mut self, scope: usize) {
        while !self.is_all_read(scope) {
            self.read(scope);
        }
    }

    fn is_all_read(&self, scope: usize) -> bool {
        let reading = &self.readings[scope];
        reading.list.is_empty() && reading.read == self.cluster.log.len()
    }

    fn bookmark(&mut self, scope: usize) {
        if self.is_all_read(scope) {
            self.observe(scope, What::Bookmark(ResourceVersion(self.cluster.version)));
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
        let before = self.accepted.insert((to.clone(), pod.clone()), (version, is_deleted));
        assert!(
            before.is_none_or(|(before, gone)| (before <= version && !gone) || is_deleted),
            "{id} after {before:?}"
        );
        let is_repeated = !self.all.insert((to.clone(), id.clone()));
        let had = self.saved.as_ref().filter(|_| self.has_lease);
        let had = had.and_then(|saved| saved.of(to.digest(), delivery.origin));
        // A delete that only the list shows has the version of the list.
        let version = if is_deleted { self.cluster.gone_at(&pod) } else { version };
        let may_be_repeated = is_deleted && self.remembered.contains(&pod) || had.is_none_or(|had| version > had.0);
        assert!(!is_repeated || may_be_repeated, "{id} again, after {had:?}");
        let disk = self.disks.get(self.replica);
        let is_kept = disk.is_some_and(|disk| disk.accepted.contains(&(to.clone(), id.clone())));
        // Until it has told of a whole list, the watch begins at the saved position, and tells of a delete once more.
        if !(is_deleted && self.is_first_list) {
            self.known_to_process.insert((to.clone(), id.clone()));
        }
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
        let Some((changes, reply, accepted)) = self.writing.take() else { return };
        if is_kept {
            self.disks[self.replica].keep(changes, &accepted);
        }
        reply.send(if is_kept { Ok(Size::default()) } else { Err(Fault::closed()) }).unwrap();
    }

    fn crash(&mut self, is_kept: bool, arrives: bool, Next { endpoints, replica, is_released }: Next) {
        if is_kept {
            self.written(true);
        }
        for attempt in std::mem::take(&mut self.in_flight).iter().filter(|_| arrives) {
            self.accept(&attempt.endpoint, attempt.delivery());
        }
        self.endpoints = endpoints;
        if self.has_lease && (is_released || replica != self.replica) {
            self.transitions += 1;
            self.replica = replica;
        }
        self.start_process();
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Change { pod, is_annotated } => self.cluster.change(pod, is_annotated),
            Step::Delete { pod } => self.cluster.delete(pod),
            Step::Read { scope, events } => (0..events).for_each(|_| self.read(scope)),
            Step::Bookmark { scope } => self.bookmark(scope),
            Step::Start => self.start(),
            Step::Settle { which, accepted } => self.settle(which, accepted),
            Step::Save { lease } => self.save(lease),
            Step::Disk { is_kept } => self.written(is_kept),
            // A watch goes on where it was.
            Step::Break { scope } if self.readings[scope].list.is_empty() => {}
            Step::Break { scope } => self.list(scope),
            Step::Forget { scope } => self.forget(scope),
            Step::Crash { is_kept, arrives, next } => self.crash(is_kept, arrives, next),
        }
    }

    /// Everything is read, and every endpoint is well.
    fn finish(&mut self) {
        (0..SCOPES).for_each(|scope| self.read_all(scope));
        for _ in 0..1000 {
            self.start();
            self.settle(0, true);
        }
        assert!(self.core.dispatcher.is_idle());
        (0..SCOPES).for_each(|scope| self.bookmark(scope));
    }

    fn check(&self) {
        let last: BTreeMap<_, _> = self.cluster.log.iter().map(|(at, entry)| (entry.uid(), (*at, *entry))).collect();
        for (pod, (version, last)) in last {
            let endpoints = if last.is_annotated { NAMED..NAMED + 1 } else { 0..self.endpoints };
            for number in endpoints.filter(|number| !self.excused.contains(&(*number, pod.clone()))) {
                assert!(self.has(number, &pod, version, last), "of {pod}, {number} not {version}: {:?}", self.accepted);
            }
        }
        for (to, pod, version) in &self.owed {
            let accepted = self.accepted.get(&(to.clone(), pod.clone()));
            assert!(accepted.is_some_and(|(had, _)| had >= version), "of {pod}, {to} not {version}, which was kept");
        }
    }

    /// The next start has nothing to send, and knows everything that there is.
    fn check_what_is_kept(&self) {
        let version = ResourceVersion(self.cluster.version);
        if self.has_lease {
            let saved = self.saved.as_ref().expect("a position");
            assert_eq!(saved.versions(), [version]);
            assert!((0..self.endpoints).all(|number| saved.of(endpoint(number).digest(), Origin::Global).is_some()));
        }
        if let Some(disk) = self.disks.get(self.replica) {
            let Memory { mark, known, due } = disk.memory.as_ref().expect("it was written");
            let known: BTreeMap<_, _> =
                known.iter().map(|known| (known.id.uid().to_owned(), known.version.0)).collect();
            let there = (0..SCOPES).flat_map(|scope| self.cluster.there(scope));
            assert_eq!(known, there.map(|(version, entry)| (entry.uid(), *version)).collect());
            assert_eq!((due.len(), &mark.told), (0, &Some(vec![version; SCOPES])));
        }
    }

    /// Whether an endpoint has had the last state of a pod.
    fn has(&self, number: usize, pod: &str, version: u64, last: Entry) -> bool {
        let accepted = self.accepted.get(&(endpoint(number), pod.to_owned()));
        accepted.is_some_and(|(had, gone)| if last.is_deleted { *gone } else { *had == version })
    }
}

pub(super) fn core(
    found: Option<Position>,
    has_lease: bool,
    endpoints: usize,
    scopes: usize,
) -> (Core, watch::Receiver<Option<Position>>) {
    let (told, positions) = watch::channel(None);
    let router = Router::new((0..endpoints).map(endpoint).collect(), BTreeMap::new());
    let record = Record { selection: Digest::of(""), found, told };
    let shared = Shared::new(Instant::now());
    let limits = Limits { concurrency: 2, queue_bytes: 1 << 20, give_up_after: Duration::from_hours(1) };
    let core = Core::new(router, has_lease.then_some(record), limits, scopes, Fence::open(), shared);
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
        // One may be under way, one may be the next after a failure.
        for _ in 0..3 {
            world.written(true);
            world.save(true);
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        world.check_what_is_kept();
    });
}

proptest! {
    #[test]
    fn no_crash_loses_a_last_state_with_a_lease(steps in prop::collection::vec(step(), 0..200)) {
        no_last_state_is_lost(true, false, steps);
    }

    #[test]
    fn no_crash_loses_a_last_state_with_a_state_directory(steps in prop::collection::vec(step(), 0..200)) {
        no_last_state_is_lost(false, true, steps);
    }

    #[test]
    fn no_crash_loses_a_last_state_with_both(steps in prop::collection::vec(step(), 0..200)) {
        no_last_state_is_lost(true, true, steps);
    }
}
