//! The checker: it inspects every reader after every window and reports the invariants of DESIGN §3 that do not hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use store::{
    board::Reading,
    handle::Handle,
    health::{State, TargetKey},
    model::{Generation, Name, RecoveryMode},
    snapshot::{Snapshot, SteeredDomain, SteeredSite},
    steering::Family,
};

use crate::{
    answers::{Answer, Class, answer, class, family_answer, family_sound, recovered_until_now, sound},
    net::{Gone, Id, WINDOW, lock},
    node::{Node, Role},
    oracle::Inputs,
    run::{Report, Sabotage},
    world::World,
};

/// Without a message, answers are looked at this often, in milliseconds.
const LOOK_EVERY: u64 = WINDOW * 5;
/// A reader that has a disk answers this soon after its start, even if everything else is down.
const STARTS_WITHIN: u64 = 2_500;
/// Verdicts are on the disk this long after they changed.
const KEPT_WITHIN: u64 = 2_500;

/// The state that the checker keeps of a reader.
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

impl Memory {
    /// True if a life may begin with this state of a target without a vote: it is what the engine published or the disk
    /// kept, or nothing is known.
    fn may_begin_with(&self, key: &TargetKey, state: State, inputs: &Inputs) -> bool {
        let was = |states: &BTreeMap<TargetKey, State>| states.get(key).copied().unwrap_or_default();
        let kept = self.disk && self.late.iter().any(|(_, states)| was(states) == state);
        let knew = self.disk && self.late.iter().all(|(_, states)| was(states) != State::Unknown);
        kept || inputs.published(key, state) || (state == State::Unknown && !knew)
    }
}

pub struct Checker {
    readers: BTreeMap<Id, Memory>,
    /// What a generation of an engine is.
    content: Contents,
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
                let violation = |it: String| format!("4: {it} Down, and only its own way was cut");
                report.violations.extend(slander.into_iter().map(violation));
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
        let mut look = Look {
            who,
            // One content for a generation at all engines that are connected.
            engine: if world.connected { World::engine(0) } else { world.engine_of[&node.id] },
            now,
            gap: now - memory.looked,
            news,
            begins: memory.life != node.life,
            sabotage: self.sabotage,
            handle: &handle,
            snapshot: &snapshot,
            report,
        };
        look.generation(memory, &mut self.content);
        // States first: what the answers follow from.
        look.states(memory, &inputs);
        look.answers(memory, world);
        memory.life = node.life;
        memory.count = inputs.count;
        memory.looked = now;
        inputs.looked();
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
        for (key, target) in snapshot.targets.iter() {
            let state = handle.board().read(target.slot).state;
            let truth = (0..world.sites).find(|n| World::address(*n) == target.address).map(World::site);
            let expected =
                if truth.is_some_and(|it| dead.contains_key(&it)) { State::Down } else { State::Up };
            // What the guard has frozen stays until an operator has looked at it.
            let frozen = world.has_guard() && (state, expected) == (State::Up, State::Down);
            if state != expected && !frozen {
                return Some(format!(
                    "{who} has {state} as the state of {key} at {}, and it is {expected}",
                    target.site
                ));
            }
        }
        let held = |domain: &SteeredDomain, site: &SteeredSite| {
            class(domain, site, None, handle.board(), handle.now()).1 == Class::HeldDown
        };
        let late = world.domains.iter().filter_map(|it| snapshot.domains.get(it.as_str()));
        let late = late.filter(|it| it.domain.recovery.mode != RecoveryMode::Manual);
        late.filter(|domain| domain.sites.iter().any(|site| held(domain, site)))
            .map(|domain| format!("{who} still holds a site of {} down", domain.domain.name))
            .next()
    }

    /// The answers of a node to all clients, except for domains whose sites are let back by hand: when they were last down, a node
    /// may have forgotten.
    pub fn answers_of(&self, node: &Node, world: &World) -> Option<Vec<(String, IpAddr, Answer)>> {
        let Role::Reader { handle, .. } = &node.role else { return None };
        let _guard = node.runtime.as_ref()?.enter();
        let handle = lock(handle).clone()?;
        let snapshot = handle.snapshot()?;
        let domains = world.domains.iter().filter_map(|it| snapshot.domains.get(it.as_str()));
        let domains = domains.filter(|it| it.domain.recovery.mode != RecoveryMode::Manual);
        let all = domains.flat_map(|it| world.clients().into_iter().map(move |client| (it, client)));
        let given = |(it, client): (&Arc<SteeredDomain>, IpAddr)| {
            let answer = answer(&snapshot, it, client, handle.board(), handle.now());
            (it.domain.name.to_string(), client, answer)
        };
        Some(all.map(given).collect())
    }
}

/// One look at one reader.
struct Look<'a> {
    who: String,
    engine: Id,
    now: u64,
    /// Since the last look, in milliseconds.
    gap: u64,
    /// A message arrived since then.
    news: bool,
    /// The first look of a life.
    begins: bool,
    sabotage: Sabotage,
    handle: &'a Handle,
    snapshot: &'a Snapshot,
    report: &'a mut Report,
}

