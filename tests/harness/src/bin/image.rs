//! Packs a static binary as the image that the manifests ask for: see `--help`.

use std::{fs, path::PathBuf, process::ExitCode};

use argh::FromArgs;
use k8vent_harness::image::Image;

/// Pack a static k8vent as the image that the manifests ask for.
///
/// The archive is one that `docker load`, `podman load` and `ctr images import` read.
#[derive(FromArgs)]
struct Options {
    /// the static binary
    #[argh(positional)]
    binary: PathBuf,

    /// certificate authorities to trust, in PEM
    #[argh(positional)]
    ca_bundle: PathBuf,

    /// archive to write
    #[argh(positional)]
    archive: PathBuf,
}

fn main() -> ExitCode {
    let options: Options = argh::from_env();
    let image = match Image::new(&options.binary, &options.ca_bundle) {
        Ok(image) => image,
        Err(error) => return failed(&error.to_string()),
    };
    let archive = image.archive();
    if let Err(error) = fs::write(&options.archive, &archive) {
        return failed(&format!("{}: {error}", options.archive.display()));
    }
    println!("{}: {}, {} bytes", options.archive.display(), image.reference(), archive.len());
    ExitCode::SUCCESS
}

fn failed(why: &str) -> ExitCode {
    eprintln!("image: {why}");
    ExitCode::FAILURE
}
