//! Servers of the harness, each on a thread and a runtime of its own.
//!
//! A test may block its runtime, pause its clock or end while another test still uses a shared server: none of that
//! reaches a server that runs elsewhere.

use std::{future::Future, sync::mpsc, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// A thread that runs tasks until this is dropped.
pub(crate) struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start(name: &str) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (send, handle) = mpsc::channel();
        let run = move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
            send.send(runtime.handle().clone()).expect("the starter waits for the handle");
            // An error means that the sender was dropped, which says the same.
            let _ = runtime.block_on(stopped);
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started");
        Self { handle: handle.recv().expect("the thread sends its handle"), stop: Some(stop), thread: Some(thread) }
    }

    /// Where to spawn tasks of this server.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a future on the server's thread and waits for its output.
    pub(crate) async fn run<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(future).await.expect("the server's task does not panic")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic on that thread has been printed there.
            let _ = thread.join();
        }
    }
}
