//! A pod as the API server tells it: the few fields that are needed, beside its own JSON.
//!
//! The JSON is never decoded into a typed pod and encoded again: what k8vent does not know of, the order of keys and
//! the forms of numbers survive, because everything but the cuts below is copied byte by byte.

use std::{borrow::Borrow, borrow::Cow, fmt, hash, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// The annotation by which a pod names its own webhooks.
pub const ANNOTATION: &str = "atomist.com/k8vent";

/// The version of an object, or of a whole list, in the API server's store.
///
/// A decimal number, and a greater one is newer: promised by the Kubernetes API conventions since 1.35, and true of
/// servers on etcd before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceVersion(pub u64);

impl ResourceVersion {
    /// The last version that is older.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which pod it is: cheap to clone, equal by uid, because a name is used again by pods that follow each other.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "(String, String, String)", from = "(String, String, String)")]
pub struct PodId(Arc<Identity>);

struct Identity {
    uid: Box<str>,
    namespace: Box<str>,
    name: Box<str>,
}

impl PodId {
    /// Puts an identity together.
    #[must_use]
    pub fn new(uid: &str, namespace: &str, name: &str) -> Self {
        Self(Arc::new(Identity { uid: uid.into(), namespace: namespace.into(), name: name.into() }))
    }

    /// `metadata.uid`, which no other pod ever has.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// `metadata.namespace`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The path of the pod in the Kubernetes API.
    #[must_use]
    pub fn api_path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace(), self.name())
    }
}

impl From<PodId> for (String, String, String) {
    fn from(id: PodId) -> Self {
        (id.uid().to_owned(), id.namespace().to_owned(), id.name().to_owned())
    }
}

impl From<(String, String, String)> for PodId {
    fn from((uid, namespace, name): (String, String, String)) -> Self {
        Self::new(&uid, &namespace, &name)
    }
}

impl PartialEq for PodId {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid
    }
}

impl Eq for PodId {}

impl hash::Hash for PodId {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.uid.hash(state);
    }
}

impl Borrow<str> for PodId {
    fn borrow(&self) -> &str {
        self.uid()
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace(), self.name())
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.uid())
    }
}

/// One version of one pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Which pod.
    pub id: PodId,
    /// Which version of it.
    pub version: ResourceVersion,
    /// The text of its [`ANNOTATION`], if it has one.
    pub annotation: Option<Arc<str>>,
    /// Its JSON as `kubectl get pod POD -o json` shows it: the API server's own with `apiVersion` and `kind` present
    /// and `metadata.managedFields` cut out.
    pub json: Bytes,
}

/// Why a pod could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Unreadable {
    /// The uid of the pod, where at least that could be made out.
    pub uid: Option<String>,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("not the JSON of a pod: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a JSON object")]
    NotAnObject,
    #[error("not UTF-8")]
    Encoding,
    #[error("metadata.{field} is {value:?}, which the Kubernetes API allows for no pod")]
    Field { field: &'static str, value: String },
    #[error("the key of metadata.managedFields is written with escapes")]
    EscapedKey,
    #[error("it breaks off, or something follows it")]
    BrokenOff,
    #[error("no event of a watch")]
    NoEvent,
    #[error("longer than {0} bytes")]
    TooLong(usize),
}

impl Unreadable {
    /// For an event or an item that is longer than `limit` bytes, which no pod in etcd can be.
    #[must_use]
    pub fn too_long(limit: usize) -> Self {
        Why::TooLong(limit).into()
    }

    /// The same, of the pod that `json` is.
    #[must_use]
    pub fn of(self, json: &str) -> Self {
        Self { uid: lone_uid(json), ..self }
    }

    /// For a line of a watch that is no event.
    #[must_use]
    pub fn no_event() -> Self {
        Why::NoEvent.into()
    }

    /// For an event that does not end where its object does.
    #[must_use]
    pub fn broken_off() -> Self {
        Why::BrokenOff.into()
    }
}

