//! What outlives the process on disk: `--state-dir`.
//!
//! One thread owns the file. The core tells it what has changed and asks it for bodies, and waits for it nowhere but at
//! its start and its end.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::oneshot,
    time::{error::Elapsed, timeout},
};

use self::file::File;
pub use self::file::{Fault, OpenError};
use crate::{
    digest::Digest,
    pod::{PodId, ResourceVersion},
    registry::Kind,
    source::Scope,
};

mod file;

/// How long the end of the process waits for the disk.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// What is kept: all of it is as of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// What it is of.
    pub mark: Mark,
    /// The pods that are known.
    pub known: Vec<Known>,
    /// What endpoints have not had.
    pub due: Vec<Due>,
}

/// Of what cluster, whose doing, and how far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What is read: which pods of which cluster.
    pub selection: Digest,
    /// The term of the Lease in which it was written; `None` without a Lease.
    pub term: Option<String>,
    /// Up to where everything has been told, in each scope; `None` while the first list is not complete.
    pub told: Option<Vec<ResourceVersion>>,
    /// The global endpoints, each of which has had, or is due, every known pod.
    pub global: Vec<Digest>,
}

/// A pod that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Which pod.
    pub id: PodId,
    /// Its newest version.
    pub version: ResourceVersion,
    /// Where it was read.
    pub scope: Scope,
    /// The text of its [annotation](crate::pod::ANNOTATION).
    pub annotation: Option<Arc<str>>,
}

/// A state that an endpoint has not had: a [delivery](crate::delivery::Delivery) without what follows from the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// Which pod.
    pub pod: PodId,
    /// Which endpoint.
    pub endpoint: Digest,
    /// Which version.
    pub version: ResourceVersion,
    /// The endpoint has come no further than here.
    pub since: ResourceVersion,
    /// What the state is to the endpoint.
    pub kind: Kind,
    /// When it was read.
    pub read_at: Timestamp,
    /// The text of the state's annotation.
    pub annotation: Option<Arc<str>>,
}

/// What has changed since the last time: kept all together, or not at all.
#[derive(Debug)]
pub struct Changes {
    /// The new mark.
    pub mark: Mark,
    /// Whether all that was kept before is void.
    pub anew: bool,
    /// Pods, and what is now known of them; `None` of those that are gone.
    pub known: Vec<(PodId, Option<Known>)>,
    /// Endpoints of pods, and what is now due to them.
    pub due: Vec<(PodId, Digest, Option<Due>)>,
    /// States, as JSON.
    pub bodies: Vec<(PodId, ResourceVersion, Bytes)>,
}

/// How it went: what there is now, or why nothing was kept.
pub type Kept = Result<Size, Fault>;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Bytes on disk.
    pub bytes: u64,
    /// States that wait.
    pub due: u64,
}

/// What the thread is to do.
#[derive(Debug)]
pub(crate) enum Command {
    Load(oneshot::Sender<Result<Option<Memory>, Fault>>),
    Keep(Changes, oneshot::Sender<Kept>),
    Body { pod: PodId, version: Option<ResourceVersion>, reply: oneshot::Sender<Option<Bytes>> },
    Close(oneshot::Sender<()>),
}

/// The file, by way of the thread that owns it. Clones share it.
#[derive(Debug, Clone)]
pub struct Store(mpsc::Sender<Command>);

impl Store {
    /// Opens the store in the folder `dir`, and makes both where they are not there.
    ///
    /// It reads all of it once, so that what is wrong is told here.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let file = File::open(dir)?;
        // Not more than one `Keep` and one `Body` for each attempt in flight wait in it.
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || serve(file, &receiver))
            .map_err(|error| OpenError::Unusable(dir.to_owned(), error.into()))?;
        Ok(Self(sender))
    }

    /// A store whose commands nobody carries out but the test.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }

    /// What was kept last; `None` in a new store.
    pub async fn load(&self) -> Result<Option<Memory>, Fault> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Load(reply));
        answer.await.unwrap_or_else(|_| Err(Fault::closed()))
    }

    /// Keeps what has changed, and tells how that went.
    #[must_use]
    pub fn keep(&self, changes: Changes) -> oneshot::Receiver<Kept> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Keep(changes, reply));
        answer
    }

    /// The JSON of a state of a pod, by its version, or else of the newest there is.
    pub async fn body(&self, pod: &PodId, version: Option<ResourceVersion>) -> Option<Bytes> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Body { pod: pod.clone(), version, reply });
        answer.await.ok().flatten()
    }

    /// Closes the file after all that was asked for before. An error says that it took too long; nothing is lost by
    /// that, but the next start has more to check.
    pub async fn close(&self) -> Result<(), Elapsed> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Close(reply));
        timeout(CLOSE_LIMIT, answer).await.map(|_| ())
    }

    /// Where the thread has ended, the reply is dropped and whoever waits for it is told.
    fn send(&self, command: Command) {
        let _ = self.0.send(command);
    }
}

/// Does what is asked for until told to close. Nobody waits for some of the answers any more.
fn serve(mut file: File, commands: &mpsc::Receiver<Command>) {
    for command in commands {
        match command {
            Command::Load(reply) => drop(reply.send(file.load())),
            Command::Keep(changes, reply) => drop(reply.send(file.keep(&changes))),
            Command::Body { pod, version, reply } => drop(reply.send(file.body(&pod, version))),
            Command::Close(reply) => {
                drop(file);
                let _ = reply.send(());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
