//! The `k8vent` program. What it does begins at [`k8vent::program`].

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    k8vent::program::main(env::args_os().skip(1))
}
