//! A delivery: one state on its way to one endpoint.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    digest::Digest,
    pod::{PodId, ResourceVersion},
    registry::{Change, Kind},
    route::Origin,
    store::Due,
};

/// One state on its way to one endpoint. Its bytes are shared with the state's other deliveries.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Which pod.
    pub pod: PodId,
    /// Which version of it.
    pub version: ResourceVersion,
    /// While this waits, its endpoint has come no further than here: [`Change::since`].
    pub since: ResourceVersion,
    /// What the state is to those who have followed the pod.
    pub kind: Kind,
    /// When k8vent read the state.
    pub read_at: Timestamp,
    /// Who named the endpoint.
    pub origin: Origin,
    /// The text of the state's [annotation](crate::pod::ANNOTATION).
    pub annotation: Option<Arc<str>>,
    /// The `env` of the body, as JSON.
    pub env: Arc<str>,
    /// The body to POST; `None` after it was given up for memory, and where it was never at hand.
    pub body: Option<Bytes>,
}

impl Delivery {
    /// The delivery of `change` to any one of its endpoints.
    #[must_use]
    pub fn new(change: &Change, read_at: Timestamp) -> Self {
        let Change { kind, pod, route, since, past: _ } = change;
        Self {
            pod: pod.id.clone(),
            version: pod.version,
            since: *since,
            kind: *kind,
            read_at,
            annotation: pod.annotation.clone(),
            origin: route.origin,
            env: route.env.clone(),
            body: (!pod.json.is_empty()).then(|| body(&pod.json, &route.env)),
        }
    }

    /// What is kept of it beyond the process.
    #[must_use]
    pub fn due(&self, endpoint: Digest) -> Due {
        let Self { pod, version, since, kind, read_at, annotation, .. } = self;
        Due {
            pod: pod.clone(),
            endpoint,
            version: *version,
            since: *since,
            kind: *kind,
            read_at: *read_at,
            annotation: annotation.clone(),
        }
    }

    /// The id that all attempts of this state carry: `UID.RESOURCEVERSION`, and `UID.deleted` for the delete, which a
    /// pod has only once.
    #[must_use]
    pub fn id(&self) -> String {
        match self.kind {
            Kind::Added | Kind::Updated => format!("{}.{}", self.pod.uid(), self.version),
            Kind::Deleted => format!("{}.deleted", self.pod.uid()),
        }
    }
}

/// The body of a POST: `{"pod": …, "env": …}`.
#[must_use]
pub fn body(pod: &[u8], env: &str) -> Bytes {
    [br#"{"pod":"#, pod, br#","env":"#, env.as_bytes(), b"}"].concat().into()
}
