//! The node's last good state, kept on disk so that it can start with nothing else reachable.
//!
//! Unlike the engine, this store holds nothing that cannot be fetched again, so a corrupt one is moved aside instead of
//! preventing the start. Every value has a checksum, because sled 0.34 does not detect every kind of damage.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use engine::embedded::remove_unfinished_snapshots;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// Why the last good state cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep this node's last good state in {path}: {reason}")]
pub struct DiskError {
    path: PathBuf,
    reason: String,
}

/// The last good state: a few named values, each replaced as a whole.
#[derive(Clone)]
pub struct LastGood {
    storage: Storage,
    path: PathBuf,
}

/// Values to replace and to remove at once.
#[derive(Debug, Default)]
pub struct Changes {
    puts: Vec<(String, Vec<u8>)>,
    removals: Vec<String>,
}

impl Changes {
    /// Replaces the value of a name.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn put<T: Serialize>(&mut self, name: impl Into<String>, value: &T) -> serde_json::Result<()> {
        self.puts.push((name.into(), seal(value)?));
        Ok(())
    }

    /// Removes the value of a name, if there is one.
    pub fn remove(&mut self, name: impl Into<String>) {
        self.removals.push(name.into());
    }
}

#[derive(Clone)]
enum Storage {
    Disk(Arc<sled::Db>),
    Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>),
}

impl fmt::Debug for LastGood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGood").field("path", &self.path).finish_non_exhaustive()
    }
}

const DIGEST: usize = 32;

impl LastGood {
    /// Opens the state in a folder of its own, which is made if it is absent. A corrupt one is renamed to
    /// `<folder>.corrupt-<n>` and replaced by an empty one; the second value is its new path.
    ///
    /// # Errors
    /// When the folder cannot be made, written, or is in use by another process.
    pub fn open(path: &Path) -> Result<(Self, Option<PathBuf>), DiskError> {
        let fail = |reason: String| DiskError { path: path.to_owned(), reason };
        std::fs::create_dir_all(path).map_err(|error| fail(error.to_string()))?;
        match Self::try_open(path) {
            Ok(memory) => Ok((memory, None)),
            Err(OpenError::Unavailable(reason)) => Err(fail(reason)),
            Err(OpenError::Corrupt(reason)) => {
                let aside = move_aside(path)
                    .map_err(|error| fail(format!("{reason}; and moving it aside: {error}")))?;
                tracing::warn!(path = %path.display(), aside = %aside.display(), reason, "last good state was corrupt and is fetched again");
                let memory = Self::try_open(path).map_err(|trouble| fail(trouble.to_string()))?;
                Ok((memory, Some(aside)))
            }
        }
    }

