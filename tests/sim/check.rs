//! The checker: looks at every reader after every window and says which invariant of DESIGN §3 does not hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use store::{
    board::{Board, Reading},
    handle::Handle,
    health::{State, TargetKey},
    model::{Generation, Moment, Name, OverrideState, WhenNone},
    snapshot::{Snapshot, SteeredDomain, SteeredSite},
    steering::{self, Outcome},
};

use crate::{
    net::{Gone, Id, WINDOW, lock},
    run::{Node, Report, Role, Sabotage},
    world::World,
};

/// Without a message, answers are looked at this often, in milliseconds.
const LOOK_EVERY: u64 = WINDOW * 5;
/// A reader that has a disk answers this soon after its start, whatever else is down.
const STARTS_WITHIN: u64 = 2_500;
/// Verdicts are on the disk this long after they changed.
const KEPT_WITHIN: u64 = 2_500;

/// What a domain answers a client, by sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Sites(Vec<String>),
    Nodata,
    Backup,
}

/// The one place where the simulation asks the program to rank.
fn answer(snapshot: &Snapshot, domain: &SteeredDomain, client: IpAddr, board: &Board, now: Moment) -> Answer {
    let ranking = steering::rank_for(snapshot, domain, client, board, now);
    match steering::outcome(domain, &ranking) {
        Outcome::Nodata => Answer::Nodata,
        Outcome::Backup(_) => Answer::Backup,
        Outcome::Sites(ranked) => {
            let sites = ranked.iter().filter_map(|it| domain.sites.get(usize::from(it.at)));
            Answer::Sites(sites.filter(|it| has_address(it, board)).map(|it| name(snapshot, it)).collect())
        }
    }
}

fn has_address(site: &SteeredSite, board: &Board) -> bool {
    steering::addresses(site, board).next().is_some()
}

fn name(snapshot: &Snapshot, site: &SteeredSite) -> String {
    snapshot.site(site.site).map(|it| it.name.to_string()).unwrap_or_default()
}

/// How a site stands for a domain, worked out a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Up,
    Unknown,
    HeldDown,
    Down,
    Draining,
    ForcedDown,
}

fn reading(site: &SteeredSite, board: &Board) -> Reading {
    // Every site of the simulation has one address per domain.
    let slot = site.addresses.first().and_then(|it| it.slot);
    slot.map(|slot| board.read(slot)).unwrap_or_default()
}

fn class(domain: &SteeredDomain, site: &SteeredSite, board: &Board, now: Moment) -> Class {
    match site.overrides.iter().map(|it| it.state).max_by_key(|it| {
        [OverrideState::Up, OverrideState::Drain, OverrideState::Down].iter().position(|state| state == it)
    }) {
        Some(OverrideState::Up) => return Class::Up,
        Some(OverrideState::Drain) => return Class::Draining,
        Some(OverrideState::Down) => return Class::ForcedDown,
        None => {}
    }
    let reading = reading(site, board);
    match reading.state {
        State::Up if reading.recovered && now.since(reading.since) < domain.domain.recovery.hold_down.0 => {
            Class::HeldDown
        }
        State::Up => Class::Up,
        State::Unknown => Class::Unknown,
        State::Down => Class::Down,
    }
}

/// What the checker remembers of a reader.
#[derive(Default)]
struct Memory {
    life: u32,
    started: u64,
    disk: bool,
    generation: Generation,
    count: u64,
    looked: u64,
    states: BTreeMap<TargetKey, State>,
    /// The states of late, oldest first, for what a restart may begin with.
    late: Vec<(u64, BTreeMap<TargetKey, State>)>,
    answers: BTreeMap<(String, IpAddr), Answer>,
}

pub struct Checker {
    readers: BTreeMap<Id, Memory>,
    /// What a generation of an engine is.
    content: BTreeMap<(Id, Generation), String>,
    sabotage: Sabotage,
}

impl Checker {
    pub fn new(world: &World, sabotage: Sabotage) -> Self {
        let readers = (0..world.readers).map(|n| (World::reader(n), Memory::default())).collect();
        Self { readers, content: BTreeMap::new(), sabotage }
    }

    pub fn crashed(&mut self, node: &Node, now: u64) {
        if let Some(memory) = self.readers.get_mut(&node.id) {
            memory.late.retain(|(at, _)| at + KEPT_WITHIN >= now);
            memory.late.push((now, memory.states.clone()));
        }
    }

    pub fn restarted(&mut self, id: Id, disk: bool, now: u64) {
        if let Some(memory) = self.readers.get_mut(&id) {
            let old = std::mem::take(memory);
            let kept = if disk { old } else { Memory::default() };
            *memory = Memory { started: now, disk, count: 0, answers: BTreeMap::new(), ..kept };
        }
    }

