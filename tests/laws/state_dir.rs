//! `--state-dir`: what a Lease cannot know is known from the disk.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use k8vent_harness::{Answer, Api, ControlPlane, Process, Receiver, manifest, process::Signal, receiver::Received};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    probes::{address, get},
    restarts::{caught_up, create, ended, keep_changing, last_versions, position, transitions, url, versions},
    support::{LIMIT, all_told, each, ids, listed, name, requests, run, start, stop, told},
};

/// k8vent with a state directory and without a Lease.
fn k8vent(kubeconfig: &Path, namespace: &str, dir: &TempDir, args: &[String]) -> Process {
    let dir = format!("--state-dir={}", dir.path().display());
    let mut all = vec!["--namespace", namespace, &dir, "--listen=127.0.0.1:0"];
    all.extend(args.iter().map(String::as_str));
    start(kubeconfig, &all)
}

async fn kill(process: &mut Process) {
    process.signal(Signal::Kill);
    process.wait(LIMIT).await.unwrap();
}

/// The value of a metric, once it fits.
async fn metric(process: &Process, series: &str, fits: impl Fn(u64) -> bool) -> u64 {
    let to = address(process).await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let (_, text) = get(&to, "/metrics").await;
        let line =
            text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series} in {text}"));
        let value = line.rsplit(' ').next().unwrap().parse().unwrap();
        if fits(value) {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{line}");
    }
}

/// Waits until the state directory knows of all that the API server has told, and of so many states that wait.
async fn kept(process: &Process, api: &Api, namespace: &str, waiting: u64) {
    let newest = versions(api, namespace).await.into_values().max().unwrap_or_default();
    metric(process, "k8vent_kept_resource_version ", |kept| kept >= newest).await;
    metric(process, "k8vent_kept_states_waiting ", |kept| kept == waiting).await;
}

/// The delete of a pod, with the last state that was seen of it.
fn is_whole_delete(request: &Received, pod: &str) -> bool {
    let json = request.json();
    told(request) == format!("deleted {pod}")
        && json["pod"]["status"]["phase"] == "Deleted"
        && json["pod"]["spec"]["containers"].is_array()
}

#[tokio::test]
async fn a_kill_repeats_nothing_and_what_happened_meanwhile_is_told_for_what_it_is() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("state-dir").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    create(&api, &namespace, &["same", "changed", "deleted"]).await;
    let mut first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    requests(&receiver, 3).await;
    kept(&first, &api, &namespace, 0).await;
    kill(&mut first).await;
    receiver.clear();

    api.set_phase(&namespace, "changed", "Running").await.unwrap();
    api.delete_pod(&namespace, "deleted").await.unwrap();
    create(&api, &namespace, &["new", "brief"]).await;
    api.delete_pod(&namespace, "brief").await.unwrap();
    let second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    requests(&receiver, 4).await;
    api.set_phase(&namespace, "same", "Running").await.unwrap();
    let requests = requests(&receiver, 5).await;
    stop(second).await;
    let expected = ["added new", "deleted brief", "deleted deleted", "updated changed", "updated same"];
    assert_eq!(all_told(&receiver.requests()), expected);
    assert!(requests.iter().any(|request| is_whole_delete(request, "deleted")));
}

#[tokio::test]
async fn when_the_api_server_has_forgotten_deletes_are_told_with_the_last_body() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("forgotten").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    create(&api, &namespace, &["same", "changed", "deleted"]).await;
    api.set_phase(&namespace, "deleted", "Running").await.unwrap();
    let mut first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    requests(&receiver, 3).await;
    kept(&first, &api, &namespace, 0).await;
    kill(&mut first).await;
    receiver.clear();
    api.set_phase(&namespace, "changed", "Running").await.unwrap();
    api.delete_pod(&namespace, "deleted").await.unwrap();
    plane.forget_history().await.unwrap();
    let mut second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    let api = plane.api().await;
    let all = requests(&receiver, 2).await;
    assert!(all.iter().any(|request| is_whole_delete(request, "deleted")), "{all:?}");
    kept(&second, &api, &namespace, 0).await;
    kill(&mut second).await;

    let third = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    listed(&third).await;
    api.set_phase(&namespace, "same", "Running").await.unwrap();
    requests(&receiver, 3).await;
    stop(third).await;
    assert_eq!(all_told(&receiver.requests()), ["deleted deleted", "updated changed", "updated same"]);
}

