//! Zone files on the command line: `import zone`, and `file:` in Zone documents.
//!
//! Control never reads a zone file: this side reads it and sends its records. The documents go out with every field
//! on the line where people wrote it, so that control's mistakes name the right lines; those about a record of the
//! zone file are pointed to its line there afterwards ([`Origins`]).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use dns::zonefile::{self, Dnssec, Place, Places, Read};
use store::{
    handle::Clock,
    model::{
        self, Document, DomainName, InputError, InputErrors, Placed, RecordData, StaticRecord, World, Zone,
        encode, rdata,
        tree::{Entry, Node, Value},
        yaml,
    },
};

use super::{Failure, Outcome, commands::print, show};
use crate::api::FileText;

/// How a zone file is imported.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Import {
    /// Of a signed zone everything but its signatures.
    pub(super) strip_dnssec: bool,
    /// The document as JSON.
    pub(super) json: bool,
}

/// Prints the Zone document of a zone file, or writes it. What is left out goes to standard error, and a document that
/// `apply` would refuse is not printed.
pub(super) fn import(file: &Path, origin: &str, how: Import, output: Option<&Path>) -> Outcome {
    let wrong = |expected| Failure::Wrong(format!("--origin {origin:?}: expected {expected}"));
    let origin: DomainName = origin.parse().map_err(wrong)?;
    let dnssec = if how.strip_dnssec { Dnssec::Strip } else { Dnssec::Refuse };
    let mistaken = |mistakes| Failure::InvalidInput { mistakes, error: String::new() };
    let all = |found: Vec<zonefile::ZoneFileError>| {
        found.into_iter().map(|it| of_zone_file(it, "")).collect::<Vec<_>>()
    };
    let read = zonefile::read_from(file, &origin, dnssec).map_err(|found| mistaken(all(found)))?;
    let (mut read, occluded) = without_occluded(read);
    let mut warnings = all(std::mem::take(&mut read.warnings));
    warnings.extend(all(occluded));
    say(&show::warnings(&warnings));
    say(&stripped(&origin, &read.stripped));
    let (zone, places) = (Document::Zone(read.zone), read.places);
    applicable(file, &encode::yaml(&zone), &places).map_err(mistaken)?;
    let text = if how.json { format!("{}\n", encode::json(&zone)) } else { encode::yaml(&zone) };
    let Some(output) = output else { return print(&text) };
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", output.display()));
    std::fs::File::create(output).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}

/// Writes lines to standard error. Whether they can be written changes nothing.
fn say(lines: &str) {
    let _ = std::io::stderr().write_all(lines.as_bytes());
}

/// What `--strip-dnssec` left out, for people; empty for nothing.
fn stripped(origin: &DomainName, counts: &BTreeMap<u16, usize>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let counts: Vec<_> =
        counts.iter().map(|(kind, count)| format!("{count} {}", rdata::mnemonic(*kind))).collect();
    format!(
        "left out: {}\nBefore this zone is served, remove the DS record of {origin} at its parent and wait as long as \
         its TTL: while it is there, validating resolvers reject every answer.\n",
        counts.join(", ")
    )
}

/// Whether `apply` takes a document by itself; if not, why, by the lines of the zone file.
fn applicable(file: &Path, text: &str, places: &Places) -> Result<(), Vec<InputError>> {
    if text.len() > yaml::MAX_DOCUMENT {
        let (problem, expected) = (too_large(text.len()), FITS.to_owned());
        let (file, document, field) = (file.display().to_string().into(), String::new(), String::new());
        return Err(vec![InputError { file, line: None, document, field, problem, expected }]);
    }
    let now = Clock::default().now();
    let checked = model::parse("z", text).and_then(|parsed| {
        let placed = parsed.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        World::check(placed, now).map(drop)
    });
    let at_its_line = |mut it: InputError| {
        let place = placed(places, 0, &it.field);
        it.file = place.map_or_else(|| file.display().to_string().into(), |place| Arc::clone(&place.file));
        it.line = place.map(|place| place.line);
        it.field.clear();
        it
    };
    checked.map_err(|mistakes| mistakes.into_iter().map(at_its_line).collect())
}

const FITS: &str = "a smaller zone, split by delegations, or the file itself in the zones_dir of the nodes, which has no \
                    such limit (`file:` in a document has the same)";

fn too_large(bytes: usize) -> String {
    format!("the zone file makes a document of {bytes} bytes, more than {}", yaml::MAX_DOCUMENT)
}

