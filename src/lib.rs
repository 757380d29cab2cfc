//! k8vent sends Kubernetes pods as JSON to webhooks.
//!
//! ```text
//!  Kubernetes ──list, watch──▶ PodSource ──PodEvent──▶ Registry ──Change──▶ Dispatcher ──Attempt──▶ WebhookSink ──POST──▶ webhooks
//!  API server                   (source)               (registry)  by Router  (dispatch)   by RequestBuilder   (sink)
//!                                                                                ◀──────────End───────────────┘
//! ```
//!
//! A [`source`] tells what happens to pods. The [`registry`] holds which pods are known and makes of each event the
//! changes that it means; the [`route`] of a pod says where they go. The [`dispatch`]er keeps a coalescing queue for
//! each [`endpoint`] and hands out attempts, of which a [`request`] is made and given to the [`sink`]; how that ended
//! decides what becomes of the delivery ([`verdict`]). [`run()`] drives all of it in one task. The core knows neither
//! Kubernetes clients nor HTTP clients: [`program`] puts it together with the adapters.

pub mod cli;
pub mod settings;

pub mod program;

pub mod pod;
pub mod source;

pub mod registry;
pub mod route;

pub mod delivery;
pub mod dispatch;
pub mod endpoint;
mod queue;

pub mod backoff;
pub mod gate;
pub mod verdict;

pub mod request;
pub mod sign;

pub mod sink;

pub mod run;

pub mod health;
pub mod metrics;
pub mod serve;

pub mod link_image;

mod chain;

pub use run::run;
