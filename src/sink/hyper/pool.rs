//! The connections that are open, by origin.
//!
//! hyper-util's client opens a connection whenever none is idle at that moment, and one becomes idle only a moment
//! after its answer has ended: under load it holds more connections than there are attempts in flight. Here a
//! connection is given back before the attempt ends, so the next one finds it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::connect::{Connector, Opened};
use crate::sink::{Fault, Stage};

type Body = Full<Bytes>;

/// How long a connection is kept idle: servers and balancers in between close theirs after a minute as a rule, and a
/// connection costs both sides memory.
const IDLE_LIMIT: Duration = Duration::from_secs(50);

/// How long a connection may take to be free after its answer has ended: only as long as our own task needs, unless
/// the server has answered without reading the request, and never will.
const FREE_LIMIT: Duration = Duration::from_millis(100);

/// An HTTP/2 connection that carries attempts is asked so often whether it is alive, and closed when it does not tell
/// for as long again: else every attempt would go to the same dead connection.
const PING: Duration = Duration::from_secs(10);

/// The connections of all origins.
#[derive(Default)]
pub(super) struct Pool {
    shared: Arc<Mutex<Shared>>,
    /// The tasks that drive connections, and the one that closes idle ones; dropped with the pool.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Shared {
    origins: HashMap<String, Origin>,
    /// Whether a task is there that closes idle connections.
    sweeping: bool,
}

/// The connections to one scheme, host and port.
#[derive(Default)]
struct Origin {
    idle: Vec<Idle>,
    http2: Option<(http2::SendRequest<Body>, Instant)>,
    /// Whether HTTP/1.1 is known to be spoken: attempts open connections side by side then.
    http1: bool,
    /// Held while the first connection is opened, which tells what is spoken.
    first: Arc<tokio::sync::Mutex<()>>,
    /// Attempts that use the origin, whose entry is kept for them.
    users: usize,
}

struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

/// A connection for one attempt. Dropping it closes the connection if it speaks HTTP/1.1, for it may be amid an
/// exchange, and resets the exchange if it speaks HTTP/2.
pub(super) struct Lease<'a> {
    sender: Sender,
    is_new: bool,
    user: User<'a>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// Keeps the entry of an origin as long as it lives.
struct User<'a> {
    pool: &'a Pool,
    key: String,
}

impl Pool {
    /// Whether nothing is kept for any origin.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shared().origins.is_empty()
    }

    /// Whether some connection could be used again.
    #[cfg(test)]
    pub(super) fn has_idle(&self) -> bool {
        self.shared().origins.values().any(|origin| origin.idle.iter().any(|idle| idle.sender.is_ready()))
    }

    /// A connection to the origin of `target`: one that is idle or shared, else a new one.
    pub(super) async fn lease(&self, target: &Uri, connector: &Connector) -> Result<Lease<'_>, Fault> {
        let user = User::new(self, target);
        let first = match user.reuse() {
            Ok(sender) => return Ok(Lease { sender, is_new: false, user }),
            Err(first) => first,
        };
        let Some(first) = first else {
            let sender = self.open(&user, target, connector).await?;
            return Ok(Lease { sender, is_new: true, user });
        };
        let guard = first.lock().await;
        // Somebody else may have been first.
        if let Ok(sender) = user.reuse() {
            return Ok(Lease { sender, is_new: false, user });
        }
        let known = user.entry(|origin| origin.http1);
        if known {
            drop(guard);
        }
        let sender = self.open(&user, target, connector).await?;
        Ok(Lease { sender, is_new: true, user })
    }

    async fn open(&self, user: &User<'_>, target: &Uri, connector: &Connector) -> Result<Sender, Fault> {
        let handshake = |error: hyper::Error| Fault { stage: Stage::Exchange, source: error.into() };
        match connector.open(target).await? {
            Opened::Plain(stream) => {
                let (sender, connection) = http1::handshake(stream).await.map_err(handshake)?;
                self.drive(connection);
                Ok(Sender::Http1(sender))
            }
            Opened::Tls { stream, http2: false } => {
                user.entry(|origin| origin.http1 = true);
                let (sender, connection) = http1::handshake(stream).await.map_err(handshake)?;
                self.drive(connection);
                Ok(Sender::Http1(sender))
            }
            Opened::Tls { stream, http2: true } => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
                let (sender, connection) = builder.handshake(stream).await.map_err(handshake)?;
                self.drive(connection);
                user.entry(|origin| {
                    origin.http1 = false;
                    origin.http2 = Some((sender.clone(), Instant::now()));
                });
                self.sweep();
                Ok(Sender::Http2(sender))
            }
        }
    }

    /// Runs a connection to its end. How that came is told to the attempt that it carries.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        self.spawn(async { drop(connection.await) });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// Sees to it that idle connections are closed in time; the task for it ends when there are none.
    fn sweep(&self) {
        if std::mem::replace(&mut self.shared().sweeping, true) {
            return;
        }
        let shared = self.shared.clone();
        self.spawn(async move {
            loop {
                sleep(IDLE_LIMIT / 4).await;
                let mut shared = lock(&shared);
                shared.close_idle(Instant::now());
                if shared.origins.values().all(Origin::is_closed) {
                    shared.sweeping = false;
                    return;
                }
            }
        });
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn close_idle(&mut self, now: Instant) {
        let is_fresh = |since: Instant| now.duration_since(since) < IDLE_LIMIT;
        self.origins.retain(|_, origin| {
            origin.idle.retain(|idle| is_fresh(idle.since) && !idle.sender.is_closed());
            origin.http2.take_if(|(sender, used)| sender.is_closed() || (origin.users == 0 && !is_fresh(*used)));
            origin.users > 0 || !origin.is_closed()
        });
    }
}