/// What is on disk is of a time that the cluster no longer has.
#[tokio::test]
async fn when_the_cluster_was_restored_from_a_backup_every_pod_is_sent_and_nothing_of_the_lost_time() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("restored").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    create(&api, &namespace, &["same", "changed", "deleted"]).await;
    plane.back_up().await.unwrap();
    let etcd = plane.etcd();
    each(500, |_| async { etcd.put("/k8vent/lost", b"").await.unwrap() }).await;
    api.set_phase(&namespace, "changed", "Running").await.unwrap();
    api.delete_pod(&namespace, "deleted").await.unwrap();
    create(&api, &namespace, &["lost"]).await;
    let lost = versions(&api, &namespace).await["lost"];
    let mut first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    requests(&receiver, 3).await;
    kept(&first, &api, &namespace, 0).await;
    kill(&mut first).await;
    receiver.clear();

    plane.restore().await.unwrap();
    let api = plane.api().await;
    let mut second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    let told = |log: &Value| log["message"].as_str().is_some_and(|message| message.contains("newer than the cluster"));
    second.wait_for_log(LIMIT, told).await.unwrap_or_else(|late| panic!("{late}"));
    let all = receiver.wait_for(LIMIT, |all| ids(all).len() >= 3).await.unwrap_or_else(|late| panic!("{late}"));
    assert_eq!(ids(&all).into_keys().collect::<Vec<_>>(), ["changed", "deleted", "same"]);
    let newest = versions(&api, &namespace).await.into_values().max().unwrap();
    metric(&second, "k8vent_kept_resource_version ", |kept| (newest..lost).contains(&kept)).await;
    kept(&second, &api, &namespace, 0).await;
    kill(&mut second).await;
    receiver.clear();

    let third = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    listed(&third).await;
    api.set_phase(&namespace, "same", "Running").await.unwrap();
    requests(&receiver, 1).await;
    stop(third).await;
    assert_eq!(all_told(&receiver.requests()), ["updated same"]);
}

#[tokio::test]
async fn what_waits_survives_kills_and_outlives_its_pod() {
    let plane = ControlPlane::start().await.unwrap();
    let namespace = plane.namespace("survives").await.unwrap();
    let api = plane.api().await;
    let (up, down) = (Receiver::http().await.unwrap(), Receiver::http().await.unwrap());
    let dir = TempDir::new().unwrap();
    down.down().await;
    create(&api, &namespace, &["same", "changed", "deleted"]).await;
    let urls = [url(&up), url(&down)];
    for round in 0..3 {
        let mut k8vent = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &urls);
        listed(&k8vent).await;
        requests(&up, 3 + round).await;
        if round == 1 {
            api.delete_pod(&namespace, "deleted").await.unwrap();
        } else {
            api.set_phase(&namespace, "changed", if round == 0 { "Running" } else { "Failed" }).await.unwrap();
        }
        requests(&up, 4 + round).await;
        kept(&k8vent, &api, &namespace, 3).await;
        metric(&k8vent, "k8vent_store_bytes ", |bytes| bytes > 0).await;
        kill(&mut k8vent).await;
        // Nobody but the state directory knows now what came before.
        plane.forget_history().await.unwrap();
    }
    let before = up.count();
    down.up().await.unwrap();
    let last = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &urls);
    let all = requests(&down, 3).await;
    stop(last).await;
    assert_eq!(all_told(&down.requests()), ["added changed", "added same", "deleted deleted"]);
    assert!(all.iter().any(|request| is_whole_delete(request, "deleted")), "{all:?}");
    assert_eq!(up.count(), before, "the healthy one sees no repeats");
}

#[tokio::test]
async fn a_new_webhook_gets_every_pod_and_one_that_is_gone_nothing() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("state-dir-new").await.unwrap();
    let (api, dir) = (plane.api().await, TempDir::new().unwrap());
    let (old, gone, new) =
        (Receiver::http().await.unwrap(), Receiver::http().await.unwrap(), Receiver::http().await.unwrap());
    gone.down().await;
    create(&api, &namespace, &["a", "b"]).await;
    let mut first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&old), url(&gone)]);
    requests(&old, 2).await;
    kept(&first, &api, &namespace, 2).await;
    kill(&mut first).await;
    gone.up().await.unwrap();
    let second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&old), url(&new)]);
    requests(&new, 2).await;
    stop(second).await;
    assert_eq!(all_told(&new.requests()), ["added a", "added b"]);
    assert_eq!((old.count(), gone.count()), (2, 0));
    let only = Receiver::http().await.unwrap();
    let third = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&only)]);
    requests(&only, 2).await;
    stop(third).await;
    assert_eq!(all_told(&only.requests()), ["added a", "added b"], "where no webhook was there before");
}

