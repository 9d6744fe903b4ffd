//! The simulation: every node is a runtime of its own, with its own paused clock, that runs the program's own parts. They
//! run one after another for a window of time that is shorter than the fastest message, so that they meet only here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use prober::Admin;
use store::{
    commit::{self, AuditEntry, Change, Planned},
    disk::LastGood,
    engine::{Engine as _, KvEntry, KvOp, embedded::Embedded},
    follow::{self, Identity, Options},
    handle::{Clock, Handle},
    keys,
    model::{Document, DocumentId, Generation, Kind, Moment, Placed},
};
use tokio::{runtime::Runtime, time::Instant};
use waypost::control::{self, ControlHandle, Refusal};

use crate::{
    check::Checker,
    net::{Body, Gone, Id, Message, Net, Request, Response, Seat, State, WINDOW, lock},
    oracle::Inputs,
    rim::{Evidence, Link, Office, POLL, Roads, serve},
    world::{Event, World},
};

/// After the last fault, everything agrees within this, in milliseconds.
const HEALED_WITHIN: u64 = 60_000;
/// Agreement has to last.
const SETTLED: u64 = 1_500;

/// A defect put in on purpose, at the rim, to see that the checker notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// Heartbeats that stand still count as moving.
    CountStale,
    /// A reader forgets which generation it had.
    AdoptOlder,
    /// Sites that are Down are left out of answers, also when nothing is left.
    EmptyWhenDown,
    /// A reader that hears nothing of its engine believes nothing any more.
    ForgetWhenCut,
    /// A vantage's canaries always answer.
    BlindToItself,
}

/// What came of a seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub trace: Vec<String>,
    pub violations: Vec<String>,
    /// A digest of every message, by when it came and what it was about.
    pub messages: u64,
}

type Slot<T> = Arc<Mutex<Option<T>>>;

fn slot<T>() -> Slot<T> {
    Arc::new(Mutex::new(None))
}

/// What a node is.
pub enum Role {
    Engine { engine: Slot<Arc<Embedded>> },
    Control { handle: Slot<ControlHandle> },
    Prober { evidence: Arc<Mutex<Evidence>> },
    Reader { handle: Slot<Handle>, inputs: Arc<Mutex<Inputs>> },
}

/// A node: what it is, and what outlives it.
pub struct Node {
    pub id: Id,
    pub seat: Seat,
    pub role: Role,
    /// None while it is dead; an engine that keeps its disk stays, and nobody reaches it.
    pub runtime: Option<Runtime>,
    pub life: u32,
    memory: LastGood,
    random: u64,
}

/// What the operator did to an engine.
#[derive(Default)]
struct Operated {
    newest: Generation,
    /// It lost what it was told: to be restored.
    stale: bool,
    backup: Vec<KvEntry>,
}

pub struct Simulation {
    pub seed: u64,
    pub world: World,
    pub net: Net,
    pub now: u64,
    pub nodes: BTreeMap<Id, Node>,
    pub report: Report,
    sabotage: Sabotage,
    /// Every message is told.
    wordy: bool,
    overrides: BTreeMap<u16, String>,
    operated: BTreeMap<Id, Operated>,
    checker: Checker,
}

