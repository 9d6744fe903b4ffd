//! Zones and their static records in presentation form (RFC 1035 §5.1), with names relative to the apex.

use super::{A_DOMAIN, domain::seconds, host, some};
use crate::{
    DomainName, Nameserver, RecordData, StartOfAuthority, StaticRecord, Zone,
    input_error::suggestion,
    rdata::{self, Scanner, Unfit, Word},
    read::{Fields, Reader},
};

pub(super) fn zone(fields: &Fields<'_>) -> Option<Zone> {
    let name = fields.required("name", A_DOMAIN, host);
    if let Some(field) = fields.get("file") {
        field
            .error("a zone file is read where the document is", "`records`, or waypost apply, diff or check");
    }
    // Without an apex nothing relative can be resolved; any will do to find the other errors.
    let apex = name.clone().or_else(|| "invalid".parse().ok())?;
    let expected = "at least one { name, a, aaaa }";
    let nameservers = fields.required("nameservers", expected, |field| nameservers(&field, &apex));
    let ttl = fields.or("ttl", seconds(3_600), |field| field.record_ttl());
    let negative_ttl = fields.or("negative_ttl", seconds(60), |field| field.soa_time());
    let records = fields.or("records", Vec::new(), |field| field.list(|item| record(&item, &apex)));
    let known = nameservers.as_deref().unwrap_or_default();
    let soa = fields.optional("soa", |field| start_of_authority(&field, &apex, known));
    let allow_query = fields.optional("allow_query", |field| some(&field, |item| item.net()));
    let allow_query = allow_query.unwrap_or_default();
    // Only now: a field that was not read would be called an unknown one.
    let nameservers = nameservers?;
    Some(Zone { name: name?, nameservers, soa, ttl, negative_ttl, records, allow_query })
}

/// The SOA; absent fields have their usual values.
fn start_of_authority(
    field: &Reader<'_>,
    apex: &DomainName,
    nameservers: &[Nameserver],
) -> Option<StartOfAuthority> {
    let fields = field.fields()?;
    let name = |field: Reader<'_>| relative_or_root(&field, field.text(1_100)?, apex);
    let primary = nameservers.first().map_or(apex, |server| &server.name);
    let mname = fields.optional("mname", name).or_else(|| Some(primary.clone()));
    let rname = fields.optional("rname", name).or_else(|| apex.resolve("hostmaster").ok());
    Some(StartOfAuthority {
        mname: mname?,
        rname: rname?,
        serial: fields.optional("serial", |field| field.int(0..=u32::MAX)),
        refresh: fields.or("refresh", StartOfAuthority::REFRESH, |field| field.soa_time()),
        retry: fields.or("retry", StartOfAuthority::RETRY, |field| field.soa_time()),
        expire: fields.or("expire", StartOfAuthority::EXPIRE, |field| field.soa_time()),
        ttl: fields.optional("ttl", |field| field.record_ttl()),
    })
}

fn nameservers(field: &Reader<'_>, apex: &DomainName) -> Option<Vec<Nameserver>> {
    let before = field.count();
    let found = field.list(|item| nameserver(&item, apex))?;
    if field.count() > before {
        return None;
    }
    let twice = (1..found.len()).find(|&n| found[..n].iter().any(|it| it.name == found[n].name));
    if let Some(n) = twice {
        field.error(format!("the name server {} is listed twice", found[n].name), "each once");
    } else if found.is_empty() {
        field.error("the list is empty", "at least one { name, a, aaaa }");
    }
    Some(found)
}

fn nameserver(item: &Reader<'_>, apex: &DomainName) -> Option<Nameserver> {
    let fields = item.fields()?;
    let name = fields.required("name", "a name such as ns1", |field| {
        let name = relative_or_root(&field, field.text(1_100)?, apex)?;
        if name.as_str().starts_with('*') {
            field.wrong("the name of a host");
        }
        Some(name)
    })?;
    let super::Addresses { a, aaaa } = super::addresses(&fields);
    let glue = !a.is_empty() || !aaaa.is_empty();
    if glue && !name.is_within(apex) {
        let problem = format!("{name} lies outside the zone, which cannot give its address");
        item.error(problem, "no `a` and `aaaa` here");
    }
    Some(Nameserver { name, a, aaaa })
}

/// A name relative to the apex, `@`, or absolute with a trailing dot.
fn relative(at: &Reader<'_>, text: &str, apex: &DomainName) -> Option<DomainName> {
    below(text, apex).map_err(|what| at.error(what.problem, what.expected)).ok()
}

