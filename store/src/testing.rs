//! Builders of documents, instances and drains for tests, in this crate and, with the feature `testing`, in those
//! above it.

use crate::{
    board::Board,
    commit::Author,
    drain::{Drain, DrainId, LEASE, Phase},
    engine::{Endpoint, Index},
    model::{
        self, Addresses, Authority, Check, Cluster, DarkSite, Domain, Generation, Jurisdiction, Moment, Name,
        Policy, Probe, Quorum, Recovery, RecoveryMode, Service, Site, SiteTag, Sources, Span, Ttl, Vantage,
        WhenNone, World, Zone,
    },
    snapshot::Snapshot,
};
use std::{sync::Arc, time::Duration};

pub use crate::engine::testing::{endpoint, registration};

/// A name.
///
/// # Panics
/// When the text is no name.
#[must_use]
pub fn name(text: &str) -> Name {
    text.parse().expect("a valid name")
}

/// A span such as `10s`.
///
/// # Panics
/// When the text is no span.
#[must_use]
pub fn span(text: &str) -> Span {
    text.parse().expect("a valid span")
}

fn ttl(secs: u32) -> Ttl {
    Ttl::from_secs(secs).expect("a valid TTL")
}

/// The check `web`: TCP on port 80 every second.
#[must_use]
pub fn check(quorum: Quorum) -> Check {
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

/// The domain `gw.example.com` of the cluster `main`, with the check `web` and a hold-down of 10 s.
///
/// # Panics
/// Never.
#[must_use]
pub fn domain() -> Domain {
    Domain {
        name: "gw.example.com".parse().expect("valid"),
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

/// The cluster `main` in the zone `example.com`, with `sites` sites `s0`, `s1`, …, each with the network
/// 10.<n>.0.0/16 and the gateway 192.0.2.<n>, and with `vantages` vantages `v0`, `v1`, ….
///
/// # Panics
/// Never.
#[must_use]
pub fn sources(sites: u8, vantages: u8) -> Sources {
    let site = |n: u8| Site {
        name: name(&format!("s{n}")),
        location: None,
        networks: vec![format!("10.{n}.0.0/16").parse().expect("valid")],
        region: None,
        control: None,
        reach: [].into(),
    };
    let gateway =
        |n: u8| (name(&format!("s{n}")), Addresses { a: vec![[192, 0, 2, n].into()], aaaa: vec![] });
    let vantage = |n: u8| Vantage { name: name(&format!("v{n}")), site: None, region: None };
    Sources {
        sites: (0..sites).map(site).collect(),
        zones: vec![Zone {
            name: "example.com".parse().expect("valid"),
            nameservers: vec![],
            soa: None,
            ttl: ttl(3600),
            negative_ttl: ttl(60),
            records: vec![],
            allow_query: vec![],
        }],
        clusters: vec![Cluster {
            name: name("main"),
            zone: "example.com".parse().expect("valid"),
            gateway_domain: "gw.example.com".parse().expect("valid"),
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

/// The text of documents: the sites `bj` and `sh`, the zone `example.com`, the cluster `main` and the check `web`.
/// `gateways` are those of the cluster; more of its fields may follow on lines of their own.
#[must_use]
pub fn two_sites(gateways: &str) -> String {
    format!(
        "\
kind: Site
name: bj
networks: [10.1.0.0/16]
---
kind: Site
name: sh
networks: [10.2.0.0/16]
---
kind: Zone
name: example.com
nameservers: [{{ name: ns1, a: [192.0.2.53] }}]
---
kind: Cluster
name: main
zone: example.com
gateway_domain: gw.example.com
gateways: {gateways}
---
kind: Check
name: web
type: tcp
port: 80
interval: 1s
timeout: 500ms
"
    )
}

/// The snapshot of the documents in a text, which are not checked against one another.
///
/// # Panics
/// When one of them is not valid.
#[must_use]
pub fn compile_text(text: &str, generation: u64, board: &Board) -> Snapshot {
    let documents = model::parse("documents.yaml", text).expect("documents");
    let world = World::assemble(documents.into_iter().map(|it| Arc::new(it.value)));
    Snapshot::compile(world.sources(), Generation::new(1, generation), board)
}

/// The snapshot of these documents, of generation 1.1.
#[must_use]
pub fn compile(sources: Sources, board: &Board) -> Snapshot {
    Snapshot::compile(sources, Generation::new(1, 1), board)
}

/// A service of the cluster `main` with this name, also in the registry.
#[must_use]
pub fn service(registered_as: &str) -> Service {
    Service::new(name(registered_as), name("main"))
}

/// A drain of an instance, ordered by `ops` at moment 0.
#[must_use]
pub fn drain(id: &str, endpoint: Endpoint, phase: Phase) -> Drain {
    Drain {
        v: Drain::VERSION,
        id: DrainId(id.to_owned()),
        service: endpoint.service.clone(),
        instance: endpoint.id.clone(),
        endpoint,
        by: "ops".to_owned(),
        hook: None,
        require_all: false,
        lease: Span(LEASE),
        created: Moment(0),
        phase,
        since: Moment(0),
        unproven: [].into(),
        trouble: None,
        linger: None,
        done: None,
        ended: None,
        note: None,
        site: None,
        revision: Index(0),
        dark_site: DarkSite::Hold,
    }
}

/// The author of an operator's commit that comes from a file.
#[must_use]
pub fn author() -> Author<'static> {
    Author {
        authority: Authority::Human,
        by: "test",
        site: SiteTag::of(&name("bj")),
        founds: true,
        applied: true,
    }
}
