//! The image is described in `image/`, `Cargo.toml`, `kube/` and the flake, and all of them say the same.

use std::{fs, path::Path};

use k8vent_harness::ControlPlane;
use serde_json::{Value, json};

use crate::manifests::{FILES, kube, pod_of};

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn parsed(file: &str) -> Value {
    serde_json::from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_manifests_ask_for_the_image_of_this_version_and_run_it_as_it_is_described() {
    let plane = ControlPlane::shared().await;
    let image = parsed("image/image.json");
    let reference = format!("{}:{}", image["name"].as_str().unwrap(), env!("CARGO_PKG_VERSION"));
    for file in FILES {
        let pod = pod_of(plane, file).await;
        let (user, container) = (&pod["spec"]["securityContext"], &pod["spec"]["containers"][0]);
        assert_eq!(container["image"], reference, "{file}");
        assert_eq!(container["command"], Value::Null, "{file}: the image's entrypoint is run");
        let user = format!("{}:{}", user["runAsUser"], user["runAsGroup"]);
        assert_eq!(image["config"]["User"], user, "{file}");
        let port = &container["ports"][0]["containerPort"];
        assert_eq!(keys(&image["config"]["ExposedPorts"]), [format!("{port}/tcp")], "{file}");
        assert_eq!(container["args"][0], format!("--listen=:{port}"), "{file}");
        assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], port.to_string(), "{file}");
    }
    let applied = plane.kubectl(&["kustomize", &kube("")]).await.unwrap();
    let images: Vec<_> = applied.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    assert_eq!(images, [reference]);
}

#[test]
fn the_image_starts_the_program_and_has_a_name_for_its_user() {
    let image = parsed("image/image.json");
    assert_eq!(image["config"]["Entrypoint"], json!([concat!("/", env!("CARGO_PKG_NAME"))]));
    let (passwd, group) = (text("image/root/etc/passwd"), text("image/root/etc/group"));
    let passwd: Vec<_> = passwd.trim_end().split(':').collect();
    let group: Vec<_> = group.trim_end().split(':').collect();
    assert_eq!(image["config"]["User"], passwd[2..4].join(":"), "image/root/etc/passwd");
    assert_eq!(group[2], passwd[3], "image/root/etc/group");
}

/// Runtimes pass over a field that they do not know.
#[test]
fn the_image_is_described_by_fields_that_images_have() {
    let fields = ["Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "StopSignal", "User", "Volumes", "WorkingDir"];
    let image = parsed("image/image.json");
    assert_eq!(keys(&image), ["config", "name"]);
    for field in keys(&image["config"]) {
        assert!(fields.contains(&field), "image/image.json: an image has no {field}, but {fields:?}");
    }
}

#[test]
fn the_flake_is_locked_to_one_commit_of_the_release_that_it_names() {
    let (flake, lock) = (text("flake.nix"), parsed("flake.lock"));
    assert_eq!(keys(&lock["nodes"]), ["nixpkgs", "root"]);
    assert_eq!(lock["nodes"]["root"], json!({"inputs": {"nixpkgs": "nixpkgs"}}));
    let (original, locked) = (&lock["nodes"]["nixpkgs"]["original"], &lock["nodes"]["nixpkgs"]["locked"]);
    for field in ["type", "owner", "repo"] {
        assert_eq!(original[field], locked[field], "{field}");
    }
    let said = |field: &str| original[field].as_str().unwrap_or_else(|| panic!("flake.lock: no {field}"));
    let url = format!("{}:{}/{}/{}", said("type"), said("owner"), said("repo"), said("ref"));
    assert!(flake.contains(&format!("inputs.nixpkgs.url = \"{url}\";")), "flake.lock is of {url}, flake.nix is not");
    assert!(url.starts_with("github:NixOS/nixpkgs/nixos-"), "{url} is no release");
    let rev = locked["rev"].as_str().unwrap();
    assert!(rev.len() == 40 && rev.chars().all(|digit| digit.is_ascii_hexdigit()), "{rev}");
    let hash = locked["narHash"].as_str().unwrap();
    assert!(hash.len() == 51 && hash.starts_with("sha256-"), "{hash}");

    assert!(flake.contains(&format!("description = \"{}\";", env!("CARGO_PKG_DESCRIPTION"))), "as in Cargo.toml");
}
