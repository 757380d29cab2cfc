//! Certificates and kubeconfigs of a control plane.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::pki::{self, Authority, Identity};

/// Writes kubeconfigs into the folder of the control plane.
pub(super) struct Kubeconfigs {
    /// An administrator's, by way of the front.
    pub(super) admin: PathBuf,
    /// An administrator's, by the way that tests do not disturb.
    pub(super) behind: PathBuf,
    authority: Authority,
    ca_pem: String,
    front: SocketAddr,
    folder: PathBuf,
    next: AtomicU64,
}

impl Kubeconfigs {
    /// Also writes the files that the API server is started with.
    pub(super) fn create(folder: &Path, front: SocketAddr, back: SocketAddr) -> io::Result<Self> {
        let authority = Authority::new("k8vent-harness");
        let ca_pem = authority.pem();
        let server = authority.server(&["127.0.0.1", "localhost", "kubernetes.default.svc"]);
        let (signing_key, verifying_key) = pki::signing_key();
        for (name, content) in [
            ("ca.crt", &ca_pem),
            ("apiserver.crt", &server.certificate),
            ("apiserver.key", &server.key),
            ("service-account.key", &signing_key),
            ("service-account.pub", &verifying_key),
        ] {
            fs::write(folder.join(name), content)?;
        }
        let none = PathBuf::new();
        let (folder, next) = (folder.to_owned(), AtomicU64::new(1));
        let mut this = Self { admin: none.clone(), behind: none, authority, ca_pem, front, folder, next };
        this.admin = this.admin_at(front);
        this.behind = this.admin_at(back);
        Ok(this)
    }

    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(super) fn admin_at(&self, address: SocketAddr) -> PathBuf {
        let identity = self.authority.client("admin", &["system:masters"]);
        self.write(address, &certificate(&identity))
    }

    pub(super) fn user(&self, name: &str, groups: &[&str]) -> PathBuf {
        self.write(self.front, &certificate(&self.authority.client(name, groups)))
    }

    pub(super) fn token(&self, token: &str) -> PathBuf {
        self.write(self.front, &json!({"token": token}))
    }

    /// JSON is YAML, so every reader of kubeconfigs takes it.
    fn write(&self, server: SocketAddr, user: &Value) -> PathBuf {
        let ca = BASE64_STANDARD.encode(&self.ca_pem);
        let cluster = json!({"server": format!("https://{server}"), "certificate-authority-data": ca});
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "harness", "cluster": cluster}],
            "users": [{"name": "harness", "user": user}],
            "contexts": [{"name": "harness", "context": {"cluster": "harness", "user": "harness"}}],
            "current-context": "harness",
        });
        let file = self.folder.join(format!("kubeconfig-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, content.to_string()).expect("the folder of the control plane can be written");
        file
    }
}

fn certificate(identity: &Identity) -> Value {
    json!({
        "client-certificate-data": BASE64_STANDARD.encode(&identity.certificate),
        "client-key-data": BASE64_STANDARD.encode(&identity.key),
    })
}
