//! The documents of an API server, in its own words.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

/// How an object begins where it stands alone: list items lack this.
const HEAD: &str = r#"{"kind":"Pod","apiVersion":"v1","#;

/// A pod that stands alone, from one as lists have it.
pub(super) fn object(item: &[u8]) -> Bytes {
    [HEAD.as_bytes(), &item[1..]].concat().into()
}

/// A line of a watch.
pub(super) fn event(kind: &str, item: &[u8]) -> Bytes {
    let before = format!(r#"{{"type":"{kind}","object":{HEAD}"#);
    [before.as_bytes(), &item[1..], b"}\n"].concat().into()
}

/// A line of a watch that says how far it is; the one that ends a streaming list says that too.
pub(super) fn bookmark(version: u64, initial_events_end: bool) -> Bytes {
    let end = if initial_events_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    let metadata = format!(r#""metadata":{{"resourceVersion":"{version}"{end}}}"#);
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{HEAD}{metadata},\"spec\":{{\"containers\":null}},\"status\":{{}}}}}}\n"
    )
    .into()
}

/// A line of a watch that ends it with an error.
pub(super) fn error_event(status: &Value) -> Bytes {
    format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n").into()
}

/// A list of pods, or a page of one.
pub(super) fn list(version: u64, next: Option<&str>, remaining: usize, items: &[Bytes]) -> Bytes {
    let page = next.map(|next| format!(r#","continue":"{next}","remainingItemCount":{remaining}"#)).unwrap_or_default();
    let metadata = format!(r#"{{"resourceVersion":"{version}"{page}}}"#);
    let head = format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{metadata},"items":["#);
    [head.as_bytes(), &items.join(&b','), b"]}\n"].concat().into()
}

/// The `Status` with which an API server refuses.
pub(super) fn status(code: u16, retry_after_seconds: Option<u32>) -> Value {
    let (reason, message) = match code {
        400 => ("BadRequest", "the server rejected our request for an unknown reason"),
        401 => ("Unauthorized", "Unauthorized"),
        403 => ("Forbidden", FORBIDDEN),
        404 => ("NotFound", "the server could not find the requested resource"),
        409 => {
            ("Conflict", "the object has been modified; please apply your changes to the latest version and try again")
        }
        410 => ("Expired", "too old resource version"),
        422 => ("Invalid", "the server rejected our request due to an error in our request"),
        429 => ("TooManyRequests", "too many requests, please try again later"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => ("Timeout", "the server was unable to return a response in the time allotted"),
        _ => ("InternalError", "Internal error occurred: told to fail"),
    };
    let details = retry_after_seconds.map(|seconds| json!({"retryAfterSeconds": seconds}));
    failure(code, reason, message, details.as_ref())
}

const FORBIDDEN: &str = "pods is forbidden: User \"system:serviceaccount:k8vent:k8vent\" cannot list resource \"pods\" in \
                         API group \"\" at the cluster scope";

/// A watch from a version that is forgotten.
pub(super) fn gone(asked: u64, oldest: u64) -> Value {
    failure(410, "Expired", &format!("too old resource version: {asked} ({oldest})"), None)
}

/// A page of a list that is forgotten.
pub(super) fn gone_page() -> Value {
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new \
                   list without the continue parameter.";
    failure(410, "Expired", message, None)
}

/// What servers without streaming lists say.
pub(super) fn no_streaming_lists() -> Value {
    let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    let message = format!("ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: {why}");
    let cause =
        json!({"reason": "FieldValueForbidden", "message": format!("Forbidden: {why}"), "field": "sendInitialEvents"});
    let details = json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]});
    failure(422, "Invalid", &message, Some(&details))
}

/// A pod that is not there.
pub(super) fn not_found(name: &str) -> Value {
    let details = json!({"name": name, "kind": "pods"});
    failure(404, "NotFound", &format!("pods \"{name}\" not found"), Some(&details))
}

fn failure(code: u16, reason: &str, message: &str, details: Option<&Value>) -> Value {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    });
    if let Some(details) = details {
        status["details"] = details.clone();
    }
    status
}

/// The HTTP status that belongs to a `Status`.
pub(super) fn code(status: &Value) -> StatusCode {
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// What clients ask before they ask for pods.
pub(super) fn discovery(path: &str) -> Option<Value> {
    let verbs = ["create", "delete", "get", "list", "watch"];
    let pods = json!({
        "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": verbs, "shortNames": ["po"],
    });
    Some(match path {
        "/version" => {
            json!({"major": "1", "minor": "37", "gitVersion": "v1.37.0-k8vent-stand-in", "platform": "linux"})
        }
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        "/api/v1" => json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]}),
        _ => return None,
    })
}