/// Runs a seed to its end, or to its first violation.
pub fn run(seed: u64, sabotage: Sabotage) -> Report {
    let mut simulation = Simulation::new(seed, sabotage);
    simulation.play();
    simulation.report
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

impl Simulation {
    fn new(seed: u64, sabotage: Sabotage) -> Self {
        let world = World::draw(seed);
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
            wordy: std::env::var_os("WAYPOST_MESSAGES").is_some(),
            overrides: BTreeMap::new(),
            operated: BTreeMap::new(),
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
        simulation.tell(drawn);
        for id in simulation.world.nodes() {
            simulation.boot(id, LastGood::in_memory(), 1);
            if id.0 < 10 {
                simulation.operate(id);
            }
        }
        simulation
    }

    pub fn tell(&mut self, what: impl AsRef<str>) {
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
                    (None, Some(since)) if self.now - since >= SETTLED => return,
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
        found.iter().for_each(|it| self.tell(format!("VIOLATION {it}")));
    }

    /// Lets every node run for one window.
    fn window(&mut self) {
        let arrived = lock(&self.net).arrived(self.now);
        let mut mail: BTreeMap<Id, Vec<Message>> = BTreeMap::new();
        for message in arrived {
            if self.wordy {
                let body: String = format!("{:?}", message.body).chars().take(240).collect();
                let (from, to) = (World::name(message.from), World::name(message.to));
                self.report
                    .trace
                    .push(format!("{:>6} {from} to {to} {:x}: {body}", self.now, message.number));
            }
            let of = |part: u64| (self.report.messages ^ part).wrapping_mul(0x100_0000_01b3).rotate_left(23);
            self.report.messages = of(self.now ^ message.number ^ u64::from(message.from.0) << 48);
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
    }

    fn disagreement(&self) -> Option<String> {
        let dead = lock(&self.net).dead.clone();
        self.nodes.values().find_map(|node| {
            let engine = self.world.engine_of.get(&node.id)?;
            let newest = self.operated.get(engine)?.newest;
            self.checker.disagreement(node, &self.world, newest, &dead)
        })
    }

    /// Starts a node's next life.
    fn boot(&mut self, id: Id, memory: LastGood, life: u32) {
        let rate = self.world.clocks[&id];
        let runtime = runtime();
        let guard = runtime.enter();
        let seat = Seat { id, net: Arc::clone(&self.net), began: (Instant::now(), self.now), rate };
        let clock = Clock::starting_at(Moment(World::wall(self.seed, id, life, self.now)));
        drop(guard);
        let random = self.seed ^ (u64::from(id.0) << 32) ^ (u64::from(life) << 48);
        fastrand::seed(random);
        let kind = id.0 / 10;
        let role = match kind {
            0 => start_engine(&runtime),
            1 => self.start_control(&runtime, &seat, &memory, clock, life),
            2 => self.start_prober(&runtime, &seat, clock, life),
            _ => self.start_reader(&runtime, &seat, &memory, clock, life),
        };
        lock(&self.net).restart(id);
        let node = Node { id, seat, role, runtime: Some(runtime), life, memory, random };
        self.nodes.insert(id, node);
    }

    fn link(&self, seat: &Seat, inputs: &Arc<Mutex<Inputs>>) -> Arc<Link> {
        let reader = seat.id.0 / 10 == 3;
        let sabotage = if reader { self.sabotage } else { Sabotage::None };
        let engine = self.world.engine_of[&seat.id];
        Arc::new(Link { seat: seat.clone(), engine, inputs: Arc::clone(inputs), sabotage })
    }

    fn start_control(
        &self,
        runtime: &Runtime,
        seat: &Seat,
        memory: &LastGood,
        clock: Clock,
        life: u32,
    ) -> Role {
        let link = self.link(seat, &Arc::default());
        let (handle, memory, identity) = (slot(), memory.clone(), identity(seat.id, "control", life));
        let kept = Arc::clone(&handle);
        let config = control::Config::new(
            World::name(seat.id).parse().unwrap(),
            "s0".parse().unwrap(),
            identity.boot.clone(),
        );
        runtime.spawn(async move {
            let engine: Arc<Link> = link;
            let (handle, follower) =
                follow::start_from(engine.clone(), memory, clock, identity, options()).await;
            let control = control::start(config, engine, handle);
            *lock(&kept) = Some(control.handle());
            control.run(std::future::pending()).await.unwrap();
            drop(follower);
        });
        Role::Control { handle }
    }

    fn start_reader(
        &self,
        runtime: &Runtime,
        seat: &Seat,
        memory: &LastGood,
        clock: Clock,
        life: u32,
    ) -> Role {
        let inputs: Arc<Mutex<Inputs>> = Arc::default();
        let link = self.link(seat, &inputs);
        let (handle, memory, identity) = (slot(), memory.clone(), identity(seat.id, "dns", life));
        let kept = Arc::clone(&handle);
        runtime.spawn(async move {
            let (handle, follower) = follow::start_from(link, memory, clock, identity, options()).await;
            *lock(&kept) = Some(handle);
            std::future::pending::<()>().await;
            drop(follower);
        });
        Role::Reader { handle, inputs }
    }

    fn start_prober(&self, runtime: &Runtime, seat: &Seat, clock: Clock, life: u32) -> Role {
        let evidence: Arc<Mutex<Evidence>> = Arc::default();
        let number = seat.id.0 % 10;
        let controls: Vec<Id> = (0..self.world.controls).map(World::control).collect();
        let vantage: store::model::Name = World::name(seat.id).parse().unwrap();
        let office = |control: &Id| {
            Arc::new(Office {
                seat: seat.clone(),
                name: World::name(*control),
                control: *control,
                vantage: vantage.clone(),
                canaries: self.world.canaries[usize::from(number)] > 0,
                evidence: Arc::clone(&evidence),
            }) as Arc<dyn Admin>
        };
        let mut config =
            prober::Config::new(vantage.clone(), controls.iter().map(|it| World::name(*it)).collect());
        let canaries = 0..self.world.canaries[usize::from(number)];
        config.canaries = canaries.map(|n| format!("canary{n}:443").parse().unwrap()).collect();
        let roads = Roads {
            seat: seat.clone(),
            seed: self.seed,
            sites: (0..self.world.sites).map(|n| (World::address(n), World::site(n))).collect(),
            canaries: World::CANARIES,
            evidence: Arc::clone(&evidence),
            sabotage: self.sabotage,
            dials: Mutex::default(),
        };
        let boot = format!("{vantage}-{life}");
        let prober =
            prober::start_over(config, boot, controls.iter().map(office).collect(), Arc::new(roads), clock);
        runtime.spawn(async move { prober.run(std::future::pending()).await.unwrap() });
        Role::Prober { evidence }
    }

    fn crash(&mut self, id: Id, how: Gone) {
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

    fn restart(&mut self, id: Id, disk: bool) {
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
        if id.0 < 10 {
            self.operated.entry(id).or_default().stale |= !disk;
            self.operate(id);
        }
    }

    fn happen(&mut self, event: Event) {
        self.tell(format!("{event:?}"));
        match event {
            Event::Dies(site, how) => drop(lock(&self.net).dead.insert(site, how)),
            Event::Serves(site) => drop(lock(&self.net).dead.remove(&site)),
            Event::Cut(a, b, how) => lock(&self.net).cut(a, b, how),
            Event::Slow(a, b, millis) => lock(&self.net).slow(a, b, millis),
            Event::Lossy(a, b, share) => lock(&self.net).lossy(a, b, share),
            Event::Heal(a, b) => lock(&self.net).heal(a, b),
            Event::Crash(id, how) => self.crash(id, how),
            Event::Restart { node, disk } => self.restart(node, disk),
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

    fn operate_all(&mut self) {
        for n in 0..self.world.engines {
            let id = World::engine(n);
            if !self.operated[&id].stale || self.now >= self.world.over {
                self.operate(id);
            }
        }
    }

    /// The operator brings an engine to the present documents; one that lost them, under a higher epoch.
    fn operate(&mut self, id: Id) {
        if lock(&self.net).is_down(id) {
            return;
        }
        let mut text = self.world.documents.clone();
        for order in self.overrides.values() {
            text += order;
            text += "---\n";
        }
        let documents = store::model::parse("sim.yaml", &text).unwrap();
        let operated = self.operated.entry(id).or_default();
        let node = self.nodes.get_mut(&id).unwrap();
        let (newest, stale) = (operated.newest, operated.stale);
        let (generation, backup) = node.on_engine(self.now, async move |engine| {
            let generation = bring(engine, documents, stale.then_some(newest)).await;
            let config = engine.kv_list(keys::ROOT, None).await.unwrap().value;
            (generation, config)
        });
        operated.newest = generation;
        operated.stale = false;
        if operated.backup.is_empty() {
            operated.backup = backup;
        }
        self.tell(format!("{} holds generation {generation}", World::name(id)));
    }

    /// The engine's disk is exchanged for an old copy.
    fn roll_back(&mut self, id: Id) {
        self.crash(id, Gone::Refused);
        let life = self.nodes[&id].life + 1;
        self.boot(id, LastGood::in_memory(), life);
        let operated = self.operated.get_mut(&id).unwrap();
        operated.stale = true;
        let backup = operated.backup.clone();
        self.nodes.get_mut(&id).unwrap().on_engine(self.now, async move |engine| {
            for entry in backup {
                let op = KvOp::Set { key: entry.key, value: entry.value };
                engine.txn(vec![op]).await.unwrap();
            }
        });
        if self.sabotage == Sabotage::AdoptOlder {
            for n in 0..self.world.readers {
                let id = World::reader(n);
                self.crash(id, Gone::Refused);
                let memory = self.nodes[&id].memory.clone();
                memory.remove("config").unwrap();
                self.restart(id, true);
            }
        }
    }
}

fn identity(id: Id, role: &str, life: u32) -> Identity {
    let node = World::name(id);
    Identity { boot: format!("{node}-{life}"), node, site: "s0".into(), roles: [role.to_owned()].into() }
}

fn options() -> Options {
    Options { wait: POLL, ..Options::default() }
}

fn start_engine(runtime: &Runtime) -> Role {
    let engine = runtime.block_on(Embedded::in_memory(store::engine::embedded::Options::default()));
    Role::Engine { engine: Arc::new(Mutex::new(Some(engine))) }
}

/// Commits documents, or restores them over a generation that is known to have been.
async fn bring(engine: &Embedded, documents: Vec<Placed<Document>>, over: Option<Generation>) -> Generation {
    let entry = AuditEntry { at: Moment(0), who: "sim".into(), what: "sim".into(), generation: None };
    let stored = commit::read(engine, None).await.unwrap();
    let uuids = &mut || uuid::Uuid::nil();
    let planned = match over {
        Some(over) => Planned::Changed(Box::new(
            commit::plan_restore(&stored, over, documents, Moment(0), uuids).unwrap(),
        )),
        None => {
            let wanted: Vec<DocumentId> = documents.iter().map(|it| it.value.id()).collect();
            let gone = stored
                .documents()
                .map(|it| it.id())
                .filter(|id| id.kind == Kind::Override && !wanted.contains(id));
            let changes = gone.map(Change::Delete).chain(documents.into_iter().map(Change::Put)).collect();
            commit::plan(&stored, changes, Moment(0), uuids).unwrap()
        }
    };
    match planned {
        Planned::Unchanged(generation) => generation,
        Planned::Changed(plan) => commit::commit(engine, *plan, entry).await.unwrap(),
    }
}

impl Node {
    /// Runs until a true time, with what arrived.
    fn run(&mut self, messages: Vec<Message>, until: u64) {
        let Some(runtime) = self.runtime.take() else { return };
        fastrand::seed(self.random);
        let target = self.seat.local(until);
        runtime.block_on(async {
            for message in messages {
                self.take(message);
                // Once round the queue for what was woken, and once for what that woke.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            tokio::time::sleep_until(target).await;
        });
        self.random = fastrand::get_seed();
        self.runtime = Some(runtime);
    }

    /// Does something at an engine, between two windows.
    fn on_engine<T>(&mut self, _now: u64, work: impl AsyncFnOnce(&Embedded) -> T) -> T {
        let Role::Engine { engine } = &self.role else { panic!("{:?} is no engine", self.id) };
        let engine = lock(engine).clone().unwrap();
        fastrand::seed(self.random);
        let done = self.runtime.as_ref().unwrap().block_on(work(&engine));
        self.random = fastrand::get_seed();
        done
    }

    fn take(&self, message: Message) {
        let Message { from, number, body, .. } = message;
        match body {
            Body::Response(response) => lock(&self.seat.net).answer(self.id, number, response),
            Body::Request(request) => self.serve(from, number, request),
        }
    }

    fn serve(&self, from: Id, number: u64, request: Request) {
        let seat = self.seat.clone();
        let respond = move |response| {
            let at = seat.true_now();
            lock(&seat.net).respond(seat.id, from, number, response, at);
        };
        match (&self.role, request) {
            (Role::Engine { engine }, Request::Engine(call)) => {
                let Some(engine) = lock(engine).clone() else { return };
                tokio::spawn(async move { respond(Response::Engine(serve(engine.as_ref(), call).await)) });
            }
            (Role::Control { handle }, request) => {
                let Some(control) = lock(handle).clone() else { return respond(Response::Reset) };
                tokio::spawn(async move { respond(at_control(control, request).await) });
            }
            _ => respond(Response::Reset),
        }
    }
}

/// The admin API's part.
async fn at_control(control: ControlHandle, request: Request) -> Response {
    let failed = |refused: control::Refused| match refused.kind {
        Refusal::Unavailable => prober::Failed::Unanswered(refused.text),
        _ => prober::Failed::Refused(refused.text),
    };
    match request {
        Request::Report(batch) => Response::Report(control.observe(batch).await.map_err(failed)),
        Request::Work { vantage, index } => Response::Work(
            control.work(vantage.as_str(), index, Duration::from_secs(8)).await.map_err(failed),
        ),
        Request::Engine(_) => Response::Reset,
    }
}
