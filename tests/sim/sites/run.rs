//! What happens between connected sites.

use std::{collections::BTreeMap, sync::Arc};

use store::{
    commit::{self, AuditEntry, Author, Change, Planned},
    disk::LastGood,
    engine::{CheckStatus, Engine as _, KvEntry, KvOp, Registration},
    keys,
    model::{Authority, Generation, Moment, SiteTag},
};

use super::{
    act::{self, Act, Results},
    adoption::Lacking,
    carry::secret_of,
    drains::Drained,
    draw::{Between, INSTANCES, Way},
    engines::Engines,
    gateway::Gateways,
    settled::Calm,
};
use crate::{
    net::{Gone, Id, SiteCall, lock},
    node::Role,
    run::Simulation,
    world::World,
};

/// How often engines are looked at, in milliseconds.
const LOOK_EVERY: u64 = 100;

/// The state of connected sites, beside their nodes.
#[derive(Default)]
pub struct Connected {
    pub results: Results,
    /// What is ordered next has this number.
    next: u64,
    /// The results before this one were looked at.
    looked: usize,
    pub engines: Engines,
    pub gateways: Gateways,
    pub drained: Drained,
    pub calm: Calm,
    pub lacking: Lacking,
    backups: BTreeMap<Id, Vec<KvEntry>>,
    /// The instances, and whether they are registered.
    pub instances: BTreeMap<u16, bool>,
    /// Where controls keep configurations that were replaced.
    pub lost: BTreeMap<Id, Arc<tempfile::TempDir>>,
}

impl Simulation {
    /// The first documents, at the engine of the first site, which becomes the home.
    pub fn found(&mut self) {
        for n in 0..self.world.controls {
            let folder = Arc::new(tempfile::tempdir().unwrap());
            self.connected.lost.insert(World::control(n), folder);
        }
        let documents = store::model::parse("sim.yaml", &self.world.documents).unwrap();
        let home = World::engine(0);
        let generation = self.nodes.get_mut(&home).unwrap().on_engine(async move |engine| {
            let site = SiteTag::of(&"s0".parse().unwrap());
            let author = Author { authority: Authority::Human, by: "sim", site, founds: true, applied: true };
            let stored = commit::read(engine, None).await.unwrap();
            let changes = documents.into_iter().map(Change::Put).collect();
            let Planned::Changed(plan) = commit::plan(&stored, changes, Moment(0), author).unwrap() else {
                panic!("there are no documents")
            };
            let entry = AuditEntry { at: Moment(0), who: "sim".into(), what: "sim".into(), generation: None };
            commit::commit(engine, *plan, entry).await.unwrap()
        });
        self.trace(format!("engine0 holds generation {generation}"));
    }

    pub fn between(&mut self, what: Between) {
        match what {
            Between::Cut(a, b, way) => self.cut_sites(a, b, way),
            Between::Heal(a, b) => self.each_pair(a, b, |net, x, y| net.heal(x, y)),
            Between::Order(control, act) => self.order_at(control, act),
            Between::BackUp(engine) => self.back_up(engine),
            Between::Instance(n, up) => self.instance(n, up),
            Between::Impostor { control, secret, shown } => self.impostor(control, secret, shown),
        }
    }

    fn each_pair(&mut self, a: u16, b: u16, mut each: impl FnMut(&mut crate::net::State, Id, Id)) {
        let of = |site: u16| -> Vec<Id> {
            let nodes = self.world.nodes().into_iter().filter(|it| self.world.site_of(*it) == Some(site));
            nodes.chain([World::site(site)]).collect()
        };
        let (of_a, of_b) = (of(a), of(b));
        let mut net = lock(&self.net);
        for x in &of_a {
            for y in &of_b {
                each(&mut net, *x, *y);
            }
        }
    }

    fn cut_sites(&mut self, a: u16, b: u16, way: Way) {
        match way {
            Way::Both(how) => self.each_pair(a, b, |net, x, y| net.cut(x, y, how)),
            Way::Forth => self.each_pair(a, b, |net, x, y| net.cut_one_way(x, y)),
        }
    }

    /// Gives an order at a control, if that lives.
    fn order_at(&mut self, id: Id, act: Act) {
        let number = self.connected.next;
        self.connected.next += 1;
        self.connected.engines.orders.given(number);
        self.connected.calm.acted(self.now);
        let node = &self.nodes[&id];
        let (began, rate) = (node.seat.began.1, node.seat.rate);
        let (Role::Control { handle, door }, Some(runtime)) = (&node.role, &node.runtime) else { return };
        let (Some(control), Some(door)) = (lock(handle).clone(), lock(door).clone()) else { return };
        if let Act::Apply { mark } = &act {
            self.connected.engines.unknown_marks.insert(*mark);
        }
        let wall = self.world.wall(self.seed, id, node.life, began);
        let now = wall + ((self.now - began) as f64 * rate) as u64;
        let results = Arc::clone(&self.connected.results);
        runtime.spawn(act::give(act::Given { number, control: id, act, now }, control, door, results));
    }

