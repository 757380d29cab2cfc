//! Restarts and several replicas, by a Lease: nothing is lost, and almost nothing is sent again.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use k8vent_harness::{Api, ControlPlane, Process, Receiver, manifest, process::Signal, receiver::Received};
use serde_json::Value;

use crate::support::{LIMIT, all_told, each, listed, name, requests, start_with, stop};

/// One replica, as the pod of this name.
fn replica(kubeconfig: &Path, namespace: &str, pod: &str, urls: &[String]) -> Process {
    let lease = format!("--lease={namespace}/k8vent");
    let mut args = vec!["--namespace", namespace, &lease];
    args.extend(urls.iter().map(String::as_str));
    start_with(kubeconfig, &args, &[("K8VENT_IDENTITY", pod)])
}

pub(crate) fn url(receiver: &Receiver) -> String {
    format!("--url={}", receiver.url("/hook"))
}

pub(crate) async fn leads(process: &Process) {
    let told = process.wait_for_log(LIMIT, |log| log["message"] == "lease acquired").await;
    told.unwrap_or_else(|late| panic!("{late}"));
}

pub(crate) async fn create(api: &Api, namespace: &str, names: &[&str]) {
    for name in names {
        api.create_pod(namespace, &manifest::pod(name)).await.unwrap();
    }
}

/// The lease's position, once it has one that fits.
pub(crate) async fn position(plane: &ControlPlane, namespace: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let path = r"jsonpath={.metadata.annotations.k8vent\.atomist\.com/position}";
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let text = plane.kubectl(&["get", "lease", "k8vent", "-n", namespace, "-o", path]).await.unwrap_or_default();
        if let Some(position) = serde_json::from_str(&text).ok().filter(|position| fits(position)) {
            return position;
        }
        assert!(tokio::time::Instant::now() < deadline, "the position: {text}");
    }
}

/// How often the lease has changed hands.
pub(crate) async fn transitions(api: &Api, namespace: &str) -> Value {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/k8vent");
    api.get(&path).await.unwrap()["spec"]["leaseTransitions"].take()
}

/// The version that a position has for its only endpoint.
pub(crate) fn ended(position: &Value) -> u64 {
    let version = position["endpoints"].as_object().unwrap().values().next().unwrap();
    version.as_str().unwrap().parse().unwrap()
}

/// The version of the state that a request tells; a delete is newer than all of them.
pub(crate) fn version(request: &Received) -> u64 {
    let id = request.header("ce-id").unwrap();
    id.rsplit('.').next().unwrap().parse().unwrap_or(u64::MAX)
}

/// The version of the last request about each pod; an older one after a newer one fails.
pub(crate) fn last_versions(requests: &[Received]) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    for request in requests {
        let before = last.insert(name(request), version(request));
        assert!(before.is_none_or(|before| before <= version(request)), "{request} after version {before:?}");
    }
    last
}

#[tokio::test]
async fn a_restart_sends_what_changed_and_each_delete_once_and_nothing_else() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("restart").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["same", "changed", "deleted"]).await;
    let first = replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&receiver)]);
    requests(&receiver, 3).await;
    stop(first).await;
    receiver.clear();

    api.set_phase(&namespace, "changed", "Running").await.unwrap();
    api.delete_pod(&namespace, "deleted").await.unwrap();
    create(&api, &namespace, &["new", "brief"]).await;
    api.delete_pod(&namespace, "brief").await.unwrap();
    let second = replica(&plane.kubeconfig_admin(), &namespace, "two", &[url(&receiver)]);
    requests(&receiver, 4).await;
    api.set_phase(&namespace, "same", "Running").await.unwrap();
    requests(&receiver, 5).await;
    stop(second).await;
    let expected = ["added changed", "added new", "deleted brief", "deleted deleted", "updated same"];
    assert_eq!(all_told(&receiver.requests()), expected);
    let gone = receiver.requests().into_iter().find(|request| crate::support::told(request) == "deleted deleted");
    assert!(gone.unwrap().json()["pod"]["spec"]["containers"].is_array(), "with its last state");
}

