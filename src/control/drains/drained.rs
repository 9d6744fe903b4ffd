//! Drained instances after `done`: whether the registry has them, when all gateways have seen them end, and when their
//! records may go.

use std::{collections::BTreeSet, sync::Arc};

use store::{
    discovery::{Entry, Standing},
    drain::{
        Drain, DrainId, Drains, Phase,
        ending::{Ended, has_ended, spared},
    },
    engine::{Index, KvOp},
    keys,
    model::Moment,
};

use super::{
    super::{Shared, intake::bounded, lock::Held},
    Evidence, stored,
};

/// Ended records removed in one transaction, two operations each.
const SWEPT_TOGETHER: usize = 30;

/// Follows the services that have a drained instance, so that it is known whether the registry has it. Runs for ever.
pub(in crate::control) async fn follow(shared: Arc<Shared>) {
    let mut drains = shared.handle.drains();
    loop {
        let seen = Arc::clone(&drains.borrow_and_update());
        let now = shared.handle.now();
        // A copy stays for as long as its instance is registered, whatever its phase.
        let matters =
            |drain: &&Arc<Drain>| keeps_out(drain, now) || (!drain.is_led_here() && drain.excludes(now));
        let held = seen.records.values().map(|(_, drain)| drain).filter(matters);
        shared.following.set(held.map(|drain| drain.service.clone()).collect());
        if drains.changed().await.is_err() {
            return;
        }
    }
}

/// True while a finished drain keeps its instance out, at least at gateways that have not seen it end.
fn keeps_out(drain: &Drain, now: Moment) -> bool {
    drain.phase == Phase::Done && drain.excludes(now)
}

/// True if a registry has the drained instance and a finished drain keeps it out, as far as is known.
pub(super) fn is_registered(shared: &Shared, drain: &Drain) -> bool {
    keeps_out(drain, shared.handle.now())
        && has_instance(&shared.handle.service(&drain.service).load(), drain)
}

/// True if the registries have the very process that was drained.
fn has_instance(entry: &Entry, drain: &Drain) -> bool {
    entry.all().any(|it| drain.is_of(it) && !drain.is_succeeded_by(it))
}

/// True if a registry has it, or cannot be read.
pub(super) fn may_be_registered(shared: &Shared, drain: &Drain) -> bool {
    let entry = shared.handle.service(&drain.service).load();
    // The part of the site that leads the drain, if that is another one.
    let part = drain.site.as_ref().and_then(|site| entry.away.get(site));
    let of_registry = part.map_or(&*entry, |it| it);
    !matches!(of_registry.standing, Standing::Present | Standing::Gone) || has_instance(&entry, drain)
}

/// The drains that have ended for every gateway that was there, of all sites, as records to be written.
pub(super) fn newly_ended(drains: &Drains, evidence: &Evidence, now: Moment) -> Vec<(Index, Drain)> {
    let seen = evidence.seen_to_end();
    let records = seen.iter().filter_map(|id| drains.records.get(*id));
    let open = records.filter(|(_, it)| it.is_led_here() && it.phase == Phase::Done && it.ended.is_none());
    let has_ended = |drain: &Drain| {
        let (receipts, seen) = (evidence.receipts_of(drain), evidence.endings_of(drain));
        evidence.is_settled(drain) && has_ended(drain, &receipts, &seen, &evidence.gateways_of(drain))
    };
    let ended = open.filter(|(_, drain)| has_ended(drain));
    ended.map(|(index, drain)| (*index, Drain { ended: Some(now), ..Drain::clone(drain) })).collect()
}

/// Records them. A failed write is tried again with the next evidence.
pub(super) async fn record_ended(shared: &Shared, held: &Held, drains: &Drains, evidence: &Evidence) {
    for (index, drain) in newly_ended(drains, evidence, shared.handle.now()).into_iter().take(SWEPT_TOGETHER)
    {
        let write = KvOp::Cas { key: keys::drain(&drain.id), value: stored(&drain), expected: index };
        match bounded(shared.engine.txn(vec![held.fence(), write])).await {
            Ok(_) => tracing::info!(
                drain = %drain.id, service = drain.service, instance = drain.instance,
                "drained instance has ended, as every gateway that was there has seen"
            ),
            Err(error) => {
                tracing::debug!(drain = %drain.id, %error, "could not record the end of a drained instance yet")
            }
        }
    }
}

/// Logs each end that a gateway has seen, once.
pub(super) fn log_endings(
    drains: &Drains,
    evidence: &Evidence,
    reported: &mut Option<BTreeSet<(DrainId, String)>>,
) {
    let known: BTreeSet<(DrainId, String)> =
        evidence.endings.iter().map(|it| (it.drain.clone(), it.gateway.clone())).collect();
    // What was known before this control drove the drains is not logged.
    if let Some(reported) = reported {
        let news = |it: &&Ended| !reported.contains(&(it.drain.clone(), it.gateway.clone()));
        for ended in evidence.endings.iter().filter(news) {
            let drain = drains.records.get(&ended.drain).map(|(_, it)| it);
            tracing::info!(
                drain = %ended.drain, instance = drain.map(|it| it.instance.as_str()), gateway = ended.gateway,
                proof = ended.proof.as_str(), "a gateway saw the drained instance end"
            );
        }
    }
    *reported = Some(known);
}

/// Removes records that are no longer needed, with their receipts. A failed write is tried again at the next sweep.
pub(super) async fn remove_old(shared: &Shared, held: &Held, drains: &Drains) {
    let records = drains.records.values().map(|(_, drain)| &**drain).filter(|it| it.is_led_here());
    let old = spared(records, |drain| may_be_registered(shared, drain), shared.handle.now());
    let mut ops = vec![held.fence()];
    for id in old.iter().take(SWEPT_TOGETHER) {
        ops.push(KvOp::Delete { key: keys::drain(id) });
        ops.push(KvOp::DeleteTree { prefix: keys::receipts(id) });
    }
    if ops.len() > 1
        && let Err(error) = bounded(shared.engine.txn(ops)).await
    {
        tracing::warn!(%error, "could not remove old drains; will be tried again");
    }
}
