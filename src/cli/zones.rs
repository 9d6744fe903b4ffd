//! Zone files on the command line: `import zone`, and `file:` in Zone documents.
//!
//! Control never reads a zone file: this side reads it and sends its records. The documents go out with every field
//! on the line where people wrote it, so that control's mistakes name the right lines; those about a record of the
//! zone file are pointed to its line there afterwards ([`Origins`]).

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use dns::zonefile::{self, Place, Places};
use store::model::{
    Document, DomainName, Mistake, Mistakes, Zone, encode,
    tree::{Entry, Node, Value},
    yaml,
};

use super::{Failure, Outcome, commands::print};
use crate::admin::FileText;

/// Prints the Zone document of a zone file, or writes it.
pub(super) fn import(file: &Path, origin: &str, output: Option<&Path>, json: bool) -> Outcome {
    let wrong = |expected| Failure::Wrong(format!("--origin {origin:?}: expected {expected}"));
    let origin: DomainName = origin.parse().map_err(wrong)?;
    let (zone, _) = zonefile::read_from(file, &origin).map_err(|mistakes| {
        let mistakes = mistakes.into_iter().map(|it| of_zone_file(it, "")).collect();
        Failure::Mistaken { mistakes, error: String::new() }
    })?;
    let zone = Document::Zone(zone);
    let text = if json { format!("{}\n", encode::json(&zone)) } else { encode::yaml(&zone) };
    let Some(output) = output else { return print(&text) };
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", output.display()));
    std::fs::File::create(output).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}

/// Looks for mistakes in a file called `ORIGIN.zone`.
pub(super) fn check(file: &str) -> Vec<Mistake> {
    let Some(origin) = zonefile::origin_of(Path::new(file)) else {
        let (problem, expected) =
            ("the file's name is not that of a zone", "a name such as example.com.zone");
        let (file, problem, expected) = (file.into(), problem.to_owned(), expected.to_owned());
        return vec![Mistake {
            file,
            line: None,
            document: String::new(),
            field: String::new(),
            problem,
            expected,
        }];
    };
    let found = zonefile::read_from(Path::new(file), &origin).err().unwrap_or_default();
    found.into_iter().map(|it| of_zone_file(it, "")).collect()
}

/// Where the records came from that stand in no document people wrote.
#[derive(Debug, Default)]
pub(super) struct Origins(Vec<Origin>);

/// The records of one document.
#[derive(Debug)]
struct Origin {
    /// The document's file.
    file: String,
    /// What mistakes call it.
    document: String,
    /// How many records were written in the document itself; those of the zone file follow.
    own: usize,
    places: Places,
}

impl Origins {
    /// Points mistakes about what came from a zone file to its line there.
    pub(super) fn point_out(&self, mistakes: &mut [Mistake]) {
        for mistake in mistakes {
            let of = |it: &&Origin| *it.file == *mistake.file && it.document == mistake.document;
            if let Some(place) = self.0.iter().find(of).and_then(|origin| origin.place(&mistake.field)) {
                mistake.file = Arc::clone(&place.file);
                mistake.line = Some(place.line);
                mistake.field.clear();
            }
        }
    }

    /// As [`Origins::point_out`], in what control answered.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused { mut mistakes, error } => {
                self.point_out(&mut mistakes);
                Failure::Refused { mistakes, error }
            }
            other => other,
        }
    }
}

impl Origin {
    fn place(&self, field: &str) -> Option<&Place> {
        let (list, rest) = field.split_once('[').unwrap_or((field, ""));
        let number = || rest.split_once(']')?.0.parse::<usize>().ok();
        match list {
            "records" => self.places.records.get(number()?.checked_sub(self.own)?),
            "nameservers" => self.places.nameservers.get(number()?),
            _ => list.starts_with("soa").then_some(&self.places.soa),
        }
    }
}

/// The zone files that documents name.
pub(super) fn named_files(files: &[FileText]) -> Vec<PathBuf> {
    let mut named = Vec::new();
    for file in files.iter().filter(|it| it.text.contains("file")) {
        let trees = yaml::parse(&file.text, &Mistakes::new(file.name.as_str().into()));
        let path = |tree: &Node| word(tree, "file").map(|(path, _)| beside(&file.name, path));
        named.extend(trees.iter().filter(|tree| names_a_file(tree)).filter_map(path));
    }
    named
}

/// Puts the records of zone files into the documents that name them.
///
/// # Errors
/// Every mistake in the zone files, and about them.
pub(super) fn expand(files: Vec<FileText>) -> Result<(Vec<FileText>, Origins), Vec<Mistake>> {
    let (mut origins, mut wrong) = (Origins::default(), Vec::new());
    let expanded = files.into_iter().map(|file| expand_file(file, &mut origins, &mut wrong)).collect();
    if wrong.is_empty() { Ok((expanded, origins)) } else { Err(wrong) }
}

