//! What has to be equal at all sites once nothing is cut, and how soon.

use std::{fmt::Debug, path::Path};

use store::{health::State, model::Generation};

use crate::{
    net::{Id, lock},
    run::Simulation,
    world::World,
};

/// Documents and orders are equal this soon after the last cut, death, order and change, in milliseconds. A question whose
/// answer was lost in a silent link is given up after 3 s, which TCP would repeat; that is why this is more than the 5 s of the
/// end-to-end tests.
const EQUAL_WITHIN: u64 = 6_500;
/// Sites have heard the same this soon after the last cut: a whole report that a silent link swallowed is sent again after 10 s.
/// Here nothing that was lost is repeated below the requests, as TCP would do.
const HEARD_WITHIN: u64 = 17_000;
/// Verdicts and instances, after nodes died: locks have to be taken over, and vantages have to be heard.
const TAKEN_OVER_WITHIN: u64 = 25_000;

/// Documents and orders, after an engine was put back to an earlier state: its site needs the lock anew, then copies the
/// documents, and then writes the orders that its nodes still obey; the other sites hear of them after that.
const PUT_BACK_WITHIN: u64 = 10_000;

/// Verdicts and answers, after the last cut. While sites heard different vantages one may have seen a target down that another
/// did not: it holds it down for up to 20 s and lets its clients back in up to 8 s, and one that flapped more often is damped.
const HELD_DOWN_WITHIN: u64 = HEARD_WITHIN + 30_000;

/// For this long answers may differ: a verdict reaches sites one after the other, and so does the end of a hold-down.
const ONE_AFTER_THE_OTHER: u64 = 3_000;
/// For this long shares of full sites may differ: a control decides every 2 s, and tells with its nodes' heartbeats.
const SHARE_AFTER_SHARE: u64 = 10_000;

/// When the world was last disturbed.
#[derive(Default)]
pub struct Calm {
    /// An event, but for orders.
    disturbed: u64,
    /// A node died or came back.
    died: u64,
    acted: u64,
    /// An engine was put back to an earlier state.
    put_back: Option<u64>,
    /// Since when nodes answer differently, although nothing disturbs them.
    answers_differ: Lasting,
    /// Since when they have different shares.
    shares_differ: Lasting,
}

/// Since when there is a difference.
#[derive(Default)]
struct Lasting(Option<u64>);

impl Lasting {
    /// The difference, if it has lasted for some time.
    fn look(&mut self, differs: Option<String>, now: u64, for_long: u64) -> Option<String> {
        let Some(what) = differs else {
            self.0 = None;
            return None;
        };
        let since = *self.0.get_or_insert(now);
        (since + for_long <= now).then_some(what)
    }
}

impl Calm {
    pub fn acted(&mut self, now: u64) {
        self.acted = now;
    }

    pub fn disturbed(&mut self, now: u64, died: bool) {
        self.disturbed = now;
        if died {
            self.died = now;
        }
    }

    pub fn put_back(&mut self, now: u64) {
        self.put_back = Some(now);
    }

    /// When an engine was last put back to an earlier state.
    pub fn was_put_back(&self) -> Option<u64> {
        self.put_back
    }
}

impl Simulation {
    /// Once nothing has disturbed the sites for long enough, they are equal.
    pub fn look_for_calm(&mut self) {
        let (now, calm) = (self.now, &self.connected.calm);
        let since = calm.disturbed.max(calm.acted);
        let put_back = calm.put_back.map_or(0, |at| at + PUT_BACK_WITHIN);
        let due = (since + EQUAL_WITHIN).max(put_back).max(15_000);
        let taken_over = now >= calm.died + TAKEN_OVER_WITHIN;
        if lock(&self.net).is_disturbed() || now < due {
            self.connected.calm.answers_differ = Lasting::default();
            self.connected.calm.shares_differ = Lasting::default();
            return;
        }
        let soon = self.difference_of_engines().or_else(|| self.difference_of_nodes());
        let instances = || taken_over.then(|| self.disagreement_about_instances()).flatten();
        let mut wrong: Vec<String> = soon.or_else(instances).into_iter().collect();
        let heard = taken_over && now >= since + HEARD_WITHIN;
        let held_down = heard && now >= since + HELD_DOWN_WITHIN;
        let answers = || self.difference_of_verdicts().or_else(|| self.disagreement_among_readers());
        let answers = (held_down && self.must_agree()).then(answers).flatten();
        let shares = heard.then(|| self.difference_of_shares()).flatten();
        let calm = &mut self.connected.calm;
        wrong.extend(calm.answers_differ.look(answers, now, ONE_AFTER_THE_OTHER));
        wrong.extend(calm.shares_differ.look(shares, now, SHARE_AFTER_SHARE));
        self.report.violations.extend(wrong.into_iter().map(|what| format!("healed: {what}")));
    }

    /// Where sites still differ, or have not been equal for long enough to be judged.
    pub fn disagreement_between_sites(&self) -> Option<String> {
        let early = self.now < self.world.over + EQUAL_WITHIN;
        let early = early.then(|| "it is early".to_owned());
        let differs = || self.difference_of_engines().or_else(|| self.difference_of_nodes());
        early.or_else(differs).or_else(|| self.disagreement_about_instances())
    }

