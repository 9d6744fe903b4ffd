//! Drains of instances: gateways that obey the records and send receipts, as far as the node's own handle does it, and what
//! has to hold of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use store::{
    drain::{Drain, DrainId, Phase, Receipt},
    engine::Engine as _,
    handle::Handle,
    keys,
    model::{Name, Span},
};
use waypost::{api::DrainOrder, control::ControlHandle};

use crate::{
    net::{Id, draw},
    run::Simulation,
    world::World,
};

/// A gateway: it takes no new requests to a drained instance at once, and sends a receipt when its last request there has
/// ended.
pub async fn obey(handle: Handle, gateway: Name, boot: String, seed: u64) {
    let mut published = handle.drains();
    let mut proved: BTreeSet<DrainId> = BTreeSet::new();
    loop {
        let drains = published.borrow_and_update().clone();
        proved.retain(|id| drains.records.get(id).is_some_and(|(_, it)| !it.is_over()));
        let awaited: Vec<_> = drains
            .records
            .values()
            .filter(|(_, it)| !it.is_over() && !proved.contains(&it.id))
            .map(|(index, it)| (*index, it.clone()))
            .collect();
        for (index, drain) in awaited {
            let ends = draw(seed, &[9 << 32, drain.created.0]).u64(10..900);
            tokio::time::sleep(Duration::from_millis(ends)).await;
            let receipt = Receipt {
                drain: drain.id.clone(),
                gateway: gateway.to_string(),
                boot: boot.clone(),
                index,
                at: handle.now(),
            };
            if handle.send_receipt(receipt) {
                proved.insert(drain.id.clone());
            }
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// Orders the drain of an instance.
pub async fn order(control: &ControlHandle, n: u16, by: &str) -> Result<bool, String> {
    let order = DrainOrder {
        service: "web".to_owned(),
        instance: format!("i{n}"),
        node: None,
        hook: None,
        lease: Some(Span(Duration::from_secs(8))),
        require_all: false,
        linger: None,
        id: None,
        site: None,
        dark_site: None,
        by: by.to_owned(),
    };
    control.drain(order).await.map(|_| true).map_err(|error| error.to_string())
}

/// What is known of the drains.
#[derive(Default)]
pub struct Drained {
    phases: BTreeMap<DrainId, Phase>,
    /// The drains of which each process has sent a receipt.
    witnessed: BTreeMap<(Id, u32), BTreeSet<DrainId>>,
}

impl Simulation {
    /// Looks at the drains in every engine, and at the nodes that obey them.
    pub fn look_at_drains(&mut self) {
        let mut records: BTreeMap<DrainId, Drain> = BTreeMap::new();
        for n in 0..self.world.engines {
            let id = World::engine(n);
            let read = self
                .nodes
                .get_mut(&id)
                .unwrap()
                .on_engine(async |engine| engine.kv_list(keys::DRAINS, None).await.unwrap().value);
            for entry in read {
                let Ok(drain) = serde_json::from_slice::<Drain>(&entry.value) else { continue };
                // The others have copies.
                if drain.site.is_none() {
                    records.insert(drain.id.clone(), drain);
                }
            }
        }
        for drain in records.into_values() {
            self.look_at_drain(&drain);
        }
        for n in 0..self.world.readers {
            self.look_whether_obeyed(World::reader(n));
        }
    }

    fn look_at_drain(&mut self, drain: &Drain) {
        let before = self.connected.drained.phases.insert(drain.id.clone(), drain.phase);
        if before == Some(drain.phase) {
            return;
        }
        self.trace(format!("the drain of {} is {:?}", drain.instance, drain.phase));
        let touched = !matches!(drain.phase, Phase::Draining | Phase::Cancelled);
        if !touched || before.is_some_and(|it| it != Phase::Draining) {
            return;
        }
        // The registry is touched from now on: every gateway that might pick the instance has proved that it does not.
        for n in 0..self.world.readers {
            let id = World::reader(n);
            let Some(handle) = self.handle_of(id) else { continue };
            let proved = handle.drains().borrow().witnessed.contains(&drain.id);
            let name = World::name(id);
            // A dark site is given up as a whole.
            let site = format!("s{}", self.world.engine_of[&id].0);
            let given_up = drain.unproven.contains(&name) || drain.unproven.contains(&site);
            // An engine that was put back has lost the record, and who its gateways are, in the middle of the drain.
            let put_back = self.connected.engines.rolled_back.contains(&self.world.engine_of[&id]);
            if !proved && !given_up && !put_back && self.nodes[&id].seat.began.1 + 12_000 < self.now {
                let text = format!("drain: {} goes on without a receipt of {name}", drain.instance);
                self.report.violations.push(text);
            }
        }
    }

    /// A process that sent a receipt does not pick the instance while its drain is under way.
    fn look_whether_obeyed(&mut self, id: Id) {
        let Some(handle) = self.handle_of(id) else { return };
        let life = self.nodes[&id].life;
        let drains = handle.drains().borrow().clone();
        // An engine that was put back to an earlier state has lost the record.
        if !self.connected.engines.rolled_back.is_empty() {
            return;
        }
        let witnessed = self.connected.drained.witnessed.entry((id, life)).or_default();
        witnessed.extend(drains.witnessed.iter().cloned());
        for drain in witnessed.iter() {
            let phase = self.connected.drained.phases.get(drain);
            if phase.is_none_or(|it| matches!(it, Phase::Done | Phase::Cancelled)) {
                continue;
            }
            let obeyed = drains.records.get(drain).is_some_and(|(_, it)| drains.excludes(it, handle.now()));
            if !obeyed {
                let text =
                    format!("drain: {} sent a receipt and may pick the instance again", World::name(id));
                self.report.violations.push(text);
            }
        }
    }
}