#[tokio::test]
async fn a_new_webhook_gets_every_pod_and_the_old_ones_nothing_again() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("new-webhook").await.unwrap();
    let api = plane.api().await;
    let (old, new) = (Receiver::http().await.unwrap(), Receiver::http().await.unwrap());
    create(&api, &namespace, &["a", "b", "gone"]).await;
    let first = replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&old)]);
    requests(&old, 3).await;
    stop(first).await;
    old.clear();
    api.delete_pod(&namespace, "gone").await.unwrap();
    let second = replica(&plane.kubeconfig_admin(), &namespace, "two", &[url(&old), url(&new)]);
    requests(&new, 2).await;
    requests(&old, 1).await;
    stop(second).await;
    assert_eq!(all_told(&new.requests()), ["added a", "added b"]);
    assert_eq!(all_told(&old.requests()), ["deleted gone"]);
}

#[tokio::test]
async fn a_webhook_that_is_down_through_restarts_gets_everything_and_the_others_no_repeats() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("laggard").await.unwrap();
    let api = plane.api().await;
    let (up, down) = (Receiver::http().await.unwrap(), Receiver::http().await.unwrap());
    down.down().await;
    create(&api, &namespace, &["same", "changed", "deleted"]).await;
    let urls = [url(&up), url(&down), "--drain-timeout=100ms".to_owned()];
    for round in 0..3 {
        let mut k8vent = replica(&plane.kubeconfig_admin(), &namespace, "one", &urls);
        listed(&k8vent).await;
        requests(&up, 3 + round).await;
        if round == 1 {
            api.delete_pod(&namespace, "deleted").await.unwrap();
        } else {
            api.set_phase(&namespace, "changed", if round == 0 { "Running" } else { "Failed" }).await.unwrap();
        }
        requests(&up, 4 + round).await;
        k8vent.signal(Signal::Term);
        assert_eq!(k8vent.exit_code(LIMIT).await.unwrap(), Some(1), "something is left");
    }
    down.up().await.unwrap();
    let last = replica(&plane.kubeconfig_admin(), &namespace, "one", &urls);
    requests(&down, 3).await;
    stop(last).await;
    assert_eq!(all_told(&down.requests()), ["added changed", "added same", "deleted deleted"]);
    let expected =
        ["added changed", "added deleted", "added same", "deleted deleted", "updated changed", "updated changed"];
    assert_eq!(all_told(&up.requests()), expected);
}

#[tokio::test]
async fn when_the_api_server_has_forgotten_only_what_changed_is_sent_and_the_span_is_told() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("span").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["same", "changed", "deleted"]).await;
    let first = replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&receiver)]);
    requests(&receiver, 3).await;
    stop(first).await;
    receiver.clear();
    api.set_phase(&namespace, "changed", "Running").await.unwrap();
    api.delete_pod(&namespace, "deleted").await.unwrap();
    plane.forget_history().await.unwrap();
    let second = replica(&plane.kubeconfig_admin(), &namespace, "two", &[url(&receiver)]);
    let told = |log: &Value| log["message"].as_str().is_some_and(|message| message.contains("has forgotten"));
    let log = second.wait_for_log(LIMIT, told).await.unwrap_or_else(|late| panic!("{late}"));
    assert!(log["after"].is_string() && log["until"].is_string(), "{log}");
    requests(&receiver, 1).await;
    let api = plane.api().await;
    api.set_phase(&namespace, "same", "Running").await.unwrap();
    requests(&receiver, 2).await;
    stop(second).await;
    assert_eq!(all_told(&receiver.requests()), ["added changed", "updated same"]);
}

