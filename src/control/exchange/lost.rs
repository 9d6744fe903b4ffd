//! Configurations that were replaced by one which does not contain them.
//!
//! A home that was cut off while another site was promoted may have committed what no other site has. When it meets the
//! other again its configuration gives way, and nothing is merged. What it had is kept as a backup file, so that a person can
//! look at what was lost and apply it again.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use store::{
    commit::Stored,
    model::{Document, Moment, encode},
};

use crate::control::documents::BACKUP;

/// Writes what is stored to a file in a folder, synced; returns the file. Only its owner can read it, because it has the
/// digests of tokens.
///
/// # Errors
/// When it cannot be written; then the configuration must not be replaced.
pub(crate) async fn keep(folder: &Path, stored: &Stored, now: Moment) -> io::Result<PathBuf> {
    let mut documents: Vec<Arc<Document>> = stored.with_colours(now);
    documents.sort_by_key(|it| it.id());
    let text = encode::yaml_all(documents.iter().map(AsRef::as_ref));
    let text = format!("{BACKUP}{}\n{text}", stored.generation());
    let file = folder.join(format!("{}.yaml", stored.generation()));
    let folder = folder.to_owned();
    let wanted = file.clone();
    tokio::task::spawn_blocking(move || write(&folder, &wanted, &text)).await.map_err(io::Error::other)??;
    Ok(file)
}

fn write(folder: &Path, file: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::create_dir_all(folder)?;
    let part = file.with_extension("part");
    let mut written =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&part, file)?;
    std::fs::File::open(folder)?.sync_all()
}

/// The files of a folder, by name; none if there is no such folder.
#[must_use]
pub(crate) fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|it| it.path()).filter(|it| it.extension().is_some_and(|it| it == "yaml")).collect();
    files.sort();
    files
}
