//! Checks and domains.

use std::time::Duration;

use super::{A_DOMAIN, host, name, sites, some, some_addresses, supported};
use crate::model::{
    Check, Domain, DomainName, Https, Name, Policy, Probe, Quorum, Recovery, RecoveryMode, Span, Ttl,
    WhenNone,
    read::{Fields, Reader},
    tree::Value,
};

const fn millis(ms: u64) -> Span {
    Span(Duration::from_millis(ms))
}

const DAY: Span = millis(86_400_000);

#[derive(Clone, Copy)]
enum ProbeType {
    Http,
    Tcp,
}

pub(super) fn check(fields: &Fields<'_>) -> Option<Check> {
    let name = name(fields);
    let types = [("http", ProbeType::Http), ("tcp", ProbeType::Tcp)];
    let later = ["https", "tls", "dns", "grpc", "icmp", "external"];
    let kind = fields.required("type", "one of http or tcp", |field| supported(&field, &types, &later));
    // Read whatever the type is, so that a wrong type does not make every other key unknown.
    let http = http(fields);
    let (probe, port) = match kind {
        Some(ProbeType::Tcp) => {
            for key in ["path", "host", "expect_status"] {
                if let Some(field) = fields.get(key) {
                    field.mistake("means nothing to a check of type tcp", "this key only with type: http");
                }
            }
            (Some(Probe::Tcp {}), fields.required("port", "a port from 1 to 65535", port))
        }
        Some(ProbeType::Http) => (http, Some(fields.or("port", 80, port))),
        None => (None, fields.optional("port", port)),
    };
    let interval = fields.or("interval", millis(1_000), |field| field.span_within(millis(10)..=DAY));
    let timeout = fields.optional("timeout", |field| field.span_within(millis(1)..=DAY));
    if let (Some(timeout), Some(field)) = (timeout, fields.get("timeout"))
        && timeout > interval
    {
        let problem = format!("an interval ({interval}) shorter than its timeout ({timeout})");
        field.mistake(problem, format!("at most the interval, {interval}"));
    }
    let fall = fields.or("fall", 4, |field| field.int(1..=100));
    let rise = fields.or("rise", 2, |field| field.int(1..=100));
    let quorum = fields.or("quorum", Quorum::default(), quorum);
    let timeout = timeout.unwrap_or_else(|| millis(800).min(interval));
    Some(Check { name: name?, probe: probe?, port: port?, interval, timeout, fall, rise, quorum })
}

fn port(field: Reader<'_>) -> Option<u16> {
    field.int(1..=u16::MAX)
}

fn http(fields: &Fields<'_>) -> Option<Probe> {
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let path = fields.or("path", "/readyz", |field| {
        let path = field.text(2_000)?;
        let fits = path.starts_with('/') && visible(path) && !path.contains('#');
        if !fits {
            field.wrong("a path that starts with / and has no spaces");
        }
        fits.then_some(path)
    });
    let host = fields.optional("host", |field| {
        let host = field.text(255)?;
        let fits = visible(host) && !host.contains(['/', '@', '?', '#']);
        if !fits {
            field.wrong("a Host header: a name or an address, with a port if need be");
        }
        fits.then(|| host.to_owned())
    });
    let statuses = |field: Reader<'_>| some(&field, |item| item.int(100..=599));
    let expect_status = fields.or("expect_status", vec![200], statuses);
    Some(Probe::Http { path: path.to_owned(), host, expect_status })
}

fn quorum(field: Reader<'_>) -> Option<Quorum> {
    match &field.node().value {
        Value::Scalar(scalar) if scalar.as_int().is_some() => field.int(1..=u16::MAX).map(Quorum::Count),
        _ => {
            let words = [("majority", Quorum::Majority), ("any", Quorum::Any), ("all", Quorum::All)];
            let found = match &field.node().value {
                Value::Scalar(scalar) => words.into_iter().find(|(word, _)| *word == scalar.text),
                Value::List(_) | Value::Map(_) => None,
            };
            if found.is_none() {
                field.wrong("majority, any, all or a number of vantages");
            }
            found.map(|(_, quorum)| quorum)
        }
    }
}

impl Domain {
    const TTL: Ttl = seconds(20);
    const MIN_TTL: Ttl = seconds(2);
    const ANSWERS: u8 = 1;
    const MIN_UP: u8 = 1;

    /// A domain that says nothing but its name and cluster.
    #[must_use]
    pub fn usual(name: DomainName, cluster: Name) -> Self {
        Self {
            name,
            cluster,
            sites: None,
            policy: Policy::Nearest {},
            check: None,
            ttl: Self::TTL,
            min_ttl: Self::MIN_TTL,
            answers: Self::ANSWERS,
            min_up: Self::MIN_UP,
            when_none: WhenNone::default(),
            recovery: Recovery::default(),
            https: None,
        }
    }
}

