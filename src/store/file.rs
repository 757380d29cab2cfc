//! The file of a store: tables of redb.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use redb::{
    Builder, Database, Error, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
    WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Changes, Due, Known, Mark, Memory, Size};
use crate::pod::{PodId, ResourceVersion};

const FILE: &str = "k8vent.redb";

/// A new file has this name until it is whole.
const NEW_FILE: &str = "k8vent.redb.new";

/// Locked as long as the folder is used. redb locks its own file too, but not between two times that it is opened.
const LOCK: &str = "k8vent.lock";

/// The form of the tables below. It is the first; what reads an older one goes into [`File::open`].
const FORMAT: u64 = 1;

/// Memory for pages: a change touches few of them, and all are read only at a start. More makes nothing faster here.
const CACHE_BYTES: usize = 512 << 10;

/// Fewer states than this are not worth compacting for when they were more.
const WORTH_COMPACTING: u64 = 1000;

/// The format and the mark, as JSON.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// By uid, as JSON.
const KNOWN: TableDefinition<&str, &[u8]> = TableDefinition::new("known");

/// By uid and endpoint, as JSON.
const DUE: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("due");

/// By uid and version: JSON as an LZ4 block with its size in front.
const BODIES: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("bodies");

/// Something could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Fault(#[from] Error);

impl Fault {
    /// The thread that owns the file has ended.
    #[must_use]
    pub fn closed() -> Self {
        Self(Error::DatabaseClosed)
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is not there and cannot be made, or the files in it cannot be read and written.
    #[error("{0} cannot be used: k8vent needs a folder in which the user that it runs as may write")]
    Unusable(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// Somebody else has it.
    #[error("{0} is used by another process: each k8vent needs a folder of its own")]
    InUse(PathBuf),
    /// It is something else, or was spoilt.
    #[error(
        "{0} is not what k8vent wrote: delete it, and k8vent begins anew, with the position in the Lease if there is one"
    )]
    Spoilt(PathBuf, #[source] Error),
    /// Another release wrote it.
    #[error("{0} was written by a newer k8vent: use that one, or delete it, and k8vent begins anew")]
    Newer(PathBuf),
}

/// The file and the right to use it.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    _lock: fs::File,
    /// `None` after a fault: what redb holds in memory may then differ from what is on disk, so it is opened again.
    database: Option<Database>,
    /// The most bodies that there were since the file was compacted.
    most: u64,
}

impl File {
    /// Opens the file in the folder `dir`, and makes both where they are not there.
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        let unusable = |error: io::Error| OpenError::Unusable(dir.to_owned(), error.into());
        // What is kept are pods, which may hold secrets.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
        let lock = writable(&dir.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let path = dir.join(FILE);
        let told = |error| refused(&path, error);
        if !path.try_exists().map_err(unusable)? {
            create(dir).map_err(told)?;
        }
        let database = database(&path).map_err(told)?;
        let format = meta::<u64>(&database, "format").map_err(told)?;
        if format.is_some_and(|format| format > FORMAT) {
            return Err(OpenError::Newer(path));
        }
        if format != Some(FORMAT) {
            return Err(told(Error::Corrupted("it has no format".to_owned())));
        }
        load(&database).map_err(told)?;
        Ok(Self { path, _lock: lock, database: Some(database), most: 0 })
    }

    /// What was kept last; `None` in a new file.
    pub(super) fn load(&mut self) -> Result<Option<Memory>, Fault> {
        Ok(load(self.database()?)?)
    }

    /// Keeps all of `changes`. After an error, none of them are kept.
    pub(super) fn keep(&mut self, changes: &Changes) -> Result<Size, Fault> {
        let kept = self.database().and_then(|database| keep(database, changes));
        let kept = kept.and_then(|(bodies, due)| self.compact(bodies).map(|()| due));
        if kept.is_err() {
            self.database = None;
        }
        let due = kept?;
        let file = fs::metadata(&self.path).map_err(Error::Io)?;
        Ok(Size { bytes: file.blocks() * 512, due })
    }

    /// The JSON of a state of a pod, by its version, or else of the newest.
    pub(super) fn body(&mut self, pod: &PodId, version: Option<ResourceVersion>) -> Option<Bytes> {
        let found = self.database().and_then(|database| body(database, pod, version));
        found.inspect_err(|error| tracing::debug!(%pod, %error, "cannot read a body from the state directory")).ok()?
    }

    fn database(&mut self) -> Result<&mut Database, Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => database(&self.path)?,
        };
        Ok(self.database.insert(database))
    }

    /// Gives space back to the file system when half of the bodies are gone: redb by itself only uses it again.
    fn compact(&mut self, bodies: u64) -> Result<(), Error> {
        self.most = self.most.max(bodies);
        if self.most < WORTH_COMPACTING || bodies > self.most / 2 {
            return Ok(());
        }
        self.database()?.compact()?;
        self.most = bodies;
        Ok(())
    }
}

