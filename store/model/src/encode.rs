//! From documents back to YAML, in the field names and the order of the example: what `get` and `export` print.
//!
//! `parse(yaml(d))` is `d` again. Names inside a zone come out relative to it, as people write them.

#[cfg(test)]
mod golden;
mod placed;
mod policy;
mod probe;

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
};

use super::{
    Addresses, Authority, Check, Cluster, Document, Domain, DomainName, Https, Jurisdiction, Keep, Name,
    Nameserver, Override, PathMatch, Quorum, RecordData, RecoveryMode, Role, Route, RouteBy, Service, Site,
    StartOfAuthority, StaticRecord, Token, Vantage, WhenNone, Zone, rdata,
    tree::{Entry, Node, Value},
};

pub use placed::placed;
use policy::{policy, rule, schedule};

/// One document as YAML, without a document marker.
#[must_use]
pub fn yaml(document: &Document) -> String {
    let mut out = String::new();
    let Value::Map(entries) = tree(document).value else { return out };
    for Entry { key, value, .. } in entries {
        let _ = write!(out, "{key}:");
        match &value.value {
            Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))) => {
                for item in items {
                    out.push_str("\n  - ");
                    flow(item, &mut out);
                }
            }
            Value::Map(fields) if fields.iter().any(|field| matches!(field.value.value, Value::Map(_))) => {
                for field in fields {
                    let _ = write!(out, "\n  {}: ", field.key);
                    flow(&field.value, &mut out);
                }
            }
            _ => {
                out.push(' ');
                flow(&value, &mut out);
            }
        }
        out.push('\n');
    }
    out
}

/// One document as JSON, in the same fields; `parse` reads it as it reads YAML.
#[must_use]
pub fn json(document: &Document) -> serde_json::Value {
    value(&tree(document))
}

fn value(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Scalar(scalar) if scalar.is_null() => serde_json::Value::Null,
        Value::Scalar(scalar) => {
            let number = || scalar.as_int().map(Into::into).or_else(|| scalar.as_float().map(Into::into));
            scalar.as_bool().map(Into::into).or_else(number).unwrap_or_else(|| scalar.text.clone().into())
        }
        Value::List(items) => items.iter().map(value).collect(),
        Value::Map(entries) => entries.iter().map(|it| (it.key.clone(), value(&it.value))).collect(),
    }
}

/// Several documents as one YAML text.
#[must_use]
pub fn yaml_all<'d>(documents: impl IntoIterator<Item = &'d Document>) -> String {
    documents.into_iter().map(yaml).collect::<Vec<_>>().join("---\n")
}

fn flow(node: &Node, out: &mut String) {
    match &node.value {
        Value::Scalar(scalar) if !scalar.quoted || stands_alone(&scalar.text) => out.push_str(&scalar.text),
        Value::Scalar(scalar) => quoted(&scalar.text, out),
        Value::List(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                flow(item, out);
            }
            out.push(']');
        }
        Value::Map(entries) if entries.is_empty() => out.push_str("{}"),
        Value::Map(entries) => {
            for (n, entry) in entries.iter().enumerate() {
                let _ = write!(out, "{}{}: ", if n > 0 { ", " } else { "{ " }, entry.key);
                flow(&entry.value, out);
            }
            out.push_str(" }");
        }
    }
}

/// True for a text that every YAML reader takes for itself without quotes, in a flow list too.
fn stands_alone(text: &str) -> bool {
    let scalar = super::tree::Scalar { text: text.to_owned(), quoted: false };
    let otherwise = scalar.is_null() || scalar.as_bool().is_some() || scalar.as_float().is_some();
    let word = matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off" | "y" | "n");
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b':' | b'-' | b'+');
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'/');
    first && !otherwise && !word && !text.ends_with(':') && text.bytes().all(safe)
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c if u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
}

/// A map under construction, in the order of the example.
struct Map(Vec<Entry>);

impl Map {
    const fn new() -> Self {
        Self(Vec::new())
    }

