//! Decides which share of a full site's clients goes elsewhere, from what the gateways say they carry.
//!
//! One control per engine decides and writes it down, so that all DNS nodes send the same clients to the same place.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    drain::NodeHeartbeat,
    engine::{EngineError, KvOp, Retry, TxnOutcome},
    keys,
    load::{Overflow, Overflows},
    model::{Moment, Name},
    snapshot::Snapshot,
};
use tokio::time::Instant;

use super::{Shared, intake::bounded, lock::Held};

/// How often loads are looked at: gateways say every five seconds what they carry.
const EVERY: Duration = Duration::from_secs(2);
/// A gateway that said nothing for longer carries nothing that is known.
const FRESH_FOR: Duration = Duration::from_secs(12);

/// Decides until the lock is lost (and this future dropped), or its fence refuses a write.
pub(super) async fn decide(shared: Arc<Shared>, held: Arc<Held>) {
    let mut loads = Loads::default();
    let mut overflows: BTreeMap<(Name, Name), Overflow> = BTreeMap::new();
    let mut written: Option<Overflows> = None;
    let mut retry =
        Retry::new("deciding the overflow of full sites").meanwhile("the shares of clients stay as they are");
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(snapshot) = shared.handle.snapshot() else { continue };
        let limited = snapshot.clusters.values().any(|it| !it.capacity.is_empty());
        if !limited && written.as_ref().is_none_or(|it| it.shares.is_empty()) {
            continue;
        }
        match round(&shared, &held, &snapshot, &mut loads, &mut overflows, &mut written).await {
            Ok(true) => drop(retry.succeeded()),
            Ok(false) => return,
            Err(error) => {
                shared.metrics.engine_failures.increment();
                retry.wait_after(&error).await;
            }
        }
    }
}

/// False when the lock has another holder.
async fn round(
    shared: &Shared,
    held: &Held,
    snapshot: &Snapshot,
    loads: &mut Loads,
    overflows: &mut BTreeMap<(Name, Name), Overflow>,
    written: &mut Option<Overflows>,
) -> Result<bool, EngineError> {
    let entries = bounded(shared.engine.kv_list(keys::NODES, None)).await?.value;
    let heartbeats = entries.iter().filter_map(|it| serde_json::from_slice(&it.value).ok()).collect();
    loads.read(heartbeats, Instant::now());
    let wanted = step(snapshot, loads, overflows, shared.handle.now());
    if written.as_ref() == Some(&wanted) {
        return Ok(true);
    }
    let value = serde_json::to_vec(&wanted).expect("names and numbers have no failing serialiser").into();
    let write = KvOp::Set { key: keys::OVERFLOW.to_owned(), value };
    match bounded(shared.engine.txn(vec![held.fence(), write])).await? {
        TxnOutcome::Committed(_) => {
            tracing::info!(shares = ?wanted.shares, "clients of full sites that go elsewhere, in 65536ths");
            *written = Some(wanted);
            Ok(true)
        }
        TxnOutcome::Refused(_) => Ok(false),
    }
}

/// The next shares of all sites with a capacity. Pure.
fn step(
    snapshot: &Snapshot,
    loads: &Loads,
    overflows: &mut BTreeMap<(Name, Name), Overflow>,
    now: Moment,
) -> Overflows {
    let mut wanted = Overflows { v: Overflows::VERSION, ..Overflows::default() };
    for cluster in snapshot.clusters.values() {
        let ttl = snapshot.domains.get(&cluster.gateway_domain).map_or(20, |it| it.domain.ttl.as_secs());
        for (site, capacity) in &cluster.capacity {
            let known = overflows.entry((cluster.name.clone(), site.clone())).or_default();
            if let Some(rate) = loads.of(&cluster.name, site) {
                *known = known.step(rate, *capacity, Duration::from_secs(ttl.into()), now);
            }
            if known.share.0 > 0 {
                wanted.shares.entry(cluster.name.clone()).or_default().insert(site.clone(), known.share.0);
            }
        }
    }
    overflows.retain(|(cluster, site), _| {
        snapshot.clusters.get(cluster).is_some_and(|it| it.capacity.contains_key(site))
    });
    wanted
}

/// What the gateways say, and when each said something new.
#[derive(Default)]
struct Loads(BTreeMap<String, (NodeHeartbeat, Instant)>);

impl Loads {
    fn read(&mut self, heartbeats: Vec<NodeHeartbeat>, now: Instant) {
        self.0.retain(|name, _| heartbeats.iter().any(|heartbeat| heartbeat.node == *name));
        for heartbeat in heartbeats.into_iter().filter(|heartbeat| heartbeat.load.is_some()) {
            let moved = self.0.get(&heartbeat.node).is_none_or(|(known, _)| known.number != heartbeat.number);
            if moved {
                self.0.insert(heartbeat.node.clone(), (heartbeat, now));
            }
        }
        self.0.retain(|_, (_, at)| now.duration_since(*at) < FRESH_FOR);
    }

    /// What a site of a cluster carries; `None` if none of its gateways says so.
    fn of(&self, cluster: &Name, site: &Name) -> Option<f64> {
        let heartbeats = self
            .0
            .values()
            .map(|(heartbeat, _)| heartbeat)
            .filter(|heartbeat| heartbeat.site == site.as_str());
        let rates =
            heartbeats.filter_map(|heartbeat| heartbeat.load.as_ref()).filter(|it| it.cluster == *cluster);
        rates.map(|it| it.rate).reduce(|a, b| a + b)
    }
}

#[cfg(test)]
mod tests {
    use store::load::Load;

    use super::*;

    fn heartbeat(node: &str, number: u64, rate: f64) -> NodeHeartbeat {
        NodeHeartbeat {
            node: node.into(),
            site: "bj".into(),
            roles: ["proxy".to_owned()].into(),
            boot: "b".into(),
            number,
            generation: None,
            load: Some(Load { cluster: "main".parse().unwrap(), rate }),
            view: None,
            instances: Vec::new(),
            more_instances: 0,
        }
    }

    #[test]
    fn a_site_carries_what_its_fresh_gateways_say() {
        let (main, bj) = ("main".parse().unwrap(), "bj".parse().unwrap());
        let start = Instant::now();
        let mut loads = Loads::default();
        assert_eq!(loads.of(&main, &bj), None);
        loads.read(vec![heartbeat("g1", 1, 100.0), heartbeat("g2", 1, 50.0)], start);
        assert_eq!(loads.of(&main, &bj), Some(150.0));
        loads.read(vec![heartbeat("g1", 2, 110.0), heartbeat("g2", 1, 50.0)], start + FRESH_FOR);
        assert_eq!(loads.of(&main, &bj), Some(110.0), "the other has been silent");
        assert_eq!(loads.of(&main, &"sh".parse().unwrap()), None);
        loads.read(vec![], start + FRESH_FOR);
        assert_eq!(loads.of(&main, &bj), None);
    }
}
