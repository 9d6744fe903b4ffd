//! What can be read again: some files, and what to do with what they say.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::signature::Signature;

/// What reading something again came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in use now; the text says what, as `12 zones, 1 of them changed`.
    Reread(String),
    /// The files say what is in use already.
    Unchanged,
    /// They say something else, which is not taken up now; the text says when it is.
    Waits(String),
    /// The files cannot be used, and what was in use stays; the text says why.
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
    /// A part with rules of its own. `name` is what the log calls it, such as `[dns] zones_dir`; `look` tells one state
    /// of its files from another without reading them; `read` reads them, may block, and says what came of it.
    pub fn new(
        name: impl Into<String>,
        look: impl Fn() -> Signature + Send + Sync + 'static,
        read: impl Fn() -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), look: Box::new(look), read: Box::new(read) }
    }

    /// A part made of the contents of a few files. `in_use` is what is in use already, if anything is. `take` gets the
    /// contents in the order of `files`, and says what is in use now, or why they cannot be used. It is not called for
    /// contents that are in use.
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
            // The lock is only held for a moment, and guards one word.
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

    /// Reads it now and logs what came of it: for a part whose first reading is like every other.
    pub fn read_now(&self) {
        log(&self.name, &(self.read)(), "read");
    }

    /// Reads it now.
    #[cfg(test)]
    pub(crate) fn read_here(&self) -> Outcome {
        (self.read)()
    }

    /// Looks at its files now.
    #[cfg(test)]
    pub(crate) fn look_here(&self) -> Signature {
        (self.look)()
    }

    /// Reads it. A panic is a defect of the reader; it costs this reading and nothing else.
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
    /// Octets each of them may have.
    largest: u64,
}

impl Files {
    /// The longest file of a certificate chain, a key or a token.
    pub const SMALL: u64 = 1024 * 1024;

    /// Files of at most `largest` octets each.
    #[must_use]
    pub const fn new(paths: Vec<PathBuf>, largest: u64) -> Self {
        Self { paths, largest }
    }

    /// Reads them all, in their order.
    ///
    /// # Errors
    /// Which one cannot be read, and why.
    pub fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        self.paths.iter().map(|path| read_file(path, self.largest)).collect()
    }
}

/// Reads a file of at most `largest` octets.
///
/// # Errors
/// Why not, with its path.
pub fn read_file(path: &Path, largest: u64) -> Result<Vec<u8>, String> {
    use std::{io::Read as _, os::unix::fs::OpenOptionsExt as _};
    let say = |error: &dyn fmt::Display| format!("cannot read {}: {error}", path.display());
    // A named pipe that has no writer must not be waited for; it reads as an empty file.
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = std::fs::File::options().read(true).custom_flags(at_once).open(path);
    let file = opened.map_err(|error| say(&error))?;
    let mut bytes = Vec::new();
    // A file may grow while it is read, and some have no length before it.
    file.take(largest + 1).read_to_end(&mut bytes).map_err(|error| say(&error))?;
    if bytes.len() as u64 > largest {
        return Err(say(&format_args!("it is larger than {largest} octets")));
    }
    Ok(bytes)
}

/// A file that was read, and what tells whether it says something else by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInUse {
    /// The file.
    pub path: PathBuf,
    /// What it said.
    pub content: Content,
}

/// Tells one content from another: not against an adversary, who could as well write the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(u64);

impl Content {
    /// Of the contents of some files, in their order.
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
