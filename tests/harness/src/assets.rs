//! Finds the binaries of a control plane, and builds them where there are none.

mod build;
mod search;

use std::path::{Path, PathBuf};

use crate::assets::search::Search;

/// The binaries that make up a control plane, and where they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assets {
    /// The store.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// The client, for tests that apply manifests as a user would.
    pub kubectl: PathBuf,
    /// Which of the places had them.
    pub origin: Origin,
}

/// The places that are searched, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The folder that `KUBEBUILDER_ASSETS` names.
    KubebuilderAssets,
    /// The user's cache folder, which an earlier build filled.
    Cache,
    /// `PATH`, where the versions fit.
    Path,
    /// Built just now, into the cache folder.
    Built,
}

/// Why there is no control plane to start.
#[derive(Debug, thiserror::Error)]
pub enum AssetsError {
    /// The user named a folder, so nothing else is tried: it has to be right.
    #[error(
        "KUBEBUILDER_ASSETS is {folder:?}, which lacks {missing}: \
         let it name a folder with etcd, kube-apiserver and kubectl, or unset it"
    )]
    Incomplete {
        /// What the variable says.
        folder: PathBuf,
        /// The binaries that are not there.
        missing: String,
    },
    /// Nothing was found and the build did not work.
    #[error(
        "no control plane to test against: {why}\n\
         Any one of these helps:\n  \
         - install Go 1.26 or newer, and the binaries are built from tests/harness/controlplane;\n  \
         - set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kubectl;\n  \
         - put etcd (3.5 or newer), kube-apiserver (1.37) and kubectl on PATH"
    )]
    NotBuilt {
        /// What went wrong, with the end of the build's output if it began.
        why: String,
    },
}

/// Looks for the binaries and builds nothing.
pub fn find() -> Result<Option<Assets>, AssetsError> {
    Search::from_env().look()
}

/// Looks for the binaries and, where there are none, builds them with the Go toolchain into the user's cache folder.
///
/// Blocks for the length of the build and tells the user on stderr how far it is. Two processes that come here at once
/// build once.
pub fn find_or_build() -> Result<Assets, AssetsError> {
    let search = Search::from_env();
    match search.look()? {
        Some(found) => Ok(found),
        None => build::into_cache(&search.cache),
    }
}

impl Assets {
    /// The names of the binaries, in the order in which they are built: the longest first.
    const NAMES: [&str; 3] = ["kube-apiserver", "kubectl", "etcd"];

    fn in_folder(folder: &Path, origin: Origin) -> Self {
        Self {
            etcd: folder.join("etcd"),
            kube_apiserver: folder.join("kube-apiserver"),
            kubectl: folder.join("kubectl"),
            origin,
        }
    }
}
