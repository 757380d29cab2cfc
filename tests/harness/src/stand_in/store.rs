//! The pods of the stand-in, their versions and what it remembers of their past. No sockets, no time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::stand_in::render;

/// Ten digits from the start, so that a version can be replaced in bytes without moving what follows.
const FIRST_VERSION: u64 = 1_000_000_000;

/// Namespace and name.
pub(super) type Key = (String, String);

/// A pod as lists have it: JSON without `kind` and `apiVersion`.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) item: Bytes,
    pub(super) version: u64,
    pod: Value,
}

/// A change, as a line of a watch.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) namespace: String,
    pub(super) line: Bytes,
}

/// A list as it was when its first page was asked for.
struct Snapshot {
    items: Vec<Bytes>,
}

pub(super) struct Store {
    pods: BTreeMap<Key, Stored>,
    version: u64,
    /// Watches from below are refused with 410.
    horizon: u64,
    history: Vec<Change>,
    snapshots: HashMap<(u64, String), Arc<Snapshot>>,
    uids: u64,
}

/// A version, or a page, that is no longer remembered.
#[derive(Debug)]
pub(super) struct Gone(pub(super) Value);

impl Store {
    pub(super) fn new() -> Self {
        let (pods, history, snapshots) = (BTreeMap::new(), Vec::new(), HashMap::new());
        Self { pods, version: FIRST_VERSION, horizon: FIRST_VERSION, history, snapshots, uids: 0 }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn set_horizon(&mut self, version: u64) {
        self.horizon = version;
        self.history.retain(|change| change.version > version);
        self.snapshots.retain(|(taken, _), _| *taken >= version);
    }

    /// Creates a pod or replaces it; what only an API server knows is filled in where it is missing.
    pub(super) fn put(&mut self, pod: &Value) -> Change {
        self.version += 1;
        let mut pod = pod.clone();
        let fields = pod.as_object_mut().expect("a pod is an object");
        fields.remove("kind");
        fields.remove("apiVersion");
        let key = key_of(&pod);
        let known = self.pods.get(&key).map(|stored| stored.pod["metadata"].clone());
        let metadata = &mut pod["metadata"];
        metadata["namespace"] = json!(key.0);
        metadata["resourceVersion"] = json!(self.version.to_string());
        for field in ["uid", "creationTimestamp"] {
            if metadata.get(field).is_none() {
                let kept = known.as_ref().map(|known| known[field].clone());
                metadata[field] = kept.unwrap_or_else(|| self.fresh(field));
            }
        }
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let stored = Stored { item: to_bytes(&pod), version: self.version, pod };
        let change = self.remember(kind, &key, &stored.item);
        self.pods.insert(key, stored);
        change
    }

    pub(super) fn delete(&mut self, namespace: &str, name: &str) -> Option<Change> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut stored = self.pods.remove(&key)?;
        self.version += 1;
        stored.pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(self.remember("DELETED", &key, &to_bytes(&stored.pod)))
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Bytes> {
        self.pods.get(&(namespace.to_owned(), name.to_owned())).map(|stored| render::object(&stored.item))
    }

    /// The current pods as `ADDED` lines.
    pub(super) fn initial_events(&self, namespace: Option<&str>) -> Vec<Bytes> {
        self.within(namespace).map(|stored| render::event("ADDED", &stored.item)).collect()
    }

    /// What has happened since a version.
    pub(super) fn since(&self, version: u64, namespace: Option<&str>) -> Result<Vec<Bytes>, Gone> {
        if version < self.horizon {
            return Err(Gone(render::gone(version, self.horizon)));
        }
        let newer = self.history.iter().filter(|change| change.version > version);
        Ok(newer.filter(|change| change.is_in(namespace)).map(|change| change.line.clone()).collect())
    }

    /// A list, or a page of one; the token of the next page says of which list it is, and where it begins.
    pub(super) fn list(
        &mut self,
        namespace: Option<&str>,
        limit: Option<usize>,
        token: Option<&str>,
    ) -> Result<Bytes, Gone> {
        let expired = || Gone(render::gone_page());
        let (version, start) = match token {
            None => (self.version, 0),
            Some(token) => parse_token(token).ok_or_else(expired)?,
        };
        let key = (version, namespace.unwrap_or_default().to_owned());
        if token.is_none() {
            let items = self.within(namespace).map(|stored| stored.item.clone()).collect();
            self.snapshots.insert(key.clone(), Arc::new(Snapshot { items }));
        }
        let snapshot = Arc::clone(self.snapshots.get(&key).ok_or_else(expired)?);
        let rest = snapshot.items.get(start..).ok_or_else(expired)?;
        let page = &rest[..limit.filter(|limit| *limit > 0).unwrap_or(rest.len()).min(rest.len())];
        let remaining = rest.len() - page.len();
        let next = (remaining > 0).then(|| format!("v{version}.{}", start + page.len()));
        Ok(render::list(version, next.as_deref(), remaining, page))
    }

    /// Every pod, for a flood of changes to them.
    pub(super) fn all(&self) -> Vec<Stored> {
        self.pods.values().cloned().collect()
    }

    /// Passes over versions that a flood will give out, and forgets what was before.
    pub(super) fn skip_versions(&mut self, count: u64) -> u64 {
        let first = self.version + 1;
        self.version += count;
        self.set_horizon(self.version);
        first
    }

    fn within<'a>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Stored> {
        let here = move |key: &Key| namespace.is_none_or(|namespace| namespace == key.0);
        self.pods.iter().filter(move |(key, _)| here(key)).map(|(_, stored)| stored)
    }

