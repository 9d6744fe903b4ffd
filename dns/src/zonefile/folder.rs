//! Included files from one folder of the disk, and from nowhere else.

use std::{
    cell::RefCell,
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Read as _,
    path::{Component, Path, PathBuf},
};

use super::Files;

/// A folder; what lies outside it is out of reach, also through symbolic links.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of a file.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self(parent.unwrap_or_else(|| Path::new(".")).to_owned())
    }

    /// Where a file is that is named relative to the folder.
    #[must_use]
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The path of a file inside, links followed.
    fn inside(&self, path: &str) -> Result<PathBuf, String> {
        // A path from the root is taken if it leads into the folder, which is seen below.
        let plain = |part: Component<'_>| !matches!(part, Component::ParentDir);
        if !Path::new(path).components().all(plain) {
            return Err(format!("{path:?} does not stay inside the zone file's folder"));
        }
        let real = |path: &Path| path.canonicalize().map_err(|error| format!("{}: {error}", path.display()));
        let (folder, file) = (real(&self.0)?, real(&self.0.join(path))?);
        if file.starts_with(&folder) {
            Ok(file)
        } else {
            Err(format!("{path:?} leads out of the zone file's folder"))
        }
    }
}

impl Files for Folder {
    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, String> {
        read_file(&self.inside(path)?, most)
    }
}

/// A folder that notes which files were read of it, with a digest of their content.
#[derive(Debug)]
pub(crate) struct Noted {
    folder: Folder,
    read: RefCell<Vec<(String, u64)>>,
}

impl Noted {
    pub(crate) const fn new(folder: Folder) -> Self {
        Self { folder, read: RefCell::new(Vec::new()) }
    }

    /// The folder, and each file that was read with the digest of its content.
    pub(crate) fn into_parts(self) -> (Folder, Vec<(String, u64)>) {
        (self.folder, self.read.into_inner())
    }
}

impl Files for Noted {
    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, String> {
        let text = self.folder.read(path, most)?;
        self.read.borrow_mut().push((path.to_owned(), digest(&text)));
        Ok(text)
    }
}

/// Distinguishes contents, but not against an adversary, who could as well write the file.
pub(crate) fn digest(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The content of a regular file of at most `most` octets.
///
/// # Errors
/// Why it cannot be read, as text.
pub(crate) fn read_file(path: &Path, most: usize) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    // Reading a pipe could wait for ever.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut content = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut content)).map_err(failed)?;
    if content.len() > most {
        return Err(format!("{} is too long: more than {most} octets are left", path.display()));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn nothing_outside_is_read() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("zones");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(outer.path().join("secret"), "x").unwrap();
        fs::write(dir.join("sub/in"), "inside").unwrap();
        std::os::unix::fs::symlink(outer.path().join("secret"), dir.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.join("sub/in"), dir.join("good")).unwrap();
        let folder = Folder::of(&dir.join("example.com.zone"));
        assert_eq!(folder.read("sub/in", 100).unwrap(), b"inside");
        assert_eq!(folder.read("./good", 100).unwrap(), b"inside");
        let absolute = dir.join("sub/in");
        assert_eq!(folder.read(absolute.to_str().unwrap(), 100).unwrap(), b"inside");
        let secret = outer.path().join("secret");
        for bad in ["../secret", "sub/../../secret", "link", "missing", "sub", secret.to_str().unwrap()] {
            assert!(folder.read(bad, 100).is_err(), "{bad}");
        }
        assert!(folder.read("sub/in", 5).unwrap_err().contains("too long"));
    }
}
