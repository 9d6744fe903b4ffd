//! Any order of arrival and any cut lead to the same orders, and the rules of authority hold.

use proptest::{collection, prelude::*};

use super::*;
use crate::testing::{name, two_sites};

/// An override of the target `w`.
fn work(site: &str, state: &str) -> OrderKind {
    let text =
        format!("kind: Override\nname: w\ntarget: {{ site: {site} }}\nstate: {state}\nowner: o\nreason: r\n");
    match model::parse("t", &text).unwrap().remove(0).value {
        Document::Override(it) => OrderKind::Override(Box::new(it)),
        other => panic!("{other:?}"),
    }
}

fn target() -> OrderTarget {
    OrderTarget::Override(name("w"))
}

fn content(kind: OrderKind, authority: Authority) -> OrderContent {
    OrderContent {
        kind,
        by: "t".into(),
        authority,
        at: Moment(1),
        under: Generation::new(1, 1),
        applied: false,
    }
}

fn order(counter: u64, site: &str, kind: OrderKind, authority: Authority) -> Order {
    Order::new(&target(), counter, site.parse().unwrap(), content(kind, authority))
}

/// What a control does with the record that it has: gives an order on top of all that it has seen.
fn give(record: &mut OrderRecord, site: &str, kind: OrderKind, authority: Authority) {
    let given = order(record.counter() + 1, site, kind, authority);
    assert!(record.take(given), "an order on top of everything is taken");
}

#[test]
fn a_persons_order_holds_until_a_person_ends_it() {
    use Authority::{Human, Tool};
    let mut record = OrderRecord::empty(target());
    give(&mut record, "bj", work("bj", "drain"), Tool);
    assert_eq!(record.current().unwrap().kind, work("bj", "drain"));
    give(&mut record, "bj", work("bj", "down"), Human);
    give(&mut record, "bj", OrderKind::Released, Tool);
    give(&mut record, "bj", work("bj", "up"), Tool);
    assert_eq!(record.current().unwrap().kind, work("bj", "down"), "whatever a tool orders afterwards");
    give(&mut record, "bj", OrderKind::Released, Human);
    assert_eq!(record.override_in_force(), None, "and the person's end ends the tool's too");
    give(&mut record, "bj", work("bj", "up"), Tool);
    assert_eq!(record.current().unwrap().kind, work("bj", "up"));
}

#[test]
fn a_release_that_was_given_with_knowledge_of_an_order_ends_it_everywhere() {
    let mut here = OrderRecord::empty(target());
    give(&mut here, "sh", work("bj", "down"), Authority::Human);
    let mut there = here.clone();
    give(&mut there, "bj", OrderKind::Released, Authority::Human);
    assert!(here.merge(&there));
    assert_eq!(here.override_in_force(), None);
    assert!(!there.merge(&here), "they are equal");
}

#[test]
fn without_knowledge_of_each_other_counter_then_site_decides() {
    let mut low = OrderRecord::empty(target());
    give(&mut low, "bj", work("bj", "down"), Authority::Human);
    let mut high = OrderRecord::empty(target());
    give(&mut high, "sh", work("sh", "down"), Authority::Human);
    for (mut one, other) in [(low.clone(), high.clone()), (high.clone(), low.clone())] {
        one.merge(&other);
        assert_eq!(one.current().unwrap().kind, work("sh", "down"), "sh comes after bj");
    }
    give(&mut low, "bj", work("bj", "drain"), Authority::Human);
    low.merge(&high);
    assert_eq!(
        low.current().unwrap().kind,
        work("bj", "drain"),
        "the second of two is higher than the first of one"
    );
}

