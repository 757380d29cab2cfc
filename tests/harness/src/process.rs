//! k8vent itself, or any other program, as a child of the test.

mod lines;
mod usage;

use std::{
    ffi::OsStr,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tokio::{
    process::{Child, ChildStdin, Command},
    time::timeout,
};

pub use crate::process::{
    lines::{Lines, TooLate},
    usage::Usage,
};
use crate::{
    background::Background,
    guard::{self, Guard},
};

/// A signal that tests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop in order.
    Term,
    /// Stop in order, as Ctrl-C in a terminal says it.
    Int,
    /// Stop at once; nobody is asked.
    Kill,
    /// Stand still, as a machine that is paused does.
    Stop,
    /// Go on after [`Stop`](Self::Stop).
    Continue,
}

/// A running program whose output is kept; it is killed on drop, and when the test process ends in any way.
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    // After the child: the watcher is dismissed once the process id is no longer ours to kill.
    _guard: Guard<Box<dyn io::Write + Send>>,
    _background: Background,
}

impl Process {
    /// Starts a program with nothing in its environment but `env`.
    pub fn start<A, K, V>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> io::Result<Self>
    where
        A: AsRef<OsStr>,
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        // Some shells add variables of their own, so it is not the watcher's environment that is cleared.
        let mut command = guard::command("env", None);
        command.arg("-i");
        for (name, value) in env {
            command.arg([name.as_ref(), value.as_ref()].join(OsStr::new("=")));
        }
        command.arg(program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let background = Background::start("process output");
        let _runtime = background.handle().enter();
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let pipe = child.stdin.take().map(ChildStdin::into_owned_fd).transpose()?;
        let pipe = pipe.map(|pipe| Box::new(std::fs::File::from(pipe)) as Box<dyn io::Write + Send>);
        let stdout = Lines::follow(child.stdout.take().expect("stdout is piped"), background.handle());
        let stderr = Lines::follow(child.stderr.take().expect("stderr is piped"), background.handle());
        Ok(Self { child, stdout, stderr, _guard: Guard::new(pipe), _background: background })
    }

    /// What the program has written to stdout.
    #[must_use]
    pub fn stdout(&self) -> &Lines {
        &self.stdout
    }

    /// What the program has written to stderr.
    #[must_use]
    pub fn stderr(&self) -> &Lines {
        &self.stderr
    }

    /// Waits for a line of JSON on stderr that fits, and returns it; lines that came before the call count.
    pub async fn wait_for_log(&self, limit: Duration, fits: impl Fn(&Value) -> bool) -> Result<Value, TooLate> {
        let parse = |line: &str| serde_json::from_str(line).ok().filter(|log| fits(log));
        self.stderr.wait_for(limit, |lines| lines.iter().find_map(|line| parse(line))).await
    }

    /// Every line of JSON on stderr so far.
    #[must_use]
    pub fn logs(&self) -> Vec<Value> {
        self.stderr.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The process id while the program has not been waited for.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When the program has ended and been waited for.
    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        let id = self.running_id();
        // The shell's own `kill`: the program of that name is not on every machine.
        let sent = std::process::Command::new("/bin/sh").args(["-c", &format!("kill -{name} {id}")]).status();
        assert!(sent.is_ok_and(|status| status.success()), "signal {name} could not be sent to {id}");
    }

    /// Waits for the program's end and then for the end of its output.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus, TooLate> {
        let ended = timeout(limit, async {
            let status = self.child.wait().await.expect("a child can be waited for");
            self.stdout.ended().await;
            self.stderr.ended().await;
            status
        });
        ended.await.map_err(|_| TooLate::new(limit, "the program's end", &self.stderr.lines()))
    }

    /// Waits for the program's end and returns its exit code: none when a signal ended it.
    pub async fn exit_code(&mut self, limit: Duration) -> Result<Option<i32>, TooLate> {
        let status = self.wait(limit).await?;
        Ok(status.code().filter(|_| status.signal().is_none()))
    }

    /// Lets no file that the program writes grow beyond so many bytes, or lifts that again. What goes beyond fails as on
    /// a full disk, with `EFBIG`, if the program was started with `SIGXFSZ` ignored.
    ///
    /// # Panics
    ///
    /// When the program has ended and been waited for.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let id = Pid::from_raw(self.running_id().try_into().expect("a process id")).expect("not 0");
        prlimit(Some(id), Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("a limit may be set");
    }

    /// What the program uses now, and has used.
    ///
    /// # Panics
    ///
    /// When the program has ended and been waited for.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(self.running_id())
    }

    /// Memory in use now, in kB.
    #[must_use]
    pub fn rss_kb(&self) -> u64 {
        self.usage().rss_kb
    }

    /// The most memory that was ever in use, in kB.
    #[must_use]
    pub fn peak_rss_kb(&self) -> u64 {
        self.usage().peak_rss_kb
    }

    /// CPU time used so far, user and system.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.usage().cpu_time
    }

    fn running_id(&self) -> u32 {
        self.child.id().expect("the program has not been waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails only when the program has ended.
        let _ = self.child.start_kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Process {
        Process::start(Path::new("/bin/sh"), ["-c", script], [("GREETING", "hello")]).unwrap()
    }

    #[tokio::test]
    async fn output_and_exit_code_are_those_of_the_program() {
        let mut process = shell("echo out $GREETING; echo err >&2; exit 3");
        assert_eq!(process.exit_code(LIMIT).await.unwrap(), Some(3));
        assert_eq!(process.stdout().lines(), ["out hello"]);
        assert_eq!(process.stderr().lines(), ["err"]);
    }

    #[tokio::test]
    async fn the_environment_is_only_what_was_given() {
        let mut process = Process::start(Path::new("env"), [""; 0], [("ONLY", "this")]).unwrap();
        process.wait(LIMIT).await.unwrap();
        assert_eq!(process.stdout().lines(), ["ONLY=this"]);
    }

    #[tokio::test]
    async fn a_log_line_is_waited_for_and_what_was_there_is_told_when_it_does_not_come() {
        let process = shell(r#"echo rubbish >&2; echo '{"level":"INFO","n":1}' >&2; exec sleep 1000"#);
        assert_eq!(process.wait_for_log(LIMIT, |log| log["level"] == "INFO").await.unwrap()["n"], 1);
        let late = process.wait_for_log(Duration::from_millis(50), |log| log["level"] == "ERROR").await.unwrap_err();
        assert!(late.to_string().contains("rubbish"), "{late}");
    }

    #[tokio::test]
    async fn signals_reach_the_program_itself() {
        let mut process = shell("trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done");
        process.stdout().wait_for(LIMIT, |lines| (!lines.is_empty()).then_some(())).await.unwrap();
        process.signal(Signal::Term);
        assert_eq!(process.exit_code(LIMIT).await.unwrap(), Some(9));
        let mut process = shell("exec sleep 1000");
        process.signal(Signal::Kill);
        assert_eq!(process.exit_code(LIMIT).await.unwrap(), None);
    }

    #[tokio::test]
    async fn usage_is_that_of_the_program_and_not_of_a_wrapper() {
        let process = shell("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; while :; do :; done");
        process.stdout().wait_for(LIMIT, |lines| (!lines.is_empty()).then_some(())).await.unwrap();
        let usage = process.usage();
        assert!(usage.cpu_time > Duration::from_millis(10), "{usage:?}");
        assert!(usage.rss_kb > 100 && usage.peak_rss_kb >= usage.rss_kb, "{usage:?}");
    }
}
