//! k8vent as a process of its own, and what it counts.

use std::{env, path::Path, time::Duration};

use k8vent_harness::{Process, process::Signal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{Error, LIMIT};

/// The argument that makes this program k8vent: cargo builds no binary for an example to start.
pub(crate) const AS_K8VENT: &str = "--as-k8vent";

/// Between two looks at the counters.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// k8vent, running; it is killed when this is dropped.
pub(crate) struct K8vent {
    process: Process,
    address: String,
}

/// What k8vent says of the states that it has read, all webhooks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) offered: u64,
    pub(crate) accepted: u64,
    pub(crate) replaced: u64,
    /// Given up, or refused.
    pub(crate) lost: u64,
    /// Waiting, or in flight.
    pub(crate) held: u64,
    pub(crate) failed_attempts: u64,
}

impl K8vent {
    /// Starts it, and waits until it knows the pods that there are.
    pub(crate) async fn start(kubeconfig: &Path, url: &str) -> Result<Self, Error> {
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let url = format!("--url={url}");
        let args = [AS_K8VENT, &kubeconfig, &url, "--cluster=demo", "--listen=127.0.0.1:0", "--drain-timeout=3s"];
        let process = Process::start(&env::current_exe()?, args, [("ATOMIST_ENVIRONMENT", "demo")])?;
        let listening = process.wait_for_log(LIMIT, |log| log["message"] == "listening").await?;
        let address = listening["address"].as_str().unwrap_or_default().to_owned();
        let this = Self { process, address };
        this.logged("list complete").await?;
        Ok(this)
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }

    pub(crate) fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    /// Waits for a line of the log, and gives it as one reads it.
    pub(crate) async fn logged(&self, message: &str) -> Result<String, Error> {
        let line = self.process.wait_for_log(LIMIT, |log| log["message"] == message).await?;
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        Ok(format!("{} {message}  {}", text("level"), text("endpoint")))
    }

    /// Waits until the counters are as asked.
    pub(crate) async fn counted(&self, mut fits: impl FnMut(&Counts) -> bool) -> Result<Counts, Error> {
        let asking = async {
            loop {
                let counts = self.counts().await?;
                if fits(&counts) {
                    return Ok(counts);
                }
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(LIMIT, asking).await.map_err(|_| "k8vent did not count what it should have")?
    }

    async fn counts(&self) -> Result<Counts, Error> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(Counts::parse(&text))
    }

    /// Asks it to end, and gives whether it did so in order.
    pub(crate) async fn stop(mut self) -> Result<Option<i32>, Error> {
        self.process.signal(Signal::Term);
        Ok(self.process.exit_code(LIMIT).await?)
    }
}

impl Counts {
    fn parse(text: &str) -> Self {
        let sum = |series: &str, label: &str| -> u64 {
            let lines = text.lines().filter(|line| line.starts_with(series) && line.contains(label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        let settled = |result: &str| sum("k8vent_states_settled_total{", &format!("result=\"{result}\""));
        Self {
            offered: sum("k8vent_states_offered_total{", ""),
            accepted: settled("accepted"),
            replaced: settled("replaced"),
            lost: settled("given_up") + settled("refused"),
            held: sum("k8vent_states_waiting{", "") + sum("k8vent_states_in_flight{", ""),
            failed_attempts: sum("k8vent_attempts_total{", "") - sum("k8vent_attempts_total{", "result=\"2xx\""),
        }
    }
}
