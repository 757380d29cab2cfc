//! One active replica of several, by a Lease; and the position, which lives in the same object.
//!
//! ```text
//!  standby ──acquire──▶ Held ──keep: renews, writes the position──▶ lost, or release ──▶ standby or end
//! ```
//!
//! Each write names the resource version that was read before it, so the API server refuses it once anybody else has
//! written: a replica that has lost the lease can overwrite neither its successor's name nor its position. That, a
//! hand-over that is noticed within seconds, and an end that the holder itself can tell by its own clock are why this
//! uses no library: `kube-lease-manager` renews without naming a version, looks at a lease that somebody holds only when
//! it has expired, and does not tell until when it is held.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Error,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, error::Elapsed, sleep, timeout},
};

use crate::{chain::Chain, fence::Fence, health::Health, metrics::Metrics, position::Position, run::Term};

/// How long the others wait after the last renewal before they take the lease.
pub const DURATION: Duration = Duration::from_secs(15);

/// How long after the last renewal the holder may send. Until [`DURATION`] there is time for what was sent to arrive, and
/// for clocks that differ.
const MAY_SEND: Duration = Duration::from_secs(10);

/// How often the holder renews it, and how long that may take.
const RENEW: Duration = Duration::from_secs(3);

/// How often the others look, and how soon what failed is tried again.
const LOOK: Duration = Duration::from_secs(1);

/// The annotation that holds the position.
const POSITION: &str = "k8vent.atomist.com/position";

/// A Lease, as one replica sees it.
pub struct Candidate {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
}

/// The lease, held.
pub struct Held<'a> {
    candidate: &'a Candidate,
    /// As it was last written, with its resource version.
    lease: Lease,
    /// Before the request that wrote it.
    renewed: Instant,
}

/// A lease that somebody else held when it was last looked at.
struct Observed {
    version: Option<String>,
    since: Instant,
}

