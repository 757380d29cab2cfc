//! No secret gets out.

use base64::{Engine, engine::general_purpose::STANDARD};
use k8vent_harness::{Answer, ControlPlane, Receiver, manifest, process::Signal};
use ring::hmac;
use serde_json::json;

use crate::support::{LIMIT, listed, requests, start, start_with, stop};

#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("silent").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    let own = Receiver::http().await.unwrap();
    own.answer(Answer::Status(500));
    let mut pod = manifest::pod("own");
    let to = format!("http://u:hushpassword@{}/services/T00HUSH00/hushhushhushhush?key=hushquery", own.address());
    pod["metadata"]["annotations"]["atomist.com/k8vent"] = json!({"webhooks": [to]}).to_string().into();
    api.create_pod(&namespace, &pod).await.unwrap();
    api.create_pod(&namespace, &manifest::pod("plain")).await.unwrap();
    let secret = STANDARD.encode(b"hushhushhushhushhushhushhush");
    let url = format!("http://user:hushpassword@{}/hook/hushtoken1234567890?t=hushquery", receiver.address());
    let variables = [("K8VENT_WEBHOOKS", url.as_str()), ("K8VENT_WEBHOOK_SECRET", &secret)];
    let args = ["--log-level=trace", "-n", &namespace, "--header=Authorization: hushheader", "--drain-timeout=0s"];
    let mut k8vent = start_with(&plane.kubeconfig_admin(), &args, &variables);
    listed(&k8vent).await;
    requests(&receiver, 1).await;
    requests(&own, 4).await;
    k8vent.signal(Signal::Term);
    k8vent.wait(LIMIT).await.unwrap();
    let signature = receiver.requests()[0].header("webhook-signature").unwrap().to_owned();
    for line in [k8vent.stderr().lines(), k8vent.stdout().lines()].concat() {
        assert!(!line.to_lowercase().contains("hush"), "{line}");
        assert!(!line.contains(&secret) && !line.contains(&signature), "{line}");
        assert!(!line.contains("hidden"), "{line}");
    }
}

#[tokio::test]
async fn headers_for_the_global_webhooks_and_credentials_in_the_environment_stay_at_home() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("home").await.unwrap();
    let api = plane.api().await;
    let (global, own) = (Receiver::http().await.unwrap(), Receiver::http().await.unwrap());
    let mut pod = manifest::pod("own");
    pod["metadata"]["annotations"]["atomist.com/k8vent"] = json!({"webhooks": [own.url("/")]}).to_string().into();
    api.create_pod(&namespace, &pod).await.unwrap();
    api.create_pod(&namespace, &manifest::pod("plain")).await.unwrap();
    let url = global.url("/");
    let variables = [("K8VENT_WEBHOOKS", url.as_str()), ("K8VENT_TIMEOUT", "9s")];
    let args = ["-n", &namespace, "--header=Authorization: Bearer x", "--cluster=prod"];
    let k8vent = start_with(&plane.kubeconfig_admin(), &args, &variables);
    let (to_global, to_own) = (requests(&global, 1).await.remove(0), requests(&own, 1).await.remove(0));
    stop(k8vent).await;
    assert_eq!(to_global.header("authorization"), Some("Bearer x"));
    assert_eq!(to_own.header("authorization"), None);
    let env = json!({"ATOMIST_ENVIRONMENT": "laws", "GREETING": "h\"é"});
    assert_eq!(to_own.json()["env"], env);
    assert_eq!(
        to_global.json()["env"],
        json!({"ATOMIST_ENVIRONMENT": "laws", "GREETING": "h\"é", "K8VENT_TIMEOUT": "9s"})
    );
    assert_eq!(to_global.header("ce-source"), Some("prod"));
}

#[tokio::test]
async fn requests_are_signed_by_standard_webhooks() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("signed").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    api.create_pod(&namespace, &manifest::pod("a")).await.unwrap();
    let file = plane.folder().join("webhook-secret");
    let keys = [[7; 32], [8; 32]];
    std::fs::write(&file, keys.map(|key| format!("whsec_{}\n", STANDARD.encode(key))).concat()).unwrap();
    let (url, file) = (format!("--url={}", receiver.url("/")), format!("--secret-file={}", file.display()));
    let k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &namespace, &file]);
    let request = requests(&receiver, 1).await.remove(0);
    stop(k8vent).await;
    let (id, time) = (request.header("webhook-id").unwrap(), request.header("webhook-timestamp").unwrap());
    assert_eq!(Some(id), request.header("ce-id"));
    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", &request.body].concat();
    let signatures: Vec<_> = request.header("webhook-signature").unwrap().split(' ').collect();
    for (signature, key) in signatures.iter().zip(keys) {
        let signature = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed, &signature).unwrap();
    }
    assert_eq!(signatures.len(), 2);
}
