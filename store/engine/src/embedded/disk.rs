//! The records on the disk: sled, with what it lacks for durable writes.
//!
//! sled 0.34.7's `flush` ends in `sync_file_range`, which syncs neither the file's length nor the disk's own
//! cache, so every commit is followed by an `fdatasync` of its log before it is acknowledged. sled also opens a log
//! that was cut off or damaged with what it can still read, and without an error. Therefore every record carries its
//! digest, a summary record the fold of all digests, and a mark beside the log the index that was last
//! acknowledged. Values are kept as they are, in pieces: larger ones would go to files that sled never syncs.
//!
//! After a write that failed, sled refuses all others. [`Broken::recover`] then opens the store again, as a restart
//! would, and undoes what may have reached the log of that write, so that a full disk does not need a restart.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    codec::{self, decode, encode},
    tables::Tables,
    txn::Change,
};
use crate::{EngineError, Result};

/// The version of the format; newer ones are refused.
const VERSION: u32 = 1;
const SUMMARY: &[u8] = b"\0summary";
/// Sixteen of them, which is what sled lets a page grow to, stay below the 128 KiB beyond which a page goes to a file of
/// its own.
const PIECE: usize = 4 * 1024;
const DIGEST: usize = 8;
/// What there has to be room for before a full disk is tried again: twice a segment of sled's log.
const ROOM: usize = 1024 * 1024;
const CACHE: u64 = 64 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Summary {
    version: u32,
    index: u64,
    rows: u64,
    fold: u64,
}

/// What was written under a record's name.
#[derive(Clone, Copy)]
struct Written {
    digest: u64,
    pieces: u16,
}

pub(crate) struct Disk {
    db: sled::Db,
    log: File,
    mark: File,
    dir: PathBuf,
    written: HashMap<Vec<u8>, Written>,
    fold: u64,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A write that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The error that the writers get.
    pub(crate) error: EngineError,
    /// The system did not confirm that earlier writes are on the disk. Some may be lost, although they can still be read
    /// back from its memory.
    pub(crate) unsynced: bool,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self { error, unsynced: false }
    }
}

/// A store whose last write failed.
#[derive(Debug)]
pub(crate) struct Broken {
    dir: PathBuf,
    /// Open since before the failure, so that a sync of it fails if anything was lost since then.
    log: File,
    /// The last write that was acknowledged, and the one that failed.
    acknowledged: u64,
    failed: u64,
    /// The records of the failed write, as they were before it.
    undo: Vec<Change>,
}

impl Broken {
    /// Opens the store again, undoes what is there of the failed write, and syncs that. It is done before anything
    /// else is written, and shows that there is room. Blocks.
    ///
    /// # Errors
    /// When it cannot be used. With `unsynced` it never can be; otherwise it may be tried again.
    pub(crate) fn recover(&self) -> std::result::Result<Disk, Failure> {
        let failed =
            |unsynced| move |error: io::Error| Failure { error: unavailable(&self.dir, &error), unsynced };
        self.log.sync_data().map_err(failed(true))?;
        // Before sled writes to a full disk once more.
        self.has_room().map_err(failed(false))?;
        let (mut disk, tables) = Disk::open(&self.dir)?;
        if ![self.acknowledged, self.failed].contains(&tables.index) {
            let what = format!(
                "it ends at write {}, and write {} was acknowledged",
                tables.index, self.acknowledged
            );
            return Err(Failure { error: corrupt(&self.dir, &what), unsynced: true });
        }
        disk.write(self.undo.iter(), self.acknowledged)?;
        Ok(disk)
    }

    fn has_room(&self) -> io::Result<()> {
        let path = self.dir.join("room");
        let written = File::create(&path).and_then(|mut file| {
            io::Write::write_all(&mut file, &vec![0; ROOM])?;
            file.sync_all()
        });
        let removed = std::fs::remove_file(&path);
        written.and(removed)
    }
}

