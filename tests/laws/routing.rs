//! Pods go where they are to go, and nowhere else.

use k8vent_harness::{ControlPlane, Receiver, manifest};
use serde_json::{Value, json};

use crate::support::{LIMIT, all_told, requests, start, started, stop};

fn annotated(name: &str, annotation: &str) -> Value {
    let mut pod = manifest::pod(name);
    pod["metadata"]["annotations"]["atomist.com/k8vent"] = annotation.into();
    pod
}

#[tokio::test]
async fn annotated_pods_go_only_where_their_annotations_say_the_delete_too() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("annotated").await.unwrap();
    let api = plane.api().await;
    let global = Receiver::http().await.unwrap();
    let own = [Receiver::http().await.unwrap(), Receiver::http().await.unwrap()];
    let k8vent = started(&plane.kubeconfig_admin(), &namespace, &global, &[]).await;
    for (name, receiver) in [("a", &own[0]), ("b", &own[1])] {
        let annotation = json!({"webhooks": [receiver.url("/own")], "environment": "mine", "later": 1}).to_string();
        api.create_pod(&namespace, &annotated(name, &annotation)).await.unwrap();
    }
    api.create_pod(&namespace, &manifest::pod("plain")).await.unwrap();
    for name in ["a", "b", "plain"] {
        api.set_phase(&namespace, name, "Running").await.unwrap();
        api.delete_pod(&namespace, name).await.unwrap();
    }
    let last = |name: &str| format!("deleted {name}");
    for (receiver, name) in [(&own[0], "a"), (&own[1], "b"), (&global, "plain")] {
        receiver
            .wait_for(LIMIT, |requests| all_told(requests).contains(&last(name)))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    }
    stop(k8vent).await;
    for (receiver, name) in [(&own[0], "a"), (&own[1], "b"), (&global, "plain")] {
        let told = all_told(&receiver.requests());
        assert!(told.iter().all(|told| told.ends_with(&format!(" {name}"))), "{told:?}");
        assert_eq!(told.iter().filter(|told| **told == last(name)).count(), 1);
    }
    for request in own[0].requests() {
        assert_eq!(request.json()["env"], json!({"ATOMIST_ENVIRONMENT": "mine", "GREETING": "h\"é"}));
    }
}

#[tokio::test]
async fn a_malformed_annotation_is_ignored_with_one_warning_that_names_the_pod() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("malformed").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let k8vent = started(&plane.kubeconfig_admin(), &namespace, &receiver, &[]).await;
    api.create_pod(&namespace, &annotated("bad", r#"{"webhooks": "https://secret.example/token"}"#)).await.unwrap();
    requests(&receiver, 1).await;
    api.set_phase(&namespace, "bad", "Running").await.unwrap();
    requests(&receiver, 2).await;
    api.create_pod(&namespace, &annotated("relative", r#"{"webhooks": ["/hook", "ftp://x/"]}"#)).await.unwrap();
    k8vent.wait_for_log(LIMIT, |log| log["message"] == "webhook URL in annotation refused").await.unwrap();
    let warnings =
        k8vent.logs().into_iter().filter(|log| log["level"] == "WARN" && log["message"] == "annotation ignored");
    let warnings: Vec<_> = warnings.collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["pod"], format!("{namespace}/bad"));
    assert!(!warnings[0].to_string().contains("secret.example"));
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added bad", "updated bad"]);
}

#[tokio::test]
async fn only_pods_of_the_namespaces_and_labels_asked_for_are_read() {
    let plane = ControlPlane::shared().await;
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let mut namespaces = Vec::new();
    for prefix in ["one", "two", "three"] {
        let namespace = plane.namespace(prefix).await.unwrap();
        for (name, tier) in [("web", "front"), ("db", "back")] {
            let mut pod = manifest::pod(&format!("{prefix}-{name}"));
            pod["metadata"]["labels"]["tier"] = tier.into();
            api.create_pod(&namespace, &pod).await.unwrap();
        }
        namespaces.push(namespace);
    }
    let url = format!("--url={}", receiver.url("/"));
    let first_two = format!("{},{}", namespaces[0], namespaces[1]);
    let k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &first_two, "-l", "tier in (front)"]);
    requests(&receiver, 2).await;
    api.delete_pod(&namespaces[1], "two-web").await.unwrap();
    api.delete_pod(&namespaces[1], "two-db").await.unwrap();
    requests(&receiver, 3).await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added one-web", "added two-web", "deleted two-web"]);
}

#[tokio::test]
async fn without_global_webhooks_only_annotated_pods_are_sent() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("only").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let annotation = json!({"webhooks": [receiver.url("/")]}).to_string();
    api.create_pod(&namespace, &manifest::pod("plain")).await.unwrap();
    api.create_pod(&namespace, &annotated("own", &annotation)).await.unwrap();
    let k8vent = start(&plane.kubeconfig_admin(), &["--pod-webhooks-only", "-n", &namespace]);
    requests(&receiver, 1).await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added own"]);
}
