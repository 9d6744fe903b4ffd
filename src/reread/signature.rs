//! The metadata of files, to detect a change without reading them.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// How many files below a folder are checked, and how many levels deep.
const MAX_FILES: usize = 200_000;
const MAX_DEPTH: u32 = 8;

/// A hash of the inodes, lengths and times of files. Equal signatures mean unchanged files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub(super) u64);

impl Signature {
    /// The signature of files and folders as they are now. A folder changes with the names in it. Symbolic links are followed.
    pub fn of_files<P: AsRef<Path>>(paths: &[P]) -> Self {
        let mut hasher = DefaultHasher::new();
        for path in paths {
            let seen = std::fs::metadata(path).ok().map(|metadata| {
                let times =
                    (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
                (metadata.dev(), metadata.ino(), metadata.len(), times)
            });
            seen.hash(&mut hasher);
        }
        Self(hasher.finish())
    }

    /// The signature of two things together.
    pub fn beside(self, other: Self) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.0, other.0).hash(&mut hasher);
        Self(hasher.finish())
    }

    /// The signature of every file below a folder, whatever its name.
    pub fn of_folder(folder: &Path) -> Self {
        let (mut paths, mut folders) = (Vec::new(), vec![(folder.to_owned(), 0)]);
        while let Some((folder, depth)) = folders.pop() {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            for path in entries.map(|entry| entry.path()).take(MAX_FILES.saturating_sub(paths.len())) {
                // The depth is bounded because a link to a folder above would be followed without end.
                if depth < MAX_DEPTH && path.is_dir() {
                    folders.push((path.clone(), depth + 1));
                }
                paths.push(path);
            }
            paths.push(folder);
        }
        // The order of a folder's entries is not defined.
        paths.sort_unstable();
        Self::of_files(&paths)
    }

    /// The signature of a text that describes a state.
    pub fn of_text(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// The identity of the file at a path, whatever its content: its device and inode.
    pub fn of_identity(path: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        std::fs::metadata(path).ok().map(|it| (it.dev(), it.ino())).hash(&mut hasher);
        Self(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_changes_with_every_file_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let look = || Signature::of_folder(dir.path());
        let empty = look();
        std::fs::create_dir(dir.path().join("inner")).unwrap();
        std::fs::write(dir.path().join("inner/file"), "one").unwrap();
        let one = look();
        assert_ne!(empty, one);
        assert_eq!(one, look());
        std::fs::write(dir.path().join("inner/file"), "three").unwrap();
        assert_ne!(one, look());
        std::os::unix::fs::symlink(dir.path(), dir.path().join("inner/round")).unwrap();
        assert_eq!(look(), look(), "a link to a folder above ends");
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let look = || Signature::of_files(&[&path]);
        let missing = look();
        std::fs::write(&path, "one").unwrap();
        let one = look();
        assert_ne!(missing, one);
        assert_eq!(one, look());
        let beside = dir.path().join("beside");
        std::fs::write(&beside, "two").unwrap();
        std::fs::rename(&beside, &path).unwrap();
        let two = look();
        assert_ne!(one, two, "another file of the same length under its name");
        let identity = Signature::of_identity(&path);
        std::fs::write(&path, "three").unwrap();
        assert_ne!(two, look());
        assert_eq!(
            identity,
            Signature::of_identity(&path),
            "what is written to a file does not make it another"
        );
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(Signature::of_files(&[&link]), look(), "a link is what it points to");
    }
}
