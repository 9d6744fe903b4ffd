//! Files with secrets: readable by their owner only, and never overwritten.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::failure::Failure;

/// Writes a secret to a new file.
pub(super) fn write_secret(path: &Path, secret: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let reason = match error.kind() {
            io::ErrorKind::AlreadyExists => "exists already and is not overwritten".to_owned(),
            _ => error.to_string(),
        };
        Failure::Failed(format!("{}: {reason}; nothing was changed", path.display()))
    };
    create(path, secret).map_err(failed)
}

/// Creates a file that its owner alone may read, and syncs it to the disk.
fn create(path: &Path, secret: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{secret}\n").as_bytes())?;
    file.sync_all()
}

/// A secret in a file with a temporary name, which is renamed once control has the digest.
pub(super) struct Draft {
    part: PathBuf,
    path: PathBuf,
}

impl Draft {
    pub(super) fn write(dir: &Path, name: &str, secret: &str) -> Result<Self, Failure> {
        let path = dir.join(format!("{name}.token"));
        let failed =
            |error: io::Error| Failure::Failed(format!("{}: {error}; nothing was changed", path.display()));
        let part = dir.join(format!(".{name}.token.part"));
        // A file of a run that was interrupted before control had the digest.
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        create(&part, secret).map_err(failed)?;
        Ok(Self { part, path })
    }

    /// Renames the file, unless another process created one of that name in between.
    pub(super) fn publish(self) -> Result<PathBuf, Failure> {
        let failed = |error: io::Error| {
            let (path, part) = (self.path.display(), self.part.display());
            Failure::Failed(format!("{path}: {error}; the token is created, and its secret is in {part}"))
        };
        std::fs::hard_link(&self.part, &self.path).map_err(failed)?;
        std::fs::remove_file(&self.part).map_err(failed)?;
        Ok(self.path)
    }

    pub(super) fn discard(self) {
        // A file that remains is never read, and no server has the digest.
        let _ = std::fs::remove_file(self.part);
    }
}

/// Creates the folder if it does not exist, readable by its owner only.
pub(super) fn private_folder(dir: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Failure::Failed(format!("{}: {error}; nothing was changed", dir.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_readable_by_their_owner_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("tokens");
        private_folder(&dir).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        let draft = Draft::write(&dir, "node-gw", "secret").unwrap();
        assert!(!draft.path.exists());
        let path = draft.publish().unwrap();
        assert_eq!((mode(&path), std::fs::read_to_string(&path).unwrap().as_str()), (0o600, "secret\n"));
        // A file that was created in between is not overwritten either.
        assert!(Draft::write(&dir, "node-gw", "other").unwrap().publish().is_err());
        Draft::write(&dir, "node-dns", "other").unwrap().discard();
        assert!(!dir.join("node-dns.token").exists() && !dir.join(".node-dns.token.part").exists());
        assert!(write_secret(&path, "other").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "secret\n");
    }
}
