use std::{collections::BTreeSet, io::Read};

use super::*;

/// The least that counts as a static executable: a header, and one segment to load.
fn elf(machine: u8, segment: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (bytes[16], bytes[18], bytes[20]) = (2, machine, 1);
    (bytes[32], bytes[52], bytes[54], bytes[56]) = (64, 64, 56, 1);
    bytes[64] = segment;
    bytes
}

const X86_64: u8 = 62;
const LOAD: u8 = 1;

fn image(program: &[u8], bundle: &str) -> Result<Image, ImageError> {
    let folder = tempfile::tempdir().unwrap();
    let (binary, authorities) = (folder.path().join("k8vent"), folder.path().join("ca.pem"));
    fs::write(&binary, program).unwrap();
    fs::write(&authorities, bundle).unwrap();
    Image::new(&binary, &authorities)
}

const BUNDLE: &str = "-----BEGIN CERTIFICATE-----\n";

#[test]
fn only_a_static_binary_of_a_known_processor_is_packed() {
    let reason = |machine, segment| match image(&elf(machine, segment), BUNDLE) {
        Ok(image) => Ok(image.architecture),
        Err(ImageError::NotStatic { reason, .. }) => Err(reason),
        Err(other) => panic!("{other}"),
    };
    assert_eq!(reason(X86_64, LOAD), Ok("amd64"));
    assert_eq!(reason(183, LOAD), Ok("arm64"));
    assert_eq!(reason(X86_64, 2), Err(NotStatic::Dynamic));
    assert_eq!(reason(X86_64, 3), Err(NotStatic::Interpreter));
    assert_eq!(reason(3, LOAD), Err(NotStatic::Architecture));
    assert_eq!(binary::architecture(b"#!/bin/sh"), Err(NotStatic::NotElf));
    assert_eq!(binary::architecture(&fs::read("/proc/self/exe").unwrap()), Err(NotStatic::Interpreter));
}

#[test]
fn a_bundle_without_certificates_is_refused() {
    assert!(matches!(image(&elf(X86_64, LOAD), "nothing"), Err(ImageError::NoCertificates(_))));
}

#[test]
fn a_missing_file_is_named() {
    let error = Image::new(Path::new("/absent/k8vent"), Path::new("/absent/ca.pem")).err().unwrap();
    assert!(error.to_string().starts_with("/absent/k8vent: "), "{error}");
}

#[test]
fn the_archive_holds_what_is_laid_out_and_starts_as_described() {
    let image = image(&elf(X86_64, LOAD), BUNDLE).unwrap();
    let root = tempfile::tempdir().unwrap();
    image.lay_out(root.path()).unwrap();
    let outer = unpacked(&image.archive());
    let manifest: Value = serde_json::from_slice(&outer["manifest.json"]).unwrap();
    assert_eq!(manifest[0]["RepoTags"], json!([image.reference()]));
    let config: Value = serde_json::from_slice(&outer[manifest[0]["Config"].as_str().unwrap()]).unwrap();
    assert_eq!((&config["architecture"], &config["os"]), (&json!("amd64"), &json!("linux")));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "k8vent");

    let layer = &outer[manifest[0]["Layers"][0].as_str().unwrap()];
    assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", hex(layer))]));
    let inner = unpacked(layer);
    for (path, bytes) in inner.iter().filter(|(path, _)| !path.ends_with('/')) {
        assert_eq!(&fs::read(root.path().join(path)).unwrap(), bytes, "{path}");
    }
    let paths: BTreeSet<_> = inner.keys().map(String::as_str).collect();
    let all = ["etc/", "etc/group", "etc/passwd", "etc/ssl/", "etc/ssl/certs/"];
    assert_eq!(paths, all.into_iter().chain(["etc/ssl/certs/ca-certificates.crt", "k8vent"]).collect());
}

fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let (mut bytes, mut path) = (Vec::new(), entry.path().unwrap().display().to_string());
        if entry.header().entry_type().is_dir() && !path.ends_with('/') {
            path.push('/');
        }
        entry.read_to_end(&mut bytes).unwrap();
        (path, bytes)
    });
    entries.collect()
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let packed = || image(&elf(X86_64, LOAD), BUNDLE).unwrap().archive();
    assert!(packed() == packed());
}
