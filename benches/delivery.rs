//! What k8vent costs: `cargo bench`, or `cargo bench -- NAME…` for some of the measurements. Options are passed on to
//! k8vent: `cargo bench --bench delivery -- paced --lease=default/bench`. Of `--state-dir=FOLDER`, each k8vent gets a new
//! folder in that one.
//!
//! The real binary, as released, reads a real API server (but for the saturation, which no API server provides) and
//! posts to a receiver on loopback. Only the process of k8vent is measured. `K8VENT_STATIC_BINARY` names another binary to
//! measure than that of this machine's C library.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded when they are printed"
)]

use std::{
    collections::{HashMap, HashSet},
    env, fs, iter,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use k8vent_harness::{
    Answer, ControlPlane, Process, Receiver, StandIn, control_plane::Etcd, manifest, process::Signal,
    receiver::Received,
};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Before a measurement fails. Some machines are slow.
const LIMIT: Duration = Duration::from_mins(5);

/// The name of the pod that the others are made of; theirs are as long.
const TEMPLATE: &str = "pod-000000";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let all = ["memory", "paced", "saturated", "hanging", "start", "kills"];
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(&name.as_str())) {
        eprintln!("there is no {unknown}: choose from {}", all.join(", "));
        return ExitCode::from(2);
    }
    for name in all.into_iter().filter(|name| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name)) {
        match name {
            "memory" => memory().await,
            "paced" => paced().await,
            "saturated" => saturated().await,
            "hanging" => hanging().await,
            "start" => start().await,
            _ => kills().await,
        }
    }
    ExitCode::SUCCESS
}

fn row(what: &str, figure: &str) {
    println!("{what:<58} {figure:>22}");
}

fn megabytes(kilobytes: u64) -> String {
    format!("{:.1} MB", kilobytes as f64 * 1024.0 / 1e6)
}

fn k8vent(kubeconfig: &Path, receivers: &[&Receiver]) -> Process {
    run(&args(kubeconfig, receivers))
}

fn args(kubeconfig: &Path, receivers: &[&Receiver]) -> Vec<String> {
    let mut args = vec![format!("--kubeconfig={}", kubeconfig.display()), "--drain-timeout=0s".to_owned()];
    args.extend(receivers.iter().map(|receiver| format!("--url={}", receiver.url("/"))));
    // Cargo adds `--bench` by itself.
    args.extend(
        env::args().skip(1).filter(|arg| arg.starts_with("--") && arg != "--bench" && !arg.starts_with("--state-dir=")),
    );
    args.extend(new_state_dir().map(|dir| format!("--state-dir={}", dir.display())));
    args
}

fn run(args: &[String]) -> Process {
    let none = iter::empty::<(&str, &str)>();
    let binary = env::var_os("K8VENT_STATIC_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_k8vent").into());
    Process::start(Path::new(&binary), args, none).expect("the binary starts")
}

/// A folder that no k8vent has used, if there is to be one.
fn new_state_dir() -> Option<PathBuf> {
    let parent = env::args().find_map(|arg| arg.strip_prefix("--state-dir=").map(PathBuf::from))?;
    fs::create_dir_all(&parent).expect("the folder can be made");
    Some(tempfile::tempdir_in(parent).expect("a folder in it can be made").keep())
}

async fn listed(k8vent: &Process) {
    k8vent.wait_for_log(LIMIT, |log| log["message"] == "list complete").await.expect("the list is complete");
}

/// A receiver that only counts.
async fn counting() -> Receiver {
    let receiver = Receiver::http().await.expect("a port is free");
    receiver.keep_requests(false);
    receiver
}

/// A cluster with so many pods of 6 kB, 10 kB with managed fields, written into the store by their stored form.
struct Cluster {
    plane: ControlPlane,
    etcd: Etcd,
    namespace: String,
    template: Vec<u8>,
    uid: String,
}

impl Cluster {
    async fn start() -> Self {
        let plane = ControlPlane::start().await.unwrap_or_else(|error| panic!("{error}"));
        let namespace = plane.namespace("bench").await.expect("a namespace");
        let api = plane.api().await;
        api.create_pod(&namespace, &manifest::pod(TEMPLATE)).await.expect("a pod");
        let pod = api.patch_status(&namespace, TEMPLATE, &manifest::running_status()).await.expect("a status");
        let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
        let etcd = plane.etcd();
        let key = Etcd::pod_key(&namespace, TEMPLATE);
        let template = etcd.get(&key).await.expect("etcd answers").expect("the pod is stored");
        Self { plane, etcd, namespace, template, uid }
    }

