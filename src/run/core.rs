//! What the loop turns: everything that is known, and everything that waits.

use std::{ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Ended, Shared,
    journal::{Directory, Journal},
    past::{Past, Record},
    restore::Restored,
};
use crate::{
    delivery::Delivery,
    dispatch::{Attempt, Dispatcher, Limits},
    endpoint::Endpoint,
    fence::Fence,
    pod::ResourceVersion,
    registry::{Change, Registry},
    route::{Route, Router},
    source::{PodEvent, What},
    status::Work,
    store::{Fault, Memory},
    verdict::End,
};

/// All that is known, and all that waits. Only the loop of [`super::run`] changes it.
pub(super) struct Core {
    pub(super) past: Past,
    pub(super) registry: Registry,
    pub(super) dispatcher: Dispatcher,
    /// None without a state directory.
    pub(super) journal: Option<Journal>,
    /// What was due before this start, and the list has not told of yet.
    pub(super) restored: Restored,
    pub(super) shared: Shared,
    fence: Fence,
    limits: Limits,
    scopes: usize,
}

impl Core {
    /// Knows nothing yet but `record`.
    pub(super) fn new(
        router: Router,
        record: Option<Record>,
        limits: Limits,
        scopes: usize,
        fence: Fence,
        shared: Shared,
    ) -> Self {
        Self {
            past: Past::new(record, router.global()),
            registry: Registry::new(router),
            dispatcher: Dispatcher::new(limits, shared.metrics.clone()),
            journal: None,
            restored: Restored::default(),
            shared,
            fence,
            limits,
            scopes,
        }
    }

    /// Takes up what was known before, and gives where reading begins.
    pub(super) async fn begin(&mut self, directory: Option<Directory>) -> Vec<ResourceVersion> {
        if let Some(directory) = directory {
            let loaded = directory.store.load().await;
            self.take_up(directory, loaded);
        }
        self.past.since()
    }

    pub(super) fn take_up(&mut self, directory: Directory, loaded: Result<Option<Memory>, Fault>) {
        let (journal, memory) = Journal::open(directory, loaded, self.past.has_position(), &self.shared.metrics);
        self.journal = Some(journal);
        if let Some(memory) = memory {
            self.restore(memory);
        }
        // Written at once: from here on nobody else's term is the last.
        self.keep();
    }

    /// Takes in an event. Breaks when what is known was wrong, and everything has to be read anew.
    pub(super) fn observe(&mut self, event: PodEvent) -> ControlFlow<()> {
        let now = Instant::now();
        self.shared.health.progress(now);
        self.shared.metrics.last_progress.set(Timestamp::now().as_second());
        self.count(&event.what);
        let listed = if let What::ListEnded(version) = event.what { Some(version) } else { None };
        if listed.is_some_and(|listed| self.past.is_refuted(listed)) {
            self.begin_anew();
            return ControlFlow::Break(());
        }
        if let What::Listed(pod) = &event.what {
            self.listed(pod);
        }
        for change in self.registry.observe(event) {
            self.offer(&change, now);
        }
        if listed.is_some() {
            tracing::info!(pods = self.registry.len(), "list complete");
            if self.registry.is_complete(self.scopes) {
                self.shared.health.listed();
            }
        }
        ControlFlow::Continue(())
    }

    /// Knows nothing any more. What waits is of a cluster that is no more, and left to the list.
    fn begin_anew(&mut self) {
        self.registry.clear();
        self.restored = Restored::default();
        let dispatcher = Dispatcher::new(self.limits, self.shared.metrics.clone());
        std::mem::replace(&mut self.dispatcher, dispatcher).hand_over();
        if let Some(journal) = &mut self.journal {
            journal.begin_anew();
        }
    }

    pub(super) fn settle(&mut self, attempt: Attempt, end: &End, took: Duration) {
        if let Some(journal) = &mut self.journal {
            journal.touched(&attempt.delivery().pod, &attempt.endpoint);
        }
        self.dispatcher.settle(attempt, end, took, Instant::now(), fastrand::f64());
    }

    pub(super) fn give_up(&mut self) {
        let given_up = self.dispatcher.give_up(Instant::now());
        if let Some(journal) = &mut self.journal {
            for (pod, endpoint) in &given_up {
                journal.touched(pod, endpoint);
            }
        }
    }

