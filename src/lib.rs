//! k8vent sends Kubernetes pods as JSON to webhooks.

pub mod sink;
