//! What the engines of connected sites hold, read beside the program after every few windows: whole generations, which only
//! grow, and one content for each of them.

use std::collections::{BTreeMap, BTreeSet};

use store::{
    commit::{self, Stored},
    engine::Engine as _,
    keys,
    model::{Document, Generation, Kind, encode},
    orders::OrderRecord,
};

use super::{
    act::{Act, Done},
    orders::Orders,
};
use crate::{
    net::Id,
    run::{Report, Simulation},
    world::World,
};

/// What one engine holds.
#[derive(Default)]
pub struct Held {
    pub generation: Generation,
    /// The bases of its epochs, oldest first.
    pub lineage: Vec<Generation>,
    /// The mark of the last apply.
    pub mark: u16,
    head: Vec<u8>,
    raw_orders: Vec<(String, Vec<u8>)>,
}

/// What all engines hold.
#[derive(Default)]
pub struct Engines {
    pub held: BTreeMap<Id, Held>,
    pub orders: Orders,
    /// The content of each generation, and the engines that held it and were not put back since.
    contents: BTreeMap<Generation, (String, BTreeSet<Id>)>,
    /// The generations that were acknowledged for applies, with their marks, or for promotions.
    pub applied: BTreeMap<Generation, Option<u16>>,
    /// The marks of applies that were asked for and not acknowledged: they may have been committed.
    pub unknown_marks: BTreeSet<u16>,
    /// Generations that may be gone: only an engine had them that was rolled back.
    pub excused: BTreeSet<Generation>,
    /// A generation or an order appeared that no engine had before.
    pub news: bool,
    /// The sites whose engines were rolled back.
    pub rolled_back: BTreeSet<Id>,
}

impl Simulation {
    pub fn look_at_engine(&mut self, id: Id) {
        let who = World::name(id);
        let known = self.connected.engines.held.get(&id).map(|it| it.head.clone()).unwrap_or_default();
        let node = self.nodes.get_mut(&id).unwrap();
        let (head, stored, orders) = node.on_engine(async move |engine| {
            let head = engine.kv_get(keys::CONFIG_HEAD, None).await.unwrap().value;
            let head = head.map(|it| it.value.to_vec()).unwrap_or_default();
            let stored = if head == known { None } else { Some(commit::read(engine, None).await) };
            let orders = engine.kv_list(keys::ORDERS, None).await.unwrap().value;
            (head, stored, orders.into_iter().map(|it| (it.key, it.value.to_vec())).collect::<Vec<_>>())
        });
        let Self { connected, report, now, .. } = self;
        let engines = &mut connected.engines;
        if engines.held.get(&id).is_none_or(|it| it.raw_orders != orders) {
            for (key, value) in orders.iter().filter(|(key, _)| key != keys::ORDERS_FORM) {
                match serde_json::from_slice::<OrderRecord>(value) {
                    Ok(record) => engines.news |= engines.orders.holds(id, &record, report),
                    Err(error) => report.violations.push(format!("orders: {who} has {key}: {error}")),
                }
            }
            engines.held.entry(id).or_default().raw_orders = orders;
        }
        match stored {
            None => {}
            Some(Err(error)) => {
                report
                    .violations
                    .push(format!("whole: {who} has a configuration that is not whole: {error}"));
            }
            Some(Ok(stored)) => {
                report.trace.push(format!("{now:>6} {who} holds generation {}", stored.generation()));
                engines.holds(id, &stored, head, report);
            }
        }
    }
}