    /// Has what has changed written to the state directory.
    pub(super) fn keep(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        if journal.is_overlong(self.registry.len() + self.dispatcher.deliveries()) {
            journal.begin_anew();
            self.registry.pods().for_each(|pod| journal.known(pod));
            self.dispatcher.pods().for_each(|(endpoint, pod)| journal.touched(pod, endpoint));
        }
        journal.keep(
            self.registry.told(self.scopes),
            self.past.global().iter().filter(|endpoint| self.restored.has_had_all(endpoint)),
            |pod| self.registry.known(pod),
            |pod, endpoint| Some(self.dispatcher.due(endpoint, pod)?.due(endpoint.digest())),
            &self.shared.metrics,
        );
    }

    /// Waits for the state directory: first for what is being written, then for the rest.
    pub(super) async fn finish(&mut self) {
        for _ in 0..2 {
            self.keep();
            if let Some(journal) = &mut self.journal {
                journal.finish(&self.shared.metrics).await;
            }
        }
    }

    pub(super) fn tell(&mut self) {
        self.keep();
        self.past.tell(&self.registry, &self.dispatcher, self.scopes, &self.shared.metrics);
        self.shared.board.work(Work {
            now: Instant::now(),
            pods: self.registry.len(),
            seen: self.registry.seen(self.scopes),
            told: self.shared.health.last_progress(),
            may_send: self.fence.is_open(),
            disk: self.journal.as_ref().map(Journal::disk),
            endpoints: self.dispatcher.lines().collect(),
        });
    }

    fn count(&self, what: &What) {
        match what {
            What::ListBegan => {
                self.shared.metrics.lists.inc();
            }
            What::Watching(version) => {
                tracing::debug!(%version, "watching");
                self.shared.metrics.watches.inc();
            }
            What::Unreadable(error) => {
                tracing::warn!(%error, uid = error.uid, "a pod cannot be read and is passed over");
                self.shared.metrics.pods_unreadable.inc();
            }
            What::Forgotten { after, until } => {
                let lost = if self.past.is_remembered() { "created and deleted" } else { "deleted" };
                tracing::error!(
                    %after, %until,
                    "the API server has forgotten what happened between these resource versions: \
                     pods {lost} in that time are not told of"
                );
                self.shared.metrics.spans_unknown.inc();
            }
            What::Listed(_) | What::ListEnded(_) | What::Changed(_) | What::Deleted(_) | What::Bookmark(_) => {}
        }
    }

    fn offer(&mut self, change: &Change, now: Instant) {
        let Route { endpoints, origin, refused, .. } = &*change.route;
        self.shared.metrics.refused(*refused);
        if let Some(journal) = &mut self.journal {
            journal.changed(change);
        }
        self.supersede(&change.pod);
        let lacks = |endpoint: &&Endpoint| self.past.lacks(endpoint, *origin, change.pod.version, change.past);
        let mut lacking = endpoints.iter().filter(lacks).peekable();
        if lacking.peek().is_none() {
            return;
        }
        let delivery = Delivery::new(change, Timestamp::now());
        for endpoint in lacking {
            if let Some(journal) = &mut self.journal {
                journal.touched(&change.pod.id, endpoint);
            }
            self.dispatcher.offer(endpoint, delivery.clone(), now);
        }
    }

    /// What has to be done after each turn.
    pub(super) fn gauge(&mut self) {
        if self.journal.as_ref().is_some_and(Journal::is_full) {
            self.keep();
        }
        self.shared.metrics.pods_known.set(i64::try_from(self.registry.len()).unwrap_or(i64::MAX));
        self.shared.metrics.queue_bytes.set(i64::try_from(self.dispatcher.queue_bytes()).unwrap_or(i64::MAX));
    }

    pub(super) fn hand_over(self) -> Ended {
        self.shared.metrics.pods_known.set(0);
        self.shared.metrics.queue_bytes.set(0);
        self.dispatcher.hand_over();
        Ended::HandedOver
    }

    /// Says what was left.
    pub(super) fn ended(&self) -> Ended {
        let mut all = 0;
        for (endpoint, pods) in self.dispatcher.left() {
            tracing::error!(%endpoint, pods, "not delivered before the end");
            all += pods;
        }
        if all == 0 { Ended::Drained } else { Ended::Left(all) }
    }
}
