//! The files of a folder: which there are, what they say, and whether they said so before.

use std::{
    cell::RefCell,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use store::{model::DomainName, snapshot::ZoneView};

use crate::zonefile::{self, Dnssec, Files, Folder, MOST_OCTETS, read_file};

/// A file that is to be a zone.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    /// What its name says, or what is wrong with that.
    pub(super) origin: Result<DomainName, String>,
}

/// Every `ORIGIN.zone` of a folder, and the other files in it, both by name. What begins with a dot is hidden, and
/// none of them.
pub(super) fn list(dir: &Path) -> io::Result<(Vec<Listed>, Vec<PathBuf>)> {
    let (mut listed, mut others) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let Some(stem) = name.strip_suffix(".zone") else {
            if path.is_file() {
                others.push(path);
            }
            continue;
        };
        let origin = zonefile::origin_of(&path);
        let problem = || format!("{}: {stem:?} is not a domain name; expected ORIGIN.zone", path.display());
        let origin = origin.ok_or_else(problem);
        listed.push(Listed { path, origin });
    }
    listed.sort_by(|a, b| a.path.cmp(&b.path));
    others.sort();
    Ok((listed, others))
}

/// A zone, and what it was read from.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) view: Arc<ZoneView>,
    content: u64,
    /// The files it includes, with their content.
    included: Arc<[(String, u64)]>,
    /// What was passed over in them, a line each.
    pub(super) warnings: Arc<[String]>,
}

impl Loaded {
    /// True if this file of the zone's folder is part of it.
    pub(super) fn includes(&self, folder: &Path, file: &Path) -> bool {
        self.included.iter().any(|(name, _)| folder.join(name) == file)
    }

    /// True if it would be read the same again.
    fn still_holds(&self, content: u64, folder: &Folder) -> bool {
        let same = |(name, content): &(String, u64)| {
            folder.read(name, MOST_OCTETS).is_ok_and(|text| digest(&text) == *content)
        };
        self.content == content && self.included.iter().all(same)
    }
}

/// Reads a zone, or finds that it is the one from before.
pub(super) fn load(path: &Path, origin: &DomainName, before: Option<&Loaded>) -> Result<Loaded, Vec<String>> {
    let text = read_file(path, MOST_OCTETS).map_err(|problem| vec![problem])?;
    let (content, folder) = (digest(&text), Folder::of(path));
    if let Some(before) = before.filter(|before| before.still_holds(content, &folder)) {
        return Ok(before.clone());
    }
    let files = Noted { folder, included: RefCell::default() };
    let lines =
        |mistakes: Vec<zonefile::Mistake>| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let read = zonefile::read_placed(&path.display().to_string(), &text, origin, &files, Dnssec::Refuse);
    let zonefile::Read { zone, warnings, .. } = read.map_err(lines)?;
    let warnings = lines(warnings).into();
    let serial = zone.soa.as_ref().and_then(|soa| soa.serial).unwrap_or_default();
    let view = Arc::new(ZoneView::new(zone, serial));
    Ok(Loaded { view, content, included: files.included.into_inner().into(), warnings })
}

/// Tells one content from another: not against an adversary, who could as well write the file.
fn digest(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A folder that notes what was read of it.
struct Noted {
    folder: Folder,
    included: RefCell<Vec<(String, u64)>>,
}

impl Files for Noted {
    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, String> {
        let text = self.folder.read(path, most)?;
        self.included.borrow_mut().push((path.to_owned(), digest(&text)));
        Ok(text)
    }
}
