use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::chain::Chain;

fn id(pod: usize) -> PodId {
    PodId::new(&format!("uid-{pod}"), "s", &format!("pod-{pod}"))
}

fn digest(number: u64) -> Digest {
    format!("{number:x}").try_into().unwrap()
}

fn mark(told: u64) -> Mark {
    Mark { selection: digest(1), term: None, told: Some(vec![ResourceVersion(told)]), global: vec![digest(7)] }
}

fn known(pod: usize, version: u64) -> Known {
    let annotation = pod.is_multiple_of(2).then(|| r#"{"webhooks":["http://a/"]}"#.into());
    Known { id: id(pod), version: ResourceVersion(version), scope: Scope(0), annotation }
}

fn due(pod: usize, endpoint: u64, version: u64) -> Due {
    Due {
        pod: id(pod),
        endpoint: digest(endpoint),
        version: ResourceVersion(version),
        since: ResourceVersion(version).before(),
        kind: Kind::Deleted,
        read_at: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        annotation: None,
    }
}

fn nothing(seen: u64) -> Changes {
    Changes { mark: mark(seen), anew: false, known: vec![], due: vec![], bodies: vec![] }
}

fn body(pod: usize, version: u64) -> (PodId, ResourceVersion, Bytes) {
    (id(pod), ResourceVersion(version), format!("{pod} in version {version}").into())
}

/// Versions of the bodies that are kept of a pod, of those up to 20.
fn kept_bodies(file: &mut File, pod: usize) -> Vec<u64> {
    (0..20).filter(|version| file.body(&id(pod), Some(ResourceVersion(*version))).is_some()).collect()
}

fn refused(dir: &TempDir) -> String {
    Chain(&File::open(dir.path()).unwrap_err()).to_string()
}

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("k8vent.redb")
}

#[test]
fn what_was_kept_is_there_after_it_was_opened_again() {
    let dir = TempDir::new().unwrap();
    let mut file = File::open(dir.path()).unwrap();
    assert_eq!(file.load().unwrap(), None);
    let changes = Changes {
        known: vec![(id(1), Some(known(1, 5))), (id(2), Some(known(2, 6)))],
        due: vec![(id(1), digest(7), Some(due(1, 7, 5)))],
        bodies: vec![body(1, 5), body(2, 6)],
        ..nothing(6)
    };
    assert_eq!(file.keep(&changes).unwrap().due, 1);
    drop(file);
    let mut file = File::open(dir.path()).unwrap();
    let memory = Memory { mark: mark(6), known: vec![known(1, 5), known(2, 6)], due: vec![due(1, 7, 5)] };
    assert_eq!(file.load().unwrap(), Some(memory));
    assert_eq!(file.body(&id(2), None).unwrap(), "2 in version 6");
    assert_eq!(file.body(&id(2), Some(ResourceVersion(5))), None);

    let gone = Changes { known: vec![(id(1), None)], due: vec![(id(1), digest(7), None)], ..nothing(8) };
    file.keep(&gone).unwrap();
    assert_eq!(file.load().unwrap(), Some(Memory { mark: mark(8), known: vec![known(2, 6)], due: vec![] }));
    assert_eq!(file.body(&id(1), None), None, "no body outlives its pod");
}

#[test]
fn of_each_pod_the_newest_body_is_kept_and_those_that_are_due() {
    let dir = TempDir::new().unwrap();
    let mut file = File::open(dir.path()).unwrap();
    let version = |version| Changes {
        known: vec![(id(1), Some(known(1, version)))],
        bodies: vec![body(1, version)],
        ..nothing(version)
    };
    file.keep(&version(3)).unwrap();
    file.keep(&Changes { due: vec![(id(1), digest(7), Some(due(1, 7, 4)))], ..version(4) }).unwrap();
    file.keep(&version(5)).unwrap();
    assert_eq!(kept_bodies(&mut file, 1), [4, 5]);
    // There was no room for the body of version 6.
    file.keep(&Changes { bodies: vec![], ..version(6) }).unwrap();
    assert_eq!(kept_bodies(&mut file, 1), [4, 5]);
    file.keep(&Changes { due: vec![(id(1), digest(7), None)], ..version(7) }).unwrap();
    assert_eq!(kept_bodies(&mut file, 1), [7]);
    let gone = Changes { known: vec![(id(1), None)], due: vec![(id(1), digest(7), Some(due(1, 7, 8)))], ..nothing(8) };
    file.keep(&gone).unwrap();
    assert_eq!(file.body(&id(1), None).unwrap(), "1 in version 7", "for the delete that is due");
}

#[test]
fn what_is_void_is_gone_with_what_replaces_it() {
    let dir = TempDir::new().unwrap();
    let mut file = File::open(dir.path()).unwrap();
    file.keep(&Changes { known: vec![(id(1), Some(known(1, 5)))], bodies: vec![body(1, 5)], ..nothing(5) }).unwrap();
    file.keep(&Changes { anew: true, known: vec![(id(2), Some(known(2, 6)))], ..nothing(6) }).unwrap();
    assert_eq!(file.load().unwrap(), Some(Memory { mark: mark(6), known: vec![known(2, 6)], due: vec![] }));
    assert_eq!(file.body(&id(1), None), None);
}

#[test]
fn the_files_are_for_their_owner_only() {
    let dir = TempDir::new().unwrap();
    let inner = dir.path().join("a/b");
    drop(File::open(&inner).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&inner), mode(&inner.join("k8vent.redb"))), (0o700, 0o600));
}

#[test]
fn one_at_a_time_uses_a_folder() {
    let dir = TempDir::new().unwrap();
    let first = File::open(dir.path()).unwrap();
    assert!(refused(&dir).contains("is used by another process"), "{}", refused(&dir));
    drop(first);
    assert!(File::open(dir.path()).is_ok());
}

