//! What can be read again: some files, and what to do with their content.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::signature::Signature;
use crate::small_file;

/// The outcome of reading something again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new content is in use; the text describes it, as `12 zones, 1 of them changed`.
    Reread(String),
    /// The content is in use already.
    Unchanged,
    /// The content is new and not in use yet; the text says when it will be.
    Waits(String),
    /// The files cannot be used, and the old content stays in use; the text is the reason.
    Kept(String),
}

type Look = Box<dyn Fn() -> Signature + Send + Sync>;
type Read = Box<dyn Fn() -> Outcome + Send + Sync>;

/// Something that can be read again.
pub struct Part {
    pub(super) name: String,
    pub(super) look: Look,
    read: Read,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Part {
    /// A part with its own way of reading. `name` is its name in the log, such as `[dns] zones_dir`; `look` distinguishes
    /// states of its files without reading them; `read` reads them and may block.
    pub fn new(
        name: impl Into<String>,
        look: impl Fn() -> Signature + Send + Sync + 'static,
        read: impl Fn() -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), look: Box::new(look), read: Box::new(read) }
    }

    /// A part that uses the contents of a few files. `in_use` is the content that is in use, if any. `take` gets the contents
    /// in the order of `files`, and returns a description of what is in use now, or why they cannot be used. It is not
    /// called for contents that are in use already.
    pub fn of_files(
        name: impl Into<String>,
        files: Files,
        in_use: Option<Content>,
        take: impl Fn(&[Vec<u8>]) -> Result<String, String> + Send + Sync + 'static,
    ) -> Self {
        let paths = files.paths.clone();
        let taken = Mutex::new(in_use);
        let read = move || {
            let contents = match files.read() {
                Ok(contents) => contents,
                Err(why) => return Outcome::Kept(why),
            };
            let content = Content::of(&contents);
            // The lock is held for a moment only.
            if *taken.lock().unwrap_or_else(PoisonError::into_inner) == Some(content) {
                return Outcome::Unchanged;
            }
            match take(&contents) {
                Ok(what) => {
                    *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(content);
                    Outcome::Reread(what)
                }
                Err(why) => Outcome::Kept(why),
            }
        };
        Self::new(name, move || Signature::of_files(&paths), read)
    }

    /// Reads it now and logs the outcome: for a part whose first reading is like all others.
    pub fn read_now(&self) {
        log(&self.name, &(self.read)(), "read");
    }

    /// Reads it now.
    #[cfg(test)]
    pub(crate) fn read_here(&self) -> Outcome {
        (self.read)()
    }

    /// The state of its files now.
    #[cfg(test)]
    pub(crate) fn look_here(&self) -> Signature {
        (self.look)()
    }

    /// Reads it. A panic is a defect of the reader, and only this reading fails.
    pub(super) async fn read(part: &Arc<Self>) -> Outcome {
        let reading = Arc::clone(part);
        let read = tokio::task::spawn_blocking(move || (reading.read)()).await;
        read.unwrap_or_else(|_| Outcome::Kept("a defect: the reader panicked".to_owned()))
    }
}

/// Files that are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    paths: Vec<PathBuf>,
    /// The most bytes of each.
    max: u64,
}

impl Files {
    /// Files of at most `max` bytes each.
    #[must_use]
    pub const fn new(paths: Vec<PathBuf>, max: u64) -> Self {
        Self { paths, max }
    }

    /// Reads them all, in their order.
    ///
    /// # Errors
    /// Which one cannot be read, and why.
    pub fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        let read =
            |path: &PathBuf| small_file::read_at_once(path, self.max).map_err(|error| error.to_string());
        self.paths.iter().map(read).collect()
    }
}

/// A file that was read, and its content at that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInUse {
    /// The file.
    pub path: PathBuf,
    /// Its content.
    pub content: Content,
}

/// A hash of a content. It need not resist an attacker, who would have to be able to write the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(u64);

impl Content {
    /// The hash of the contents of some files, in their order.
    pub fn of<T: AsRef<[u8]>>(contents: &[T]) -> Self {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        contents.iter().for_each(|content| content.as_ref().hash(&mut hasher));
        Self(hasher.finish())
    }
}

pub(super) fn log(name: &str, outcome: &Outcome, why: &str) {
    match outcome {
        Outcome::Reread(what) => tracing::info!("{name}: reread ({why}): {what}"),
        Outcome::Unchanged => tracing::info!("{name}: unchanged ({why})"),
        Outcome::Waits(when) => tracing::warn!("{name}: changed and not in use yet ({why}): {when}"),
        Outcome::Kept(reason) => tracing::error!("{name}: kept what was in use ({why}): {reason}"),
    }
}
