//! The orders that engines hold, counted a second time: for each target the highest of all that were given holds, a person's
//! before a tool's, and none is lost.

use std::collections::{BTreeMap, BTreeSet};

use store::{
    model::Authority,
    orders::{Order, OrderKind, OrderRecord, Stamp},
};

use super::act::{Done, giver};
use crate::{net::Id, run::Report, world::World};

type Place = (String, bool);

/// An order that was found in an engine.
#[derive(Clone, Debug)]
struct Found {
    place: Place,
    stamp: Stamp,
    /// The engines that have it.
    at: BTreeSet<Id>,
    /// The engines that ever had it.
    ever: BTreeSet<Id>,
    /// Only an engine had it that was rolled back.
    excused: bool,
}

/// The orders of all engines.
#[derive(Default)]
pub struct Orders {
    found: BTreeMap<String, Found>,
    /// What each engine holds.
    held: BTreeMap<Id, BTreeMap<Place, Order>>,
    given: BTreeSet<String>,
}

fn place(record: &OrderRecord, order: &Order) -> Place {
    (record.target.to_string(), order.authority == Authority::Human)
}

impl Orders {
    /// An order is about to be given.
    pub fn given(&mut self, number: u64) {
        self.given.insert(giver(number));
    }

    /// An engine holds this record; true if an order of it is new.
    pub fn holds(&mut self, id: Id, record: &OrderRecord, report: &mut Report) -> bool {
        let known = self.found.len();
        let who = World::name(id);
        for order in record.human.iter().chain(&record.tool) {
            let held = self.held.entry(id).or_default();
            let before = held.insert(place(record, order), order.clone());
            if let Some(before) = before.filter(|it| it.stamp > order.stamp) {
                report.violations.push(format!(
                    "orders: {who} had {:?} of {} for {} and has {:?} of {}",
                    before.stamp, before.by, record.target, order.stamp, order.by
                ));
            }
        }
        for order in record.human.iter().chain(&record.tool).chain(&record.past) {
            if !self.given.contains(&order.by) {
                report
                    .violations
                    .push(format!("forged: {who} has an order of {} about {}", order.by, record.target));
            }
            let found = self.found.entry(order.by.clone()).or_insert_with(|| Found {
                place: place(record, order),
                stamp: order.stamp.clone(),
                at: BTreeSet::new(),
                ever: BTreeSet::new(),
                excused: false,
            });
            found.at.insert(id);
            found.ever.insert(id);
            found.excused = false;
        }
        self.found.len() > known
    }

    pub fn acknowledged(&self, done: &Done, engine: Id, report: &mut Report) {
        let by = giver(done.number);
        if self.found.get(&by).is_none_or(|it| !it.ever.contains(&engine)) {
            report.violations.push(format!(
                "orders: {} acknowledged {:?}, and {} does not have it",
                World::name(done.control),
                done.act,
                World::name(engine)
            ));
        }
    }

    /// The engine was rolled back: what only it had may be gone.
    pub fn rolled_back(&mut self, id: Id) {
        self.held.remove(&id);
        for found in self.found.values_mut() {
            found.excused |= found.at.remove(&id) && found.at.is_empty();
        }
    }

    /// True if a node obeys an order that only an engine had which was put back since, and that no control knew: it keeps that.
    pub fn are_ahead(&self, known: &store::orders::Orders) -> bool {
        let orders = known.records().flat_map(|it| it.human.iter().chain(&it.tool));
        let gone = |order: &&Order| {
            let is_held = |held: &BTreeMap<Place, Order>| held.values().any(|it| it.stamp == order.stamp);
            self.found.get(&order.by).is_some_and(|it| it.excused) && !self.held.values().any(is_held)
        };
        orders.into_iter().any(|order| gone(&order))
    }

    /// Where two engines differ.
    pub fn difference(&self, engines: &[Id]) -> Option<String> {
        let of = |id: &Id| self.held.get(id).cloned().unwrap_or_default();
        let mut all = engines.iter();
        let first = all.next()?;
        let expected = of(first);
        all.find_map(|id| {
            let found = of(id);
            let places: BTreeSet<&Place> = expected.keys().chain(found.keys()).collect();
            let differs =
                |it: &&Place| expected.get(*it).map(|it| &it.stamp) != found.get(*it).map(|it| &it.stamp);
            let place = places.into_iter().find(differs)?;
            Some(format!(
                "{} has {:?} for {place:?}, and {} has {:?}",
                World::name(*first),
                expected.get(place).map(|it| &it.stamp),
                World::name(*id),
                found.get(place).map(|it| &it.stamp)
            ))
        })
    }

    /// What is wrong at the end: an order that was ever stored is not held, and no higher one is.
    pub fn wrong_at_the_end(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (by, found) in self.found.iter().filter(|(_, it)| !it.excused) {
            for (id, held) in &self.held {
                let now = held.get(&found.place).map(|it| &it.stamp);
                if now.is_none_or(|it| *it < found.stamp) {
                    let (who, place) = (World::name(*id), &found.place);
                    wrong.push(format!(
                        "orders: {:?} of {by} for {place:?} is lost at {who}: {now:?}",
                        found.stamp
                    ));
                }
            }
        }
        wrong
    }

    /// The overrides that hold at an engine, by name and state: a person's unless that has ended, else the higher.
    pub fn overrides_in_force(&self, id: Id) -> BTreeMap<String, String> {
        let Some(held) = self.held.get(&id) else { return BTreeMap::new() };
        let mut in_force = BTreeMap::new();
        for target in held.keys().map(|(target, _)| target) {
            let of = |human: bool| held.get(&(target.clone(), human));
            let asks = |order: &&Order| !matches!(order.kind, OrderKind::Released);
            let human = of(true);
            let holds = human.filter(asks).or_else(|| human.max_by_stamp(of(false)));
            if let Some(OrderKind::Override(it)) = holds.map(|it| &it.kind) {
                in_force.insert(it.name.to_string(), format!("{:?}", it.state));
            }
        }
        in_force
    }
}

trait ByStamp: Sized {
    fn max_by_stamp(self, other: Self) -> Self;
}

impl ByStamp for Option<&Order> {
    fn max_by_stamp(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(if a.stamp > b.stamp { a } else { b }),
            (a, b) => a.or(b),
        }
    }
}