#[test]
fn what_is_no_store_is_refused() {
    let dir = TempDir::new().unwrap();
    for garbage in [vec![], b"garbage".to_vec(), vec![0; 100_000], vec![b'x'; 2_000_000]] {
        fs::write(path(&dir), garbage).unwrap();
        assert!(refused(&dir).contains("k8vent.redb is not what k8vent wrote: delete it"), "{}", refused(&dir));
    }
    fs::remove_file(path(&dir)).unwrap();
    fs::create_dir(path(&dir)).unwrap();
    assert!(refused(&dir).contains("cannot be used"), "{}", refused(&dir));
}

#[test]
fn a_store_of_a_newer_release_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(File::open(dir.path()).unwrap());
    let database = redb::Database::open(path(&dir)).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    transaction.open_table(meta).unwrap().insert("format", &b"2"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(refused(&dir).contains("was written by a newer k8vent"), "{}", refused(&dir));
}

#[test]
fn a_folder_that_cannot_be_made_is_refused() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = Chain(&File::open(&dir.path().join("file/x")).unwrap_err()).to_string();
    assert!(error.contains("cannot be used: k8vent needs a folder") && error.contains("ot a directory"), "{error}");
}

/// A process that was killed while it made its first file left one of another name.
#[test]
fn a_file_that_was_not_finished_is_made_again() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("k8vent.redb.new"), [1; 5000]).unwrap();
    assert!(File::open(dir.path()).is_ok());
    assert!(!dir.path().join("k8vent.redb.new").exists());
}

#[test]
fn it_shrinks_when_pods_go() {
    let dir = TempDir::new().unwrap();
    let mut file = File::open(dir.path()).unwrap();
    let many = |pods: std::ops::Range<usize>| Changes {
        known: pods.clone().map(|pod| (id(pod), Some(known(pod, 5)))).collect(),
        // Nothing that could be compressed.
        bodies: pods
            .map(|pod| (id(pod), ResourceVersion(5), (0..5000).map(|_| fastrand::u8(..)).collect::<Vec<_>>().into()))
            .collect(),
        ..nothing(5)
    };
    let few = file.keep(&many(0..100)).unwrap().bytes;
    let most = (100..3000).step_by(100).map(|from| file.keep(&many(from..from + 100)).unwrap().bytes).last().unwrap();
    let gone = Changes { known: (100..3000).map(|pod| (id(pod), None)).collect(), ..nothing(6) };
    let left = file.keep(&gone).unwrap().bytes;
    assert!(most > 14_000_000 && left < 2 * few + 1_000_000, "{few}, {most}, {left}");
    assert!(file.body(&id(99), None).is_some());
}

/// Not one of these may be taken for sound, or end the process.
#[test]
fn a_file_in_which_bytes_have_changed_is_refused_or_as_it_was() {
    let dir = TempDir::new().unwrap();
    let mut file = File::open(dir.path()).unwrap();
    let changes = Changes {
        known: (0..200).map(|pod| (id(pod), Some(known(pod, 5)))).collect(),
        bodies: (0..200).map(|pod| body(pod, 5)).collect(),
        ..nothing(5)
    };
    file.keep(&changes).unwrap();
    let sound = file.load().unwrap();
    drop(file);
    let bytes = fs::read(path(&dir)).unwrap();
    let mut refusals = 0;
    for seed in 0..150 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut spoilt = bytes.clone();
        if seed % 5 == 0 {
            spoilt.truncate(random.usize(..bytes.len()));
        } else {
            let at = random.usize(..if seed % 2 == 0 { 8192 } else { bytes.len() });
            let end = (at + random.usize(1..64)).min(bytes.len());
            spoilt[at..end].fill_with(|| random.u8(..));
        }
        fs::write(path(&dir), spoilt).unwrap();
        match File::open(dir.path()) {
            Ok(mut file) => assert_eq!(file.load().unwrap(), sound, "{seed}"),
            Err(OpenError::Spoilt(..)) => refusals += 1,
            Err(error) => panic!("{seed}: {error}"),
        }
    }
    assert!(refusals > 30, "{refusals}");
}

fn changes() -> impl Strategy<Value = Changes> {
    let pods = prop::collection::vec((0..4usize, prop::option::of(1..9u64)), 0..4);
    let due_ = prop::collection::vec((0..4usize, 5..8u64, prop::option::of(1..9u64)), 0..4);
    (prop::bool::weighted(0.1), 1..99u64, pods, due_).prop_map(|(anew, seen, pods, rows)| Changes {
        anew,
        known: pods.into_iter().map(|(pod, version)| (id(pod), version.map(|version| known(pod, version)))).collect(),
        due: rows
            .into_iter()
            .map(|(pod, to, version)| (id(pod), digest(to), version.map(|version| due(pod, to, version))))
            .collect(),
        ..nothing(seen)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_is_what_its_changes_add_up_to(all in prop::collection::vec(changes(), 1..5)) {
        let dir = TempDir::new().unwrap();
        let (mut known, mut due) = (BTreeMap::new(), BTreeMap::new());
        for changes in all {
            File::open(dir.path()).unwrap().keep(&changes).unwrap();
            if changes.anew {
                known.clear();
                due.clear();
            }
            known.extend(changes.known.into_iter().map(|(pod, row)| (pod.uid().to_owned(), row)));
            due.extend(changes.due.into_iter().map(|(pod, to, row)| ((pod.uid().to_owned(), to), row)));
            let memory = Memory {
                mark: changes.mark,
                known: known.values().flatten().cloned().collect(),
                due: due.values().flatten().cloned().collect(),
            };
            assert_eq!(File::open(dir.path()).unwrap().load().unwrap(), Some(memory));
        }
    }
}
