//! The image's files, and nothing else, are enough to run: what `FROM scratch` means, without a container runtime.
//!
//! `K8VENT_STATIC_BINARY` names the binary (`image/static` builds it). It wants bubblewrap, and root for the port of the
//! name server.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8vent_harness::{ControlPlane, Process, Receiver, image::Image, manifest, name_server::NameServer};

const LIMIT: Duration = Duration::from_mins(1);

/// Where the manifests have the state directory.
const VOLUME: &str = "/var/lib/k8vent";

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
/// `mounts` are files from outside, as a kubelet puts them there, and `volume` a folder that may be written, at [`VOLUME`].
fn run(image: &Image, root: &Path, mounts: &[(&Path, &str)], volume: Option<&Path>, args: &[&str]) -> Process {
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
    if let Some(volume) = volume {
        fs::create_dir_all(root.join(VOLUME.trim_start_matches('/'))).expect("a place to mount on");
        line.extend(["--bind", volume.to_str().unwrap(), VOLUME]);
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

fn kill(signal: &str, process: &Process) {
    let line = format!("kill -{signal} {}", child(process));
    assert!(Command::new("/bin/sh").args(["-c", &line]).status().unwrap().success(), "{line}");
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
    let mut process = run(&image, root.path(), &mounts, None, &args);
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

    kill("TERM", &process);
    assert_eq!(process.exit_code(LIMIT).await.unwrap(), Some(0), "{:?}", process.stderr().lines());
}

/// A file system of so many bytes.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new(bytes: usize) -> Self {
        let folder = folder();
        let options = format!("size={bytes},mode=0777");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "k8vent-test"]).arg(folder.path()).status();
        assert!(mounted.unwrap().success(), "root may mount");
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut ballast = fs::File::create(self.path().join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_volume_is_told_stops_no_delivery_and_is_written_again_when_there_is_room() {
    let plane = ControlPlane::shared().await;
    let namespace = plane.namespace("volume").await.unwrap();
    let (api, receiver, volume) = (plane.api().await, Receiver::http().await.unwrap(), Volume::new(2 << 20));
    let (root, outside) = (folder(), folder());
    let bundle = outside.path().join("ca.pem");
    fs::write(&bundle, plane.ca_pem()).unwrap();
    let image = Image::new(&binary(), &bundle).unwrap_or_else(|error| panic!("{error}"));
    image.lay_out(root.path()).unwrap();
    let kubeconfig = outside.path().join("kubeconfig");
    fs::copy(plane.kubeconfig_admin(), &kubeconfig).unwrap();
    let url = format!("--url={}", receiver.url("/hook"));
    let state = format!("--state-dir={VOLUME}");
    let args = ["--kubeconfig=/kubeconfig", &url, "--namespace", &namespace, &state];
    let start = || run(&image, root.path(), &[(&kubeconfig, "/kubeconfig")], Some(volume.path()), &args);
    let says = |text: &'static str| {
        move |log: &serde_json::Value| log["message"].as_str().is_some_and(|message| message.contains(text))
    };
    let mut process = start();
    process.wait_for_log(LIMIT, says("list complete")).await.unwrap_or_else(|late| panic!("{late}"));
    volume.fill();
    for n in 0..40 {
        api.create_pod(&namespace, &manifest::pod(&format!("pod-{n}"))).await.unwrap();
    }
    let log = process.wait_for_log(LIMIT, says("the state directory cannot be written")).await.unwrap();
    assert!(log["error"].as_str().unwrap().contains("No space left on device"), "{log}");
    receiver.wait_for_count(LIMIT, 40).await.unwrap();

    volume.free();
    process.wait_for_log(LIMIT, says("the state directory is written again")).await.unwrap();
    kill("KILL", &process);
    process.wait(LIMIT).await.unwrap();
    let mut second = start();
    let log = second.wait_for_log(LIMIT, says("going on from the state directory")).await.unwrap();
    assert_eq!(log["pods"], 40, "{log}");
    api.create_pod(&namespace, &manifest::pod("last")).await.unwrap();
    receiver.wait_for_count(LIMIT, 41).await.unwrap();
    kill("TERM", &second);
    assert_eq!(second.exit_code(LIMIT).await.unwrap(), Some(0), "{:?}", second.stderr().lines());
    assert_eq!(receiver.count(), 41, "nothing is sent twice");
}
