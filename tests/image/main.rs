//! The image's files, and nothing else, are enough to run: what `FROM scratch` means, without a container runtime.
//!
//! `K8VENT_STATIC_BINARY` names the binary (`image/static` builds it). It wants bubblewrap, and root for the port of the
//! name server.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8vent_harness::{ControlPlane, Process, Receiver, image::Image, manifest, name_server::NameServer};

const LIMIT: Duration = Duration::from_mins(1);

fn binary() -> PathBuf {
    let named = env::var_os("K8VENT_STATIC_BINARY").map(PathBuf::from);
    named.expect("K8VENT_STATIC_BINARY names the static binary: `image/static` builds it and prints its path")
}

/// A folder that another user may read, as those that a container runtime makes.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Runs the image as a restricted pod is run: as its user, without capabilities, with a root that cannot be written.
/// `mounts` are files from outside, as a kubelet puts them there.
fn run(image: &Image, root: &Path, mounts: &[(&Path, &str)], args: &[&str]) -> Process {
    let (user, group) = image.user();
    let (user, group) = (user.to_string(), group.to_string());
    let mut line = vec!["--reuid", &user, "--regid", &group, "--clear-groups", "bwrap", "--die-with-parent"];
    line.extend(["--unshare-user", "--uid", &user, "--gid", &group, "--cap-drop", "ALL", "--clearenv"]);
    for variable in image.env() {
        let (name, value) = variable.split_once('=').unwrap();
        line.extend(["--setenv", name, value]);
    }
    line.extend(["--ro-bind", root.to_str().unwrap(), "/"]);
    for (outside, inside) in mounts {
        fs::write(root.join(inside.trim_start_matches('/')), "").expect("a place to mount on");
        line.extend(["--ro-bind", outside.to_str().unwrap(), inside]);
    }
    line.extend(image.entrypoint());
    line.extend(args);
    Process::start(Path::new("setpriv"), line, [("PATH", env::var("PATH").unwrap())]).expect("setpriv starts")
}

/// The process id of k8vent, whose parent bubblewrap is.
fn child(process: &Process) -> u32 {
    let parent = process.id().unwrap();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let mut children = children.split_whitespace().map(|child| child.parse().expect("a process id"));
    children.find(|child| status(*child, "Name") == "k8vent").expect("bubblewrap has started it")
}

fn status(process: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("a known field").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_image_delivers_from_an_empty_root_without_any_right() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("image").await.unwrap();
    let (api, receiver) = (plane.api().await, Receiver::https_as(&["receiver.test"]).await.unwrap());
    let names = NameServer::start("receiver.test").expect("port 53 is free, and we may take it");
    let (root, outside) = (folder(), folder());
    let write = |name: &str, text: &[u8]| {
        let path = outside.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let bundle = write("ca.pem", receiver.ca_pem().as_bytes());
    let image = Image::new(&binary(), &bundle).unwrap_or_else(|error| panic!("{error}"));
    image.lay_out(root.path()).unwrap();
    let resolv = write("resolv.conf", names.resolv_conf().as_bytes());
    let kubeconfig = write("kubeconfig", &fs::read(plane.kubeconfig_admin()).unwrap());

    let url = format!("--url=https://receiver.test:{}/hook", receiver.address().port());
    let mounts = [(resolv.as_path(), "/etc/resolv.conf"), (kubeconfig.as_path(), "/kubeconfig")];
    let args = ["--kubeconfig=/kubeconfig", &url, "--namespace", &namespace];
    let mut process = run(&image, root.path(), &mounts, &args);
    api.create_pod(&namespace, &manifest::pod("a")).await.unwrap();
    let received = receiver.wait_for(LIMIT, |requests| !requests.is_empty()).await;
    let received = received.unwrap_or_else(|late| panic!("{late}\n{:?}", process.stderr().lines()));
    assert!(received[0].header("ce-subject").unwrap().ends_with("/pods/a"));
    assert!(names.answered() > 0, "the name was asked for");

    let k8vent = child(&process);
    assert_eq!(status(k8vent, "Uid"), "65532 65532 65532 65532");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(k8vent, set).trim_start_matches('0'), "", "{set}");
    }
    assert_eq!(status(k8vent, "NoNewPrivs"), "1");
    let mounts = fs::read_to_string(format!("/proc/{k8vent}/mountinfo")).unwrap();
    let options: Vec<_> = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).collect();
    assert!(options.iter().all(|mount| mount[5].split(',').any(|option| option == "ro")), "{mounts}");

    let ended = Command::new("/bin/sh").args(["-c", &format!("kill -TERM {k8vent}")]).status().unwrap();
    assert!(ended.success());
    assert_eq!(process.exit_code(LIMIT).await.unwrap(), Some(0), "{:?}", process.stderr().lines());
}