impl From<Why> for Unreadable {
    fn from(why: Why) -> Self {
        Self { uid: None, why }
    }
}

impl Pod {
    /// Reads the pod that is the whole of `json`.
    pub fn read(json: &[u8]) -> Result<Self, Unreadable> {
        let (pod, rest) = Self::read_prefix(json)?;
        if rest.iter().all(u8::is_ascii_whitespace) { Ok(pod) } else { Err(Why::BrokenOff.into()) }
    }

    /// Reads the pod that `json` begins with, and gives what follows it.
    ///
    /// It goes over the bytes once, for that is most of what reading a pod costs.
    pub fn read_prefix(json: &[u8]) -> Result<(Self, &[u8]), Unreadable> {
        let text = std::str::from_utf8(json).map_err(|_| Why::Encoding)?;
        // serde reads a struct from an array too.
        if !text.trim_start().starts_with('{') {
            return Err(Why::NotAnObject.into());
        }
        let mut documents = serde_json::Deserializer::from_str(text).into_iter::<Document<'_>>();
        let document = match documents.next() {
            Some(Ok(document)) => document,
            Some(Err(error)) => return Err(Unreadable { uid: lone_uid(text), why: error.into() }),
            None => return Err(Why::BrokenOff.into()),
        };
        let end = documents.byte_offset();
        let uid = || Some(document.metadata.uid.to_string());
        let pod = document.pod(&text[..end]).map_err(|why| Unreadable { uid: uid(), why })?;
        Ok((pod, &json[end..]))
    }

    /// The JSON of the pod with `status.phase` set to `Deleted`, as a deleted pod is sent.
    #[must_use]
    pub fn deleted_json(&self) -> Bytes {
        const PHASE: &str = r#""phase":"Deleted""#;
        // It was read as UTF-8 and JSON before: what does not hold here is a document without the field.
        let text = std::str::from_utf8(&self.json).unwrap_or_default();
        let status = serde_json::from_str::<Deleted<'_>>(text).ok().and_then(|document| document.status);
        let object = status.filter(|status| status.get().starts_with('{'));
        let phase = object.and_then(|object| serde_json::from_str::<Status<'_>>(object.get()).ok()?.phase);
        let (cut, insert) = match (status, object, phase) {
            (_, _, Some(phase)) => (span(text, phase.get()), r#""Deleted""#.to_owned()),
            (_, Some(object), None) => {
                let at = span(text, object.get()).start + 1;
                let comma = if object.get()[1..].trim_start().starts_with('}') { "" } else { "," };
                (at..at, format!("{PHASE}{comma}"))
            }
            (Some(status), None, None) => (span(text, status.get()), format!("{{{PHASE}}}")),
            (None, None, None) => (1..1, format!(r#""status":{{{PHASE}}},"#)),
        };
        splice(text, &[(cut, &insert)])
    }

    /// A pod of which only the identity is known, as it is sent when it was deleted unseen.
    #[must_use]
    pub fn identity_json(id: &PodId, version: ResourceVersion, annotation: Option<&str>) -> Bytes {
        let mut metadata = serde_json::json!({
            "name": id.name(),
            "namespace": id.namespace(),
            "uid": id.uid(),
            "resourceVersion": version.to_string(),
        });
        if let Some(annotation) = annotation {
            metadata["annotations"] = serde_json::json!({ ANNOTATION: annotation });
        }
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": { "phase": "Deleted" },
        });
        Bytes::from(pod.to_string())
    }
}

/// What is read of a pod. Everything else is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: Option<serde::de::IgnoredAny>,
    kind: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, default)]
    annotations: Option<Annotations<'a>>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    managed_fields: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Annotations<'a> {
    #[serde(borrow, rename = "atomist.com/k8vent")]
    webhooks: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Deleted<'a> {
    #[serde(borrow, default, deserialize_with = "even_null")]
    status: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow, default, deserialize_with = "even_null")]
    phase: Option<&'a RawValue>,
}

