//! Child processes that do not outlive this one, however it ends.

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

/// Leaves a watcher behind that waits for the pipe on stdin and then becomes the program, with the same process id.
///
/// A line on the pipe dismisses the watcher. The end of the pipe without a line means that we were killed: the watcher
/// kills the program and sweeps the folder that we can no longer remove. It holds neither stdout nor stderr open, so
/// that readers of those see the program's end.
const WATCH_AND_EXEC: &str = r#"
sweep=$1; shift
exec 3<&0 </dev/null
( read -r _ <&3 && exit; kill -9 $$; [ -z "$sweep" ] || rm -rf "$sweep" || rm -rf "$sweep" ) >/dev/null 2>&1 &
exec "$@" 3<&-
"#;

/// The command that runs `program` under a watcher; `sweep` is removed if this process is killed.
///
/// The caller adds arguments, environment and outputs, spawns it, and hands the child's stdin to [`Guard`]. `PATH` of
/// this process is used to find `sh`, also when the caller clears the environment.
pub(crate) fn command(program: impl AsRef<OsStr>, sweep: Option<&Path>) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", WATCH_AND_EXEC, "guard"])
        .arg(sweep.map_or(OsStr::new(""), Path::as_os_str))
        .arg(program)
        .stdin(Stdio::piped())
        // Ctrl-C in a terminal is ours to handle: it must not reach the program before we have.
        .process_group(0);
    command
}

/// Our end of the pipe to the watcher.
pub(crate) struct Guard<Pipe: Write = ChildStdin>(Option<Pipe>);

impl<Pipe: Write> Guard<Pipe> {
    pub(crate) fn new(pipe: Option<Pipe>) -> Self {
        Self(pipe)
    }
}

impl<Pipe: Write> Drop for Guard<Pipe> {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.take() {
            // It fails only when the watcher is gone already.
            let _ = pipe.write_all(b"\n");
        }
    }
}

/// A guarded child that is killed and reaped on drop.
pub(crate) struct GuardedChild {
    child: Child,
    // After the child: the watcher is dismissed once the process id is no longer ours to kill.
    _guard: Guard,
}

impl GuardedChild {
    pub(crate) fn spawn(mut command: Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let guard = Guard::new(child.stdin.take());
        Ok(Self { child, _guard: guard })
    }

    /// Whether the process has ended by itself, and how.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        // Both fail only when it has ended and been reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::{env, io::Read, sync::mpsc, thread, time::Duration};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Whether everything that holds the other end of `pipe` ends within the limit.
    fn all_end(mut pipe: impl Read + Send + 'static) -> bool {
        let (send, ended) = mpsc::channel();
        thread::spawn(move || send.send(io::copy(&mut pipe, &mut io::sink()).is_ok()));
        ended.recv_timeout(LIMIT).unwrap_or(false)
    }

    fn sleeper(sweep: Option<&Path>, stdout: Stdio) -> GuardedChild {
        let mut command = command("sleep", sweep);
        command.arg("1000").stdout(stdout);
        GuardedChild::spawn(command).unwrap()
    }

    #[test]
    fn dropping_kills_the_process_and_dismisses_the_watcher() {
        let kept = tempfile::tempdir().unwrap();
        let mut sleeper = sleeper(Some(kept.path()), Stdio::piped());
        let stdout = sleeper.child.stdout.take().unwrap();
        drop(sleeper);
        assert!(all_end(stdout));
        assert!(kept.path().exists(), "the folder is ours to remove while we live");
    }

    #[test]
    fn a_process_that_ends_by_itself_is_seen_to_end() {
        let mut command = command("sh", None);
        command.args(["-c", "exit 7"]);
        let mut child = GuardedChild::spawn(command).unwrap();
        assert_eq!(child.child.wait().unwrap().code(), Some(7));
        assert!(child.ended().is_some());
    }

    #[test]
    fn a_killed_test_process_leaves_no_process_and_no_folder() {
        let swept = tempfile::tempdir().unwrap();
        let mut test = Command::new(env::current_exe().unwrap())
            .args(["--exact", "guard::tests::the_process_that_is_killed", "--ignored", "--nocapture"])
            .env("SWEEP", swept.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = test.stderr.take().unwrap();
        let mut ready = [0; 6];
        stderr.read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        test.kill().unwrap();
        test.wait().unwrap();
        // The sleeper shares this pipe: its end says that the sleeper is gone too.
        assert!(all_end(test.stdout.take().unwrap()));
        // The watcher, which sweeps, shares a pipe only with the dead; so this one wait has to look again and again.
        let deadline = std::time::Instant::now() + LIMIT;
        while swept.path().exists() {
            assert!(std::time::Instant::now() < deadline, "the folder was not swept");
            thread::yield_now();
        }
    }

    #[test]
    #[ignore = "runs only as the child of the test above"]
    fn the_process_that_is_killed() {
        let Some(sweep) = env::var_os("SWEEP") else { return };
        let _sleeper = sleeper(Some(Path::new(&sweep)), Stdio::inherit());
        io::stderr().write_all(b"ready\n").unwrap();
        thread::sleep(LIMIT);
    }
}