impl Look<'_> {
    fn trace(&mut self, what: &str) {
        self.report.trace.push(format!("{:>6} {} {what}", self.now, self.who));
    }

    fn breaks(&mut self, invariant: u8, why: &str) {
        self.report.violations.push(format!("{invariant}: {} {why}", self.who));
    }

    fn generation(&mut self, memory: &mut Memory, content: &mut Contents) {
        let (old, new) = (memory.generation, self.snapshot.generation);
        let orders = self.snapshot.orders.digest.clone();
        let found = fingerprint(self.snapshot);
        // With expiry, it depends on the time which overrides keep others from an effect.
        let expires = self.snapshot.overrides.iter().any(|it| it.expires.is_some());
        let found = if expires { String::new() } else { found };
        let orders = if expires { "expires".to_owned() } else { orders };
        let known = content.entry((self.engine, new, orders)).or_insert_with(|| found.clone());
        if *known != found {
            self.breaks(6, &format!("has another configuration that bears generation {new}"));
        }
        if new == old {
            return;
        }
        if new < old {
            self.breaks(6, &format!("ran generation {old} and took up {new}"));
        }
        memory.generation = new;
        self.trace(&format!("runs generation {new}"));
    }

    fn states(&mut self, memory: &mut Memory, inputs: &Inputs) {
        let vantages: BTreeSet<Name> = self.snapshot.vantages.iter().map(|it| it.name.clone()).collect();
        let mut states = BTreeMap::new();
        for (key, target) in self.snapshot.targets.iter() {
            let state = self.handle.board().read(target.slot).state;
            states.insert(key.clone(), state);
            let before = memory.states.get(key).copied().unwrap_or_default();
            if state != before {
                self.trace(&format!("{} {before} -> {state}", target.site));
            }
            let needed = target.check.quorum.votes_needed(vantages.len());
            let adopted = || inputs.adopts() && inputs.was_published(key, state);
            let held = if self.begins {
                memory.may_begin_with(key, state, inputs)
            } else {
                state == before || adopted()
            };
            if !held && !inputs.justifies(key, state, &vantages, needed) {
                let (verb, of) = (if self.begins { "begins with" } else { "holds" }, vantages.len());
                let site = &target.site;
                self.breaks(4, &format!("{verb} {state} of {key} at {site} (before: {before}) without {needed} fresh votes of {of}"));
            }
        }
        if self.begins {
            memory.late.clear();
        }
        memory.late.retain(|(at, _)| at + KEPT_WITHIN >= self.now);
        memory.late.push((self.now, states.clone()));
        memory.states = states;
    }

    fn answers(&mut self, memory: &mut Memory, world: &World) {
        let (snapshot, board) = (self.snapshot, self.handle.board());
        for domain in &world.domains {
            let Some(steered) = snapshot.domains.get(domain.as_str()) else { continue };
            for client in world.clients() {
                let at = self.handle.now();
                let mut given = answer(snapshot, steered, client, board, at);
                if self.sabotage == Sabotage::EmptyWhenDown {
                    given = given.without_down(snapshot, steered, board);
                }
                let region = snapshot.locality.locate(client).region;
                if let Err(why) = sound(snapshot, steered, region, &given, board, at) {
                    self.breaks(3, &format!("answers {client} for {domain} with {given:?}: {why}"));
                }
                for family in Family::BOTH {
                    let given = family_answer(snapshot, steered, client, (family, board), at);
                    let sound = family_sound(snapshot, steered, (family, region), given.as_ref(), board, at);
                    if let Err(why) = sound {
                        self.breaks(3, &format!("answers {client} for {domain} with {given:?}: {why}"));
                    }
                }
                let key = (domain.clone(), client);
                if memory.answers.get(&key) == Some(&given) {
                    continue;
                }
                self.trace(&format!("answers {client} for {domain} with {given:?}"));
                let before = memory.answers.insert(key, given);
                // What the guard has frozen thaws by time.
                if before.is_some()
                    && !self.news
                    && !world.has_guard()
                    && !recovered_until_now(steered, region, board, at, self.gap)
                {
                    self.breaks(
                        1,
                        &format!(
                            "received nothing and answers {client} for {domain} otherwise than {before:?}"
                        ),
                    );
                }
            }
        }
    }
}

/// What decides answers, by engine, generation and digest of the orders.
type Contents = BTreeMap<(Id, Generation, String), String>;

/// Everything that decides answers, as text.
fn fingerprint(snapshot: &Snapshot) -> String {
    let mut domains: Vec<String> = snapshot.domains.values().map(|it| format!("{:?}", it.domain)).collect();
    domains.sort();
    let mut overrides: Vec<String> = snapshot.overrides.iter().map(|it| format!("{it:?}")).collect();
    overrides.sort();
    format!("{domains:?} {overrides:?} {:?}", snapshot.targets.keys())
}
