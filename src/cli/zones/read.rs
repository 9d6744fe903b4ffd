//! What `import` and `expand` share: a zone as its file has it, without what a document cannot hold.

use std::collections::HashSet;

use dns::zonefile::{self, Place, Places, Read};
use store::model::{DomainName, InputError, RecordData, StaticRecord, yaml};

/// Removes the records below a delegation of the zone that are neither delegations nor glue: they are never answered, and
/// an error in a document.
pub(super) fn without_occluded(mut read: Read) -> (Read, Vec<zonefile::ZoneFileError>) {
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

pub(super) fn of_zone_file(error: zonefile::ZoneFileError, document: &str) -> InputError {
    let (document, field) = (document.to_owned(), String::new());
    InputError {
        file: error.file,
        line: error.line,
        document,
        field,
        problem: error.problem,
        expected: error.expected,
    }
}

/// The place in a zone file from which a field of a Zone document came; the document has `own` records of its own before
/// those of the file.
pub(super) fn placed<'p>(places: &'p Places, own: usize, field: &str) -> Option<&'p Place> {
    let (list, rest) = field.split_once('[').unwrap_or((field, ""));
    let number = || rest.split_once(']')?.0.parse::<usize>().ok();
    match list {
        "records" => places.records.get(number()?.checked_sub(own)?),
        "nameservers" => places.nameservers.get(number()?),
        _ => list.starts_with("soa").then_some(&places.soa),
    }
}

pub(super) const HOW_TO_SPLIT: &str = "a smaller zone, split by delegations, or the file itself in the zones_dir of the nodes, which has no \
                    such limit (`file:` in a document has the same)";

pub(super) fn too_large(bytes: usize) -> String {
    format!("the zone file makes a document of {bytes} bytes, more than {}", yaml::MAX_DOCUMENT)
}