/// `null` is a value to be cut out like any other.
fn even_null<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Document<'_> {
    fn pod(&self, text: &str) -> Result<Pod, Why> {
        let metadata = &self.metadata;
        let name = valid("name", &metadata.name, is_name)?;
        let namespace = valid("namespace", &metadata.namespace, is_name)?;
        let uid = valid("uid", &metadata.uid, is_name)?;
        let version = valid("resourceVersion", &metadata.resource_version, |v| v.parse::<u64>().is_ok())?;
        Ok(Pod {
            id: PodId::new(uid, namespace, name),
            version: ResourceVersion(version.parse().unwrap_or_default()),
            annotation: metadata.annotations.as_ref().and_then(|a| a.webhooks.as_deref()).map(Into::into),
            json: self.render(text)?,
        })
    }

    fn render(&self, text: &str) -> Result<Bytes, Why> {
        let start = text.len() - text.trim_start().len() + 1;
        let head = match (&self.api_version, &self.kind) {
            (Some(_), Some(_)) => "",
            (None, Some(_)) => r#""apiVersion":"v1","#,
            (Some(_), None) => r#""kind":"Pod","#,
            (None, None) => r#""apiVersion":"v1","kind":"Pod","#,
        };
        let cut = match self.metadata.managed_fields {
            Some(value) => member(text, value.get()).ok_or(Why::EscapedKey)?,
            None => start..start,
        };
        Ok(splice(text.trim_end(), &[(start..start, head), (cut, "")]))
    }
}

/// Names, namespaces and uids are of these characters (RFC 1123 subdomains; uids are of RFC 4122), which is what lets
/// them stand in paths and headers as they are.
fn is_name(value: &str) -> bool {
    (1..=253).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

fn valid<'a>(field: &'static str, value: &'a str, is_valid: impl Fn(&str) -> bool) -> Result<&'a str, Why> {
    if is_valid(value) { Ok(value) } else { Err(Why::Field { field, value: value.chars().take(80).collect() }) }
}

/// Of a pod that cannot be read.
#[derive(Deserialize)]
struct Lone<'a> {
    #[serde(borrow)]
    metadata: LoneMetadata<'a>,
}

#[derive(Deserialize)]
struct LoneMetadata<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
}

/// The uid of a pod that cannot be read, for the relist to know that it is still there.
///
/// What follows the pod does not matter, and neither does how deep it is nested.
fn lone_uid(text: &str) -> Option<String> {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<Lone<'_>>();
    Some(documents.next()?.ok()?.metadata.uid.into_owned())
}

/// Where `part`, a slice of `text`, lies in it.
fn span(text: &str, part: &str) -> std::ops::Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// Where the member of `metadata` with the raw `value` lies, with the comma that goes with it.
fn member(text: &str, value: &str) -> Option<std::ops::Range<usize>> {
    let value = span(text, value);
    let before = text[..value.start].trim_end().strip_suffix(':')?.trim_end().strip_suffix(r#""managedFields""#)?;
    if let Some(before) = before.trim_end().strip_suffix(',') {
        return Some(before.len()..value.end);
    }
    let after = text[value.end..].trim_start();
    let end = text.len() - after.strip_prefix(',').unwrap_or(after).len();
    Some(before.len()..end)
}

/// `text` with each range, in ascending order, replaced by the text beside it.
fn splice(text: &str, edits: &[(std::ops::Range<usize>, &str)]) -> Bytes {
    let mut out = Vec::with_capacity(
        text.len() + edits.iter().map(|(cut, new)| new.len().saturating_sub(cut.len())).sum::<usize>(),
    );
    let mut from = 0;
    for (cut, new) in edits {
        out.extend_from_slice(&text.as_bytes()[from..cut.start]);
        out.extend_from_slice(new.as_bytes());
        from = cut.end;
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
    Bytes::from(out)
}

#[cfg(test)]
mod tests;