    fn with(mut self, key: &str, value: Node) -> Self {
        self.0.push(Entry { key: key.to_owned(), line: 0, value });
        self
    }

    fn maybe(self, key: &str, value: Option<Node>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn done(self) -> Node {
        Node::map(0, self.0)
    }
}

fn text(value: impl Display) -> Node {
    Node::text(0, value.to_string())
}

fn plain(value: impl Display) -> Node {
    Node::plain(0, value.to_string())
}

fn texts<T: Display>(values: &[T]) -> Node {
    Node::list(0, values.iter().map(text).collect())
}

fn list<T>(values: &[T], to: impl Fn(&T) -> Node) -> Node {
    Node::list(0, values.iter().map(to).collect())
}

/// The list, unless it is empty.
fn some<T: Display>(values: &[T]) -> Option<Node> {
    (!values.is_empty()).then(|| texts(values))
}

/// One document as a tree; it stands on no line.
#[must_use]
pub fn tree(document: &Document) -> Node {
    let id = document.id();
    let map = Map::new().with("kind", text(id.kind)).with("name", text(id.name));
    match document {
        Document::Site(it) => site(it, map),
        Document::Cluster(it) => cluster(it, map),
        Document::Zone(it) => zone(it, map),
        Document::Check(it) => check(it, map),
        Document::Domain(it) => domain(it, map),
        Document::Service(it) => service(it, map),
        Document::Route(it) => route(it, map),
        Document::Vantage(it) => vantage(it, map),
        Document::Override(it) => over_ride(it, map),
        Document::Token(it) => token(it, map),
    }
    .done()
}

fn site(it: &Site, map: Map) -> Map {
    let location =
        it.location.map(|at| Map::new().with("lat", plain(at.lat)).with("lon", plain(at.lon)).done());
    map.maybe("location", location)
        .maybe("networks", some(&it.networks))
        .maybe("region", it.region.as_ref().map(text))
}

fn addresses(it: &Addresses) -> Node {
    Map::new().with("a", texts(&it.a)).with("aaaa", texts(&it.aaaa)).done()
}

fn cluster(it: &Cluster, map: Map) -> Map {
    let gateways =
        it.gateways.iter().fold(Map::new(), |map, (site, at)| map.with(site.as_str(), addresses(at)));
    let capacity =
        it.capacity.iter().fold(Map::new(), |map, (site, rate)| map.with(site.as_str(), plain(rate)));
    let keep = |it: &Keep| Map::new().with("at_least", plain(it.at_least)).with("of", texts(&it.of)).done();
    let guard = it
        .guard
        .map(|it| Map::new().with("percent", plain(it.percent)).with("window", text(it.window)).done());
    map.with("zone", text(&it.zone))
        .with("gateway_domain", text(&it.gateway_domain))
        .with("gateways", gateways.done())
        .maybe("capacity", (!it.capacity.is_empty()).then(|| capacity.done()))
        .maybe("keep", (!it.keep.is_empty()).then(|| list(&it.keep, keep)))
        .maybe("guard", guard)
}

/// The name as people write it in the zone: relative to the apex where it lies below it.
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

fn zone(it: &Zone, map: Map) -> Map {
    let nameserver = |ns: &Nameserver| {
        Map::new()
            .with("name", text(relative(&ns.name, &it.name)))
            .maybe("a", some(&ns.a))
            .maybe("aaaa", some(&ns.aaaa))
            .done()
    };
    let records =
        (!it.records.is_empty()).then(|| list(&it.records, |record| static_record(record, &it.name)));
    map.with("nameservers", list(&it.nameservers, nameserver))
        .maybe("soa", it.soa.as_ref().map(|soa| start_of_authority(soa, &it.name)))
        .with("ttl", text(it.ttl))
        .with("negative_ttl", text(it.negative_ttl))
        .maybe("records", records)
        .maybe("allow_query", some(&it.allow_query))
}

fn start_of_authority(it: &StartOfAuthority, apex: &DomainName) -> Node {
    Map::new()
        .with("mname", text(relative(&it.mname, apex)))
        .with("rname", text(relative(&it.rname, apex)))
        .maybe("serial", it.serial.map(plain))
        .with("refresh", text(it.refresh))
        .with("retry", text(it.retry))
        .with("expire", text(it.expire))
        .maybe("ttl", it.ttl.map(text))
        .done()
}

fn static_record(it: &StaticRecord, apex: &DomainName) -> Node {
    let (kind, data) = presentation(&it.data, apex);
    Map::new()
        .with("name", text(relative(&it.name, apex)))
        .maybe("ttl", it.ttl.map(text))
        .with("type", text(kind))
        .with("data", text(data))
        .done()
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

fn check(it: &Check, map: Map) -> Map {
    let map = map.with("type", text(it.probe.kind()));
    let map = probe::probe(&it.probe, map.maybe("port", (it.port != 0).then(|| plain(it.port))));
    let quorum = match it.quorum {
        Quorum::Majority => text("majority"),
        Quorum::Any => text("any"),
        Quorum::All => text("all"),
        Quorum::Count(n) => plain(n),
    };
    map.with("interval", text(it.interval))
        .with("timeout", text(it.timeout))
        .with("fall", plain(it.fall))
        .with("rise", plain(it.rise))
        .with("quorum", quorum)
        .maybe("damping", (it.damping != Check::DAMPING).then(|| text(it.damping)))
}

fn sites(sites: Option<&Vec<Name>>) -> Option<Node> {
    sites.map(|sites| texts(sites))
}

fn domain(it: &Domain, map: Map) -> Map {
    let when_none = match &it.when_none {
        WhenNone::Open => text("open"),
        WhenNone::Nodata => text("nodata"),
        WhenNone::Backup(at) => Map::new().with("backup", addresses(at)).done(),
    };
    let window = match &it.recovery.mode {
        RecoveryMode::Automatic | RecoveryMode::Manual => None,
        RecoveryMode::Window { window } => Some(schedule(window)),
    };
    let recovery = Map::new()
        .with("mode", text(it.recovery.mode.as_str()))
        .maybe("window", window)
        .with("hold_down", text(it.recovery.hold_down))
        .with("ramp", text(it.recovery.ramp))
        .maybe("gate", it.recovery.gate.as_ref().map(text));
    let regional = (it.verdict == Jurisdiction::Regional).then(|| text("regional"));
    map.with("cluster", text(&it.cluster))
        .maybe("sites", sites(it.sites.as_ref()))
        .with("policy", policy(&it.policy))
        .maybe("rules", (!it.rules.is_empty()).then(|| list(&it.rules, rule)))
        .maybe("check", it.check.as_ref().map(text))
        .with("ttl", text(it.ttl))
        .with("min_ttl", text(it.min_ttl))
        .with("answers", plain(it.answers))
        .with("min_up", plain(it.min_up))
        .with("when_none", when_none)
        .with("recovery", recovery.done())
        .maybe("verdict", regional)
        .maybe("budget", it.budget.map(text))
        .maybe("https", it.https.as_deref().map(https))
}

fn https(it: &Https) -> Node {
    Map::new().with("alpn", texts(&it.alpn)).maybe("port", it.port.map(plain)).done()
}

fn service(it: &Service, map: Map) -> Map {
    let consul = Map::new().with("service", text(&it.consul.service)).with("tags", texts(&it.consul.tags));
    let route_by = match it.route_by {
        RouteBy::Gateway => "gateway",
        RouteBy::Uuid => "uuid",
    };
    map.maybe("uuid", it.uuid.map(text))
        .with("cluster", text(&it.cluster))
        .with("consul", consul.done())
        .with("hosts", texts(&it.hosts))
        .maybe("sites", sites(it.sites.as_ref()))
        .with("route_by", text(route_by))
        .maybe("check", it.check.as_ref().map(text))
}

fn route(it: &Route, map: Map) -> Map {
    let path = |path: &PathMatch| match path {
        PathMatch::Prefix(prefix) => Map::new().with("prefix", text(prefix)).done(),
    };
    let to = list(&it.to, |to| {
        Map::new().with("service", text(&to.service)).with("weight", plain(to.weight.0)).done()
    });
    map.with("hosts", texts(&it.hosts)).with("paths", list(&it.paths, path)).with("to", to)
}

fn vantage(it: &Vantage, map: Map) -> Map {
    map.with("site", it.site.as_ref().map_or_else(|| plain("null"), text))
        .maybe("region", it.region.as_ref().map(text))
}

fn over_ride(it: &Override, map: Map) -> Map {
    let target = Map::new()
        .maybe("site", it.target.site.as_ref().map(text))
        .maybe("domain", it.target.domain.as_ref().map(text));
    map.with("target", target.done())
        .with("state", text(it.state.as_str()))
        .with("owner", text(&it.owner))
        .with("reason", text(&it.reason))
        .maybe("expires", it.expires.map(text))
        .maybe("since", it.since.map(text))
        .maybe("over", it.over.map(text))
        .maybe("authority", (it.authority == Authority::Tool).then(|| text("tool")))
        .maybe("force", it.force.then(|| plain(true)))
}

fn token(it: &Token, map: Map) -> Map {
    let role = match it.role {
        Role::Operator => "operator",
        Role::Automation => "automation",
        Role::Vantage => "vantage",
        Role::Registrar => "registrar",
        Role::Node => "node",
        Role::Control => "control",
        Role::Reader => "reader",
    };
    let scope = Map::new()
        .maybe("vantage", it.scope.vantage.as_ref().map(text))
        .maybe("services", it.scope.services.as_ref().map(|services| texts(services)));
    map.with("role", text(role))
        .with("scope", scope.done())
        .with("secret_sha256", text(&it.secret_sha256))
        .maybe("waits_for", some(&it.waits_for))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{arbitrary, parse};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn what_is_printed_reads_as_it_was(documents in prop::collection::vec(arbitrary::document(), 1..4)) {
            let text = yaml_all(&documents);
            let read = parse("out.yaml", &text).map_err(|errors| {
                TestCaseError::fail(format!("{text}\n{}", errors[0]))
            })?;
            let read: Vec<Document> = read.into_iter().map(|it| it.value).collect();
            prop_assert_eq!(&read, &documents, "{}", text);
            for document in documents {
                let json = serde_json::to_string(&document).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Document>(&json).unwrap(), &document, "{}", json);
                let shown = super::json(&document).to_string();
                let read = parse("out.json", &shown).map_err(|errors| {
                    TestCaseError::fail(format!("{shown}\n{}", errors[0]))
                })?;
                prop_assert_eq!(&read[0].value, &document, "{}", shown);
            }
        }

        #[test]
        fn any_text_survives_its_quotes(text in any::<String>()) {
            let mut out = String::new();
            quoted(&text, &mut out);
            let errors = crate::InputErrors::new("x".into());
            let trees = crate::yaml::parse(&format!("a: {out}\nb: [{out}]\n"), &errors);
            prop_assert_eq!(errors.count(), 0);
            prop_assert_eq!(&trees[0].entry("a").unwrap().value.found(), &Node::text(0, text).found());
        }
    }

    #[test]
    fn it_looks_like_the_example() {
        let written = "kind: Zone\n\
                       name: gslb.example.com\n\
                       nameservers:\n  - { name: ns1, a: [203.0.113.53] }\n\
                       ttl: 1h\n\
                       negative_ttl: 1m\n\
                       records:\n  - { name: www, type: CNAME, data: gw }\n  \
                       - { name: \"@\", type: TXT, data: \"\\\"v=spf1 -all\\\"\" }\n";
        let documents = parse("z", written).unwrap();
        assert_eq!(yaml(&documents[0].value), written);
    }
}