#[tokio::test]
async fn kills_under_load_repeat_at_most_what_was_accepted_since_the_last_write() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("state-dir-kills").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    each(40, |n| {
        let (api, namespace) = (&api, &namespace);
        let name = if n < 20 { format!("busy-{n}") } else { format!("idle-{n}") };
        async move { api.create_pod(namespace, &manifest::pod(&name)).await.unwrap() }
    })
    .await;
    let mut process = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    requests(&receiver, 40).await;
    let (stop_changes, until) = tokio::sync::oneshot::channel();
    let changes = keep_changing(&api, &namespace, 20, until);
    let mut counts = Vec::new();
    let kills = async {
        for _ in 0..10 {
            let seen = receiver.count();
            receiver.wait_for_count(LIMIT, seen + 20).await.unwrap();
            let count = receiver.requests().len();
            // The first write after this may have been under way. What the third writes was looked up after the second.
            let series = "k8vent_kept_resource_version ";
            let mut kept = metric(&process, series, |_| true).await;
            for _ in 0..3 {
                kept = metric(&process, series, |now| now > kept).await;
            }
            kill(&mut process).await;
            counts.push((count, receiver.requests().len()));
            process = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
        }
        stop_changes.send(()).unwrap();
    };
    tokio::join!(changes, kills);
    caught_up(&receiver, &versions(&api, &namespace).await).await;
    stop(process).await;
    let requests = receiver.requests();
    last_versions(&requests);
    for (known, killed) in counts {
        let id = |request: &Received| request.header("ce-id").unwrap().to_owned();
        let before: BTreeSet<_> = requests[..known].iter().map(id).collect();
        let again = requests[killed..].iter().filter(|request| before.contains(&id(request)));
        assert_eq!(again.map(ToString::to_string).collect::<Vec<_>>(), [""; 0], "was accepted before the last write");
    }
    let idle = requests.iter().filter(|request| name(request).starts_with("idle-")).count();
    assert_eq!(idle, 20, "each pod that did not change was sent once");
}

/// Runs k8vent so that a file which may not grow is an error, and not the end.
fn with_limits(kubeconfig: &Path, namespace: &str, dir: &TempDir, url: &str) -> Process {
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let dir = format!("--state-dir={}", dir.path().display());
    let script = r#"trap "" XFSZ; exec "$0" "$@""#;
    let args = ["-c", script, env!("CARGO_BIN_EXE_k8vent"), &kubeconfig, "--namespace", namespace, &dir, url];
    let args = args.into_iter().chain(["--listen=127.0.0.1:0"]);
    Process::start(Path::new("/bin/sh"), args, [("", ""); 0]).unwrap()
}

#[tokio::test]
async fn a_full_disk_is_told_stops_no_delivery_and_is_well_again_when_there_is_room() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("full-disk").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    create(&api, &namespace, &["a"]).await;
    let mut process = with_limits(&plane.kubeconfig_admin(), &namespace, &dir, &url(&receiver));
    requests(&receiver, 1).await;
    kept(&process, &api, &namespace, 0).await;
    process.limit_files(Some(4096));
    api.set_phase(&namespace, "a", "Running").await.unwrap();
    let told = |log: &Value| log["message"].as_str().is_some_and(|message| message.contains("cannot be written"));
    let log = process.wait_for_log(LIMIT, told).await.unwrap_or_else(|late| panic!("{late}"));
    assert!(log["level"] == "ERROR" && log["error"].as_str().unwrap().contains("too large"), "{log}");
    metric(&process, "k8vent_store_errors_total ", |errors| errors > 0).await;
    create(&api, &namespace, &["b", "c"]).await;
    requests(&receiver, 4).await;
    let status = get(&address(&process).await, "/status").await.1;
    assert!(status.contains("state dir  has not been written for"), "{status}");

    process.limit_files(None);
    let told = |log: &Value| log["message"] == "the state directory is written again";
    process.wait_for_log(LIMIT, told).await.unwrap_or_else(|late| panic!("{late}"));
    kept(&process, &api, &namespace, 0).await;
    kill(&mut process).await;
    receiver.clear();
    let second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    listed(&second).await;
    api.set_phase(&namespace, "c", "Running").await.unwrap();
    requests(&receiver, 1).await;
    stop(second).await;
    assert_eq!(all_told(&receiver.requests()), ["updated c"]);
}

