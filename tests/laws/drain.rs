//! SIGTERM in the middle of a backlog.

use std::time::Duration;

use k8vent_harness::{Answer, ControlPlane, Receiver, manifest, process::Signal};
use serde_json::Value;

use crate::support::{LIMIT, each, ids, listed, requests, start};

async fn backlog(prefix: &str, answer: Answer, drain: &str) -> (k8vent_harness::Process, Receiver) {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace(prefix).await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    each(100, |n| {
        let (api, namespace) = (&api, &namespace);
        async move { api.create_pod(namespace, &manifest::pod(&format!("pod-{n}"))).await.unwrap() }
    })
    .await;
    receiver.answer(answer);
    let (url, drain) = (format!("--url={}", receiver.url("/")), format!("--drain-timeout={drain}"));
    let k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &namespace, "--concurrency=4", &drain]);
    listed(&k8vent).await;
    requests(&receiver, 1).await;
    (k8vent, receiver)
}

#[tokio::test]
async fn what_waits_is_delivered_before_the_end() {
    let slow = Answer::ACCEPTED.after(Duration::from_millis(50));
    let (mut k8vent, receiver) = backlog("drain", slow, "30s").await;
    k8vent.signal(Signal::Term);
    assert_eq!(k8vent.exit_code(LIMIT).await.unwrap(), Some(0));
    let ids = ids(&receiver.requests());
    assert_eq!(ids.len(), 100);
    assert!(ids.values().all(|ids| ids.len() == 1), "each of them once");
    assert_eq!(k8vent.logs().last().unwrap()["message"], "drained");
}

#[tokio::test]
async fn what_cannot_be_delivered_in_time_is_told() {
    let (mut k8vent, _receiver) = backlog("drain-left", Answer::Hang, "300ms").await;
    k8vent.signal(Signal::Int);
    assert_eq!(k8vent.exit_code(LIMIT).await.unwrap(), Some(1));
    let left = k8vent.logs().into_iter().find(|log| log["message"] == "not delivered before the end").unwrap();
    assert_eq!((&left["level"], &left["pods"]), (&"ERROR".into(), &100.into()));
    assert!(k8vent.logs().iter().all(|log| log["message"] != "drained"));
    // Collectors read the log line by line: the last one is no different.
    let last: Value = serde_json::from_str(k8vent.stderr().lines().last().unwrap()).unwrap();
    assert_eq!((&last["level"], &last["message"]), (&"ERROR".into(), &"failed".into()));
    assert_eq!(last["error"], "something was left undelivered for 100 pods");
}

#[tokio::test]
async fn the_second_signal_ends_it_at_once() {
    let (mut k8vent, _receiver) = backlog("drain-twice", Answer::Hang, "1h").await;
    k8vent.signal(Signal::Term);
    k8vent.wait_for_log(LIMIT, |log| log["message"] == "draining").await.unwrap();
    k8vent.signal(Signal::Term);
    assert_eq!(k8vent.exit_code(Duration::from_secs(10)).await.unwrap(), Some(1));
}
