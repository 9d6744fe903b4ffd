//! The simulation: every node is a runtime of its own, with its own paused clock, that runs the program's own parts. They
//! run one after another for a window of time that is shorter than the fastest message, so that they meet only here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use store::disk::LastGood;

use crate::{
    check::Checker,
    net::{Gone, Id, Message, Net, State, WINDOW, lock},
    node::Node,
    operator::Operated,
    sites::{draw::Between, run::Connected},
    world::{Event, World},
};

/// After the last fault, everything agrees within this, in milliseconds.
const HEALED_WITHIN: u64 = 100_000;
/// Agreement has to last.
const SETTLED: u64 = 1_500;

/// A defect put in on purpose, at the rim, to see that the checker notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// Heartbeats that do not change count as changing.
    CountStale,
    /// A reader forgets which generation it had.
    AdoptOlder,
    /// Sites that are Down are left out of answers, also when nothing is left.
    EmptyWhenDown,
    /// A reader that is cut off from its engine drops its verdicts.
    ForgetWhenCut,
    /// A vantage's canaries always answer.
    BlindToItself,
    /// Orders of other sites are written without comparing their stamps.
    OrdersAsTheyCome,
    /// A site takes a configuration that is older than its own.
    CopyOlder,
    /// A copy is flipped although a part of it was not written.
    HalfCopy,
    /// Nodes do not take the verdicts that their control adopted.
    IgnoreAdoptions,
    /// What a dark site told is forgotten.
    ForgetDarkSites,
    /// A site does not hear which share of another's clients goes elsewhere.
    KeepShares,
    /// A control does not compare the certificate of a caller with its token.
    AcceptOtherNames,
}

/// The result of a seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub trace: Vec<String>,
    pub violations: Vec<String>,
    /// A digest of every message, by when it came and what it was about.
    pub messages: u64,
}

pub struct Simulation {
    pub seed: u64,
    pub world: World,
    pub net: Net,
    pub now: u64,
    pub nodes: BTreeMap<Id, Node>,
    pub report: Report,
    pub sabotage: Sabotage,
    /// Every message is part of the trace.
    with_messages: bool,
    pub overrides: BTreeMap<u16, String>,
    pub operated: BTreeMap<Id, Operated>,
    pub connected: Connected,
    checker: Checker,
}

/// Which worlds a seed draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Engines that know nothing of one another.
    Alone,
    /// Sites whose controls are connected.
    Connected,
}

/// Runs a seed to its end, or to its first violation.
pub fn run(seed: u64, kind: Kind, sabotage: Sabotage) -> Report {
    let world = match kind {
        Kind::Alone => World::draw(seed),
        Kind::Connected => World::draw_connected(seed),
    };
    let mut simulation = Simulation::new(seed, world, sabotage);
    simulation.play();
    simulation.report
}

impl Simulation {
    fn new(seed: u64, world: World, sabotage: Sabotage) -> Self {
        let net: Net = Arc::new(Mutex::new(State::new(seed)));
        let checker = Checker::new(&world, sabotage);
        let mut simulation = Self {
            seed,
            world,
            net,
            now: 0,
            nodes: BTreeMap::new(),
            report: Report::default(),
            sabotage,
            with_messages: std::env::var_os("WAYPOST_MESSAGES").is_some(),
            overrides: BTreeMap::new(),
            operated: BTreeMap::new(),
            connected: Connected::default(),
            checker,
        };
        let world = &simulation.world;
        let drawn = format!(
            "{} sites, {} vantages with canaries {:?}, {} engines, {} controls, {} readers\n{}",
            world.sites,
            world.vantages,
            world.canaries,
            world.engines,
            world.controls,
            world.readers,
            world.documents
        );
        simulation.trace(drawn);
        for id in simulation.world.nodes() {
            if simulation.world.connected && id == World::control(0) {
                simulation.found();
            }
            simulation.boot(id, LastGood::in_memory(), 1);
            if id.0 < 10 && !simulation.world.connected {
                simulation.operate(id);
            }
        }
        simulation
    }

    pub fn trace(&mut self, what: impl AsRef<str>) {
        self.report.trace.push(format!("{:>6} {}", self.now, what.as_ref()));
    }

    fn play(&mut self) {
        let mut faults = std::mem::take(&mut self.world.faults).into_iter().peekable();
        let mut agreed = None;
        while self.report.violations.is_empty() {
            while let Some((_, event)) = faults.next_if(|(at, _)| *at <= self.now) {
                self.happen(event);
            }
            self.window();
            self.look();
            if self.now > self.world.over && self.now.is_multiple_of(WINDOW * 10) {
                match (self.disagreement(), agreed) {
                    (None, Some(since)) if self.now - since >= SETTLED => {
                        let wrong = self.wrong_at_the_end();
                        self.report.violations.extend(wrong);
                        break;
                    }
                    (None, None) => agreed = Some(self.now),
                    (None, _) => {}
                    (Some(what), _) if self.now > self.world.over + HEALED_WITHIN => {
                        self.report.violations.push(format!("liveness: {what}"));
                    }
                    (Some(_), _) => agreed = None,
                }
            }
        }
        let found = self.report.violations.clone();
        found.iter().for_each(|it| self.trace(format!("VIOLATION {it}")));
    }

