//! Reading files that a configuration or a command line names: tokens, certificates, keys, databases.
//!
//! One place, so that all of them are bounded in size, and every error names the path and the reason.

use std::{
    fmt,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// The largest file of a token, a certificate chain or a key, in bytes.
pub const MAX: u64 = 1024 * 1024;
/// What such a file has to be.
pub const EXPECTED: &str = "a file of at most 1 MiB that this user may read";

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {reason}", path.display())]
pub struct ReadError {
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Io(io::Error),
    /// Larger than this number of bytes.
    Larger(u64),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Larger(max) => write!(f, "it is larger than {max} octets"),
        }
    }
}

impl ReadError {
    /// True if there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(&self.reason, Reason::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a file of at most `max` bytes. A named pipe is read until its writers close it.
///
/// # Errors
/// Why not, with its path.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    read_with(path, max, std::fs::File::options().read(true))
}

/// As [`read`], but a named pipe without a writer is not waited for: it reads as an empty file. For files that are read
/// again while a process serves.
///
/// # Errors
/// Why not, with its path.
pub fn read_at_once(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let at_once = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    read_with(path, max, std::fs::File::options().read(true).custom_flags(at_once))
}

fn read_with(path: &Path, max: u64, options: &std::fs::OpenOptions) -> Result<Vec<u8>, ReadError> {
    let failed = |reason| ReadError { path: path.to_owned(), reason };
    let file = options.open(path).map_err(|error| failed(Reason::Io(error)))?;
    let mut bytes = Vec::new();
    // A file may grow while it is read, and some files do not report a length.
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| failed(Reason::Io(error)))?;
    if bytes.len() as u64 > max {
        return Err(failed(Reason::Larger(max)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn pipe(dir: &Path) -> PathBuf {
        let path = dir.join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    #[test]
    fn a_pipe_without_a_writer_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_at_once(&pipe(dir.path()), 16).unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn a_pipe_can_be_given_on_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = pipe(dir.path());
        let writer = {
            let path = path.clone();
            std::thread::spawn(move || std::fs::write(path, "token"))
        };
        assert_eq!(read(&path, 16).unwrap(), b"token");
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn errors_name_the_path_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for read in [read, read_at_once] {
            let missing = read(&dir.path().join("none"), 4).unwrap_err();
            std::fs::write(&path, "12345").unwrap();
            let large = read(&path, 4).unwrap_err();
            assert_eq!(
                large.to_string(),
                format!("cannot read {}: it is larger than 4 octets", path.display())
            );
            assert!(!large.is_missing());
            assert_eq!(read(&path, 5).unwrap(), b"12345");
            std::fs::remove_file(&path).unwrap();
            assert!(missing.is_missing() && missing.to_string().contains("none: No such file"), "{missing}");
        }
    }
}
