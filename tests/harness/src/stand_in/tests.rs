use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::{Api, ControlPlane, api::ApiError, manifest};

const LIMIT: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_millis(50);
const WATCH: &str = "/api/v1/pods?watch=1&allowWatchBookmarks=true";
const STREAMING: &str =
    "/api/v1/pods?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";

struct Reader {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

/// A watch that is read line by line.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Reader {
    fn of(stand_in: &StandIn) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), url: stand_in.url() }
    }

    async fn open(&self, path: &str) -> Result<Response<Incoming>, Error> {
        let request = Request::get(format!("{}{path}", self.url)).body(Full::default()).unwrap();
        timeout(LIMIT, self.client.request(request)).await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.open(path).await.unwrap();
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap())
    }

    async fn watch(&self, path: &str) -> Lines {
        let answer = self.open(path).await.unwrap();
        assert_eq!(answer.status(), 200);
        Lines { body: answer.into_body(), buffer: Vec::new() }
    }
}

impl Lines {
    /// The next line; `Err` says what was left when the watch ended, and whether it ended in order.
    async fn next(&mut self) -> Result<Value, (Vec<u8>, bool)> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.buffer.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line).unwrap_or(Value::Null));
            }
            match timeout(LIMIT, self.body.frame()).await.expect("the watch says something") {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().unwrap()),
                Some(Err(_)) => return Err((std::mem::take(&mut self.buffer), false)),
                None => return Err((std::mem::take(&mut self.buffer), true)),
            }
        }
    }

    /// The type and the name of the next event.
    async fn event(&mut self) -> (String, String) {
        let event = self.next().await.unwrap();
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        (event["type"].as_str().unwrap_or_default().to_owned(), name.to_owned())
    }
}

fn is(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_list_and_the_watch_from_its_version_tell_everything_once() {
    let stand_in = StandIn::start().await.unwrap();
    let reader = Reader::of(&stand_in);
    for name in ["a", "b", "c"] {
        stand_in.create(&manifest::pod(name));
    }
    let (_, first) = reader.get("/api/v1/pods?limit=2").await;
    stand_in.delete("default", "b");
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = reader.get(&format!("/api/v1/pods?limit=2&continue={token}")).await;
    let names: Vec<_> = [&first, &second].iter().flat_map(|list| list["items"].as_array().unwrap()).collect();
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|item| item.get("kind").is_none()));
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = reader.watch(&format!("{WATCH}&resourceVersion={version}")).await;
    assert_eq!(watch.event().await, is("DELETED", "b"));
    stand_in.create(&manifest::pod("d"));
    stand_in.update(&manifest::pod("a"));
    stand_in.bookmark();
    assert_eq!(watch.event().await, is("ADDED", "d"));
    assert_eq!(watch.event().await, is("MODIFIED", "a"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], stand_in.version().to_string());
    let kinds: Vec<_> = stand_in.requests().iter().map(|seen| seen.kind).collect();
    assert_eq!(kinds, [Kind::List, Kind::List, Kind::Watch]);
}

#[tokio::test]
async fn a_watch_of_a_namespace_tells_nothing_of_another() {
    let stand_in = StandIn::start().await.unwrap();
    let reader = Reader::of(&stand_in);
    stand_in.create(&manifest::stored_pod("here", "a"));
    stand_in.create(&manifest::stored_pod("there", "b"));
    let mut watch = reader.watch(&STREAMING.replace("/v1/", "/v1/namespaces/here/")).await;
    assert_eq!(watch.event().await, is("ADDED", "a"));
    assert_eq!(watch.event().await, is("BOOKMARK", ""));
    stand_in.update(&manifest::stored_pod("there", "b"));
    stand_in.update(&manifest::stored_pod("here", "a"));
    assert_eq!(watch.event().await, is("MODIFIED", "a"));
}

#[tokio::test]
async fn the_kube_client_reads_creates_and_deletes() {
    let stand_in = StandIn::start().await.unwrap();
    let api = Api::from_kubeconfig(&stand_in.kubeconfig().unwrap()).await.unwrap();
    let created = api.create_pod("default", &manifest::pod("a")).await.unwrap();
    assert_eq!(api.get_pod("default", "a").await.unwrap(), created);
    assert_eq!(api.list_pods("default").await.unwrap()["items"][0]["metadata"], created["metadata"]);
    api.delete_pod("default", "a").await.unwrap();
    assert_eq!(api.get_pod("default", "a").await.unwrap_err().status().unwrap(), 404);
}

