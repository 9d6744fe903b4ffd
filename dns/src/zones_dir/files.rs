//! The files of a folder: which there are, what they hold, and whether they changed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use store::{model::DomainName, snapshot::ZoneView};

use crate::zonefile::{self, Dnssec, Files as _, Folder, MAX_OCTETS, Noted, digest, read_file};

/// A file that is to be a zone.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    /// The zone of its name, or what is wrong with the name.
    pub(super) origin: Result<DomainName, String>,
}

/// Every `ORIGIN.zone` of a folder, and the other files in it, both by name. Files whose names begin with a dot
/// are hidden, and are not among them.
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
    /// The files of the zone's folder that are part of it.
    pub(super) fn parts(&self, folder: &Folder) -> Vec<PathBuf> {
        self.included.iter().map(|(name, _)| folder.path_of(name)).collect()
    }

    /// True if it would be read the same again.
    fn still_holds(&self, content: u64, folder: &Folder) -> bool {
        let same = |(name, content): &(String, u64)| {
            folder.read(name, MAX_OCTETS).is_ok_and(|text| digest(&text) == *content)
        };
        self.content == content && self.included.iter().all(same)
    }
}

/// Reads a zone, or finds that it is the one from before. With the files that it includes, also where it has errors.
pub(super) fn load(
    path: &Path,
    origin: &DomainName,
    before: Option<&Loaded>,
) -> (Result<Loaded, Vec<String>>, Vec<PathBuf>) {
    let text = match read_file(path, MAX_OCTETS) {
        Ok(text) => text,
        Err(problem) => return (Err(vec![problem]), Vec::new()),
    };
    let (content, folder) = (digest(&text), Folder::of(path));
    if let Some(before) = before.filter(|before| before.still_holds(content, &folder)) {
        return (Ok(before.clone()), before.parts(&folder));
    }
    let files = Noted::new(folder);
    let lines =
        |errors: Vec<zonefile::ZoneFileError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let read = zonefile::read_placed(&path.display().to_string(), &text, origin, &files, Dnssec::Refuse);
    let (folder, included) = files.into_parts();
    let parts = included.iter().map(|(name, _)| folder.path_of(name)).collect();
    let loaded = read.map_err(lines).map(|zonefile::Read { zone, warnings, .. }| {
        let serial = zone.soa.as_ref().and_then(|soa| soa.serial).unwrap_or_default();
        let view = Arc::new(ZoneView::new(zone, serial));
        Loaded { view, content, included: included.into(), warnings: lines(warnings).into() }
    });
    (loaded, parts)
}