impl Disk {
    /// Gives the store up after a failed write: `acknowledged` is the last write before it, `failed` its own index, and
    /// `changes` what it consisted of.
    pub(crate) fn give_up<'a>(
        self,
        changes: impl Iterator<Item = &'a Change>,
        (acknowledged, failed): (u64, u64),
    ) -> Broken {
        let mut seen = HashSet::new();
        let undo = changes
            .filter(|change| seen.insert(codec::name(&change.key)))
            .map(|change| Change { before: None, after: change.before.clone(), ..change.clone() })
            .collect();
        let Self { db, dir, log, .. } = self;
        // sled flushes once more, which may panic, and has been seen to wait for ever after an error. On a thread of its
        // own this can at worst prevent the recovery, because its lock is then not released. If no thread can be started,
        // it is dropped here.
        let close = move || silenced(|| catch_unwind(AssertUnwindSafe(|| drop(db))).is_ok());
        let _ = std::thread::Builder::new().name("engine-close".to_owned()).spawn(close);
        Broken { dir, log, acknowledged, failed, undo }
    }

    /// Opens the store in a folder, making it if absent, and reads everything. Blocks.
    ///
    /// # Errors
    /// [`EngineError::Storage`], naming the file and what to do, when it is damaged, in use, or cannot be written.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Tables)> {
        std::fs::create_dir_all(dir).map_err(|error| unavailable(dir, &error))?;
        remove_unfinished_snapshots(dir);
        let opened = silenced(|| catch_unwind(AssertUnwindSafe(|| Self::read(dir))));
        opened.unwrap_or_else(|_| Err(corrupt(dir, "it cannot be read")))
    }

    fn read(dir: &Path) -> Result<(Self, Tables)> {
        let config = sled::Config::new().path(dir).cache_capacity(CACHE).flush_every_ms(None);
        let db = open_when_free(&config).map_err(|error| match error {
            sled::Error::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                unavailable(dir, &error)
            }
            error => corrupt(dir, &error.to_string()),
        })?;
        let log = File::open(dir.join("db")).map_err(|error| unavailable(dir, &error))?;
        let mark = File::options().read(true).write(true).create(true).truncate(false).open(dir.join("mark"));
        let mark = mark.map_err(|error| unavailable(dir, &error))?;
        let mut disk = Self { db, log, mark, dir: dir.to_owned(), written: HashMap::new(), fold: 0 };
        let tables = disk.load()?;
        // The folder's entries themselves; once, because no file is made or renamed later.
        File::open(dir).and_then(|it| it.sync_all()).map_err(|error| unavailable(dir, &error))?;
        Ok((disk, tables))
    }

    fn load(&mut self) -> Result<Tables> {
        let mut tables = Tables::default();
        let mut summary = None;
        let mut row: Option<(Vec<u8>, Vec<u8>, u16)> = None;
        for pair in self.db.clone().iter() {
            let (key, value) = pair.map_err(|error| corrupt(&self.dir, &error.to_string()))?;
            if key == SUMMARY {
                summary = Some(self.summary(&value)?);
                continue;
            }
            let Some((name, piece)) = key.split_last_chunk::<2>() else {
                return Err(corrupt(&self.dir, "a record has no name"));
            };
            let piece = u16::from_be_bytes(*piece);
            match &mut row {
                Some((same, bytes, pieces)) if same == name && *pieces == piece => {
                    bytes.extend_from_slice(&value);
                    *pieces += 1;
                }
                _ if piece == 0 => {
                    if let Some(row) = row.replace((name.to_vec(), value.to_vec(), 1)) {
                        self.take_in(&mut tables, row)?;
                    }
                }
                _ => return Err(corrupt(&self.dir, "a piece of a record is missing")),
            }
        }
        if let Some(row) = row {
            self.take_in(&mut tables, row)?;
        }
        let acknowledged = self.acknowledged();
        let (index, rows, fold) = summary.map_or((0, 0, 0), |it| (it.index, it.rows, it.fold));
        if (rows, fold) != (self.written.len() as u64, self.fold) {
            return Err(corrupt(&self.dir, "records are missing"));
        }
        if acknowledged > index {
            let what = format!("it ends at write {index}, and write {acknowledged} was acknowledged");
            return Err(corrupt(&self.dir, &what));
        }
        tables.index = index;
        Ok(tables)
    }

    fn summary(&self, value: &[u8]) -> Result<Summary> {
        let body = codec::unseal(SUMMARY, value).map(|(_, body)| body);
        let summary: Option<Summary> = body.and_then(|body| serde_json::from_slice(body).ok());
        match summary {
            None => Err(corrupt(&self.dir, "the digest of its summary is wrong")),
            Some(summary) if summary.version > VERSION => Err(EngineError::Storage(format!(
                "{} was written by a newer version of this program (format {}, this one reads {VERSION}): run that one",
                self.dir.display(),
                summary.version
            ))),
            Some(summary) => Ok(summary),
        }
    }

    fn take_in(&mut self, tables: &mut Tables, (name, bytes, pieces): (Vec<u8>, Vec<u8>, u16)) -> Result<()> {
        let wrong = || corrupt(&self.dir, "the digest of a record is wrong");
        let (digest, body) = codec::unseal(&name, &bytes).ok_or_else(wrong)?;
        let row = decode(&name, body).ok_or_else(wrong)?;
        tables.put(row);
        self.fold ^= digest;
        self.written.insert(name, Written { digest, pieces });
        Ok(())
    }

    /// The index that was last acknowledged, as far as the mark is readable.
    fn acknowledged(&self) -> u64 {
        let mut mark = [0; 8 + DIGEST];
        if self.mark.read_exact_at(&mut mark, 0).is_err() {
            return 0;
        }
        let (digest, index) = mark.split_at(DIGEST);
        let body = index.try_into().map(u64::from_be_bytes).unwrap_or(0);
        if codec::digest(b"mark", index).to_be_bytes() == digest { body } else { 0 }
    }

    /// Puts changes on the disk; they are there for good when this returns. Blocks.
    ///
    /// # Errors
    /// [`EngineError::Storage`]; what is on the disk is then unknown until it is opened again.
    pub(crate) fn write<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
        index: u64,
    ) -> std::result::Result<(), Failure> {
        let written = silenced(|| catch_unwind(AssertUnwindSafe(|| self.commit(changes, index))));
        written.unwrap_or_else(|_| {
            let error = io::Error::other("writing to it failed in the middle");
            Err(unavailable(&self.dir, &error).into())
        })
    }

    fn commit<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
        index: u64,
    ) -> std::result::Result<(), Failure> {
        let mut batch = sled::Batch::default();
        for change in changes {
            self.add(&mut batch, change);
        }
        let rows = self.written.len() as u64;
        let summary = Summary { version: VERSION, index, rows, fold: self.fold };
        let body = serde_json::to_vec(&summary).map_err(|error| corrupt(&self.dir, &error.to_string()))?;
        batch.insert(SUMMARY, codec::seal(SUMMARY, &body).1);
        let failed = |error: sled::Error| EngineError::Storage(format!("{}: {error}", self.dir.display()));
        self.db.apply_batch(batch).map_err(failed)?;
        self.db.flush().map_err(failed)?;
        let error = |unsynced, error: &io::Error| Failure { error: unavailable(&self.dir, error), unsynced };
        self.sync().map_err(|it| error(true, &it))?;
        self.set_mark(index).map_err(|it| error(false, &it))
    }

    fn add(&mut self, batch: &mut sled::Batch, change: &Change) {
        let name = codec::name(&change.key);
        let piece_key = |piece: u16| [name.as_slice(), &piece.to_be_bytes()].concat();
        let before = self.written.remove(&name);
        self.fold ^= before.map_or(0, |it| it.digest);
        let mut pieces = 0;
        if let Some(row) = &change.after {
            let (digest, sealed) = codec::seal(&name, &encode(row));
            for piece in sealed.chunks(PIECE) {
                batch.insert(piece_key(pieces), piece);
                pieces += 1;
            }
            self.fold ^= digest;
            self.written.insert(name.clone(), Written { digest, pieces });
        }
        for stale in pieces..before.map_or(0, |it| it.pieces) {
            batch.remove(piece_key(stale));
        }
    }

    fn sync(&self) -> io::Result<()> {
        // Pages that outgrow sled's log go to files of their own, which it does not sync.
        if let Ok(entries) = std::fs::read_dir(self.dir.join("blobs")) {
            for entry in entries {
                match File::open(entry?.path()) {
                    Ok(page) => page.sync_all()?,
                    // sled removes such a file as soon as the page lies elsewhere, at a moment of its own.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.log.sync_data()
    }

    /// Notes what is about to be acknowledged. Not synced: it may lag behind the log, never run ahead of it.
    fn set_mark(&self, index: u64) -> io::Result<()> {
        let index = index.to_be_bytes();
        let mark = [codec::digest(b"mark", &index).to_be_bytes(), index].concat();
        self.mark.write_all_at(&mark, 0)
    }
}

/// sled panics on some damage. The panic is caught and returned as an error, so it need not be printed.
fn silenced<T>(work: impl FnOnce() -> T) -> T {
    thread_local!(static SILENT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let of_sled = panic.location().is_some_and(|at| at.file().contains("sled-"));
            if !SILENT.get() && !of_sled {
                hook(panic);
            }
        }));
    });
    SILENT.set(true);
    let done = work();
    SILENT.set(false);
    done
}