#[test]
fn records_from_outside_are_checked_whole() {
    let mut right = OrderRecord::empty(target());
    give(&mut right, "bj", work("bj", "down"), Authority::Human);
    assert_eq!(right.check(), Ok(()));
    let human = right.human.clone().unwrap();
    let tool = Order { authority: Authority::Tool, ..human.clone() };
    let wrong = [
        OrderRecord { v: VERSION + 1, ..right.clone() },
        OrderRecord { human: Some(Order { by: "someone".into(), ..human.clone() }), ..right.clone() },
        OrderRecord { human: Some(tool), ..right.clone() },
        OrderRecord { target: OrderTarget::Override(name("x")), ..right.clone() },
        OrderRecord {
            human: Some(order(u64::MAX, "bj", OrderKind::Released, Authority::Human)),
            ..OrderRecord::empty(target())
        },
        OrderRecord {
            human: Some(order(1, "bj", OrderKind::Switch(Colour::Blue), Authority::Human)),
            ..OrderRecord::empty(target())
        },
        OrderRecord { past: vec![human.clone(); MAX_PAST + 1], ..right.clone() },
    ];
    for record in wrong {
        assert!(record.check().is_err(), "{record:?}");
    }
    let read: OrderRecord = serde_json::from_str(&serde_json::to_string(&right).unwrap()).unwrap();
    assert_eq!((read.check(), &read), (Ok(()), &right), "as it is stored");
}

#[test]
fn a_past_moment_has_the_orders_of_that_time() {
    let mut record = OrderRecord::empty(target());
    for (at, state) in [(10, "drain"), (20, "down"), (30, "up")] {
        let content = OrderContent { at: Moment(at), ..content(work("bj", state), Authority::Human) };
        record.take(Order::new(&target(), record.counter() + 1, SiteTag::NONE, content));
    }
    let mut orders = Orders::default();
    orders.put(record, Index(1));
    let then = |at| {
        let then = orders.as_of(Moment(at));
        then.current(&target()).map(|order| order.kind.clone())
    };
    assert_eq!(then(9), None);
    assert_eq!(then(10), Some(work("bj", "drain")));
    assert_eq!(then(29), Some(work("bj", "down")));
    assert_eq!(then(99), Some(work("bj", "up")));
}

/// What happens among three sites.
#[derive(Clone, Debug)]
enum Event {
    /// A control gives an order.
    Give { at: usize, target: usize, kind: usize, human: bool },
    /// One site's records reach another.
    Deliver { from: usize, to: usize },
    /// Older records of one site reach another late: those that it had when this many events had passed.
    Late { from: usize, to: usize, ago: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..3_usize, 0..3_usize, 0..4_usize, any::<bool>())
            .prop_map(|(at, target, kind, human)| Event::Give { at, target, kind, human }),
        (0..3_usize, 0..3_usize).prop_map(|(from, to)| Event::Deliver { from, to }),
        (0..3_usize, 0..3_usize, 0..9_usize).prop_map(|(from, to, ago)| Event::Late { from, to, ago }),
    ]
}

const SITES: [&str; 3] = ["bj", "gz", "sh"];

fn targets(number: usize) -> OrderTarget {
    match number {
        0 => OrderTarget::Override(name("w")),
        1 => OrderTarget::Switch("gw.example.com".parse().unwrap()),
        _ => OrderTarget::Token(name("t")),
    }
}

fn kinds(target: &OrderTarget, number: usize) -> OrderKind {
    match (target, number) {
        (_, 0) => OrderKind::Released,
        (OrderTarget::Override(_), 1) => work("bj", "down"),
        (OrderTarget::Override(_), 2) => work("sh", "down"),
        (OrderTarget::Override(_), _) => work("sh", "drain"),
        (OrderTarget::Switch(_), 1) => OrderKind::Switch(Colour::Blue),
        (OrderTarget::Switch(_), _) => OrderKind::Switch(Colour::Green),
        (OrderTarget::Token(_), _) => OrderKind::Deleted,
    }
}

