//! Endpoints do not share fate.

use std::time::{Duration, Instant};

use bytes::Bytes;
use k8vent_harness::{Answer, ControlPlane, Receiver, manifest};

use crate::support::{LIMIT, each, ids, listed, requests, start, start_with, stop};

/// What a delivery may take on this machine while everything else misbehaves; a delivery that waited for another
/// endpoint's time limit or backoff would take longer.
const PROMPT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn an_endpoint_that_misbehaves_delays_no_other() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("mixed").await.unwrap();
    let api = plane.api().await;
    let healthy = Receiver::http().await.unwrap();
    let mut urls = vec![healthy.url("/")];
    let mut bad = Vec::new();
    for answer in [
        Answer::Hang,
        Answer::Status(500),
        Answer::StatusWithRetryAfter(429, "3600".to_owned()),
        Answer::StatusWithRetryAfter(503, "Fri, 31 Dec 2100 23:59:59 GMT".to_owned()),
        Answer::Redirect(healthy.url("/redirected")),
        Answer::CloseEarly,
        Answer::ACCEPTED.after(Duration::from_millis(500)),
        Answer::EndlessBody,
        Answer::BodyOf(Bytes::from(vec![b'x'; 1 << 20])),
    ] {
        let receiver = Receiver::http().await.unwrap();
        receiver.answer(answer);
        urls.push(receiver.url("/"));
        bad.push(receiver);
    }
    let untrusted = Receiver::https().await.unwrap();
    let gone = Receiver::http().await.unwrap();
    urls.extend([untrusted.url("/"), gone.url("/"), "http://no-such-host.invalid/".to_owned()]);
    gone.down().await;
    let urls = urls.iter().flat_map(|url| ["--url", url]).collect::<Vec<_>>();
    let k8vent = start(&plane.kubeconfig_admin(), &[&urls[..], &["-n", &namespace, "--drain-timeout=0s"]].concat());
    listed(&k8vent).await;
    for n in 0..100 {
        let written = Instant::now();
        api.create_pod(&namespace, &manifest::pod(&format!("pod-{n}"))).await.unwrap();
        let arrived = requests(&healthy, n + 1).await[n].at;
        assert!(arrived - written < PROMPT, "pod {n} took {:?}", arrived - written);
    }
    assert!(healthy.requests().iter().all(|request| request.path == "/"), "redirects are not followed");
    assert!(bad[7].count() > 0 && bad[8].count() > 0);
    assert!(untrusted.count() == 0);
    for n in [1, 2, 3, 4, 5] {
        assert!((1..30).contains(&bad[n].count()), "{} attempts at an endpoint that is down", bad[n].count());
    }
}

#[tokio::test]
async fn an_endpoint_that_was_away_gets_the_last_state_of_everything() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("away").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let url = format!("--url={}", receiver.url("/"));
    receiver.down().await;
    let k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &namespace]);
    listed(&k8vent).await;
    let states = each(20, |n| {
        let (api, namespace) = (&api, &namespace);
        async move {
            let name = format!("pod-{n}");
            api.create_pod(namespace, &manifest::pod(&name)).await.unwrap();
            let last = api.set_phase(namespace, &name, "Running").await.unwrap();
            let uid = last["metadata"]["uid"].as_str().unwrap().to_owned();
            if n % 2 == 0 {
                api.delete_pod(namespace, &name).await.unwrap();
                return (name, vec![format!("{uid}.deleted")]);
            }
            (name, vec![format!("{uid}.{}", last["metadata"]["resourceVersion"].as_str().unwrap())])
        }
    })
    .await;
    // Everything that was written has been read once this one has been tried.
    let down = |log: &serde_json::Value| log["message"] == "endpoint is down: probing it";
    k8vent.wait_for_log(LIMIT, down).await.unwrap();
    receiver.up().await.unwrap();
    requests(&receiver, 20).await;
    stop(k8vent).await;
    assert_eq!(ids(&receiver.requests()), states.into_iter().collect());
}

#[tokio::test]
async fn an_endpoint_behind_a_private_authority_is_trusted_by_ssl_cert_file() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("private").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::https().await.unwrap());
    api.create_pod(&namespace, &manifest::pod("a")).await.unwrap();
    let file = plane.folder().join("private-ca.pem");
    std::fs::write(&file, receiver.ca_pem()).unwrap();
    let url = format!("--url={}", receiver.url("/"));
    let variables = [("SSL_CERT_FILE", file.to_str().unwrap())];
    let k8vent = start_with(&plane.kubeconfig_admin(), &[&url, "-n", &namespace], &variables);
    requests(&receiver, 1).await;
    stop(k8vent).await;
}

#[tokio::test]
async fn past_the_ceiling_nothing_is_lost() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("ceiling").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let created = each(50, |n| {
        let (api, namespace) = (&api, &namespace);
        async move {
            let name = format!("pod-{n}");
            let pod = api.create_pod(namespace, &manifest::pod(&name)).await.unwrap();
            let id = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
            (name, vec![format!("{}.{}", id("uid"), id("resourceVersion"))])
        }
    })
    .await;
    let url = format!("--url={}", receiver.url("/"));
    let k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &namespace, "--queue-bytes=20Ki"]);
    requests(&receiver, 50).await;
    stop(k8vent).await;
    assert_eq!(ids(&receiver.requests()), created.into_iter().collect());
    for request in receiver.requests() {
        let raw = api.get_pod_raw(&namespace, &crate::support::name(&request)).await.unwrap();
        let pod = crate::support::without_managed_fields(std::str::from_utf8(&raw).unwrap());
        assert_eq!(request.body, format!(r#"{{"pod":{pod},"env":{}}}"#, crate::support::ENV));
    }
}
