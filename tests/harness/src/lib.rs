//! What the tests, the demo and the benchmark of k8vent run against.
//!
//! ```text
//! assets ──► ControlPlane ◄── Api          a real etcd and kube-apiserver, and a client for the test
//!                 │
//!            (or StandIn)                  a scripted API server, for what no real one does on demand
//!                 ▼
//!             Process                      k8vent itself
//!                 ▼
//!             Receiver                     a webhook that records and misbehaves as told
//! ```
//!
//! Everything listens on loopback ports of its own and stops when it is dropped, and also when the test process is
//! killed: nothing is left running.

pub mod assets;

pub mod api;
pub mod control_plane;
pub mod forwarder;
pub mod image;
pub mod manifest;
pub mod name_server;

pub mod process;
pub mod receiver;
pub mod stand_in;

mod background;
mod guard;
mod listening;
mod pki;
mod port;
mod text;

pub use crate::{
    api::Api,
    control_plane::ControlPlane,
    process::Process,
    receiver::{Answer, Receiver},
    stand_in::StandIn,
};
