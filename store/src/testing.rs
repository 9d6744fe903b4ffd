//! A small world for this crate's tests.

use crate::{
    board::Board,
    model::{
        Addresses, Check, Cluster, ConsulService, Domain, Generation, Jurisdiction, Name, Policy, Probe,
        Quorum, Recovery, RecoveryMode, RouteBy, Service, Site, Sources, Span, Ttl, Vantage, WhenNone, Zone,
    },
    snapshot::Snapshot,
};
use std::time::Duration;

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn span(text: &str) -> Span {
    text.parse().unwrap()
}

fn ttl(secs: u32) -> Ttl {
    Ttl::from_secs(secs).unwrap()
}

pub(crate) fn check(quorum: Quorum) -> Check {
    Check {
        name: name("web"),
        probe: Probe::tcp(),
        port: 80,
        interval: span("1s"),
        timeout: span("800ms"),
        fall: 4,
        rise: 2,
        quorum,
        damping: Check::DAMPING,
    }
}

pub(crate) fn domain() -> Domain {
    Domain {
        name: "gw.example.com".parse().unwrap(),
        cluster: name("main"),
        sites: None,
        policy: Policy::Nearest {},
        rules: vec![],
        check: Some(name("web")),
        ttl: ttl(20),
        min_ttl: ttl(2),
        answers: 1,
        min_up: 1,
        when_none: WhenNone::Open,
        https: None,
        verdict: Jurisdiction::Global,
        budget: None,
        recovery: Recovery {
            mode: RecoveryMode::Automatic,
            hold_down: Span(Duration::from_secs(10)),
            ramp: Span(Duration::ZERO),
            gate: None,
        },
    }
}

/// `sites` sites `s0`, `s1`, … each with the network 10.<n>.0.0/16 and the gateway 192.0.2.<n>.
pub(crate) fn sources(sites: u8, vantages: u8) -> Sources {
    let site = |n: u8| Site {
        name: name(&format!("s{n}")),
        location: None,
        networks: vec![format!("10.{n}.0.0/16").parse().unwrap()],
        region: None,
    };
    let gateway =
        |n: u8| (name(&format!("s{n}")), Addresses { a: vec![[192, 0, 2, n].into()], aaaa: vec![] });
    let vantage = |n: u8| Vantage { name: name(&format!("v{n}")), site: None, region: None };
    Sources {
        sites: (0..sites).map(site).collect(),
        zones: vec![Zone {
            name: "example.com".parse().unwrap(),
            nameservers: vec![],
            soa: None,
            ttl: ttl(3600),
            negative_ttl: ttl(60),
            records: vec![],
            allow_query: vec![],
        }],
        clusters: vec![Cluster {
            name: name("main"),
            zone: "example.com".parse().unwrap(),
            gateway_domain: "gw.example.com".parse().unwrap(),
            gateways: (0..sites).map(gateway).collect(),
            capacity: [].into(),
            keep: vec![],
            guard: None,
        }],
        checks: vec![check(Quorum::Majority)],
        domains: vec![domain().into()],
        vantages: (0..vantages).map(vantage).collect(),
        ..Sources::default()
    }
}

pub(crate) fn compile(sources: Sources, board: &Board) -> Snapshot {
    Snapshot::compile(sources, Generation { epoch: 1, number: 1 }, board)
}

pub(crate) fn service(registered_as: &str) -> Service {
    Service {
        name: name(registered_as),
        uuid: None,
        cluster: name("main"),
        consul: ConsulService { service: registered_as.to_owned(), tags: vec![] },
        hosts: vec![],
        sites: None,
        route_by: RouteBy::Gateway,
        check: None,
    }
}
