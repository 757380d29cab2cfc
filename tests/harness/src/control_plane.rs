//! A real etcd and a real kube-apiserver on loopback, with RBAC on.

mod error;
mod etcd;
mod kubeconfig;
mod server;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell};

pub use crate::control_plane::{error::ControlPlaneError, etcd::Etcd};
use crate::{
    Api,
    assets::{self, Assets},
    control_plane::{
        kubeconfig::Kubeconfigs,
        server::{ApiServer, EtcdServer},
    },
    forwarder::Forwarder,
};

/// A running control plane; both processes are killed when it is dropped, and when the test process ends in any way.
///
/// There is no controller manager, no scheduler and no kubelet: a namespace that is deleted stays "Terminating", nothing
/// sets a pod's phase but the test, pods need no service account to be created, and the aggregated roles (`view`, `edit`,
/// `admin`) are empty.
///
/// Clients under test reach the API server through [`front`](Self::front), whose address survives a restart and which
/// tests can cut and stall. The test's own clients ([`api`](Self::api), [`kubectl`](Self::kubectl)) go by another way
/// that is never disturbed.
pub struct ControlPlane {
    // In the order in which they have to go: the API server before its store, the folder last.
    apiserver: Mutex<Option<ApiServer>>,
    etcd: EtcdServer,
    front: Forwarder,
    back: Forwarder,
    kubeconfigs: Kubeconfigs,
    assets: Assets,
    folder: TempDir,
}

impl ControlPlane {
    /// Starts a control plane of the caller's own, for tests that restart it or make it forget.
    pub async fn start() -> Result<Self, ControlPlaneError> {
        let assets = tokio::task::spawn_blocking(assets::find_or_build).await.expect("the search does not panic")?;
        Self::start_with(assets).await
    }

    /// Starts a control plane from binaries that are known already.
    pub async fn start_with(assets: Assets) -> Result<Self, ControlPlaneError> {
        let folder = tempfile::Builder::new().prefix("k8vent-controlplane-").tempdir()?;
        let front = Forwarder::start(None).await?;
        let back = Forwarder::start(None).await?;
        let kubeconfigs = Kubeconfigs::create(folder.path(), front.address(), back.address())?;
        let etcd = EtcdServer::start(&assets.etcd, folder.path()).await?;
        let apiserver = Mutex::new(None);
        let this = Self { apiserver, etcd, front, back, kubeconfigs, assets, folder };
        this.start_apiserver().await?;
        Ok(this)
    }

