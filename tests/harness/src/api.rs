//! A small client to the API server for tests: JSON in, JSON out.

use std::path::Path;

use bytes::Bytes;
use http::{
    Method, Request, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

/// A request that the API server refused, or that never reached it.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path}")]
pub struct ApiError {
    method: Method,
    path: String,
    #[source]
    cause: Box<kube::Error>,
}

impl ApiError {
    /// The HTTP status that the API server answered with, if it did.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match &*self.cause {
            kube::Error::Api(status) => StatusCode::from_u16(status.code).ok(),
            _ => None,
        }
    }
}

/// A client that belongs to the runtime that it is made on.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

impl Api {
    /// A client for the current context of a kubeconfig.
    pub async fn from_kubeconfig(file: &Path) -> Result<Self, kube::Error> {
        let kubeconfig = Kubeconfig::read_from(file).map_err(kube::Error::InferKubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(kube::Error::InferKubeconfig)?;
        Ok(Self { client: Client::try_from(config)? })
    }

    /// The `kube` client underneath.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates a pod, in the namespace that is named.
    pub async fn create_pod(&self, namespace: &str, pod: &Value) -> Result<Value, ApiError> {
        self.create(&pods(namespace), pod).await
    }

    /// Changes a pod by a merge patch.
    pub async fn patch_pod(&self, namespace: &str, name: &str, patch: &Value) -> Result<Value, ApiError> {
        self.patch(&pod(namespace, name), patch).await
    }

    /// Changes a pod's status by a merge patch, as a kubelet does.
    pub async fn patch_status(&self, namespace: &str, name: &str, status: &Value) -> Result<Value, ApiError> {
        self.patch(&format!("{}/status", pod(namespace, name)), &json!({"status": status})).await
    }

    /// Sets a pod's `status.phase`.
    pub async fn set_phase(&self, namespace: &str, name: &str, phase: &str) -> Result<Value, ApiError> {
        self.patch_status(namespace, name, &json!({"phase": phase})).await
    }

    /// Deletes a pod at once, without a grace period, and returns its last state.
    pub async fn delete_pod(&self, namespace: &str, name: &str) -> Result<Value, ApiError> {
        self.delete(&pod(namespace, name)).await
    }

    /// Reads a pod.
    pub async fn get_pod(&self, namespace: &str, name: &str) -> Result<Value, ApiError> {
        self.get(&pod(namespace, name)).await
    }

    /// Reads a pod as the API server writes it, to the byte.
    pub async fn get_pod_raw(&self, namespace: &str, name: &str) -> Result<Bytes, ApiError> {
        self.get_raw(&pod(namespace, name)).await
    }

    /// Reads the list of a namespace's pods, the whole list object.
    pub async fn list_pods(&self, namespace: &str) -> Result<Value, ApiError> {
        self.get(&pods(namespace)).await
    }

    /// Creates any object: `path` is that of its collection.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(Method::POST, path, "application/json", object).await
    }

    /// Changes any object by a merge patch.
    pub async fn patch(&self, path: &str, change: &Value) -> Result<Value, ApiError> {
        self.send(Method::PATCH, path, "application/merge-patch+json", change).await
    }

    /// Replaces any object, if it is still of the version that the new one names.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(Method::PUT, path, "application/json", object).await
    }

    /// Deletes any object at once.
    pub async fn delete(&self, path: &str) -> Result<Value, ApiError> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        self.send(Method::DELETE, path, "application/json", &options).await
    }

    /// Reads anything; the path may have a query.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.get_raw(path).await.map(|body| parse(&body))
    }

    /// Reads anything as the API server writes it, to the byte.
    ///
    /// A watch ends only by its `timeoutSeconds`: give one.
    pub async fn get_raw(&self, path: &str) -> Result<Bytes, ApiError> {
        self.request(Method::GET, path, "application/json", Vec::new()).await
    }

    async fn send(&self, method: Method, path: &str, content: &str, body: &Value) -> Result<Value, ApiError> {
        let body = serde_json::to_vec(body).expect("a value can be written");
        self.request(method, path, content, body).await.map(|body| parse(&body))
    }

    async fn request(&self, method: Method, path: &str, content: &str, body: Vec<u8>) -> Result<Bytes, ApiError> {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(CONTENT_TYPE, content)
            .header(ACCEPT, "application/json")
            .body(body)
            .expect("the path is well formed");
        let failed = |cause| ApiError { method, path: path.to_owned(), cause: Box::new(cause) };
        self.client.request_text(request).await.map(Bytes::from).map_err(failed)
    }
}

fn pods(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

fn pod(namespace: &str, name: &str) -> String {
    format!("{}/{name}", pods(namespace))
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("the API server writes JSON")
}
