//! A TCP forwarder between k8vent and the API server, which tests cut, stall and point elsewhere.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{background::Background, port::Port};

/// Passes bytes on from a port that stays the same to one that may change; TLS goes through untouched.
pub struct Forwarder {
    port: Port,
    shared: Arc<Shared>,
    _background: Background,
}

struct Shared {
    /// Where connections go; none while there is no server: they are closed at once.
    target: watch::Sender<Option<SocketAddr>>,
    /// While true nothing is passed on, in neither direction, and nothing is closed.
    held: watch::Sender<bool>,
    /// Raised by each cut: every connection of an earlier epoch closes.
    epoch: watch::Sender<u64>,
    accepted: AtomicU64,
    open: AtomicUsize,
}

impl Forwarder {
    /// Listens on a fresh loopback port.
    pub async fn start(target: Option<SocketAddr>) -> io::Result<Self> {
        let background = Background::start("forwarder");
        let shared = Arc::new(Shared {
            target: watch::Sender::new(target),
            held: watch::Sender::new(false),
            epoch: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        let port = background
            .run(async move {
                let port = Port::reserve()?;
                tokio::spawn(accept(port.listen()?, accepting));
                io::Result::Ok(port)
            })
            .await?;
        Ok(Self { port, shared, _background: background })
    }

    /// The address that clients use.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Sends new connections elsewhere; with none, they are closed as soon as they are accepted.
    pub fn set_target(&self, target: Option<SocketAddr>) {
        self.shared.target.send_replace(target);
    }

    /// Closes every connection there is; new ones are accepted.
    pub fn cut(&self) {
        self.shared.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Stops passing bytes on without closing anything: connections are half-open, new ones are accepted and stall.
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Ends [`hold`](Self::hold): what was held back goes on.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// How many connections have been accepted since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(client, Arc::clone(&shared)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    shared.open.fetch_add(1, Ordering::Relaxed);
    let mut epoch = shared.epoch.subscribe();
    tokio::select! {
        // Changed, or gone with the forwarder: closed either way.
        _ = epoch.changed() => {}
        // A broken connection ends like a closed one.
        _ = pass(client, &shared) => {}
    }
    shared.open.fetch_sub(1, Ordering::Relaxed);
}

async fn pass(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut held = shared.held.subscribe();
    let released = |held: &bool| !held;
    // The sender outlives the connection.
    let _ = held.wait_for(released).await;
    let Some(target) = *shared.target.borrow() else { return Ok(()) };
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // The copy keeps what it has read in buffers of its own: while held it is not polled, but never dropped.
    let mut copying = pin!(copy_bidirectional(&mut client, &mut server));
    loop {
        tokio::select! {
            biased;
            _ = held.wait_for(|held| *held) => {}
            copied = &mut copying => return copied.map(|_| ()),
        }
        let _ = held.wait_for(released).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let port = Port::reserve().unwrap();
        let (listener, address) = (port.listen().unwrap(), port.address());
        tokio::spawn(async move {
            let _port = port;
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = client.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn says(client: &mut TcpStream, word: &[u8; 4]) {
        client.write_all(word).await.unwrap();
        hears(client, word).await;
    }

    async fn hears(client: &mut TcpStream, word: &[u8; 4]) {
        let mut heard = [0; 4];
        timeout(LIMIT, client.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(&heard, word);
    }

    #[tokio::test]
    async fn bytes_pass_until_the_connection_is_cut_and_a_new_one_passes_again() {
        let forwarder = Forwarder::start(Some(echo())).await.unwrap();
        let mut client = TcpStream::connect(forwarder.address()).await.unwrap();
        says(&mut client, b"ping").await;
        assert_eq!((forwarder.accepted(), forwarder.open()), (1, 1));
        forwarder.cut();
        assert!(matches!(timeout(LIMIT, client.read(&mut [0])).await.unwrap(), Ok(0) | Err(_)));
        let mut client = TcpStream::connect(forwarder.address()).await.unwrap();
        says(&mut client, b"pong").await;
        assert_eq!(forwarder.accepted(), 2);
    }

    #[tokio::test]
    async fn what_is_held_arrives_after_the_release_and_not_before() {
        let forwarder = Forwarder::start(Some(echo())).await.unwrap();
        let mut old = TcpStream::connect(forwarder.address()).await.unwrap();
        says(&mut old, b"ping").await;
        forwarder.hold();
        let mut new = TcpStream::connect(forwarder.address()).await.unwrap();
        for client in [&mut old, &mut new] {
            client.write_all(b"held").await.unwrap();
            assert!(
                timeout(Duration::from_millis(50), client.read(&mut [0])).await.is_err(),
                "nothing comes while held"
            );
        }
        forwarder.release();
        hears(&mut old, b"held").await;
        hears(&mut new, b"held").await;
    }

    #[tokio::test]
    async fn without_a_target_connections_close_at_once() {
        let forwarder = Forwarder::start(None).await.unwrap();
        let mut client = TcpStream::connect(forwarder.address()).await.unwrap();
        assert!(matches!(timeout(LIMIT, client.read(&mut [0])).await.unwrap(), Ok(0) | Err(_)));
        forwarder.set_target(Some(echo()));
        says(&mut TcpStream::connect(forwarder.address()).await.unwrap(), b"ping").await;
    }
}