#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error(
        "not permitted: the service account needs a Role in namespace {namespace} with the rule \
         {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, update, create]}}; kube/rbac.yaml grants it"
    )]
    Forbidden {
        namespace: String,
        #[source]
        source: Error,
    },
    #[error("there is no namespace {0}: create it, or name another by --lease=NAMESPACE/NAME")]
    NoNamespace(String, #[source] Error),
    #[error("the API server did not take it")]
    Failed(#[source] Error),
    #[error("no answer from the API server")]
    Silent(#[from] Elapsed),
}

impl Candidate {
    /// A candidate for the lease of this name. `identity` is that of no other process that still runs.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), name: name.to_owned(), identity }
    }

    /// Waits until the lease is held, and opens `fence` for as long. What fails is logged, and tried again.
    pub async fn acquire(&self, fence: &Fence, health: &Health) -> Held<'_> {
        let mut observed: Option<Observed> = None;
        let mut was_told = String::new();
        loop {
            let began = Instant::now();
            match self.try_acquire(&mut observed).await {
                Ok(Some(lease)) => {
                    health.progress(Instant::now());
                    fence.extend(began + MAY_SEND);
                    tracing::info!(lease = self.name, identity = self.identity, "lease acquired");
                    return Held { candidate: self, lease, renewed: began };
                }
                Ok(None) => {
                    health.progress(Instant::now());
                    was_told.clear();
                }
                // The same fault once, not every second.
                Err(error) => {
                    let error = Chain(&error).to_string();
                    if error != was_told {
                        tracing::warn!(lease = self.name, %error, "cannot acquire the lease");
                        was_told = error;
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn try_acquire(&self, observed: &mut Option<Observed>) -> Result<Option<Lease>, LeaseError> {
        let Some(mut lease) = self.get().await? else {
            return self.create(self.claim(Lease::default())).await;
        };
        let version = lease.metadata.resource_version.clone();
        let observed = match observed {
            Some(same) if same.version == version => same,
            new => {
                let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
                tracing::debug!(lease = self.name, holder, "lease observed");
                new.insert(Observed { version, since: Instant::now() })
            }
        };
        let is_mine = self.is_mine(&lease);
        let spec = lease.spec.get_or_insert_default();
        if !is_mine && spec.holder_identity.is_some() && !has_expired(spec, observed.since.elapsed(), Timestamp::now())
        {
            return Ok(None);
        }
        self.replace(&self.claim(lease)).await
    }

    /// The same lease, held by this candidate from now on. It changes hands unless an earlier process of the same
    /// identity held it.
    fn claim(&self, mut lease: Lease) -> Lease {
        let now = MicroTime(Timestamp::now());
        let is_mine = self.is_mine(&lease);
        let spec = lease.spec.get_or_insert_default();
        if !is_mine {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |before| before.saturating_add(1)));
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
        }
        spec.lease_duration_seconds = Some(DURATION.as_secs().try_into().unwrap_or(i32::MAX));
        spec.renew_time = Some(now);
        lease.metadata = ObjectMeta { name: Some(self.name.clone()), ..lease.metadata };
        lease
    }

    fn is_mine(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity)
    }

    async fn get(&self) -> Result<Option<Lease>, LeaseError> {
        timeout(RENEW, self.api.get_opt(&self.name)).await?.map_err(|error| self.told(error))
    }

    /// Writes the lease if it still is what was read; `None` if somebody else has written it.
    async fn replace(&self, lease: &Lease) -> Result<Option<Lease>, LeaseError> {
        let written = timeout(RENEW, self.api.replace(&self.name, &PostParams::default(), lease)).await?;
        self.unless_refused(written)
    }

    async fn create(&self, mut lease: Lease) -> Result<Option<Lease>, LeaseError> {
        lease.metadata.resource_version = None;
        lease.metadata.uid = None;
        let written = timeout(RENEW, self.api.create(&PostParams::default(), &lease)).await?;
        self.unless_refused(written)
    }

    fn unless_refused(&self, written: Result<Lease, Error>) -> Result<Option<Lease>, LeaseError> {
        match written {
            Ok(lease) => Ok(Some(lease)),
            Err(Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(self.told(error)),
        }
    }

    fn told(&self, error: Error) -> LeaseError {
        match &error {
            Error::Api(status) if status.code == 403 => {
                LeaseError::Forbidden { namespace: self.namespace.clone(), source: error }
            }
            Error::Api(status) if status.code == 404 => LeaseError::NoNamespace(self.namespace.clone(), error),
            _ => LeaseError::Failed(error),
        }
    }
}

/// Whether a lease that has not changed for so long may be taken.
///
/// By the clocks of both replicas, as the field's documentation has it, and never before the holder has stopped by its
/// own; where the clocks differ too much for that, by ours alone.
fn has_expired(spec: &LeaseSpec, unchanged: Duration, now: Timestamp) -> bool {
    let (Some(MicroTime(renewed)), Some(seconds)) = (&spec.renew_time, spec.lease_duration_seconds) else {
        return true;
    };
    let duration = Duration::from_secs(seconds.max(0).unsigned_abs().into());
    let by_clocks = now.duration_since(*renewed) >= SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    unchanged >= duration || (by_clocks && unchanged >= MAY_SEND.min(duration))
}

impl Held<'_> {
    /// A name for the time for which the lease is in the same hands. A lease that was deleted and made again begins to
    /// count anew, and is told apart by its uid.
    #[must_use]
    pub fn term(&self) -> Term {
        let Self { lease: Lease { metadata, spec }, .. } = self;
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let transitions = spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default();
        let name = |transitions: i32| format!("{uid}/{transitions}");
        Term { own: name(transitions), before: transitions.checked_sub(1).filter(|before| *before >= 0).map(name) }
    }

    /// The position that the last holder left, as text.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        self.lease.metadata.annotations.as_ref()?.get(POSITION).map(String::as_str)
    }

    /// Renews the lease, and with each renewal writes the newest of `positions`, until somebody else holds it. Extends
    /// `fence` as long as requests may be sent, and revokes it at the end.
    ///
    /// While it cannot be renewed the fence closes by the clock. It opens again when the lease is renewed and nobody has
    /// taken it meanwhile.
    pub async fn keep(&mut self, fence: &Fence, positions: &watch::Receiver<Option<Position>>, metrics: &Metrics) {
        let mut pause = RENEW;
        let mut was_told = String::new();
        loop {
            sleep(pause).await;
            // Not borrowed while the request is under way: the next position has to be told in the meantime.
            let position = positions.borrow().clone();
            match self.renew(position.as_ref()).await {
                Ok(true) => {
                    fence.extend(self.renewed + MAY_SEND);
                    metrics.saves.inc_by(position.is_some().into());
                    if !std::mem::take(&mut was_told).is_empty() {
                        tracing::info!(lease = self.candidate.name, "lease renewed again");
                    }
                    pause = RENEW;
                }
                Ok(false) => break,
                // The same fault once, not every second.
                Err(error) => {
                    let sending = if fence.is_open() { "goes on for now" } else { "paused" };
                    let told = format!("{sending}: {}", Chain(&error));
                    if told != was_told {
                        tracing::warn!(lease = self.candidate.name, sending, error = %Chain(&error), "cannot renew the lease");
                        was_told = told;
                    }
                    pause = LOOK;
                }
            }
        }
        tracing::warn!(lease = self.candidate.name, "another replica has taken the lease: nothing more is sent");
        fence.revoke();
    }

    /// Renews the lease and writes a position; false when somebody else holds it.
    async fn renew(&mut self, position: Option<&Position>) -> Result<bool, LeaseError> {
        let began = Instant::now();
        let mut lease = self.with(position);
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        self.write(lease, began).await
    }

    /// Gives the lease back, with the last position, for the next to take at once.
    pub async fn release(mut self, position: Option<&Position>) {
        let began = Instant::now();
        let mut lease = self.with(position);
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        match self.write(lease, began).await {
            Ok(true) => tracing::info!(lease = self.candidate.name, "lease released"),
            Ok(false) => tracing::warn!(lease = self.candidate.name, "the lease was no longer held"),
            Err(error) => tracing::warn!(
                lease = self.candidate.name, error = %Chain(&error),
                "cannot release the lease: others take it when it has expired, and what was accepted since the last \
                 renewal is sent again"
            ),
        }
    }

    fn with(&self, position: Option<&Position>) -> Lease {
        let mut lease = self.lease.clone();
        if let Some(position) = position {
            lease.metadata.annotations.get_or_insert_default().insert(POSITION.to_owned(), position.to_string());
        }
        lease
    }

    /// Writes the lease. Where somebody else has written it who does not hold it, as `kubectl annotate` does, or our own
    /// last write was taken without our knowing, that is taken over and written again; where it was deleted, it is
    /// created.
    async fn write(&mut self, mut lease: Lease, began: Instant) -> Result<bool, LeaseError> {
        if let Some(written) = self.candidate.replace(&lease).await.or_else(gone)? {
            self.lease = written;
            self.renewed = began;
            return Ok(true);
        }
        let written = match self.candidate.get().await? {
            Some(found) if self.candidate.is_mine(&found) => {
                lease.metadata.resource_version = found.metadata.resource_version;
                self.candidate.replace(&lease).await?
            }
            Some(_) => return Ok(false),
            None => self.candidate.create(lease).await?,
        };
        let Some(written) = written else { return Ok(false) };
        self.lease = written;
        self.renewed = began;
        Ok(true)
    }
}

/// A lease that is not there is one that was not written.
fn gone(error: LeaseError) -> Result<Option<Lease>, LeaseError> {
    match error {
        LeaseError::NoNamespace(..) => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewed_at(second: i64) -> LeaseSpec {
        LeaseSpec {
            renew_time: Some(MicroTime(Timestamp::from_second(second).unwrap())),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    fn expired(unchanged: u64, now: i64) -> bool {
        has_expired(&renewed_at(100), Duration::from_secs(unchanged), Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn it_may_be_taken_after_its_duration() {
        assert!(!expired(14, 114));
        assert!(expired(14, 115));
        assert!(
            has_expired(&LeaseSpec::default(), Duration::ZERO, Timestamp::UNIX_EPOCH),
            "nobody has ever renewed it"
        );
    }

    #[test]
    fn a_clock_that_is_fast_takes_it_no_sooner_than_the_holder_has_stopped() {
        assert!(!expired(9, 100_000));
        assert!(expired(10, 100_000));
    }

    #[test]
    fn a_clock_that_is_slow_takes_it_in_the_end() {
        assert!(!expired(14, 0));
        assert!(expired(15, 0));
    }
}
