//! The operator: brings engines to the present documents, loses them, and restores them under a higher epoch.

use store::{
    commit::{self, AuditEntry, Change, Planned},
    disk::LastGood,
    engine::{Engine as _, KvEntry, KvOp, embedded::Embedded},
    keys,
    model::{Document, DocumentId, Generation, Kind, Moment, Placed},
};

use crate::{
    net::{Gone, Id, lock},
    run::{Sabotage, Simulation},
    world::World,
};

/// What the operator did to an engine.
#[derive(Default)]
pub struct Operated {
    pub newest: Generation,
    /// It lost its documents and has to be restored.
    pub stale: bool,
    backup: Vec<KvEntry>,
}

impl Simulation {
    pub fn operate_all(&mut self) {
        if self.world.connected {
            return;
        }
        for n in 0..self.world.engines {
            let id = World::engine(n);
            if !self.operated[&id].stale || self.now >= self.world.over {
                self.operate(id);
            }
        }
    }

    /// The operator brings an engine to the present documents; one that lost them, under a higher epoch.
    pub fn operate(&mut self, id: Id) {
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
        let (generation, backup) = node.on_engine(async move |engine| {
            let generation = bring(engine, documents, stale.then_some(newest)).await;
            let config = engine.kv_list(keys::ROOT, None).await.unwrap().value;
            (generation, config)
        });
        operated.newest = generation;
        operated.stale = false;
        if operated.backup.is_empty() {
            operated.backup = backup;
        }
        self.trace(format!("{} holds generation {generation}", World::name(id)));
    }

    /// The engine's disk is exchanged for an old copy.
    pub fn roll_back(&mut self, id: Id) {
        self.crash(id, Gone::Refused);
        let life = self.nodes[&id].life + 1;
        self.boot(id, LastGood::in_memory(), life);
        let operated = self.operated.get_mut(&id).unwrap();
        operated.stale = true;
        let backup = operated.backup.clone();
        self.nodes.get_mut(&id).unwrap().on_engine(async move |engine| {
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
                memory.remove("configuration").unwrap();
                self.restart(id, true);
            }
        }
    }
}

/// Commits documents, or restores them over a generation that is known to have been.
async fn bring(engine: &Embedded, documents: Vec<Placed<Document>>, over: Option<Generation>) -> Generation {
    let entry = AuditEntry { at: Moment(0), who: "sim".into(), what: "sim".into(), generation: None };
    let stored = commit::read(engine, None).await.unwrap();
    let author = store::testing::author();
    let planned = match over {
        Some(over) => Planned::Changed(Box::new(
            commit::plan_restore(&stored, over, documents, Moment(0), author).unwrap(),
        )),
        None => {
            let wanted: Vec<DocumentId> = documents.iter().map(|it| it.value.id()).collect();
            let gone = stored
                .documents()
                .map(|it| it.id())
                .filter(|id| id.kind == Kind::Override && !wanted.contains(id));
            let changes = gone.map(Change::Delete).chain(documents.into_iter().map(Change::Put)).collect();
            commit::plan(&stored, changes, Moment(0), author).unwrap()
        }
    };
    match planned {
        Planned::Unchanged(generation) => generation,
        Planned::Changed(plan) => commit::commit(engine, *plan, entry).await.unwrap(),
    }
}