impl Origin {
    fn is_closed(&self) -> bool {
        self.idle.is_empty() && self.http2.is_none()
    }
}

impl<'a> User<'a> {
    fn new(pool: &'a Pool, target: &Uri) -> Self {
        let scheme = target.scheme_str().unwrap_or_default();
        let key = format!("{scheme}://{}", target.authority().map_or("", http::uri::Authority::as_str));
        let mut shared = pool.shared();
        let origin = shared.origins.entry(key.clone()).or_default();
        origin.users += 1;
        // Without TLS there is nothing to agree by.
        origin.http1 |= scheme == "http";
        drop(shared);
        Self { pool, key }
    }

    fn entry<T>(&self, with: impl FnOnce(&mut Origin) -> T) -> T {
        let mut shared = self.pool.shared();
        // The entry is there as long as this value: `or_default` only says so to the compiler.
        with(shared.origins.entry(self.key.clone()).or_default())
    }

    /// A connection that is open. Without one, whoever opens the first has to hold the lock, unless it is known that
    /// each attempt needs its own.
    fn reuse(&self) -> Result<Sender, Option<Arc<tokio::sync::Mutex<()>>>> {
        self.entry(|origin| {
            if let Some((sender, used)) = origin.http2.as_mut().filter(|(sender, _)| !sender.is_closed()) {
                *used = Instant::now();
                return Ok(Sender::Http2(sender.clone()));
            }
            while let Some(Idle { sender, .. }) = origin.idle.pop() {
                if sender.is_ready() {
                    return Ok(Sender::Http1(sender));
                }
            }
            Err((!origin.http1).then(|| origin.first.clone()))
        })
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let mut shared = self.pool.shared();
        let Some(origin) = shared.origins.get_mut(&self.key) else { return };
        origin.users -= 1;
        if origin.users == 0 && origin.is_closed() {
            shared.origins.remove(&self.key);
        }
    }
}

impl Lease<'_> {
    pub(super) fn speaks_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Whether the connection was opened for this attempt.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Sends the request. An error has the request in it when nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        }
    }

    /// Gives the connection back after the answer has been read to its end.
    pub(super) async fn give_back(self) {
        let Self { sender: Sender::Http1(mut sender), user, .. } = self else { return };
        let is_free = sender.is_ready() || matches!(timeout(FREE_LIMIT, sender.ready()).await, Ok(Ok(())));
        if is_free {
            user.entry(|origin| origin.idle.push(Idle { sender, since: Instant::now() }));
            user.pool.sweep();
        }
    }
}
