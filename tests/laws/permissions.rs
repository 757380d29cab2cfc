//! What k8vent may do, and what it says when it may not.

use k8vent_harness::{ControlPlane, Receiver, manifest};
use serde_json::json;

use crate::support::{LIMIT, all_told, requests, start, stop};

#[tokio::test]
async fn without_rights_the_log_says_what_is_missing_and_when_they_are_granted_it_goes_on() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("forbidden").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    api.create_pod(&namespace, &manifest::pod("a")).await.unwrap();
    let kubeconfig = plane.kubeconfig_for_user("mallory", &[]);
    let url = format!("--url={}", receiver.url("/"));
    let k8vent = start(&kubeconfig, &[&url, "-n", &namespace]);
    let log = k8vent.wait_for_log(LIMIT, |log| log["message"] == "cannot read pods").await.unwrap();
    let error = log["error"].as_str().unwrap();
    for part in ["403", "mallory", "get, list and watch on pods", "kube/rbac.yaml"] {
        assert!(error.contains(part), "{error}");
    }
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "pods"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "pods"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    });
    let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
    api.create(&format!("{path}/roles"), &role).await.unwrap();
    api.create(&format!("{path}/rolebindings"), &binding).await.unwrap();
    requests(&receiver, 1).await;
    stop(k8vent).await;
    assert_eq!(all_told(&receiver.requests()), ["added a"]);
}