/// One webhook has been down since before the API server began to remember; that costs the other one nothing.
#[tokio::test]
async fn a_webhook_that_is_far_behind_does_not_make_others_miss_deletes() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("far-behind").await.unwrap();
    let (up, down) = (Receiver::http().await.unwrap(), Receiver::http().await.unwrap());
    down.down().await;
    create(&plane.api().await, &namespace, &["a", "b"]).await;
    let urls = [url(&up), url(&down), "--drain-timeout=100ms".to_owned()];
    let mut first = replica(&plane.kubeconfig_admin(), &namespace, "one", &urls);
    requests(&up, 2).await;
    plane.forget_history().await.unwrap();
    let api = plane.api().await;
    create(&api, &namespace, &["deleted"]).await;
    requests(&up, 3).await;
    first.signal(Signal::Term);
    assert_eq!(first.exit_code(LIMIT).await.unwrap(), Some(1), "something is left");
    up.clear();
    api.delete_pod(&namespace, "deleted").await.unwrap();
    let mut second = replica(&plane.kubeconfig_admin(), &namespace, "two", &urls);
    requests(&up, 1).await;
    second.signal(Signal::Term);
    second.wait(LIMIT).await.unwrap();
    assert_eq!(all_told(&up.requests()), ["deleted deleted"]);
}

#[tokio::test]
async fn a_position_that_is_newer_than_the_cluster_or_of_other_pods_is_refused() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("refused").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["a"]).await;
    stop_after(replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&receiver)]), &receiver, 1).await;

    let known = position(plane, &namespace, |_| true).await;
    let endpoint = known["endpoints"].as_object().unwrap().keys().next().unwrap().clone();
    let mut future = known.clone();
    future["endpoints"][&endpoint] = "999999999".into();
    for (text, complaint) in [(future.to_string(), "newer than the cluster"), ("{".to_owned(), "cannot be read")] {
        receiver.clear();
        let annotation = format!("k8vent.atomist.com/position={text}");
        plane.kubectl(&["annotate", "--overwrite", "lease", "k8vent", "-n", &namespace, &annotation]).await.unwrap();
        let k8vent = replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&receiver)]);
        let told = |log: &Value| log["message"].as_str().is_some_and(|message| message.contains(complaint));
        k8vent.wait_for_log(LIMIT, told).await.unwrap_or_else(|late| panic!("{late}"));
        stop_after(k8vent, &receiver, 1).await;
        assert_eq!(all_told(&receiver.requests()), ["added a"]);
    }
    receiver.clear();
    let other = [url(&receiver), "--label-selector=app.kubernetes.io/name".to_owned()];
    stop_after(replica(&plane.kubeconfig_admin(), &namespace, "one", &other), &receiver, 1).await;
    assert_eq!(all_told(&receiver.requests()), ["added a"]);
}

pub(crate) async fn stop_after(k8vent: Process, receiver: &Receiver, count: usize) {
    requests(receiver, count).await;
    stop(k8vent).await;
}

/// Changes each of so many pods in turn until told to stop; gives how often each was changed.
pub(crate) async fn keep_changing(
    api: &Api,
    namespace: &str,
    pods: usize,
    mut until: tokio::sync::oneshot::Receiver<()>,
) {
    let mut round = 0;
    while until.try_recv().is_err() {
        round += 1;
        each(pods, |n| {
            let phase = if round % 2 == 0 { "Running" } else { "Pending" };
            async move { api.set_phase(namespace, &format!("busy-{n}"), phase).await.unwrap() }
        })
        .await;
    }
}

