//! `file:` in Zone documents: the records of the zone file are put into the document before it is sent.
//!
//! Control never reads a zone file: the command line reads it and sends its records. In the documents that are sent, every
//! field is on the line where it was written, so that control's errors name the right lines. Errors about a record of the
//! zone file get its line there afterwards ([`Origins`]).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use dns::zonefile::{self, Dnssec, Place, Places, Read};
use store::model::{
    Document, DomainName, InputError, InputErrors, Zone, encode,
    tree::{Entry, Node, Value},
    yaml,
};

use super::read::{HOW_TO_SPLIT, of_zone_file, placed, too_large, without_occluded};
use crate::{api::FileText, cli::failure::Failure};

/// Where the records came from that were read from zone files, and the warnings about these files.
#[derive(Debug, Default)]
pub(in crate::cli) struct Origins {
    all: Vec<Origin>,
    /// What was left out, or is answered in another way than the file says.
    pub(in crate::cli) warnings: Vec<InputError>,
}

/// The records of one document.
#[derive(Debug)]
struct Origin {
    /// The document's file.
    file: String,
    /// The name of the document in errors.
    document: String,
    /// How many records the document itself has; those of the zone file follow.
    own: usize,
    places: Places,
}

impl Origins {
    /// Gives errors about something from a zone file their line there.
    pub(in crate::cli) fn point_out(&self, errors: &mut [InputError]) {
        for error in errors {
            let of = |it: &&Origin| *it.file == *error.file && it.document == error.document;
            if let Some(place) = self.all.iter().find(of).and_then(|origin| origin.place(&error.field)) {
                error.file = Arc::clone(&place.file);
                error.line = Some(place.line);
                error.field.clear();
            }
        }
    }

    /// As [`Origins::point_out`], for the answer of control.
    pub(in crate::cli) fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused { mut errors, summary } => {
                self.point_out(&mut errors);
                Failure::Refused { errors, summary }
            }
            other => other,
        }
    }
}

impl Origin {
    fn place(&self, field: &str) -> Option<&Place> {
        placed(&self.places, self.own, field)
    }
}

/// The zone files that documents name, and the files that these include.
pub(in crate::cli) fn named_files(files: &[FileText]) -> Vec<PathBuf> {
    let mut named = Vec::new();
    for file in files.iter().filter(|it| it.text.contains("file")) {
        let trees = yaml::parse(&file.text, &InputErrors::new(file.name.as_str().into()));
        for tree in trees.iter().filter(|tree| names_a_file(tree)) {
            let (Some((path, _)), Some((apex, _))) = (word(tree, "file"), word(tree, "name")) else {
                continue;
            };
            let path = relative_to(&file.name, path);
            if let Ok(apex) = apex.parse() {
                named.extend(zonefile::read_with_parts(&path, &apex, Dnssec::Refuse).1);
            }
            named.push(path);
        }
    }
    named
}

/// Puts the records of zone files into the documents that name them.
///
/// # Errors
/// Every error in the zone files, and about them.
pub(in crate::cli) fn expand(files: Vec<FileText>) -> Result<(Vec<FileText>, Origins), Vec<InputError>> {
    let (mut origins, mut wrong) = (Origins::default(), Vec::new());
    let expanded = files.into_iter().map(|file| expand_file(file, &mut origins, &mut wrong)).collect();
    if wrong.is_empty() { Ok((expanded, origins)) } else { Err(wrong) }
}

fn expand_file(file: FileText, origins: &mut Origins, wrong: &mut Vec<InputError>) -> FileText {
    // Most files name no zone file, and are sent unchanged.
    if !file.text.contains("file") || file.name.ends_with(".toml") || file.name.ends_with(".zone") {
        return file;
    }
    let errors = InputErrors::new(file.name.as_str().into());
    let mut trees = yaml::parse(&file.text, &errors);
    if errors.count() > 0 || !trees.iter().any(names_a_file) {
        return file;
    }
    for tree in trees.iter_mut().filter(|tree| names_a_file(tree)) {
        if let Some(origin) = expand_zone(tree, &file.name, &mut origins.warnings, wrong) {
            origins.all.push(origin);
        }
    }
    FileText { text: encode::placed(&trees), ..file }
}

fn word<'t>(tree: &'t Node, key: &str) -> Option<(&'t str, u32)> {
    let entry = tree.entry(key)?;
    match &entry.value.value {
        Value::Scalar(scalar) if !scalar.is_null() => Some((&scalar.text, entry.line)),
        _ => None,
    }
}

