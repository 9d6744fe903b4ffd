//! A small world for this crate's tests.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use store::{
    Handle,
    board::Board,
    drain::{Drain, Phase},
    engine::Endpoint,
    model::{Domain, PathMatch, Recovery, Route, RouteTarget, Sources, Span, Weight},
    snapshot::Snapshot,
    testing,
};
use webpki::EndEntityCert;

pub(crate) use store::testing::name;

use crate::{config::Limits, route::Own, tls};

/// A gateway with the usual limits.
pub(crate) fn own(handle: &Handle) -> Own<'_> {
    static LIMITS: LazyLock<Limits> = LazyLock::new(Limits::default);
    static TLS: LazyLock<tls::Backends> = LazyLock::new(tls::Backends::default);
    Own { handle, limits: &LIMITS, tls: &TLS }
}

/// Instance `number` of a service, at 127.0.0.1 port `number`.
pub(crate) fn endpoint(service: &str, number: u16) -> Endpoint {
    Endpoint { port: number, ..testing::endpoint(service, &format!("{service}-{number}")) }
}

pub(crate) fn drain(id: &str, endpoint: Endpoint, phase: Phase) -> Arc<Drain> {
    Arc::new(testing::drain(id, endpoint, phase))
}

/// The DNS names in the certificate that the other side of a handshake has shown; `None` if it has shown none.
pub(crate) fn dns_names(chain: Option<&[CertificateDer<'_>]>) -> Option<Vec<String>> {
    let own = EndEntityCert::try_from(chain?.first()?).unwrap();
    Some(own.valid_dns_names().map(str::to_owned).collect())
}

/// A port of 127.0.0.1 without a listener.
pub(crate) fn unused_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sites `s0`, `s1`, `s2`; cluster `main` with the gateway domain `gw.example.com`; services `web` and `shop`
/// (hosts `web.example.com` and `shop.example.com`), and a route of `web.example.com/shop` to `shop`.
pub(crate) fn sources() -> Sources {
    let route = |route: &str, host: &str, prefix: &str, to: &str| {
        let to = vec![RouteTarget { service: name(to), weight: Weight(100) }];
        let paths = vec![PathMatch::Prefix(prefix.into())];
        Route { paths, ..Route::new(name(route), vec![host.parse().unwrap()], to) }
    };
    let recovery = Recovery { hold_down: Span::default(), ..Recovery::default() };
    let domain = Domain { check: None, recovery, ..testing::domain() };
    Sources {
        checks: vec![],
        domains: vec![domain.into()],
        services: vec![testing::service("web"), testing::service("shop")],
        routes: vec![
            route("web", "web.example.com", "/", "web"),
            route("shop", "shop.example.com", "/", "shop"),
            route("web-shop", "web.example.com", "/shop", "shop"),
        ],
        ..testing::sources(3, 0)
    }
}

pub(crate) fn snapshot(sources: Sources) -> Arc<Snapshot> {
    Arc::new(testing::compile(sources, &Board::default()))
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
