//! What a request says, as a person wants to see it.

use k8vent_harness::receiver::Received;
use serde_json::Value;

/// A state that has arrived.
pub(crate) struct Arrival {
    /// The path of the webhook.
    pub(crate) webhook: String,
    /// What k8vent calls it: added, updated or deleted.
    pub(crate) event: String,
    /// Namespace and name.
    pub(crate) pod: String,
    /// `status.phase`.
    pub(crate) phase: String,
    /// How many containers are ready, of how many.
    pub(crate) ready: String,
    /// Why it is not running, where it is otherwise.
    pub(crate) why: String,
    /// The same for each attempt at this state: `UID.VERSION`, or `UID.deleted`.
    pub(crate) id: String,
    bytes: usize,
}

impl From<&Received> for Arrival {
    fn from(request: &Received) -> Self {
        // Somebody else's request (`--keep` invites to try) need not have a body that we know.
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let header = |name| request.header(name).unwrap_or("?");
        let (pod, text) = (&body["pod"], |value: &Value| value.as_str().unwrap_or("?").to_owned());
        let all = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
        let containers = pod["status"]["containerStatuses"].as_array();
        let ready = containers.into_iter().flatten().filter(|container| container["ready"] == true).count();
        Self {
            webhook: request.path.clone(),
            event: header("ce-type").rsplit('.').next().unwrap_or_default().to_owned(),
            pod: format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"])),
            phase: text(&pod["status"]["phase"]),
            ready: format!("{ready}/{all}"),
            why: why(pod),
            id: header("ce-id").to_owned(),
            bytes: request.body.len(),
        }
    }
}

impl Arrival {
    /// The resource version, or `deleted`.
    pub(crate) fn version(&self) -> &str {
        self.id.rsplit('.').next().unwrap_or_default()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.split_once('/').is_some_and(|(ready, all)| ready == all)
    }

    pub(crate) fn size(&self) -> String {
        let hundreds = self.bytes / 100;
        format!("{}.{} kB", hundreds / 10, hundreds % 10)
    }

    /// The end of the uid is enough to tell a few pods apart.
    pub(crate) fn short_id(&self) -> String {
        let Some((uid, version)) = self.id.split_once('.') else { return self.id.clone() };
        let start = uid.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
        format!("…{}.{version}", &uid[start..])
    }
}

/// A request in its own words: some of its headers, and how its body begins and ends.
pub(crate) fn excerpt(request: &Received) -> String {
    let mut lines = vec![format!("  {} {}", request.method, request.path)];
    for name in ["user-agent", "content-type", "ce-type", "ce-subject", "ce-id"] {
        lines.push(format!("  {name}: {}", request.header(name).unwrap_or_default()));
    }
    let body: Vec<char> = String::from_utf8_lossy(&request.body).chars().collect();
    let part = |chars: &[char]| chars.iter().collect::<String>();
    lines.push(match (body.first_chunk::<60>(), body.last_chunk::<40>()) {
        (Some(start), Some(end)) => format!("  {} … {}", part(start), part(end)),
        _ => format!("  {}", part(&body)),
    });
    lines.join("\n")
}

/// The first reason that a container gives; `kubectl get pods` shows the same one.
fn why(pod: &Value) -> String {
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let reason = containers.into_iter().find_map(|container| {
        let (waiting, terminated) = (&container["state"]["waiting"], &container["state"]["terminated"]);
        let ended = || Some(format!("{}, exit {}", terminated["reason"].as_str()?, terminated["exitCode"]));
        waiting["reason"].as_str().map(str::to_owned).or_else(ended)
    });
    let terminating = pod["metadata"]["deletionTimestamp"].is_string() && pod["status"]["phase"] != "Deleted";
    match (terminating, reason, pod["spec"]["nodeName"].as_str()) {
        (true, ..) => "Terminating".to_owned(),
        (false, Some(reason), _) => reason,
        (false, None, Some(node)) => format!("on {node}"),
        (false, None, None) => "on no node yet".to_owned(),
    }
}
