//! Defects put in on purpose between connected sites, at the rim, to see that the checker notices.

use bytes::Bytes;
use store::{
    engine::{Engine as _, KvEntry, KvOp},
    keys,
    orders::OrderRecord,
};

use super::carry::Ways;
use crate::{
    net::lock,
    run::{Sabotage, Simulation},
    world::World,
};

/// Orders that another site tells are written as they come, without comparing stamps.
pub async fn tampers_with(ways: &Ways, body: &[u8]) {
    if ways.sabotage != Sabotage::OrdersAsTheyCome {
        return;
    }
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    let records = answer.get("orders").and_then(|it| it.as_array()).cloned().unwrap_or_default();
    for record in records {
        let Ok(record) = serde_json::from_value::<OrderRecord>(record) else { return };
        let value = Bytes::from(serde_json::to_vec(&record).unwrap());
        // The engine may be away.
        let _ = ways.link.txn(vec![KvOp::Set { key: keys::order(&record.target), value }]).await;
    }
}

/// An answer of another site without the shares of its clients.
pub fn without_shares(ways: &Ways, body: Vec<u8>) -> Vec<u8> {
    if ways.sabotage != Sabotage::KeepShares {
        return body;
    }
    let Ok(serde_json::Value::Object(mut answer)) = serde_json::from_slice(&body) else { return body };
    if answer.remove("shares").is_none() {
        return body;
    }
    serde_json::to_vec(&answer).unwrap()
}

/// What is done to engines between two windows.
pub fn between_windows(simulation: &mut Simulation) {
    if simulation.sabotage == Sabotage::CopyOlder {
        copy_older(simulation);
    }
}

/// A site copies the configuration of another although it is older.
fn copy_older(simulation: &mut Simulation) {
    if simulation.now < 20_000 {
        return;
    }
    let held = &simulation.connected.engines.held;
    let of = |n| held.get(&World::engine(n)).map(|it| it.generation);
    let Some(older) = (1..simulation.world.engines).find(|it| of(*it) < of(0)) else { return };
    let connected = {
        let net = lock(&simulation.net);
        net.is_cut(World::control(0), World::control(older)).is_none()
    };
    let from = World::engine(older);
    if !connected || simulation.nodes[&from].runtime.is_none() {
        return;
    }
    let entries: Vec<KvEntry> = simulation
        .nodes
        .get_mut(&from)
        .unwrap()
        .on_engine(async |engine| engine.kv_list("waypost/config/", None).await.unwrap().value);
    simulation.nodes.get_mut(&World::engine(0)).unwrap().on_engine(async |engine| {
        for KvEntry { key, value, .. } in entries.into_iter().rev() {
            engine.txn(vec![KvOp::Set { key, value }]).await.unwrap();
        }
    });
}

/// True for a write of a node that the sabotage loses: part of a copy that is flipped all the same.
pub fn loses_part(sabotage: Sabotage, op: &KvOp) -> bool {
    let KvOp::Set { key, .. } = op else { return false };
    let some = || key.bytes().map(u32::from).sum::<u32>() % 3 == 0;
    sabotage == Sabotage::HalfCopy && key.starts_with(keys::CONFIG_SHARDS) && some()
}