fn expand_file(file: FileText, origins: &mut Origins, wrong: &mut Vec<Mistake>) -> FileText {
    // Most files name no zone file, and go out letter by letter.
    if !file.text.contains("file") || file.name.ends_with(".toml") || file.name.ends_with(".zone") {
        return file;
    }
    let mistakes = Mistakes::new(file.name.as_str().into());
    let mut trees = yaml::parse(&file.text, &mistakes);
    if mistakes.count() > 0 || !trees.iter().any(names_a_file) {
        return file;
    }
    for tree in trees.iter_mut().filter(|tree| names_a_file(tree)) {
        if let Some(origin) = expand_zone(tree, &file.name, wrong) {
            origins.0.push(origin);
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

/// Replaces the `file` of a Zone by what it says.
fn expand_zone(tree: &mut Node, name: &str, wrong: &mut Vec<Mistake>) -> Option<Origin> {
    let ((path, line), (apex, _)) = (word(tree, "file")?, word(tree, "name")?);
    let (apex, path) = (apex.parse::<DomainName>().ok()?, beside(name, path));
    let document = format!("Zone {apex}");
    let before = wrong.len();
    let mut mistake = |line: u32, field: &str, problem: String, expected: &str| {
        let (file, line) = (name.into(), Some(line));
        let (document, field, expected) = (document.clone(), field.to_owned(), expected.to_owned());
        wrong.push(Mistake { file, line, document, field, problem, expected });
    };
    for key in ["nameservers", "soa", "ttl", "negative_ttl"] {
        if let Some(entry) = tree.entry(key) {
            mistake(entry.line, key, "stands in the zone file".to_owned(), "only `records` beside `file`");
        }
    }
    let (zone, places) = match zonefile::read_from(&path, &apex) {
        Ok(read) => read,
        Err(mistakes) => {
            wrong.extend(mistakes.into_iter().map(|it| of_zone_file(it, &document)));
            return None;
        }
    };
    let size = encode::yaml(&Document::Zone(zone.clone())).len();
    if size > yaml::MAX_DOCUMENT {
        let problem =
            format!("the zone file makes a document of {size} bytes, more than {}", yaml::MAX_DOCUMENT);
        mistake(line, "file", problem, "a smaller zone, or the file in the zones_dir of the nodes");
    }
    if wrong.len() > before {
        return None;
    }
    let own = merge(tree, zone, line);
    Some(Origin { file: name.to_owned(), document, own, places })
}

fn of_zone_file(it: zonefile::Mistake, document: &str) -> Mistake {
    let (document, field) = (document.to_owned(), String::new());
    Mistake { file: it.file, line: it.line, document, field, problem: it.problem, expected: it.expected }
}

/// A path relative to the folder of the file it stands in.
fn beside(name: &str, path: &str) -> PathBuf {
    Path::new(name).parent().map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
}

/// Puts a zone's fields in the place of `file`, its records behind those that are there. Gives their number.
fn merge(tree: &mut Node, zone: Zone, line: u32) -> usize {
    let Value::Map(entries) = &mut tree.value else { return 0 };
    let Value::Map(said) = encode::tree(&Document::Zone(zone)).value else { return 0 };
    let mut said: Vec<Entry> =
        said.into_iter().filter(|it| !matches!(it.key.as_str(), "kind" | "name")).collect();
    said.iter_mut().for_each(|entry| put_on(entry, line));
    let own = entries.iter_mut().find(|entry| entry.key == "records");
    let mut count = 0;
    if let Some(own) = own
        && let Value::List(items) = &mut own.value.value
        && let Some(at) = said.iter().position(|entry| entry.key == "records")
        && let Value::List(more) = said.remove(at).value.value
    {
        count = items.len();
        // Where the list ends before `file`, the lines of what follows go on growing.
        let last = items.last().map_or(own.line, deepest);
        items.extend(more.into_iter().map(|mut item| {
            put_node_on(&mut item, last);
            item
        }));
    }
    if let Some(at) = entries.iter().position(|entry| entry.key == "file") {
        entries.splice(at..=at, said);
    }
    count
}

/// The last line on which something of a node stands.
fn deepest(node: &Node) -> u32 {
    match &node.value {
        Value::Scalar(_) => node.line,
        Value::List(items) => items.last().map_or(node.line, deepest),
        Value::Map(entries) => {
            entries.last().map_or(node.line, |entry| deepest(&entry.value).max(entry.line))
        }
    }
}

fn put_on(entry: &mut Entry, line: u32) {
    entry.line = line;
    put_node_on(&mut entry.value, line);
}

fn put_node_on(node: &mut Node, line: u32) {
    node.line = line;
    match &mut node.value {
        Value::Scalar(_) => {}
        Value::List(items) => items.iter_mut().for_each(|item| put_node_on(item, line)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| put_on(entry, line)),
    }
}

#[cfg(test)]
mod tests {
    use store::model::{self, Moment, Placed, World};

    use super::*;

    const ZONE: &str = "$TTL 1h\n@ SOA ns1 h 7 2h 10m 2w 1m\n@ NS ns1\nns1 A 192.0.2.53\n";

    /// Documents in a folder with a zone file, as `check` reads them.
    fn checked(documents: &str, zone: &str) -> Result<Vec<Document>, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("zones")).unwrap();
        std::fs::write(folder.path().join("zones/z"), zone).unwrap();
        let name = folder.path().join("w.yaml").display().to_string();
        let prefix = format!("{}/", folder.path().display());
        let shown = |mistakes: Vec<Mistake>| -> Vec<String> {
            mistakes.iter().map(|it| it.to_string().replace(&prefix, "")).collect()
        };
        let files = vec![FileText { name: name.clone(), text: documents.to_owned() }];
        let (files, origins) = expand(files).map_err(shown)?;
        let placed = model::parse(&name, &files[0].text).map_err(shown)?;
        let values = placed.iter().map(|it| it.value.clone()).collect();
        let placed = placed.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        match World::check(placed, Moment(0)) {
            Ok(_) => Ok(values),
            Err(mut mistakes) => {
                origins.point_out(&mut mistakes);
                Err(shown(mistakes))
            }
        }
    }

    #[test]
    fn what_is_imported_is_what_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("z"), folder.path().join("z.yaml"));
        std::fs::write(
            &file,
            format!("{ZONE}a\\.b 5 TXT \"x;\" y\n_443._tcp TLSA 3 1 1 0a\n@ MX 0 .\nd DNAME x.org.\n"),
        )
        .unwrap();
        import(&file, "example.com", Some(&out), false).unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        let read = model::parse("z", &text).unwrap().remove(0).value;
        let (zone, _) = zonefile::read_from(&file, &"example.com".parse().unwrap()).unwrap();
        assert_eq!(read, Document::Zone(zone), "{text}");
    }

    #[test]
    fn a_file_and_records_beside_it_are_one_zone() {
        let documents = "kind: Zone\nname: example.com\nrecords:\n  - { name: own, type: A, data: 192.0.2.9 }\nfile: zones/z\n";
        let read = checked(documents, &format!("{ZONE}www A 192.0.2.1\n")).unwrap();
        let Document::Zone(zone) = &read[0] else { panic!("{read:?}") };
        let names: Vec<_> = zone.records.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["own.example.com", "ns1.example.com", "www.example.com"]);
        assert_eq!(zone.soa.as_ref().unwrap().serial, Some(7));
    }

    #[test]
    fn mistakes_name_the_line_that_is_wrong() {
        let world = "kind: Site\nname: bj\n---\nkind: Zone\nname: example.com\nfile: zones/z\n---\n\
                     kind: Cluster\nname: main\nzone: example.com\ngateway_domain: gw.example.com\n\
                     gateways: { bj: { a: [203.0.113.10] } }\n";
        assert!(checked(world, ZONE).is_ok());
        let cases = [
            (world.to_owned(), "x A y\n", "zones/z:5: Zone example.com: \"y\" is not an IPv4 address"),
            (
                world.to_owned(),
                "gw A 192.0.2.1\n",
                "zones/z:5: Zone example.com: gw.example.com is steered, so",
            ),
            (
                world.replace("zone: example.com", "zone: b"),
                "",
                "w.yaml:10: Cluster main: zone: there is no Zone b",
            ),
            (world.replace("zones/z", "nowhere"), "", "nowhere: Zone example.com: nowhere: No such file"),
            (
                world.replace("zones/z", "zones/z\nttl: 1h"),
                "",
                "w.yaml:7: Zone example.com: ttl: stands in the zone file",
            ),
            (
                world.replace("zones/z", "zones/z\nrecords: [{ name: own, type: A, data: x }]"),
                "",
                "w.yaml:7: Zone example.com: records[0].data: \"x\" is not an IPv4 address",
            ),
            (
                world.replace("zones/z", "zones/z\nrecords: [{ name: gw, type: A, data: 192.0.2.1 }]"),
                "a CNAME gw\n",
                "w.yaml:7: Zone example.com: records[0]: gw.example.com is steered",
            ),
        ];
        for (documents, more, expected) in cases {
            let found = checked(&documents, &format!("{ZONE}{more}")).unwrap_err();
            assert!(found[0].starts_with(expected), "{documents}{more}: {found:#?}");
        }
    }

    #[test]
    fn zone_files_are_checked_by_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("example.com.zone"), ZONE).unwrap();
        std::fs::write(path("b.zone"), format!("{ZONE}x A y\n")).unwrap();
        assert_eq!(check(&path("example.com.zone")), []);
        assert!(check(&path("b.zone"))[0].to_string().contains("b.zone:5: \"y\" is not an IPv4 address"));
        assert!(check(&path("a..b.zone"))[0].to_string().contains("a name such as example.com.zone"));
    }

    #[test]
    fn a_zone_too_large_for_a_document_says_where_it_fits() {
        let many: String = (0..20_000).map(|n| format!("h{n} A 192.0.2.1\n")).collect();
        let found =
            checked("kind: Zone\nname: example.com\nfile: zones/z\n", &format!("{ZONE}{many}")).unwrap_err();
        assert!(found[0].contains("zones_dir"), "{found:#?}");
    }
}
