//! What can go wrong between us and an API server.

use std::{path::PathBuf, time::Duration};

use kube::config::{InferConfigError, KubeconfigError};
use serde::Deserialize;

/// No client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig that was asked for is of no use.
    #[error("--kubeconfig: cannot use {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// The context that was asked for is of no use.
    #[error("--context: cannot use it")]
    Context(#[source] KubeconfigError),
    /// There is neither a kubeconfig nor a service account.
    #[error("no cluster to watch: give --kubeconfig, set KUBECONFIG, or run in a pod with a service account")]
    Infer(#[source] InferConfigError),
    /// What the configuration says cannot be used.
    #[error("cannot use the configuration of the cluster")]
    Client(#[source] kube::Error),
}

/// A list, a watch or a get failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API server answered with an error, or sent one as an event.
    #[error("the API server answered {code}: {message}{}", hint(*code))]
    Refused {
        /// The HTTP status.
        code: u16,
        /// What the API server says of it.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The API server has not come as far as the version that was asked for.
    #[error("the API server does not have the version that was asked for: {message}")]
    TooNew {
        /// What the API server says of it.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// No answer came, or it broke off.
    #[error("cannot reach the API server")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing came for so long.
    #[error("the API server has sent nothing for {} s", .0.as_secs())]
    Silent(Duration),
    /// A list ended before it was complete, or a watch before it told anything.
    #[error("the API server ended its answer too soon")]
    EndedEarly,
    /// The answer is not of the form that was asked for.
    #[error("the answer is not a list of pods: is it an API server that answers?")]
    NotAList(#[source] serde_json::Error),
    /// The answer is not a pod.
    #[error("the answer is not a pod")]
    NotAPod(#[from] crate::pod::Unreadable),
    /// The list goes on and on.
    #[error("the list of pods does not end: the API server gave the same page twice, or took longer than {} s", .0.as_secs())]
    Endless(Duration),
    /// The answer is too large.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

impl ReadError {
    /// Whether the API server has forgotten the version that was asked for.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Refused { code: 410, .. })
    }

    /// Whether the API server does not know what was asked: it is too old for it.
    pub(super) fn is_not_understood(&self) -> bool {
        matches!(self, Self::Refused { code: 400 | 422, .. })
    }

    /// Whether it is the version that is refused, and not us, or any request for the time being.
    pub(super) fn is_of_version(&self) -> bool {
        matches!(self, Self::TooNew { .. }) || self.is_not_understood()
    }

    /// How long the API server asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } | Self::TooNew { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn hint(code: u16) -> &'static str {
    match code {
        401 => "; the credentials are not accepted: is the kubeconfig or the service account's token out of date?",
        403 => {
            "; k8vent needs get, list and watch on pods: kube/rbac.yaml grants them to the service account k8vent, \
             which kube/deployment-rbac.yaml runs with (a Role in each --namespace is enough for those)"
        }
        _ => "",
    }
}

/// The API's own form of an error.
#[derive(Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
}

/// What the API server calls a version that it has not come to (`CauseTypeResourceVersionTooLarge`).
const TOO_NEW: &str = "ResourceVersionTooLarge";

impl Status {
    /// The error that it tells; `code` and `retry_after` are those of the answer that brought it, if one did.
    pub(super) fn into_error(self, code: Option<u16>, retry_after: Option<Duration>) -> ReadError {
        let (code, message) = (code.or(self.code).unwrap_or(500), one_line(&self.message));
        let asked = self.details.as_ref().and_then(|details| details.retry_after_seconds);
        let retry_after = retry_after.or(asked.map(Duration::from_secs));
        if self.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == TOO_NEW) {
            return ReadError::TooNew { message, retry_after };
        }
        ReadError::Refused { code, message, retry_after }
    }
}

/// The beginning of a text, as one line: what answers may be no API server.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}
