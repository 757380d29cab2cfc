//! Where the binaries may already be.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use crate::assets::{Assets, AssetsError, Origin, build};

/// The Kubernetes release that the tests are written for.
const KUBERNETES: &str = "Kubernetes v1.37.";
/// The oldest etcd that this Kubernetes supports.
const ETCD: (u32, u32) = (3, 5);

/// The places to search, taken from the environment once.
pub(super) struct Search {
    pub(super) kubebuilder_assets: Option<PathBuf>,
    pub(super) cache: PathBuf,
    pub(super) path: OsString,
}

impl Search {
    pub(super) fn from_env() -> Self {
        Self {
            kubebuilder_assets: env::var_os("KUBEBUILDER_ASSETS").filter(|set| !set.is_empty()).map(PathBuf::from),
            cache: user_cache().join("k8vent").join(build::cache_name()),
            path: env::var_os("PATH").unwrap_or_default(),
        }
    }

    pub(super) fn look(&self) -> Result<Option<Assets>, AssetsError> {
        if let Some(folder) = &self.kubebuilder_assets {
            return complete(folder).map(|()| Some(Assets::in_folder(folder, Origin::KubebuilderAssets)));
        }
        if complete(&self.cache).is_ok() {
            return Ok(Some(Assets::in_folder(&self.cache, Origin::Cache)));
        }
        Ok(self.on_path())
    }

    fn on_path(&self) -> Option<Assets> {
        let find = |name: &str| env::split_paths(&self.path).map(|dir| dir.join(name)).find(|file| file.is_file());
        let found = Assets {
            etcd: find("etcd")?,
            kube_apiserver: find("kube-apiserver")?,
            kubectl: find("kubectl")?,
            origin: Origin::Path,
        };
        let fits = says_version(&found.kube_apiserver).starts_with(KUBERNETES)
            && etcd_version(&says_version(&found.etcd)).is_some_and(|version| version >= ETCD);
        fits.then_some(found)
    }
}

/// The user's cache folder; without a home, one that all users share.
fn user_cache() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(|| env::temp_dir().join("cache"))
}

fn complete(folder: &Path) -> Result<(), AssetsError> {
    let missing: Vec<_> = Assets::NAMES.into_iter().filter(|name| !folder.join(name).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(AssetsError::Incomplete { folder: folder.to_owned(), missing: missing.join(", ") })
}

/// What a binary prints for `--version`; one that does not run says nothing.
fn says_version(binary: &Path) -> String {
    let output = Command::new(binary).arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Major and minor from `etcd Version: 3.7.1`.
fn etcd_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.lines().next()?.strip_prefix("etcd Version: ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn folder_with(kubernetes: &str, etcd: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, says) in [("kube-apiserver", kubernetes), ("etcd", etcd), ("kubectl", "")] {
            let file = dir.path().join(name);
            fs::write(&file, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    fn search(named: Option<&Path>, cache: &Path, path: &Path) -> Search {
        Search { kubebuilder_assets: named.map(Path::to_owned), cache: cache.to_owned(), path: path.into() }
    }

    #[test]
    fn a_named_folder_comes_before_the_cache_and_the_cache_before_path() {
        let full = folder_with("Kubernetes v1.37.2", "etcd Version: 3.7.0");
        let (full, none) = (full.path(), Path::new("/nonexistent"));
        let origin = |search: Search| search.look().unwrap().map(|assets| assets.origin);
        assert_eq!(origin(search(Some(full), full, full)), Some(Origin::KubebuilderAssets));
        assert_eq!(origin(search(None, full, full)), Some(Origin::Cache));
        assert_eq!(origin(search(None, none, full)), Some(Origin::Path));
        assert_eq!(origin(search(None, none, none)), None);
    }

    #[test]
    fn a_named_folder_that_is_not_complete_is_an_error_and_not_passed_over() {
        let full = folder_with("Kubernetes v1.37.2", "etcd Version: 3.7.0");
        fs::remove_file(full.path().join("etcd")).unwrap();
        let error = search(Some(full.path()), full.path(), full.path()).look().unwrap_err().to_string();
        assert!(error.contains("lacks etcd") && error.contains("KUBEBUILDER_ASSETS"), "{error}");
    }

    #[test]
    fn other_versions_on_path_are_passed_over() {
        for (kubernetes, etcd) in [
            ("Kubernetes v1.36.4", "etcd Version: 3.7.0"),
            ("Kubernetes v1.37.0", "etcd Version: 3.4.20"),
            ("Kubernetes v1.37.0", "no version at all"),
        ] {
            let dir = folder_with(kubernetes, etcd);
            assert_eq!(
                search(None, Path::new("/nonexistent"), dir.path()).look().unwrap(),
                None,
                "{kubernetes} {etcd}"
            );
        }
    }
}
