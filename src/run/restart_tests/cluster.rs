//! What an API server knows of pods.

use std::collections::BTreeMap;

use crate::pod::ResourceVersion;

/// What the API server knows: every state that ever was, and which pods are there.
#[derive(Default)]
pub(super) struct Cluster {
    pub(super) log: Vec<(u64, Entry)>,
    pub(super) there: BTreeMap<usize, (usize, u64)>,
    pub(super) version: u64,
    /// No watch can begin before this version.
    pub(super) forgotten: u64,
    incarnations: usize,
}

/// What an entry of the log tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) incarnation: usize,
    pub(super) deleted: bool,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self { version: 1, ..Self::default() }
    }

    pub(super) fn change(&mut self, pod: usize) {
        self.version += 1;
        let incarnations = &mut self.incarnations;
        let (incarnation, version) = self.there.entry(pod).or_insert_with(|| {
            *incarnations += 1;
            (*incarnations, 0)
        });
        *version = self.version;
        self.log.push((self.version, Entry { incarnation: *incarnation, deleted: false }));
    }

    /// The pods that were deleted up to this version.
    pub(super) fn gone_by(&self, version: ResourceVersion) -> Vec<String> {
        let log = self.log.iter().take_while(|(at, _)| *at <= version.0);
        log.filter(|(_, entry)| entry.deleted).map(|(_, entry)| entry.incarnation.to_string()).collect()
    }

    pub(super) fn delete(&mut self, pod: usize) {
        let Some((incarnation, _)) = self.there.remove(&pod) else { return };
        self.version += 1;
        self.log.push((self.version, Entry { incarnation, deleted: true }));
    }
}
