use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{
    pod::{PodId, ResourceVersion},
    registry::Kind,
    sink::Outcome,
    source::GetError,
};

const LIMITS: Limits = Limits { concurrency: 4, queue_bytes: 300, give_up_after: Duration::from_hours(1) };

fn dispatcher(limits: Limits) -> Dispatcher {
    Dispatcher::new(limits, Metrics::default())
}

fn endpoint(number: usize) -> Endpoint {
    format!("http://host-{number}/").parse().unwrap()
}

fn delivery(pod: usize, version: u64, kind: Kind) -> Delivery {
    Delivery {
        pod: PodId::new(&format!("uid-{pod}"), "s", &format!("pod-{pod}")),
        version: ResourceVersion(version),
        since: ResourceVersion(version).before(),
        kind,
        read_at: Timestamp::UNIX_EPOCH,
        origin: Origin::Global,
        annotation: None,
        env: "{}".into(),
        body: Some(Bytes::from_static(&[b'x'; 100])),
    }
}

fn answered(status: u16) -> End {
    End::Posted(Outcome::Answered { status: StatusCode::from_u16(status).unwrap(), retry_after: None })
}

fn settle(dispatcher: &mut Dispatcher, attempt: Attempt, end: &End, now: Instant) {
    dispatcher.settle(attempt, end, Duration::from_millis(1), now, 0.5);
}

fn told(attempt: &Attempt) -> (String, u64, Kind) {
    let delivery = attempt.delivery();
    (delivery.pod.name().to_owned(), delivery.version.0, delivery.kind)
}

#[test]
fn a_newer_state_replaces_one_that_waits_and_the_last_one_is_sent() {
    let (mut d, now) = (dispatcher(LIMITS), Instant::now());
    d.offer(&endpoint(0), delivery(0, 1, Kind::Added), now);
    let first = d.next(now).unwrap();
    for version in 2..=9 {
        d.offer(&endpoint(0), delivery(0, version, Kind::Updated), now);
    }
    d.offer(&endpoint(0), delivery(0, 10, Kind::Deleted), now);
    assert!(d.next(now).is_none(), "one pod is never in flight twice");
    settle(&mut d, first, &answered(204), now);
    assert_eq!(told(&d.next(now).unwrap()), ("pod-0".to_owned(), 10, Kind::Deleted));
}

#[test]
fn a_pod_stays_added_until_an_endpoint_has_accepted_a_state_of_it() {
    let (mut d, now) = (dispatcher(LIMITS), Instant::now());
    d.offer(&endpoint(0), delivery(0, 1, Kind::Added), now);
    let first = d.next(now).unwrap();
    d.offer(&endpoint(0), delivery(0, 2, Kind::Updated), now);
    settle(&mut d, first, &answered(500), now);
    let later = d.next_start().unwrap();
    let second = d.next(later).unwrap();
    assert_eq!(told(&second), ("pod-0".to_owned(), 2, Kind::Added));
    d.offer(&endpoint(0), delivery(0, 3, Kind::Updated), later);
    settle(&mut d, second, &answered(204), later);
    assert_eq!(told(&d.next(later).unwrap()), ("pod-0".to_owned(), 3, Kind::Updated));
}

#[test]
fn up_to_the_concurrency_is_in_flight_and_never_more() {
    let (mut d, now) = (dispatcher(LIMITS), Instant::now());
    for pod in 0..10 {
        d.offer(&endpoint(0), delivery(pod, 1, Kind::Added), now);
    }
    let attempts: Vec<_> = std::iter::from_fn(|| d.next(now)).collect();
    assert_eq!(attempts.len(), 4);
    assert_eq!(told(&attempts[3]).0, "pod-3", "who came first is first");
}

#[test]
fn an_endpoint_that_is_down_is_probed_and_its_neighbour_is_not_delayed() {
    let (mut d, now) = (dispatcher(LIMITS), Instant::now());
    let (down, healthy) = (endpoint(0), endpoint(1));
    for pod in 0..8 {
        d.offer(&down, delivery(pod, 1, Kind::Added), now);
        d.offer(&healthy, delivery(pod, 1, Kind::Added), now);
    }
    let (mut probes, mut delivered, mut clock) = (0, 0, now);
    while clock < now + Duration::from_mins(10) {
        while let Some(attempt) = d.next(clock) {
            if attempt.endpoint == healthy {
                delivered += 1;
                assert_eq!(clock, now);
                settle(&mut d, attempt, &answered(204), clock);
            } else {
                probes += 1;
                settle(&mut d, attempt, &End::Posted(Outcome::TimedOut), clock);
            }
        }
        clock = d.next_start().unwrap();
    }
    assert_eq!(delivered, 8);
    assert!((15..=25).contains(&probes), "{probes} probes in ten minutes for eight pods");
}

