//! The composition root: settings to adapters to the core, and how it ended to an exit code.

use std::{
    convert::Infallible,
    env,
    error::Error as StdError,
    ffi::OsString,
    io::{self, ErrorKind, IsTerminal, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    process::ExitCode,
};

use argh::EarlyExit;
use futures_util::{Stream, stream};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::Instant,
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::replica::Replica;
use crate::{
    chain::Chain,
    cli::{self, Command, LinkImage},
    fence::Fence,
    link_image::Link,
    run::{Ended, Shared},
    serve::serve,
    settings::{LogSettings, Settings, Variables},
    sink::{WebhookSink, hyper::HyperSink, print::PrintSink},
    source::kube::KubeSource,
    store::{OpenError, Store},
};

mod replica;

/// Why the program failed. Its exit code says whose fault it was.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Exit code 2.
    #[error(transparent)]
    Asked(Box<dyn StdError + Send + Sync>),
    /// Exit code 1.
    #[error(transparent)]
    Ran(Box<dyn StdError + Send + Sync>),
    /// Exit code 1, and the log has said why.
    #[error("failed while running")]
    Logged,
}

#[derive(Debug, thiserror::Error)]
enum AskedError {
    #[error("--state-dir")]
    StateDir(#[source] OpenError),
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("--listen: cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    #[error("something was left undelivered for {0} pods")]
    Left(usize),
    #[error("the task that {0} ended early")]
    EndedEarly(&'static str),
}

/// The whole program: the arguments that follow its name and the variables of the process in, exit code out.
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (error, code) = match &failure {
                Failure::Asked(error) => (error, 2),
                Failure::Ran(error) => (error, 1),
                Failure::Logged => return ExitCode::from(1),
            };
            // A standard error that is closed is no reason to panic.
            let _ = writeln!(io::stderr(), "k8vent: {}", Chain(&**error));
            ExitCode::from(code)
        }
    }
}

fn start(args: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let args = args.map(|arg| lossy(&arg)).collect::<Vec<_>>();
    // What is not UTF-8 cannot be told in JSON as it is.
    let variables: Variables = env::vars_os().map(|(name, value)| (lossy(&name), lossy(&value))).collect();
    let options = match cli::parse(&args) {
        Ok(options) => options,
        Err(EarlyExit { output, status: Ok(()) }) => {
            return print(&output);
        }
        Err(EarlyExit { output, status: Err(()) }) => {
            return Err(asked(format!("{}; `k8vent --help` tells what there is", output.trim_end())));
        }
    };
    if options.version {
        return print(concat!("k8vent ", env!("CARGO_PKG_VERSION")));
    }
    // One thread does all of it: what k8vent does is wait, copy and parse, and one processor carries it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ran)?;
    match options.command {
        Some(Command::LinkImage(link)) => runtime.block_on(link_image(link)),
        None => {
            let settings = Settings::new(options, &variables).map_err(asked)?;
            log(settings.log);
            runtime.block_on(watch(settings)).map_err(tell)
        }
    }
}

/// What fails while it runs is told where everything else is: in the log, in its format.
fn tell(failure: Failure) -> Failure {
    let Failure::Ran(error) = failure else { return failure };
    tracing::error!(error = %Chain(&*error), "failed");
    Failure::Logged
}

/// Whoever reads the output may have seen enough of it: `k8vent --help | head`.
fn print(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(ran(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn lossy(text: &std::ffi::OsStr) -> String {
    text.to_string_lossy().into_owned()
}

fn asked(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Failure {
    Failure::Asked(error.into())
}

fn ran(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Failure {
    Failure::Ran(error.into())
}

/// Logs to stderr. Libraries tell only what is wrong, except at the level that asks for everything.
fn log(settings: LogSettings) {
    let libraries = settings.level.min(tracing::Level::WARN).max(if settings.level == tracing::Level::TRACE {
        tracing::Level::DEBUG
    } else {
        tracing::Level::ERROR
    });
    // Kube's client calls an error what it gives us back as one, and what we try again: here nothing is lost by it.
    let retried = if settings.level == tracing::Level::TRACE { LevelFilter::DEBUG } else { LevelFilter::OFF };
    let filter = Targets::new()
        .with_default(libraries)
        .with_target("kube_client::client::builder", retried)
        .with_target("k8vent", settings.level);
    // A log that nobody can read any more ends nothing: errors in writing it have nowhere to be told.
    let layer = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let layer = if settings.json {
        layer.json().flatten_event(true).boxed()
    } else {
        layer.with_ansi(io::stderr().is_terminal()).boxed()
    };
    // It fails when there is one already: an embedding program's.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}

async fn link_image(options: LinkImage) -> Result<(), Failure> {
    let link = Link::new(options).map_err(asked)?;
    let sink = HyperSink::from_env(Fence::open()).map_err(asked)?;
    link.post(&sink).await.map_err(ran)
}

async fn watch(mut settings: Settings) -> Result<(), Failure> {
    if settings.dry_run {
        // Nothing is delivered: neither may that be recorded, nor may it keep others from delivering.
        settings.lease = None;
        settings.state_dir = None;
    }
    let fence = if settings.lease.is_some() { Fence::closed() } else { Fence::open() };
    if settings.dry_run {
        return watch_into(&PrintSink, settings, fence).await;
    }
    let sink = HyperSink::from_env(fence.clone()).map_err(asked)?;
    watch_into(&sink, settings, fence).await
}

async fn watch_into(sink: &impl WebhookSink, settings: Settings, fence: Fence) -> Result<(), Failure> {
    let source = KubeSource::new(settings.cluster.clone()).await.map_err(asked)?;
    let store = settings.state_dir.as_deref().map(Store::open).transpose();
    let store = store.map_err(|error| asked(AskedError::StateDir(error)))?;
    let shared = Shared::new(Instant::now());
    let mut tasks: JoinSet<Infallible> = JoinSet::new();
    if let Some(address) = settings.listen {
        let listener = listen(address).await.map_err(|error| ran(RunError::Listen(address, error)))?;
        tracing::info!(address = %listener.local_addr().unwrap_or(address), "listening");
        tasks.spawn(serve(listener, shared.clone()));
    }
    let stop = pin!(signals().map_err(|error| ran(RunError::Signals(error)))?);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let replica = Replica { source, sink, settings, store: store.clone(), fence, shared };
    let ended = tokio::select! {
        ended = replica.run(stop) => ended,
        Some(_) = tasks.join_next() => return Err(ran(RunError::EndedEarly("serves --listen"))),
    };
    if let Some(store) = store
        && store.close().await.is_err()
    {
        tracing::warn!("the state directory takes too long to close: the next start has more to check");
    }
    match ended {
        Ended::Drained | Ended::HandedOver => {
            tracing::info!("drained");
            Ok(())
        }
        Ended::Left(pods) => Err(ran(RunError::Left(pods))),
        Ended::SourceEnded => Err(ran(RunError::EndedEarly("reads pods"))),
    }
}

/// Listens on an address; where there is no IPv6, on all of IPv4 in place of all of IPv6.
async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() != ErrorKind::AddrInUse && address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// An item for each SIGTERM and SIGINT.
fn signals() -> io::Result<impl Stream<Item = ()>> {
    let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(stream::unfold(signals, async |(mut terminate, mut interrupt)| {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Some(((), (terminate, interrupt)))
    }))
}
