//! The image of k8vent as `image/` describes it, made without Nix.

mod binary;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

pub use crate::image::binary::NotStatic;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What the image holds and how it starts.
pub struct Image {
    reference: String,
    architecture: &'static str,
    config: Value,
    files: BTreeMap<PathBuf, File>,
}

struct File {
    bytes: Vec<u8>,
    mode: u32,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file that belongs into it, or describes it, cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The binary would not run alone.
    #[error("{path} cannot be the program of an image that holds nothing else: {reason}")]
    NotStatic {
        /// The binary.
        path: PathBuf,
        /// What it needs, or is not.
        reason: NotStatic,
    },
    /// The bundle would leave k8vent without a certificate that it trusts.
    #[error("{0} holds no certificate in PEM: name a bundle of certificate authorities")]
    NoCertificates(PathBuf),
}

impl Image {
    /// The image of a static binary that trusts the authorities of a bundle.
    pub fn new(binary: &Path, ca_bundle: &Path) -> Result<Self, ImageError> {
        let described: Value = parsed("image/image.json", |text| serde_json::from_str(text))?;
        let package: toml::Table = parsed("Cargo.toml", str::parse)?;
        let package = |key: &str| package["package"][key].as_str().expect("a string in Cargo.toml").to_owned();
        let program = read(binary)?;
        let architecture = binary::architecture(&program)
            .map_err(|reason| ImageError::NotStatic { path: binary.to_owned(), reason })?;
        let authorities = read(ca_bundle)?;
        if !authorities.windows(27).any(|line| line == b"-----BEGIN CERTIFICATE-----") {
            return Err(ImageError::NoCertificates(ca_bundle.to_owned()));
        }

        let mut config = described["config"].clone();
        config["Labels"] = json!({
            "org.opencontainers.image.title": package("name"),
            "org.opencontainers.image.description": package("description"),
            "org.opencontainers.image.version": package("version"),
            "org.opencontainers.image.licenses": package("license"),
            "org.opencontainers.image.source": package("repository"),
        });
        let name = described["name"].as_str().expect("the image has a name");
        let entrypoint = config["Entrypoint"][0].as_str().expect("the image has an entrypoint");
        let bundle = variable(&config, "SSL_CERT_FILE").expect("the image says where its certificates are");
        let mut files = BTreeMap::new();
        files.insert(in_root(entrypoint), File { bytes: program, mode: 0o555 });
        files.insert(in_root(bundle), File { bytes: authorities, mode: 0o444 });
        add_folder(&mut files, Path::new(""))?;
        Ok(Self { reference: format!("{name}:{}", package("version")), architecture, config, files })
    }

    /// Name and tag, as the manifests in `kube/` ask for it.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The user and group that the process runs as.
    ///
    /// # Panics
    ///
    /// When `image/image.json` does not give both as numbers.
    #[must_use]
    pub fn user(&self) -> (u32, u32) {
        let user = self.config["User"].as_str().and_then(|user| user.split_once(':'));
        let (user, group) = user.expect("a user and a group");
        (user.parse().expect("a number"), group.parse().expect("a number"))
    }

    /// The command line that it starts with.
    #[must_use]
    pub fn entrypoint(&self) -> Vec<&str> {
        self.config["Entrypoint"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The variables that its process begins with, as `NAME=VALUE`.
    #[must_use]
    pub fn env(&self) -> Vec<&str> {
        self.config["Env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Writes the files of the image into an empty folder.
    pub fn lay_out(&self, root: &Path) -> io::Result<()> {
        for (path, file) in &self.files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("the path is not the root"))?;
            fs::write(&path, &file.bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        }
        Ok(())
    }

    /// The archive that `docker load`, `podman load`, `ctr images import` and skopeo's `docker-archive:` read. The same
    /// files give the same bytes.
    ///
    /// It follows the Docker image specification 1.2, as the archives of Nix do.
    #[must_use]
    pub fn archive(&self) -> Vec<u8> {
        let layer = self.layer();
        let layer_digest = hex(&layer);
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        });
        let config = config.to_string().into_bytes();
        let (config_path, layer_path) = (format!("{}.json", hex(&config)), format!("{layer_digest}/layer.tar"));
        let manifest = json!([{"Config": config_path, "RepoTags": [self.reference], "Layers": [layer_path]}]);
        let mut tar = Builder::new(Vec::new());
        append(&mut tar, &config_path, &config, 0o444);
        append(&mut tar, &layer_path, &layer, 0o444);
        append(&mut tar, "manifest.json", manifest.to_string().as_bytes(), 0o444);
        tar.into_inner().expect("memory takes every byte")
    }

    fn layer(&self) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        let mut folders: Vec<_> = self.files.keys().flat_map(|path| path.ancestors().skip(1)).collect();
        folders.retain(|folder| *folder != Path::new(""));
        folders.sort_unstable();
        folders.dedup();
        for folder in folders {
            let mut header = header(EntryType::Directory, 0, 0o755);
            tar.append_data(&mut header, folder, io::empty()).expect("the path fits");
        }
        for (path, file) in &self.files {
            append(&mut tar, path, &file.bytes, file.mode);
        }
        tar.into_inner().expect("memory takes every byte")
    }
}

/// Adds what a folder of `image/root` holds, and the folders below it.
fn add_folder(files: &mut BTreeMap<PathBuf, File>, folder: &Path) -> Result<(), ImageError> {
    let source = Path::new(REPOSITORY).join("image/root").join(folder);
    let unreadable = |error| ImageError::Unreadable { path: source.clone(), error };
    for entry in fs::read_dir(&source).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            add_folder(files, &path)?;
        } else {
            files.insert(path, File { bytes: read(&entry.path())?, mode: 0o444 });
        }
    }
    Ok(())
}

fn append(tar: &mut Builder<Vec<u8>>, path: impl AsRef<Path>, bytes: &[u8], mode: u32) {
    let mut header = header(EntryType::Regular, bytes.len() as u64, mode);
    tar.append_data(&mut header, path, bytes).expect("the path fits");
}

/// Owned by root, made at the epoch: nothing of the machine that it is made on.
fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

fn variable<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let mut variables = config["Env"].as_array()?.iter().filter_map(Value::as_str);
    variables.find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
}

fn in_root(path: &str) -> PathBuf {
    path.trim_start_matches('/').into()
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(|error| ImageError::Unreadable { path: path.to_owned(), error })
}

fn parsed<T, E>(path: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, ImageError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = Path::new(REPOSITORY).join(path);
    let parsed = fs::read_to_string(&path).and_then(|text| parse(&text).map_err(io::Error::other));
    parsed.map_err(|error| ImageError::Unreadable { path, error })
}

#[cfg(test)]
mod tests;
