//! The `k8vent` program. What it does begins at [`k8vent::program`].

use std::process::ExitCode;

fn main() -> ExitCode {
    k8vent::program::main()
}
