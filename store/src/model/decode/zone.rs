//! Zones and their static records in presentation form (RFC 1035 §5.1), with names relative to the apex.

use super::{A_DOMAIN, host, steering::seconds};
use crate::model::{
    DomainName, Nameserver, RecordData, StartOfAuthority, StaticRecord, Zone,
    read::{Fields, Reader},
};

pub(super) fn zone(fields: &Fields<'_>) -> Option<Zone> {
    let name = fields.required("name", A_DOMAIN, host);
    fields.not_yet("file", "records");
    // Without an apex nothing relative can be resolved; any will do to find the other mistakes.
    let apex = name.clone().or_else(|| "invalid".parse().ok())?;
    let expected = "at least one { name, a, aaaa }";
    let nameservers = fields.required("nameservers", expected, |field| nameservers(&field, &apex));
    let ttl = fields.or("ttl", seconds(3_600), |field| field.ttl());
    let negative_ttl = fields.or("negative_ttl", seconds(60), |field| field.ttl());
    let before = fields.whole().count();
    let records = fields.or("records", Vec::new(), |field| field.list(|item| record(&item, &apex)));
    let nameservers = nameservers?;
    if fields.whole().count() == before {
        fields.get("nameservers").iter().for_each(|field| glue(field, &apex, &nameservers, &records));
    }
    let soa = fields.optional("soa", |field| start_of_authority(&field, &apex, &nameservers));
    Some(Zone { name: name?, nameservers, soa, ttl, negative_ttl, records })
}

/// The SOA; what it does not say is as usual.
fn start_of_authority(
    field: &Reader<'_>,
    apex: &DomainName,
    nameservers: &[Nameserver],
) -> Option<StartOfAuthority> {
    let fields = field.fields()?;
    let name = |field: Reader<'_>| relative(&field, field.text(1_000)?, apex);
    let primary = nameservers.first().map(|server| server.name.clone());
    let mname = fields.optional("mname", name).or(primary);
    let rname = fields.optional("rname", name).or_else(|| apex.resolve("hostmaster").ok());
    Some(StartOfAuthority {
        mname: mname?,
        rname: rname?,
        serial: fields.optional("serial", |field| field.int(0..=u32::MAX)),
        refresh: fields.or("refresh", StartOfAuthority::REFRESH, |field| field.ttl()),
        retry: fields.or("retry", StartOfAuthority::RETRY, |field| field.ttl()),
        expire: fields.or("expire", StartOfAuthority::EXPIRE, |field| field.ttl()),
        ttl: fields.optional("ttl", |field| field.ttl()),
    })
}

/// A name server inside the zone needs addresses: its own, or records.
fn glue(field: &Reader<'_>, apex: &DomainName, nameservers: &[Nameserver], records: &[StaticRecord]) {
    let address = |it: &RecordData| matches!(it, RecordData::A(_) | RecordData::Aaaa(_));
    let lonely = |server: &Nameserver| {
        let own = !server.a.is_empty() || !server.aaaa.is_empty() || !server.name.is_within(apex);
        !own && !records.iter().any(|record| record.name == server.name && address(&record.data))
    };
    let mut servers = nameservers.iter();
    let _ = field.list(|item| {
        let server = servers.next().filter(|server| lonely(server))?;
        let problem = format!("{} lies in the zone and has no address", server.name);
        item.mistake(problem, "its addresses in `a` or `aaaa`, or as records");
        Some(())
    });
}

fn nameservers(field: &Reader<'_>, apex: &DomainName) -> Option<Vec<Nameserver>> {
    let before = field.count();
    let found = field.list(|item| nameserver(&item, apex))?;
    if field.count() > before {
        return None;
    }
    let twice = (1..found.len()).find(|&n| found[..n].iter().any(|it| it.name == found[n].name));
    if let Some(n) = twice {
        field.mistake(format!("the name server {} stands here twice", found[n].name), "each once");
    } else if found.is_empty() {
        field.mistake("the list is empty", "at least one { name, a, aaaa }");
    }
    Some(found)
}

fn nameserver(item: &Reader<'_>, apex: &DomainName) -> Option<Nameserver> {
    let fields = item.fields()?;
    let name = fields.required("name", "a name such as ns1", |field| {
        let name = relative(&field, field.text(255)?, apex)?;
        if name.as_str().starts_with('*') {
            field.wrong("the name of a host");
        }
        Some(name)
    })?;
    let super::Addresses { a, aaaa } = super::addresses(&fields);
    if !name.is_within(apex) && !(a.is_empty() && aaaa.is_empty()) {
        let problem = format!("{name} lies outside the zone, which cannot give its address");
        item.mistake(problem, "no `a` and `aaaa` here");
    }
    Some(Nameserver { name, a, aaaa })
}

/// A name relative to the apex, `@`, or absolute with a trailing dot.
fn relative(at: &Reader<'_>, text: &str, apex: &DomainName) -> Option<DomainName> {
    let lower = text.to_ascii_lowercase();
    if lower.strip_suffix(apex.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')) {
        let problem = format!("{text:?} is relative to {apex} and would mean {text}.{apex}");
        at.mistake(problem, format!("{text}. with a dot at its end, or the part before the zone's name"));
        return None;
    }
    let name = apex.resolve(text);
    name.map_err(|expected| at.mistake(format!("{text:?} is not {expected}"), expected.to_string())).ok()
}