#[test]
fn when_an_endpoint_is_back_everything_that_waits_is_due() {
    let (mut d, mut now) = (dispatcher(LIMITS), Instant::now());
    for pod in 0..4 {
        d.offer(&endpoint(0), delivery(pod, 1, Kind::Added), now);
    }
    for _ in 0..12 {
        while let Some(attempt) = d.next(now) {
            settle(&mut d, attempt, &answered(503), now);
        }
        now = d.next_start().unwrap();
    }
    let probe = d.next(now).unwrap();
    assert!(d.next(now).is_none());
    settle(&mut d, probe, &answered(200), now);
    assert_eq!(std::iter::from_fn(|| d.next(now)).count(), 3);
}

#[test]
fn one_pod_that_an_endpoint_dislikes_does_not_hold_up_the_others() {
    let (mut d, mut now) = (dispatcher(LIMITS), Instant::now());
    let mut accepted = 0;
    for pod in 0..50 {
        d.offer(&endpoint(0), delivery(pod, 1, Kind::Added), now);
    }
    for _ in 0..20 {
        while let Some(attempt) = d.next(now) {
            let end = if attempt.delivery().pod.name() == "pod-0" { answered(413) } else { answered(204) };
            accepted += usize::from(end.verdict() == Verdict::Accepted);
            settle(&mut d, attempt, &end, now);
        }
        now = d.next_start().unwrap();
    }
    assert_eq!(accepted, 49);
    assert_eq!(d.left().map(|(_, left)| left).sum::<usize>(), 1);
}

#[test]
fn past_the_ceiling_bodies_are_given_up_and_nothing_else() {
    let (mut d, now) = (dispatcher(LIMITS), Instant::now());
    for pod in 0..20 {
        d.offer(&endpoint(0), delivery(pod, 1, Kind::Added), now);
        assert!(d.queue_bytes() <= LIMITS.queue_bytes);
    }
    let mut bodies = 0;
    while let Some(attempt) = d.next(now) {
        bodies += usize::from(attempt.delivery().body.is_some());
        settle(&mut d, attempt, &answered(204), now);
    }
    assert_eq!(bodies, 3);
    assert!(d.is_idle());
    assert_eq!(d.queue_bytes(), 0);
}

#[test]
fn what_could_not_be_read_again_is_no_fault_of_the_endpoint() {
    let (mut d, mut now) = (dispatcher(LIMITS), Instant::now());
    d.offer(&endpoint(0), delivery(0, 1, Kind::Added), now);
    for _ in 0..10 {
        let attempt = d.next(now).unwrap();
        settle(&mut d, attempt, &End::Unread(GetError("down".into())), now);
        now = d.next_start().unwrap();
    }
    d.offer(&endpoint(0), delivery(1, 1, Kind::Added), now);
    assert_eq!(std::iter::from_fn(|| d.next(now)).count(), 2, "the gate is open");
}

#[test]
fn what_waits_for_too_long_is_given_up_a_moment_after_the_limit_and_not_before() {
    let (mut d, now) = (dispatcher(LIMITS), Instant::now());
    d.offer(&endpoint(0), delivery(0, 1, Kind::Added), now);
    let attempt = d.next(now).unwrap();
    d.give_up(now + 2 * LIMITS.give_up_after);
    settle(&mut d, attempt, &answered(500), now);
    d.give_up(now + LIMITS.give_up_after - Duration::from_millis(1));
    assert!(!d.is_idle());
    d.give_up(now + LIMITS.give_up_after);
    assert!(d.is_idle());
    assert!(d.next(now + LIMITS.give_up_after).is_none());
}

#[test]
fn an_endpoint_of_an_annotation_is_forgotten_when_nothing_waits_for_it() {
    let (mut d, now) = (dispatcher(LIMITS), Instant::now());
    for number in 0..1000 {
        d.offer(&endpoint(number), Delivery { origin: Origin::Annotation, ..delivery(0, 1, Kind::Added) }, now);
        let attempt = d.next(now).unwrap();
        settle(&mut d, attempt, &answered(204), now);
    }
    assert!(d.queues.is_empty() && d.starts.is_empty());
}

/// What may happen to a dispatcher.
#[derive(Debug, Clone)]
enum Step {
    Offer { endpoint: usize, pod: usize },
    Delete { endpoint: usize, pod: usize },
    Start,
    Settle { which: usize, end: u8 },
    Pass { millis: u64 },
    GiveUp,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..6usize).prop_map(|(endpoint, pod)| Step::Offer { endpoint, pod }),
        1 => (0..3usize, 0..6usize).prop_map(|(endpoint, pod)| Step::Delete { endpoint, pod }),
        4 => Just(Step::Start),
        4 => (any::<usize>(), 0..5u8).prop_map(|(which, end)| Step::Settle { which, end }),
        2 => (0..5000u64).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::GiveUp),
    ]
}