    fn remember(&mut self, kind: &str, key: &Key, item: &[u8]) -> Change {
        let change = Change { version: self.version, namespace: key.0.clone(), line: render::event(kind, item) };
        self.history.push(change.clone());
        change
    }

    fn fresh(&mut self, field: &str) -> Value {
        if field == "creationTimestamp" {
            return json!("2026-01-02T03:04:05Z");
        }
        self.uids += 1;
        json!(format!("00000000-0000-4000-8000-{:012x}", self.uids))
    }
}

impl Change {
    pub(super) fn is_in(&self, namespace: Option<&str>) -> bool {
        namespace.is_none_or(|namespace| namespace == self.namespace)
    }
}

fn key_of(pod: &Value) -> Key {
    let metadata = &pod["metadata"];
    let name = metadata["name"].as_str().expect("a pod has a name");
    (metadata["namespace"].as_str().unwrap_or("default").to_owned(), name.to_owned())
}

fn to_bytes(pod: &Value) -> Bytes {
    pod.to_string().into()
}

fn parse_token(token: &str) -> Option<(u64, usize)> {
    let (version, start) = token.strip_prefix('v')?.split_once('.')?;
    Some((version.parse().ok()?, start.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Value {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}})
    }

    fn parse(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn pages_are_of_one_moment_whatever_happens_between_them() {
        let mut store = Store::new();
        for name in ["a", "b", "c"] {
            store.put(&pod(name));
        }
        let first = parse(&store.list(None, Some(2), None).unwrap());
        store.delete("default", "c").unwrap();
        let token = first["metadata"]["continue"].as_str().unwrap();
        let second = parse(&store.list(None, Some(2), Some(token)).unwrap());
        assert_eq!(
            (first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]),
            (2, &json!(1))
        );
        assert_eq!(second["items"][0]["metadata"]["name"], "c");
        assert_eq!(second["metadata"], json!({"resourceVersion": first["metadata"]["resourceVersion"]}));
        store.set_horizon(store.version());
        assert_eq!(store.list(None, Some(2), Some(token)).unwrap_err().0["code"], 410);
    }

    #[test]
    fn a_version_before_the_horizon_is_gone_and_the_horizon_itself_is_not() {
        let mut store = Store::new();
        store.put(&pod("a"));
        let old = store.version();
        store.put(&pod("a"));
        assert_eq!(store.since(old, None).unwrap().len(), 1);
        store.set_horizon(store.version());
        assert!(store.since(store.version(), None).unwrap().is_empty());
        assert_eq!(store.since(old, None).unwrap_err().0["code"], 410);
    }

    #[test]
    fn an_update_keeps_the_uid_and_a_new_pod_of_the_same_name_gets_another() {
        let mut store = Store::new();
        let uid = |change: Change| parse(&change.line)["object"]["metadata"]["uid"].clone();
        let (created, updated) = (uid(store.put(&pod("a"))), uid(store.put(&pod("a"))));
        let deleted = uid(store.delete("default", "a").unwrap());
        let again = uid(store.put(&pod("a")));
        assert!(created == updated && updated == deleted && again != created);
    }
}
