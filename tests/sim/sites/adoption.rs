//! The verdicts of another site that a site has adopted: every node of it takes them soon.

use std::collections::BTreeMap;

use store::{engine::Engine as _, health::Adoption, keys};

use crate::{
    net::{Id, lock},
    run::Simulation,
    world::World,
};

/// A node that reaches its engine takes an adoption within this, in milliseconds.
const TAKEN_WITHIN: u64 = 6_000;

/// As long after an engine was put back: a node that waits for an index of before is answered when its wait is over, since
/// Consul gives no sign of that.
const TAKEN_AFTER_PUT_BACK: u64 = 18_000;

/// Since when each node lacks an adoption that its engine has.
#[derive(Default)]
pub struct Lacking(BTreeMap<Id, u64>);

impl Simulation {
    pub fn look_at_adoptions(&mut self) {
        for n in 0..self.world.readers {
            let id = World::reader(n);
            let engine = self.world.engine_of[&id];
            let entry = self
                .nodes
                .get_mut(&engine)
                .unwrap()
                .on_engine(async |engine| engine.kv_get(keys::ADOPTION, None).await.unwrap().value);
            let adoption = entry.and_then(|it| serde_json::from_slice::<Adoption>(&it.value).ok());
            let number = adoption.map_or(0, |it| it.number);
            let reaches = {
                let net = lock(&self.net);
                net.is_cut(id, engine).is_none() && !net.is_down(engine) && !net.is_down(id)
            };
            let taken = self.handle_of(id).map(|it| *it.adopted().borrow());
            if !reaches || taken.is_none_or(|it| it >= number) {
                self.connected.lacking.0.remove(&id);
                continue;
            }
            let now = self.now;
            let since = *self.connected.lacking.0.entry(id).or_insert(now);
            let put_back = self.connected.calm.was_put_back().map(|at| at + TAKEN_AFTER_PUT_BACK);
            if (since + TAKEN_WITHIN).max(put_back.unwrap_or_default()) < now {
                let text =
                    format!("adoption: {} does not take the verdicts that its site adopted", World::name(id));
                self.report.violations.push(text);
            }
        }
    }
}
