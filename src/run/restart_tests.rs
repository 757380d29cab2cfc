//! A crash at any point: no last state is lost, no older one follows a newer one, and only what is newer than the
//! recorded position is sent again.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use proptest::prelude::*;
use tokio::sync::watch;

use super::*;
use crate::{
    digest::Digest, endpoint::Endpoint, pod::ResourceVersion, position::Position, route::Origin, source::Scope,
};

const PODS: usize = 5;

fn endpoint(number: usize) -> Endpoint {
    format!("http://host-{number}/").parse().unwrap()
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Change { pod: usize },
    Delete { pod: usize },
    Read,
    Bookmark,
    Start,
    Settle { which: usize, accepted: bool },
    Save,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..PODS).prop_map(|pod| Step::Change { pod }),
        2 => (0..PODS).prop_map(|pod| Step::Delete { pod }),
        6 => Just(Step::Read),
        1 => Just(Step::Bookmark),
        6 => Just(Step::Start),
        6 => (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(which, accepted)| Step::Settle { which, accepted }),
        3 => Just(Step::Save),
        1 => Just(Step::Crash),
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

/// A process, which may crash, and what survives it: the saved position, and what the receivers have accepted.
struct World {
    cluster: Cluster,
    core: Core,
    told: watch::Receiver<Option<Position>>,
    /// How many entries of the log the process has read.
    read: usize,
    in_flight: Vec<Attempt>,
    now: Instant,
    saved: Option<Position>,
    accepted: BTreeMap<(Endpoint, String), u64>,
    all: BTreeSet<(Endpoint, String, u64)>,
}

impl World {
    fn new() -> Self {
        let (core, told) = core(None);
        let mut world = Self {
            cluster: Cluster::default(),
            core,
            told,
            read: 0,
            in_flight: vec![],
            now: Instant::now(),
            saved: None,
            accepted: BTreeMap::new(),
            all: BTreeSet::new(),
        };
        world.list();
        // What happens before the first position is saved, and a crash takes, nobody can know.
        world.save();
        world
    }

    fn observe(&mut self, what: What) {
        assert!(self.core.observe(PodEvent { scope: Scope(0), what }).is_continue());
    }

    /// The list, and a watch from the recorded position on.
    fn list(&mut self) {
        let listed = self.cluster.version;
        self.observe(What::ListBegan);
        for (incarnation, version) in self.cluster.there.clone().into_values() {
            self.observe(What::Listed(pod(incarnation, version)));
        }
        self.observe(What::ListEnded(ResourceVersion(listed)));
        let since = self.saved.as_ref().map_or(listed, |saved| saved.versions()[0].0);
        self.observe(What::Watching(ResourceVersion(since)));
        self.read = self.cluster.log.partition_point(|(version, _)| *version <= since);
    }

    fn read(&mut self) {
        let Some((version, Entry { incarnation, deleted })) = self.cluster.log.get(self.read).copied() else { return };
        self.read += 1;
        let pod = pod(incarnation, version);
        self.observe(if deleted { What::Deleted(pod) } else { What::Changed(pod) });
    }

    fn bookmark(&mut self) {
        if self.read == self.cluster.log.len() {
            self.observe(What::Bookmark(ResourceVersion(self.cluster.version)));
        }
    }

    fn settle(&mut self, which: usize, accepted: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let attempt = self.in_flight.swap_remove(which % self.in_flight.len());
        let (to, delivery) = (attempt.endpoint.clone(), attempt.delivery());
        let (pod, version) = (delivery.pod.uid().to_owned(), delivery.version.0);
        if accepted {
            let before = self.accepted.insert((to.clone(), pod.clone()), version);
            assert!(before.is_none_or(|before| before <= version), "{pod}: {version} after {before:?}");
            let is_repeated = !self.all.insert((to.clone(), pod.clone(), version));
            let had = self.saved.as_ref().and_then(|saved| saved.of(to.digest(), Origin::Global));
            assert!(!is_repeated || had.is_none_or(|had| version > had.0), "{pod} {version} again, after {had:?}");
        }
        let status = if accepted { StatusCode::NO_CONTENT } else { StatusCode::BAD_GATEWAY };
        let end = End::Posted(Outcome::Answered { status, retry_after: None });
        self.core.dispatcher.settle(attempt, &end, Duration::ZERO, self.now, 0.5);
    }

    fn start(&mut self) {
        self.in_flight.extend(self.core.dispatcher.next(self.now));
    }

    fn save(&mut self) {
        self.core.tell();
        if let Some(position) = self.told.borrow().clone() {
            self.saved = Some(position);
        }
    }

    fn crash(&mut self) {
        self.in_flight.clear();
        (self.core, self.told) = core(self.saved.clone());
        self.list();
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Change { pod } => self.cluster.change(pod),
            Step::Delete { pod } => self.cluster.delete(pod),
            Step::Read => self.read(),
            Step::Bookmark => self.bookmark(),
            Step::Start => self.start(),
            Step::Settle { which, accepted } => self.settle(which, accepted),
            Step::Save => self.save(),
            Step::Crash => self.crash(),
        }
    }

    /// Everything is read, and every endpoint is well.
    fn finish(&mut self) {
        while self.read < self.cluster.log.len() {
            self.read();
        }
        for _ in 0..1000 {
            self.start();
            self.settle(0, true);
            if self.in_flight.is_empty() {
                let Some(start) = self.core.dispatcher.next_start() else { break };
                self.now = self.now.max(start);
            }
        }
        assert!(self.core.dispatcher.is_idle());
    }

    fn check(&self) {
        let mut last = BTreeMap::new();
        for (version, Entry { incarnation, .. }) in &self.cluster.log {
            last.insert(incarnation.to_string(), *version);
        }
        for number in 0..2 {
            for (pod, version) in &last {
                let accepted = self.accepted.get(&(endpoint(number), pod.clone()));
                assert_eq!(accepted, Some(version), "the last state of {pod} at {number}");
            }
        }
    }
}

fn core(found: Option<Position>) -> (Core, watch::Receiver<Option<Position>>) {
    let (told, positions) = watch::channel(None);
    let router = Router::new(vec![endpoint(0), endpoint(1)], BTreeMap::new());
    let record = Record { selection: Digest::of(""), found, told };
    let shared = Shared::new(Instant::now());
    let limits = Limits { concurrency: 2, queue_bytes: 1 << 20, give_up_after: Duration::from_hours(1) };
    let core = Core {
        past: Past::new(Some(record), router.global()),
        registry: Registry::new(router),
        dispatcher: Dispatcher::new(limits, shared.metrics.clone()),
        shared,
        fence: Fence::open(),
        scopes: 1,
    };
    (core, positions)
}

proptest! {
    #[test]
    fn no_crash_loses_a_last_state(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        world.finish();
        world.check();
    }
}