    fn back_up(&mut self, id: Id) {
        let entries = self
            .nodes
            .get_mut(&id)
            .unwrap()
            .on_engine(async move |engine| engine.kv_list(keys::ROOT, None).await.unwrap().value);
        self.connected.backups.insert(id, entries);
    }

    /// The disk of an engine is exchanged for the copy that was made before. What is in its registry registers itself again.
    pub fn roll_back_site(&mut self, id: Id) {
        let Some(backup) = self.connected.backups.get(&id).cloned() else { return };
        if lock(&self.net).is_down(id) {
            return;
        }
        self.crash(id, Gone::Refused);
        let life = self.nodes[&id].life + 1;
        self.boot(id, LastGood::in_memory(), life);
        self.nodes.get_mut(&id).unwrap().on_engine(async move |engine| {
            for entry in backup.into_iter().filter(|it| !it.key.starts_with(keys::LOCKS)) {
                let op = KvOp::Set { key: entry.key, value: entry.value };
                engine.txn(vec![op]).await.unwrap();
            }
        });
        for n in (id.0 * INSTANCES)..(id.0 + 1) * INSTANCES {
            if self.connected.instances.get(&n) == Some(&true) {
                self.instance(n, true);
            }
        }
        self.connected.engines.rolled_back(id);
        self.connected.calm.put_back(self.now);
    }

    fn instance(&mut self, n: u16, up: bool) {
        let site = World::site_of_instance(n);
        self.connected.instances.insert(n, up);
        self.connected.gateways.changed(n, self.now);
        // A process that registers itself anew is another one.
        let boot = format!("b{}", self.now);
        self.nodes.get_mut(&World::engine(site)).unwrap().on_engine(async move |engine| {
            let id = format!("i{n}");
            if !up {
                return engine.deregister(&id).await.unwrap();
            }
            let registration = Registration {
                service: "web".to_owned(),
                id,
                address: ([192, 0, 3, n as u8 + 1], 8080).into(),
                tags: Vec::new(),
                meta: [("site".to_owned(), format!("s{site}")), ("boot".to_owned(), boot)].into(),
                ttl: None,
                status: CheckStatus::Passing,
            };
            engine.register(&registration).await.unwrap();
        });
    }

    /// A caller that knows the secret of one site shows the certificate of another, and asks for a change that must never be.
    fn impostor(&mut self, id: Id, secret: u16, shown: u16) {
        let node = &self.nodes[&id];
        let (Role::Control { door, .. }, Some(runtime)) = (&node.role, &node.runtime) else { return };
        let Some(door) = lock(door).clone() else { return };
        let text = "kind: Override\nname: forged\ntarget: { site: s0 }\nstate: drain\nowner: x\nreason: x\nforce: true\n";
        let body = serde_json::json!({
            "v": 1, "by": "impostor", "authority": "human", "may_change_tokens": true,
            "change": { "apply": { "files": [{ "name": "forged.yaml", "text": text }] } },
        });
        let call = SiteCall {
            path: "/v1/sites/change".to_owned(),
            body: Some(serde_json::to_vec(&body).unwrap()),
            meant: None,
            secret: secret_of(&format!("s{secret}")),
            shown: format!("s{shown}").parse().unwrap(),
        };
        runtime.spawn(async move { door.answer(call).await });
    }

    /// Looks at the engines, at what was acknowledged, and at the instances that gateways have.
    pub fn look_between(&mut self) {
        let results: Vec<_> = {
            let all = lock(&self.connected.results);
            let new = all.get(self.connected.looked..).unwrap_or_default().to_vec();
            self.connected.looked = all.len();
            new
        };
        for done in &results {
            let result = match &done.result {
                Ok(it) => format!("acknowledged with {}, changed {}", it.generation, it.changed),
                Err(error) => error.chars().take(200).collect(),
            };
            self.trace(format!("{} {:?}: {result}", World::name(done.control), done.act));
        }
        if results.is_empty() && !self.now.is_multiple_of(LOOK_EVERY) {
            return;
        }
        super::sabotage::between_windows(self);
        for n in 0..self.world.engines {
            self.look_at_engine(World::engine(n));
        }
        if std::mem::take(&mut self.connected.engines.news) {
            self.connected.calm.acted(self.now);
        }
        for done in results {
            self.connected.calm.acted(self.now);
            let engine = self.world.engine_of[&done.control];
            let Self { connected, report, .. } = self;
            connected.engines.acknowledged(&done, engine, report);
        }
        self.look_at_adoptions();
        self.look_at_drains();
        self.look_at_gateways();
        self.look_for_calm();
    }

    /// The newest generation of the engines, by their own words.
    pub fn newest(&self) -> Generation {
        self.connected.engines.newest()
    }
}
