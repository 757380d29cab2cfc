//! Connections that wait for their next request, and the tasks that drive them.

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error as StdError,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    connection::{Connection, Http1, Http2},
    origin::Origin,
};

/// How long a connection is kept without a request.
///
/// Long enough that a pod which changes every few seconds finds its connection open; and servers and the balancers
/// before them commonly close after 60 s or later, so most connections are closed from here, where no request is lost.
pub(super) const IDLE_LIMIT: Duration = Duration::from_mins(1);

/// The connections of a sink.
///
/// An origin has an entry only while it has a request or a connection. One task closes idle connections; it ends when
/// there is no entry. Every task belongs to the pool and ends with it.
pub(super) struct Pool {
    entries: Mutex<Entries>,
    tasks: Mutex<JoinSet<()>>,
    idle_limit: Duration,
}

#[derive(Default)]
struct Entries {
    slots: HashMap<Origin, Slot>,
    /// Whether the task that closes idle connections is running.
    tended: bool,
}

/// What is known of an origin.
struct Slot {
    /// Requests that are connecting, waiting or in flight.
    visits: usize,
    /// Connections without a request; the longest idle one comes first.
    idle: Vec<Idle>,
    /// The connection of an origin that speaks HTTP/2.
    shared: Option<Arc<Http2>>,
    /// When the last request ended.
    left: Instant,
    /// Whether the last connection spoke HTTP/1.1.
    speaks_http1: bool,
    /// Taken by the one request that finds out what the origin speaks.
    first: Arc<tokio::sync::Mutex<()>>,
}

struct Idle {
    connection: Http1,
    since: Instant,
}

/// What a request is to do for a connection.
pub(super) enum Checkout {
    /// Use this one.
    Reuse(Connection),
    /// Open one.
    Open,
    /// Open one under this lock: if it speaks HTTP/2, no other is needed.
    Negotiate(Arc<tokio::sync::Mutex<()>>),
}

impl Pool {
    /// An empty pool that closes a connection after `idle_limit` without a request.
    pub(super) fn new(idle_limit: Duration) -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), tasks: Mutex::default(), idle_limit })
    }

    /// Begins a request to `origin`, which ends when the visit is dropped.
    pub(super) fn visit(self: &Arc<Self>, origin: Origin) -> Visit<'_> {
        self.entries().slots.entry(origin.clone()).or_default().visits += 1;
        Visit { pool: self, origin, kept: None }
    }

    /// Has the pool's own tasks run `future`.
    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        // What has ended is let go here, so that the set never holds more than were open at once.
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a connection's task failed");
            }
        }
        tasks.spawn(future);
    }

    /// Lets go of what was closed at the other end.
    fn forget_closed(&self, origin: &Origin) {
        if let Entry::Occupied(mut entry) = self.entries().slots.entry(origin.clone()) {
            entry.get_mut().drop_closed();
            if entry.get().is_vacant() {
                entry.remove();
            }
        }
    }

    /// Closes what has been idle too long, and says when to look again. `None`: there is nothing to look after.
    fn close_idle(&self, now: Instant) -> Option<Instant> {
        let mut entries = self.entries();
        entries.slots.retain(|_, slot| {
            slot.drop_idle(now, self.idle_limit);
            !slot.is_vacant()
        });
        entries.tended = !entries.slots.is_empty();
        let longest_idle = entries.slots.values().filter_map(Slot::idle_since).min();
        entries.tended.then(|| longest_idle.unwrap_or(now) + self.idle_limit)
    }

    /// How many origins have an entry.
    #[cfg(test)]
    pub(super) fn known_origins(&self) -> usize {
        self.entries().slots.len()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        lock(&self.entries)
    }
}

/// Closes idle connections until there are none, or no pool.
async fn tend(pool: Weak<Pool>) {
    while let Some(next) = pool.upgrade().and_then(|pool| pool.close_idle(Instant::now())) {
        sleep_until(next).await;
    }
}

/// No code that holds one of these locks can panic halfway, so what they guard is whole even then.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request's business with its origin.
pub(super) struct Visit<'a> {
    pool: &'a Arc<Pool>,
    origin: Origin,
    kept: Option<Http1>,
}

