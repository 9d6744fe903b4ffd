//! Decides which share of a full site's clients goes elsewhere, from the load that the gateways report.
//!
//! One control per engine decides and writes it down, so that all DNS nodes send the same clients to the same place.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    engine::{EngineError, KvOp, Retry, TxnOutcome},
    keys,
    load::{Overflow, Overflows},
    model::{Moment, Name},
    snapshot::Snapshot,
};

use super::{Shared, intake::bounded, lock::Held};

/// How often loads are read. Gateways report every five seconds what they carry.
const EVERY: Duration = Duration::from_secs(2);

/// Decides until the lock is lost (and this future dropped), or its fence refuses a write.
pub(super) async fn decide(shared: Arc<Shared>, held: Arc<Held>) {
    let mut overflows: BTreeMap<(Name, Name), Overflow> = BTreeMap::new();
    let mut written: Option<Overflows> = None;
    let mut retry =
        Retry::new("writing the overflow of full sites").meanwhile("the shares of clients stay as they are");
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(snapshot) = shared.handle.snapshot() else { continue };
        let limited = snapshot.clusters.values().any(|it| !it.capacity.is_empty());
        if !limited && written.as_ref().is_none_or(|it| it.shares.is_empty()) {
            continue;
        }
        let rates = {
            let nodes = shared.nodes.borrow();
            // While the heartbeats cannot be read, the shares stay as they are.
            nodes.read_at().map(|_| nodes.rates())
        };
        let Some(rates) = rates else { continue };
        let wanted = step(&snapshot, &rates, &mut overflows, shared.handle.now());
        if written.as_ref() == Some(&wanted) {
            continue;
        }
        match write(&shared, &held, &wanted).await {
            Ok(true) => {
                tracing::info!(shares = ?wanted.shares, "clients of full sites that go elsewhere, in 65536ths");
                written = Some(wanted);
                retry.succeeded();
            }
            Ok(false) => return,
            Err(error) => {
                shared.metrics.engine_failures.increment();
                retry.wait_after(&error).await;
            }
        }
    }
}

/// False if the lock has another holder.
async fn write(shared: &Shared, held: &Held, wanted: &Overflows) -> Result<bool, EngineError> {
    let value = serde_json::to_vec(wanted).expect("names and numbers have no failing serialiser").into();
    let write = KvOp::Set { key: keys::OVERFLOW.to_owned(), value };
    let outcome = bounded(shared.engine.txn(vec![held.fence(), write])).await?;
    Ok(matches!(outcome, TxnOutcome::Committed(_)))
}

/// The next shares of all sites with a capacity. Pure.
fn step(
    snapshot: &Snapshot,
    rates: &BTreeMap<(Name, String), f64>,
    overflows: &mut BTreeMap<(Name, Name), Overflow>,
    now: Moment,
) -> Overflows {
    let mut wanted = Overflows { v: Overflows::VERSION, ..Overflows::default() };
    for cluster in snapshot.clusters.values() {
        let ttl = snapshot.domains.get(&cluster.gateway_domain).map_or(20, |it| it.domain.ttl.as_secs());
        for (site, capacity) in &cluster.capacity {
            let known = overflows.entry((cluster.name.clone(), site.clone())).or_default();
            if let Some(rate) = rates.get(&(cluster.name.clone(), site.to_string())) {
                *known = known.step(*rate, *capacity, Duration::from_secs(ttl.into()), now);
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
