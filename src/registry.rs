//! The pods that are known, and what a new event means beside them.
//!
//! Of each pod only the identity, the version and the annotation are held: memory does not grow with pod size.

use std::{collections::HashMap, sync::Arc};

use crate::{
    pod::{Pod, PodId, ResourceVersion, Unreadable},
    route::{Route, Router},
    source::{PodEvent, Scope, What},
};

/// What a state is to those who have followed the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// The state. Of a deleted pod, the JSON is already the one to send.
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
    annotation: Option<Box<str>>,
    route: Arc<Route>,
}

#[derive(Debug, Default)]
struct List {
    number: u32,
    /// The version of the last complete list.
    complete: Option<ResourceVersion>,
    /// Up to where the watch has told everything.
    seen: ResourceVersion,
    /// An item could not be told from any other: what is missing cannot be known.
    blurred: bool,
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
        let is_caught_up = |list: &&List| list.complete.is_some_and(|complete| list.seen >= complete);
        let seen = self.lists.values().filter(is_caught_up).map(|list| list.seen);
        if seen.clone().count() == scopes { seen.min() } else { None }
    }

    /// Takes in an event and gives what it changes: nothing, one state, or at the end of a list each delete that was
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
            What::Changed(pod) => {
                let list = self.told_up_to(scope, pod.version);
                // The watch begins before the list. What changed before it and is not in it is gone: the delete follows.
                let is_older = list.complete.is_some_and(|complete| pod.version <= complete);
                let newest = self.known.get(pod.id.uid()).map(|known| known.version);
                match newest {
                    None if is_older => Vec::new(),
                    Some(known) if pod.version <= known => Vec::new(),
                    _ => self.present(scope, pod).into_iter().collect(),
                }
            }
            What::Deleted(pod) => {
                let list = self.told_up_to(scope, pod.version);
                let past = list.complete.is_some_and(|complete| pod.version <= complete);
                self.gone(pod, past).into_iter().collect()
            }
            What::ListEnded(version) => self.list_ended(scope, version),
            What::Unreadable(unreadable) => {
                self.unreadable(scope, &unreadable);
                Vec::new()
            }
            What::Forgotten { .. } => Vec::new(),
            What::Watching(version) => {
                self.lists.entry(scope).or_default().seen = version;
                Vec::new()
            }
            What::Bookmark(version) => {
                self.told_up_to(scope, version);
                Vec::new()
            }
        }
    }

    fn told_up_to(&mut self, scope: Scope, version: ResourceVersion) -> &List {
        let list = self.lists.entry(scope).or_default();
        list.seen = list.seen.max(version);
        list
    }

    /// Knows no pod any more.
    pub fn clear(&mut self) {
        self.known.clear();
        self.lists.clear();
    }

    fn present(&mut self, scope: Scope, pod: Pod) -> Option<Change> {
        let list = self.lists.entry(scope).or_default().number;
        let Some((id, known)) = self.known.get_key_value(pod.id.uid()) else {
            let route = self.router.route(&pod);
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
            known.route = self.router.route(&pod);
            known.annotation.clone_from(&pod.annotation);
        }
        let route = known.route.clone();
        Some(Change { kind: Kind::Updated, since: pod.version.before(), past: false, pod, route })
    }

    fn gone(&mut self, mut pod: Pod, past: bool) -> Option<Change> {
        if self.known.get(pod.id.uid()).is_some_and(|known| known.version > pod.version) {
            // It left the selection before the list and was back by then.
            return None;
        }
        let route = match self.known.remove(pod.id.uid()) {
            Some(known) if known.annotation == pod.annotation => known.route,
            _ => self.router.route(&pod),
        };
        pod.json = pod.deleted_json();
        Some(Change { kind: Kind::Deleted, since: pod.version.before(), past, pod, route })
    }

    fn list_ended(&mut self, scope: Scope, version: ResourceVersion) -> Vec<Change> {
        let list = self.lists.entry(scope).or_default();
        list.complete = Some(version);
        if list.blurred {
            tracing::warn!(
                "an item of the list could not be read at all: whether pods were deleted in the meantime is not known"
            );
            return Vec::new();
        }
        let (number, since) = (list.number, list.seen);
        let missing = |known: &Known| known.scope == scope && known.list != number;
        let gone = self.known.extract_if(|_, known| missing(known));
        gone.map(|(id, known)| Change {
            kind: Kind::Deleted,
            pod: Pod {
                json: Pod::identity_json(&id, known.version, known.annotation.as_deref()),
                // The delete is younger than the last state, and no younger than the list.
                version,
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
