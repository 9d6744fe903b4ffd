use std::collections::BTreeSet;

use super::*;
use crate::{
    model::{OverrideState, OverrideTarget},
    testing::{compile, name, sources},
};

fn service(route_by: RouteBy) -> Service {
    Service {
        uuid: Some("6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10".parse().unwrap()),
        hosts: vec!["orders.shop.example.com".parse().unwrap(), "orders.example.org".parse().unwrap()],
        route_by,
        ..Service::new(name("orders"), name("main"))
    }
}

#[test]
fn a_zone_knows_every_name_and_empty_non_terminals() {
    let mut world = sources(2, 1);
    world.services = vec![service(RouteBy::Gateway)];
    let snapshot = compile(world, &Board::default());
    let zone = snapshot.zone_of("orders.shop.example.com").unwrap();
    assert_eq!(zone.zone.name.as_str(), "example.com");
    let alias = zone.get("orders.shop.example.com").unwrap().alias.clone();
    assert_eq!(alias.unwrap().as_str(), "gw.example.com");
    let between = zone.get("shop.example.com").unwrap();
    assert!(between.alias.is_none() && between.steered.is_none() && between.records.is_empty());
    assert!(zone.get("gw.example.com").unwrap().steered.is_some());
    assert!(zone.get("nothing.example.com").is_none());
    assert!(snapshot.zone_of("orders.example.org").is_none());
    assert!(snapshot.zone_of("com").is_none());
}

#[test]
fn a_service_may_be_routed_by_its_uuid_domain() {
    let mut world = sources(2, 1);
    world.services = vec![service(RouteBy::Uuid)];
    let snapshot = compile(world, &Board::default());
    let zone = snapshot.zone_of("example.com").unwrap();
    let alias = zone.get("orders.shop.example.com").unwrap().alias.clone();
    assert_eq!(alias.unwrap().as_str(), "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.example.com");
}

#[test]
fn the_longest_apex_holds_a_name() {
    let mut world = sources(1, 1);
    let mut inner = world.zones[0].clone();
    inner.name = "gw.example.com".parse().unwrap();
    world.zones.push(inner);
    let snapshot = compile(world, &Board::default());
    let zone = snapshot.zone_of("gw.example.com").unwrap();
    assert_eq!(zone.zone.name.as_str(), "gw.example.com");
    assert!(zone.get("gw.example.com").unwrap().steered.is_some());
}

#[test]
fn the_same_target_is_dialled_once_and_keeps_its_slot() {
    let mut world = sources(2, 1);
    let mut other = world.domains[0].clone();
    other.name = "other.example.com".parse().unwrap();
    world.domains.push(other);
    let board = Board::default();
    let before = compile(world.clone(), &board);
    assert_eq!(before.targets.len(), 2);
    let slots = |snapshot: &Snapshot| snapshot.targets.values().map(|it| it.slot).collect::<BTreeSet<_>>();
    assert_eq!(slots(&before), slots(&compile(world.clone(), &board)));
    world.checks[0].port = 81;
    assert!(slots(&before).is_disjoint(&slots(&compile(world, &board))));
}

#[test]
fn the_serial_grows_with_the_generation_and_with_the_epoch() {
    let serial = |epoch, number| serial(Generation::new(epoch, number));
    assert!(serial(1, 1) < serial(1, 2));
    assert!(serial(1, 900) < serial(2, 1));
}

#[test]
fn an_override_is_kept_with_its_sites() {
    let mut world = sources(2, 1);
    world.overrides = vec![Override {
        name: name("work"),
        target: OverrideTarget { site: Some(name("s1")), domain: None },
        state: OverrideState::Down,
        owner: "ops".into(),
        reason: "test".into(),
        expires: None,
        since: None,
        over: None,
        authority: model::Authority::Human,
        force: false,
    }];
    let snapshot = compile(world, &Board::default());
    let laid: Vec<_> = snapshot.domains["gw.example.com"].sites.iter().map(|it| it.overrides.len()).collect();
    assert_eq!(laid, [0, 1]);
}