    /// Looks at a node.
    pub fn look(&mut self, node: &Node, world: &World, now: u64, report: &mut Report) {
        match &node.role {
            Role::Prober { evidence } => {
                let slander = std::mem::take(&mut lock(evidence).slander);
                let told = |it: String| format!("4: {it} Down, and only its own way was cut");
                report.violations.extend(slander.into_iter().map(told));
            }
            Role::Reader { handle, .. } => {
                let Some(runtime) = &node.runtime else { return };
                let _guard = runtime.enter();
                let handle = lock(handle).clone();
                self.look_at_reader(node, handle, world, now, report);
            }
            _ => {}
        }
    }

    fn look_at_reader(
        &mut self,
        node: &Node,
        handle: Option<Handle>,
        world: &World,
        now: u64,
        report: &mut Report,
    ) {
        let Role::Reader { inputs, .. } = &node.role else { return };
        let Some(memory) = self.readers.get_mut(&node.id) else { return };
        let who = World::name(node.id);
        let known = memory.generation != Generation::default();
        let Some((handle, snapshot)) = handle.and_then(|it| Some((it.clone(), it.snapshot()?))) else {
            if memory.disk && known && now > memory.started + STARTS_WITHIN {
                report.violations.push(format!("1: {who} has a disk and does not start from it"));
            }
            return;
        };
        let mut inputs = lock(inputs);
        if self.sabotage == Sabotage::ForgetWhenCut && inputs.away && now > inputs.last + 4_000 {
            snapshot.targets.values().for_each(|it| handle.board().write(it.slot, Reading::default()));
        }
        let news = inputs.count != memory.count;
        if !news && now < memory.looked + LOOK_EVERY {
            return;
        }
        let mut violations = Vec::new();
        if snapshot.generation != memory.generation {
            if snapshot.generation < memory.generation {
                let (old, new) = (memory.generation, snapshot.generation);
                violations.push(format!("6: {who} ran generation {old} and took up {new}"));
            }
            memory.generation = snapshot.generation;
            report.trace.push(format!("{now:>6} {who} runs generation {}", snapshot.generation));
            let content = fingerprint(&snapshot);
            let key = (world.engine_of[&node.id], snapshot.generation);
            if *self.content.entry(key).or_insert_with(|| content.clone()) != content {
                violations
                    .push(format!("6: {who}: two configurations bear generation {}", snapshot.generation));
            }
        }
        // States first: what the answers follow from.
        let begins = memory.life != node.life;
        let vantages: BTreeSet<Name> = snapshot.vantages.iter().map(|it| it.name.clone()).collect();
        let mut states = BTreeMap::new();
        for (key, target) in &snapshot.targets {
            let state = handle.board().read(target.slot).state;
            states.insert(key.clone(), state);
            let before = memory.states.get(key).copied().unwrap_or_default();
            let needed = target.check.quorum.votes_needed(vantages.len());
            let remembered = begins
                && memory.disk
                && memory.late.iter().any(|(_, it)| it.get(key).copied().unwrap_or_default() == state);
            let fine = match (begins, state == before) {
                (false, true) => true,
                (false, false) => inputs.justifies(key, state, &vantages, needed),
                (true, _) => {
                    let unknown = state == State::Unknown
                        && !(memory.disk
                            && memory
                                .late
                                .iter()
                                .all(|(_, it)| it.get(key).is_some_and(|it| *it != State::Unknown)));
                    unknown
                        || remembered
                        || inputs.published(key, state)
                        || inputs.justifies(key, state, &vantages, needed)
                }
            };
            if state != before {
                report.trace.push(format!("{now:>6} {who} {} {before} -> {state}", target.site));
            }
            if !fine {
                let why = if begins { "begins with" } else { "believes" };
                violations.push(format!(
                    "4: {who} {why} {state} of {} at {} (before: {before}) without {needed} fresh votes of {}",
                    key,
                    target.site,
                    vantages.len()
                ));
            }
        }
        memory.states = states;
        memory.late.retain(|(at, _)| at + KEPT_WITHIN >= now || begins);
        if begins {
            memory.late.clear();
        }
        memory.late.push((now, memory.states.clone()));
        let gap = now - memory.looked;
        for domain in &world.domains {
            let Some(steered) = snapshot.domains.get(domain.as_str()) else { continue };
            for client in world.clients() {
                let at = handle.now();
                let mut given = answer(&snapshot, steered, client, handle.board(), at);
                if self.sabotage == Sabotage::EmptyWhenDown
                    && let Answer::Sites(sites) = &mut given
                {
                    let down = |it: &&SteeredSite| reading(it, handle.board()).state == State::Down;
                    let down: Vec<_> =
                        steered.sites.iter().filter(down).map(|it| name(&snapshot, it)).collect();
                    sites.retain(|it| !down.contains(it));
                }
                if let Err(why) = sound(&snapshot, steered, &given, handle.board(), at) {
                    violations.push(format!("3: {who} answers {client} for {domain} with {given:?}: {why}"));
                }
                let key = (domain.clone(), client);
                let before = memory.answers.get(&key);
                if before != Some(&given) {
                    if let Some(before) = before
                        && !news
                        && !held_down_until_now(steered, handle.board(), at, gap)
                    {
                        violations.push(format!(
                            "1: {who} heard nothing and answers {client} for {domain} with {given:?}, before {before:?}"
                        ));
                    }
                    report.trace.push(format!("{now:>6} {who} answers {client} for {domain} with {given:?}"));
                    memory.answers.insert(key, given);
                }
            }
        }
        memory.life = node.life;
        memory.count = inputs.count;
        memory.looked = now;
        inputs.looked();
        report.violations.extend(violations);
    }