fn corrupt(dir: &Path, what: &str) -> EngineError {
    let dir = dir.display();
    EngineError::Storage(format!(
        "{dir}/db is corrupt: {what}. Nothing was changed. Move {dir} away, start again, and put the newest \
         backup back with `waypost restore FILE`"
    ))
}

/// Opens the store. The lock of a process that was killed may be released a moment after its end, so a store that is in
/// use is tried for a while. Blocks.
fn open_when_free(config: &sled::Config) -> sled::Result<sled::Db> {
    const TRIES: u32 = 20;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
    let mut tries = 1;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if is_locked(&error) && tries < TRIES => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("lock") || error.kind() == io::ErrorKind::WouldBlock
}

fn unavailable(dir: &Path, error: &io::Error) -> EngineError {
    let dir = dir.display();
    let text = error.to_string();
    if is_locked(error) {
        return EngineError::Storage(format!(
            "{dir} is in use by another process: stop it, or name another data_dir"
        ));
    }
    EngineError::Storage(format!("cannot use {dir}: {text}"))
}

/// Removes what sled left of a snapshot that it did not finish, because the disk was full or the process ended. sled would
/// take it for its newest snapshot and call the store corrupt; without it, it reads the log itself. Nothing is removed
/// while another process has the store open.
pub fn remove_unfinished_snapshots(dir: &Path) {
    // sled locks its log in the same way.
    let unused = File::open(dir.join("db")).is_ok_and(|log| log.try_lock().is_ok());
    if !unused {
        return;
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            // If it cannot be removed, opening the store fails with the reason.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