/// A dispatcher, and what a receiver would see of it.
struct World {
    dispatcher: Dispatcher,
    metrics: Metrics,
    now: Instant,
    version: u64,
    in_flight: Vec<Attempt>,
    offered: BTreeMap<(Endpoint, String), u64>,
    accepted: HashMap<(Endpoint, String), u64>,
}

impl World {
    fn offer(&mut self, number: usize, pod: usize, kind: Kind) {
        self.version += 1;
        let delivery = delivery(pod, self.version, kind);
        self.offered.insert((endpoint(number), delivery.pod.name().to_owned()), self.version);
        self.dispatcher.offer(&endpoint(number), delivery, self.now);
    }

    fn start(&mut self) {
        let Some(attempt) = self.dispatcher.next(self.now) else { return };
        let twice = |other: &Attempt| (&other.endpoint, told(other).0) == (&attempt.endpoint, told(&attempt).0);
        assert!(!self.in_flight.iter().any(twice), "in flight twice: {attempt:?}");
        self.in_flight.push(attempt);
        for number in 0..3 {
            let to = endpoint(number);
            assert!(self.in_flight.iter().filter(|attempt| attempt.endpoint == to).count() <= LIMITS.concurrency);
        }
    }

    fn settle(&mut self, which: usize, end: &End) {
        if self.in_flight.is_empty() {
            return;
        }
        let attempt = self.in_flight.swap_remove(which % self.in_flight.len());
        let (pod, version, _) = told(&attempt);
        if end.verdict() == Verdict::Accepted {
            let before = self.accepted.insert((attempt.endpoint.clone(), pod), version);
            assert!(before.is_none_or(|before| before < version), "an older state after a newer one");
        }
        self.dispatcher.settle(attempt, end, Duration::ZERO, self.now, 0.5);
    }

    /// Whoever starts again from the position of an endpoint is told every last state that it has not accepted.
    fn check_position(&self) {
        let behind: BTreeMap<_, _> = self.dispatcher.behind().collect();
        for ((endpoint, pod), version) in &self.offered {
            let has = self.accepted.get(&(endpoint.clone(), pod.clone())) == Some(version);
            let ended = behind.get(endpoint).map_or(self.version, |ended| ended.0);
            assert!(has || *version > ended, "{pod} {version} would be lost after {ended}");
        }
    }

    fn check(&self) {
        self.check_position();
        assert!(self.dispatcher.queue_bytes() <= LIMITS.queue_bytes);
        for number in 0..3 {
            let series = self.metrics.series(&endpoint(number), Origin::Global);
            assert!(series.sum_holds(), "{number}: {:?}", self.metrics.text());
        }
    }

    fn end(which: u8) -> End {
        match which {
            0 => answered(204),
            1 => answered(500),
            2 => End::Posted(Outcome::TimedOut),
            3 => End::Superseded,
            _ => End::Posted(Outcome::Answered {
                status: StatusCode::TOO_MANY_REQUESTS,
                retry_after: Some(Duration::from_secs(2)),
            }),
        }
    }
}

proptest! {
    /// For any interleaving: order, coalescing, the sum of the counters, the ceiling; and when the endpoints are well
    /// again, the last state of everything arrives.
    #[test]
    fn each_pods_last_state_arrives_in_order_whatever_happens(steps in prop::collection::vec(step(), 0..200)) {
        let metrics = Metrics::default();
        let mut world = World {
            dispatcher: Dispatcher::new(LIMITS, metrics.clone()), metrics, now: Instant::now(), version: 0,
            in_flight: vec![], offered: BTreeMap::new(), accepted: HashMap::new(),
        };
        for step in steps {
            match step {
                Step::Offer { endpoint, pod } => world.offer(endpoint, pod, Kind::Updated),
                Step::Delete { endpoint, pod } => world.offer(endpoint, pod, Kind::Deleted),
                Step::Start => world.start(),
                Step::Settle { which, end } => world.settle(which, &World::end(end)),
                Step::Pass { millis } => world.now += Duration::from_millis(millis),
                // An hour is never reached here: nothing may be given up.
                Step::GiveUp => assert!(world.dispatcher.give_up(world.now).is_empty()),
            }
            world.check();
        }
        for _ in 0..2000 {
            world.settle(0, &answered(204));
            world.start();
            if world.in_flight.is_empty() {
                let Some(start) = world.dispatcher.next_start() else { break };
                world.now = world.now.max(start);
            }
        }
        world.check();
        prop_assert!(world.dispatcher.is_idle());
        prop_assert_eq!(world.dispatcher.queue_bytes(), 0);
        for (key, version) in &world.offered {
            prop_assert_eq!(world.accepted.get(key), Some(version), "{:?}", key);
        }
    }
}
