//! `--listen`: probes and metrics.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use k8vent_harness::{ControlPlane, Receiver, manifest, process::Signal};

use crate::support::{LIMIT, listed, requests, run, start};

pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(format!("http://{address}{path}").parse().unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

pub(crate) async fn address(k8vent: &k8vent_harness::Process) -> String {
    let log = k8vent.wait_for_log(LIMIT, |log| log["message"] == "listening").await.unwrap();
    log["address"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn ready_after_the_first_list_and_not_while_draining() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("probes").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    api.create_pod(&namespace, &manifest::pod("a")).await.unwrap();
    let url = format!("--url={}", receiver.url("/"));
    let nobody = start(&plane.kubeconfig_for_user("nobody", &[]), &[&url, "--listen=127.0.0.1:0"]);
    let to = address(&nobody).await;
    assert_eq!(get(&to, "/livez").await.0, 200);
    assert_eq!(get(&to, "/readyz").await, (503, "the first list of pods is not complete\n".to_owned()));

    receiver.answer(k8vent_harness::Answer::Hang);
    let k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &namespace, "--listen=127.0.0.1:0"]);
    let to = address(&k8vent).await;
    listed(&k8vent).await;
    requests(&receiver, 1).await;
    assert_eq!(get(&to, "/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(get(&to, "/nowhere").await.0, 404);
    k8vent.signal(Signal::Term);
    k8vent.wait_for_log(LIMIT, |log| log["message"] == "draining").await.unwrap();
    assert_eq!(get(&to, "/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(get(&to, "/livez").await.0, 200);
}

#[tokio::test]
async fn metrics_tell_what_became_of_every_state() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("metrics").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    for name in ["a", "b", "c"] {
        api.create_pod(&namespace, &manifest::pod(name)).await.unwrap();
    }
    let url = format!("--url={}", receiver.url("/hook?token=hush"));
    let k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &namespace, "--listen=127.0.0.1:0"]);
    let to = address(&k8vent).await;
    requests(&receiver, 3).await;
    api.set_phase(&namespace, "a", "Running").await.unwrap();
    requests(&receiver, 4).await;
    let label = format!(r#"endpoint="http://{}/hook#"#, receiver.address());
    let in_flight = format!("k8vent_states_in_flight{{{label}");
    let text = loop {
        let (status, text) = get(&to, "/metrics").await;
        assert_eq!(status, 200);
        // The receiver sees a request before k8vent sees its answer.
        if text.lines().any(|line| line.starts_with(&in_flight) && line.ends_with(" 0")) {
            break text;
        }
    };
    let value = |series: &str| {
        let line =
            text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series} in {text}"));
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(value(&format!("k8vent_states_offered_total{{{label}")), "4");
    let accepted = text.lines().find(|line| line.contains(&label) && line.contains(r#"result="accepted""#)).unwrap();
    assert!(accepted.ends_with(" 4"), "{accepted}");
    assert_eq!(value("k8vent_pods_known "), "3");
    assert!(!text.contains("hush") && text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn the_status_tells_what_waits_and_no_secret() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("status").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    receiver.answer(k8vent_harness::Answer::Status(503));
    api.create_pod(&namespace, &manifest::pod("a")).await.unwrap();
    let url = format!("--url=http://user:hush@{}/hook?token=hush", receiver.address());
    let lease = format!("--lease={namespace}/k8vent");
    let k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &namespace, "--listen=127.0.0.1:0", &lease]);
    let to = address(&k8vent).await;
    requests(&receiver, 1).await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    let text = loop {
        let (status, text) = get(&to, "/status").await;
        assert_eq!(status, 200);
        if text.contains("5xx") {
            break text;
        }
        assert!(tokio::time::Instant::now() < deadline, "{text}");
    };
    assert!(text.contains(&format!("leader: holds the Lease {namespace}/k8vent")), "{text}");
    assert!(text.contains("1 waiting, the oldest for") && text.contains("; next in "), "{text}");
    assert!(!text.contains("hush"), "{text}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_told() {
    let plane = ControlPlane::shared().await;
    let taken = Receiver::http().await.unwrap();
    let kubeconfig = format!("--kubeconfig={}", plane.kubeconfig_admin().display());
    let listen = format!("--listen={}", taken.address());
    let mut k8vent = run(&[&kubeconfig, "--url=http://a/", &listen], &[]);
    assert_eq!(k8vent.exit_code(LIMIT).await.unwrap(), Some(1));
    let told = k8vent.stderr().lines().join("\n");
    assert!(
        told.contains(&format!("--listen: cannot listen on {}: Address already in use", taken.address())),
        "{told}"
    );
}
