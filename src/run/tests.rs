use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::*;
use crate::{
    digest::Digest,
    endpoint::Endpoint,
    pod::{Pod, PodId, ResourceVersion},
    position::Position,
    sink::{MockWebhookSink, Outcome},
    source::{MockPodSource, Scope, What},
};

fn pod(name: &str, version: u64) -> Pod {
    let json = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"s","uid":"uid-{name}","resourceVersion":"{version}"}}}}"#
    );
    Pod::read(json.as_bytes()).unwrap()
}

fn annotated(name: &str, url: &str) -> Pod {
    let annotation = format!(r#"{{"webhooks":["{url}"]}}"#);
    Pod { annotation: Some(annotation.into()), ..pod(name, 1) }
}

fn event(what: What) -> PodEvent {
    PodEvent { scope: Scope(0), what }
}

fn list(pods: impl IntoIterator<Item = Pod>) -> Vec<PodEvent> {
    let pods = pods.into_iter().map(What::Listed);
    [What::ListBegan].into_iter().chain(pods).chain([What::ListEnded(ResourceVersion(9))]).map(event).collect()
}

/// A source of these events, and then of none.
fn source(events: Vec<PodEvent>) -> MockPodSource {
    let events = Mutex::new(Some(events));
    let mut source = MockPodSource::new();
    source
        .expect_events()
        .once()
        .returning(move |_| Box::pin(stream::iter(events.lock().unwrap().take().unwrap()).chain(stream::pending())));
    source
}

fn answered(status: u16) -> Outcome {
    Outcome::Answered { status: StatusCode::from_u16(status).unwrap(), retry_after: None }
}

fn plan(urls: &[&str]) -> Plan {
    let urls: Vec<Endpoint> = urls.iter().map(|url| url.parse().unwrap()).collect();
    Plan {
        router: Router::new(urls, BTreeMap::from([("A".to_owned(), "b".to_owned())])),
        requests: RequestBuilder { source: "test".parse().unwrap(), headers: vec![], secrets: vec![] },
        limits: Limits { concurrency: 4, queue_bytes: 1 << 20, give_up_after: Duration::from_hours(24) },
        timeout: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(20),
        scopes: 1,
        fence: Fence::open(),
        record: None,
        directory: None,
    }
}

/// Signals at these times after the start.
fn signals(seconds: &'static [u64]) -> impl Stream<Item = ()> {
    let start = Instant::now();
    let at = move |second: &u64| sleep_until(start + Duration::from_secs(*second));
    stream::iter(seconds.iter().map(at)).then(|sleep| sleep).chain(stream::pending())
}

fn shared() -> Shared {
    Shared::new(Instant::now())
}

/// A sink that answers from a script, by name of the pod, and tells what it got.
struct Scripted {
    answers: Mutex<BTreeMap<String, VecDeque<Outcome>>>,
    seen: mpsc::UnboundedSender<(String, Instant)>,
}

impl Scripted {
    fn new(
        answers: impl IntoIterator<Item = (&'static str, Vec<Outcome>)>,
    ) -> (Self, mpsc::UnboundedReceiver<(String, Instant)>) {
        let (seen, receiver) = mpsc::unbounded_channel();
        let answers = answers.into_iter().map(|(pod, answers)| (pod.to_owned(), answers.into())).collect();
        (Self { answers: Mutex::new(answers), seen }, receiver)
    }
}

impl WebhookSink for Scripted {
    async fn post(&self, request: Request<Bytes>) -> Outcome {
        let id = request.headers()["ce-id"].to_str().unwrap().to_owned();
        let pod = request.headers()["ce-subject"].to_str().unwrap().rsplit('/').next().unwrap().to_owned();
        self.seen.send((id, Instant::now())).unwrap();
        let answer = self.answers.lock().unwrap().get_mut(&pod).and_then(VecDeque::pop_front);
        match answer {
            Some(Outcome::TimedOut) => std::future::pending().await,
            Some(answer) => answer,
            None => answered(204),
        }
    }
}

fn ids(mut seen: mpsc::UnboundedReceiver<(String, Instant)>) -> Vec<String> {
    std::iter::from_fn(|| seen.try_recv().ok()).map(|(id, _)| id).collect()
}

#[tokio::test(start_paused = true)]
async fn each_pod_of_the_first_list_is_posted_once_to_each_webhook() {
    let mut sink = MockWebhookSink::new();
    for host in ["a", "b"] {
        for name in ["x", "y"] {
            sink.expect_post()
                .once()
                .withf(move |request| {
                    request.uri().host() == Some(host) && request.headers()["ce-id"] == format!("uid-{name}.1")
                })
                .returning(|_| Box::pin(async { answered(204) }));
        }
    }
    let events = list([pod("x", 1), pod("y", 1)]);
    let ended = run(&source(events), &sink, plan(&["http://a/", "http://b/"]), shared(), signals(&[1])).await;
    assert_eq!(ended, Ended::Drained);
}

#[tokio::test(start_paused = true)]
async fn an_annotated_pod_is_posted_to_its_own_webhook_and_never_to_the_global_one() {
    let mut sink = MockWebhookSink::new();
    sink.expect_post().withf(|request| request.uri().host() == Some("global")).never();
    sink.expect_post()
        .times(2)
        .withf(|request| request.uri().host() == Some("own"))
        .returning(|_| Box::pin(async { answered(200) }));
    let mut events = list([annotated("x", "http://own/")]);
    events.push(event(What::Deleted(annotated("x", "http://own/"))));
    let ended = run(&source(events), &sink, plan(&["http://global/"]), shared(), signals(&[1])).await;
    assert_eq!(ended, Ended::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_with_the_same_id_until_it_is_accepted() {
    let failures = (0..9).map(|n| answered(if n % 2 == 0 { 500 } else { 404 })).collect();
    let (sink, seen) = Scripted::new([("x", failures)]);
    let ended = run(&source(list([pod("x", 1)])), &sink, plan(&["http://a/"]), shared(), signals(&[300])).await;
    assert_eq!(ended, Ended::Drained);
    assert_eq!(ids(seen), ["uid-x.1"; 10]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_ends_at_the_limit_and_holds_up_no_other_pod() {
    let (sink, mut seen) = Scripted::new([("x", vec![Outcome::TimedOut])]);
    let start = Instant::now();
    let ended =
        run(&source(list([pod("x", 1), pod("y", 1)])), &sink, plan(&["http://a/"]), shared(), signals(&[60])).await;
    assert_eq!(ended, Ended::Drained);
    let times: Vec<_> =
        std::iter::from_fn(|| seen.try_recv().ok()).map(|(id, at)| (id, (at - start).as_secs())).collect();
    assert_eq!(times, [("uid-x.1".to_owned(), 0), ("uid-y.1".to_owned(), 0), ("uid-x.1".to_owned(), 30)]);
}

#[tokio::test(start_paused = true)]
async fn the_first_signal_drains_and_what_cannot_be_delivered_is_left_at_the_limit() {
    let (sink, seen) = Scripted::new([("x", (0..99).map(|_| answered(500)).collect())]);
    let (start, shared) = (Instant::now(), shared());
    let health = shared.health.clone();
    let ended =
        run(&source(list([pod("x", 1), pod("y", 1)])), &sink, plan(&["http://a/"]), shared, signals(&[5])).await;
    assert_eq!((ended, start.elapsed().as_secs()), (Ended::Left(1), 25));
    assert!(ids(seen).contains(&"uid-y.1".to_owned()));
    assert!(health.ready().is_err());
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_ends_at_once() {
    let (sink, _seen) = Scripted::new([("x", vec![Outcome::TimedOut])]);
    let start = Instant::now();
    let ended = run(&source(list([pod("x", 1)])), &sink, plan(&["http://a/"]), shared(), signals(&[5, 7])).await;
    assert_eq!((ended, start.elapsed().as_secs()), (Ended::Left(1), 7));
}

#[tokio::test(start_paused = true)]
async fn is_ready_once_the_first_list_is_complete_and_not_before() {
    for (events, ready) in
        [(vec![event(What::ListBegan), event(What::Listed(pod("x", 1)))], false), (list([pod("x", 1)]), true)]
    {
        let (sink, _seen) = Scripted::new([]);
        let shared = shared();
        let health = shared.health.clone();
        let plan = Plan { drain_timeout: Duration::ZERO, ..plan(&["http://a/"]) };
        let source = source(events);
        let running = run(&source, &sink, plan, shared, stream::pending());
        assert!(timeout(Duration::from_secs(5), running).await.is_err());
        assert_eq!(health.ready().is_ok(), ready);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_given_up_is_read_again_and_a_superseded_one_waits_for_the_watch() {
    let (sink, seen) = Scripted::new([]);
    let mut source = source(list([pod("same", 1), pod("newer", 1), pod("gone", 1)]));
    source.expect_get().returning(|id: &PodId| {
        let found = match id.name() {
            "same" => Some(pod("same", 1)),
            "newer" => Some(pod("newer", 2)),
            _ => None,
        };
        Box::pin(async { Ok(found) })
    });
    let mut plan = plan(&["http://a/"]);
    plan.limits.queue_bytes = 0;
    let ended = run(&source, &sink, plan, shared(), signals(&[60])).await;
    assert_eq!(ended, Ended::Left(2));
    assert_eq!(ids(seen), ["uid-same.1"]);
}

#[tokio::test(start_paused = true)]
async fn a_delete_past_the_ceiling_still_tells_who_was_deleted() {
    let mut sink = MockWebhookSink::new();
    sink.expect_post()
        .withf(|request| {
            let body: serde_json::Value = serde_json::from_slice(request.body()).unwrap();
            body["pod"]["metadata"]["name"] == "x"
                && body["pod"]["status"]["phase"] == "Deleted"
                && body["env"]["A"] == "b"
        })
        .once()
        .returning(|_| Box::pin(async { answered(204) }));
    let mut plan = plan(&["http://a/"]);
    plan.limits.queue_bytes = 0;
    let ended = run(&source(vec![event(What::Deleted(pod("x", 1)))]), &sink, plan, shared(), signals(&[1])).await;
    assert_eq!(ended, Ended::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_is_an_error_and_not_a_clean_end() {
    let mut source = MockPodSource::new();
    source.expect_events().once().returning(|_| Box::pin(stream::empty()));
    let (sink, _seen) = Scripted::new([]);
    let ended = run(&source, &sink, plan(&["http://a/"]), shared(), stream::pending()).await;
    assert_eq!(ended, Ended::SourceEnded);
}

#[tokio::test(start_paused = true)]
async fn reading_begins_where_the_last_webhook_was_and_each_gets_what_it_has_not_had() {
    let (sink, seen) = Scripted::new([]);
    let mut source = MockPodSource::new();
    source
        .expect_events()
        .once()
        .withf(|from| *from == [ResourceVersion(4), ResourceVersion(9)])
        .returning(|_| Box::pin(stream::iter(list([pod("x", 5), pod("y", 3)])).chain(stream::pending())));
    let mut plan = plan(&["http://behind/", "http://well/"]);
    let [behind, well] = [0, 1].map(|number| plan.router.global()[number].clone());
    let behind = (behind.digest(), ResourceVersion(4));
    let found = Position::new(Digest::of(""), ResourceVersion(9), [behind.0, well.digest()], [behind]);
    plan.record = Some(Record { selection: Digest::of(""), found: Some(found), told: watch::channel(None).0 });
    run(&source, &sink, plan, shared(), signals(&[5])).await;
    assert_eq!(ids(seen), ["uid-x.5"]);
}

/// The position tells of versions that the cluster has not come to.
#[tokio::test(start_paused = true)]
async fn what_is_in_flight_when_the_cluster_turns_out_to_be_an_older_one_is_broken_off_and_sent_anew() {
    let (sink, seen) = Scripted::new([("x", vec![Outcome::TimedOut])]);
    let mut source = MockPodSource::new();
    source
        .expect_events()
        .times(2)
        .returning(|_| Box::pin(stream::iter(list([pod("x", 1), pod("y", 1)])).chain(stream::pending())));
    let mut plan = plan(&["http://new/"]);
    let selection = Digest::of("");
    let found = Some(Position::new(selection, ResourceVersion(50), [], []));
    plan.record = Some(Record { selection, found, told: watch::channel(None).0 });
    let ended = run(&source, &sink, plan, shared(), signals(&[60])).await;
    assert_eq!(ended, Ended::Drained);
    assert_eq!(ids(seen), ["uid-x.1", "uid-y.1", "uid-x.1", "uid-y.1"]);
}
