//! Every state arrives, in order, as the API server tells it.

use std::collections::BTreeMap;

use k8vent_harness::{ControlPlane, Receiver, manifest, receiver::Received};
use serde_json::{Value, json};

use crate::support::{ENV, LIMIT, each, ids, name, requests, started, stop, told, without_managed_fields};

const PODS: usize = 1000;

fn pod(number: usize) -> Value {
    manifest::pod(&format!("pod-{number}"))
}

/// What is to arrive of each pod: the ids and the bodies, made of what the API server's own watch tells.
fn expected(watch: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut expected: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for line in watch.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let (kind, metadata) = (event["type"].as_str().unwrap(), &event["object"]["metadata"]);
        let (start, end) = (line.find(r#""object":"#).unwrap() + 9, line.len() - 1);
        let mut pod = without_managed_fields(&line[start..end]);
        let uid = metadata["uid"].as_str().unwrap();
        let id = if kind == "DELETED" {
            pod = pod.replacen(r#""phase":"Running""#, r#""phase":"Deleted""#, 1);
            format!("{uid}.deleted")
        } else {
            format!("{uid}.{}", metadata["resourceVersion"].as_str().unwrap())
        };
        let states = expected.entry(metadata["name"].as_str().unwrap().to_owned()).or_default();
        states.push((id, format!(r#"{{"pod":{pod},"env":{ENV}}}"#)));
    }
    expected
}

#[tokio::test]
async fn every_state_of_a_thousand_pods_arrives_in_order_and_byte_for_byte() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("states").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let start = api.list_pods(&namespace).await.unwrap()["metadata"]["resourceVersion"].take();
    let k8vent = started(&plane.kubeconfig_admin(), &namespace, &receiver, &[]).await;
    let (api, namespace) = (&api, namespace.as_str());
    each(PODS, |n| async move { api.create_pod(namespace, &pod(n)).await.unwrap() }).await;
    receiver.wait_for_count(LIMIT, 1000).await.unwrap();
    each(PODS, |n| async move {
        let status =
            json!({"phase": "Running", "podIP": format!("10.0.0.{}", n % 250), "message": "é \" \\ \u{1F980}"});
        api.patch_status(namespace, &format!("pod-{n}"), &status).await.unwrap()
    })
    .await;
    receiver.wait_for_count(LIMIT, 2000).await.unwrap();
    each(PODS, |n| async move { api.delete_pod(namespace, &format!("pod-{n}")).await.unwrap() }).await;
    let deletes =
        |requests: &[Received]| requests.iter().filter(|request| told(request).starts_with("deleted")).count();
    receiver.wait_for(LIMIT, |requests| deletes(requests) == PODS).await.unwrap();
    stop(k8vent).await;

    let path = format!("/api/v1/namespaces/{namespace}/pods?watch=1&timeoutSeconds=5&resourceVersion=");
    let watch = api.get_raw(&(path + start.as_str().unwrap())).await.unwrap();
    let expected = expected(std::str::from_utf8(&watch).unwrap());
    assert_eq!(expected.len(), PODS);
    let mut arrived: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for request in receiver.requests() {
        assert_eq!(request.header("content-type"), Some("application/json"));
        let (id, body) = (request.header("ce-id").unwrap().to_owned(), request.body.to_vec());
        arrived.entry(name(&request)).or_default().push((id, String::from_utf8(body).unwrap()));
    }
    for (pod, mut states) in expected {
        let arrived = &arrived[&pod];
        // Added, running, marked for deletion, deleted: see `support::requests` for the third.
        assert_eq!(states.len(), 4);
        if arrived.len() == 3 {
            states.remove(2);
        }
        assert_eq!(*arrived, states, "{pod}");
    }
}

#[tokio::test]
async fn a_start_sends_every_pod_once_over_few_connections() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("start").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let (api, to) = (&api, namespace.as_str());
    each(300, |n| async move { api.create_pod(to, &pod(n)).await.unwrap() }).await;
    let k8vent = started(&plane.kubeconfig_admin(), &namespace, &receiver, &[]).await;
    requests(&receiver, 300).await;
    stop(k8vent).await;
    assert_eq!(ids(&receiver.requests()).len(), 300);
    assert_eq!(receiver.count(), 300);
    assert!(receiver.connections() <= 16, "{} connections", receiver.connections());
}