    /// The control plane that all tests of this process share, in namespaces of their own.
    ///
    /// It is started by the first that asks and stops with the process. Do not restart, hold or compact it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        let start = || async { Self::start().await.unwrap_or_else(|error| panic!("{error}")) };
        SHARED.get_or_init(start).await
    }

    /// Kills the API server as a crash would. Its address refuses nothing, but closes every connection at once.
    pub async fn stop_apiserver(&self) {
        self.set_target(None);
        *self.apiserver.lock().await = None;
        self.front.cut();
        self.back.cut();
    }

    /// Starts the API server (again) behind the same address, and returns once it is ready.
    pub async fn start_apiserver(&self) -> Result<(), ControlPlaneError> {
        let mut running = self.apiserver.lock().await;
        *running = None;
        let started = ApiServer::start(&self.assets.kube_apiserver, self.folder.path(), &self.etcd.url()).await?;
        let address = started.address();
        *running = Some(started);
        self.set_target(Some(address));
        Ok(())
    }

    /// Kills the API server and starts it again.
    pub async fn restart_apiserver(&self) -> Result<(), ControlPlaneError> {
        self.stop_apiserver().await;
        self.start_apiserver().await
    }

    /// Removes every revision of the store but the newest.
    ///
    /// The API server's watch cache still knows what it has seen since it started, see
    /// [`forget_history`](Self::forget_history).
    pub async fn compact(&self) -> Result<(), ControlPlaneError> {
        self.etcd().compact().await
    }

    /// Makes every watch from a resource version that was current before this call fail with `410 Gone`.
    ///
    /// The store is compacted, and the API server restarted so that its watch cache begins anew.
    pub async fn forget_history(&self) -> Result<(), ControlPlaneError> {
        self.stop_apiserver().await;
        let etcd = self.etcd();
        // A watch from the newest revision would still be served: there has to be a newer one.
        etcd.put("/k8vent/forgotten", b"").await?;
        etcd.compact().await?;
        self.start_apiserver().await
    }

    /// Keeps the store as it is now, for [`restore`](Self::restore). The API server is restarted.
    pub async fn back_up(&self) -> Result<(), ControlPlaneError> {
        self.copy_store(&self.etcd.data(), &self.backup()).await
    }

    /// Puts the store back to how it was at the last [`back_up`](Self::back_up). The API server is restarted.
    ///
    /// Resource versions go on from there: those that were given out since are given out again.
    pub async fn restore(&self) -> Result<(), ControlPlaneError> {
        self.copy_store(&self.backup(), &self.etcd.data()).await
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    async fn copy_store(&self, from: &Path, to: &Path) -> Result<(), ControlPlaneError> {
        self.stop_apiserver().await;
        self.etcd.stop().await;
        if to.exists() {
            fs::remove_dir_all(to)?;
        }
        copy_folder(from, to)?;
        self.etcd.start_again().await?;
        self.start_apiserver().await
    }

    /// A client for the store, for changes faster than the API server takes them.
    #[must_use]
    pub fn etcd(&self) -> Etcd {
        Etcd::new(&self.etcd.url())
    }

    /// Writes the stored form of a pod under the API server, which passes it on to its watches as its own.
    ///
    /// For many writes, keep one [`etcd`](Self::etcd) client.
    pub async fn put_raw(&self, namespace: &str, name: &str, value: &[u8]) -> Result<(), ControlPlaneError> {
        self.etcd().put(&Etcd::pod_key(namespace, name), value).await
    }

    /// An administrator's client for the test; it belongs to the runtime that it is made on.
    pub async fn api(&self) -> Api {
        Api::from_kubeconfig(&self.kubeconfigs.behind).await.expect("the kubeconfig of the harness is right")
    }

    /// The forwarder that the kubeconfigs point to: cut it, hold it, count its connections.
    #[must_use]
    pub fn front(&self) -> &Forwarder {
        &self.front
    }

    /// The address that clients under test use: `https://127.0.0.1:PORT`, the same for the life of this value.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.front.address())
    }

    /// The certificate of the authority that signed the API server's, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.kubeconfigs.ca_pem()
    }

    /// A kubeconfig of an administrator, by way of [`front`](Self::front).
    #[must_use]
    pub fn kubeconfig_admin(&self) -> PathBuf {
        self.kubeconfigs.admin.clone()
    }

    /// A kubeconfig of an administrator that goes straight to the API server, for measuring.
    ///
    /// It is good until the API server is restarted.
    pub async fn kubeconfig_direct(&self) -> PathBuf {
        let running = self.apiserver.lock().await;
        let address = running.as_ref().expect("the API server runs").address();
        self.kubeconfigs.admin_at(address)
    }

    /// A kubeconfig for a user with a client certificate, who may do nothing unless it is granted.
    #[must_use]
    pub fn kubeconfig_for_user(&self, name: &str, groups: &[&str]) -> PathBuf {
        self.kubeconfigs.user(name, groups)
    }

    /// A kubeconfig with a token of a service account that exists, good for an hour.
    pub async fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, ControlPlaneError> {
        let token = self.service_account_token(namespace, name).await?;
        Ok(self.kubeconfigs.token(&token))
    }

    /// A token of a service account that exists, good for an hour.
    pub async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String, ControlPlaneError> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = self.api().await.create(&path, &request).await?;
        Ok(answer["status"]["token"].as_str().expect("the API server fills the token in").to_owned())
    }

    /// Runs `kubectl` as an administrator and returns what it prints.
    pub async fn kubectl<S: AsRef<str>>(&self, arguments: &[S]) -> Result<String, ControlPlaneError> {
        let arguments = arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>();
        let mut command = tokio::process::Command::new(&self.assets.kubectl);
        // Its caches of the API go to a folder that is swept; what the user's kubectl is told does not matter here.
        command.env("HOME", self.folder.path()).env_remove("KUBECONFIG").kill_on_drop(true);
        let output = command.arg("--kubeconfig").arg(&self.kubeconfigs.behind).args(&arguments).output().await?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(ControlPlaneError::Kubectl { arguments: arguments.join(" "), stderr })
    }

    /// Creates a namespace whose name begins with `prefix` and that no other test has.
    pub async fn namespace(&self, prefix: &str) -> Result<String, ControlPlaneError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.api().await.create("/api/v1/namespaces", &namespace).await?;
        Ok(name)
    }

    /// The binaries that run here.
    #[must_use]
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// Where the components' logs and data are: `etcd.log`, `kube-apiserver.log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process ids of etcd and, when it runs, the API server.
    pub async fn process_ids(&self) -> Vec<u32> {
        let apiserver = self.apiserver.lock().await.as_ref().map(ApiServer::process_id);
        [self.etcd.process_id().await, apiserver].into_iter().flatten().collect()
    }

    fn set_target(&self, address: Option<SocketAddr>) {
        self.front.set_target(address);
        self.back.set_target(address);
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::manifest;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn own() -> ControlPlane {
        ControlPlane::start().await.unwrap()
    }

    /// The first line of a watch from a resource version.
    async fn watch_from(api: &Api, namespace: &str, version: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/pods?watch=1&timeoutSeconds=2&resourceVersion={version}");
        match api.get_raw(&path).await {
            Ok(lines) => String::from_utf8(lines.to_vec()).unwrap().lines().next().unwrap_or_default().to_owned(),
            Err(error) => format!("{:?}", error.status()),
        }
    }

    #[tokio::test]
    async fn a_pod_that_is_created_can_be_read_back_and_changed_and_deleted() {
        let plane = ControlPlane::shared().await;
        let (api, namespace) = (plane.api().await, plane.namespace("pods").await.unwrap());
        api.create_pod(&namespace, &manifest::pod("first")).await.unwrap();
        let read = api.get_pod(&namespace, "first").await.unwrap();
        assert_eq!(read["status"]["phase"], "Pending");
        let running = api.set_phase(&namespace, "first", "Running").await.unwrap();
        assert_eq!(running["status"]["phase"], "Running");
        let raw = api.get_pod_raw(&namespace, "first").await.unwrap();
        assert!(raw.starts_with(br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"first""#), "{raw:?}");
        api.delete_pod(&namespace, "first").await.unwrap();
        assert_eq!(api.get_pod(&namespace, "first").await.unwrap_err().status().unwrap(), 404);
    }

    #[tokio::test]
    async fn a_user_or_service_account_may_do_nothing_until_it_is_granted() {
        let plane = ControlPlane::shared().await;
        let (api, namespace) = (plane.api().await, plane.namespace("rights").await.unwrap());
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}});
        api.create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account).await.unwrap();
        let account = plane.kubeconfig_for_service_account(&namespace, "reader").await.unwrap();
        let user = plane.kubeconfig_for_user(&format!("user-{namespace}"), &["nobodies"]);
        for kubeconfig in [&account, &user] {
            let client = Api::from_kubeconfig(kubeconfig).await.unwrap();
            assert_eq!(client.list_pods(&namespace).await.unwrap_err().status().unwrap(), 403);
        }
        let subject = format!("--serviceaccount={namespace}:reader");
        let namespaced = format!("--namespace={namespace}");
        let user_argument = format!("--user=user-{namespace}");
        plane.kubectl(&["create", "role", "read", "--verb=list", "--resource=pods", &namespaced]).await.unwrap();
        let grant = ["create", "rolebinding", "read", "--role=read", &subject, &user_argument, &namespaced];
        plane.kubectl(&grant).await.unwrap();
        for kubeconfig in [account, user] {
            let client = Api::from_kubeconfig(&kubeconfig).await.unwrap();
            // The authorizer learns of the grant by a watch of its own, which nobody outside can wait for.
            let granted = async { while client.list_pods(&namespace).await.is_err() {} };
            tokio::time::timeout(LIMIT, granted).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_failing_kubectl_says_why() {
        let error = ControlPlane::shared().await.kubectl(&["get", "nonsense"]).await.unwrap_err().to_string();
        assert!(error.starts_with("kubectl get nonsense: ") && error.contains("nonsense\""), "{error}");
    }

    #[tokio::test]
    async fn a_restart_keeps_the_address_and_the_pods_and_uses_another_port() {
        let plane = own().await;
        let (url, direct) = (plane.url(), plane.kubeconfig_direct().await);
        let (api, namespace) = (plane.api().await, plane.namespace("restart").await.unwrap());
        let front = Api::from_kubeconfig(&plane.kubeconfig_admin()).await.unwrap();
        api.create_pod(&namespace, &manifest::pod("kept")).await.unwrap();
        plane.restart_apiserver().await.unwrap();
        assert_eq!(plane.url(), url);
        for client in [&front, &api] {
            assert_eq!(client.get_pod(&namespace, "kept").await.unwrap()["metadata"]["name"], "kept");
        }
        let stale = Api::from_kubeconfig(&direct).await.unwrap();
        assert_eq!(stale.get_pod(&namespace, "kept").await.unwrap_err().status(), None);
    }

    #[tokio::test]
    async fn a_watch_from_before_the_history_was_forgotten_gets_410() {
        let plane = own().await;
        let (api, namespace) = (plane.api().await, plane.namespace("gone").await.unwrap());
        let created = api.create_pod(&namespace, &manifest::pod("first")).await.unwrap();
        let old = created["metadata"]["resourceVersion"].as_str().unwrap();
        api.set_phase(&namespace, "first", "Running").await.unwrap();
        let event = watch_from(&api, &namespace, old).await;
        assert!(event.starts_with(r#"{"type":"MODIFIED""#), "{event}");
        let newest = plane.etcd().revision().await.unwrap().to_string();
        plane.forget_history().await.unwrap();
        for version in [old, &newest] {
            let event = watch_from(&api, &namespace, version).await;
            assert!(event.starts_with(r#"{"type":"ERROR""#) && event.contains(r#""code":410"#), "{event}");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_restored_knows_nothing_of_what_came_after_the_backup() {
        let plane = own().await;
        let (api, namespace) = (plane.api().await, plane.namespace("restored").await.unwrap());
        api.create_pod(&namespace, &manifest::pod("before")).await.unwrap();
        plane.back_up().await.unwrap();
        api.create_pod(&namespace, &manifest::pod("after")).await.unwrap();
        plane.restore().await.unwrap();
        api.get_pod(&namespace, "before").await.unwrap();
        assert_eq!(api.get_pod(&namespace, "after").await.unwrap_err().status().unwrap(), 404);
    }

    #[tokio::test]
    async fn a_value_put_into_the_store_reaches_the_watches_as_the_api_servers_own() {
        let plane = ControlPlane::shared().await;
        let (api, etcd) = (plane.api().await, plane.etcd());
        let namespace = plane.namespace("raw").await.unwrap();
        let created = api.create_pod(&namespace, &manifest::pod("first")).await.unwrap();
        let key = Etcd::pod_key(&namespace, "first");
        let stored = etcd.get(&key).await.unwrap().unwrap();
        let changed = manifest::replace_in_stored(&stored, manifest::COUNTER, b"0000000042");
        etcd.put(&key, &changed).await.unwrap();
        let event = watch_from(&api, &namespace, created["metadata"]["resourceVersion"].as_str().unwrap()).await;
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["type"], "MODIFIED");
        assert_eq!(event["object"]["metadata"]["annotations"]["k8vent.test/counter"], "0000000042");
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_dropped_control_plane() {
        let plane = own().await;
        let (folder, processes) = (plane.folder().to_owned(), plane.process_ids().await);
        assert_eq!(processes.len(), 2);
        drop(plane);
        assert!(!folder.exists());
        for process in processes {
            assert!(!Path::new(&format!("/proc/{process}")).exists());
        }
    }
}
