//! What is written in another way than it is stored.
//!
//! Eight of the ten kinds are written as they are stored. In a zone, names are relative to it and record data is in
//! presentation form; a check has the keys that its type has in documents. Everything else, new fields included,
//! is written as its type is serialized.

use std::{borrow::Cow, fmt::Write as _};

use super::nodes;
use crate::{
    Check, DnsProbe, Document, DomainName, Probe, RecordData, Zone, rdata,
    tree::{Entry, Node, Value},
};

/// One document as a tree; its nodes have no lines.
#[must_use]
pub fn tree(document: &Document) -> Node {
    let stored = nodes::node(document).expect("documents hold texts, numbers, lists and maps with text keys");
    let Value::Map(mut fields) = stored.value else { return stored };
    match document {
        Document::Zone(document) => zone(document, &mut fields),
        Document::Check(document) => check(document, &mut fields),
        _ => {}
    }
    Node::map(0, fields)
}

fn text(value: impl Into<String>) -> Node {
    Node::text(0, value)
}

/// Gives a key another value, or its first.
fn set(fields: &mut Vec<Entry>, key: &str, value: Node) {
    match fields.iter_mut().find(|entry| entry.key == key) {
        Some(entry) => entry.value = value,
        None => fields.push(Entry { key: key.to_owned(), line: 0, value }),
    }
}

fn take(fields: &mut Vec<Entry>, key: &str) -> Option<Entry> {
    let at = fields.iter().position(|entry| entry.key == key)?;
    Some(fields.remove(at))
}

/// The fields of a map under a key; none if it is not there.
fn map<'f>(fields: &'f mut [Entry], key: &str) -> Option<&'f mut Vec<Entry>> {
    let entry = fields.iter_mut().find(|entry| entry.key == key)?;
    if let Value::Map(fields) = &mut entry.value.value { Some(fields) } else { None }
}

/// The maps in the list under a key.
fn maps<'f>(fields: &'f mut [Entry], key: &str) -> impl Iterator<Item = &'f mut Vec<Entry>> {
    let entry = fields.iter_mut().find(move |entry| entry.key == key);
    let items = entry.into_iter().flat_map(|entry| match &mut entry.value.value {
        Value::List(items) => items.as_mut_slice(),
        Value::Scalar(_) | Value::Map(_) => &mut [],
    });
    items.filter_map(|item| if let Value::Map(fields) = &mut item.value { Some(fields) } else { None })
}

fn zone(zone: &Zone, fields: &mut [Entry]) {
    let apex = &zone.name;
    for (server, fields) in zone.nameservers.iter().zip(maps(fields, "nameservers")) {
        set(fields, "name", text(relative(&server.name, apex)));
        fields.retain(|entry| !matches!(&entry.value.value, Value::List(items) if items.is_empty()));
    }
    if let (Some(soa), Some(fields)) = (&zone.soa, map(fields, "soa")) {
        set(fields, "mname", text(relative(&soa.mname, apex)));
        set(fields, "rname", text(relative(&soa.rname, apex)));
    }
    for (record, fields) in zone.records.iter().zip(maps(fields, "records")) {
        let (record_type, data) = presentation(&record.data, apex);
        set(fields, "name", text(relative(&record.name, apex)));
        set(fields, "type", text(record_type));
        set(fields, "data", text(data));
    }
}

/// The name as documents have it: relative to the apex where it lies below it.
fn relative(name: &DomainName, apex: &DomainName) -> String {
    let below = name.as_str().strip_suffix(apex.as_str());
    let ambiguous = |text: &str| text == apex.as_str() || text.ends_with(&format!(".{apex}"));
    match below {
        Some("") => "@".to_owned(),
        Some(rest) => match rest.strip_suffix('.') {
            Some(relative) if !ambiguous(relative) => relative.to_owned(),
            _ => format!("{name}."),
        },
        None => format!("{name}."),
    }
}

/// Type and data in presentation form (RFC 1035 §5.1), names relative to the apex.
fn presentation(data: &RecordData, apex: &DomainName) -> (Cow<'static, str>, String) {
    let name = |name| relative(name, apex);
    let (kind, data) = match data {
        RecordData::A(ip) => ("A", ip.to_string()),
        RecordData::Aaaa(ip) => ("AAAA", ip.to_string()),
        RecordData::Cname(target) => ("CNAME", name(target)),
        RecordData::Ns(target) => ("NS", name(target)),
        RecordData::Ptr(target) => ("PTR", name(target)),
        RecordData::Txt(strings) => {
            ("TXT", strings.iter().map(|string| character_string(string)).collect::<Vec<_>>().join(" "))
        }
        RecordData::Mx { preference, exchange } => ("MX", format!("{preference} {}", name(exchange))),
        RecordData::Srv { priority, weight, port, target } => {
            ("SRV", format!("{priority} {weight} {port} {}", name(target)))
        }
        RecordData::Caa { flags, tag, value } => {
            ("CAA", format!("{flags} {tag} {}", character_string(value)))
        }
        RecordData::Alias(target) => ("ALIAS", name(target)),
        RecordData::Dname(target) => ("DNAME", name(target)),
        RecordData::Other { record_type, data } => {
            return (rdata::mnemonic(*record_type), rdata::text(*record_type, data));
        }
    };
    (Cow::Borrowed(kind), data)
}

fn character_string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                for octet in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{octet:03}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn check(check: &Check, fields: &mut Vec<Entry>) {
    set(fields, "type", text(check.probe.kind().as_str()));
    if let Some(port) = take(fields, "port").filter(|_| check.port != 0) {
        let after_type = fields.iter().position(|entry| entry.key == "type").map_or(0, |at| at + 1);
        fields.insert(after_type, port);
    }
    match &check.probe {
        Probe::Dns(probe) => dns(probe, fields),
        Probe::Http(probe) => {
            if fields.iter().any(|entry| entry.key == "http_version") {
                set(fields, "http_version", Node::plain(0, probe.http_version.as_str()));
            }
            if !probe.headers.is_empty() {
                let entry = |header: &crate::Header| Entry {
                    key: header.name.clone(),
                    line: 0,
                    value: text(header.value.as_str()),
                };
                set(fields, "headers", Node::map(0, probe.headers.iter().map(entry).collect()));
            }
            terms(fields, false);
        }
        Probe::Tls(_) => terms(fields, false),
        Probe::Grpc(_) => terms(fields, true),
        Probe::Tcp(_) | Probe::Icmp {} | Probe::External(_) => {}
    }
}

fn dns(probe: &DnsProbe, fields: &mut Vec<Entry>) {
    set(fields, "record_type", text(rdata::mnemonic(probe.record_type)));
    match DnsProbe::rcode(probe.expect_rcode) {
        Some(word) => set(fields, "expect_rcode", text(word)),
        None => drop(take(fields, "expect_rcode")),
    }
}

/// The terms of TLS are keys of the check. `tls: true` is written only where the type does not imply it.
fn terms(fields: &mut Vec<Entry>, say_tls: bool) {
    let Some(at) = fields.iter().position(|entry| entry.key == "tls") else { return };
    let Value::Map(terms) = fields.remove(at).value.value else { return };
    let tls = say_tls.then(|| Entry { key: "tls".to_owned(), line: 0, value: Node::plain(0, "true") });
    fields.splice(at..at, tls.into_iter().chain(terms));
}
