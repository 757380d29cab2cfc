//! A small API server for what no real one does on demand: scripted faults, and changes at full speed.

mod fault;
mod flood;
mod leases;
mod render;
mod request;
mod server;
mod state;
mod store;
mod watch_body;

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};

pub use crate::stand_in::{
    fault::{Disturbance, Fault, Kind},
    request::Seen,
};
use crate::{
    listening::Listening,
    pki::Authority,
    stand_in::{flood::Flood, state::State, watch_body::Piece},
};

/// An API server that knows pods and nearly nothing else: list with pages, streaming list, watch, bookmarks, 410; and
/// Leases, as k8vent needs them.
///
/// It speaks plain HTTP and asks for no credentials. Selectors are recorded and otherwise ignored.
pub struct StandIn {
    listening: Listening,
    shared: Arc<Shared>,
    folder: TempDir,
}

/// What the stand-in and its connections share.
struct Shared {
    state: Mutex<State>,
    seen: watch::Sender<Vec<Seen>>,
}

/// A run of changes at full speed.
pub struct Flooding {
    sent: watch::Receiver<u64>,
    total: u64,
}

/// What was waited for did not come within the limit.
#[derive(Debug)]
pub struct NotSeen(String);

impl StandIn {
    /// Starts without a pod.
    pub async fn start() -> io::Result<Self> {
        let listening = Listening::start("stand-in").await?;
        let shared = Arc::new(Shared { state: Mutex::new(State::new()), seen: watch::Sender::new(Vec::new()) });
        let this = Self { listening, shared, folder: tempfile::tempdir()? };
        this.up().await?;
        Ok(this)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// A kubeconfig that points here; it is removed with the stand-in.
    pub fn kubeconfig(&self) -> io::Result<PathBuf> {
        // Without an authority the client reads the system's, plain HTTP or not, and refuses to start where there are
        // none, as in the sandbox of a build.
        let authority = BASE64_STANDARD.encode(Authority::new("stand-in").pem());
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "stand-in", "cluster": {"server": self.url(), "certificate-authority-data": authority}}],
            "users": [{"name": "stand-in", "user": {}}],
            "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "stand-in"}}],
            "current-context": "stand-in",
        });
        let file = self.folder.path().join("kubeconfig");
        std::fs::write(&file, content.to_string())?;
        Ok(file)
    }

    /// Creates a pod and returns its resource version; the namespace is `default` unless the pod names one.
    ///
    /// `uid`, `creationTimestamp` and `resourceVersion` are filled in.
    pub fn create(&self, pod: &Value) -> u64 {
        self.state().put(pod)
    }

    /// Replaces a pod and returns its new resource version; the `uid` stays.
    pub fn update(&self, pod: &Value) -> u64 {
        self.state().put(pod)
    }

    /// Deletes a pod and returns the resource version of that.
    ///
    /// # Panics
    ///
    /// When there is no such pod.
    pub fn delete(&self, namespace: &str, name: &str) -> u64 {
        self.state().delete(namespace, name).expect("the test deletes a pod that it has created").0
    }

    /// The resource version of the newest change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state().store.version()
    }

    /// Sends a bookmark to every watch that allows them.
    pub fn bookmark(&self) {
        self.state().bookmark();
    }

    /// Forgets what was before a version: watches from below it, and lists begun below it, get 410.
    pub fn set_horizon(&self, version: u64) {
        self.state().store.set_horizon(version);
    }

    /// Forgets everything but the present; a watch from before gets 410 even if nothing changes any more.
    pub fn forget_history(&self) {
        let mut state = self.state();
        state.store.skip_versions(1);
    }

    /// Whether there are streaming lists, as there are at first; without them they are refused with 422, as by servers
    /// that have them switched off.
    pub fn streaming_lists(&self, offered: bool) {
        self.state().streaming_lists = offered;
    }

    /// A fault for the next request of a kind that has none yet; several are used up in turn.
    pub fn next(&self, kind: Kind, fault: Fault) {
        self.state().faults.next(kind, fault);
    }

    /// A fault for every request of a kind from now on, once those of [`next`](Self::next) are used up; or none.
    pub fn always(&self, kind: Kind, fault: Option<Fault>) {
        self.state().faults.always(kind, fault);
    }

    /// Does something to every watch that is open.
    pub fn disturb(&self, disturbance: &Disturbance) {
        self.state().disturb(disturbance);
    }

    /// How many watches are open and not half-open.
    #[must_use]
    pub fn open_watches(&self) -> usize {
        self.state().open_watches()
    }

    /// Sends so many changes of the pods that exist, in turn, to every open watch, as fast as it takes them.
    ///
    /// Only the resource version changes. What was before is forgotten, and so are these changes: a watch that breaks
    /// meanwhile cannot be resumed before the newest version.
    #[must_use]
    pub fn flood(&self, count: u64) -> Flooding {
        let (sent, told) = watch::channel(0);
        let mut state = self.state();
        let pods = state.store.all();
        let first = state.store.skip_versions(count);
        let total = count * u64::try_from(state.open_watches()).expect("there are few watches");
        state.send_all(|| Piece::Flood(Flood::new(&pods, first, count, sent.clone())));
        Flooding { sent: told, total }
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.seen.borrow().clone()
    }

    /// Waits until the requests fit, and returns them; those that came before the call count.
    pub async fn wait_for(&self, limit: Duration, mut fits: impl FnMut(&[Seen]) -> bool) -> Result<Vec<Seen>, NotSeen> {
        let mut seen = self.shared.seen.subscribe();
        if let Ok(Ok(seen)) = timeout(limit, seen.wait_for(|seen| fits(seen))).await {
            return Ok(seen.clone());
        }
        let lines = self.requests().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
        Err(NotSeen(format!("the expected requests did not come within {limit:?}; those that did:\n  {lines}")))
    }

    /// Closes the port and every connection: new ones are refused.
    pub async fn down(&self) {
        self.listening.down().await;
    }

    /// Opens the same port again after [`down`](Self::down).
    pub async fn up(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.listening.up(move |stream| server::connection(stream, Arc::clone(&shared))).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flooding {
    /// How many changes have been handed to the connections, over all watches.
    #[must_use]
    pub fn sent(&self) -> u64 {
        *self.sent.borrow()
    }

    /// Waits until all have been handed to the connections.
    pub async fn done(&mut self, limit: Duration) -> Result<(), NotSeen> {
        let total = self.total;
        if let Ok(Ok(_)) = timeout(limit, self.sent.wait_for(|sent| *sent >= total)).await {
            return Ok(());
        }
        Err(NotSeen(format!("{} of {total} changes were taken within {limit:?}", self.sent())))
    }
}

impl fmt::Display for NotSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotSeen {}

#[cfg(test)]
mod tests;