/// Takes out what lies below a delegation of the zone itself and is no delegation or glue: it is never answered, and
/// in a document it would be a mistake.
fn without_occluded(mut read: Read) -> (Read, Vec<zonefile::ZoneFileError>) {
    let apex = read.zone.name.clone();
    let ns = |it: &&StaticRecord| matches!(it.data, RecordData::Ns(_)) && it.name != apex;
    let cuts: HashSet<DomainName> = read.zone.records.iter().filter(ns).map(|it| it.name.clone()).collect();
    let above = |name: &DomainName| {
        std::iter::successors(name.parent(), DomainName::parent)
            .take_while(|above| above.is_within(&apex))
            .find(|above| cuts.contains(above))
    };
    let mut warnings = Vec::new();
    let records =
        std::mem::take(&mut read.zone.records).into_iter().zip(std::mem::take(&mut read.places.records));
    for (record, place) in records {
        let glue = matches!(record.data, RecordData::A(_) | RecordData::Aaaa(_) | RecordData::Ns(_));
        match above(&record.name).filter(|_| !glue) {
            Some(cut) => {
                let problem = format!("{} lies below the delegation of {cut}, and is left out", record.name);
                let (file, line) = (place.file, Some(place.line));
                warnings.push(zonefile::ZoneFileError {
                    file,
                    line,
                    column: None,
                    problem,
                    expected: String::new(),
                });
            }
            None => {
                read.zone.records.push(record);
                read.places.records.push(place);
            }
        }
    }
    (read, warnings)
}

/// What is found in a zone file: the zone's name and the warnings, or the mistakes.
pub(super) type Found = Result<(DomainName, Vec<InputError>), Vec<InputError>>;

/// Looks for mistakes in a file called `ORIGIN.zone`. With the files that it includes.
pub(super) fn check(file: &str) -> (Found, Vec<PathBuf>) {
    let Some(origin) = zonefile::origin_of(Path::new(file)) else {
        return (Err(vec![misnamed(file, "the file's name is not that of a zone")]), Vec::new());
    };
    let all =
        |found: Vec<zonefile::ZoneFileError>| found.into_iter().map(|it| of_zone_file(it, "")).collect();
    let (read, parts) = zonefile::read_with_parts(Path::new(file), &origin, Dnssec::Refuse);
    let found = match read {
        Ok(read) => Ok((origin, all(read.warnings))),
        Err(mistakes) => Err(all(mistakes)),
    };
    (found, parts)
}

/// The mistake of a zone file whose name does not say which zone it holds.
pub(super) fn misnamed(file: &str, problem: &str) -> InputError {
    about(file, problem.to_owned(), "a name such as example.com.zone (ORIGIN.zone)")
}

/// Something about a file as a whole.
pub(super) fn about(file: &str, problem: String, expected: &str) -> InputError {
    let (document, field, expected) = (String::new(), String::new(), expected.to_owned());
    InputError { file: file.into(), line: None, document, field, problem, expected }
}

/// True for a text that is a zone file, whatever its name.
pub(super) fn looks_like_a_zone(text: &[u8]) -> bool {
    let words = |line: &[u8]| -> Vec<Vec<u8>> {
        let words = line.split(|octet| octet.is_ascii_whitespace()).filter(|word| !word.is_empty());
        words.take_while(|word| !word.starts_with(b";")).map(<[u8]>::to_ascii_uppercase).collect()
    };
    let lines: Vec<_> = text.split(|octet| *octet == b'\n').map(words).collect();
    let first =
        |is: &dyn Fn(&[u8]) -> bool| lines.iter().filter_map(|line| line.first()).any(|word| is(word));
    let directives: [&[u8]; 4] = [b"$ORIGIN", b"$TTL", b"$INCLUDE", b"$GENERATE"];
    let is_document = first(&|word| word == b"KIND:" || word.starts_with(b"{"));
    let has_soa = lines.iter().any(|line| line.iter().any(|word| word == b"SOA"));
    !is_document && (has_soa || first(&|word| directives.contains(&word)))
}

/// Warns of zone files of which a node would serve one alone: two in one folder whose names are those of one zone.
pub(super) fn twice(filed: &[(String, DomainName)]) -> Vec<InputError> {
    let folder = |file: &str| Path::new(file).parent().map(Path::to_owned);
    let mut first: HashMap<(Option<PathBuf>, &DomainName), &str> = HashMap::new();
    let mut warnings = Vec::new();
    for (file, origin) in filed {
        let before = *first.entry((folder(file), origin)).or_insert(file);
        if before != file {
            let problem =
                format!("a second file for {origin}, which zones_dir would not serve beside {before}");
            warnings.push(about(file, problem, "one"));
        }
    }
    warnings
}