    /// Why a node that follows does not agree with the truth; `None` when it does.
    pub fn disagreement(
        &self,
        node: &Node,
        world: &World,
        newest: Generation,
        dead: &BTreeMap<Id, Gone>,
    ) -> Option<String> {
        let Role::Reader { handle, .. } = &node.role else { return None };
        let _guard = node.runtime.as_ref()?.enter();
        let who = World::name(node.id);
        let handle = lock(handle).clone();
        let Some((handle, snapshot)) = handle.and_then(|it| Some((it.clone(), it.snapshot()?))) else {
            return Some(format!("{who} does not answer"));
        };
        if snapshot.generation != newest {
            return Some(format!("{who} runs generation {}, and {newest} is there", snapshot.generation));
        }
        for (key, target) in &snapshot.targets {
            let state = handle.board().read(target.slot).state;
            let truth = (0..world.sites).find(|n| World::address(*n) == target.address).map(World::site);
            let expected =
                if truth.is_some_and(|it| dead.contains_key(&it)) { State::Down } else { State::Up };
            if state != expected {
                return Some(format!(
                    "{who} believes that {key} at {} is {state}, and it is {expected}",
                    target.site
                ));
            }
        }
        let held = |domain: &SteeredDomain, site: &SteeredSite| {
            class(domain, site, handle.board(), handle.now()) == Class::HeldDown
        };
        let late = world.domains.iter().filter_map(|it| snapshot.domains.get(it.as_str()));
        late.filter(|domain| domain.sites.iter().any(|site| held(domain, site)))
            .map(|domain| format!("{who} still holds a site of {} down", domain.domain.name))
            .next()
    }
}

/// Everything that steers, in words.
fn fingerprint(snapshot: &Snapshot) -> String {
    let mut domains: Vec<String> = snapshot.domains.values().map(|it| format!("{:?}", it.domain)).collect();
    domains.sort();
    let mut overrides: Vec<String> = snapshot.overrides.iter().map(|it| format!("{it:?}")).collect();
    overrides.sort();
    format!("{domains:?} {overrides:?} {:?}", snapshot.targets.keys())
}

/// True if a hold-down ended since the last look: the one thing that changes answers without a message.
fn held_down_until_now(domain: &SteeredDomain, board: &Board, now: Moment, gap: u64) -> bool {
    let hold_down = domain.domain.recovery.hold_down.0.as_millis() as u64;
    domain.sites.iter().map(|site| reading(site, board)).any(|it| {
        let since = now.since(it.since).as_millis() as u64;
        it.recovered && since >= hold_down && since <= hold_down + gap + gap / 10 + 50
    })
}

/// DESIGN §3.3.
fn sound(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    given: &Answer,
    board: &Board,
    now: Moment,
) -> Result<(), String> {
    let classes: BTreeMap<String, Class> =
        domain.sites.iter().map(|site| (name(snapshot, site), class(domain, site, board, now))).collect();
    let best = classes.values().min().copied().ok_or("it has no sites")?;
    let none_left = best > Class::HeldDown;
    match given {
        Answer::Nodata if none_left && domain.domain.when_none == WhenNone::Nodata => Ok(()),
        Answer::Backup if none_left && matches!(domain.domain.when_none, WhenNone::Backup(_)) => Ok(()),
        Answer::Nodata | Answer::Backup => Err(format!("sites are left: {classes:?}")),
        Answer::Sites(sites) => {
            let first = sites.first().ok_or_else(|| format!("empty because of health: {classes:?}"))?;
            let first = classes.get(first).copied().ok_or("a site it does not have")?;
            if first > best {
                return Err(format!("the first is {first:?}, and the best there is, {best:?}: {classes:?}"));
            }
            Ok(())
        }
    }
}
