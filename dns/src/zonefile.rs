//! Standard zone files (RFC 1035 §5, RFC 2308 §4): a text becomes a [`Zone`], or a list of errors with places.
//!
//! Reading is pure: included files come through [`Files`], so that nothing here reads the disk. Words and record
//! data are `store::model::rdata`'s; here are owners, TTLs, classes, directives (`entries`) and what a
//! zone as a whole must be (`whole`). Nothing is loaded from a file with an error.
//!
//! Our own reader, because hickory's stops at the first error, keeps no place for each record, and has no `$GENERATE`.
//!
//! A file that both NSD and BIND load is loaded here too, and answered as NSD answers from it; `tests/zonefiles/peers`
//! compares the three. What they pass over with a warning is passed over with a warning ([`Read::warnings`]). Signed
//! zones are refused, because DNSSEC is not served: a validator that finds DNSKEY records without signatures rejects
//! every answer. [`Dnssec::Strip`] reads them without their signatures.

mod entries;
mod folder;
mod generate;
mod whole;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use folder::Folder;
pub(crate) use folder::{Noted, digest, read_file};
use store::model::{DomainName, Zone};

/// More errors than this are not looked for.
pub const MAX_ERRORS: usize = 20;
/// More warnings than this are only counted.
pub const MAX_WARNINGS: usize = 20;
/// Files may include files this many levels deep, as many as NSD follows.
pub const MAX_DEPTH: usize = 10;
/// All files of one zone together may have this many octets, what `$GENERATE` makes included.
pub const MAX_OCTETS: usize = 64 << 20;

/// Where included files come from.
pub trait Files {
    /// The content of the file a `$INCLUDE` names, of at most `most` octets.
    ///
    /// # Errors
    /// Why it cannot be read, as text.
    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, String>;
}

/// No files: every `$INCLUDE` is an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _path: &str, _most: usize) -> Result<Vec<u8>, String> {
        Err("no other file can be had here".to_owned())
    }
}

/// An error in a zone file. Prints as one line: `example.com.zone:12:5: "x" is not a record type; expected …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneFileError {
    /// The file.
    pub file: Arc<str>,
    /// The line, 1-based; absent for the file as a whole.
    pub line: Option<u32>,
    /// The word's place in its line, 1-based; absent where no one word is wrong.
    pub column: Option<u32>,
    /// What is wrong, with the word.
    pub problem: String,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for ZoneFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        write!(f, ": {}", self.problem)?;
        if self.expected.is_empty() || self.problem.ends_with(&self.expected) {
            return Ok(());
        }
        write!(f, "; expected {}", self.expected)
    }
}

/// Reads the zone `origin` from a text; `file` is its name in errors.
///
/// Every name server is in `nameservers`, every other record in `records`, addresses of name servers too. A
/// record that is there twice is taken once (RFC 2181 §5).
///
/// # Errors
/// Every error, up to [`MAX_ERRORS`], in the order of the file.
pub fn read(
    file: &str,
    text: &[u8],
    origin: &DomainName,
    files: &dyn Files,
) -> Result<Zone, Vec<ZoneFileError>> {
    read_placed(file, text, origin, files, Dnssec::Refuse).map(|read| read.zone)
}

/// What is done with a signed zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dnssec {
    /// It is an error.
    #[default]
    Refuse,
    /// Signatures, keys and proofs of absence are left out, with what depends on them ([`Read::stripped`]).
    Strip,
}

/// A zone that was read from a file.
#[derive(Clone, Debug)]
pub struct Read {
    /// The zone.
    pub zone: Zone,
    /// Where its parts are in the file.
    pub places: Places,
    /// What was passed over or taken in another way than it is written; at most [`MAX_WARNINGS`] and one that counts
    /// the rest.
    pub warnings: Vec<ZoneFileError>,
    /// How many records of which type [`Dnssec::Strip`] left out.
    pub stripped: BTreeMap<u16, usize>,
}

/// As [`read`], with places and warnings.
///
/// # Errors
/// As [`read`].
pub fn read_placed(
    file: &str,
    text: &[u8],
    origin: &DomainName,
    files: &dyn Files,
    dnssec: Dnssec,
) -> Result<Read, Vec<ZoneFileError>> {
    let found = entries::read(file, text, origin, files)?;
    whole::zone(origin, found, dnssec)
}

/// The zone that a file named `ORIGIN.zone` holds; `None` for another name.
#[must_use]
pub fn origin_of(file: &Path) -> Option<DomainName> {
    let name = file.file_name()?.to_str()?;
    DomainName::below(None, name.strip_suffix(".zone")?.as_bytes()).ok().flatten()
}

/// Reads a zone file of the disk, included files from its folder.
///
/// # Errors
/// As [`read`]; one error without a line where the file cannot be read.
pub fn read_from(path: &Path, origin: &DomainName, dnssec: Dnssec) -> Result<Read, Vec<ZoneFileError>> {
    read_with_parts(path, origin, dnssec).0
}

/// As [`read_from`], with the paths of the files that were included, also where there are errors.
pub fn read_with_parts(
    path: &Path,
    origin: &DomainName,
    dnssec: Dnssec,
) -> (Result<Read, Vec<ZoneFileError>>, Vec<PathBuf>) {
    let file = path.display().to_string();
    let text = match read_file(path, MAX_OCTETS) {
        Ok(text) => text,
        Err(problem) => {
            let expected = "a zone file (RFC 1035 §5)".to_owned();
            let error =
                ZoneFileError { file: file.as_str().into(), line: None, column: None, problem, expected };
            return (Err(vec![error]), Vec::new());
        }
    };
    let files = Noted::new(Folder::of(path));
    let read = read_placed(&file, &text, origin, &files, dnssec);
    let (folder, parts) = files.into_parts();
    (read, parts.iter().map(|(part, _)| folder.path_of(part)).collect())
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<str>,
    /// The line, 1-based.
    pub line: u32,
}

/// Where the parts of a zone are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The SOA.
    pub soa: Place,
    /// Each of `nameservers`.
    pub nameservers: Vec<Place>,
    /// Each of `records`.
    pub records: Vec<Place>,
}

#[cfg(test)]
mod tests;
