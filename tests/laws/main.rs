//! What k8vent promises, held against the real binary, a real API server and real receivers.

mod support;

mod states;

mod routing;

mod breaks;

mod faults;

mod permissions;

mod manifests;

mod image;

mod endpoints;

mod drain;

mod secrets;

mod program;

mod probes;
mod restarts;

mod state_dir;

mod layering;
