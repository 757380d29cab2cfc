//! Leases: read, created, and replaced by whoever has read them last.

use std::collections::{BTreeMap, btree_map::Entry};

use http::{Method, StatusCode};
use serde_json::Value;

use crate::stand_in::{render, request::Target};

/// The Leases, by namespace and name.
#[derive(Default)]
pub(super) struct Leases {
    leases: BTreeMap<(String, String), Value>,
    version: u64,
}

impl Leases {
    /// Does what is asked for; `None` if `target` is no Lease, or it is something else than k8vent asks for.
    pub(super) fn answer(&mut self, method: &Method, target: Target, body: &[u8]) -> Option<(StatusCode, Value)> {
        // What is no JSON has no name and no version.
        let body = || serde_json::from_slice(body).unwrap_or_default();
        Some(match (method, target) {
            (&Method::GET, Target::Lease(namespace, name)) => {
                let lease = self.leases.get(&(namespace, name));
                lease.map_or_else(|| refused(404), |lease| (StatusCode::OK, lease.clone()))
            }
            (&Method::POST, Target::Leases(namespace)) => self.create(namespace, body()),
            (&Method::PUT, Target::Lease(namespace, name)) => self.replace(namespace, name, body()),
            _ => return None,
        })
    }

    fn create(&mut self, namespace: String, mut lease: Value) -> (StatusCode, Value) {
        let Some(name) = lease["metadata"]["name"].as_str().map(str::to_owned) else { return refused(422) };
        lease["metadata"]["uid"] = format!("uid-{namespace}-{name}").into();
        match self.leases.entry((namespace, name)) {
            Entry::Occupied(_) => refused(409),
            Entry::Vacant(entry) => {
                self.version += 1;
                lease["metadata"]["resourceVersion"] = self.version.to_string().into();
                (StatusCode::CREATED, entry.insert(lease).clone())
            }
        }
    }

    fn replace(&mut self, namespace: String, name: String, mut lease: Value) -> (StatusCode, Value) {
        let Some(there) = self.leases.get_mut(&(namespace, name)) else { return refused(404) };
        if lease["metadata"]["resourceVersion"] != there["metadata"]["resourceVersion"] {
            return refused(409);
        }
        self.version += 1;
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        *there = lease;
        (StatusCode::OK, there.clone())
    }
}

fn refused(code: u16) -> (StatusCode, Value) {
    let status = render::status(code, None);
    (render::code(&status), status)
}
