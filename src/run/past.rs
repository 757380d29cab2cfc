//! What was delivered before this start, and what will have been before the next.

use std::collections::HashMap;

use tokio::sync::watch;

use crate::{
    digest::Digest, dispatch::Dispatcher, endpoint::Endpoint, metrics::Metrics, pod::ResourceVersion,
    position::Position, registry::Registry, route::Origin,
};

/// Where the position is kept beyond the process.
#[derive(Debug)]
pub struct Record {
    /// What is read: which pods of which cluster.
    pub selection: Digest,
    /// The position that was found; none where there is none, or it tells of something else.
    pub found: Option<Position>,
    /// Where each new position is told. The last is told before [`super::run`] ends.
    pub told: watch::Sender<Option<Position>>,
}

/// The record, and the endpoints that it has to name.
pub(super) struct Past {
    record: Option<Record>,
    /// Up to where everything is remembered from before this start.
    told: Option<ResourceVersion>,
    global: Vec<Endpoint>,
}

impl Past {
    pub(super) fn new(record: Option<Record>, global: &[Endpoint]) -> Self {
        Self { record, told: None, global: global.to_vec() }
    }

    pub(super) fn global(&self) -> &[Endpoint] {
        &self.global
    }

    pub(super) fn has_position(&self) -> bool {
        self.found().is_some()
    }

    /// Everything up to these versions, one for each scope, is remembered from before this start.
    pub(super) fn remember(&mut self, told: &[ResourceVersion]) {
        self.told = told.iter().copied().min();
    }

    /// Where reading has to begin, as far as that can be: the versions to try, in rising order.
    pub(super) fn since(&self) -> Vec<ResourceVersion> {
        match self.told {
            Some(told) => vec![told],
            None => self.found().map(Position::versions).unwrap_or_default(),
        }
    }

    /// Whether the pods of before this start are known.
    pub(super) fn is_remembered(&self) -> bool {
        self.told.is_some()
    }

    /// Whether an endpoint has not had a version yet, as far as the record tells.
    ///
    /// An endpoint that was not there before gets every pod, and no delete of one that it never had: one of the `past`.
    pub(super) fn lacks(&self, endpoint: &Endpoint, origin: Origin, version: ResourceVersion, past: bool) -> bool {
        let Some(found) = self.found() else { return true };
        found.of(endpoint.digest(), origin).map_or(!past, |had| version > had)
    }

    /// Whether what was recorded tells of a future that the cluster, whose list is of this version, does not have. If so
    /// it is forgotten.
    pub(super) fn is_refuted(&mut self, listed: ResourceVersion) -> bool {
        let position = self.found().map(Position::newest).unwrap_or_default().max(self.told.unwrap_or_default());
        if position <= listed {
            return false;
        }
        tracing::error!(
            %position, %listed,
            "the recorded position is newer than the cluster, as after a restore of its store: \
             starting as if there were none, every pod is sent"
        );
        self.told = None;
        if let Some(record) = &mut self.record {
            record.found = None;
        }
        true
    }

    /// Tells the position as it is now, unless the watch still tells of the time before its list.
    pub(super) fn tell(&self, registry: &Registry, dispatcher: &Dispatcher, scopes: usize, metrics: &Metrics) {
        let Some(seen) = registry.seen(scopes) else { return };
        metrics.seen.set(i64::try_from(seen.0).unwrap_or(i64::MAX));
        // While a list is read anew, states of it wait that are newer than others which it has yet to tell.
        let behind: HashMap<_, _> = dispatcher.behind().map(|(endpoint, ended)| (endpoint, ended.min(seen))).collect();
        for endpoint in &self.global {
            metrics.position(endpoint, *behind.get(endpoint).unwrap_or(&seen));
        }
        let Some(record) = &self.record else { return };
        let global = self.global.iter().map(Endpoint::digest);
        let behind = behind.into_iter().map(|(endpoint, ended)| (endpoint.digest(), ended));
        record.told.send_replace(Some(Position::new(record.selection, seen, global, behind)));
    }

    fn found(&self) -> Option<&Position> {
        self.record.as_ref()?.found.as_ref()
    }
}
