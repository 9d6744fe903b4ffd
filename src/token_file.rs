//! Files with a token: read at the start, and again when they change.
//!
//! A node that sends a token can start before its file exists: `token bootstrap` writes the file later, and the node uses it
//! from then on. The first token of a listener must exist at the start, because the listener would be open without it. If a
//! file is deleted or becomes unusable while the program runs, the token that was read before stays in use.

use std::path::PathBuf;

use store::secret::{Credential, Secret};

use crate::{
    reread::{Outcome, Part, Signature},
    small_file::{self, ReadError},
};

/// The shortest secret.
const MIN_LENGTH: usize = 16;
/// What a token file should contain.
pub const EXPECTED: &str = "one line of at least 16 printable characters";

/// A token file, and the credential that its content becomes.
#[derive(Clone, Debug)]
pub struct TokenFile {
    /// The key that names it, as `[store] token_file`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The token that is sent, or expected.
    pub credential: Credential,
}

/// The token in a text: one word of printable characters, without the white space around it.
///
/// # Errors
/// What is wrong with the text.
pub fn word(text: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(text).unwrap_or("\u{fffd}").trim();
    if text.is_empty() {
        Err("it is empty")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("it holds no token")
    } else {
        Ok(text)
    }
}

/// The secret in a text, which is long enough to be a token of ours.
///
/// # Errors
/// When there is none.
pub fn secret(text: &[u8]) -> Result<Secret, String> {
    match word(text) {
        Ok(word) if word.len() >= MIN_LENGTH => Ok(Secret::new(word)),
        _ => Err("the file holds no token".to_owned()),
    }
}

impl TokenFile {
    /// Reads the file; `None` if it does not exist.
    ///
    /// # Errors
    /// When it exists and cannot be read, or holds no token.
    pub fn read(&self) -> Result<Option<Secret>, String> {
        self.parsed(small_file::read(&self.path, small_file::MAX))
    }

    fn parsed(&self, read: Result<Vec<u8>, ReadError>) -> Result<Option<Secret>, String> {
        match read {
            Ok(bytes) => secret(&bytes)
                .map(Some)
                .map_err(|error| format!("{}: {error}; expected {EXPECTED}", self.path.display())),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Reads the file again and uses its token; true if that is another one than before.
    ///
    /// # Errors
    /// When the token in use stays because the file is gone or holds none.
    pub fn reread(&self) -> Result<bool, String> {
        match self.parsed(small_file::read_at_once(&self.path, small_file::MAX))? {
            Some(secret) => Ok(self.credential.set(secret)),
            None if self.credential.load().is_some() => Err(format!(
                "{} no longer exists; the token that was read before stays in use",
                self.path.display()
            )),
            None => Ok(false),
        }
    }

    /// The part that reads the file again, to be registered with [`crate::reread::Rereads`].
    #[must_use]
    pub fn part(&self) -> Part {
        let (file, path) = (self.clone(), self.path.clone());
        let look = move || Signature::of_files(std::slice::from_ref(&path));
        Part::new(self.what, look, move || match file.reread() {
            Ok(true) => Outcome::Reread(format!("the token in {} is in use", file.path.display())),
            Ok(false) => Outcome::Unchanged,
            Err(why) => Outcome::Kept(why),
        })
    }

    /// Logs at a start that the file does not exist yet.
    pub fn say_if_missing(&self) {
        if self.credential.load().is_none() {
            tracing::warn!(
                file = %self.path.display(),
                "{} does not exist yet; requests are sent without a token until it does",
                self.what
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_without_a_writer_does_not_block_the_reading_of_others() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let file = TokenFile { what: "[store] token_file", path, credential: Credential::default() };
        assert!(file.reread().unwrap_err().contains("holds no token"));
    }

    #[test]
    fn a_file_may_come_later_and_never_takes_a_token_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.token");
        let file = TokenFile { what: "[store] token_file", path, credential: Credential::default() };
        assert_eq!(file.reread(), Ok(false));
        let write = |text: &str| std::fs::write(&file.path, text).unwrap();
        let in_use = || file.credential.load().map(|it| it.expose().to_owned());
        for wrong in ["", "short", "sixteen characters, but with spaces"] {
            write(wrong);
            let error = file.reread().unwrap_err();
            assert!(error.contains("holds no token"), "{error}");
            assert_eq!(in_use(), None);
        }
        write("0123456789abcdef\n");
        assert_eq!((file.reread(), file.reread()), (Ok(true), Ok(false)));
        write("fedcba9876543210\n");
        assert_eq!(file.reread(), Ok(true));
        write("");
        assert!(file.reread().is_err());
        std::fs::remove_file(&file.path).unwrap();
        assert!(file.reread().unwrap_err().contains("stays in use"));
        assert_eq!(in_use().as_deref(), Some("fedcba9876543210"));
    }
}
