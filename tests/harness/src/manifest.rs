//! A pod as clusters have them: about 6 kB of JSON, 10 kB with `managedFields`.

use serde_json::{Map, Value, json};

/// The value of the annotation `k8vent.test/counter`: ten bytes that occur nowhere else in the pod, to be replaced by
/// ten others in its stored form.
pub const COUNTER: &[u8; 10] = b"0000000000";

/// Annotations hold JSON in a string more often than not.
const SIDECAR: &str = r#"{"initContainers":null,"containers":["proxy"],"volumes":["workload-socket","credential-socket",
"workload-certs","proxy-envoy","proxy-data","proxy-podinfo","proxy-token","proxy-ca-cert"],"imagePullSecrets":null,
"revision":"default","template":"sidecar","checksum":"8a1cbe3f6d9427b5e0c4d8f1a6b3927c5e8d0f4b1a7c6932d5e8f0b4a1c7d693",
"values":{"logLevel":"warning","componentLogLevel":"misc:error","concurrency":2,"holdApplicationUntilProxyStarts":true}}"#;

/// The manifest of a pod: two containers, volumes, tolerations, labels and annotations.
#[must_use]
pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/name": "checkout",
                "app.kubernetes.io/instance": name,
                "app.kubernetes.io/version": "2.14.3",
                "app.kubernetes.io/part-of": "shop",
                "app.kubernetes.io/managed-by": "helm",
                "pod-template-hash": "6d4cf56db6",
            },
            "annotations": {
                "k8vent.test/counter": String::from_utf8_lossy(COUNTER),
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "9102",
                "checksum/config": "5f1c9d7e0a3b4c2d8e6f7a9b0c1d2e3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b8c9d",
                "sidecar.example/status": SIDECAR,
                "example.com/description": "Takes orders <and> payments & sends “receipts”\nwith umlauts: äöü",
            },
        },
        "spec": {
            "containers": [
                container("checkout", "registry.example/shop/checkout:2.14.3"),
                container("proxy", "registry.example/mesh/proxy:1.9.0"),
            ],
            "volumes": [
                {"name": "config", "configMap": {"name": "checkout-config", "defaultMode": 420}},
                {"name": "tls", "secret": {"secretName": "checkout-tls", "defaultMode": 420}},
                {"name": "scratch", "emptyDir": {"sizeLimit": "256Mi"}},
            ],
            "nodeName": "node-a",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 30,
            "tolerations": tolerations(),
            "topologySpreadConstraints": [{
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "checkout"}},
            }],
        },
    })
}

/// A pod as an API server stores it once it runs: status and `managedFields` included, about 10 kB.
///
/// It lacks what a server gives out: `uid`, `resourceVersion`.
#[must_use]
pub fn stored_pod(namespace: &str, name: &str) -> Value {
    let mut stored = pod(name);
    let fields = |of: &Value| json!({"f:metadata": fields_of(&of["metadata"]), "f:spec": fields_of(&of["spec"])});
    let entry = |manager: &str, fields: Value| {
        json!({
            "manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields,
        })
    };
    let status = running_status();
    let managed = [entry("helm", fields(&stored)), entry("kubelet", json!({"f:status": fields_of(&status)}))];
    stored["metadata"]["namespace"] = json!(namespace);
    stored["metadata"]["managedFields"] = json!(managed);
    stored["status"] = status;
    stored
}

/// A pod of at least so many bytes: what exceeds is in one annotation, which a real API server would not take.
#[must_use]
pub fn huge_pod(name: &str, bytes: usize) -> Value {
    let mut huge = pod(name);
    huge["metadata"]["annotations"]["k8vent.test/huge"] = "x".repeat(bytes).into();
    huge
}

/// The status that a kubelet writes for [`pod`] when its containers run.
#[must_use]
pub fn running_status() -> Value {
    let containers = ["checkout", "proxy"].map(|name| {
        json!({
            "name": name, "ready": true, "started": true, "restartCount": 0,
            "image": format!("registry.example/shop/{name}:2.14.3"),
            "imageID": format!("registry.example/shop/{name}@sha256:{:064x}", 7),
            "containerID": format!("containerd://{:064x}", 9),
            "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}},
        })
    });
    json!({"phase": "Running", "podIP": "10.1.2.3", "containerStatuses": containers})
}

/// The shape of `managedFields`: a tree of the names of fields.
fn fields_of(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, field)| (format!("f:{name}"), fields_of(field))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) if items.iter().all(|item| item.get("name").is_some()) => {
            let key = |item: &Value| format!(r#"k:{{"name":{}}}"#, item["name"]);
            items.iter().map(|item| (key(item), fields_of(item))).collect::<Map<_, _>>().into()
        }
        _ => json!({}),
    }
}

/// Replaces bytes in a pod's stored form, which is protobuf: only what has the same length leaves it readable.
///
/// # Panics
///
/// When there is nothing to replace.
#[must_use]
pub fn replace_in_stored(stored: &[u8], old: &[u8; 10], new: &[u8; 10]) -> Vec<u8> {
    let mut changed = stored.to_vec();
    let starts: Vec<_> = (0..stored.len().saturating_sub(9)).filter(|at| stored[*at..].starts_with(old)).collect();
    assert!(!starts.is_empty(), "the stored pod does not have {:?}", String::from_utf8_lossy(old));
    for start in starts {
        changed[start..start + new.len()].copy_from_slice(new);
    }
    changed
}

fn container(name: &str, image: &str) -> Value {
    json!({
        "name": name,
        "image": image,
        "args": ["--config=/etc/checkout/config.yaml", "--listen=:8443", "--metrics=:9102"],
        "ports": [
            {"name": format!("{name:.7}-web"), "containerPort": 8443, "protocol": "TCP"},
            {"name": format!("{name:.7}-met"), "containerPort": 9102, "protocol": "TCP"},
        ],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "checkout-db", "key": "url"}}},
            {"name": "LOG_LEVEL", "value": "info"},
            {"name": "JAVA_OPTS", "value": "-XX:MaxRAMPercentage=75 -Dfile.encoding=UTF-8"},
        ],
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/checkout", "readOnly": true},
            {"name": "tls", "mountPath": "/etc/tls", "readOnly": true},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "livenessProbe": probe("/livez"),
        "readinessProbe": probe("/readyz"),
    })
}

fn probe(path: &str) -> Value {
    json!({"httpGet": {"path": path, "port": 8443, "scheme": "HTTPS"}, "periodSeconds": 10, "timeoutSeconds": 2})
}

fn tolerations() -> Value {
    let toleration = |key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    json!([toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ControlPlane;

    #[tokio::test]
    async fn a_stored_pod_is_of_the_size_that_the_figures_are_for() {
        let plane = ControlPlane::shared().await;
        let (api, namespace) = (plane.api().await, plane.namespace("size").await.unwrap());
        api.create_pod(&namespace, &pod("sized")).await.unwrap();
        let mut whole = api.patch_status(&namespace, "sized", &running_status()).await.unwrap();
        let with_managed_fields = whole.to_string().len();
        whole["metadata"].as_object_mut().unwrap().remove("managedFields");
        let without = whole.to_string().len();
        assert!((5_500..6_800).contains(&without), "{without} {with_managed_fields}");
        assert!((9_000..11_500).contains(&with_managed_fields), "{without} {with_managed_fields}");
    }

    #[test]
    fn a_pod_stored_by_the_stand_in_is_as_large_as_a_real_one() {
        let bytes = stored_pod("default", "sized").to_string().len();
        assert!((9_000..11_500).contains(&bytes), "{bytes}");
    }
}