fn writable(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Makes a file without records. A process that is killed meanwhile leaves none of the name.
fn create(dir: &Path) -> Result<(), Error> {
    let new = dir.join(NEW_FILE);
    writable(&new)?.set_len(0)?;
    let made = database(&new)?;
    let transaction = made.begin_write()?;
    put_meta(&transaction, "format", &FORMAT)?;
    transaction.open_table(KNOWN)?;
    transaction.open_table(DUE)?;
    transaction.open_table(BODIES)?;
    transaction.commit()?;
    drop(made);
    Ok(fs::rename(new, dir.join(FILE))?)
}

/// Opens a file, and looks whether each page of it is what was written.
fn database(path: &Path) -> Result<Database, Error> {
    Ok(Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path)?)
}

/// What an error that comes when the file is opened means.
fn refused(path: &Path, error: Error) -> OpenError {
    match error {
        Error::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
        Error::Io(error) if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            OpenError::Unusable(path.to_owned(), error.into())
        }
        error => OpenError::Spoilt(path.to_owned(), error),
    }
}

fn load(database: &Database) -> Result<Option<Memory>, Error> {
    let Some(mark) = meta::<Mark>(database, "mark")? else { return Ok(None) };
    let transaction = database.begin_read()?;
    let known = transaction.open_table(KNOWN)?;
    let known = known.iter()?.map(|row| record::<Known>(row?.1.value())).collect::<Result<_, Error>>()?;
    let due = transaction.open_table(DUE)?;
    let due = due.iter()?.map(|row| record::<Due>(row?.1.value())).collect::<Result<_, Error>>()?;
    Ok(Some(Memory { mark, known, due }))
}

/// Keeps all of `changes` in one transaction, and gives how many bodies there are then, and how many states wait.
fn keep(database: &Database, changes: &Changes) -> Result<(u64, u64), Error> {
    let transaction = database.begin_write()?;
    if changes.anew {
        transaction.delete_table(KNOWN)?;
        transaction.delete_table(DUE)?;
        transaction.delete_table(BODIES)?;
    }
    put_meta(&transaction, "mark", &changes.mark)?;
    let mut known = transaction.open_table(KNOWN)?;
    let mut due = transaction.open_table(DUE)?;
    let mut bodies = transaction.open_table(BODIES)?;
    let mut touched = BTreeSet::new();
    for (pod, row) in &changes.known {
        touched.insert(pod.uid());
        match row {
            Some(row) => drop(known.insert(pod.uid(), text(row)?.as_slice())?),
            None => drop(known.remove(pod.uid())?),
        }
    }
    for (pod, endpoint, row) in &changes.due {
        touched.insert(pod.uid());
        let key = (pod.uid(), u64::from(*endpoint));
        match row {
            Some(row) => drop(due.insert(key, text(row)?.as_slice())?),
            None => drop(due.remove(key)?),
        }
    }
    for (pod, version, json) in &changes.bodies {
        bodies.insert((pod.uid(), version.0), lz4_flex::compress_prepend_size(json).as_slice())?;
    }
    for uid in touched {
        prune(uid, &known, &due, &mut bodies)?;
    }
    let left = (bodies.len()?, due.len()?);
    drop((known, due, bodies));
    transaction.commit()?;
    Ok(left)
}

/// Removes the bodies that nobody needs: each but the newest and those that are due. A body may be missing, and then an
/// older one is the newest.
fn prune(
    uid: &str,
    known: &Table<&str, &[u8]>,
    due: &Table<(&str, u64), &[u8]>,
    bodies: &mut Table<(&str, u64), &[u8]>,
) -> Result<(), Error> {
    let mut needed = BTreeSet::new();
    for row in due.range((uid, 0)..=(uid, u64::MAX))? {
        needed.insert(record::<Due>(row?.1.value())?.version.0);
    }
    let is_known = known.get(uid)?.is_some();
    let mut versions = Vec::new();
    for row in bodies.range((uid, 0)..=(uid, u64::MAX))? {
        versions.push(row?.0.value().1);
    }
    if is_known || !needed.is_empty() {
        needed.extend(versions.last());
    }
    for version in versions {
        if !needed.contains(&version) {
            bodies.remove((uid, version))?;
        }
    }
    Ok(())
}

fn body(database: &Database, pod: &PodId, version: Option<ResourceVersion>) -> Result<Option<Bytes>, Error> {
    let bodies = database.begin_read()?.open_table(BODIES)?;
    let (from, to) = version.map_or((0, u64::MAX), |version| (version.0, version.0));
    let Some(row) = bodies.range((pod.uid(), from)..=(pod.uid(), to))?.next_back() else { return Ok(None) };
    let json = lz4_flex::decompress_size_prepended(row?.1.value());
    json.map(|json| Some(json.into())).map_err(|error| Error::Corrupted(error.to_string()))
}

fn meta<T: DeserializeOwned>(database: &Database, key: &str) -> Result<Option<T>, Error> {
    let meta = database.begin_read()?.open_table(META)?;
    meta.get(key)?.map(|value| record(value.value())).transpose()
}

fn put_meta<T: Serialize>(transaction: &WriteTransaction, key: &str, value: &T) -> Result<(), Error> {
    transaction.open_table(META)?.insert(key, text(value)?.as_slice())?;
    Ok(())
}

fn record<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|error| Error::Corrupted(format!("a record cannot be read: {error}")))
}

fn text<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Corrupted(format!("a record cannot be written: {error}")))
}
