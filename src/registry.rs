//! The pods that are known, and what a new event means beside them.
//!
//! Of each pod only the identity, the version and the annotation are held: memory does not grow with pod size.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    pod::{Pod, PodId, ResourceVersion, Unreadable},
    route::{Route, Router},
    source::{PodEvent, Scope, What},
    store,
};

/// What a state is to those who have followed the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The pod was not known before.
    Added,
    /// The pod was known in another version.
    Updated,
    /// The pod is gone.
    Deleted,
}

impl Kind {
    /// As metrics, logs and the last word of `ce-type` name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

/// A state that nobody has been told of, and where it goes.
#[derive(Debug, Clone)]
pub struct Change {
    /// What it is to those who have followed the pod.
    pub kind: Kind,
    /// The state. Of a deleted pod, the JSON is already the one to send; it is empty where the delete was missed.
    pub pod: Pod,
    /// Where it goes.
    pub route: Arc<Route>,
    /// Whoever has come no further than this version, and not been told, has to be told. For a state of which the API
    /// server told, the version before its own; a delete that was missed may be older than the list that shows it.
    pub since: ResourceVersion,
    /// Whether it happened before the list that came first: a delete that only those need who knew the pod.
    pub past: bool,
}

/// The pods that are known.
#[derive(Debug)]
pub struct Registry {
    router: Router,
    known: HashMap<PodId, Known>,
    lists: HashMap<Scope, List>,
}

#[derive(Debug)]
struct Known {
    version: ResourceVersion,
    scope: Scope,
    /// The last list of the scope, or any watch since, that held the pod.
    list: u32,
    annotation: Option<Arc<str>>,
    route: Arc<Route>,
}

#[derive(Debug, Default)]
struct List {
    number: u32,
    /// The version of the last complete list.
    complete: Option<ResourceVersion>,
    /// Up to where the watch tells everything, from where it began.
    seen: ResourceVersion,
    /// Up to where everything has ever been told.
    told: ResourceVersion,
    /// The watch began where everything before had been told: what it tells adds to that.
    goes_on: bool,
    /// An item could not be told from any other: what is missing cannot be known.
    blurred: bool,
}

impl List {
    /// Whether the watch tells of a time after the list.
    fn is_caught_up(&self) -> bool {
        self.complete.is_some_and(|complete| self.seen >= complete)
    }

    fn is_older_than_list(&self, version: ResourceVersion) -> bool {
        self.complete.is_some_and(|complete| version <= complete)
    }

    fn seen_up_to(&mut self, version: ResourceVersion) {
        self.seen = version;
        if self.goes_on || self.is_caught_up() {
            self.told = self.told.max(version);
        }
    }
}

impl Registry {
    /// Knows no pod yet.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self { router, known: HashMap::new(), lists: HashMap::new() }
    }

    /// How many pods are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// The pods that are known.
    pub fn pods(&self) -> impl Iterator<Item = &PodId> {
        self.known.keys()
    }

    /// Whether no pod is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether the first list of each of `scopes` scopes is complete.
    #[must_use]
    pub fn is_complete(&self, scopes: usize) -> bool {
        self.lists.values().filter(|list| list.complete.is_some()).count() == scopes
    }

    /// The version up to which everything has been told in each of `scopes` scopes; `None` while a watch still tells of
    /// the time before its list.
    #[must_use]
    pub fn seen(&self, scopes: usize) -> Option<ResourceVersion> {
        let seen = self.lists.values().filter(|list| list.is_caught_up()).map(|list| list.seen);
        if seen.clone().count() == scopes { seen.min() } else { None }
    }

    /// The version up to which everything has ever been told in each of `scopes` scopes; `None` before that of the first
    /// list has. Unlike [`Registry::seen`], it stays while a list is read anew.
    #[must_use]
    pub fn told(&self, scopes: usize) -> Option<Vec<ResourceVersion>> {
        let told = |scope| self.lists.get(&Scope(scope)).map(|list| list.told).filter(|told| told.0 > 0);
        (0..scopes).map(told).collect()
    }

    /// What is kept of a pod beyond the process; `None` when it is not known.
    #[must_use]
    pub fn known(&self, pod: &PodId) -> Option<store::Known> {
        let (id, Known { version, scope, annotation, .. }) = self.known.get_key_value(pod.uid())?;
        Some(store::Known { id: id.clone(), version: *version, scope: *scope, annotation: annotation.clone() })
    }

    /// Where a pod with this annotation goes.
    #[must_use]
    pub fn route(&self, pod: &PodId, annotation: Option<&str>) -> Arc<Route> {
        self.router.route(pod, annotation)
    }

    /// Knows what was known before this start, when everything had been told up to the versions of `told`, one for each
    /// scope.
    pub fn remember(&mut self, pods: Vec<store::Known>, told: &[ResourceVersion]) {
        for store::Known { id, version, scope, annotation } in pods {
            let route = self.router.route(&id, annotation.as_deref());
            self.known.insert(id, Known { version, scope, list: 0, annotation, route });
        }
        for (scope, told) in told.iter().enumerate() {
            self.lists.insert(Scope(scope), List { told: *told, seen: *told, ..List::default() });
        }
    }