    /// Writes pod number `n` with this counter in it.
    async fn put(&self, n: usize, counter: usize) {
        let name = format!("pod-{n:06}");
        let ten = |text: &str| -> [u8; 10] { text.as_bytes()[..10].try_into().expect("ten bytes") };
        let mut value = self.template.clone();
        if n > 0 {
            value = manifest::replace_in_stored(&value, &ten(TEMPLATE), &ten(&name));
            value = manifest::replace_in_stored(&value, &ten(&self.uid), &ten(&format!("{n:08x}-{}", &self.uid[9..])));
        }
        value = manifest::replace_in_stored(&value, manifest::COUNTER, &ten(&format!("{counter:010}")));
        self.etcd.put(&Etcd::pod_key(&self.namespace, &name), &value).await.expect("etcd takes it");
    }

    async fn grow(&self, from: usize, to: usize) {
        for n in from.max(1)..to {
            self.put(n, 0).await;
        }
    }
}

/// RSS with 0, 1,000 and 10,000 pods.
async fn memory() {
    let cluster = Cluster::start().await;
    let (receiver, empty) = (counting().await, cluster.plane.kubeconfig_direct().await);
    cluster.plane.api().await.delete_pod(&cluster.namespace, TEMPLATE).await.expect("the template goes");
    let mut before = 1;
    for pods in [0, 1_000, 10_000] {
        cluster.grow(before, pods + 1).await;
        before = pods + 1;
        let base = receiver.count();
        let k8vent = k8vent(&empty, &[&receiver]);
        listed(&k8vent).await;
        let sent = u64::try_from(pods).expect("few pods");
        receiver.wait_for_count(LIMIT, base + sent).await.expect("every pod is sent");
        // Whatever is freed after the rush is freed by now.
        sleep(Duration::from_secs(3)).await;
        row(&format!("RSS, {pods} pods"), &megabytes(k8vent.rss_kb()));
        row(&format!("peak RSS, {pods} pods, start included"), &megabytes(k8vent.peak_rss_kb()));
    }
}

