//! The store's JSON gateway.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use crate::control_plane::ControlPlaneError;

/// A client for etcd; it keeps its connections and belongs to the runtime that it is used on.
#[derive(Clone)]
pub struct Etcd {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

impl Etcd {
    pub(super) fn new(url: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), url: url.to_owned() }
    }

    /// Where the API server keeps a pod.
    #[must_use]
    pub fn pod_key(namespace: &str, name: &str) -> String {
        format!("/registry/pods/{namespace}/{name}")
    }

    /// Writes a value and returns the revision, which is the resource version of what was written.
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<(), ControlPlaneError> {
        let body = json!({"key": BASE64_STANDARD.encode(key), "value": BASE64_STANDARD.encode(value)});
        self.post("/v3/kv/put", &body).await.map(drop)
    }

    /// Reads a value: for a pod, the protobuf that the API server stored.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, ControlPlaneError> {
        let answer = self.post("/v3/kv/range", &json!({"key": BASE64_STANDARD.encode(key)})).await?;
        let value = answer["kvs"][0]["value"].as_str().map(|value| BASE64_STANDARD.decode(value));
        value.transpose().map_err(|error| ControlPlaneError::Etcd(error.to_string()))
    }

    /// The newest revision, which is the newest resource version.
    pub async fn revision(&self) -> Result<u64, ControlPlaneError> {
        let answer = self.post("/v3/kv/range", &json!({"key": BASE64_STANDARD.encode("/")})).await?;
        let revision = answer["header"]["revision"].as_str().and_then(|revision| revision.parse().ok());
        revision.ok_or_else(|| ControlPlaneError::Etcd(format!("no revision in {answer}")))
    }

    /// Removes every revision but the newest.
    pub async fn compact(&self) -> Result<(), ControlPlaneError> {
        let revision = self.revision().await?;
        self.post("/v3/kv/compaction", &json!({"revision": revision.to_string(), "physical": true})).await.map(drop)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, ControlPlaneError> {
        let request = Request::post(format!("{}{path}", self.url))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
            .expect("the request is well formed");
        let answer = self.client.request(request).await.map_err(|error| ControlPlaneError::Etcd(error.to_string()))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| ControlPlaneError::Etcd(error.to_string()))?;
        let body = body.to_bytes();
        if !status.is_success() {
            return Err(ControlPlaneError::Etcd(format!("{path}: {status} {}", String::from_utf8_lossy(&body))));
        }
        serde_json::from_slice(&body).map_err(|error| ControlPlaneError::Etcd(error.to_string()))
    }
}
