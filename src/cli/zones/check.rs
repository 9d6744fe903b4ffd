//! `waypost check` of zone files: what is wrong in each, and which of a folder a node would not serve.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use dns::zonefile::{self, Dnssec};
use store::model::{Document, DomainName, InputError};

use super::read::of_zone_file;

/// The result of checking a zone file: the zone's name and the warnings, or the errors.
pub(in crate::cli) type Found = Result<(DomainName, Vec<InputError>), Vec<InputError>>;

/// Checks a file called `ORIGIN.zone`. Also returns the files that it includes.
pub(in crate::cli) fn check(file: &str) -> (Found, Vec<PathBuf>) {
    let Some(origin) = zonefile::origin_of(Path::new(file)) else {
        return (Err(vec![misnamed(file, "the file's name is not that of a zone")]), Vec::new());
    };
    let all =
        |found: Vec<zonefile::ZoneFileError>| found.into_iter().map(|it| of_zone_file(it, "")).collect();
    let (read, parts) = zonefile::read_with_parts(Path::new(file), &origin, Dnssec::Refuse);
    let found = match read {
        Ok(read) => Ok((origin, all(read.warnings))),
        Err(errors) => Err(all(errors)),
    };
    (found, parts)
}

/// The error about a zone file whose name does not say which zone it holds.
pub(in crate::cli) fn misnamed(file: &str, problem: &str) -> InputError {
    file_error(file, problem.to_owned(), "a name such as example.com.zone (ORIGIN.zone)")
}

/// An error or warning about a file as a whole.
pub(in crate::cli) fn file_error(file: &str, problem: String, expected: &str) -> InputError {
    let (document, field, expected) = (String::new(), String::new(), expected.to_owned());
    InputError { file: file.into(), line: None, document, field, problem, expected }
}

/// True for a text that is a zone file by its content.
pub(in crate::cli) fn looks_like_a_zone(text: &[u8]) -> bool {
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

/// Warns of two zone files in one folder for the same zone, of which a node would serve only one.
pub(in crate::cli) fn duplicates(filed: &[(String, DomainName)]) -> Vec<InputError> {
    let folder = |file: &str| Path::new(file).parent().map(Path::to_owned);
    let mut first: HashMap<(Option<PathBuf>, &DomainName), &str> = HashMap::new();
    let mut warnings = Vec::new();
    for (file, origin) in filed {
        let before = *first.entry((folder(file), origin)).or_insert(file);
        if before != file {
            let problem =
                format!("a second file for {origin}, which zones_dir would not serve beside {before}");
            warnings.push(file_error(file, problem, "one"));
        }
    }
    warnings
}

/// Warns of zone files that a node would not serve beside Zone documents of the same name.
pub(in crate::cli) fn shadowed<'d>(
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