    fn difference_of_engines(&self) -> Option<String> {
        let engines: Vec<_> = (0..self.world.engines).map(World::engine).collect();
        let held = &self.connected.engines.held;
        let generation = |it| held.get(it).map(|it| it.generation).unwrap_or_default();
        let newest = self.newest();
        let behind = engines.iter().find(|it| generation(it) != newest);
        let behind =
            behind.map(|it| format!("{} has {}, and {newest} is there", World::name(*it), generation(it)));
        behind.or_else(|| self.connected.engines.orders.difference(&engines))
    }

    /// True if a node runs a generation that only an engine had which was put back since, which it keeps, and says so, until an
    /// operator restores a backup; or if it obeys such an order.
    pub fn is_ahead(&self, id: Id) -> bool {
        let Some(snapshot) = self.handle_of(id).and_then(|it| it.snapshot()) else { return false };
        let (engines, runs) = (&self.connected.engines, snapshot.generation);
        (runs > self.newest() && engines.excused.contains(&runs))
            || engines.orders.are_ahead(&snapshot.orders.all)
    }

    /// True if nodes have to give the same answers: none freezes verdicts by what it has seen itself, and none runs what the
    /// others cannot get any more.
    pub fn must_agree(&self) -> bool {
        let mut readers = (0..self.world.readers).map(World::reader);
        !self.world.has_guard() && !readers.any(|id| self.is_ahead(id))
    }

    /// Every node runs what its engine holds.
    fn difference_of_nodes(&self) -> Option<String> {
        let newest = self.newest();
        let mut digest: Option<String> = None;
        (0..self.world.readers).map(World::reader).find_map(|id| {
            let who = World::name(id);
            let Some(snapshot) = self.handle_of(id).and_then(|it| it.snapshot()) else {
                return Some(format!("{who} has no documents"));
            };
            if self.is_ahead(id) {
                return None;
            }
            if snapshot.generation != newest {
                return Some(format!("{who} runs {}, and {newest} is there", snapshot.generation));
            }
            let other = digest.replace(snapshot.orders.digest.clone());
            if other.is_some_and(|it| it != snapshot.orders.digest) {
                return Some(format!("{who} obeys other orders than another node"));
            }
            self.difference_of_overrides(id)
        })
    }

    /// A node obeys the overrides that hold by the records in its engine; with `keep`, some may have no effect.
    fn difference_of_overrides(&self, id: Id) -> Option<String> {
        let handle = self.handle_of(id)?;
        let snapshot = handle.snapshot()?;
        let expected = self.connected.engines.orders.overrides_in_force(self.world.engine_of[&id]);
        let may_lack = self.world.documents.contains("keep:");
        let named = |it: &&std::sync::Arc<store::model::Override>| it.name.to_string();
        let obeyed: std::collections::BTreeMap<String, String> =
            snapshot.overrides.iter().map(|it| (named(&it), format!("{:?}", it.state))).collect();
        let strange = obeyed.iter().find(|(name, state)| expected.get(*name) != Some(*state));
        let lacks = expected.keys().find(|it| !obeyed.contains_key(*it)).filter(|_| !may_lack);
        let who = World::name(id);
        strange
            .map(|it| format!("{who} obeys {it:?}, and {expected:?} hold"))
            .or_else(|| lacks.map(|it| format!("{who} does not obey {it}, and {expected:?} hold")))
    }

    fn difference_of_verdicts(&self) -> Option<String> {
        let states = |id| {
            let handle = self.handle_of(id)?;
            let snapshot = handle.snapshot()?;
            let state = |slot| handle.board().read(slot).state;
            let all: Vec<(String, State)> =
                snapshot.targets.iter().map(|(key, it)| (key.to_string(), state(it.slot))).collect();
            Some(all)
        };
        self.difference_among_readers(states)
    }

    /// Where a node has something else than the first one.
    pub fn difference_among_readers<T: PartialEq + Debug>(
        &self,
        of: impl Fn(Id) -> Option<Vec<T>>,
    ) -> Option<String> {
        let mut readers = (0..self.world.readers).map(World::reader);
        let first = readers.next()?;
        let expected = of(first)?;
        readers.find_map(|id| {
            let found = of(id)?;
            let (one, two) = expected.iter().zip(&found).find(|(one, two)| one != two)?;
            Some(format!("{} has {one:?}, and {} {two:?}", World::name(first), World::name(id)))
        })
    }

    /// What is wrong when everything has settled.
    pub fn wrong_at_the_end(&self) -> Vec<String> {
        let folders = self.connected.lost.values();
        let lost: Vec<Generation> = folders.flat_map(|it| generations_in(it.path())).collect();
        let engines = &self.connected.engines;
        engines.wrong_at_the_end(&lost).into_iter().chain(engines.orders.wrong_at_the_end()).collect()
    }
}

/// The generations that a folder of lost configurations has.
fn generations_in(folder: &Path) -> Vec<Generation> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|it| it.file_name().to_str()?.strip_suffix(".yaml")?.parse().ok()).collect()
}