/// As [`relative`], where `.` is the root.
fn relative_or_root(at: &Reader<'_>, text: &str, apex: &DomainName) -> Option<DomainName> {
    if text == "." { Some(DomainName::root()) } else { relative(at, text, apex) }
}

/// As [`relative`]. What ends in the zone's name without a dot is never meant as it would be read.
fn below(text: &str, apex: &DomainName) -> Result<DomainName, Unfit> {
    let lower = text.to_ascii_lowercase();
    if lower.strip_suffix(apex.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')) {
        let problem = format!("{text:?} is relative to {apex} and would mean {text}.{apex}");
        let expected = format!("{text}. with a dot at its end, or the part before the zone's name");
        return Err(Unfit { problem, expected });
    }
    apex.resolve(text).map_err(|expected| {
        let expected = expected.to_string();
        Unfit { problem: format!("{text:?} is not {expected}"), expected }
    })
}

/// A name in record data, or the root.
fn target(word: &Word<'_>, apex: &DomainName) -> Result<Option<DomainName>, Unfit> {
    if word.text == b"." {
        return Ok(None);
    }
    below(&word.as_str(), apex).map(Some)
}

/// The most that hexadecimal data of 65535 octets takes.
const MAX_DATA: usize = 140_000;

fn record(item: &Reader<'_>, apex: &DomainName) -> Option<StaticRecord> {
    let fields = item.fields()?;
    let name = fields.required("name", "a name relative to the zone, or @", |field| {
        let name = relative(&field, field.text(1_100)?, apex)?;
        if !name.is_within(apex) {
            field.error(format!("{name} lies outside the zone {apex}"), format!("a name below {apex}"));
            return None;
        }
        Some(name)
    });
    let ttl = fields.optional("ttl", |field| field.record_ttl());
    let kind = fields.required("type", A_TYPE, |field| {
        let kind = record_type(&field)?;
        if signs(kind, name.as_ref() == Some(apex)) {
            let problem =
                format!("{} belongs to a signed zone, and DNSSEC is not served yet", rdata::mnemonic(kind));
            field.error(
                problem,
                "no such record; waypost import zone --strip-dnssec leaves it out of a zone file",
            );
            return None;
        }
        Some(kind)
    });
    let data = fields.required("data", "the data in presentation form", |field| {
        let text = field.text(MAX_DATA)?;
        data(&field, kind?, text, apex)
    });
    Some(StaticRecord { name: name?, ttl, data: data? })
}

/// True for a record that makes its zone a signed one. Keys elsewhere than at the apex are not the zone's.
const fn signs(kind: u16, at_apex: bool) -> bool {
    rdata::signs(kind) && (at_apex || !rdata::signs_only_at_apex(kind))
}

const A_TYPE: &str = "a record type such as A or CNAME, or TYPE and a number";

fn record_type(field: &Reader<'_>) -> Option<u16> {
    let text = field.text(80)?;
    let found = rdata::number(text);
    if found.is_none() {
        let hint = suggestion(text, rdata::mnemonics());
        field.error(format!("{text:?} is not {A_TYPE}{hint}"), A_TYPE);
    }
    found
}

fn data(field: &Reader<'_>, kind: u16, text: &str, apex: &DomainName) -> Option<RecordData> {
    let form = rdata::form(kind);
    let words = match Scanner::data(text.as_bytes()).next()? {
        Ok(entry) => entry.words,
        Err(wrong) => {
            field.error(format!("{} has {}", field.node().found(), wrong.problem), form);
            return None;
        }
    };
    // Several words without quotes would be several strings, and almost never mean that.
    let unknown = words.first().is_some_and(|word| word.is(r"\#"));
    if matches!(kind, TXT | SPF) && !unknown && words.len() > 1 && words.iter().any(|word| !word.quoted) {
        field.wrong(form);
        return None;
    }
    let mut misnamed = None;
    let mut names =
        |word: &Word<'_>| target(word, apex).inspect_err(|what: &Unfit| misnamed = Some(what.clone()));
    let read = rdata::parse(kind, &words, &mut names);
    match read {
        Ok(data) => Some(data),
        Err(wrong) => {
            let expected = misnamed.map_or_else(|| form.to_owned(), |what| what.expected);
            field.error(wrong.what.problem, expected);
            None
        }
    }
}

const TXT: u16 = 16;
const SPF: u16 = 99;