/// CPU and latency at 400 changes a second, from 1,000 pods.
async fn paced() {
    const CHANGES: usize = 8_000;
    let cluster = Cluster::start().await;
    cluster.grow(1, 1_000).await;
    let receiver = Receiver::http().await.expect("a port is free");
    let k8vent = k8vent(&cluster.plane.kubeconfig_direct().await, &[&receiver]);
    receiver.wait_for(LIMIT, |requests| requests.len() >= 1_000).await.expect("every pod is sent");
    receiver.clear();
    let (cpu, disk) = (k8vent.cpu_time(), k8vent.usage().written_bytes);
    let mut written = Vec::with_capacity(CHANGES);
    let mut tick = interval(Duration::from_micros(2_500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let start = Instant::now();
    for change in 1..=CHANGES {
        tick.tick().await;
        written.push(Instant::now());
        cluster.put(change % 1_000, change).await;
    }
    let rate = CHANGES as f64 / start.elapsed().as_secs_f64();
    let arrived = receiver.wait_for(LIMIT, |requests| requests.len() >= CHANGES).await.expect("every change is sent");
    let (cpu, disk) = (k8vent.cpu_time().saturating_sub(cpu), k8vent.usage().written_bytes - disk);
    let arrived: HashMap<usize, Instant> = arrived.iter().map(|r| (counter(r), r.at)).collect();
    let mut latencies: Vec<Duration> = (1..=CHANGES).map(|n| arrived[&n] - written[n - 1]).collect();
    latencies.sort_unstable();
    let at = |part: f64| format!("{:.2} ms", latencies[(latencies.len() as f64 * part) as usize].as_secs_f64() * 1e3);
    row("changes a second, paced", &format!("{rate:.0}"));
    row("CPU per delivered state, paced", &format!("{:.3} ms", cpu.as_secs_f64() * 1e3 / CHANGES as f64));
    row("bytes to the disk per delivered state, paced", &(disk / CHANGES as u64).to_string());
    row("from the write to the receiver, p50", &at(0.50));
    row("from the write to the receiver, p99", &at(0.99));
}

fn counter(request: &Received) -> usize {
    let pod = request.json()["pod"].take();
    let text = pod["metadata"]["annotations"]["k8vent.test/counter"].as_str().expect("the counter").to_owned();
    text.parse().expect("a number")
}

/// States a second when the API server, here a stand-in, streams as fast as it is read.
async fn saturated() {
    const EVENTS: u64 = 600_000;
    let stand_in = StandIn::start().await.expect("a port is free");
    for n in 0..1_000 {
        stand_in.create(&manifest::stored_pod("bench", &format!("pod-{n:06}")));
    }
    let receiver = counting().await;
    let k8vent = k8vent(&stand_in.kubeconfig().expect("a kubeconfig"), &[&receiver]);
    receiver.wait_for_count(LIMIT, 1_000).await.expect("every pod is sent");
    let (cpu, disk, start) = (k8vent.cpu_time(), k8vent.usage().written_bytes, Instant::now());
    let mut flood = stand_in.flood(EVENTS);
    flood.done(LIMIT).await.expect("the events are read");
    let (cpu, took) = (k8vent.cpu_time().saturating_sub(cpu), start.elapsed().as_secs_f64());
    let delivered = receiver.count() - 1_000;
    row("events read a second, saturated", &format!("{:.0}", EVENTS as f64 / took));
    row("states delivered a second, saturated", &format!("{:.0}", delivered as f64 / took));
    row("CPU per delivered state, saturated", &format!("{:.4} ms", cpu.as_secs_f64() * 1e3 / delivered as f64));
    let disk = k8vent.usage().written_bytes - disk;
    row("bytes to the disk per delivered state, saturated", &(disk / delivered).to_string());
    row("CPU used, saturated", &format!("{:.2}", cpu.as_secs_f64() / took));
    row("RSS, saturated", &megabytes(k8vent.peak_rss_kb()));
}

/// Memory while one endpoint hangs for a minute and 10,000 updates arrive.
async fn hanging() {
    let cluster = Cluster::start().await;
    cluster.grow(1, 1_000).await;
    let (healthy, hangs) = (counting().await, counting().await);
    hangs.answer(Answer::Hang);
    let k8vent = k8vent(&cluster.plane.kubeconfig_direct().await, &[&healthy, &hangs]);
    healthy.wait_for_count(LIMIT, 1_000).await.expect("every pod is sent");
    let mut tick = interval(Duration::from_millis(6));
    for change in 1..=10_000 {
        tick.tick().await;
        cluster.put(change % 1_000, change).await;
    }
    healthy.wait_for_count(LIMIT, 11_000).await.expect("every change is sent to the healthy one");
    row("peak RSS, an endpoint hangs for a minute, 10,000 updates", &megabytes(k8vent.peak_rss_kb()));
}

/// Connections at a start with 2,000 pods.
async fn start() {
    let cluster = Cluster::start().await;
    cluster.grow(1, 2_000).await;
    let receiver = counting().await;
    let begin = Instant::now();
    let k8vent = k8vent(&cluster.plane.kubeconfig_direct().await, &[&receiver]);
    receiver.wait_for_count(LIMIT, 2_000).await.expect("every pod is sent");
    row("a start with 2,000 pods, until all are delivered", &format!("{:.2} s", begin.elapsed().as_secs_f64()));
    row("connections opened at a start with 2,000 pods", &receiver.connections().to_string());
    k8vent.signal(Signal::Term);
}

/// Ten times killed and started again, while 2,000 pods change at 400 a second and 200 do not.
async fn kills() {
    const CHANGING: usize = 2_000;
    const ALL: usize = 2_200;
    let cluster = Cluster::start().await;
    cluster.grow(1, ALL).await;
    let receiver = Receiver::http().await.expect("a port is free");
    let mut args = args(&cluster.plane.kubeconfig_direct().await, &[&receiver]);
    // Which container it is, as the manifests tell it.
    args.push("--identity=bench".to_owned());
    let mut k8vent = run(&args);
    receiver.wait_for(LIMIT, |requests| requests.len() >= ALL).await.expect("every pod is sent");
    sleep(Duration::from_secs(5)).await;
    let mut change = 0;
    let mut tick = interval(Duration::from_micros(2_500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let begin = Instant::now();
    for _ in 0..10 {
        for _ in 0..2_400 {
            tick.tick().await;
            change += 1;
            cluster.put(change % CHANGING, change).await;
        }
        k8vent.signal(Signal::Kill);
        k8vent.wait(LIMIT).await.expect("it is killed");
        k8vent = run(&args);
    }
    let rate = change as f64 / begin.elapsed().as_secs_f64();
    let is_last = |request: &&Received| counter(request) + CHANGING > change;
    let subject = |request: &Received| request.header("ce-subject").expect("a pod").to_owned();
    let requests = loop {
        let requests = receiver.requests();
        if requests.iter().rev().filter(is_last).map(subject).collect::<HashSet<_>>().len() >= CHANGING {
            break requests;
        }
        assert!(begin.elapsed() < LIMIT, "every last state is sent");
        sleep(Duration::from_secs(1)).await;
    };
    let (mut ids, mut last, mut stale, mut unchanged) = (HashSet::new(), HashMap::new(), 0, 0);
    for request in &requests {
        ids.insert(request.header("ce-id").expect("an id"));
        let before = last.insert(subject(request), counter(request));
        stale += usize::from(before.is_some_and(|before| before > counter(request)));
        unchanged += usize::from(counter(request) == 0);
    }
    row("changes a second, killed ten times", &format!("{rate:.0}"));
    row("states sent", &requests.len().to_string());
    row("of these sent again", &(requests.len() - ids.len()).to_string());
    row("of these sent after a newer one of the same pod", &stale.to_string());
    row("states of the pods before any change, 2,200 once", &unchanged.to_string());
}
