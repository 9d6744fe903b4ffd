//! Tables from snapshots, made whole and one after the other.

use std::time::Duration;

use proptest::prelude::*;
use store::{
    Clock, handle,
    model::{DirectResponse, PathMatch, Percent, RequestMirror, RouteTarget, Sources, Weight},
    testing,
};

use super::*;
use crate::{
    route::testing::request,
    testing::{name, own, snapshot, sources},
};

const PORTS: [u16; 1] = [8080];

fn handle() -> Handle {
    handle::channel(Clock::default(), Duration::from_secs(60)).0
}

fn compile(snapshot: Arc<Snapshot>, handle: &Handle) -> Table {
    Table::compile(snapshot, (&name("main"), &name("s1")), &PORTS, &own(handle))
}

fn to(targets: &[(&str, u16)]) -> Vec<RouteTarget> {
    let target =
        |(service, weight): &(&str, u16)| RouteTarget { service: name(service), weight: Weight(*weight) };
    targets.iter().map(target).collect()
}

/// What a table does with a request: the route, the services with their shares, the mirror.
fn outcome(table: &Table, host: &str, path: &str) -> Option<String> {
    let request = request("GET", host, path);
    let found = table.find(&request)?;
    let service = |number| table.backend(number).unwrap().name.to_string();
    let shares: Vec<_> =
        (0..20).map(|drawn| found.route.split.draw(|end| drawn % end).map(service)).collect();
    let mirror = found.route.mirror.map(|it| service(it.backend));
    Some(format!("{} {shares:?} {mirror:?}", found.route.name()))
}

/// Everything that can be seen of a table.
fn everything(table: &Table) -> Vec<String> {
    let mut all = Vec::new();
    for host in ["a.example.com", "b.example.com", "x.example.com", "c.org"] {
        for path in ["/", "/a", "/a/b"] {
            all.push(format!("{host}{path} {:?}", outcome(table, host, path)));
        }
    }
    let mut backends: Vec<_> = table
        .backends()
        .map(|it| {
            let entrance = it.entrance.as_ref().map(|it| Arc::as_ptr(it) as usize);
            format!("{:?} {:?} {:?} {entrance:?}", it.document, it.tags, it.sites)
        })
        .collect();
    backends.sort();
    all.extend(backends);
    all.push(format!("{:?} {:?} {:?}", table.in_use(), table.situation.ways, table.gateway_domain));
    all
}

#[derive(Clone, Debug)]
enum Wish {
    /// A service in this cluster, another one, or none.
    Service {
        number: usize,
        cluster: Option<&'static str>,
        tag: bool,
    },
    Route {
        number: usize,
        route: Option<Box<Route>>,
    },
    Sites(u8),
}

fn routes() -> impl Strategy<Value = Route> {
    let hosts = prop::sample::subsequence(vec!["a.example.com", "b.example.com", "*.example.com"], 0..3);
    let paths = prop::sample::subsequence(vec!["/", "/a", "/a/b"], 1..3);
    let targets = prop::collection::vec((0_usize..4, 0_u16..3), 0..3);
    (hosts, paths, targets, prop::option::weighted(0.2, 0_usize..4), prop::bool::weighted(0.1)).prop_map(
        |(hosts, paths, targets, mirror, direct)| {
            let hosts = hosts.into_iter().map(|it| it.parse().unwrap()).collect();
            let targets: Vec<_> = targets.iter().map(|(at, weight)| (format!("s{at}"), *weight)).collect();
            let targets: Vec<_> =
                targets.iter().map(|(service, weight)| (service.as_str(), *weight)).collect();
            let mirror = mirror.map(|at| {
                Box::new(RequestMirror { service: name(&format!("s{at}")), percent: Percent(100) })
            });
            let response = || {
                Box::new(DirectResponse { status: 200, content_type: "a/b".to_owned(), body: String::new() })
            };
            Route {
                paths: paths.into_iter().map(|it| PathMatch::Prefix(it.to_owned())).collect(),
                request_mirror: mirror,
                direct_response: direct.then(response),
                ..Route::new(name("r"), hosts, to(&targets))
            }
        },
    )
}

fn wishes() -> impl Strategy<Value = Wish> {
    let cluster = prop::sample::select(vec![Some("main"), Some("main"), Some("other"), None]);
    prop_oneof![
        2 => (0_usize..4, cluster, any::<bool>())
            .prop_map(|(number, cluster, tag)| Wish::Service { number, cluster, tag }),
        4 => (0_usize..6, prop::option::weighted(0.8, routes()))
            .prop_map(|(number, route)| Wish::Route { number, route: route.map(Box::new) }),
        1 => (2_u8..4).prop_map(Wish::Sites),
    ]
}

