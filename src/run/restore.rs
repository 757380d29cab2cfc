//! From what was kept on disk to where the process was.
//!
//! What an endpoint was due is not sent at once: after the last that was kept, a newer state may have been accepted, and
//! no older one may follow it. It waits until the list or the watch tells of its pod. If the pod is as it was known, the
//! endpoint gets what it was due. If it has changed, the newest state takes that place; where the newest goes elsewhere,
//! because the annotation is another, what was due is dropped. Only deletes, and what is due of pods that are gone, need
//! not wait: nothing follows them.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use super::core::Core;
use crate::{
    delivery::{Delivery, body},
    digest::Digest,
    endpoint::Endpoint,
    pod::{Pod, PodId},
    registry::Kind,
    route::Origin,
    store::{Due, Memory},
};

/// What was due before this start.
#[derive(Debug, Default)]
pub(super) struct Restored {
    due: HashMap<PodId, Vec<Due>>,
    /// The pods that were known, if there are endpoints that had none of them.
    to_introduce: HashSet<PodId>,
    /// The endpoints that have had, or are due, all of these.
    had: HashSet<Digest>,
}

impl Restored {
    /// Whether an endpoint has had, or is due, every pod that is known: one that was not there before is not before the
    /// list has told of them.
    pub(super) fn has_had_all(&self, endpoint: &Endpoint) -> bool {
        self.to_introduce.is_empty() || self.had.contains(&endpoint.digest())
    }
}

impl Core {
    /// Knows what was known.
    pub(super) fn restore(&mut self, memory: Memory) {
        let Memory { mark, known, due } = memory;
        tracing::info!(pods = known.len(), states = due.len(), "going on from the state directory");
        let had: HashSet<_> = mark.global.into_iter().collect();
        let is_new = self.past.global().iter().any(|endpoint| !had.contains(&endpoint.digest()));
        let to_introduce = known.iter().filter(|_| is_new).map(|known| known.id.clone()).collect();
        self.restored = Restored { due: HashMap::new(), to_introduce, had };
        let told = mark.told.unwrap_or_default();
        self.registry.remember(known, &told);
        self.past.remember(&told);
        for due in due {
            let is_last = due.kind == Kind::Deleted || self.registry.known(&due.pod).is_none();
            if is_last {
                self.wait_again(&due, None);
            } else {
                self.restored.due.entry(due.pod.clone()).or_default().push(due);
            }
        }
    }

    /// The list holds a pod.
    pub(super) fn listed(&mut self, pod: &Pod) {
        if self.restored.to_introduce.remove(&pod.id) {
            self.introduce(pod);
        }
        if self.registry.known(&pod.id).is_some_and(|known| known.version == pod.version) {
            self.resume(pod);
        }
    }

    /// Lets wait again what was due of a pod which has not changed since: no endpoint has had anything newer than that.
    fn resume(&mut self, pod: &Pod) {
        for due in self.restored.due.remove(&pod.id).unwrap_or_default() {
            self.wait_again(&due, (due.version == pod.version).then_some(&pod.json));
        }
    }

    /// Lets wait again what was due of a pod which has changed, for the newest state to take its place.
    ///
    /// Where the newest does not go, one in between may have been accepted, which nobody knows: what was due there is
    /// dropped, for it may be older.
    pub(super) fn supersede(&mut self, newest: &Pod) {
        self.restored.to_introduce.remove(&newest.id);
        let Some(due) = self.restored.due.remove(&newest.id) else { return };
        let route = self.registry.route(&newest.id, newest.annotation.as_deref());
        for due in due {
            if route.endpoints.iter().any(|endpoint| endpoint.digest() == due.endpoint) {
                self.wait_again(&due, None);
            } else if let Some(journal) = &mut self.journal {
                let (pod, version, endpoint) = (&due.pod, due.version, due.endpoint);
                tracing::warn!(
                    %pod, %version, %endpoint,
                    "dropped: it waited at the last end, and its pod has changed since and goes to other webhooks"
                );
                journal.forgotten(&due);
            }
        }
    }

    /// Offers a pod to the global endpoints that were not there before.
    fn introduce(&mut self, pod: &Pod) {
        let route = self.registry.route(&pod.id, pod.annotation.as_deref());
        let is_new = |digest: &Digest| route.origin == Origin::Global && !self.restored.had.contains(digest);
        let new: Vec<_> = route.endpoints.iter().map(Endpoint::digest).filter(is_new).collect();
        for endpoint in new {
            let due = Due {
                pod: pod.id.clone(),
                endpoint,
                version: pod.version,
                since: pod.version.before(),
                kind: Kind::Added,
                read_at: Timestamp::now(),
                annotation: pod.annotation.clone(),
            };
            self.wait_again(&due, Some(&pod.json));
        }
    }

    /// Lets a state wait, unless its endpoint is not there any more or has had it from another replica.
    fn wait_again(&mut self, due: &Due, json: Option<&Bytes>) {
        let Some(journal) = &mut self.journal else { return };
        let route = self.registry.route(&due.pod, due.annotation.as_deref());
        let endpoint = route.endpoints.iter().find(|endpoint| endpoint.digest() == due.endpoint);
        let endpoint = endpoint.filter(|endpoint| self.past.lacks(endpoint, route.origin, due.version, false));
        let Some(endpoint) = endpoint else { return journal.forgotten(due) };
        journal.touched(&due.pod, endpoint);
        let delivery = Delivery {
            pod: due.pod.clone(),
            version: due.version,
            since: due.since,
            kind: due.kind,
            read_at: due.read_at,
            annotation: due.annotation.clone(),
            origin: route.origin,
            env: route.env.clone(),
            body: json.map(|json| body(json, &route.env)),
        };
        let (now, waited) = (Instant::now(), Timestamp::now().duration_since(due.read_at).unsigned_abs());
        self.dispatcher.offer(endpoint, delivery, now.checked_sub(waited).unwrap_or(now));
    }
}