/// True for a Zone with a file and a name that can be read.
fn names_a_file(tree: &Node) -> bool {
    let zone = word(tree, "kind").is_some_and(|(kind, _)| kind == "Zone");
    let named = word(tree, "name").is_some_and(|(name, _)| name.parse::<DomainName>().is_ok());
    zone && named && word(tree, "file").is_some()
}

/// Replaces the `file` of a Zone by the content of that file.
fn expand_zone(
    tree: &mut Node,
    name: &str,
    warnings: &mut Vec<InputError>,
    wrong: &mut Vec<InputError>,
) -> Option<Origin> {
    let ((path, line), (apex, _)) = (word(tree, "file")?, word(tree, "name")?);
    let (apex, path) = (apex.parse::<DomainName>().ok()?, relative_to(name, path));
    let document = format!("Zone {apex}");
    let before = wrong.len();
    let mut error = |line: u32, field: &str, problem: String, expected: &str| {
        let (file, line) = (name.into(), Some(line));
        let (document, field, expected) = (document.clone(), field.to_owned(), expected.to_owned());
        wrong.push(InputError { file, line, document, field, problem, expected });
    };
    for key in ["nameservers", "soa", "ttl", "negative_ttl"] {
        if let Some(entry) = tree.entry(key) {
            error(entry.line, key, "is set by the zone file".to_owned(), "only `records` beside `file`");
        }
    }
    let read = match zonefile::read_from(&path, &apex, Dnssec::Refuse) {
        Ok(read) => read,
        Err(errors) => {
            wrong.extend(errors.into_iter().map(|it| of_zone_file(it, &document)));
            return None;
        }
    };
    let (Read { zone, places, warnings: passed_over, .. }, occluded) = without_occluded(read);
    warnings.extend(passed_over.into_iter().chain(occluded).map(|it| of_zone_file(it, &document)));
    let size = encode::yaml(&Document::Zone(zone.clone())).len();
    if size > yaml::MAX_DOCUMENT {
        error(line, "file", too_large(size), HOW_TO_SPLIT);
    }
    if wrong.len() > before {
        return None;
    }
    let own = merge(tree, zone, line);
    Some(Origin { file: name.to_owned(), document, own, places })
}

/// A path that is relative to the folder of the file in which it is written.
fn relative_to(name: &str, path: &str) -> PathBuf {
    Path::new(name).parent().map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
}

/// Replaces `file` by the fields of a zone; its records are appended to those of the document. Returns how many records the
/// document has itself.
fn merge(tree: &mut Node, zone: Zone, line: u32) -> usize {
    let Value::Map(entries) = &mut tree.value else { return 0 };
    let Value::Map(said) = encode::tree(&Document::Zone(zone)).value else { return 0 };
    let mut said: Vec<Entry> =
        said.into_iter().filter(|it| !matches!(it.key.as_str(), "kind" | "name")).collect();
    said.iter_mut().for_each(|entry| set_lines(entry, line));
    let own = entries.iter_mut().find(|entry| entry.key == "records");
    let mut count = 0;
    if let Some(own) = own
        && let Value::List(items) = &mut own.value.value
        && let Some(at) = said.iter().position(|entry| entry.key == "records")
        && let Value::List(more) = said.remove(at).value.value
    {
        count = items.len();
        // If the list ends before `file`, the lines after it must not go back.
        let last = items.last().map_or(own.line, last_line);
        items.extend(more.into_iter().map(|mut item| {
            set_node_lines(&mut item, last);
            item
        }));
    }
    if let Some(at) = entries.iter().position(|entry| entry.key == "file") {
        entries.splice(at..=at, said);
    }
    count
}

/// The last line of a node.
fn last_line(node: &Node) -> u32 {
    match &node.value {
        Value::Scalar(_) => node.line,
        Value::List(items) => items.last().map_or(node.line, last_line),
        Value::Map(entries) => {
            entries.last().map_or(node.line, |entry| last_line(&entry.value).max(entry.line))
        }
    }
}

fn set_lines(entry: &mut Entry, line: u32) {
    entry.line = line;
    set_node_lines(&mut entry.value, line);
}

fn set_node_lines(node: &mut Node, line: u32) {
    node.line = line;
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| set_node_lines(item, line)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| set_lines(entry, line)),
    }
}
