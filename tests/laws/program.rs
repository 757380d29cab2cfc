//! The command line: exit codes, messages, the dry run, the subcommand.

use k8vent_harness::{Answer, ControlPlane, Receiver, manifest, process::Signal};
use serde_json::json;

use crate::support::{LIMIT, listed, run, start};

/// The exit code and both outputs of a run that ends by itself.
async fn ended(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut process = run(args, variables);
    let code = process.exit_code(LIMIT).await.unwrap();
    (code, process.stdout().lines().join("\n"), process.stderr().lines().join("\n"))
}

#[tokio::test]
async fn who_asks_wrongly_is_told_so_with_exit_code_2() {
    let ok = "--url=http://a/";
    for (args, told) in [
        (&[][..], "k8vent: no webhook URLs provided"),
        (&["--url=nonsense"], "k8vent: --url: URL number 1 is wrong: not absolute"),
        (&["--nope"], "k8vent: Unrecognized argument: --nope; `k8vent --help` tells what there is"),
        (&[ok, "--timeout=x"], "k8vent: --timeout: \"x\" is wrong"),
        (&[ok, "--kubeconfig=/nowhere"], "k8vent: --kubeconfig: cannot use /nowhere: "),
        (&[ok], "k8vent: no cluster to watch: give --kubeconfig"),
        (&["link-image", ok, "--owner=o", "--repo=r", "--sha=abc", "--image=i"], "k8vent: --sha: \"abc\" is wrong"),
    ] {
        // Where the system trusts no certificate, as in the sandbox of a build, a warning would come before it.
        let (code, stdout, stderr) = ended(args, &[("K8VENT_LOG_LEVEL", "error")]).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.starts_with(told), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[tokio::test]
async fn a_kubeconfig_that_makes_no_sense_is_told() {
    let dir = std::env::temp_dir().join(format!("k8vent-kubeconfig-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for (number, text) in ["", ":::", "kind: Config", "[1, 2]", "clusters: 7"].iter().enumerate() {
        let file = dir.join(number.to_string());
        std::fs::write(&file, text).unwrap();
        let kubeconfig = format!("--kubeconfig={}", file.display());
        let (code, _, stderr) = ended(&["--url=http://a/", &kubeconfig], &[]).await;
        assert_eq!(code, Some(2), "{text}: {stderr}");
        assert!(stderr.contains(file.to_str().unwrap()), "{stderr}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn help_and_version_are_printed_on_stdout() {
    let (code, stdout, _) = ended(&["--version"], &[]).await;
    assert_eq!((code, stdout), (Some(0), format!("k8vent {}", env!("CARGO_PKG_VERSION"))));
    let (code, stdout, _) = ended(&["--help"], &[]).await;
    assert_eq!(code, Some(0));
    for part in ["--url", "K8VENT_WEBHOOKS", "--drain-timeout", "link-image", "Error codes"] {
        assert!(stdout.contains(part), "{stdout}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_no_reason_to_panic() {
    for (arguments, code) in [("--help >/dev/full", 1), ("--version >/dev/full", 1), ("--nope 2>/dev/full", 2)] {
        let script = format!("exec {} {arguments}", env!("CARGO_BIN_EXE_k8vent"));
        let status = std::process::Command::new("sh").args(["-c", &script]).env_clear().status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments}");
    }
}

#[tokio::test]
async fn a_dry_run_prints_each_request_and_posts_none() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("dry").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::http().await.unwrap());
    api.create_pod(&namespace, &manifest::pod("a")).await.unwrap();
    let url = format!("--url={}", receiver.url("/hook?token=hush"));
    let mut k8vent = start(&plane.kubeconfig_admin(), &[&url, "-n", &namespace, "--dry-run", "--header=X: hush"]);
    listed(&k8vent).await;
    let find = |lines: &[String]| lines.iter().find(|line| line.starts_with(r#"{"pod":{"#)).cloned();
    let body = k8vent.stdout().wait_for(LIMIT, find).await.unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["pod"]["metadata"]["name"], "a");
    k8vent.signal(Signal::Term);
    assert_eq!(k8vent.exit_code(LIMIT).await.unwrap(), Some(0));
    let printed = k8vent.stdout().lines().join("\n");
    assert!(printed.contains("ce-type: com.atomist.k8vent.pod.added") && printed.contains("POST http://127.0.0.1"));
    assert!(!printed.contains("hush"), "{printed}");
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn link_image_posts_the_documented_json_once() {
    let receiver = Receiver::http().await.unwrap();
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let url = format!("--url={}", receiver.url("/link-image"));
    let args = ["link-image", &url, "--owner", "me", "--repo=app", "--sha", sha, "--image=me/app:1.2.3"];
    let (code, _, stderr) = ended(&args, &[]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let link = json!({
        "git": {"owner": "me", "repo": "app", "sha": sha}, "docker": {"image": "me/app:1.2.3"}, "type": "link-image",
    });
    assert_eq!(receiver.requests()[0].json(), link);
    receiver.answer(Answer::Status(404));
    let (code, _, stderr) = ended(&args, &[]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("did not accept the link: it answered 404 Not Found"), "{stderr}");
    assert_eq!(receiver.count(), 2);
}
