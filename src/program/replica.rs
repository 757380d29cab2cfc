//! One replica: alone, or one of several that take turns by a Lease.

use std::{convert::Infallible, env, future::pending, pin::Pin};

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;

use crate::{
    digest::Digest,
    fence::Fence,
    lease::Candidate,
    position::Position,
    request::RequestBuilder,
    route::Router,
    run::{Directory, Ended, Plan, Record, Shared, Term, run},
    settings::{LeaseSettings, Settings},
    sink::WebhookSink,
    source::kube::KubeSource,
    status::Role,
    store::Store,
};

/// All that a replica needs to run.
pub(super) struct Replica<'a, Sink> {
    pub(super) source: KubeSource,
    pub(super) sink: &'a Sink,
    pub(super) settings: Settings,
    /// Where there is a `--state-dir`.
    pub(super) store: Option<Store>,
    /// What `sink` sends by.
    pub(super) fence: Fence,
    pub(super) shared: Shared,
}

impl<Sink: WebhookSink> Replica<'_, Sink> {
    /// Runs until `stop` gives an item: at once, or whenever it holds the lease.
    pub(super) async fn run(&self, mut stop: Pin<&mut impl Stream<Item = ()>>) -> Ended {
        let Some(LeaseSettings { namespace, name }) = &self.settings.lease else {
            self.shared.metrics.leader.set(1);
            return self.send(None, None, stop).await;
        };
        let client = self.source.client();
        let namespace = namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let identity = self.settings.identity.clone().unwrap_or_else(new_identity);
        let candidate = Candidate::new(client, &namespace, name, identity);
        let lease = format!("{namespace}/{name}");
        loop {
            self.shared.health.standby(true);
            self.shared.board.role(Role::Standby(lease.clone()));
            let mut held = tokio::select! {
                Some(()) = stop.next() => return Ended::Drained,
                held = candidate.acquire(&self.fence, &self.shared.health) => held,
            };
            self.shared.health.standby(false);
            self.shared.metrics.leader.set(1);
            self.shared.board.role(Role::Leader(lease.clone()));
            let (told, positions) = watch::channel(None);
            let selection = self.source.selection();
            let record = Record { selection, found: found(held.position(), selection), told };
            let term = held.term();
            let kept = async {
                held.keep(&self.fence, &positions, &self.shared.metrics).await;
                pending::<Infallible>().await
            };
            let ended = tokio::select! {
                ended = self.send(Some(record), Some(term), stop.as_mut()) => ended,
                never = kept => match never {},
            };
            self.shared.metrics.leader.set(0);
            if ended != Ended::HandedOver {
                let last = positions.borrow().clone();
                held.release(last.as_ref()).await;
                return ended;
            }
        }
    }

    async fn send(&self, record: Option<Record>, term: Option<Term>, stop: impl Stream<Item = ()>) -> Ended {
        let Settings { urls, env, source, headers, secrets, limits, timeout, drain_timeout, .. } = &self.settings;
        let selection = self.source.selection_of_cluster();
        let directory = self.store.clone().map(|store| Directory { store, selection, term });
        let plan = Plan {
            router: Router::new(urls.clone(), env.clone()),
            requests: RequestBuilder { source: source.clone(), headers: headers.clone(), secrets: secrets.clone() },
            limits: *limits,
            timeout: *timeout,
            drain_timeout: *drain_timeout,
            scopes: self.source.scopes(),
            fence: self.fence.clone(),
            record,
            directory,
        };
        run(&self.source, self.sink, plan, self.shared.clone(), stop).await
    }
}

/// The position of a text, if it is of the same pods.
fn found(text: Option<&str>, selection: Digest) -> Option<Position> {
    match text?.parse::<Position>() {
        Ok(position) if position.selection() == selection => Some(position),
        Ok(_) => {
            tracing::warn!("the recorded position is of other namespaces or selectors: every pod is sent");
            None
        }
        Err(error) => {
            tracing::error!(%error, "the recorded position cannot be read: every pod is sent");
            None
        }
    }
}

/// A name that no other process has.
fn new_identity() -> String {
    let host = env::var("HOSTNAME").unwrap_or_else(|_| "k8vent".to_owned());
    format!("{host}_{:016x}", fastrand::u64(..))
}
