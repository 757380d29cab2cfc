//! What an API server knows of pods.

use std::collections::BTreeMap;

use super::{NAMED, SCOPES, endpoint, pod};
use crate::pod::{Pod, ResourceVersion};

/// What the API server knows: every state that ever was, and which pods are there.
#[derive(Default)]
pub(super) struct Cluster {
    pub(super) log: Vec<(u64, Entry)>,
    there: BTreeMap<usize, (u64, Entry)>,
    pub(super) version: u64,
    /// No watch can begin before this version.
    pub(super) forgotten: u64,
    incarnations: usize,
}

/// What an entry of the log tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    incarnation: usize,
    pub(super) scope: usize,
    /// Whether the pod names the webhook [`NAMED`].
    pub(super) is_annotated: bool,
    pub(super) is_deleted: bool,
}

impl Entry {
    pub(super) fn uid(self) -> String {
        self.incarnation.to_string()
    }

    pub(super) fn pod(self, version: u64) -> Pod {
        let annotation = format!(r#"{{"webhooks":["{}"]}}"#, endpoint(NAMED));
        Pod { annotation: self.is_annotated.then(|| annotation.into()), ..pod(self.incarnation, version) }
    }
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self { version: 1, ..Self::default() }
    }

    pub(super) fn change(&mut self, pod: usize, is_annotated: bool) {
        let before = self.there.get(&pod).map(|(_, entry)| entry.incarnation);
        let incarnation = before.unwrap_or_else(|| {
            self.incarnations += 1;
            self.incarnations
        });
        let entry = Entry { incarnation, scope: pod % SCOPES, is_annotated, is_deleted: false };
        self.version += 1;
        self.there.insert(pod, (self.version, entry));
        self.log.push((self.version, entry));
    }

    pub(super) fn delete(&mut self, pod: usize) {
        let Some((_, entry)) = self.there.remove(&pod) else { return };
        self.version += 1;
        self.log.push((self.version, Entry { is_deleted: true, ..entry }));
    }

    /// The newest states of the pods of a scope, with their versions.
    pub(super) fn there(&self, scope: usize) -> impl Iterator<Item = &(u64, Entry)> {
        self.there.values().filter(move |(_, entry)| entry.scope == scope)
    }

    /// The deletes in a scope up to this version.
    pub(super) fn gone_by(&self, scope: usize, version: ResourceVersion) -> impl Iterator<Item = Entry> {
        let log = self.log.iter().take_while(move |(at, _)| *at <= version.0).map(|(_, entry)| *entry);
        log.filter(move |entry| entry.is_deleted && entry.scope == scope)
    }

    /// The version of the delete of a pod.
    pub(super) fn gone_at(&self, pod: &str) -> u64 {
        let mut log = self.log.iter();
        log.find(|(_, entry)| entry.is_deleted && entry.uid() == pod).expect("it was deleted").0
    }
}
