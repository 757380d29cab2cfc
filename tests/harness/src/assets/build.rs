//! Builds the binaries with the Go toolchain.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    assets::{Assets, AssetsError, Origin},
    text::tail,
};

/// The Go module whose `tool` lines name what is built.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/controlplane");
/// Part of the cache's name: another module gets another folder.
const GO_MOD: &str = include_str!("../../controlplane/go.mod");
const GO_SUM: &str = include_str!("../../controlplane/go.sum");
/// The release that `go.mod` pins.
const VERSION: &str = "v1.37.2";
/// Often enough to see that it lives, seldom enough not to flood a CI log.
const TELL_EVERY: Duration = Duration::from_secs(15);

/// The name of the cache folder: the release, and a digest of everything that decides what is built.
pub(super) fn cache_name() -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, [GO_MOD, GO_SUM].concat().as_bytes());
    digest.as_ref()[..6].iter().fold(format!("controlplane-{VERSION}-"), |name, byte| format!("{name}{byte:02x}"))
}

/// Builds into a folder beside `cache` and renames it: a build that breaks off leaves nothing that looks finished.
pub(super) fn into_cache(cache: &Path) -> Result<Assets, AssetsError> {
    let unwritable = |error| not_built(format!("cannot write to {}: {error}", cache.display()));
    let _alone = lock(&beside(cache, "lock")).map_err(unwritable)?;
    if !cache.is_dir() {
        require_go()?;
        let work = beside(cache, "building");
        // Only a build that was killed leaves this folder behind.
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).map_err(unwritable)?;
        if let Err(error) = build_all(&work, cache) {
            // The error of the build matters more than one of the cleaning.
            let _ = fs::remove_dir_all(&work);
            return Err(error);
        }
        fs::rename(&work, cache).map_err(unwritable)?;
    }
    Ok(Assets::in_folder(cache, Origin::Built))
}

fn build_all(work: &Path, cache: &Path) -> Result<(), AssetsError> {
    tell(&format!(
        "building etcd, kube-apiserver and kubectl {VERSION} from source, once, into {}: about five minutes on two \
         idle cores, half a minute where Go has them in its cache",
        cache.display()
    ));
    let began = Instant::now();
    for (index, name) in Assets::NAMES.into_iter().enumerate() {
        build_one(name, index + 1, work, began)?;
    }
    tell(&format!("built after {} s", began.elapsed().as_secs()));
    Ok(())
}

/// A path in the same folder; the cache's name has dots, so it is not for `with_extension`.
fn beside(cache: &Path, suffix: &str) -> PathBuf {
    let mut path = cache.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}

/// Held while one process builds; the others wait here and then find the result.
fn lock(path: &Path) -> io::Result<File> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let file = File::create(path)?;
    if file.try_lock().is_err() {
        tell("another process is building the control plane: waiting for it");
        file.lock()?;
    }
    Ok(file)
}

fn require_go() -> Result<(), AssetsError> {
    let answer = Command::new("go").arg("version").stderr(Stdio::null()).output();
    match answer {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(not_built(format!("`go version` failed with {}", output.status))),
        Err(error) => Err(not_built(format!("the Go toolchain does not run: {error}"))),
    }
}

fn build_one(name: &str, nth: usize, into: &Path, began: Instant) -> Result<(), AssetsError> {
    let failed = |why: String| not_built(format!("building {name} failed: {why}"));
    let log = into.join("log");
    let output = File::create(&log).map_err(|error| failed(error.to_string()))?;
    let status = go_build(name, &into.join(name), output);
    let how_far = || {
        // With `-v` the log has a line for each package that was compiled.
        let packages = fs::read_to_string(&log).unwrap_or_default().lines().count();
        let (of, seconds) = (Assets::NAMES.len(), began.elapsed().as_secs());
        format!("building {name} ({nth} of {of}), {packages} packages compiled, {seconds} s so far")
    };
    let status = telling(how_far, status).map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(format!("{status}\n{}", tail(&log, 20))));
    }
    fs::remove_file(&log).map_err(|error| failed(error.to_string()))
}

fn go_build(name: &str, output: &Path, log: File) -> Command {
    let package = match name {
        "etcd" => "go.etcd.io/etcd/server/v3".to_owned(),
        kubernetes => format!("k8s.io/kubernetes/cmd/{kubernetes}"),
    };
    let set = "-X k8s.io/component-base/version";
    let mut go = Command::new("go");
    go.current_dir(MODULE)
        .args(["build", "-v", "-trimpath", "-ldflags"])
        .arg(format!("-s -w {set}.gitVersion={VERSION} {set}.gitMajor=1 {set}.gitMinor=37"))
        .arg("-o")
        .args([output.as_os_str(), package.as_ref()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    go
}

/// Runs a command to its end and says now and then that it still runs.
fn telling(how_far: impl Fn() -> String + Send, mut command: Command) -> io::Result<ExitStatus> {
    let (done, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while wait.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
                tell(&how_far());
            }
        });
        let status = command.status();
        drop(done);
        status
    })
}

/// Writes past the output capture of `cargo test`: a user who waits for minutes has to see why.
fn tell(text: &str) {
    // Nobody to tell is no reason to stop.
    let _ = writeln!(io::stderr(), "k8vent-harness: {text}");
}

fn not_built(why: String) -> AssetsError {
    AssetsError::NotBuilt { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_module_and_the_version_told_to_the_binaries_agree() {
        assert!(GO_MOD.contains(&format!("k8s.io/kubernetes {VERSION} ")));
    }

    #[test]
    fn a_failed_build_names_every_way_out() {
        let message = not_built("the Go toolchain does not run".to_owned()).to_string();
        for way_out in ["does not run", "install Go 1.26", "KUBEBUILDER_ASSETS", "PATH"] {
            assert!(message.contains(way_out), "{message}");
        }
    }
}
