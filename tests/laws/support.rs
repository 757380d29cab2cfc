//! What the laws share: a running k8vent, and the states that a receiver has seen.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures_util::{StreamExt, stream};
use k8vent_harness::{Process, Receiver, process::Signal, receiver::Received};

/// How long anything may take before it counts as never: ten times what it takes on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// The environment that k8vent runs in.
pub(crate) const ENV: &str = r#"{"ATOMIST_ENVIRONMENT":"laws","GREETING":"h\"é"}"#;

/// Starts k8vent against the cluster of a kubeconfig.
pub(crate) fn start(kubeconfig: &Path, args: &[&str]) -> Process {
    start_with(kubeconfig, args, &[])
}

/// Starts k8vent with further variables.
pub(crate) fn start_with(kubeconfig: &Path, args: &[&str], variables: &[(&str, &str)]) -> Process {
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let args = [&[kubeconfig.as_str()], args].concat();
    let own = [("ATOMIST_ENVIRONMENT", "laws"), ("GREETING", "h\"é"), ("MY_TOKEN", "hidden")];
    run(&args, &[&own, variables].concat())
}

/// Runs the binary with these arguments and variables only.
pub(crate) fn run(args: &[&str], variables: &[(&str, &str)]) -> Process {
    let variables = variables.iter().copied();
    Process::start(Path::new(env!("CARGO_BIN_EXE_k8vent")), args, variables).expect("the binary starts")
}

/// Starts k8vent for the pods of one namespace and one webhook, and waits for its first list.
pub(crate) async fn started(kubeconfig: &Path, namespace: &str, receiver: &Receiver, args: &[&str]) -> Process {
    let url = format!("--url={}", receiver.url("/hook"));
    let namespace = format!("--namespace={namespace}");
    let process = start(kubeconfig, &[&[url.as_str(), namespace.as_str()], args].concat());
    listed(&process).await;
    process
}

/// Waits until the first list is complete.
pub(crate) async fn listed(process: &Process) {
    process
        .wait_for_log(LIMIT, |log| log["message"] == "list complete")
        .await
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Ends k8vent in order, and expects nothing to be left.
pub(crate) async fn stop(mut process: Process) {
    process.signal(Signal::Term);
    let code = process.exit_code(LIMIT).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(code, Some(0), "{:?}", process.stderr().lines());
}

/// Waits until so many requests have come, those about pods that are being deleted left out, and gives them.
///
/// The API server deletes a pod in two steps: it marks the pod, and removes it a millisecond later. Whether the state
/// between them arrives, or is replaced by the delete while it waits, is a matter of luck.
pub(crate) async fn requests(receiver: &Receiver, count: usize) -> Vec<Received> {
    let fits = |requests: &[Received]| requests.iter().filter(|request| !is_between(request)).count() >= count;
    let requests = receiver.wait_for(LIMIT, fits).await.unwrap_or_else(|error| panic!("{error}"));
    requests.into_iter().filter(|request| !is_between(request)).collect()
}

/// Whether a request is about a pod that is marked for deletion, and still there.
pub(crate) fn is_between(request: &Received) -> bool {
    told(request).starts_with("updated") && memchr::memmem::find(&request.body, b"\"deletionTimestamp\"").is_some()
}

/// The name of the pod that a request is about.
pub(crate) fn name(request: &Received) -> String {
    let subject = request.header("ce-subject").expect("each request has a subject");
    subject.rsplit('/').next().unwrap_or_default().to_owned()
}

/// What a request says, as `KIND NAME`.
pub(crate) fn told(request: &Received) -> String {
    let kind = request.header("ce-type").expect("each request has a type");
    format!("{} {}", kind.rsplit('.').next().unwrap_or_default(), name(request))
}

/// What the requests say, sorted; those about pods that are being deleted are left out.
pub(crate) fn all_told(requests: &[Received]) -> Vec<String> {
    let mut all: Vec<_> = requests.iter().filter(|request| !is_between(request)).map(told).collect();
    all.sort();
    all
}

/// The ids that each pod was told by, in the order of their arrival.
pub(crate) fn ids(requests: &[Received]) -> BTreeMap<String, Vec<String>> {
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for request in requests {
        ids.entry(name(request)).or_default().push(request.header("ce-id").expect("each request has an id").to_owned());
    }
    ids
}

/// Does something for each of the numbers below `count`, several at a time, and gives the results in order.
pub(crate) async fn each<T, F: Future<Output = T>>(count: usize, run: impl FnMut(usize) -> F) -> Vec<T> {
    stream::iter((0..count).map(run)).buffered(8).collect().await
}

/// A pod's JSON without `metadata.managedFields`, which the API server writes as the last of the metadata: found by
/// counting brackets, and not in any way that k8vent does it.
pub(crate) fn without_managed_fields(json: &str) -> String {
    let json = json.trim_end();
    let Some(start) = json.find(r#","managedFields":["#) else { return json.to_owned() };
    let value = start + r#","managedFields":"#.len();
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (at, byte) in json.bytes().enumerate().skip(value) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return format!("{}{}", &json[..start], &json[at + 1..]);
        }
    }
    panic!("the brackets of {json} do not match");
}
