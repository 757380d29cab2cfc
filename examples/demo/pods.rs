//! The pods of the scene, and what a kubelet would say of them.

use k8vent_harness::manifest;
use serde_json::{Value, json};

/// Where all of them are.
pub(crate) const NAMESPACE: &str = "shop";

/// Where all of them are to run.
pub(crate) const NODE: &str = "node-a";

/// A pod of the usual size, with two containers: its own, and a proxy.
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) json: Value,
}

impl Pod {
    /// A pod that nobody has given a node.
    pub(crate) fn new(name: &'static str) -> Self {
        let mut json = manifest::pod(name);
        json["metadata"]["namespace"] = json!(NAMESPACE);
        json["spec"]["containers"][0]["name"] = json!(name);
        json["spec"].as_object_mut().expect("a pod has a spec").remove("nodeName");
        json["status"] = json!({"phase": "Pending"});
        Self { name, json }
    }

    /// Names the webhook that alone is to be told of this pod.
    pub(crate) fn with_webhook(mut self, url: &str) -> Self {
        self.json["metadata"]["annotations"]["atomist.com/k8vent"] = json!({"webhooks": [url]}).to_string().into();
        self
    }

    pub(crate) fn names_a_webhook(&self) -> bool {
        self.json["metadata"]["annotations"]["atomist.com/k8vent"].is_string()
    }

    /// Namespace and name.
    pub(crate) fn full_name(&self) -> String {
        format!("{NAMESPACE}/{}", self.name)
    }

    /// The image is being pulled.
    pub(crate) fn starts(&mut self) {
        let mut status = running(self.name);
        status["phase"] = json!("Pending");
        for container in status["containerStatuses"].as_array_mut().into_iter().flatten() {
            container["ready"] = json!(false);
            container["started"] = json!(false);
            container["state"] = json!({"waiting": {"reason": "ContainerCreating"}});
        }
        self.set(status);
    }

    /// Both containers are ready.
    pub(crate) fn runs(&mut self) {
        self.set(running(self.name));
    }

    /// The first container has used more memory than it may.
    pub(crate) fn crashes(&mut self) {
        let mut status = running(self.name);
        fail(&mut status, json!({"terminated": killed()}));
        self.set(status);
    }

    /// It was started once more, and ended again; the kubelet waits before the next try.
    pub(crate) fn backs_off(&mut self) {
        let mut status = running(self.name);
        let message = "back-off 10s restarting failed container";
        fail(&mut status, json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}}));
        restarted(&mut status);
        self.set(status);
    }

    /// It runs again, and its status remembers that it did not.
    pub(crate) fn recovers(&mut self) {
        let mut status = running(self.name);
        restarted(&mut status);
        self.set(status);
    }

    fn set(&mut self, status: Value) {
        self.json["status"] = status;
    }
}

fn running(name: &str) -> Value {
    let mut status = manifest::running_status();
    status["containerStatuses"][0]["name"] = json!(name);
    status
}

fn fail(status: &mut Value, state: Value) {
    let container = &mut status["containerStatuses"][0];
    container["ready"] = json!(false);
    container["started"] = json!(false);
    container["state"] = state;
}

fn restarted(status: &mut Value) {
    let container = &mut status["containerStatuses"][0];
    container["restartCount"] = json!(1);
    container["lastState"] = json!({"terminated": killed()});
}

fn killed() -> Value {
    json!({
        "reason": "OOMKilled", "exitCode": 137,
        "startedAt": "2026-01-02T03:04:05Z", "finishedAt": "2026-01-02T03:14:15Z",
    })
}