#[tokio::test]
async fn a_lease_is_for_whoever_has_read_it_last_as_at_a_real_api_server() {
    let stand_in = StandIn::start().await.unwrap();
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("leases").await.unwrap();
    for api in [Api::from_kubeconfig(&stand_in.kubeconfig().unwrap()).await.unwrap(), plane.api().await] {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        let named = format!("{path}/k8vent");
        let code = |answer: Result<Value, ApiError>| answer.unwrap_err().status().unwrap().as_u16();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "k8vent"},
            "spec": {"holderIdentity": "a"},
        });
        assert_eq!(code(api.get(&named).await), 404);
        let created = api.create(&path, &lease).await.unwrap();
        assert_eq!(code(api.create(&path, &lease).await), 409);
        let mut newer = created.clone();
        newer["spec"]["holderIdentity"] = "b".into();
        let replaced = api.replace(&named, &newer).await.unwrap();
        assert_eq!(code(api.replace(&named, &created).await), 409);
        assert_eq!(api.get(&named).await.unwrap(), replaced);
        assert_eq!(replaced["metadata"]["uid"], created["metadata"]["uid"]);
    }
}

#[tokio::test]
async fn what_it_says_is_what_a_real_api_server_says() {
    // A control plane of its own: it has to forget.
    let (stand_in, plane) = (StandIn::start().await.unwrap(), ControlPlane::start().await.unwrap());
    let namespace = plane.namespace("words").await.unwrap();
    let real = plane.api().await;
    let reader = Reader::of(&stand_in);
    let lines = |body: Bytes| -> Vec<Value> {
        body.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    };
    // Without what is of the one server alone.
    let shape = |mut event: Value| {
        event["object"]["metadata"]["resourceVersion"] = Value::Null;
        event
    };
    let path = STREAMING.replace("/v1/", &format!("/v1/namespaces/{namespace}/"));
    let theirs = lines(real.get_raw(&format!("{path}&timeoutSeconds=1")).await.unwrap()).remove(0);
    let ours = reader.watch(&path).await.next().await.unwrap();
    assert_eq!(shape(ours), shape(theirs));

    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let old = format!("{path}?watch=1&timeoutSeconds=5&resourceVersion=1");
    plane.forget_history().await.unwrap();
    let theirs = lines(real.get_raw(&old).await.unwrap()).remove(0);
    stand_in.forget_history();
    let ours = reader.watch(&old).await.next().await.unwrap();
    for field in ["kind", "apiVersion", "metadata", "status", "reason", "code"] {
        assert_eq!(ours["object"][field], theirs["object"][field], "{field}");
    }
    assert_eq!((&ours["type"], &theirs["type"]), (&json!("ERROR"), &json!("ERROR")));

    let theirs = real.get(&path).await.unwrap();
    let (_, ours) = reader.get(&path).await;
    for list in [theirs, ours] {
        assert_eq!((&list["kind"], &list["items"]), (&json!("PodList"), &json!([])));
    }
}

#[tokio::test]
async fn without_streaming_lists_it_refuses_them_and_still_lists() {
    let stand_in = StandIn::start().await.unwrap();
    let reader = Reader::of(&stand_in);
    stand_in.streaming_lists(false);
    let (code, status) = reader.get(STREAMING).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(reader.get("/api/v1/pods").await.0, 200);
}

#[tokio::test]
async fn a_fault_is_for_the_next_request_of_its_kind_or_for_all() {
    let stand_in = StandIn::start().await.unwrap();
    let reader = Reader::of(&stand_in);
    stand_in.next(Kind::List, Fault::Refuse(500));
    stand_in.next(Kind::List, Fault::RefuseRetryAfter(429, 3));
    assert_eq!(reader.get("/api/v1/namespaces/default/pods/none").await.0, 404);
    assert_eq!(reader.get("/api/v1/pods").await.0, 500);
    let answer = reader.open("/api/v1/pods").await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"3".parse().unwrap()));
    assert_eq!(reader.get("/api/v1/pods").await.0, 200);
    stand_in.always(Kind::List, Some(Fault::Refuse(403)));
    for _ in 0..2 {
        assert_eq!(reader.get("/api/v1/pods").await.1["reason"], "Forbidden");
    }
    stand_in.always(Kind::List, None);
    assert_eq!(reader.get("/api/v1/pods").await.0, 200);
}

#[tokio::test]
async fn answers_can_be_html_empty_cut_closed_slow_or_none() {
    let stand_in = StandIn::start().await.unwrap();
    let reader = Reader::of(&stand_in);
    stand_in.create(&manifest::huge_pod("huge", 1_000_000));
    let body = async || -> Result<Bytes, Error> {
        let body = reader.open("/api/v1/pods").await?.into_body().collect();
        let whole = timeout(LIMIT, body).await.expect("the body ends");
        Ok(whole.map_or_else(|_| Bytes::from_static(b"broken"), Collected::to_bytes))
    };
    stand_in.next(Kind::List, Fault::html());
    assert!(body().await.unwrap().starts_with(b"<html>"));
    stand_in.next(Kind::List, Fault::empty());
    assert_eq!(body().await.unwrap(), "");
    stand_in.next(Kind::List, Fault::CutAfter(500_000));
    assert_eq!(body().await.unwrap(), "broken");
    stand_in.next(Kind::List, Fault::Close);
    assert!(body().await.is_err());
    stand_in.next(Kind::List, Fault::Slow(MOMENT));
    let began = Instant::now();
    assert!(body().await.unwrap().len() > 1_000_000 && began.elapsed() >= MOMENT);
    stand_in.next(Kind::List, Fault::Hang);
    assert!(timeout(MOMENT, body()).await.is_err());
}

