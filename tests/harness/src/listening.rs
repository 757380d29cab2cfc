//! A server of the harness that can be taken down and brought up at the same address.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use crate::{background::Background, port::Port};

/// A reserved port and, while it is up, the task that accepts on it.
pub(crate) struct Listening {
    port: Arc<Port>,
    accepting: Mutex<Option<Accepting>>,
    background: Background,
}

struct Accepting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Reserves a port; it refuses connections until it is [`up`](Self::up).
    pub(crate) async fn start(name: &str) -> io::Result<Self> {
        let background = Background::start(name);
        let port = Arc::new(background.run(async { Port::reserve() }).await?);
        Ok(Self { port, accepting: Mutex::new(None), background })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Accepts connections and serves each by a task of its own.
    pub(crate) async fn up<S, F>(&self, serve: S) -> io::Result<()>
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.down().await;
        let port = Arc::clone(&self.port);
        let listener = self.background.run(async move { port.listen() }).await?;
        let (stop, stopped) = oneshot::channel();
        let task = self.background.handle().spawn(accept(listener, serve, stopped));
        *self.accepting() = Some(Accepting { stop, task });
        Ok(())
    }

    /// Closes the port and every connection.
    pub(crate) async fn down(&self) {
        let accepting = self.accepting().take();
        if let Some(accepting) = accepting {
            drop(accepting.stop);
            accepting.task.await.expect("accepting does not panic");
        }
    }

    fn accepting(&self) -> MutexGuard<'_, Option<Accepting>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts until it is told to stop; when it returns, the port and every connection are closed.
async fn accept<S, F>(listener: TcpListener, serve: S, mut stop: oneshot::Receiver<()>)
where
    S: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Told, or the server is gone.
            _ = &mut stop => break,
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                // It fails only on a socket that is closed already, as serving it will show.
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream));
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}
