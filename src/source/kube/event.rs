//! One line of a watch.

use serde::Deserialize;

use super::error::{ReadError, Status};
use crate::pod::{Pod, ResourceVersion, Unreadable};

/// What a line tells.
#[derive(Debug)]
pub(super) enum Event {
    /// `ADDED` or `MODIFIED`.
    Present(Pod),
    /// `DELETED`.
    Gone(Pod),
    /// `BOOKMARK`: everything up to the version has been told.
    Bookmark { version: ResourceVersion, list_ended: bool },
    /// `ERROR`: the watch is over.
    Error(ReadError),
}

/// What the API server marks the bookmark with that ends a streaming list (Kubernetes API concepts, "Streaming lists").
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

impl Event {
    /// Reads a line. What is no event of a known type is unreadable, like a pod that is none.
    pub(super) fn read(line: &[u8]) -> Result<Self, Unreadable> {
        let (kind, object) = envelope(line).ok_or_else(Unreadable::no_event)?;
        match kind {
            b"ADDED" | b"MODIFIED" => pod(object).map(Self::Present),
            b"DELETED" => pod(object).map(Self::Gone),
            b"BOOKMARK" => bookmark(object),
            b"ERROR" => error(object),
            _ => Err(Unreadable::no_event()),
        }
    }
}

/// Takes `{"type":"TYPE","object":OBJECT}` apart, the one form that API servers write, and leaves the end of it to
/// whoever reads the object: to find it costs as much as to read the object.
fn envelope(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_prefix(br#"{"type":""#)?;
    let end = memchr::memchr(b'"', line)?;
    Some((&line[..end], line[end..].strip_prefix(br#"","object":"#)?))
}

fn pod(object: &[u8]) -> Result<Pod, Unreadable> {
    match Pod::read_prefix(object)? {
        (pod, b"}") => Ok(pod),
        _ => Err(Unreadable::broken_off()),
    }
}

/// The object of an event that carries no pod.
fn whole(object: &[u8]) -> &[u8] {
    object.strip_suffix(b"}").unwrap_or_default()
}

#[derive(Deserialize)]
struct Mark {
    metadata: MarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MarkMetadata {
    resource_version: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

fn bookmark(object: &[u8]) -> Result<Event, Unreadable> {
    let Mark { metadata } = serde_json::from_slice(whole(object)).map_err(|_| Unreadable::no_event())?;
    let version = metadata.resource_version.parse().map_err(|_| Unreadable::no_event())?;
    let list_ended = metadata.annotations.get(INITIAL_EVENTS_END).is_some_and(|end| end == "true");
    Ok(Event::Bookmark { version: ResourceVersion(version), list_ended })
}

fn error(object: &[u8]) -> Result<Event, Unreadable> {
    let status: Status = serde_json::from_slice(whole(object)).map_err(|_| Unreadable::no_event())?;
    Ok(Event::Error(status.into_error(None, None)))
}