pub(crate) async fn versions(api: &Api, namespace: &str) -> BTreeMap<String, u64> {
    let pods = api.list_pods(namespace).await.unwrap();
    let version = |pod: &Value| pod["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let pods = pods["items"].as_array().unwrap();
    pods.iter().map(|pod| (pod["metadata"]["name"].as_str().unwrap().to_owned(), version(pod))).collect()
}

/// Waits until the last request about each pod is of its present version.
pub(crate) async fn caught_up(receiver: &Receiver, now: &BTreeMap<String, u64>) {
    let is_last = |requests: &[Received]| {
        let last = last_versions(requests);
        now.iter().all(|(name, version)| last.get(name) == Some(version))
    };
    receiver.wait_for(LIMIT, is_last).await.unwrap_or_else(|late| panic!("{late}"));
}

#[tokio::test]
async fn kills_under_load_lose_no_last_state_and_repeat_no_pod_that_did_not_change() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("kills").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    each(40, |n| {
        let (api, namespace) = (&api, &namespace);
        let name = if n < 20 { format!("busy-{n}") } else { format!("idle-{n}") };
        async move { api.create_pod(namespace, &manifest::pod(&name)).await.unwrap() }
    })
    .await;
    let mut k8vent = replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&receiver)]);
    requests(&receiver, 40).await;
    let newest = versions(&api, &namespace).await.into_values().max().unwrap();
    position(plane, &namespace, |position| position["common"].as_str().unwrap().parse::<u64>().unwrap() >= newest)
        .await;

    let (stop_changes, until) = tokio::sync::oneshot::channel();
    let changes = keep_changing(&api, &namespace, 20, until);
    let mut killed = Vec::new();
    let kills = async {
        for _ in 0..10 {
            let seen = receiver.count();
            receiver.wait_for_count(LIMIT, seen + 50).await.unwrap();
            let saved = ended(&position(plane, &namespace, |_| true).await);
            k8vent.signal(Signal::Kill);
            k8vent.wait(LIMIT).await.unwrap();
            killed.push((saved, receiver.requests().len()));
            k8vent = replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&receiver)]);
        }
        stop_changes.send(()).unwrap();
    };
    tokio::join!(changes, kills);
    caught_up(&receiver, &versions(&api, &namespace).await).await;
    stop(k8vent).await;
    for (saved, count) in killed {
        let requests = receiver.requests();
        let (before, after) = requests.split_at(count);
        let before: BTreeSet<_> = before.iter().filter_map(|request| request.header("ce-id")).collect();
        let again =
            |request: &&Received| before.contains(request.header("ce-id").unwrap()) && version(request) <= saved;
        assert_eq!(after.iter().filter(again).count(), 0, "nothing is repeated that was in the position {saved}");
    }
    let idle = receiver.requests().iter().filter(|request| name(request).starts_with("idle-")).count();
    assert_eq!(idle, 20, "each pod that did not change was sent once");
}

/// Two replicas, the first of which leads.
async fn two(plane: &ControlPlane, namespace: &str, receiver: &Receiver) -> (Process, Process) {
    let first = replica(&plane.kubeconfig_admin(), namespace, "one", &[url(receiver)]);
    leads(&first).await;
    let second = replica(&plane.kubeconfig_admin(), namespace, "two", &[url(receiver)]);
    (first, second)
}

#[tokio::test]
async fn a_lease_that_is_handed_over_is_taken_within_three_seconds() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("hand-over").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["a", "b"]).await;
    let (first, second) = two(plane, &namespace, &receiver).await;
    requests(&receiver, 2).await;
    stop(first).await;
    let released = tokio::time::Instant::now();
    leads(&second).await;
    assert!(released.elapsed() < Duration::from_secs(3), "{:?}", released.elapsed());
    listed(&second).await;
    api.set_phase(&namespace, "a", "Running").await.unwrap();
    requests(&receiver, 3).await;
    stop(second).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "added b", "updated a"]);
    assert_eq!(transitions(&api, &namespace).await, 1);
}

#[tokio::test]
async fn a_leader_that_is_killed_is_followed_and_one_that_was_stopped_sends_nothing_stale() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("fail-over").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["a"]).await;
    let (first, second) = two(plane, &namespace, &receiver).await;
    requests(&receiver, 1).await;
    // In flight while the leader stands still: it must not be finished when it wakes.
    first.signal(Signal::Stop);
    api.set_phase(&namespace, "a", "Running").await.unwrap();
    leads(&second).await;
    requests(&receiver, 2).await;
    api.set_phase(&namespace, "a", "Succeeded").await.unwrap();
    requests(&receiver, 3).await;
    first.signal(Signal::Continue);
    let taken =
        |log: &Value| log["message"].as_str().is_some_and(|message| message.contains("another replica has taken"));
    first.wait_for_log(LIMIT, taken).await.unwrap_or_else(|late| panic!("{late}"));
    last_versions(&receiver.requests());

    let mut second = second;
    second.signal(Signal::Kill);
    second.wait(LIMIT).await.unwrap();
    api.set_phase(&namespace, "a", "Failed").await.unwrap();
    caught_up(&receiver, &versions(&api, &namespace).await).await;
    stop(first).await;
}