/// Warns of zone files that a node would not serve beside Zone documents of the same name.
pub(super) fn shadowed<'d>(
    filed: &[(String, DomainName)],
    documents: impl Iterator<Item = &'d Document> + Clone,
) -> Vec<InputError> {
    let is_zone = |origin: &DomainName| {
        documents.clone().any(|document| matches!(document, Document::Zone(zone) if zone.name == *origin))
    };
    let shadowed = filed.iter().filter(|(_, origin)| is_zone(origin));
    let warning = |(file, origin): &(String, DomainName)| InputError {
        file: file.as_str().into(),
        line: None,
        document: format!("Zone {origin}"),
        field: String::new(),
        problem: "there is a document of the same name too, and in zones_dir the file would not be served"
            .to_owned(),
        expected: "one of them".to_owned(),
    };
    shadowed.map(warning).collect()
}

/// Where the records came from that stand in no document people wrote, and what was passed over in their files.
#[derive(Debug, Default)]
pub(super) struct Origins {
    all: Vec<Origin>,
    /// Not mistakes: what they tell of was left out, or is answered in another way than it is written.
    pub(super) warnings: Vec<InputError>,
}

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
    pub(super) fn point_out(&self, mistakes: &mut [InputError]) {
        for mistake in mistakes {
            let of = |it: &&Origin| *it.file == *mistake.file && it.document == mistake.document;
            if let Some(place) = self.all.iter().find(of).and_then(|origin| origin.place(&mistake.field)) {
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
        placed(&self.places, self.own, field)
    }
}

/// Where a field of a Zone document stands in the zone file it was made from, behind `own` records of its own.
fn placed<'p>(places: &'p Places, own: usize, field: &str) -> Option<&'p Place> {
    let (list, rest) = field.split_once('[').unwrap_or((field, ""));
    let number = || rest.split_once(']')?.0.parse::<usize>().ok();
    match list {
        "records" => places.records.get(number()?.checked_sub(own)?),
        "nameservers" => places.nameservers.get(number()?),
        _ => list.starts_with("soa").then_some(&places.soa),
    }
}

