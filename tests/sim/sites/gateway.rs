//! Gateways of connected sites, as far as instances go: which a node would pick from.

use std::collections::{BTreeMap, BTreeSet};

use store::{discovery::Standing, engine::Engine as _, handle::Handle};

use crate::{
    net::{Id, lock},
    node::Role,
    run::{Sabotage, Simulation},
    world::World,
};

/// An instance that ended this long ago may still be dropped by a node, in milliseconds.
const MAY_BE_LATE: u64 = 120_000;

/// What every node had of the instances.
#[derive(Default)]
pub struct Gateways {
    had: BTreeMap<(Id, u32), BTreeSet<String>>,
    /// Those in the registries.
    registered: BTreeSet<String>,
    /// When an instance was last registered or ended.
    changed: BTreeMap<String, u64>,
}

impl Gateways {
    pub fn changed(&mut self, n: u16, now: u64) {
        self.changed.insert(format!("i{n}"), now);
    }
}

/// The instances that a node has. The sabotage: those of a dark site are forgotten.
fn instances(handle: &Handle, sabotage: Sabotage) -> BTreeSet<String> {
    let mut entry = (*handle.service("web").load()).clone();
    if sabotage == Sabotage::ForgetDarkSites {
        entry.away.retain(|_, part| !matches!(part.standing, Standing::Unreachable { .. }));
    }
    entry.all().map(|it| it.id.clone()).collect()
}

impl Simulation {
    pub fn handle_of(&self, id: Id) -> Option<Handle> {
        let node = self.nodes.get(&id)?;
        node.runtime.as_ref()?;
        let Role::Reader { handle, .. } = &node.role else { return None };
        lock(handle).clone()
    }

    /// No node drops an instance that did not end.
    pub fn look_at_gateways(&mut self) {
        let mut registered = BTreeSet::new();
        for n in 0..self.world.engines {
            let found = self
                .nodes
                .get_mut(&World::engine(n))
                .unwrap()
                .on_engine(async |engine| engine.health("web", None).await.unwrap().value);
            registered.extend(found.into_iter().map(|it| it.id));
        }
        let before = std::mem::replace(&mut self.connected.gateways.registered, registered.clone());
        for gone in before.difference(&registered).chain(registered.difference(&before)) {
            self.connected.gateways.changed.insert(gone.clone(), self.now);
        }
        for n in 0..self.world.readers {
            let id = World::reader(n);
            let Some(handle) = self.handle_of(id) else { continue };
            let (has, life) = (instances(&handle, self.sabotage), self.nodes[&id].life);
            let gateways = &mut self.connected.gateways;
            let before = gateways.had.insert((id, life), has.clone()).unwrap_or_default();
            if before == has {
                continue;
            }
            for gone in before.difference(&has) {
                let ended = !gateways.registered.contains(gone);
                let late =
                    gateways.changed.get(gone).is_some_and(|at| at + MAY_BE_LATE > self.now && *at > 1_000);
                if !ended && !late {
                    let text = format!("instances: {} forgets {gone}, which runs", World::name(id));
                    self.report.violations.push(text);
                }
            }
            self.trace(format!("{} has the instances {has:?}", World::name(id)));
        }
    }

    /// Where a node does not have exactly the instances that are registered anywhere.
    pub fn disagreement_about_instances(&self) -> Option<String> {
        let running = &self.connected.gateways.registered;
        (0..self.world.readers).map(World::reader).find_map(|id| {
            let has = instances(&self.handle_of(id)?, self.sabotage);
            (has != *running).then(|| format!("{} has the instances {has:?} of {running:?}", World::name(id)))
        })
    }
}
