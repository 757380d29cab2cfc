//! Watches break, API servers die and forget: nothing is lost, and nothing that did not change is sent again.

use k8vent_harness::{Api, ControlPlane, Receiver, manifest};

use crate::support::{LIMIT, all_told, requests, started, stop};

async fn create(api: &Api, namespace: &str, names: &[&str]) {
    for name in names {
        api.create_pod(namespace, &manifest::pod(name)).await.unwrap();
    }
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("cut").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["same", "changed"]).await;
    let k8vent = started(&plane.kubeconfig_admin(), &namespace, &receiver, &[]).await;
    requests(&receiver, 2).await;
    for round in 0..5 {
        plane.front().cut();
        api.set_phase(&namespace, "changed", if round % 2 == 0 { "Running" } else { "Pending" }).await.unwrap();
        requests(&receiver, 3 + round).await;
    }
    plane.front().cut();
    api.delete_pod(&namespace, "changed").await.unwrap();
    requests(&receiver, 8).await;
    stop(k8vent).await;
    let updates = ["updated changed"; 5];
    let expected = [&["added changed", "added same", "deleted changed"][..], &updates].concat();
    assert_eq!(all_told(&receiver.requests()), expected);
}

#[tokio::test]
async fn an_api_server_that_is_killed_and_comes_back_costs_nothing() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("killed").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["same", "changed", "deleted"]).await;
    let k8vent = started(&plane.kubeconfig_admin(), &namespace, &receiver, &[]).await;
    requests(&receiver, 3).await;
    plane.restart_apiserver().await.unwrap();
    let api = plane.api().await;
    api.set_phase(&namespace, "changed", "Running").await.unwrap();
    api.delete_pod(&namespace, "deleted").await.unwrap();
    create(&api, &namespace, &["new"]).await;
    requests(&receiver, 6).await;
    assert!(k8vent.logs().iter().all(|log| log["level"] != "ERROR"), "nothing was lost: {:?}", k8vent.logs());
    stop(k8vent).await;
    let expected = ["added changed", "added deleted", "added new", "added same", "deleted deleted", "updated changed"];
    assert_eq!(all_told(&receiver.requests()), expected);
}

#[tokio::test]
async fn when_the_api_server_has_forgotten_what_changed_and_what_vanished_is_told() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("forgotten").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    create(&api, &namespace, &["same", "changed", "deleted", "replaced"]).await;
    let k8vent = started(&plane.kubeconfig_admin(), &namespace, &receiver, &[]).await;
    requests(&receiver, 4).await;
    plane.front().set_target(None);
    plane.front().cut();
    api.set_phase(&namespace, "changed", "Running").await.unwrap();
    api.delete_pod(&namespace, "deleted").await.unwrap();
    api.delete_pod(&namespace, "replaced").await.unwrap();
    create(&api, &namespace, &["replaced", "new"]).await;
    plane.forget_history().await.unwrap();
    requests(&receiver, 9).await;
    let told = |log: &serde_json::Value| log["message"] == "the watch cannot go on where it was: listing all pods";
    k8vent.wait_for_log(LIMIT, told).await.unwrap();
    let api = plane.api().await;
    api.delete_pod(&namespace, "same").await.unwrap();
    requests(&receiver, 10).await;
    stop(k8vent).await;
    let mut expected = vec!["added same", "added changed", "added deleted", "added replaced"];
    expected.extend(["updated changed", "deleted deleted", "deleted replaced", "added replaced", "added new"]);
    expected.push("deleted same");
    expected.sort_unstable();
    assert_eq!(all_told(&receiver.requests()), expected);
    let missed = receiver.requests().into_iter().find(|request| crate::support::told(request) == "deleted deleted");
    let pod = missed.unwrap().json()["pod"].take();
    assert_eq!(pod["metadata"]["namespace"], namespace.as_str());
    assert_eq!(pod["status"]["phase"], "Deleted");
}
