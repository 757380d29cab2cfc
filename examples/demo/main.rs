//! k8vent at work, to look at: `cargo run --example demo`.
//!
//! ```text
//!  Cluster ◀─ list, watch ─ K8vent ── POST ─▶ Hook, Hook
//!     ▲                                           │
//!     └──── changes ──── Scene ◀── Arrival ───────┘
//! ```
//!
//! A real API server where its binaries are at hand, else a stand-in; k8vent as a process of its own; two webhooks that
//! print what arrives. The scene changes pods, says so before it does, and checks that what should arrive did.

mod scene;

mod child;
mod cluster;
mod hook;

mod arrival;
mod ledger;
mod pods;
mod screen;

use std::{env, error::Error as StdError, io, pin::pin, process::ExitCode, time::Duration};

use argh::FromArgs;
use k8vent::program;
use k8vent_harness::assets::{self, Assets};
use tokio::signal::unix::{SignalKind, signal};

use crate::{child::AS_K8VENT, cluster::Cluster, pods::Pod, scene::Scene, screen::Screen};

/// How long anything may take before it counts as never: the scene itself ends well before that.
const LIMIT: Duration = Duration::from_secs(15);

/// What the shell says of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

type Error = Box<dyn StdError + Send + Sync>;

/// Show k8vent at work: an API server, two webhooks that print what arrives, k8vent between them, and a short scene.
/// It takes about twenty seconds and leaves nothing behind.
#[derive(FromArgs)]
#[argh(example = "cargo run --example demo\ncargo run --example demo -- --real --keep")]
struct Options {
    /// have a real kube-apiserver and etcd: build them when they are not at hand (needs Go; about five minutes, once)
    #[argh(switch)]
    real: bool,

    /// take the stand-in for the API server even if a real one is at hand
    #[argh(switch)]
    stand_in: bool,

    /// leave everything running after the scene, until Ctrl-C, and tell how to talk to it
    #[argh(switch)]
    keep: bool,
}

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1).peekable();
    if args.next_if(|first| first == AS_K8VENT).is_some() {
        return program::main(args);
    }
    let options: Options = argh::from_env();
    let screen = Screen::new();
    match show(screen, &options) {
        Ok(code) => code,
        Err(error) => {
            screen.failed(&*error);
            ExitCode::FAILURE
        }
    }
}

fn show(screen: Screen, options: &Options) -> Result<ExitCode, Error> {
    // Before there is a runtime that would have to wait for a build when Ctrl-C ends us.
    let assets = assets(options)?;
    screen.say("k8vent watches pods and POSTs each change of one to webhooks: here, on this machine alone.\n");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = pin!(interrupted()?);
        // What a future has started is stopped when it is dropped.
        let scene = tokio::select! {
            played = play(screen, assets) => played?,
            () = &mut stop => {
                screen.say("\nStopped before the end; nothing is left running.");
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        let as_it_should = scene.judge().await?;
        if options.keep {
            scene.invite()?;
            stop.await;
            screen.say("");
        }
        let ended_well = scene.end().await?;
        screen.say("Everything is stopped, and nothing is left behind.");
        Ok(if as_it_should && ended_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

async fn play(screen: Screen, assets: Option<Assets>) -> Result<Scene, Error> {
    let cluster = Cluster::start(screen, assets).await?;
    let mut running = [Pod::new("catalog"), Pod::new("search")];
    let mut scene = Scene::set(screen, cluster, &mut running).await?;
    scene.play(&mut running).await?;
    Ok(scene)
}

/// Ends with Ctrl-C, or SIGTERM.
fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn assets(options: &Options) -> Result<Option<Assets>, Error> {
    match options {
        Options { stand_in: true, real: true, .. } => Err("--real and --stand-in exclude each other".into()),
        Options { stand_in: true, .. } => Ok(None),
        Options { real: true, .. } => Ok(Some(assets::find_or_build()?)),
        Options { .. } => Ok(assets::find()?),
    }
}