/// The zone files that documents name, and those that these include.
pub(super) fn named_files(files: &[FileText]) -> Vec<PathBuf> {
    let mut named = Vec::new();
    for file in files.iter().filter(|it| it.text.contains("file")) {
        let trees = yaml::parse(&file.text, &InputErrors::new(file.name.as_str().into()));
        for tree in trees.iter().filter(|tree| names_a_file(tree)) {
            let (Some((path, _)), Some((apex, _))) = (word(tree, "file"), word(tree, "name")) else {
                continue;
            };
            let path = beside(&file.name, path);
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
/// Every mistake in the zone files, and about them.
pub(super) fn expand(files: Vec<FileText>) -> Result<(Vec<FileText>, Origins), Vec<InputError>> {
    let (mut origins, mut wrong) = (Origins::default(), Vec::new());
    let expanded = files.into_iter().map(|file| expand_file(file, &mut origins, &mut wrong)).collect();
    if wrong.is_empty() { Ok((expanded, origins)) } else { Err(wrong) }
}

fn expand_file(file: FileText, origins: &mut Origins, wrong: &mut Vec<InputError>) -> FileText {
    // Most files name no zone file, and go out letter by letter.
    if !file.text.contains("file") || file.name.ends_with(".toml") || file.name.ends_with(".zone") {
        return file;
    }
    let mistakes = InputErrors::new(file.name.as_str().into());
    let mut trees = yaml::parse(&file.text, &mistakes);
    if mistakes.count() > 0 || !trees.iter().any(names_a_file) {
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

/// Replaces the `file` of a Zone by what it says.
fn expand_zone(
    tree: &mut Node,
    name: &str,
    warnings: &mut Vec<InputError>,
    wrong: &mut Vec<InputError>,
) -> Option<Origin> {
    let ((path, line), (apex, _)) = (word(tree, "file")?, word(tree, "name")?);
    let (apex, path) = (apex.parse::<DomainName>().ok()?, beside(name, path));
    let document = format!("Zone {apex}");
    let before = wrong.len();
    let mut mistake = |line: u32, field: &str, problem: String, expected: &str| {
        let (file, line) = (name.into(), Some(line));
        let (document, field, expected) = (document.clone(), field.to_owned(), expected.to_owned());
        wrong.push(InputError { file, line, document, field, problem, expected });
    };
    for key in ["nameservers", "soa", "ttl", "negative_ttl"] {
        if let Some(entry) = tree.entry(key) {
            mistake(entry.line, key, "stands in the zone file".to_owned(), "only `records` beside `file`");
        }
    }
    let read = match zonefile::read_from(&path, &apex, Dnssec::Refuse) {
        Ok(read) => read,
        Err(mistakes) => {
            wrong.extend(mistakes.into_iter().map(|it| of_zone_file(it, &document)));
            return None;
        }
    };
    let (Read { zone, places, warnings: passed_over, .. }, occluded) = without_occluded(read);
    warnings.extend(passed_over.into_iter().chain(occluded).map(|it| of_zone_file(it, &document)));
    let size = encode::yaml(&Document::Zone(zone.clone())).len();
    if size > yaml::MAX_DOCUMENT {
        mistake(line, "file", too_large(size), FITS);
    }
    if wrong.len() > before {
        return None;
    }
    let own = merge(tree, zone, line);
    Some(Origin { file: name.to_owned(), document, own, places })
}

fn of_zone_file(it: zonefile::ZoneFileError, document: &str) -> InputError {
    let (document, field) = (document.to_owned(), String::new());
    InputError { file: it.file, line: it.line, document, field, problem: it.problem, expected: it.expected }
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
    use store::model::Moment;

    use super::*;

    const ZONE: &str = "$TTL 1h\n@ SOA ns1 h 7 2h 10m 2w 1m\n@ NS ns1\nns1 A 192.0.2.53\n";

    /// Documents in a folder with a zone file, as `check` reads them.
    fn checked(documents: &str, zone: &str) -> Result<Vec<Document>, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("zones")).unwrap();
        std::fs::write(folder.path().join("zones/z"), zone).unwrap();
        let name = folder.path().join("w.yaml").display().to_string();
        let prefix = format!("{}/", folder.path().display());
        let shown = |mistakes: Vec<InputError>| -> Vec<String> {
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
        import(&file, "example.com", Import::default(), Some(&out)).unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        let read = model::parse("z", &text).unwrap().remove(0).value;
        let expected = zonefile::read_from(&file, &"example.com".parse().unwrap(), Dnssec::Refuse).unwrap();
        assert_eq!(read, Document::Zone(expected.zone), "{text}");
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
        assert_eq!(check(&path("example.com.zone")).0, Ok(("example.com".parse().unwrap(), vec![])));
        std::fs::write(path("c.zone"), format!("{ZONE}x.d. A 192.0.2.1\n")).unwrap();
        let (_, warnings) = check(&path("c.zone")).0.unwrap();
        assert!(
            warnings[0]
                .to_string()
                .contains("c.zone:5: \"x.d.\" lies outside the zone c, and is passed over")
        );
        assert!(
            check(&path("b.zone")).0.unwrap_err()[0]
                .to_string()
                .contains("b.zone:5: \"y\" is not an IPv4 address")
        );
        assert!(
            check(&path("a..b.zone")).0.unwrap_err()[0]
                .to_string()
                .contains("a name such as example.com.zone")
        );
    }

    #[test]
    fn a_zone_file_is_known_by_what_is_in_it() {
        for zone in
            [ZONE, "@ IN SOA a b 1 2 3 4 5", "; only\n$ORIGIN example.com.\n", "x 60 soa a b 1 2 3 4 5"]
        {
            assert!(looks_like_a_zone(zone.as_bytes()), "{zone}");
        }
        for other in
            ["", "kind: Zone\nsoa: {}\n# SOA\n", "{ kind: Zone } # SOA", "notes about a SOA-record", "; SOA"]
        {
            assert!(!looks_like_a_zone(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_zone_too_large_for_a_document_says_where_it_fits() {
        let many: String = (0..20_000).map(|n| format!("h{n} A 192.0.2.1\n")).collect();
        let found =
            checked("kind: Zone\nname: example.com\nfile: zones/z\n", &format!("{ZONE}{many}")).unwrap_err();
        assert!(found[0].contains("zones_dir"), "{found:#?}");
    }

    /// What `import` makes of a zone file with these lines behind its head, or what it says.
    fn imported(more: &str, strip_dnssec: bool) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("z"), folder.path().join("z.yaml"));
        std::fs::write(&file, format!("{ZONE}{more}")).unwrap();
        match import(&file, "example.com", Import { strip_dnssec, json: false }, Some(&out)) {
            Ok(()) => Ok(std::fs::read_to_string(&out).unwrap()),
            Err(failure) => Err(failure.text()),
        }
    }

    /// A Zone document together with others, as `apply` checks them.
    fn applied(zone: &str, others: &str) -> Result<(), Vec<String>> {
        let shown = |found: Vec<InputError>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
        let placed = model::parse("z", &format!("{zone}---\n{others}")).map_err(shown)?;
        let placed = placed.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        World::check(placed, Moment(0)).map(drop).map_err(shown)
    }

    #[test]
    fn what_is_imported_is_applied() {
        let child = "kind: Zone\nname: sub.example.com\nnameservers: [{ name: ns.x. }]\n";
        for more in [
            "x CNAME *.w\n*.w A 192.0.2.1\n",
            "sub NS ns.x.\nsub DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118\n",
            "sub NS ns.x.\nb.sub TXT \"never answered\"\n",
            "x 0 A 192.0.2.1\ny CNAME .\nz DNAME .\nd NS .\nd DNAME x.\n",
            "x 4294967295 A 192.0.2.1\n",
            "caf\\195\\169 A 192.0.2.1\na\\ b TXT \"\\255\"\n",
            "@ NS ns.w\n*.w A 192.0.2.1\n",
        ] {
            let text = imported(more, false).unwrap();
            assert_eq!(applied(&text, child), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_apply_would_refuse_is_not_imported() {
        let found = imported("x CNAME y\ny CNAME x\n", false).unwrap_err();
        assert!(found.contains("z:5: Zone example.com: a CNAME loop"), "{found}");
        let many: String = (0..20_000).map(|n| format!("h{n} A 192.0.2.1\n")).collect();
        let found = imported(&many, false).unwrap_err();
        assert!(found.contains("bytes, more than 524288") && found.contains("zones_dir"), "{found}");
    }

    #[test]
    fn a_signed_zone_is_imported_without_its_signatures_or_not_at_all() {
        let signed = "@ DNSKEY 257 3 13 AQID\n@ TYPE46 \\# 27 0006 0d 01 00000e10 70dbd880 70dbd880 0001 00 01020304\
                      05060708\n@ NSEC x NS SOA NSEC\n@ CDS 1 13 2 \
                      000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n@ TYPE65534 \\# 1 00\n\
                      sub NS ns.x.\nsub DS 1 13 2 \
                      000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
        let found = imported(signed, false).unwrap_err();
        assert!(found.contains("z:5: the zone is signed (it has RRSIG, NSEC, DNSKEY)"), "{found}");
        assert!(found.contains("--strip-dnssec"), "{found}");
        let text = imported(signed, true).unwrap();
        for gone in ["DNSKEY", "RRSIG", "NSEC", "CDS", "65534"] {
            assert!(!text.contains(gone), "{text}");
        }
        assert!(text.contains("type: DS"), "{text}");
        for kind in ["DNSKEY, data: 257 3 13 AQID", "NSEC, data: x A", "TYPE46, data: '\\# 1 00'"] {
            let record = format!("records:\n  - {{ name: '@', type: {kind} }}\n");
            let zone = format!("kind: Zone\nname: a.b\nnameservers: [{{ name: ns.x. }}]\n{record}");
            let found = model::parse("z", &zone).unwrap_err();
            assert!(found[0].to_string().contains("DNSSEC is not served yet"), "{found:#?}");
        }
        let found = checked("kind: Zone\nname: example.com\nfile: zones/z\n", &format!("{ZONE}{signed}"));
        assert!(found.unwrap_err()[0].contains("zones/z:5: Zone example.com: the zone is signed"));
    }

    #[test]
    fn a_file_beside_a_document_of_the_same_zone_is_said() {
        let origin: DomainName = "example.com".parse().unwrap();
        let filed = [("example.com.zone".to_owned(), origin)];
        let zone = "kind: Zone\nname: example.com\nnameservers: [{ name: ns.x. }]\n";
        let documents: Vec<_> = model::parse("z", zone).unwrap().into_iter().map(|it| it.value).collect();
        let said = shadowed(&filed, documents.iter());
        assert!(
            said[0].to_string().starts_with("example.com.zone: Zone example.com: there is a document"),
            "{said:?}"
        );
        assert_eq!(shadowed(&filed, [].iter()), []);
    }
}
