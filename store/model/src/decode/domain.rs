//! Steered domains.

use super::{
    A_DOMAIN,
    check::{DAY, millis},
    host,
    policy::{policy, rules, schedule},
    sites, some_addresses,
};
use crate::{
    Domain, DomainName, Https, Jurisdiction, Name, Policy, Recovery, RecoveryKind, RecoveryMode, Ttl,
    WhenNone,
    read::{Fields, Reader},
    tree::Value,
};

impl Domain {
    const TTL: Ttl = seconds(20);
    const MIN_TTL: Ttl = seconds(2);
    const ANSWERS: u8 = 1;
    const MIN_UP: u8 = 1;

    /// A domain with nothing but its name and cluster.
    #[must_use]
    pub fn usual(name: DomainName, cluster: Name) -> Self {
        Self {
            name,
            cluster,
            sites: None,
            policy: Policy::Nearest {},
            rules: Vec::new(),
            check: None,
            ttl: Self::TTL,
            min_ttl: Self::MIN_TTL,
            answers: Self::ANSWERS,
            min_up: Self::MIN_UP,
            when_none: WhenNone::default(),
            recovery: Recovery::default(),
            verdict: Jurisdiction::default(),
            budget: None,
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
        field.error(format!("{min_ttl} is more than the ttl"), format!("at most the ttl, {ttl}"));
    }
    let domain = Domain {
        name: name?,
        cluster: cluster?,
        sites: sites(fields),
        policy: fields.or("policy", Policy::Nearest {}, |field| policy(&field)),
        rules: fields.or("rules", Vec::new(), |field| rules(&field)),
        check: fields.optional("check", |field| field.parse()),
        ttl,
        min_ttl: min_ttl.unwrap_or_else(|| Domain::MIN_TTL.min(ttl)),
        answers: fields.or("answers", Domain::ANSWERS, |field| field.int(1..=8)),
        min_up: fields.or("min_up", Domain::MIN_UP, |field| field.int(1..=255)),
        when_none: fields.or("when_none", WhenNone::default(), |field| when_none(&field)),
        recovery: fields.or("recovery", Recovery::default(), |field| recovery(&field)),
        verdict: fields.or("verdict", Jurisdiction::default(), |field| field.one_of()),
        budget: fields.optional("budget", |field| field.span_within(millis(1)..=DAY)),
        https: fields.optional("https", |field| https(&field).map(Box::new)),
    };
    Some(domain)
}

fn https(field: &Reader<'_>) -> Option<Https> {
    let fields = field.fields()?;
    let alpn = fields.required("alpn", "a list of protocols such as [h2, http/1.1]", |field| {
        let before = field.count();
        let found = field.distinct(|item| item.text(255).map(str::to_owned))?;
        // All of them are in one parameter of a record; clients use fewer than eight.
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
        Self { mode: RecoveryMode::Automatic, hold_down: millis(10_000), ramp: millis(0), gate: None }
    }
}

fn when_none(field: &Reader<'_>) -> Option<WhenNone> {
    if let Value::Map(_) = field.node().value {
        let fields = field.fields()?;
        let backup = fields.required("backup", "{ a, aaaa }", |field| some_addresses(&field));
        return backup.map(|at| WhenNone::Backup(Box::new(at)));
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
    let mode = match fields.or("mode", RecoveryKind::Automatic, |field| field.one_of()) {
        RecoveryKind::Automatic => Some(RecoveryMode::Automatic),
        RecoveryKind::Manual => Some(RecoveryMode::Manual),
        RecoveryKind::Window => {
            let expected = "{ time_zone, days, from, to }";
            let window = fields.required("window", expected, |field| schedule(&field));
            window.map(|window| RecoveryMode::Window { window: Box::new(window) })
        }
    };
    if let (Some(RecoveryMode::Automatic | RecoveryMode::Manual), Some(at)) = (&mode, fields.get("window")) {
        at.error("means nothing in this mode", "mode: window, or no window");
    }
    let recovery = Recovery {
        mode: mode.unwrap_or_default(),
        hold_down: fields.or("hold_down", usual.hold_down, |field| field.span_within(millis(0)..=DAY)),
        ramp: fields.or("ramp", usual.ramp, |field| field.span_within(millis(0)..=DAY)),
        gate: fields.optional("gate", |field| field.parse()),
    };
    Some(recovery)
}