    /// Takes in an event and gives what it changes: nothing, one state, or at the begin of a watch each delete that was
    /// missed.
    pub fn observe(&mut self, event: PodEvent) -> Vec<Change> {
        let scope = event.scope;
        match event.what {
            What::ListBegan => {
                let list = self.lists.entry(scope).or_default();
                list.number += 1;
                list.blurred = false;
                Vec::new()
            }
            What::Listed(pod) => self.present(scope, pod).into_iter().collect(),
            What::Changed(pod) => self.changed(scope, pod).into_iter().collect(),
            What::Deleted(pod) => self.gone(scope, pod).into_iter().collect(),
            What::ListEnded(version) => {
                self.list_ended(scope, version);
                Vec::new()
            }
            What::Unreadable(unreadable) => {
                self.unreadable(scope, &unreadable);
                Vec::new()
            }
            What::Forgotten { .. } => Vec::new(),
            What::Watching(version) => self.watching(scope, version),
            What::Bookmark(version) => {
                let list = self.lists.entry(scope).or_default();
                list.seen_up_to(list.seen.max(version));
                Vec::new()
            }
        }
    }

    fn changed(&mut self, scope: Scope, pod: Pod) -> Option<Change> {
        let list = self.lists.entry(scope).or_default();
        list.seen_up_to(list.seen.max(pod.version));
        let (number, is_older) = (list.number, list.is_older_than_list(pod.version));
        match self.known.get(pod.id.uid()) {
            // The watch begins before the list. What changed before it and is not in it is gone: the delete follows.
            None if is_older => None,
            Some(known) if is_older && known.list != number => None,
            Some(known) if pod.version <= known.version => None,
            _ => self.present(scope, pod),
        }
    }

    /// Knows no pod any more.
    pub fn clear(&mut self) {
        self.known.clear();
        self.lists.clear();
    }

    fn present(&mut self, scope: Scope, pod: Pod) -> Option<Change> {
        let list = self.lists.entry(scope).or_default().number;
        let Some((id, known)) = self.known.get_key_value(pod.id.uid()) else {
            let route = self.router.route(&pod.id, pod.annotation.as_deref());
            let annotation = pod.annotation.clone();
            self.known
                .insert(pod.id.clone(), Known { version: pod.version, scope, list, annotation, route: route.clone() });
            return Some(Change { kind: Kind::Added, since: pod.version.before(), past: false, pod, route });
        };
        // One identity for all that speaks of the pod: the new one is let go.
        let pod = Pod { id: id.clone(), ..pod };
        let unchanged = known.version == pod.version;
        let known = self.known.get_mut(pod.id.uid())?;
        known.list = list;
        known.scope = scope;
        if unchanged {
            return None;
        }
        known.version = pod.version;
        if known.annotation != pod.annotation {
            known.route = self.router.route(&pod.id, pod.annotation.as_deref());
            known.annotation.clone_from(&pod.annotation);
        }
        let route = known.route.clone();
        Some(Change { kind: Kind::Updated, since: pod.version.before(), past: false, pod, route })
    }

    fn gone(&mut self, scope: Scope, mut pod: Pod) -> Option<Change> {
        let list = self.lists.entry(scope).or_default();
        let (was_told, past) = (pod.version <= list.told, list.is_older_than_list(pod.version));
        list.seen_up_to(list.seen.max(pod.version));
        match self.known.get(pod.id.uid()) {
            // It left the selection before the list and was back by then.
            Some(known) if known.version > pod.version => return None,
            None if was_told => return None,
            _ => {}
        }
        let route = match self.known.remove(pod.id.uid()) {
            Some(known) if known.annotation == pod.annotation => known.route,
            _ => self.router.route(&pod.id, pod.annotation.as_deref()),
        };
        pod.json = pod.deleted_json();
        Some(Change { kind: Kind::Deleted, since: pod.version.before(), past, pod, route })
    }

    fn list_ended(&mut self, scope: Scope, version: ResourceVersion) {
        let list = self.lists.entry(scope).or_default();
        list.complete = Some(version);
        if list.blurred {
            tracing::warn!(
                "an item of the list could not be read at all: whether pods were deleted in the meantime is not known"
            );
        }
    }

    /// A pod that the list did not hold is gone. Where the watch begins after it was last seen, nobody else tells so.
    fn watching(&mut self, scope: Scope, version: ResourceVersion) -> Vec<Change> {
        let list = self.lists.entry(scope).or_default();
        let (number, since, blurred) = (list.number, list.seen, list.blurred);
        let listed = list.complete.unwrap_or_default();
        list.goes_on = version <= list.told;
        list.seen_up_to(version);
        let is_missed = |known: &Known| {
            known.scope == scope && known.list != number && version > since.max(known.version) && !blurred
        };
        let gone = self.known.extract_if(|_, known| is_missed(known));
        gone.map(|(id, known)| Change {
            kind: Kind::Deleted,
            pod: Pod {
                json: Bytes::new(),
                // The delete is younger than the last state, and no younger than the list.
                version: listed,
                annotation: known.annotation,
                id,
            },
            route: known.route,
            since,
            past: false,
        })
        .collect()
    }

    fn unreadable(&mut self, scope: Scope, unreadable: &Unreadable) {
        let list = self.lists.entry(scope).or_default();
        match unreadable.uid.as_deref().map(|uid| self.known.get_mut(uid)) {
            Some(Some(known)) => known.list = list.number,
            Some(None) => {}
            None => list.blurred = true,
        }
    }
}

#[cfg(test)]
mod tests;