    fn try_open(path: &Path) -> Result<Self, OpenError> {
        remove_unfinished_snapshots(path);
        let open = || sled::Config::new().path(path).cache_capacity(16 * 1024 * 1024).open();
        let db = match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(error))) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                return Err(OpenError::Unavailable(error.to_string()));
            }
            Ok(Err(error)) => return Err(OpenError::Corrupt(error.to_string())),
            Err(_) => return Err(OpenError::Corrupt("its store cannot be read at all".to_owned())),
        };
        match catch_unwind(AssertUnwindSafe(|| verify(&db))) {
            Ok(verified) => {
                verified.map(|()| Self { storage: Storage::Disk(Arc::new(db)), path: path.to_owned() })
            }
            Err(_) => Err(OpenError::Corrupt("its store cannot be read to the end".to_owned())),
        }
    }

    /// A state without a disk, for simulations. It lasts as long as a clone of it, also when its node ends.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { storage: Storage::Memory(Arc::default()), path: PathBuf::from("memory") }
    }

    /// True if writing may block.
    pub(crate) const fn blocks(&self) -> bool {
        matches!(self.storage, Storage::Disk(_))
    }

    /// The value of a name; `None` if there is none or an incompatible one.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        match &self.storage {
            Storage::Disk(db) => serde_json::from_slice(unseal(&db.get(name).ok()??)?).ok(),
            Storage::Memory(values) => {
                let values = values.lock().unwrap_or_else(PoisonError::into_inner);
                serde_json::from_slice(unseal(values.get(name)?)?).ok()
            }
        }
    }

    /// Replaces the value of a name. Returns before it is durable; see [`LastGood::flush`].
    ///
    /// # Errors
    /// When the disk fails.
    pub fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<(), DiskError> {
        let fail = |reason: String| DiskError { path: self.path.clone(), reason };
        let sealed = seal(value).map_err(|error| fail(error.to_string()))?;
        match &self.storage {
            Storage::Disk(db) => {
                db.insert(name, sealed).map_err(|error| fail(error.to_string()))?;
            }
            Storage::Memory(values) => {
                let mut values = values.lock().unwrap_or_else(PoisonError::into_inner);
                values.insert(name.to_owned(), sealed);
            }
        }
        Ok(())
    }

    /// Replaces and removes several values at once: after a crash either all of it happened or nothing.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn change(&self, changes: Changes) -> Result<(), DiskError> {
        let Changes { puts, removals } = changes;
        match &self.storage {
            Storage::Disk(db) => {
                let mut batch = sled::Batch::default();
                puts.into_iter().for_each(|(name, sealed)| batch.insert(name.as_bytes(), sealed));
                removals.iter().for_each(|name| batch.remove(name.as_bytes()));
                let fail =
                    |error: sled::Error| DiskError { path: self.path.clone(), reason: error.to_string() };
                db.apply_batch(batch).map_err(fail)
            }
            Storage::Memory(values) => {
                let mut values = values.lock().unwrap_or_else(PoisonError::into_inner);
                removals.iter().for_each(|name| drop(values.remove(name)));
                values.extend(puts);
                Ok(())
            }
        }
    }

    /// The names that begin so.
    #[must_use]
    pub fn names(&self, prefix: &str) -> Vec<String> {
        match &self.storage {
            Storage::Disk(db) => {
                let keys = db.scan_prefix(prefix).keys().filter_map(Result::ok);
                keys.map(|key| String::from_utf8_lossy(&key).into_owned()).collect()
            }
            Storage::Memory(values) => {
                let values = values.lock().unwrap_or_else(PoisonError::into_inner);
                values.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
            }
        }
    }

    /// Removes the value of a name.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        let fail = |error: sled::Error| DiskError { path: self.path.clone(), reason: error.to_string() };
        match &self.storage {
            Storage::Disk(db) => db.remove(name).map(drop).map_err(fail),
            Storage::Memory(values) => {
                values.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                Ok(())
            }
        }
    }

    /// Writes everything to the disk. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> Result<(), DiskError> {
        let fail = |error: sled::Error| DiskError { path: self.path.clone(), reason: error.to_string() };
        match &self.storage {
            Storage::Disk(db) => db.flush().map(drop).map_err(fail),
            Storage::Memory(_) => Ok(()),
        }
    }
}

fn verify(db: &sled::Db) -> Result<(), OpenError> {
    for pair in db.iter() {
        let (key, value) = pair.map_err(|error| OpenError::Corrupt(error.to_string()))?;
        if unseal(&value).is_none() {
            let key = String::from_utf8_lossy(&key).into_owned();
            return Err(OpenError::Corrupt(format!("the checksum of {key:?} is wrong")));
        }
    }
    Ok(())
}

enum OpenError {
    Corrupt(String),
    Unavailable(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(reason) | Self::Unavailable(reason) => f.write_str(reason),
        }
    }
}

/// Written into one buffer, because a configuration may have tens of megabytes.
fn seal<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut sealed = vec![0; DIGEST];
    serde_json::to_writer(&mut sealed, value)?;
    let (digest, body) = sealed.split_at_mut(DIGEST);
    digest.copy_from_slice(&Sha256::digest(body));
    Ok(sealed)
}