#[tokio::test]
async fn an_endless_list_always_has_a_next_page() {
    let stand_in = StandIn::start().await.unwrap();
    let reader = Reader::of(&stand_in);
    stand_in.create(&manifest::pod("a"));
    for fresh_tokens in [true, false] {
        stand_in.always(Kind::List, Some(Fault::EndlessList { fresh_tokens }));
        let mut tokens = Vec::new();
        for _ in 0..3 {
            let (_, page) = reader.get("/api/v1/pods?limit=1&continue=any").await;
            tokens.push(page["metadata"]["continue"].as_str().unwrap().to_owned());
        }
        tokens.dedup();
        assert_eq!(tokens.len(), if fresh_tokens { 3 } else { 1 });
    }
}

#[tokio::test]
async fn watches_are_ended_broken_cut_and_told_rubbish_and_errors() {
    let stand_in = StandIn::start().await.unwrap();
    let reader = Reader::of(&stand_in);
    stand_in.create(&manifest::pod("a"));
    for (disturbance, in_order, left) in
        [(Disturbance::End, true, false), (Disturbance::Break, false, false), (Disturbance::CutEvent, false, true)]
    {
        let mut watch = reader.watch(STREAMING).await;
        assert_eq!(watch.event().await, is("ADDED", "a"));
        assert_eq!(watch.event().await, is("BOOKMARK", ""));
        stand_in.disturb(&disturbance);
        let (rest, ended) = watch.next().await.unwrap_err();
        assert_eq!((ended, !rest.is_empty()), (in_order, left), "{disturbance:?}");
    }
    let mut watch = reader.watch(WATCH).await;
    assert_eq!(watch.event().await, is("ADDED", "a"));
    stand_in.disturb(&Disturbance::Rubbish);
    assert_eq!(watch.next().await.unwrap(), Value::Null);
    stand_in.update(&manifest::pod("a"));
    assert_eq!(watch.event().await, is("MODIFIED", "a"));
    stand_in.disturb(&Disturbance::ErrorEvent(410, None));
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(watch.next().await.unwrap_err(), (Vec::new(), true));
}

#[tokio::test]
async fn a_half_open_watch_says_nothing_and_stays_open() {
    let stand_in = StandIn::start().await.unwrap();
    let mut watch = Reader::of(&stand_in).watch(STREAMING).await;
    assert_eq!(watch.event().await, is("BOOKMARK", ""));
    stand_in.disturb(&Disturbance::HalfOpen);
    stand_in.create(&manifest::pod("a"));
    assert!(timeout(MOMENT, watch.next()).await.is_err());
    assert_eq!(stand_in.open_watches(), 0);
}

#[tokio::test]
async fn a_flood_changes_every_pod_in_turn_with_rising_versions() {
    let stand_in = StandIn::start().await.unwrap();
    for name in ["a", "b", "c"] {
        stand_in.create(&manifest::stored_pod("default", name));
    }
    let mut watch = Reader::of(&stand_in).watch(&format!("{WATCH}&resourceVersion={}", stand_in.version())).await;
    let before = stand_in.version();
    let mut flooding = stand_in.flood(100);
    for nth in 1..=100 {
        let event = watch.next().await.unwrap();
        assert_eq!(event["object"]["metadata"]["resourceVersion"], (before + nth).to_string());
        assert_eq!(event["object"]["metadata"]["name"], ["a", "b", "c"][usize::try_from((nth - 1) % 3).unwrap()]);
    }
    flooding.done(LIMIT).await.unwrap();
    stand_in.update(&manifest::pod("a"));
    assert_eq!(watch.event().await, is("MODIFIED", "a"));
}

/// Not a law but a figure, for whoever changes the stand-in: run it with `--ignored --nocapture --release`.
#[tokio::test]
#[ignore = "measures"]
async fn how_many_changes_a_second() {
    let stand_in = StandIn::start().await.unwrap();
    for nth in 0..1_000 {
        stand_in.create(&manifest::stored_pod("default", &format!("pod-{nth}")));
    }
    let mut watch = Reader::of(&stand_in).watch(&format!("{WATCH}&resourceVersion={}", stand_in.version())).await;
    let (began, count) = (Instant::now(), 300_000);
    let mut flooding = stand_in.flood(count);
    let mut bytes = 0;
    while flooding.sent() < count {
        bytes += watch.body.frame().await.unwrap().unwrap().data_ref().unwrap().len();
    }
    flooding.done(LIMIT).await.unwrap();
    let seconds = u32::try_from(began.elapsed().as_millis()).map(f64::from).unwrap() / 1_000.0;
    println!("{:.0} changes a second, {} MB in {seconds} s", 300_000.0 / seconds, bytes / 1_000_000);
}
