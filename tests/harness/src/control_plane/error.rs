//! What can go wrong with a control plane.

use std::io;

use crate::{api::ApiError, assets::AssetsError};

/// Why a control plane does not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// There are no binaries.
    #[error(transparent)]
    Assets(#[from] AssetsError),
    /// A file, a port or a process could not be had.
    #[error("the control plane needs a file, a port or a process and does not get it")]
    Io(#[from] io::Error),
    /// A component ended or was not ready in time.
    #[error("{component} {what}; the end of its log:\n{log}")]
    NotReady {
        /// Which one.
        component: &'static str,
        /// What it did instead.
        what: String,
        /// The end of its log.
        log: String,
    },
    /// etcd refused a request.
    #[error("etcd's gateway: {0}")]
    Etcd(String),
    /// The API server refused a request.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// kubectl failed.
    #[error("kubectl {arguments}: {stderr}")]
    Kubectl {
        /// What it was called with.
        arguments: String,
        /// What it said.
        stderr: String,
    },
}