/// The exit code and the message of a k8vent that does not start.
async fn refused(plane: &ControlPlane, dir: &Path) -> (Option<i32>, String) {
    let kubeconfig = format!("--kubeconfig={}", plane.kubeconfig_admin().display());
    let dir = format!("--state-dir={}", dir.display());
    let mut process = run(&[&kubeconfig, "--url=http://127.0.0.1:9/", &dir], &[]);
    let code = process.exit_code(LIMIT).await.unwrap();
    (code, process.stderr().lines().join("\n"))
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused_with_what_to_do() {
    let plane = ControlPlane::shared().await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("k8vent.redb");
    fs::write(&file, "garbage").unwrap();
    let expected = format!("k8vent: --state-dir: {} is not what k8vent wrote: delete it", file.display());
    let (code, message) = refused(plane, dir.path()).await;
    assert!(code == Some(2) && message.contains(&expected), "{code:?} {message}");
    let (code, message) = refused(plane, &file).await;
    assert!(code == Some(2) && message.contains("cannot be used: k8vent needs a folder"), "{code:?} {message}");
}

#[tokio::test]
async fn a_file_that_was_spoilt_is_refused_and_a_new_one_begun_when_it_is_gone() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("spoilt-file").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    create(&api, &namespace, &["a"]).await;
    let first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    requests(&receiver, 1).await;
    kept(&first, &api, &namespace, 0).await;
    stop(first).await;
    let file: PathBuf = dir.path().join("k8vent.redb");
    let mut bytes = fs::read(&file).unwrap();
    // In the middle of every page but the header's: whichever holds something is spoilt.
    for page in bytes.chunks_mut(4096).skip(1) {
        page[2000] ^= 0x55;
        page[4] ^= 0x55;
    }
    fs::write(&file, bytes).unwrap();
    let (code, message) = refused(plane, dir.path()).await;
    assert!(code == Some(2) && message.contains("is not what k8vent wrote: delete it"), "{code:?} {message}");
    fs::remove_file(&file).unwrap();
    let second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    requests(&receiver, 2).await;
    stop(second).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "added a"]);
}

#[tokio::test]
async fn two_processes_do_not_share_a_directory() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("shared-dir").await.unwrap();
    let (receiver, dir) = (Receiver::http().await.unwrap(), TempDir::new().unwrap());
    let first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    listed(&first).await;
    let (code, message) = refused(plane, dir.path()).await;
    assert!(code == Some(2) && message.contains("is used by another process"), "{code:?} {message}");
    stop(first).await;
}

#[tokio::test]
async fn a_directory_of_other_pods_is_begun_anew() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("other-pods").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    create(&api, &namespace, &["a"]).await;
    let first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver)]);
    requests(&receiver, 1).await;
    kept(&first, &api, &namespace, 0).await;
    stop(first).await;
    let other = [url(&receiver), "--label-selector=app.kubernetes.io/name".to_owned()];
    let second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &other);
    let told = |log: &Value| log["message"].as_str().is_some_and(|message| message.contains("is of another cluster"));
    second.wait_for_log(LIMIT, told).await.unwrap_or_else(|late| panic!("{late}"));
    requests(&receiver, 2).await;
    stop(second).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "added a"]);
}

