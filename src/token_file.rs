//! Files that hold a token: read at the start, and again when they change.
//!
//! A node that sends a token may start before its file is there: `token bootstrap` writes the file later, and the node
//! takes it up then. A listener's own first token must be there from the beginning: without it the listener would be
//! open. A file that vanishes or goes bad while the program runs leaves the secret that was read before in use.

use std::{io, path::PathBuf};

use store::secret::{Credential, Secret};

use crate::reread::{Outcome, Part, Signature};

/// The longest token file.
const MAX: u64 = 1024 * 1024;
/// The shortest secret.
const MIN_LENGTH: usize = 16;
/// What a token file should hold.
pub const EXPECTED: &str = "one line of at least 16 printable characters";

/// A token file, and the credential that its content becomes.
#[derive(Clone, Debug)]
pub struct TokenFile {
    /// The key that names it, as `[store] token_file`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is sent, or expected, at present.
    pub credential: Credential,
}

/// The secret in a text.
///
/// # Errors
/// When it is none.
pub fn secret(text: &[u8]) -> Result<Secret, String> {
    let text = std::str::from_utf8(text).map(str::trim).unwrap_or_default();
    if text.len() < MIN_LENGTH || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the file holds no token".to_owned());
    }
    Ok(Secret::new(text))
}

impl TokenFile {
    /// Reads the file; `None` when it is not there.
    ///
    /// # Errors
    /// When it is there and cannot be read, or holds no token.
    pub fn read(&self) -> Result<Option<Secret>, String> {
        let path = self.path.display();
        let failed = |error: io::Error| format!("cannot read {path}: {error}");
        let meta = match std::fs::metadata(&self.path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if meta.len() > MAX {
            return Err(format!("{path} is larger than 1 MiB"));
        }
        let bytes = std::fs::read(&self.path).map_err(failed)?;
        secret(&bytes).map(Some).map_err(|error| format!("{path}: {error}; expected {EXPECTED}"))
    }

    /// Reads the file again and uses what it holds; true when that is another secret than before.
    ///
    /// # Errors
    /// When the secret in use has to stay because the file is gone or holds none.
    pub fn reread(&self) -> Result<bool, String> {
        match self.read()? {
            Some(secret) => Ok(self.credential.set(secret)),
            None if self.credential.load().is_some() => {
                Err(format!("{} is gone; the token read from it before stays in use", self.path.display()))
            }
            None => Ok(false),
        }
    }

    /// What reads the file again, to be registered with [`crate::reread::Rereads`].
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

    /// Says at a start that the file is not there yet.
    pub fn say_if_missing(&self) {
        if self.credential.load().is_none() {
            tracing::warn!(
                file = %self.path.display(),
                "{} is not there yet: requests carry no token until it is",
                self.what
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
