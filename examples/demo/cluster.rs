//! The API server of the demo: a real one, or a stand-in.

use std::path::PathBuf;

use k8vent_harness::{
    Api, ControlPlane, StandIn,
    assets::{Assets, Origin},
};
use serde_json::{Value, json};

use crate::{
    Error,
    pods::{NAMESPACE, NODE, Pod},
    screen::Screen,
};

/// What users, the scheduler and the kubelet do to a pod.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// It is there, and has no node.
    Create,
    /// The scheduler gives it a node.
    Schedule,
    /// The kubelet writes its status.
    Report(fn(&mut Pod)),
    /// It is to be deleted, and is there until its containers have ended.
    MarkDeleted,
    /// It is gone.
    Remove,
}

/// An API server, and us in all those roles.
pub(crate) enum Cluster {
    /// kube-apiserver and etcd.
    Real(Box<ControlPlane>, Api),
    /// Ours, which knows pods and nothing else.
    StandIn(StandIn),
}

impl Cluster {
    pub(crate) async fn start(screen: Screen, assets: Option<Assets>) -> Result<Self, Error> {
        let Some(assets) = assets else {
            let stand_in = StandIn::start().await?;
            screen.say(format_args!(
                "API server  a stand-in at {}: it lists and watches pods as the real one does.\n            \
                 A real kube-apiserver with etcd: `cargo run --example demo -- --real` builds them, once, in about\n            \
                 five minutes (needs Go), or set KUBEBUILDER_ASSETS to a folder that has them with kubectl.",
                stand_in.url()
            ));
            return Ok(Self::StandIn(stand_in));
        };
        let origin = match assets.origin {
            Origin::KubebuilderAssets => "the folder that KUBEBUILDER_ASSETS names",
            Origin::Cache => "the cache folder, where they were built before",
            Origin::Path => "PATH",
            Origin::Built => "the build just now",
        };
        screen.say(format_args!("API server  starting kube-apiserver and etcd, from {origin} …"));
        let plane = ControlPlane::start_with(assets).await?;
        let api = plane.api().await;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        api.create("/api/v1/namespaces", &namespace).await?;
        let version = api.get("/version").await?;
        let version = version["gitVersion"].as_str().unwrap_or_default();
        screen.say(format_args!("            the real one: Kubernetes {version} at {}", plane.url()));
        Ok(Self::Real(Box::new(plane), api))
    }

    pub(crate) fn kubeconfig(&self) -> Result<PathBuf, Error> {
        match self {
            Self::Real(plane, _) => Ok(plane.kubeconfig_admin()),
            Self::StandIn(stand_in) => Ok(stand_in.kubeconfig()?),
        }
    }

    /// Ways to look at it, and to change something, from another terminal.
    pub(crate) fn commands(&self) -> Result<Vec<String>, Error> {
        let kubeconfig = self.kubeconfig()?;
        Ok(match self {
            Self::Real(plane, _) => {
                let kubectl = format!(
                    "{} --kubeconfig={} -n {NAMESPACE}",
                    plane.assets().kubectl.display(),
                    kubeconfig.display()
                );
                vec![
                    format!("{kubectl} get pods"),
                    format!("{kubectl} get --raw /api/v1/namespaces/{NAMESPACE}/pods"),
                    format!("{kubectl} run mine --image=nginx --restart=Never"),
                    format!("{kubectl} annotate pod cart note=hello"),
                    format!("{kubectl} delete pod mine --force"),
                ]
            }
            Self::StandIn(stand_in) => {
                let pods = format!("{}/api/v1/namespaces/{NAMESPACE}/pods", stand_in.url());
                vec![
                    format!("curl -s {pods}"),
                    format!(
                        r#"curl -s {pods} -d '{{"metadata": {{"name": "mine"}}, "status": {{"phase": "Pending"}}}}'"#
                    ),
                    format!("curl -s -X DELETE {pods}/mine"),
                ]
            }
        })
    }

    /// Makes a change and gives the version that it made, or `deleted`.
    pub(crate) async fn make(&self, change: Change, pod: &mut Pod) -> Result<String, Error> {
        match change {
            Change::Create => self.create(pod).await,
            Change::Schedule => self.schedule(pod).await,
            Change::Report(status) => {
                status(pod);
                self.report(pod).await
            }
            Change::MarkDeleted => self.mark_deleted(pod).await,
            Change::Remove => self.remove(pod).await,
        }
    }

    async fn create(&self, pod: &Pod) -> Result<String, Error> {
        match self {
            Self::Real(_, api) => Ok(version(&api.create_pod(NAMESPACE, &pod.json).await?)),
            Self::StandIn(stand_in) => Ok(stand_in.create(&pod.json).to_string()),
        }
    }

    async fn schedule(&self, pod: &mut Pod) -> Result<String, Error> {
        pod.json["spec"]["nodeName"] = json!(NODE);
        match self {
            Self::Real(_, api) => {
                let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}/binding", pod.name);
                let target = json!({"apiVersion": "v1", "kind": "Node", "name": NODE});
                let metadata = json!({"name": pod.name});
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target});
                api.create(&path, &binding).await?;
                Ok(version(&api.get_pod(NAMESPACE, pod.name).await?))
            }
            Self::StandIn(stand_in) => Ok(stand_in.update(&pod.json).to_string()),
        }
    }

    async fn report(&self, pod: &Pod) -> Result<String, Error> {
        match self {
            Self::Real(_, api) => Ok(version(&api.patch_status(NAMESPACE, pod.name, &pod.json["status"]).await?)),
            Self::StandIn(stand_in) => Ok(stand_in.update(&pod.json).to_string()),
        }
    }

    async fn mark_deleted(&self, pod: &mut Pod) -> Result<String, Error> {
        match self {
            Self::Real(plane, api) => {
                plane.kubectl(&["delete", "pod", pod.name, "--namespace", NAMESPACE, "--wait=false"]).await?;
                Ok(version(&api.get_pod(NAMESPACE, pod.name).await?))
            }
            Self::StandIn(stand_in) => {
                pod.json["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:15:00Z");
                pod.json["metadata"]["deletionGracePeriodSeconds"] = json!(30);
                Ok(stand_in.update(&pod.json).to_string())
            }
        }
    }

    async fn remove(&self, pod: &Pod) -> Result<String, Error> {
        match self {
            Self::Real(_, api) => drop(api.delete_pod(NAMESPACE, pod.name).await?),
            Self::StandIn(stand_in) => drop(stand_in.delete(NAMESPACE, pod.name)),
        }
        Ok("deleted".to_owned())
    }
}

fn version(pod: &Value) -> String {
    pod["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}
