//! The port to the cluster: what happens to pods, as an ordered stream.

use futures_util::Stream;
use serde::{Deserialize, Serialize};

use crate::pod::{Pod, PodId, ResourceVersion, Unreadable};

pub mod kube;

/// Tells what happens to the pods of a cluster.
#[cfg_attr(test, mockall::automock)]
pub trait PodSource: Send + Sync {
    /// The events of every scope, without end. Within a scope they come in the order of the API server's own.
    ///
    /// Each scope begins with a list, and goes on with a watch: from the list on, or from the first of the resource
    /// versions of `since`, in rising order, that the API server still remembers. Then the watch tells again what the
    /// list has told, and also what came and went between. What goes wrong on the way is logged, and mended by trying
    /// again: the stream neither fails nor ends.
    fn events(&self, since: Vec<ResourceVersion>) -> impl Stream<Item = PodEvent> + Send + 'static;

    /// Reads a pod as it is now. `None` when there is no pod of that name or it is another one by its uid.
    fn get(&self, pod: &PodId) -> impl Future<Output = Result<Option<Pod>, GetError>> + Send;
}

/// The pods that one list and watch covers: all, or those of one namespace. An index into the namespaces asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope(pub usize);

/// What the API server told of a scope.
#[derive(Debug)]
pub struct PodEvent {
    /// The scope that it happened in.
    pub scope: Scope,
    /// What happened.
    pub what: What,
}

/// What happened in a scope.
#[derive(Debug)]
pub enum What {
    /// A list begins: each pod that it does not hold, up to [`What::ListEnded`], is gone. The watch after it tells so,
    /// unless it begins later than the pod was seen.
    ///
    /// A list that broke off is followed by another beginning.
    ListBegan,
    /// The list holds this pod.
    Listed(Pod),
    /// The list is complete, as of this version.
    ListEnded(ResourceVersion),
    /// A watch was opened, from this version on.
    Watching(ResourceVersion),
    /// What was asked for from `after` on is not to be had before `until`, the version of the last list.
    Forgotten {
        /// The last version of which everything was told.
        after: ResourceVersion,
        /// From here on everything is told again.
        until: ResourceVersion,
    },
    /// A pod was created or changed.
    Changed(Pod),
    /// A pod is gone, or left the selection; this is its last state.
    Deleted(Pod),
    /// Nothing that has not been told happened up to this version.
    Bookmark(ResourceVersion),
    /// Something is there that cannot be read as a pod. It is passed over.
    Unreadable(Unreadable),
}

/// A pod could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the pod from the API server")]
pub struct GetError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
