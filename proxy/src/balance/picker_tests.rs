//! What a worker keeps between picks.

use std::net::IpAddr;

use store::discovery::Standing;

use super::{
    super::view::tests::{World, instance},
    *,
};
use crate::{
    health::Dials,
    testing::{own, snapshot},
};

const BACKEND: &str = "web";

struct Worker {
    world: World,
    picker: Picker,
    excluded: Excluded,
}

impl Worker {
    fn of(instances: &[&str]) -> Self {
        let worker = Self { world: World::of(&[]), picker: Picker::default(), excluded: Excluded::default() };
        worker.discover(instances);
        worker
    }

    fn discover(&self, instances: &[&str]) {
        let endpoints = instances.iter().map(|text| instance(text)).collect();
        self.world.web().slot.store(Entry { endpoints, standing: Standing::Present, ..Entry::default() });
    }

    fn pick(&mut self) -> Result<Picked, NoPick> {
        let world = &self.world;
        let known = Known {
            table: &world.table,
            excluded: (&self.excluded, 0),
            instances: &world.instances,
            names: &world.names,
            board: world.handle.board(),
        };
        let number = (0..world.table.numbers())
            .find(|at| world.table.backend(*at).is_some_and(|it| it.name.as_str() == BACKEND))
            .unwrap();
        let context = PickContext { tried: &[], key: None, now: world.now };
        let order = |_: &[IpAddr], _| Vec::new();
        self.picker.pick(&known, number, &context, order)
    }

    fn picked(&mut self) -> String {
        self.pick().map_or_else(|it| format!("{it:?}"), |it| it.in_flight.instance().endpoint.id.clone())
    }
}

#[test]
fn a_pick_counts_the_request_in_and_a_changed_entry_changes_the_next_one() {
    let mut worker = Worker::of(&["s1 passing a"]);
    assert_eq!(worker.world.instances.in_flight(), 0);
    let picked = worker.pick().unwrap();
    assert_eq!((worker.world.instances.in_flight(), picked.in_flight.instance().in_flight()), (1, 1));
    drop(picked);
    assert_eq!(worker.world.instances.in_flight(), 0);
    worker.discover(&["s1 passing b"]);
    assert_eq!(worker.picked(), "b");
    worker.discover(&[]);
    assert_eq!(worker.picked(), "NoInstance");
}

#[test]
fn health_is_not_forgotten_when_discovery_or_the_table_changes() {
    let mut worker = Worker::of(&["s1 passing a", "s1 passing b"]);
    worker.picked();
    let number = worker.world.instance("a").number;
    for _ in 0..3 {
        worker.world.instance("a").vitals.dial_failed(Dials::default(), worker.world.now);
    }
    worker.discover(&["s1 passing a", "s1 passing b", "s1 passing c"]);
    assert!((0..50).all(|_| worker.picked() != "a"));
    let names = (&crate::testing::name("main"), &crate::testing::name("s1"));
    let table =
        Table::compile(snapshot(crate::testing::sources()), names, &[8080], &own(&worker.world.handle));
    worker.world.table = Arc::new(table);
    assert!((0..50).all(|_| worker.picked() != "a"));
    assert_eq!(worker.world.instance("a").number, number);
}

#[test]
fn a_replaced_table_is_not_kept() {
    let mut worker = Worker::of(&["s1 passing a"]);
    worker.picked();
    let before = Arc::downgrade(&worker.world.table);
    let names = (&crate::testing::name("main"), &crate::testing::name("s1"));
    let table =
        Table::compile(snapshot(crate::testing::sources()), names, &[8080], &own(&worker.world.handle));
    worker.world.table = Arc::new(table);
    worker.picked();
    assert!(before.upgrade().is_none());
}
