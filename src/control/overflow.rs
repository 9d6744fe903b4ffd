//! Decides which share of a full site's clients goes elsewhere, from the load that the gateways report.
//!
//! One control per engine decides and writes it down, so that all DNS nodes send the same clients to the same place. A
//! successor goes on from what was written: from nothing it would send every client back to a site that is full.
//!
//! Gateways report to the engine of their own site. So the share of a connected site is decided there, and told by the
//! exchange; of a site that is dark, the last one stays.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    board::Share,
    engine::{EngineError, KvOp, Retry, TxnOutcome},
    keys,
    load::{Overflow, Overflows},
    model::{Moment, Name, Site},
    snapshot::Snapshot,
};

use super::{Shared, intake::bounded, lock::Held};
use crate::api::SiteShares;

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
        let told = told(&snapshot, &shared);
        let wanted = step(&snapshot, &rates, &told, &mut overflows, shared.handle.now());
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

/// What other sites with a control told of themselves; `None`: a site has told nothing yet.
type Told = BTreeMap<Name, Option<Arc<SiteShares>>>;

fn told(snapshot: &Snapshot, shared: &Shared) -> Told {
    let mut seen = shared.sites.all();
    let other = |site: &&Arc<Site>| site.control.is_some() && site.name != shared.config.site;
    let others = snapshot.sites.iter().filter(other);
    others.map(|site| (site.name.clone(), seen.remove(&site.name).and_then(|it| it.shares))).collect()
}

/// The next shares of all sites with a capacity. Pure.
fn step(
    snapshot: &Snapshot,
    rates: &BTreeMap<(Name, String), f64>,
    told: &Told,
    overflows: &mut BTreeMap<(Name, Name), Overflow>,
    now: Moment,
) -> Overflows {
    let mut wanted = Overflows { v: Overflows::VERSION, ..Overflows::default() };
    for cluster in snapshot.clusters.values() {
        let ttl = snapshot.domains.get(&cluster.gateway_domain).map_or(20, |it| it.domain.ttl.as_secs());
        for (site, capacity) in &cluster.capacity {
            let known = overflows.entry((cluster.name.clone(), site.clone())).or_default();
            match told.get(site) {
                Some(Some(shares)) => {
                    let share = shares.get(&cluster.name).copied().unwrap_or_default().min(Share::ALL.0);
                    *known = Overflow { share: Share(share), changed: now };
                }
                Some(None) => {}
                None => {
                    if let Some(rate) = rates.get(&(cluster.name.clone(), site.to_string())) {
                        *known = known.step(*rate, *capacity, Duration::from_secs(ttl.into()), now);
                    }
                }
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

    const TWO_SITES: &str = r"
kind: Site
name: bj
control: { urls: ['https://control.bj.example:8443'], token_file: /t }
---
kind: Site
name: sh
control: { urls: ['https://control.sh.example:8443'], token_file: /t }
---
{ kind: Zone, name: example.com, nameservers: [{ name: ns1, a: [192.0.2.53] }] }
---
kind: Cluster
name: main
zone: example.com
gateway_domain: gw.example.com
gateways: { bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }
capacity: { bj: 100, sh: 100 }
";

    #[test]
    fn a_site_decides_about_itself_and_the_others_take_what_it_told() {
        let board = Arc::new(store::board::Board::default());
        let snapshot = store::testing::compile_text(TWO_SITES, 1, &board);
        let main = name("main");
        // What only the gateways of bj report: those of sh are another engine's.
        let rates = BTreeMap::from([((main.clone(), "bj".to_owned()), 200.0)]);
        let mut known = BTreeMap::new();
        let mut now = Moment(100_000);
        let mut shares = |told: Option<SiteShares>| {
            now = now.after(Duration::from_secs(60));
            let told = Told::from([(name("sh"), told.map(Arc::new))]);
            let wanted = step(&snapshot, &rates, &told, &mut known, now);
            let of_main = wanted.shares.get(&main).cloned().unwrap_or_default();
            ["bj", "sh"].map(|site| of_main.get(&name(site)).copied().unwrap_or(0))
        };
        let [bj, before] = shares(None);
        assert!(bj > 30_000, "half of its clients: {bj}");
        assert_eq!(before, 0, "it has told nothing yet");
        assert_eq!(shares(Some([(main.clone(), 20_000)].into()))[1], 20_000);
        assert_eq!(shares(None)[1], 20_000, "what was known stays");
        assert_eq!(shares(Some(SiteShares::new()))[1], 0, "all of its clients come back");
        assert_eq!(shares(Some([(main.clone(), u32::MAX)].into()))[1], Share::ALL.0, "never more than all");
    }

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
