//! `kube/`: what it grants is enough, and no more; the pod that it makes is admitted.

use std::path::PathBuf;

use k8vent_harness::{ControlPlane, Receiver, manifest};
use serde_json::{Value, json};

use crate::support::{all_told, requests, start_with, stop};

pub(crate) fn kube(file: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kube").join(file).display().to_string()
}

/// The pod that a Deployment of ours makes, as its controller would create it.
pub(crate) async fn pod_of(plane: &ControlPlane, file: &str) -> Value {
    let path = kube(file);
    let text = plane.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", &path]).await.unwrap();
    let deployment: Value = serde_json::from_str(&text).unwrap();
    let mut pod = deployment["spec"]["template"].clone();
    pod["metadata"]["name"] = file.trim_end_matches(".yaml").into();
    pod
}

#[tokio::test]
async fn the_manifests_grant_enough_to_run_and_nothing_else() {
    let plane = ControlPlane::start().await.unwrap();
    let folder = kube("");
    plane.kubectl(&["apply", "-k", &folder]).await.unwrap();
    let account = plane.kubeconfig_for_service_account("k8vent", "k8vent").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let namespace = plane.namespace("workload").await.unwrap();
    let pod = pod_of(&plane, "deployment-rbac.yaml").await;
    let args: Vec<String> = serde_json::from_value(pod["spec"]["containers"][0]["args"].clone()).unwrap();
    assert_eq!(args, ["--listen=:8080", "--lease=k8vent"]);
    let url = receiver.url("/");
    // Not the port of the manifest: that may be taken here. And a kubeconfig, unlike a pod, tells no namespace.
    let k8vent = start_with(
        &account,
        &["--listen=:0", "--lease=k8vent/k8vent", "--queue-bytes=0"],
        &[("K8VENT_WEBHOOKS", &url)],
    );
    api.create_pod(&namespace, &manifest::pod("a")).await.unwrap();
    requests(&receiver, 1).await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added a"]);

    let (mut may, of_all) = (rights(&plane, "k8vent").await, rights(&plane, "default").await);
    may.retain(|right| !of_all.contains(right));
    let leases = "leases.coordination.k8s.io [] ";
    assert_eq!(
        may,
        [&format!("{leases}[] [create]"), "pods [] [] [get list watch]", &format!("{leases}[k8vent] [get update]")]
    );
}

/// What a service account of the namespace k8vent may do, a line for each resource.
async fn rights(plane: &ControlPlane, account: &str) -> Vec<String> {
    let who = format!("--as=system:serviceaccount:k8vent:{account}");
    let list = plane.kubectl(&["auth", "can-i", "--list", "--no-headers", "--namespace=k8vent", &who]).await.unwrap();
    list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn the_pod_is_admitted_where_only_restricted_ones_are() {
    let plane = ControlPlane::start().await.unwrap();
    let api = plane.api().await;
    plane.kubectl(&["apply", "-f", &kube("namespace.yaml"), "-f", &kube("rbac.yaml")]).await.unwrap();
    for file in ["deployment-rbac.yaml", "deployment-no-rbac.yaml"] {
        plane.kubectl(&["apply", "-f", &kube(file)]).await.unwrap();
        let pod = pod_of(&plane, file).await;
        api.create_pod("k8vent", &pod).await.unwrap();
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > 20, "longer than the drain");
    }
    let bad = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"},
        "spec": {"containers": [{"name": "bad", "image": "bad"}]},
    });
    let error = api.create_pod("k8vent", &bad).await.unwrap_err();
    assert_eq!(error.status().unwrap(), 403, "others are refused there");
}
