//! Writes the copies of other sites' drains to our engine, as the holder of the lock of drains.
//!
//! Writing a copy twice, or an old one late, changes nothing, because copies only move forward. Removing one is different,
//! so it is done only under the fence, by an answer to a question that was asked in this term, and not at the first look.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use store::{
    commit::{AuditEntry, audit_write},
    drain::{
        Drain, DrainId, Phase,
        across::{DrainHead, is_spared},
    },
    engine::{Index, KvOp, TxnOutcome},
    keys,
    model::Name,
};

use super::Heard;
use crate::control::{
    Shared,
    drains::{DrainOrders, drained, read_record, stored},
    intake::bounded,
    lock::Held,
};

/// How often copies are looked for whose drains are gone. One is removed at the second look that finds it so.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Copies removed in one transaction, three operations each.
const SWEPT_TOGETHER: usize = 20;

/// Copies until the lock is lost, and this future dropped.
pub(in crate::control) async fn copy_all(shared: Arc<Shared>, held: Arc<Held>) {
    let mut heard = shared.across.heard.subscribe();
    let before: BTreeMap<Name, u64> = numbers(&heard.borrow());
    let mut seen: BTreeMap<Name, u64> = BTreeMap::new();
    let mut gone: BTreeSet<DrainId> = BTreeSet::new();
    let orders = DrainOrders::new(Arc::clone(&shared));
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let all = heard.borrow_and_update().clone();
        for (site, heard) in &all {
            if seen.insert(site.clone(), heard.number) == Some(heard.number) {
                continue;
            }
            for copy in &*heard.copies {
                write(&shared, &held, site, copy).await;
            }
            take_cancellations(&shared, &orders, site, heard).await;
        }
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            changed = heard.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            _ = sweep.tick() => {
                let fresh = |site: &Name| {
                    let number = before.get(site).copied().unwrap_or_default();
                    all.get(site).filter(|it| it.number > number)
                };
                sweep_once(&shared, &held, fresh, &mut gone).await;
            }
        }
    }
}

fn numbers(all: &BTreeMap<Name, Heard>) -> BTreeMap<Name, u64> {
    all.iter().map(|(site, heard)| (site.clone(), heard.number)).collect()
}

/// Writes a copy if it is ahead of what our engine has. What fails comes again with the next answer.
async fn write(shared: &Shared, held: &Held, site: &Name, copy: &Drain) {
    let known = match read_record(shared, &copy.id).await {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!(%site, drain = %copy.id, %error, "the copy of a drain cannot be compared");
            return;
        }
    };
    let index = known.as_ref().map_or(Index(0), |(index, _)| *index);
    let known = known.map(|(_, drain)| drain);
    if !copy.replaces(known.as_ref(), shared.handle.now()) {
        return;
    }
    let mut ops =
        vec![held.fence(), KvOp::Cas { key: keys::drain(&copy.id), value: stored(copy), expected: index }];
    if known.is_none() {
        let what = format!("drain {}: {} of {} ordered", copy.id, copy.instance, copy.service);
        let who = format!("{} at {site}", copy.by);
        ops.push(audit_write(&AuditEntry { at: shared.handle.now(), who, what, generation: None }));
    }
    match bounded(shared.engine.txn(ops)).await {
        Ok(TxnOutcome::Committed(_)) => {
            shared.metrics.drains_copied.increment();
            let (service, instance, phase) = (&copy.service, &copy.instance, copy.phase);
            tracing::info!(%site, drain = %copy.id, service, instance, ?phase, "drain of another site copied");
        }
        Ok(TxnOutcome::Refused(reasons)) => {
            tracing::debug!(%site, drain = %copy.id, ?reasons, "the copy was not written: something has changed");
        }
        Err(error) => {
            shared.metrics.engine_failures.increment();
            tracing::warn!(%site, drain = %copy.id, %error, "the copy of a drain could not be written");
        }
    }
}

/// Cancels drains of ours that were cancelled at another site, as while this one could not be asked.
async fn take_cancellations(shared: &Shared, orders: &DrainOrders, site: &Name, heard: &Heard) {
    let Some(told) = &heard.told else { return };
    let cancelled = told.copies.iter().filter(|(_, copy)| copy.phase == Phase::Cancelled);
    for (id, copy) in cancelled {
        let drains = Arc::clone(&shared.handle.drains().borrow());
        let open = |drain: &Drain| drain.is_led_here() && drain.phase != Phase::Cancelled;
        if !drains.records.get(id).is_some_and(|(_, drain)| open(drain)) {
            continue;
        }
        let by = copy.cancelled_by.clone().unwrap_or_else(|| format!("site {site}"));
        if let Err(error) = orders.cancel(&id.0, &by).await {
            tracing::warn!(%site, drain = %id, %error, "a drain that was cancelled at another site is not cancelled yet");
        }
    }
}

/// True if the site that leads a drain no longer has it, or is no longer there. `heads`: the drains that the site has, if it
/// was heard.
fn is_gone(copy: &Drain, has_control: bool, heads: Option<&[DrainHead]>) -> bool {
    !has_control || heads.is_some_and(|heads| heads.iter().all(|head| head.id != copy.id))
}

/// Removes the copies that were gone at their site at the last look too, and remembers those that are now.
async fn sweep_once<'h>(
    shared: &Shared,
    held: &Held,
    fresh: impl Fn(&Name) -> Option<&'h Heard>,
    gone: &mut BTreeSet<DrainId>,
) {
    let (drains, now) = (Arc::clone(&shared.handle.drains().borrow()), shared.handle.now());
    let snapshot = shared.handle.snapshot();
    let has_control = |site: &Name| {
        snapshot.as_ref().is_none_or(|it| it.sites.iter().any(|it| it.name == *site && it.control.is_some()))
    };
    let heads = |site: &Name| fresh(site)?.heads.as_ref().map(|heads| heads.as_slice());
    let gone_there = |drain: &Drain| {
        drain.site.as_ref().is_some_and(|site| is_gone(drain, has_control(site), heads(site)))
    };
    let found: Vec<_> = drains.records.values().filter(|(_, drain)| gone_there(drain)).collect();
    let again = found.iter().filter(|(_, drain)| gone.contains(&drain.id));
    let spared = again.filter(|(_, it)| is_spared(it, drained::may_be_registered(shared, it), now));
    let mut ops = vec![held.fence()];
    for (index, drain) in spared.take(SWEPT_TOGETHER) {
        ops.push(KvOp::CheckIndex { key: keys::drain(&drain.id), expected: *index });
        ops.push(KvOp::Delete { key: keys::drain(&drain.id) });
        ops.push(KvOp::DeleteTree { prefix: keys::receipts(&drain.id) });
        tracing::info!(drain = %drain.id, site = ?drain.site, "the copy of a drain that its site no longer has is removed");
    }
    *gone = found.iter().map(|(_, drain)| drain.id.clone()).collect();
    if ops.len() > 1
        && let Err(error) = bounded(shared.engine.txn(ops)).await
    {
        tracing::warn!(%error, "could not remove copies of drains; will be tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::drains::tests::drain;

    #[test]
    fn silence_of_a_site_is_no_proof_that_it_no_longer_has_a_drain() {
        let copy = drain(Phase::Done, None);
        let head = DrainHead::of(&copy, Index(1), store::model::Moment(0));
        assert!(!is_gone(&copy, true, None), "it was not heard");
        assert!(!is_gone(&copy, true, Some(&[head])));
        assert!(is_gone(&copy, true, Some(&[])));
        assert!(is_gone(&copy, false, None), "no document names it");
    }
}