impl Engines {
    fn holds(&mut self, id: Id, stored: &Stored, head: Vec<u8>, report: &mut Report) {
        let who = World::name(id);
        let generation = stored.generation();
        let held = self.held.entry(id).or_default();
        if generation < held.generation {
            let text = format!("back: {who} had generation {} and has {generation}", held.generation);
            report.violations.push(text);
        }
        let mark = stored.documents().find_map(|it| match &*it {
            Document::Domain(domain) if domain.name.as_str() == "mark.example.com" => {
                Some(domain.ttl.as_secs())
            }
            _ => None,
        });
        held.generation = generation;
        held.lineage = stored.lineage().to_vec();
        held.mark = mark.map_or(0, |it| (it as u16).saturating_sub(1_000));
        held.head = head;
        if generation == Generation::default() {
            return;
        }
        let found = content(stored);
        self.news |= !self.contents.contains_key(&generation);
        let (known, at) = self.contents.entry(generation).or_insert_with(|| (found.clone(), BTreeSet::new()));
        at.insert(id);
        self.excused.remove(&generation);
        if *known != found {
            report.violations.push(format!("whole: {who} has another content for generation {generation}"));
        }
    }

    /// The engine was rolled back: what only it had may be gone.
    pub fn rolled_back(&mut self, id: Id) {
        self.rolled_back.insert(id);
        for (generation, (_, at)) in &mut self.contents {
            if at.remove(&id) && at.is_empty() {
                self.excused.insert(*generation);
            }
        }
        self.held.remove(&id);
        self.orders.rolled_back(id);
    }

    pub fn newest(&self) -> Generation {
        self.held.values().map(|it| it.generation).max().unwrap_or_default()
    }

    /// A control acknowledged something, or refused it.
    pub fn acknowledged(&mut self, done: &Done, engine: Id, report: &mut Report) {
        match (&done.act, &done.result) {
            (Act::Apply { mark }, Ok(it)) if it.changed => {
                self.unknown_marks.remove(mark);
                self.applied.insert(it.generation, Some(*mark));
            }
            (Act::Promote { .. }, Ok(it)) => drop(self.applied.insert(it.generation, None)),
            (act, Ok(it)) if act.is_order() && it.changed => self.orders.acknowledged(done, engine, report),
            _ => {}
        }
    }

    /// True if the commits that led to a generation led to what an engine holds.
    pub fn contains(held: &Held, generation: Generation) -> bool {
        held.lineage.iter().chain([&held.generation]).any(|base| {
            (base.epoch, base.site) == (generation.epoch, generation.site) && generation.number <= base.number
        })
    }

    /// What is wrong at the end, when every engine holds the same.
    pub fn wrong_at_the_end(&self, lost: &[Generation]) -> Vec<String> {
        let mut wrong = Vec::new();
        let Some(held) = self.held.values().next() else { return wrong };
        let kept = |it: Generation| {
            lost.iter().any(|lost| (lost.epoch, lost.site) == (it.epoch, it.site) && it.number <= lost.number)
        };
        // A promotion that gave way with the same documents has lost nothing. What was applied in it is looked at by itself.
        let applied = self.applied.iter().filter(|(_, mark)| mark.is_some()).map(|(it, _)| it);
        for generation in applied.filter(|it| !self.excused.contains(it)) {
            if !Self::contains(held, *generation) && !kept(*generation) {
                wrong.push(format!(
                    "lost: {generation} was acknowledged, is not in {}, and no control has it among the lost ones",
                    held.generation
                ));
            }
        }
        if let Some(missed) =
            self.contents.keys().find(|it| **it > held.generation && !self.excused.contains(it))
        {
            wrong.push(format!("back: {missed} was there, and {} is there at the end", held.generation));
        }
        let last = self.applied.iter().filter(|(it, mark)| mark.is_some() && Self::contains(held, **it));
        if let Some((generation, Some(mark))) = last.max_by_key(|(it, _)| **it)
            && *mark != held.mark
            && !self.unknown_marks.contains(&held.mark)
        {
            wrong.push(format!(
                "lost: the last apply in it, {generation}, has the mark {mark}, and {} is there",
                held.mark
            ));
        }
        wrong
    }
}

/// The documents without the orders, as text.
fn content(stored: &Stored) -> String {
    let mut documents: Vec<_> = stored.documents().filter(|it| it.id().kind != Kind::Override).collect();
    documents.sort_by_key(|it| it.id());
    encode::yaml_all(documents.iter().map(AsRef::as_ref))
}
