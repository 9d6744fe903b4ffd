//! Services as they are read, and what is said about wrong ones.

use super::*;
use crate::{Document, InputError, parse};

fn read(more: &str) -> Result<Service, Vec<String>> {
    let text = format!("kind: Service\nname: s\ncluster: c\n{more}\n");
    match parse("w.yaml", &text).map(|mut placed| placed.remove(0).value) {
        Ok(Document::Service(it)) => Ok(it),
        Ok(other) => panic!("{other:?}"),
        Err(errors) => Err(errors.iter().map(InputError::to_string).collect()),
    }
}

fn service(more: &str) -> Service {
    read(more).unwrap_or_else(|errors| panic!("{more}: {errors:#?}"))
}

#[test]
fn what_is_not_said_is_usual_and_not_stored() {
    let plain = service("");
    assert_eq!(plain, Service::new("s".parse().unwrap(), "c".parse().unwrap()));
    let stored = serde_json::to_string(&plain).unwrap();
    let expected =
        r#"{"name":"s","cluster":"c","consul":{"service":"s","tags":[]},"hosts":[],"route_by":"gateway"}"#;
    assert_eq!(stored, expected);
    assert_eq!(serde_json::from_str::<Service>(expected).unwrap(), plain);
    let said = "balance: { type: p2c }\nslow_start: 0s\nregistry_weights: true\noverprovision: 140\ncross_site_max: 100";
    assert_eq!(service(said), plain);
}

#[test]
fn every_way_to_balance_reads() {
    let balance = |text: &str| service(&format!("balance: {text}")).balance;
    assert_eq!(balance("{ type: round_robin }"), Balance::RoundRobin {});
    assert_eq!(balance("{ type: least_requests }"), Balance::LeastRequests {});
    for (text, hash_on) in [
        ("client", HashOn::Client),
        ("{ header: X-User }", HashOn::Header("X-User".parse().unwrap())),
        ("{ cookie: sid }", HashOn::Cookie("sid".parse().unwrap())),
    ] {
        let read = balance(&format!("{{ type: hash, hash_on: {text} }}"));
        assert_eq!(read, Balance::Hash { hash_on, bounded_load: Percent(125) });
    }
}

#[test]
fn an_error_says_where_it_is_and_what_would_be_right() {
    for (more, place, words) in [
        ("hosts: ['*']", "hosts[0]", "a wildcard in a domain"),
        ("hosts: [a.*.b]", "hosts[0]", "a domain name"),
        ("health: { active: true }", "health", "there is no check"),
        ("check: c\nhealth: { interval: 1ms }", "health.interval", "100ms to 1d"),
        ("balance: { type: p2d }", "balance.type", "did you mean \"p2c\"?"),
        ("balance: {}", "balance.type", "is missing"),
        ("balance: { type: hash }", "balance.hash_on", "is missing; expected { header: NAME }"),
        ("balance: { type: hash, hash_on: ip }", "balance.hash_on", "one of client"),
        (
            "balance: { type: hash, hash_on: { header: a, cookie: b } }",
            "balance.hash_on",
            "either `header` or `cookie`",
        ),
        (
            "balance: { type: hash, hash_on: client, bounded_load: 100 }",
            "balance.bounded_load",
            "101 to 1000",
        ),
        ("balance: { type: p2c, hash_on: client }", "balance.hash_on", "only with type: hash"),
        ("slow_start: 2d", "slow_start", "0s to 1d"),
        ("ejection: { base: 2m }", "ejection.base", "longer than the longest, 1m"),
        ("ejection: { consecutive: 0 }", "ejection.consecutive", "1 to 100"),
        ("ejection: { max_percent: 101 }", "ejection.max_percent", "0 to 100"),
        ("overprovision: 99", "overprovision", "100 to 1000"),
        ("circuit_breaker: { connections: 0 }", "circuit_breaker.connections", "1 to 1000000"),
        ("tls: { verify: false, ca_file: a }", "tls.ca_file", "nothing is verified by it"),
        ("tls: { server_name: 10.0.0.1 }", "tls.server_name", "a host name"),
        ("tls: { client_certificate: { certificate: a } }", "tls.client_certificate.key", "is missing"),
        ("proxy_protocol: v3", "proxy_protocol", "one of v1 or v2"),
    ] {
        let errors = read(more).expect_err(more);
        let [only] = errors.as_slice() else { panic!("{more}: {errors:#?}") };
        assert!(only.contains(&format!(": Service s: {place}: ")) && only.contains(words), "{more}: {only}");
    }
}