fn fulfil(sources: &mut Sources, wish: Wish) {
    match wish {
        Wish::Service { number, cluster, tag } => {
            let service = name(&format!("s{number}"));
            sources.services.retain(|it| it.name != service);
            sources.services.extend(cluster.map(|cluster| {
                let mut it = testing::service(service.as_str());
                it.cluster = name(cluster);
                it.consul.tags.extend(tag.then(|| "t".to_owned()));
                it
            }));
        }
        Wish::Route { number, route } => {
            let route_name = name(&format!("r{number}"));
            sources.routes.retain(|it| it.name != route_name);
            sources.routes.extend(route.map(|route| Route { name: route_name, ..*route }));
        }
        Wish::Sites(count) => sources.sites = testing::sources(count, 0).sites,
    }
}

/// A snapshot that has what did not change in common with the one before, where `shares`.
fn next(before: &Snapshot, sources: Sources, shares: bool) -> Arc<Snapshot> {
    let mut snapshot = testing::compile(sources, &store::board::Board::default());
    if shares {
        let mut routes = before.routes.clone();
        for both in before.routes.differences(&snapshot.routes, |a, b| a == b) {
            match both {
                [_, Some(after)] => routes.insert(Arc::clone(after)),
                [Some(gone), None] => routes.remove(gone.name.as_str()),
                [None, None] => unreachable!(),
            }
        }
        snapshot.routes = routes;
        if snapshot.services == before.services {
            snapshot.services = before.services.clone();
        }
        snapshot.domains = Arc::clone(&before.domains);
    }
    Arc::new(snapshot)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_table_after_changes_is_the_table_that_is_compiled_whole(
        rounds in prop::collection::vec((any::<bool>(), prop::collection::vec(wishes(), 1..4)), 1..10),
    ) {
        let handle = handle();
        let mut sources = Sources { routes: Vec::new(), services: Vec::new(), ..sources() };
        let mut table = compile(snapshot(sources.clone()), &handle);
        for (shares, wishes) in rounds {
            wishes.into_iter().for_each(|wish| fulfil(&mut sources, wish));
            let snapshot = next(&table.snapshot, sources.clone(), shares);
            table = table.after(Arc::clone(&snapshot), &PORTS, &own(&handle));
            prop_assert_eq!(everything(&table), everything(&compile(snapshot, &handle)));
            prop_assert!(table.numbers() <= 4, "numbers are used again");
        }
    }
}

fn with_route(route: Route) -> Sources {
    let mut sources = sources();
    sources.routes.push(route);
    sources
}

#[test]
fn a_service_keeps_its_number_and_what_did_not_change_is_shared() {
    let handle = handle();
    let first = compile(snapshot(sources()), &handle);
    let extra = Route::new(name("extra"), vec!["x.example.com".parse().unwrap()], to(&[("shop", 1)]));
    let second = first.after(next(&first.snapshot, with_route(extra), true), &PORTS, &own(&handle));
    assert!(second.has_backends_of(&first), "a route to services that are there changes no service");
    assert!(outcome(&second, "x.example.com", "/").unwrap().starts_with("extra"));
    assert_eq!(outcome(&first, "x.example.com", "/"), None, "the table before is as it was");

    let mut changed = sources();
    changed.services[0].consul.tags.push("new".to_owned());
    let third = second.after(next(&second.snapshot, changed, false), &PORTS, &own(&handle));
    let number = |table: &Table, of: &str| {
        (0..table.numbers()).find(|at| table.backend(*at).unwrap().name == name(of))
    };
    for service in ["web", "shop"] {
        assert_eq!(number(&third, service), number(&first, service));
    }
    let web = number(&third, "web").unwrap();
    assert_eq!(third.backend(web).unwrap().tags, ["new"]);
}

#[test]
fn a_route_to_a_service_that_is_not_there_waits_for_it() {
    let handle = handle();
    let route = Route::new(name("late"), vec!["x.example.com".parse().unwrap()], to(&[("late", 1)]));
    let first = compile(snapshot(with_route(route.clone())), &handle);
    assert_eq!(outcome(&first, "x.example.com", "/"), None, "404, as for services of other clusters");
    let mut sources = with_route(route.clone());
    sources.services.push(testing::service("late"));
    let second = first.after(snapshot(sources), &PORTS, &own(&handle));
    assert!(outcome(&second, "x.example.com", "/").unwrap().contains("\"late\""));
    let third = second.after(snapshot(with_route(route)), &PORTS, &own(&handle));
    assert_eq!(outcome(&third, "x.example.com", "/"), None);
}

#[test]
fn a_route_without_weight_is_a_route_and_leads_nowhere() {
    let handle = handle();
    let zero = Route::new(name("zero"), vec!["x.example.com".parse().unwrap()], to(&[("web", 0)]));
    let table = compile(snapshot(with_route(zero)), &handle);
    let request = request("GET", "x.example.com", "/");
    assert!(table.find(&request).unwrap().route.split.draw(|_| 0).is_none());
}