impl Visit<'_> {
    /// Where the request goes.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Takes a connection, or says how to open one.
    pub(super) fn checkout(&self) -> Checkout {
        let mut entries = self.pool.entries();
        let slot = entries.slots.entry(self.origin.clone()).or_default();
        // The one used last is the least likely to have been closed.
        while let Some(Idle { connection, .. }) = slot.idle.pop() {
            if connection.is_open() {
                return Checkout::Reuse(Connection::Http1(connection));
            }
        }
        match &slot.shared {
            Some(shared) if shared.is_open() => Checkout::Reuse(Connection::Http2(shared.clone())),
            _ if self.origin.is_secure() && !slot.speaks_http1 => Checkout::Negotiate(slot.first.clone()),
            _ => Checkout::Open,
        }
    }

    /// Tells of a connection that the request has opened.
    pub(super) fn opened(&self, connection: &Connection) {
        let mut entries = self.pool.entries();
        let slot = entries.slots.entry(self.origin.clone()).or_default();
        match connection {
            Connection::Http1(_) => slot.speaks_http1 = true,
            Connection::Http2(shared) => {
                slot.speaks_http1 = false;
                slot.shared = Some(shared.clone());
            }
        }
        if !entries.tended {
            entries.tended = true;
            drop(entries);
            self.pool.spawn(tend(Arc::downgrade(self.pool)));
        }
    }

    /// Gives a connection to whoever comes next, at the end of the visit.
    pub(super) fn keep(&mut self, connection: Connection) {
        match connection {
            Connection::Http1(connection) => self.kept = Some(connection),
            // The slot has had it all the time.
            Connection::Http2(_) => {}
        }
    }

    /// Takes care that a connection that did not take a request is not given to another one.
    pub(super) fn discard(&self, connection: &Connection) {
        let mut entries = self.pool.entries();
        if let (Connection::Http2(dead), Some(slot)) = (connection, entries.slots.get_mut(&self.origin)) {
            slot.shared.take_if(|shared| Arc::ptr_eq(shared, dead));
        }
    }

    /// Has the pool drive a connection to its end.
    pub(super) fn drive<E>(&self, driver: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: StdError + Send,
    {
        let (pool, origin) = (Arc::downgrade(self.pool), self.origin.clone());
        self.pool.spawn(async move {
            // A request that was on the connection gets the error; one that was idle has nobody to tell.
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection broke");
            }
            if let Some(pool) = pool.upgrade() {
                pool.forget_closed(&origin);
            }
        });
    }

    /// Where HTTP/2 runs the tasks it needs.
    pub(super) fn executor(&self) -> PoolTasks {
        PoolTasks(Arc::downgrade(self.pool))
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut entries = self.pool.entries();
        let Entry::Occupied(mut entry) = entries.slots.entry(self.origin.clone()) else { return };
        let slot = entry.get_mut();
        slot.visits -= 1;
        slot.left = Instant::now();
        if let Some(connection) = self.kept.take() {
            slot.idle.push(Idle { connection, since: slot.left });
        }
        if slot.is_vacant() {
            entry.remove();
        }
    }
}

impl Slot {
    fn is_vacant(&self) -> bool {
        self.visits == 0 && self.idle.is_empty() && self.shared.is_none()
    }

    fn drop_closed(&mut self) {
        self.idle.retain(|idle| idle.connection.is_open());
        self.shared.take_if(|shared| !shared.is_open());
    }

    fn drop_idle(&mut self, now: Instant, limit: Duration) {
        let stale = self.idle.partition_point(|idle| now.duration_since(idle.since) >= limit);
        self.idle.drain(..stale);
        if self.visits == 0 && now.duration_since(self.left) >= limit {
            self.shared = None;
        }
    }

    /// Since when the longest idle connection has been so.
    fn idle_since(&self) -> Option<Instant> {
        let shared = (self.visits == 0 && self.shared.is_some()).then_some(self.left);
        self.idle.first().map(|idle| idle.since).into_iter().chain(shared).min()
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            visits: 0,
            idle: Vec::new(),
            shared: None,
            left: Instant::now(),
            speaks_http1: false,
            first: Arc::default(),
        }
    }
}

/// Runs tasks as the pool's own.
#[derive(Clone)]
pub(super) struct PoolTasks(Weak<Pool>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for PoolTasks {
    fn execute(&self, future: F) {
        if let Some(pool) = self.0.upgrade() {
            pool.spawn(future);
        }
    }
}
