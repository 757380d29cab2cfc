//! The `k8vent` program.

fn main() {}