#[tokio::test]
async fn while_the_lease_cannot_be_renewed_nothing_is_sent_and_then_everything() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("no-renewal").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["a"]).await;
    let k8vent = replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&receiver)]);
    requests(&receiver, 1).await;
    receiver.down().await;
    api.set_phase(&namespace, "a", "Running").await.unwrap();
    let failed = |log: &Value| log["message"].as_str().is_some_and(|message| message.starts_with("attempt failed"));
    k8vent.wait_for_log(LIMIT, failed).await.unwrap_or_else(|late| panic!("{late}"));
    plane.stop_apiserver().await;
    k8vent.wait_for_log(LIMIT, |log| log["sending"] == "paused").await.unwrap_or_else(|late| panic!("{late}"));
    receiver.up().await.unwrap();
    let connections = receiver.connections();
    // Long enough for many attempts: these come with the same backoff.
    let tries = || k8vent.logs().iter().filter(|log| log["message"] == "cannot read pods").count();
    let before = tries();
    k8vent.stderr().wait_for(LIMIT, |_| (tries() > before).then_some(())).await.unwrap();
    assert_eq!(receiver.connections(), connections, "nothing is sent while somebody else may have the lease");
    plane.start_apiserver().await.unwrap();
    requests(&receiver, 2).await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "updated a"]);
}

#[tokio::test]
async fn a_lease_that_is_deleted_or_spoilt_is_written_again() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("spoilt").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["a"]).await;
    let k8vent = replica(&plane.kubeconfig_admin(), &namespace, "one", &[url(&receiver)]);
    requests(&receiver, 1).await;
    let before = position(plane, &namespace, |_| true).await;
    plane.kubectl(&["delete", "lease", "k8vent", "-n", &namespace]).await.unwrap();
    assert_eq!(position(plane, &namespace, |_| true).await["endpoints"], before["endpoints"]);
    let spoilt = r#"{"metadata":{"annotations":{"k8vent.atomist.com/position":"spoilt"}},"spec":{"renewTime":null}}"#;
    plane.kubectl(&["patch", "lease", "k8vent", "-n", &namespace, "--type=merge", "-p", spoilt]).await.unwrap();
    position(plane, &namespace, |_| true).await;
    api.set_phase(&namespace, "a", "Running").await.unwrap();
    requests(&receiver, 2).await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "updated a"]);
}

#[tokio::test]
async fn a_standby_reads_no_pods() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("standby").await.unwrap();
    let receiver = Receiver::http().await.unwrap();
    let (first, second) = two(plane, &namespace, &receiver).await;
    listed(&first).await;
    stop(first).await;
    leads(&second).await;
    let lines =
        second.logs().iter().map(|log| log["message"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    assert_eq!(lines[..2], ["starting", "lease acquired"], "no list before the lease");
    stop(second).await;
}

#[tokio::test]
async fn without_rights_on_the_lease_the_missing_rule_is_named() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("no-lease").await.unwrap();
    let receiver = Receiver::http().await.unwrap();
    plane.kubectl(&["create", "serviceaccount", "nobody", "-n", &namespace]).await.unwrap();
    let nobody = plane.kubeconfig_for_service_account(&namespace, "nobody").await.unwrap();
    let k8vent = replica(&nobody, &namespace, "one", &[url(&receiver)]);
    let told = |log: &Value| log["message"] == "cannot acquire the lease";
    let log = k8vent.wait_for_log(LIMIT, told).await.unwrap_or_else(|late| panic!("{late}"));
    let error = log["error"].as_str().unwrap();
    assert!(error.contains("resources: [leases], verbs: [get, update, create]"), "{error}");
    assert!(error.contains("kube/rbac.yaml"), "{error}");
    stop(k8vent).await;
}