fn unseal(value: &[u8]) -> Option<&[u8]> {
    let (digest, body) = value.split_at_checked(DIGEST)?;
    (Sha256::digest(body).as_slice() == digest).then_some(body)
}

fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let free = (1..).map(|n| path.with_file_name(format!("{name}.corrupt-{n}"))).find(|it| !it.exists());
    let aside = free.ok_or_else(|| std::io::Error::other("no free name"))?;
    std::fs::rename(path, &aside)?;
    std::fs::create_dir_all(path)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens it again in this process: a thread of sled's may hold its lock for a moment after the last handle is gone.
    fn reopened(path: &Path) -> LastGood {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            match LastGood::open(path) {
                Ok((memory, _)) => return memory,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn values_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, aside) = LastGood::open(dir.path()).unwrap();
        assert_eq!(aside, None);
        memory.put("a", &vec![1, 2, 3]).unwrap();
        memory.flush().unwrap();
        drop(memory);
        let memory = reopened(dir.path());
        assert_eq!(memory.get::<Vec<u8>>("a"), Some(vec![1, 2, 3]));
        assert_eq!(memory.get::<Vec<u8>>("b"), None);
    }

    #[test]
    fn a_state_without_a_disk_outlives_its_node() {
        let kept = LastGood::in_memory();
        let used = kept.clone();
        used.put("a", &vec![1, 2, 3]).unwrap();
        used.put("b", &"x").unwrap();
        used.remove("b").unwrap();
        used.flush().unwrap();
        drop(used);
        assert_eq!(kept.get::<Vec<u8>>("a"), Some(vec![1, 2, 3]));
        assert_eq!(kept.get::<String>("b"), None);
    }

    #[test]
    fn an_unfinished_snapshot_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, _) = LastGood::open(dir.path()).unwrap();
        memory.put("a", &"kept").unwrap();
        memory.flush().unwrap();
        drop(memory);
        std::fs::write(dir.path().join("snap.7FFFFFFFFFFFFFFF.generating"), "half").unwrap();
        assert_eq!(reopened(dir.path()).get::<String>("a").as_deref(), Some("kept"));
    }

    #[test]
    fn a_second_process_gets_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (_memory, _) = LastGood::open(dir.path()).unwrap();
        let error = LastGood::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("lock"), "{error}");
    }

    #[test]
    fn a_value_with_a_wrong_checksum_moves_the_store_aside() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("node");
        let db = sled::open(&path).unwrap();
        db.insert("a", b"no checksum before this").unwrap();
        db.flush().unwrap();
        drop(db);
        let (memory, aside) = LastGood::open(&path).unwrap();
        assert_eq!(memory.get::<String>("a"), None);
        memory.put("a", &"y").unwrap();
        let aside = aside.unwrap();
        assert!(aside.join("db").exists() && aside != path);
    }

    #[test]
    fn damage_anywhere_never_stops_a_start_and_never_yields_a_wrong_value() {
        let root = tempfile::tempdir().unwrap();
        let good = "x".repeat(10_000);
        for (round, at) in (0..20).map(|n| (n, n * 977)) {
            let path = root.path().join(format!("node-{round}"));
            let (memory, _) = LastGood::open(&path).unwrap();
            memory.put("a", &good).unwrap();
            memory.flush().unwrap();
            drop(memory);
            let mut bytes = std::fs::read(path.join("db")).unwrap();
            for byte in bytes.iter_mut().skip(at).take(50) {
                *byte ^= 0x5a;
            }
            std::fs::write(path.join("db"), &bytes).unwrap();
            let memory = reopened(&path);
            let kept = memory.get::<String>("a");
            assert!(kept.is_none() || kept.as_ref() == Some(&good), "round {round}");
            memory.put("a", &"y").unwrap();
        }
    }
}
