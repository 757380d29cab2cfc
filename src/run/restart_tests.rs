//! A crash at any point: no last state is lost, no older one follows a newer one, and nothing is sent again that was
//! accepted before the position was saved, or the state directory written.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::mpsc,
};

use http::StatusCode;
use proptest::prelude::*;
use tokio::sync::{oneshot, watch};

use super::{journal::Journal, *};
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
    store::{Changes, Command, Due, Fault, Kept, Known, Mark, Memory, Size, Store},
    verdict::End,
};

const PODS: usize = 5;

fn endpoint(number: usize) -> Endpoint {
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
    /// If something is on its way to the disk, it may still come there.
    Crash {
        is_forgotten: bool,
        is_kept: bool,
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
        1 => (prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(is_forgotten, is_kept)| Step::Crash { is_forgotten, is_kept }),
    ]
}

/// What the API server knows: every state that ever was, and which pods are there.
#[derive(Default)]
struct Cluster {
    log: Vec<(u64, Entry)>,
    there: BTreeMap<usize, (usize, u64)>,
    version: u64,
    incarnations: usize,
}

/// What an entry of the log tells.
#[derive(Debug, Clone, Copy)]
struct Entry {
    incarnation: usize,
    deleted: bool,
}

impl Cluster {
    fn change(&mut self, pod: usize) {
        self.version += 1;
        let incarnations = &mut self.incarnations;
        let (incarnation, version) = self.there.entry(pod).or_insert_with(|| {
            *incarnations += 1;
            (*incarnations, 0)
        });
        *version = self.version;
        self.log.push((self.version, Entry { incarnation: *incarnation, deleted: false }));
    }

    fn delete(&mut self, pod: usize) {
        let Some((incarnation, _)) = self.there.remove(&pod) else { return };
        self.version += 1;
        self.log.push((self.version, Entry { incarnation, deleted: true }));
    }
}

