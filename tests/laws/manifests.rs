//! `kube/`: what it grants is enough, and no more; the pod that it makes is admitted.

use std::path::PathBuf;

use k8vent_harness::{ControlPlane, Receiver, manifest};
use serde_json::{Value, json};

use crate::support::{all_told, requests, start_with, stop};

pub(crate) fn kube(file: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kube").join(file).display().to_string()
}

/// The pod that a Deployment or `StatefulSet` of ours makes, as its controller would create it.
pub(crate) async fn pod_of(plane: &ControlPlane, file: &str) -> Value {
    let path = kube(file);
    let text = plane.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", &path]).await.unwrap();
    let deployment: Value = serde_json::from_str(&text).unwrap();
    let mut pod = deployment["spec"]["template"].clone();
    pod["metadata"]["name"] = file.trim_end_matches(".yaml").into();
    for claim in deployment["spec"]["volumeClaimTemplates"].as_array().unwrap_or(&vec![]) {
        let name = &claim["metadata"]["name"];
        let claim = json!({"claimName": format!("{}-k8vent-0", name.as_str().unwrap())});
        pod["spec"]["volumes"] = json!([{"name": name, "persistentVolumeClaim": claim}]);
    }
    pod
}

/// The ways to run k8vent.
pub(crate) const FILES: [&str; 3] = ["deployment-rbac.yaml", "deployment-no-rbac.yaml", "statefulset-rbac.yaml"];

/// All that is said of the pod twice is the same twice.
#[tokio::test]
async fn the_stateful_set_differs_from_the_deployment_in_its_volume_only() {
    let plane = ControlPlane::shared().await;
    let (mut one, mut other) = (pod_of(plane, FILES[0]).await, pod_of(plane, FILES[2]).await);
    for pod in [&mut one, &mut other] {
        pod["metadata"]["name"].take();
        let spec = pod["spec"].as_object_mut().unwrap();
        spec.remove("topologySpreadConstraints");
        spec.remove("volumes");
        spec["securityContext"].as_object_mut().unwrap().remove("fsGroup");
    }
    assert_eq!(one, other);
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
    assert_eq!(args, ["--listen=:8080", "--lease=k8vent", "--state-dir=/var/lib/k8vent"]);
    let state = tempfile::tempdir().unwrap();
    let state = format!("--state-dir={}", state.path().display());
    let url = receiver.url("/");
    // Not the port of the manifest: that may be taken here. And a kubeconfig, unlike a pod, tells no namespace.
    let k8vent = start_with(
        &account,
        &["--listen=:0", "--lease=k8vent/k8vent", &state, "--queue-bytes=0"],
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
    for file in FILES {
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