fn record(item: &Reader<'_>, apex: &DomainName) -> Option<StaticRecord> {
    let fields = item.fields()?;
    let name = fields.required("name", "a name relative to the zone, or @", |field| {
        let name = relative(&field, field.text(255)?, apex)?;
        if !name.is_within(apex) {
            field.mistake(format!("{name} lies outside the zone {apex}"), format!("a name below {apex}"));
            return None;
        }
        Some(name)
    });
    let ttl = fields.optional("ttl", |field| field.ttl());
    let types = RecordType::ALL.map(|kind| (kind.as_str(), kind));
    let kind = fields.required("type", "a record type such as A or CNAME", |field| field.word(&types));
    let data = fields.required("data", "the data in presentation form", |field| {
        let text = field.text(16_000)?;
        data(&field, kind?, text, apex)
    });
    Some(StaticRecord { name: name?, ttl, data: data? })
}

#[derive(Clone, Copy)]
enum RecordType {
    A,
    Aaaa,
    Cname,
    Ns,
    Ptr,
    Txt,
    Mx,
    Srv,
    Caa,
    Dname,
}

impl RecordType {
    const ALL: [Self; 10] = [
        Self::A,
        Self::Aaaa,
        Self::Cname,
        Self::Ns,
        Self::Ptr,
        Self::Txt,
        Self::Mx,
        Self::Srv,
        Self::Caa,
        Self::Dname,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Cname => "CNAME",
            Self::Ns => "NS",
            Self::Ptr => "PTR",
            Self::Txt => "TXT",
            Self::Mx => "MX",
            Self::Srv => "SRV",
            Self::Caa => "CAA",
            Self::Dname => "DNAME",
        }
    }

    /// What the data looks like.
    const fn form(self) -> &'static str {
        match self {
            Self::A => "an IPv4 address",
            Self::Aaaa => "an IPv6 address",
            Self::Cname | Self::Ns | Self::Ptr | Self::Dname => "one name",
            Self::Txt => "strings of up to 255 bytes, each in double quotes: '\"v=spf1 -all\"'",
            Self::Mx => "a preference and a name: 10 mail",
            Self::Srv => "priority, weight, port and a name: 0 5 5060 sip",
            Self::Caa => "flags, a tag and a quoted value: 0 issue \"ca.example.net\"",
        }
    }
}

fn data(field: &Reader<'_>, kind: RecordType, text: &str, apex: &DomainName) -> Option<RecordData> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let name = |word: &str| {
        let name = relative(field, word, apex)?;
        if name.as_str().starts_with('*') {
            field.mistake(format!("{name} is a wildcard"), "the name of a host");
        }
        Some(name)
    };
    // The outer `None` is a form that does not fit; the inner one a name that does not, already reported.
    let read = match (kind, words.as_slice()) {
        (RecordType::A, [word]) => word.parse().ok().map(|ip| Some(RecordData::A(ip))),
        (RecordType::Aaaa, [word]) => word.parse().ok().map(|ip| Some(RecordData::Aaaa(ip))),
        (RecordType::Cname, [word]) => Some(name(word).map(RecordData::Cname)),
        (RecordType::Ns, [word]) => Some(name(word).map(RecordData::Ns)),
        (RecordType::Ptr, [word]) => Some(name(word).map(RecordData::Ptr)),
        (RecordType::Dname, [word]) => Some(name(word).map(RecordData::Dname)),
        (RecordType::Txt, _) => strings(text).map(|strings| Some(RecordData::Txt(strings))),
        (RecordType::Mx, [preference, exchange]) => preference
            .parse()
            .ok()
            .map(|preference| name(exchange).map(|exchange| RecordData::Mx { preference, exchange })),
        (RecordType::Srv, [priority, weight, port, target]) => {
            match (priority.parse(), weight.parse(), port.parse()) {
                (Ok(priority), Ok(weight), Ok(port)) => {
                    Some(name(target).map(|target| RecordData::Srv { priority, weight, port, target }))
                }
                _ => None,
            }
        }
        (RecordType::Caa, _) => caa(text).map(Some),
        _ => None,
    };
    if read.is_none() {
        field.wrong(kind.form());
    }
    read.flatten()
}

fn caa(text: &str) -> Option<RecordData> {
    let (flags, rest) = text.trim().split_once(' ')?;
    let (tag, value) = rest.trim().split_once(' ')?;
    let strings = strings(value)?;
    let ([value], true) = (strings.as_slice(), matches!(tag, "issue" | "issuewild" | "iodef")) else {
        return None;
    };
    Some(RecordData::Caa { flags: flags.parse().ok()?, tag: tag.to_owned(), value: value.clone() })
}

/// Character strings (RFC 1035 §5.1). A single word needs no quotes; several words without quotes are refused,
/// since they would be several strings and almost never mean that.
fn strings(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if !text.contains(['"', ' ', '\t', '\\']) {
        return (1..=255).contains(&text.len()).then(|| vec![text.to_owned()]);
    }
    let mut strings = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (string, after) = quoted(rest)?;
        if !after.is_empty() && !after.starts_with([' ', '\t']) {
            return None;
        }
        strings.push(string);
        rest = after.trim_start();
    }
    let total: usize = strings.iter().map(|string| string.len() + 1).sum();
    (total <= 8_192 && !strings.is_empty()).then_some(strings)
}

/// One string in quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut string = String::new();
    let mut rest = text.strip_prefix('"')?.chars();
    loop {
        match rest.next()? {
            '"' => break,
            '\\' => string.push(escaped(&mut rest)?),
            plain => string.push(plain),
        }
    }
    (string.len() <= 255).then_some((string, rest.as_str()))
}

/// What follows a backslash: `\DDD` is an ASCII octet in decimal, any other character stands for itself.
fn escaped(rest: &mut std::str::Chars<'_>) -> Option<char> {
    let first = rest.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, rest.next()?, rest.next()?];
    let octet: u8 = digits.iter().collect::<String>().parse().ok()?;
    octet.is_ascii().then_some(char::from(octet))
}
