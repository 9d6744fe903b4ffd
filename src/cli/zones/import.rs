//! `waypost import zone`: a zone file becomes the Zone document that `apply` takes.

use std::{collections::BTreeMap, io::Write as _, path::Path, sync::Arc};

use dns::zonefile::{self, Dnssec, Places};
use store::{
    handle::Clock,
    model::{self, Document, DomainName, InputError, Placed, World, encode, rdata, yaml},
};

use super::read::{HOW_TO_SPLIT, of_zone_file, placed, too_large, without_occluded};
use crate::cli::{
    failure::{Failure, Outcome},
    show::{self, print},
};

/// How a zone file is imported.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::cli) struct Import {
    /// Take a signed zone without the records that sign it.
    pub(in crate::cli) strip_dnssec: bool,
    /// The document as JSON.
    pub(in crate::cli) json: bool,
}

/// Prints the Zone document of a zone file, or writes it to a file. What is left out is reported on standard error. A
/// document that `apply` would refuse is not printed.
pub(in crate::cli) fn import(file: &Path, origin: &str, how: Import, output: Option<&Path>) -> Outcome {
    let wrong = |expected| Failure::Wrong(format!("--origin {origin:?}: expected {expected}"));
    let origin: DomainName = origin.parse().map_err(wrong)?;
    let dnssec = if how.strip_dnssec { Dnssec::Strip } else { Dnssec::Refuse };
    let invalid = |errors| Failure::InvalidInput { errors, summary: String::new() };
    let all = |found: Vec<zonefile::ZoneFileError>| {
        found.into_iter().map(|it| of_zone_file(it, "")).collect::<Vec<_>>()
    };
    let read = zonefile::read_from(file, &origin, dnssec).map_err(|found| invalid(all(found)))?;
    let (mut read, occluded) = without_occluded(read);
    let mut warnings = all(std::mem::take(&mut read.warnings));
    warnings.extend(all(occluded));
    to_standard_error(&show::warnings(&warnings));
    to_standard_error(&stripped(&origin, &read.stripped));
    let (zone, places) = (Document::Zone(read.zone), read.places);
    check_document(file, &encode::yaml(&zone), &places).map_err(invalid)?;
    let text = if how.json { format!("{}\n", encode::json(&zone)) } else { encode::yaml(&zone) };
    let Some(output) = output else { return print(&text) };
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", output.display()));
    std::fs::File::create(output).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}

/// Writes lines to standard error. A failure to write them is ignored.
fn to_standard_error(lines: &str) {
    let _ = std::io::stderr().write_all(lines.as_bytes());
}

/// What `--strip-dnssec` left out, as text; empty if that is nothing.
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

/// Checks that `apply` accepts a document by itself. The errors have the lines of the zone file.
fn check_document(file: &Path, text: &str, places: &Places) -> Result<(), Vec<InputError>> {
    if text.len() > yaml::MAX_DOCUMENT {
        let (problem, expected) = (too_large(text.len()), HOW_TO_SPLIT.to_owned());
        let (file, document, field) = (file.display().to_string().into(), String::new(), String::new());
        return Err(vec![InputError { file, line: None, document, field, problem, expected }]);
    }
    let now = Clock::default().now();
    let checked = model::parse("z", text).and_then(|parsed| {
        let placed = parsed.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        World::check(placed, now).map(drop)
    });
    let at_its_line = |mut error: InputError| {
        let place = placed(places, 0, &error.field);
        error.file = place.map_or_else(|| file.display().to_string().into(), |place| Arc::clone(&place.file));
        error.line = place.map(|place| place.line);
        error.field.clear();
        error
    };
    checked.map_err(|errors| errors.into_iter().map(at_its_line).collect())
}
