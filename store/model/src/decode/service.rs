//! Services.

use std::path::PathBuf;

use super::{
    check::{DAY, millis},
    most, name, sites,
};
use crate::{
    BackendTls, Balance, BalanceType, CircuitBreaker, ClientCertificate, ConsulService, DomainName, Ejection,
    HashOn, Health, KeepAlive, Percent, RouteBy, Service, Span,
    read::{Fields, Reader},
    tree::Value,
};

pub(super) fn service(fields: &Fields<'_>) -> Option<Service> {
    let name = name(fields);
    let uuid = fields
        .optional("uuid", |field| field.parse_as("a UUID such as 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10"));
    let cluster = fields.required("cluster", "the name of a Cluster", |field| field.parse());
    let consul = fields.optional("consul", |field| consul(&field));
    let hosts = fields.or("hosts", Vec::new(), |field| most(&field, 1_000, |field| field.distinct(host)));
    let sites = sites(fields);
    let route_by = fields.or("route_by", RouteBy::default(), |field| field.one_of());
    let check = fields.optional("check", |field| field.parse());
    let health = fields.optional("health", |field| health(&field, check.is_some()));
    let balance = fields.or("balance", Balance::default(), |field| balance(&field));
    let slow_start = fields.or("slow_start", Span::default(), up_to_a_day);
    let registry_weights = fields.or("registry_weights", true, |field| field.boolean());
    let ejection = fields.optional("ejection", |field| ejection(&field));
    let overprovision =
        fields.or("overprovision", Service::OVERPROVISION, |field| percent(&field, 100..=1_000));
    let cross_site_max =
        fields.or("cross_site_max", Service::CROSS_SITE_MAX, |field| percent(&field, 0..=100));
    let circuit_breaker = fields.optional("circuit_breaker", |field| circuit_breaker(&field));
    let tls = fields.optional("tls", |field| tls(&field));
    let keep_alive = fields.optional("keep_alive", |field| keep_alive(&field));
    let proxy_protocol = fields.optional("proxy_protocol", |field| field.one_of());
    let service = Service::new(name?, cluster?);
    Some(Service {
        uuid,
        consul: consul.unwrap_or_else(|| service.consul.clone()),
        hosts,
        sites,
        route_by,
        check,
        health: health.map(Box::new),
        balance,
        slow_start,
        registry_weights,
        ejection: ejection.map(Box::new),
        overprovision,
        cross_site_max,
        circuit_breaker: circuit_breaker.map(Box::new),
        tls: tls.map(Box::new),
        keep_alive: keep_alive.map(Box::new),
        proxy_protocol,
        ..service
    })
}

/// A host name, which may have `*` as its first label.
pub(super) fn host(field: Reader<'_>) -> Option<DomainName> {
    let name: DomainName = field.parse()?;
    if name.as_str() == "*" {
        field.error("every host at once is not a host", "a wildcard in a domain, such as *.apps.example.com");
        return None;
    }
    Some(name)
}

fn consul(field: &Reader<'_>) -> Option<ConsulService> {
    let fields = field.fields()?;
    let expected = "the service's name in the registry";
    let service = fields.required("service", expected, registry_word);
    let tags = fields.or("tags", Vec::new(), |field| field.distinct(registry_word));
    Some(ConsulService { service: service?, tags })
}

/// A text that needs no escaping in a path or a query of the registry's API.
fn registry_word(field: Reader<'_>) -> Option<String> {
    let text = field.text(255)?;
    let fits =
        text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'%' | b'"' | b'\\'));
    if !fits {
        field.wrong("a word of visible ASCII without / ? # % \" and \\");
    }
    fits.then(|| text.to_owned())
}

/// A duration that may be zero.
pub(super) fn up_to_a_day(field: Reader<'_>) -> Option<Span> {
    field.span_within(Span::default()..=DAY)
}

pub(super) fn percent(field: &Reader<'_>, range: std::ops::RangeInclusive<u16>) -> Option<Percent> {
    field.int(range).map(Percent)
}

fn health(field: &Reader<'_>, has_check: bool) -> Option<Health> {
    let fields = field.fields()?;
    let usual = Health::default();
    let active = fields.or("active", usual.active, |field| field.boolean());
    let interval = fields.optional("interval", |field| field.span_within(millis(100)..=DAY));
    if !has_check {
        field.error("there is no check that gateways could dial by", "`check`, the name of a Check");
    }
    Some(Health { active, interval })
}