proptest! {
    /// Whatever is ordered where, and however deliveries are cut, delayed, repeated and reordered: once every site has heard
    /// of all, they hold the same, and it does not matter in which order they hear of it.
    #[test]
    fn any_order_of_arrival_and_any_cut_lead_to_the_same(
        events in collection::vec(event(), 0..60),
        last in Just([0, 1, 2]).prop_shuffle(),
    ) {
        let mut sites = vec![Orders::default(); 3];
        let mut before: Vec<Vec<Orders>> = Vec::new();
        for event in events {
            before.push(sites.clone());
            match event {
                Event::Give { at, target, kind, human } => {
                    let target = targets(target);
                    let mut record =
                        sites[at].get(&target).cloned().unwrap_or_else(|| OrderRecord::empty(target.clone()));
                    let authority = if human { Authority::Human } else { Authority::Tool };
                    let kind = kinds(&target, kind);
                    let given = Order::new(&target, record.counter() + 1, SITES[at].parse().unwrap(), content(kind, authority));
                    record.take(given);
                    prop_assert_eq!(record.check(), Ok(()));
                    sites[at].put(record, Index(1));
                }
                Event::Deliver { from, to } => {
                    let records: Vec<_> = sites[from].records().cloned().collect();
                    sites[to].merge(&records);
                }
                Event::Late { from, to, ago } => {
                    let old = &before[before.len().saturating_sub(ago + 1)][from];
                    let records: Vec<_> = old.records().cloned().collect();
                    sites[to].merge(&records);
                }
            }
        }
        // Everybody hears of all, twice around, in any order.
        for to in last.iter().chain(&last) {
            for from in last {
                let records: Vec<_> = sites[from].records().cloned().collect();
                sites[*to].merge(&records);
            }
        }
        prop_assert!(sites[0].agree(&sites[1]) && sites[1].agree(&sites[2]), "{:?}", sites);
        prop_assert_eq!(sites[0].digest(), sites[1].digest());
        prop_assert_eq!(sites[1].digest(), sites[2].digest());
        // And what is in effect of them is the same too, also where they break a safety rule together.
        let world = two_sites("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }\nkeep: [{ at_least: 1, of: [bj, sh] }]");
        let documents: Vec<Arc<Document>> =
            model::parse("t", &world).unwrap().into_iter().map(|it| Arc::new(it.value)).collect();
        let effects: Vec<_> = sites
            .iter()
            .map(|orders| {
                let documents = documents.iter().map(|it| (Arc::clone(it), Generation::new(1, 1)));
                let effect = crate::commit::in_effect(documents, orders, Moment(5));
                (effect.world.overrides().cloned().collect::<Vec<_>>(), effect.without)
            })
            .collect();
        prop_assert_eq!(&effects[0], &effects[1]);
        prop_assert_eq!(&effects[1], &effects[2]);
    }
}

#[test]
fn a_record_is_outdated_a_month_after_its_orders_ended() {
    const DAY: u64 = 24 * 60 * 60 * 1_000;
    let given = Moment(1_795_000_000_000);
    let days = |days: u64| Moment(given.0 + days * DAY);
    let record = |kind: OrderKind| {
        let mut record = OrderRecord::empty(target());
        record.take(Order::new(
            &target(),
            1,
            SiteTag::NONE,
            OrderContent { at: given, ..content(kind, Authority::Human) },
        ));
        record
    };
    let released = record(OrderKind::Released);
    assert_eq!([29, 31].map(|it| released.is_outdated(days(it))), [false, true]);
    let in_force = record(work("bj", "down"));
    assert!(!in_force.is_outdated(days(400)), "an order that is in force is never forgotten");
    let OrderKind::Override(mut bounded) = work("bj", "down") else { panic!("an override") };
    bounded.expires = jiff::Timestamp::from_millisecond(days(10).0 as i64).ok();
    let bounded = record(OrderKind::Override(bounded));
    assert_eq!([39, 41].map(|it| bounded.is_outdated(days(it))), [false, true]);
    assert!(!record(OrderKind::Switch(Colour::Green)).is_outdated(days(400)));
}

#[test]
fn a_record_that_was_forgotten_does_not_come_back_and_one_that_is_held_is_ended() {
    let old = Moment(1_795_000_000_000);
    let now = old.after(REMEMBERED * 2);
    let mut ended = OrderRecord::empty(target());
    let at = |kind: OrderKind| OrderContent { at: old, ..content(kind, Authority::Human) };
    ended.take(Order::new(&target(), 2, SiteTag::NONE, at(OrderKind::Released)));
    let mut orders = Orders::default();
    assert!(orders.merge_at([&ended], now).is_empty());
    let mut held = OrderRecord::empty(target());
    held.take(Order::new(&target(), 1, SiteTag::NONE, at(work("bj", "down"))));
    orders.put(held, Index::default());
    assert_eq!(
        orders.merge_at([&ended], now),
        [target()],
        "a site that was away for long obeys the end of its order"
    );
}
