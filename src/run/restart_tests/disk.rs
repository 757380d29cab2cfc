//! What is in a state directory, and what of it tells that it was accepted.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    endpoint::Endpoint,
    store::{Changes, Due, Known, Memory},
};

/// States that were accepted, by endpoint and id.
pub(super) type Accepted = BTreeSet<(Endpoint, String)>;

/// What is on disk.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) memory: Option<Memory>,
    /// What it knows was accepted.
    pub(super) accepted: Accepted,
}

impl Disk {
    pub(super) fn keep(&mut self, changes: Changes, accepted: &Accepted) {
        let before = self.memory.take().filter(|_| !changes.anew);
        let (known, due) = before.map_or((vec![], vec![]), |memory| (memory.known, memory.due));
        let mut known: BTreeMap<_, Known> = known.into_iter().map(|row| (row.id.uid().to_owned(), row)).collect();
        let mut due: BTreeMap<_, Due> =
            due.into_iter().map(|row| ((row.pod.uid().to_owned(), row.endpoint), row)).collect();
        for (pod, row) in changes.known {
            known.remove(pod.uid());
            known.extend(row.map(|row| (pod.uid().to_owned(), row)));
        }
        for (pod, endpoint, row) in changes.due {
            let key = (pod.uid().to_owned(), endpoint);
            due.remove(&key);
            due.extend(row.map(|row| (key, row)));
        }
        let memory =
            Memory { mark: changes.mark, known: known.into_values().collect(), due: due.into_values().collect() };
        self.memory = Some(memory);
        self.accepted.extend(accepted.iter().cloned());
    }
}