    /// Lets every node run for one window.
    fn window(&mut self) {
        let arrived = lock(&self.net).arrived(self.now);
        let mut mail: BTreeMap<Id, Vec<Message>> = BTreeMap::new();
        for message in arrived {
            if self.with_messages {
                let body: String = format!("{:?}", message.body).chars().take(240).collect();
                let (from, to) = (World::name(message.from), World::name(message.to));
                self.report
                    .trace
                    .push(format!("{:>6} {from} to {to} {:x}: {body}", self.now, message.number));
            }
            let part = self.now ^ message.number ^ (u64::from(message.from.0) << 48);
            self.report.messages =
                (self.report.messages ^ part).wrapping_mul(0x100_0000_01b3).rotate_left(23);
            mail.entry(message.to).or_default().push(message);
        }
        let until = self.now + WINDOW;
        for node in self.nodes.values_mut() {
            let messages = mail.remove(&node.id).unwrap_or_default();
            node.run(messages, until);
        }
        self.now = until;
    }

    fn look(&mut self) {
        let Self { checker, nodes, report, now, world, .. } = self;
        for node in nodes.values() {
            checker.look(node, world, *now, report);
        }
        if self.world.connected {
            self.look_between();
        }
    }

    fn disagreement(&self) -> Option<String> {
        let dead = lock(&self.net).dead.clone();
        let with_the_truth = |node: &Node| {
            let engine = self.world.engine_of.get(&node.id)?;
            let newest = match self.world.connected {
                true if self.is_ahead(node.id) => return None,
                true => self.newest(),
                false => self.operated.get(engine)?.newest,
            };
            self.checker.disagreement(node, &self.world, newest, &dead)
        };
        let between = || self.world.connected.then(|| self.disagreement_between_sites()).flatten();
        let nodes = self.nodes.values().find_map(with_the_truth);
        let among = || self.must_agree().then(|| self.disagreement_among_readers()).flatten();
        nodes.or_else(among).or_else(between)
    }

    /// Nodes with the same verdicts give every client the same answer, with every policy.
    pub fn disagreement_among_readers(&self) -> Option<String> {
        let answers = |node: &Node| Some((World::name(node.id), self.checker.answers_of(node, &self.world)?));
        let mut readers = self.nodes.values().filter_map(answers);
        let (first, expected) = readers.next()?;
        readers.find_map(|(other, answers)| {
            let (one, two) = expected.iter().zip(&answers).find(|(one, two)| one != two)?;
            Some(format!("{first} answers {one:?}, and {other} {two:?}"))
        })
    }

    pub fn crash(&mut self, id: Id, how: Gone) {
        if lock(&self.net).is_down(id) {
            return;
        }
        lock(&self.net).crash(id, how);
        let node = self.nodes.get_mut(&id).unwrap();
        if id.0 >= 10 {
            node.runtime = None;
        }
        self.checker.crashed(node, self.now);
    }

    pub fn restart(&mut self, id: Id, disk: bool) {
        if !lock(&self.net).is_down(id) {
            return;
        }
        let node = &self.nodes[&id];
        let (life, memory) = (node.life + 1, if disk { node.memory.clone() } else { LastGood::in_memory() });
        self.checker.restarted(id, disk, self.now);
        if id.0 < 10 && disk {
            lock(&self.net).restart(id);
        } else {
            self.boot(id, memory, life);
        }
        if id.0 < 10 && !self.world.connected {
            self.operated.entry(id).or_default().stale |= !disk;
            self.operate(id);
        }
    }

    fn happen(&mut self, event: Event) {
        self.trace(format!("{event:?}"));
        if !matches!(event, Event::Between(Between::Order(..))) {
            let died = matches!(
                event,
                Event::Crash(..)
                    | Event::Restart { .. }
                    | Event::RollBack(_)
                    | Event::Between(Between::Instance(..))
            );
            self.connected.calm.disturbed(self.now, died);
        }
        match event {
            Event::Dies(site, how) => drop(lock(&self.net).dead.insert(site, how)),
            Event::Serves(site) => drop(lock(&self.net).dead.remove(&site)),
            Event::Cut(a, b, how) => lock(&self.net).cut(a, b, how),
            Event::Slow(a, b, millis) => lock(&self.net).slow(a, b, millis),
            Event::Lossy(a, b, share) => lock(&self.net).lossy(a, b, share),
            Event::Heal(a, b) => lock(&self.net).heal(a, b),
            Event::Crash(id, how) => self.crash(id, how),
            Event::Restart { node, disk } => self.restart(node, disk),
            Event::Between(what) => self.between(what),
            Event::RollBack(id) if self.world.connected => self.roll_back_site(id),
            Event::RollBack(id) => self.roll_back(id),
            Event::Restore(id) => self.operate(id),
            Event::Override(number, text) => {
                self.overrides.insert(number, text);
                self.operate_all();
            }
            Event::NoOverride(number) => {
                self.overrides.remove(&number);
                self.operate_all();
            }
            Event::AllHeal => {
                lock(&self.net).heal_all();
                for id in self.world.nodes() {
                    self.restart(id, true);
                }
                self.operate_all();
            }
        }
    }
}