/// The first replica comes back with what it knew before the second one went further.
#[tokio::test]
async fn a_directory_that_another_replica_has_gone_beyond_is_void() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("outdated").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    create(&api, &namespace, &["a", "b", "gone"]).await;
    let lease = format!("--lease={namespace}/k8vent");
    let replica =
        |number: usize| k8vent(&plane.kubeconfig_admin(), &namespace, &dirs[number], &[url(&receiver), lease.clone()]);
    let mut first = replica(0);
    requests(&receiver, 3).await;
    let newest = versions(&api, &namespace).await.into_values().max().unwrap();
    position(plane, &namespace, |position| ended(position) >= newest).await;
    // It ends with a state that it knows to wait.
    receiver.answer(Answer::Status(503));
    api.set_phase(&namespace, "a", "Running").await.unwrap();
    receiver.wait_for_count(LIMIT, 4).await.unwrap();
    kept(&first, &api, &namespace, 1).await;
    kill(&mut first).await;

    receiver.clear();
    receiver.answer(Answer::Status(204));
    let second = replica(1);
    requests(&receiver, 1).await;
    api.set_phase(&namespace, "a", "Succeeded").await.unwrap();
    api.delete_pod(&namespace, "gone").await.unwrap();
    requests(&receiver, 3).await;
    stop(second).await;

    let third = replica(0);
    let told =
        |log: &Value| log["message"].as_str().is_some_and(|message| message.contains("another replica has held"));
    third.wait_for_log(LIMIT, told).await.unwrap_or_else(|late| panic!("{late}"));
    listed(&third).await;
    api.set_phase(&namespace, "b", "Running").await.unwrap();
    let all = requests(&receiver, 4).await;
    stop(third).await;
    last_versions(&all);
    assert_eq!(all_told(&all), ["added a", "deleted gone", "updated a", "updated b"], "each once");
}

/// The Lease was never another's: the directory goes on, with the position beside it.
#[tokio::test]
async fn with_a_lease_a_container_that_is_killed_goes_on_from_its_directory() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("same-pod").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    create(&api, &namespace, &["a", "b"]).await;
    let args = [url(&receiver), format!("--lease={namespace}/k8vent"), "--identity=one".to_owned()];
    let mut first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &args);
    requests(&receiver, 2).await;
    kept(&first, &api, &namespace, 0).await;
    kill(&mut first).await;
    api.set_phase(&namespace, "a", "Running").await.unwrap();
    let second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &args);
    requests(&receiver, 3).await;
    stop(second).await;
    assert_eq!(all_told(&receiver.requests()), ["added a", "added b", "updated a"]);
    assert_eq!(transitions(&api, &namespace).await, 0, "it was in the same hands all the time");
}

/// Its last state at that webhook is not its newest one.
#[tokio::test]
async fn a_pod_that_has_turned_away_from_a_webhook_is_still_told_there_as_it_was() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("turned-away").await.unwrap();
    let (api, dir) = (plane.api().await, TempDir::new().unwrap());
    let (before, after) = (Receiver::http().await.unwrap(), Receiver::http().await.unwrap());
    before.down().await;
    let annotation = |receiver: &Receiver| serde_json::json!({"webhooks": [receiver.url("/")]}).to_string();
    let mut pod = manifest::pod("a");
    pod["metadata"]["annotations"]["atomist.com/k8vent"] = annotation(&before).into();
    api.create_pod(&namespace, &pod).await.unwrap();
    let args = ["--pod-webhooks-only".to_owned()];
    let mut first = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &args);
    kept(&first, &api, &namespace, 1).await;
    let turned = format!("atomist.com/k8vent={}", annotation(&after));
    plane.kubectl(&["annotate", "--overwrite", "pod", "a", "-n", &namespace, &turned]).await.unwrap();
    requests(&after, 1).await;
    kept(&first, &api, &namespace, 1).await;
    kill(&mut first).await;
    before.up().await.unwrap();
    let second = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &args);
    let told = requests(&before, 1).await;
    kept(&second, &api, &namespace, 0).await;
    stop(second).await;
    assert_eq!((all_told(&told), after.count()), (vec!["added a".to_owned()], 1));
    assert_eq!(told[0].json()["pod"]["metadata"]["annotations"]["atomist.com/k8vent"], annotation(&before));
}

#[tokio::test]
async fn bodies_that_were_given_up_for_memory_come_from_the_directory() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("given-up").await.unwrap();
    let (api, receiver, dir) = (plane.api().await, Receiver::http().await.unwrap(), TempDir::new().unwrap());
    receiver.down().await;
    create(&api, &namespace, &["a", "deleted"]).await;
    let process = k8vent(&plane.kubeconfig_admin(), &namespace, &dir, &[url(&receiver), "--queue-bytes=0".to_owned()]);
    kept(&process, &api, &namespace, 2).await;
    api.delete_pod(&namespace, "deleted").await.unwrap();
    create(&api, &namespace, &["b"]).await;
    kept(&process, &api, &namespace, 3).await;
    receiver.up().await.unwrap();
    let all = requests(&receiver, 3).await;
    assert_eq!(all_told(&all), ["added a", "added b", "deleted deleted"]);
    assert!(all.iter().any(|request| is_whole_delete(request, "deleted")), "{all:?}");
    stop(process).await;
}
