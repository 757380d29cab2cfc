//! Who may know whom.

use std::{fs, path::Path};

fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources.extend(self::sources(&path));
        } else {
            sources.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
    sources
}

#[test]
fn only_the_adapters_know_kube_and_hyper_and_only_the_program_knows_the_adapters() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (path, text) in sources(&root) {
        let path = path.strip_prefix(root.to_str().unwrap()).unwrap();
        let may = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
        for (words, prefixes) in [
            (&["use kube::", "use k8s_openapi", "kube::Client"][..], &["/source/kube", "/lease.rs"][..]),
            (
                &["use hyper::", "use hyper_util", "use rustls", "use tokio_rustls"],
                &["/sink/hyper", "/serve.rs", "/source/kube.rs"],
            ),
            (&["HyperSink", "PrintSink", "KubeSource"], &["/sink/", "/source/", "/program"]),
        ] {
            let found = words.iter().find(|word| text.contains(**word));
            assert!(found.is_none() || may(prefixes), "{path} says {found:?}");
        }
    }
}