pub(super) fn domain(fields: &Fields<'_>) -> Option<Domain> {
    let name = fields.required("name", A_DOMAIN, host);
    let cluster = fields.required("cluster", "the name of a Cluster", |field| field.parse());
    let ttl = fields.or("ttl", Domain::TTL, |field| field.ttl());
    let min_ttl = fields.optional("min_ttl", |field| field.ttl());
    if let (Some(min_ttl), Some(field)) = (min_ttl, fields.get("min_ttl"))
        && min_ttl > ttl
    {
        field.mistake(format!("{min_ttl} is more than the ttl"), format!("at most the ttl, {ttl}"));
    }
    let domain = Domain {
        name: name?,
        cluster: cluster?,
        sites: sites(fields),
        policy: fields.or("policy", Policy::Nearest {}, |field| policy(&field)),
        check: fields.optional("check", |field| field.parse()),
        ttl,
        min_ttl: min_ttl.unwrap_or_else(|| Domain::MIN_TTL.min(ttl)),
        answers: fields.or("answers", Domain::ANSWERS, |field| field.int(1..=8)),
        min_up: fields.or("min_up", Domain::MIN_UP, |field| field.int(1..=255)),
        when_none: fields.or("when_none", WhenNone::default(), |field| when_none(&field)),
        recovery: fields.or("recovery", Recovery::default(), |field| recovery(&field)),
        https: fields.optional("https", |field| https(&field).map(Box::new)),
    };
    Some(domain)
}

fn https(field: &Reader<'_>) -> Option<Https> {
    let fields = field.fields()?;
    let alpn = fields.required("alpn", "a list of protocols such as [h2, http/1.1]", |field| {
        let before = field.count();
        let found = field.distinct(|item| item.text(255).map(str::to_owned))?;
        // All of them stand in one parameter of a record; eight say more than any client reads.
        if field.count() == before && !(1..=8).contains(&found.len()) {
            field.wrong("one to eight protocols such as [h2, http/1.1]");
        }
        Some(found)
    });
    let port = fields.optional("port", |field| field.int(1..=u16::MAX));
    Some(Https { alpn: alpn?, port })
}

/// A TTL written in this program; zero would be the longest.
pub(super) const fn seconds(secs: u32) -> Ttl {
    match Ttl::from_secs(secs) {
        Some(ttl) => ttl,
        None => Ttl::MAX,
    }
}

impl Default for Recovery {
    fn default() -> Self {
        Self { mode: RecoveryMode::Automatic, hold_down: millis(10_000), ramp: millis(0) }
    }
}

#[derive(Clone, Copy)]
enum PolicyType {
    Nearest,
    Failover,
}

fn policy(field: &Reader<'_>) -> Option<Policy> {
    let mut fields = field.fields()?;
    let types = [("nearest", PolicyType::Nearest), ("failover", PolicyType::Failover)];
    let later = ["weighted", "blue_green"];
    let kind =
        fields.required("type", "one of nearest or failover", |field| supported(&field, &types, &later));
    match kind {
        Some(PolicyType::Nearest) => Some(Policy::Nearest {}),
        Some(PolicyType::Failover) => {
            let expected = "every site of the domain, first choice first";
            let order = fields.required("order", expected, |field| some(&field, |item| item.parse()));
            Some(Policy::Failover { order: order? })
        }
        None => {
            fields.ignore_rest();
            None
        }
    }
}

fn when_none(field: &Reader<'_>) -> Option<WhenNone> {
    if let Value::Map(_) = field.node().value {
        let fields = field.fields()?;
        let backup = fields.required("backup", "{ a, aaaa }", |field| some_addresses(&field));
        return backup.map(WhenNone::Backup);
    }
    match &field.node().value {
        Value::Scalar(scalar) if scalar.text == "open" => Some(WhenNone::Open),
        Value::Scalar(scalar) if scalar.text == "nodata" => Some(WhenNone::Nodata),
        _ => {
            field.wrong("open, nodata or { backup: { a: [ADDRESS], aaaa: [ADDRESS] } }");
            None
        }
    }
}

fn recovery(field: &Reader<'_>) -> Option<Recovery> {
    let fields = field.fields()?;
    let usual = Recovery::default();
    let modes = [("automatic", RecoveryMode::Automatic)];
    Some(Recovery {
        mode: fields.or("mode", usual.mode, |field| supported(&field, &modes, &["manual", "window"])),
        hold_down: fields.or("hold_down", usual.hold_down, |field| field.span_within(millis(0)..=DAY)),
        ramp: fields.or("ramp", usual.ramp, |field| field.span_within(millis(0)..=DAY)),
    })
}