fn balance(field: &Reader<'_>) -> Option<Balance> {
    let fields = field.fields()?;
    let kind = fields.required_word::<BalanceType>("type");
    let bound = fields.or("bounded_load", Balance::BOUNDED_LOAD, |field| percent(&field, 101..=1_000));
    if kind == Some(BalanceType::Hash) {
        let expected = "{ header: NAME }, { cookie: NAME } or client";
        let hash_on = fields.required("hash_on", expected, |field| hash_on(&field));
        return Some(Balance::Hash { hash_on: hash_on?, bounded_load: bound });
    }
    for key in ["hash_on", "bounded_load"] {
        if let (Some(at), Some(_)) = (fields.get(key), kind) {
            at.error("means nothing to this type", "this key only with type: hash");
        }
    }
    match kind? {
        BalanceType::RoundRobin => Some(Balance::RoundRobin {}),
        BalanceType::LeastRequests => Some(Balance::LeastRequests {}),
        BalanceType::P2c | BalanceType::Hash => Some(Balance::P2c {}),
    }
}

fn hash_on(field: &Reader<'_>) -> Option<HashOn> {
    if let Value::Scalar(_) = &field.node().value {
        return field.word(&[("client", ())]).map(|()| HashOn::Client);
    }
    let fields = field.fields()?;
    let header = fields.optional("header", |field| field.parse().map(HashOn::Header));
    let cookie = fields.optional("cookie", |field| field.parse().map(HashOn::Cookie));
    match (fields.get("header").is_some(), fields.get("cookie").is_some()) {
        (true, false) => header,
        (false, true) => cookie,
        _ => {
            field.error("is not one thing to hash on", "either `header` or `cookie`");
            None
        }
    }
}

fn ejection(field: &Reader<'_>) -> Option<Ejection> {
    let fields = field.fields()?;
    let consecutive = fields.optional("consecutive", |field| field.int(1..=100));
    let base = fields.optional("base", |field| field.span_within(millis(100)..=DAY));
    let at_most = fields.or("at_most", Ejection::AT_MOST, |field| field.span_within(millis(100)..=DAY));
    if let (Some(base), Some(at)) = (base, fields.get("base"))
        && base > at_most
    {
        at.error(format!("{base} is longer than the longest, {at_most}"), "at most `at_most`");
    }
    let max_percent = fields.or("max_percent", Ejection::MAX_PERCENT, |field| percent(&field, 0..=100));
    let panic_percent = fields.or("panic_percent", Ejection::PANIC_PERCENT, |field| percent(&field, 0..=100));
    Some(Ejection { consecutive, base, at_most, max_percent, panic_percent })
}

fn circuit_breaker(field: &Reader<'_>) -> Option<CircuitBreaker> {
    let fields = field.fields()?;
    let usual = CircuitBreaker::default();
    Some(CircuitBreaker {
        connections: fields.or("connections", usual.connections, |field| field.int(1..=1_000_000)),
        pending: fields.or("pending", usual.pending, |field| field.int(0..=1_000_000)),
        requests: fields.or("requests", usual.requests, |field| field.int(1..=1_000_000)),
    })
}

fn tls(field: &Reader<'_>) -> Option<BackendTls> {
    let fields = field.fields()?;
    let verify = fields.or("verify", true, |field| field.boolean());
    let ca_file = fields.optional("ca_file", path);
    if let (Some(at), false) = (fields.get("ca_file"), verify) {
        at.error("nothing is verified by it", "no such key, or verify: true");
    }
    let server_name = fields.optional("server_name", super::check::server_name);
    let client_certificate = fields.optional("client_certificate", |field| {
        let fields = field.fields()?;
        let certificate = fields.required("certificate", "a file in PEM", path);
        let key = fields.required("key", "a file in PEM", path);
        Some(ClientCertificate { certificate: certificate?, key: key? })
    });
    Some(BackendTls { verify, ca_file, server_name, client_certificate })
}

fn path(field: Reader<'_>) -> Option<PathBuf> {
    field.text(1_000).map(PathBuf::from)
}

fn keep_alive(field: &Reader<'_>) -> Option<KeepAlive> {
    let fields = field.fields()?;
    Some(KeepAlive {
        idle: fields.optional("idle", up_to_a_day),
        most: fields.optional("most", |field| field.int(0..=u16::MAX)),
        requests: fields.optional("requests", |field| field.int(1..=u32::MAX)),
    })
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
