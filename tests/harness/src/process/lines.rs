//! The lines that a program writes, kept and waited for.

use std::{fmt, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    runtime::Handle,
    sync::watch,
    time::timeout,
};

/// The lines of one output so far.
#[derive(Clone)]
pub struct Lines {
    content: watch::Receiver<Content>,
}

#[derive(Default)]
struct Content {
    lines: Vec<String>,
    ended: bool,
}

/// What was waited for did not come within the limit.
#[derive(Debug)]
pub struct TooLate(String);

impl Lines {
    pub(super) fn follow(output: impl AsyncRead + Unpin + Send + 'static, runtime: &Handle) -> Self {
        let (sender, content) = watch::channel(Content::default());
        runtime.spawn(async move {
            let mut reader = BufReader::new(output);
            let mut line = Vec::new();
            // A broken pipe ends the output like its end.
            while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                line.clear();
                sender.send_modify(|content| content.lines.push(text));
            }
            sender.send_modify(|content| content.ended = true);
        });
        Self { content }
    }

    /// A copy of the lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.content.borrow().lines.clone()
    }

    /// Waits until `look` finds something in the lines, and returns it; fails early when the output ends without it.
    pub async fn wait_for<T>(&self, limit: Duration, look: impl Fn(&[String]) -> Option<T>) -> Result<T, TooLate> {
        let mut content = self.content.clone();
        let mut found = None;
        let enough = content.wait_for(|content| {
            found = look(&content.lines);
            found.is_some() || content.ended
        });
        // Late, or the reader is gone: in both cases what counts is whether something was found.
        let _ = timeout(limit, enough).await.map(|done| done.map(drop));
        found.ok_or_else(|| TooLate::new(limit, "a line", &self.lines()))
    }

    pub(super) async fn ended(&self) {
        let mut content = self.content.clone();
        // The reader ends only after it has said so.
        let _ = content.wait_for(|content| content.ended).await;
    }
}

impl TooLate {
    pub(super) fn new(limit: Duration, what: &str, lines: &[String]) -> Self {
        let shown = &lines[lines.len().saturating_sub(30)..];
        Self(format!("{what} did not come within {limit:?}; the last of {} lines:\n{}", lines.len(), shown.join("\n")))
    }
}

impl fmt::Display for TooLate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TooLate {}
