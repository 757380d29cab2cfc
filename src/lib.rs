//! k8vent sends Kubernetes pods as JSON to webhooks.
//!
//! ```text
//!  Kubernetes API server
//!    │  list, watch
//!  source     a PodSource tells what happens
//!    │  PodEvent
//!  registry   which pods are known, and what has changed
//!    │  Change, with the route of its pod
//!  dispatch   a coalescing queue for each endpoint  ◀─────┐
//!    │  Attempt                                           │ End
//!  request    body, headers, signature                    │
//!    │  http::Request                                     │
//!  sink       a WebhookSink posts it ─────────────────────┘
//!    │  POST
//!  webhooks
//! ```
//!
//! A [`source`] tells what happens to pods. The [`registry`] holds which pods are known and makes of each event the
//! changes that it means; the [`route`] of a pod says where they go. The [`dispatch`]er keeps a coalescing queue for
//! each [`endpoint`] and hands out attempts, of which a [`request`] is made and given to the [`sink`]; how that ended
//! decides what becomes of the delivery ([`verdict`]). [`run()`] drives all of it in one task. What the next start has to
//! know is a [`position`] in a [`lease`], and in more detail a [`store`] on disk. The core knows neither Kubernetes clients
//! nor HTTP clients: [`program`] puts it together with the adapters, as [`cli`] and [`settings`] say.

pub mod pod;
pub mod source;

pub mod registry;

pub mod digest;
pub mod endpoint;
pub mod route;

pub mod delivery;

pub mod dispatch;

pub mod position;
pub mod store;

mod queue;

pub mod backoff;
pub mod gate;

pub mod request;
pub mod sign;

pub mod sink;

pub mod verdict;

pub mod fence;
pub mod run;

pub mod lease;

pub mod health;
pub mod metrics;
pub mod serve;
pub mod status;

pub mod cli;
pub mod settings;

pub mod link_image;

pub mod program;

mod chain;

pub use run::run;
