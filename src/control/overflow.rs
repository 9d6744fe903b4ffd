//! Decides which share of a full site's clients goes elsewhere, from the load that the gateways report.
//!
//! One control per engine decides and writes it down, so that all DNS nodes send the same clients to the same place. A
//! successor goes on from what was written: from nothing it would send every client back to a site that is full.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    board::Share,
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
    let mut retry =
        Retry::new("writing the overflow of full sites").meanwhile("the shares of clients stay as they are");
    let mut written = loop {
        match read(&shared).await {
            Ok(written) => break written,
            Err(error) => {
                shared.metrics.engine_failures.increment();
                retry.wait_after(&error).await;
            }
        }
    };
    let mut overflows = known(written.as_ref(), shared.handle.now());
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

/// What was written last.
async fn read(shared: &Shared) -> Result<Option<Overflows>, EngineError> {
    let entry = bounded(shared.engine.kv_get(keys::OVERFLOW, None)).await?.value;
    let value = entry.and_then(|it| serde_json::from_slice(&it.value).ok());
    Ok(value.filter(|it: &Overflows| it.v <= Overflows::VERSION))
}

/// The shares that a control starts from. It is not known when they were changed: as if it were now, so that they take
/// effect before they are changed again.
fn known(written: Option<&Overflows>, now: Moment) -> BTreeMap<(Name, Name), Overflow> {
    let all = written.into_iter().flat_map(|it| &it.shares);
    let all = all.flat_map(|(cluster, sites)| sites.iter().map(move |(site, share)| (cluster, site, *share)));
    let overflow = |share: u32| Overflow { share: Share(share.min(Share::ALL.0)), changed: now };
    all.map(|(cluster, site, share)| ((cluster.clone(), site.clone()), overflow(share))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::name;

    #[test]
    fn a_successor_goes_on_from_the_shares_that_were_written() {
        let now = Moment(100_000);
        let shares = BTreeMap::from([(name("main"), BTreeMap::from([(name("bj"), 30_000)]))]);
        let written = Overflows { v: Overflows::VERSION, shares };
        let known = known(Some(&written), now);
        let bj = known[&(name("main"), name("bj"))];
        assert_eq!(bj, Overflow { share: Share(30_000), changed: now });
        // The site carries what its share leaves to it, which is less than its capacity: from nothing it would follow that
        // no client has to go elsewhere.
        let later = bj.step(950.0, 1_000, Duration::from_secs(20), now.after(EVERY));
        assert_eq!(later, bj);
        assert_eq!(
            Overflow::default().step(950.0, 1_000, Duration::from_secs(20), now.after(EVERY)).share,
            Share::default(),
            "as it was before"
        );
    }
}
