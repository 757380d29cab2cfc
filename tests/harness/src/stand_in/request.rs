//! What a request to the stand-in asks for.

use std::{collections::BTreeMap, fmt, time::Instant};

use http::{HeaderMap, Method, Uri};

use crate::stand_in::Kind;

/// A request that the stand-in has seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When its head was read.
    pub at: Instant,
    /// The method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query, decoded.
    pub query: BTreeMap<String, String>,
    /// The headers.
    pub headers: HeaderMap,
    /// What it asks for.
    pub kind: Kind,
}

/// One line, short enough to list many.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} {} {:?}", self.kind, self.method, self.path, self.query)
    }
}

/// What a path names.
pub(super) enum Target {
    /// Those of the cluster or of one namespace.
    Pods(Option<String>),
    /// One: namespace and name.
    Pod(String, String),
    /// The Leases of a namespace.
    Leases(String),
    /// One Lease: namespace and name.
    Lease(String, String),
    /// Nothing of these.
    Other,
}

impl Seen {
    pub(super) fn new(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let query = parse_query(uri.query().unwrap_or_default());
        let path = uri.path().to_owned();
        let is = |name: &str| query.get(name).is_some_and(|value| value == "true" || value == "1");
        let kind = match (method == Method::GET, Target::of(&path)) {
            (true, Target::Pods(_)) if is("watch") && is("sendInitialEvents") => Kind::StreamingList,
            (true, Target::Pods(_)) if is("watch") => Kind::Watch,
            (true, Target::Pods(_)) => Kind::List,
            (true, Target::Pod(..)) => Kind::Get,
            _ => Kind::Other,
        };
        Self { at: Instant::now(), method: method.clone(), path, query, headers: headers.clone(), kind }
    }

    /// A parameter as a number; one that is absent or none counts as absent.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.query.get(name).and_then(|value| value.parse().ok())
    }
}

impl Target {
    pub(super) fn of(path: &str) -> Self {
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["api", "v1", "pods"] => Self::Pods(None),
            ["api", "v1", "namespaces", namespace, "pods"] => Self::Pods(Some(namespace.to_owned())),
            ["api", "v1", "namespaces", namespace, "pods", name] => Self::Pod(namespace.to_owned(), name.to_owned()),
            ["apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases"] => {
                Self::Leases(namespace.to_owned())
            }
            ["apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases", name] => {
                Self::Lease(namespace.to_owned(), name.to_owned())
            }
            _ => Self::Other,
        }
    }
}

fn parse_query(query: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded() {
        let query = parse_query("labelSelector=app%3Dshop%2Ctier+in+%28a%29&watch=1&alone");
        assert_eq!(query["labelSelector"], "app=shop,tier in (a)");
        assert_eq!((query["watch"].as_str(), query["alone"].as_str()), ("1", ""));
    }
}