fn pod(incarnation: usize, version: u64) -> Pod {
    let json =
        format!(r#"{{"metadata":{{"name":"p","namespace":"s","uid":"{incarnation}","resourceVersion":"{version}"}}}}"#);
    Pod::read(json.as_bytes()).unwrap()
}

/// States that were accepted, by endpoint and id.
type Accepted = BTreeSet<(Endpoint, String)>;

/// What is on disk.
#[derive(Default)]
struct Disk {
    memory: Option<Memory>,
    /// What it knows was accepted.
    accepted: Accepted,
}

impl Disk {
    fn keep(&mut self, changes: Changes, accepted: &Accepted) {
        let before = self.memory.take().filter(|_| !changes.anew);
        let (known, due) = before.map_or((vec![], vec![]), |memory| (memory.known, memory.due));
        let mut known: BTreeMap<_, Known> = known.into_iter().map(|row| (row.id.uid().to_owned(), row)).collect();
        let mut due: BTreeMap<_, Due> =
            due.into_iter().map(|row| ((row.pod.uid().to_owned(), row.endpoint), row)).collect();
        for (pod, row) in changes.known {
            known.remove(pod.uid());
            known.extend(row.map(|row| (pod.uid().to_owned(), row)));
        }
        for (pod, endpoint, row) in changes.due {
            let key = (pod.uid().to_owned(), endpoint);
            due.remove(&key);
            due.extend(row.map(|row| (key, row)));
        }
        let memory =
            Memory { mark: changes.mark, known: known.into_values().collect(), due: due.into_values().collect() };
        self.memory = Some(memory);
        self.accepted.extend(accepted.iter().cloned());
    }

    fn knows(&self, pod: &str) -> bool {
        let Some(Memory { known, due, .. }) = &self.memory else { return false };
        known.iter().any(|known| known.id.uid() == pod) || due.iter().any(|due| due.pod.uid() == pod)
    }
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
    /// Pods of which nobody can know any more that they ever were.
    excused: BTreeSet<String>,
}

impl World {
    fn new(has_lease: bool, has_disk: bool) -> Self {
        let (core, told) = core(None, has_lease);
        let mut world = Self {
            cluster: Cluster { version: 1, ..Cluster::default() },
            core,
            told,
            commands: Store::by_hand().1,
            writing: None,
            list: VecDeque::new(),
            read: 0,
            in_flight: vec![],
            has_lease,
            saved: None,
            disk: has_disk.then(Disk::default),
            accepted: BTreeMap::new(),
            all: BTreeSet::new(),
            known_to_process: BTreeSet::new(),
            excused: BTreeSet::new(),
        };
        world.start_process(false);
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
    fn start_process(&mut self, is_forgotten: bool) {
        (self.core, self.told) = core(self.saved.clone().filter(|_| self.has_lease), self.has_lease);
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
        let since = self.core.past.since().first().map_or(self.cluster.version, |since| since.0);
        if is_forgotten {
            let gone = self.cluster.log.iter().map(|(_, entry)| entry.incarnation.to_string());
            let there: BTreeSet<_> = self.cluster.there.values().map(|(pod, _)| pod.to_string()).collect();
            let is_unknown = |pod: &String| !self.disk.as_ref().is_some_and(|disk| disk.knows(pod));
            self.excused.extend(gone.filter(|pod| !there.contains(pod)).filter(is_unknown));
        }
        self.list(if is_forgotten { self.cluster.version } else { since });
    }

    /// The process has the list as of now before it, and then the watch.
    fn list(&mut self, since: u64) {
        let there = self.cluster.there.values().map(|(incarnation, version)| What::Listed(pod(*incarnation, *version)));
        let ended = [What::ListEnded(ResourceVersion(self.cluster.version)), What::Watching(ResourceVersion(since))];
        self.list = [What::ListBegan].into_iter().chain(there).chain(ended).collect();
        self.read = self.cluster.log.partition_point(|(version, _)| *version <= since);
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

    fn crash(&mut self, is_forgotten: bool, is_kept: bool) {
        if is_kept {
            self.written(true);
        }
        self.in_flight.clear();
        self.start_process(is_forgotten);
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
            Step::Crash { is_forgotten, is_kept } => self.crash(is_forgotten && self.disk.is_some(), is_kept),
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
        for (pod, (version, is_deleted)) in last.iter().filter(|(pod, _)| !self.excused.contains(*pod)) {
            for number in 0..2 {
                let accepted = self.accepted.get(&(endpoint(number), pod.clone()));
                let is_last = accepted.is_some_and(|(had, gone)| if *is_deleted { *gone } else { had == version });
                assert!(is_last, "of {pod}, {number} had {accepted:?} and not {version}");
            }
        }
    }
}

fn core(found: Option<Position>, has_lease: bool) -> (Core, watch::Receiver<Option<Position>>) {
    let (told, positions) = watch::channel(None);
    let router = Router::new(vec![endpoint(0), endpoint(1)], BTreeMap::new());
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

/// Otherwise a crash before the list would have it miss every pod that does not change.
#[test]
fn an_endpoint_counts_as_introduced_when_the_list_has_told_of_every_pod() {
    let known =
        |number| Known { id: pod(number, 5).id, version: ResourceVersion(5), scope: Scope(0), annotation: None };
    let (old, new) = (endpoint(0).digest(), endpoint(1).digest());
    let mark = Mark { selection: Digest::of(""), term: None, told: Some(vec![ResourceVersion(5)]), global: vec![old] };
    let memory = Memory { mark, known: vec![known(1), known(2)], due: vec![] };
    let (mut core, _told) = core(None, false);
    let (store, commands) = Store::by_hand();
    core.take_up(Directory { store, selection: Digest::of(""), term: None }, Ok(Some(memory)));
    let keep = |core: &mut Core| {
        core.keep();
        let Ok(Command::Keep(changes, reply)) = commands.try_recv() else { panic!("nothing is written") };
        reply.send(Ok(Size::default())).unwrap();
        (
            changes.mark.global,
            changes.due.into_iter().map(|(pod, to, _)| (pod.uid().to_owned(), to)).collect::<Vec<_>>(),
        )
    };
    assert_eq!(keep(&mut core), (vec![old], vec![]));
    for what in [What::ListBegan, What::Listed(pod(1, 5))] {
        assert!(core.observe(PodEvent { scope: Scope(0), what }).is_continue());
    }
    assert_eq!(keep(&mut core), (vec![old], vec![("1".to_owned(), new)]));
    // The other one is gone, which the watch tells.
    for what in [What::ListEnded(ResourceVersion(9)), What::Watching(ResourceVersion(9))] {
        assert!(core.observe(PodEvent { scope: Scope(0), what }).is_continue());
    }
    assert_eq!(keep(&mut core).0, [old, new]);
}

/// Each of these pods is gone soon after it came; that it is gone would have to be written of each.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_takes_no_more_memory_than_what_there_is() {
    let (mut core, _told) = core(None, false);
    let (store, commands) = Store::by_hand();
    core.take_up(Directory { store, selection: Digest::of(""), term: None }, Ok(None));
    let keep = |core: &mut Core| {
        core.keep();
        let Ok(Command::Keep(changes, reply)) = commands.try_recv() else { return None };
        reply.send(Err(Fault::closed())).unwrap();
        Some(changes)
    };
    let accepted = End::Posted(Outcome::Answered { status: StatusCode::NO_CONTENT, retry_after: None });
    for number in 1..20_000 {
        let version = 2 * u64::try_from(number).unwrap();
        for what in [What::Changed(pod(number, version)), What::Deleted(pod(number, version + 1))] {
            assert!(core.observe(PodEvent { scope: Scope(0), what }).is_continue());
        }
        while let Some(attempt) = core.dispatcher.next(Instant::now()) {
            core.settle(attempt, &accepted, Duration::ZERO);
        }
        if number % 100 == 0 {
            keep(&mut core);
        }
    }
    tokio::time::advance(Duration::from_secs(6)).await;
    let changes = keep(&mut core).expect("it is tried again");
    assert!(changes.anew, "what is there now takes the place of all that was");
    assert!(changes.known.len() + changes.due.len() < 15_000, "{} {}", changes.known.len(), changes.due.len());
}

#[test]
fn a_directory_holds_as_long_as_nobody_else_has_had_the_lease() {
    let term = |own: &str, before: Option<&str>| Term { own: own.to_owned(), before: before.map(ToOwned::to_owned) };
    let holds = |kept: Option<&str>, term: Option<Term>, has_position: bool| {
        let mark = Mark { selection: Digest::of(""), term: kept.map(ToOwned::to_owned), told: None, global: vec![] };
        let directory = Directory { store: Store::by_hand().0, selection: Digest::of(""), term };
        let memory = Memory { mark, known: vec![], due: vec![] };
        Journal::open(directory, Ok(Some(memory)), has_position, &Metrics::default()).1.is_some()
    };
    assert!(holds(Some("u/5"), Some(term("u/5", Some("u/4"))), true), "the same replica after a crash");
    assert!(holds(Some("u/4"), Some(term("u/5", Some("u/4"))), true), "the same replica, or its heir, after a release");
    assert!(!holds(Some("u/3"), Some(term("u/5", Some("u/4"))), true), "somebody had it in between");
    assert!(!holds(Some("u/4"), Some(term("v/0", None)), true), "another Lease");
    assert!(holds(Some("u/3"), Some(term("u/5", Some("u/4"))), false), "nothing is newer");
    assert!(holds(Some("u/3"), None, false), "there is no Lease any more");
}

/// It is found out while what was written at the start is still on its way, and that write is not the one which empties
/// the directory.
#[tokio::test(start_paused = true)]
async fn the_directory_of_a_cluster_that_turns_out_to_be_an_older_one_is_emptied() {
    for first in [Ok(Size::default()), Err(Fault::closed())] {
        let known = Known { id: pod(1, 50).id, version: ResourceVersion(50), scope: Scope(0), annotation: None };
        let told = Some(vec![ResourceVersion(50)]);
        let mark = Mark { selection: Digest::of(""), term: None, told, global: vec![endpoint(0).digest()] };
        let (mut core, _told) = core(None, false);
        let (store, commands) = Store::by_hand();
        let memory = Memory { mark, known: vec![known], due: vec![] };
        core.take_up(Directory { store, selection: Digest::of(""), term: None }, Ok(Some(memory)));
        let Ok(Command::Keep(changes, reply)) = commands.try_recv() else { panic!("nothing is written") };
        assert!(!changes.anew);
        let list = |core: &mut Core| {
            core.observe(PodEvent { scope: Scope(0), what: What::ListBegan }).is_break()
                || core.observe(PodEvent { scope: Scope(0), what: What::Listed(pod(2, 5)) }).is_break()
                || core.observe(PodEvent { scope: Scope(0), what: What::ListEnded(ResourceVersion(9)) }).is_break()
        };
        assert!(list(&mut core));
        reply.send(first).unwrap();
        assert!(!list(&mut core));
        core.keep();
        tokio::time::advance(Duration::from_secs(6)).await;
        core.keep();
        let Ok(Command::Keep(changes, _reply)) = commands.try_recv() else { panic!("nothing is written") };
        let known: Vec<_> = changes.known.iter().map(|(pod, known)| (pod.uid(), known.is_some())).collect();
        assert_eq!((changes.anew, known), (true, vec![("2", true)]));
    }
}
