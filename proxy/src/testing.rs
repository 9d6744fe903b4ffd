//! A small world for this crate's tests.

use std::{sync::Arc, time::Duration};

use store::{
    board::Board,
    drain::{Drain, DrainId, LEASE, Phase},
    engine::{CheckStatus, Endpoint, Index},
    model::{
        Addresses, Cluster, ConsulService, Domain, Generation, Moment, Name, PathMatch, Recovery, Route,
        RouteBy, RouteTarget, Service, Site, Sources, Span, Weight,
    },
    snapshot::Snapshot,
};

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Instance `number` of a service, at 127.0.0.1 port `number`.
pub(crate) fn endpoint(service: &str, number: u16) -> Endpoint {
    Endpoint {
        node: "n1".into(),
        node_address: "127.0.0.1".into(),
        external: false,
        service: service.into(),
        id: format!("{service}-{number}"),
        address: "127.0.0.1".into(),
        port: number,
        tags: vec![],
        meta: [].into(),
        weight: 1,
        status: CheckStatus::Passing,
        maintenance: false,
        create_index: Index(1),
        modify_index: Index(1),
    }
}

pub(crate) fn drain(id: &str, endpoint: Endpoint, phase: Phase) -> Arc<Drain> {
    Arc::new(Drain {
        v: Drain::VERSION,
        id: DrainId(id.into()),
        service: endpoint.service.clone(),
        instance: endpoint.id.clone(),
        endpoint,
        by: "ops".into(),
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
    })
}

/// A port of 127.0.0.1 without a listener.
pub(crate) fn unused_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sites `s0`, `s1`, `s2`; cluster `main` with the gateway domain `gw.example.com`; services `web` and `shop`
/// (hosts `web.example.com` and `shop.example.com`), and a route of `web.example.com/shop` to `shop`.
pub(crate) fn sources() -> Sources {
    let sites = ["s0", "s1", "s2"];
    let service = |text: &str| Service {
        name: name(text),
        uuid: None,
        cluster: name("main"),
        consul: ConsulService { service: text.into(), tags: vec![] },
        hosts: vec![],
        sites: None,
        route_by: RouteBy::Gateway,
        check: None,
    };
    let route = |route: &str, host: &str, prefix: &str, to: &str| Route {
        name: name(route),
        hosts: vec![host.parse().unwrap()],
        paths: vec![PathMatch::Prefix(prefix.into())],
        to: vec![RouteTarget { service: name(to), weight: Weight(100) }],
    };
    let gateway = |at: u8| Addresses { a: vec![[192, 0, 2, at].into()], aaaa: vec![] };
    Sources {
        sites: sites
            .map(|site| Site { name: name(site), location: None, networks: vec![], region: None })
            .into(),
        clusters: vec![Cluster {
            name: name("main"),
            zone: "example.com".parse().unwrap(),
            gateway_domain: "gw.example.com".parse().unwrap(),
            gateways: (0..3).map(|at| (name(sites[usize::from(at)]), gateway(at))).collect(),
            capacity: [].into(),
            keep: vec![],
            guard: None,
        }],
        domains: vec![
            Domain {
                recovery: Recovery { hold_down: Span::default(), ..Recovery::default() },
                ..Domain::usual("gw.example.com".parse().unwrap(), name("main"))
            }
            .into(),
        ],
        services: vec![service("web"), service("shop")],
        routes: vec![
            route("web", "web.example.com", "/", "web"),
            route("shop", "shop.example.com", "/", "shop"),
            route("web-shop", "web.example.com", "/shop", "shop"),
        ],
        ..Sources::default()
    }
}

pub(crate) fn snapshot(sources: Sources) -> Arc<Snapshot> {
    Arc::new(Snapshot::compile(sources, Generation { epoch: 1, number: 1 }, &Board::default()))
}

/// Waits for a condition, for ten seconds at most.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within ten seconds: {what}");
}
