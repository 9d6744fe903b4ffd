//! Drains: orders become records, records are driven to their end, and every control shows their state.
//!
//! Any control accepts orders and cancellations, because both are one write of a record, guarded by its index. Only the
//! holder of the lock drives them ([`driver`]). The drain of an instance that another site's registry has is led there
//! ([`across`]): its order is passed on, and here is a copy of its record, which nothing but gateways acts on.

mod across;
mod drained;
mod driver;
mod evidence;
mod hook;
mod steps;
mod view;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use store::{
    commit::{AuditEntry, audit_write},
    drain::{Drain, DrainId, Drains, LEASE, Phase},
    engine::{Endpoint, Index, KvOp, TxnOutcome},
    keys,
    model::{DarkSite, Moment, Span},
};
use tokio::sync::Mutex;

pub use across::Cancelled;
pub(super) use across::{Across, copy_all, follow_sites, watch_sites};
pub(super) use drained::follow as follow_drained;
pub(super) use driver::drive_all;
pub(super) use evidence::{Evidence, watch_nodes, watch_receipts};
pub(super) use hook::Hooks;

use super::{Refusal, Refused, Shared, intake::bounded};
use crate::api::{DrainOrder, DrainView};

/// Drains that may be under way at the same time.
pub const MAX_DRAINS: usize = 256;
/// Records that may be kept at the same time, also of drains that are done. Further orders are refused.
const MAX_RECORDS: usize = 4_096;
/// The shortest lease: a gateway shows that it lives every five seconds.
pub const MIN_LEASE: Duration = Duration::from_secs(6);
/// Earlier drains of an instance that one order replaces. There is one, unless controls of earlier versions accepted
/// orders at once.
const MAX_REPLACED: usize = 16;
/// How often an order is tried again because another control accepted one at the same time.
const TRIES: usize = 8;
/// The trouble of a cancelled drain while the registry still shows what was done for it.
const READMITTING: &str = "maintenance that was set for this drain is being undone";

/// Accepts orders and cancellations.
#[derive(Debug)]
pub(super) struct DrainOrders {
    shared: Arc<Shared>,
    /// One order at a time, so that two for one instance see each other. Those of other controls are seen because every
    /// order also writes one key, guarded by its index.
    ordering: Mutex<()>,
}

impl DrainOrders {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ordering: Mutex::default() }
    }

    pub(super) async fn order(&self, order: DrainOrder) -> Result<Drain, Refused> {
        let lease = checked(&order)?;
        let _one_at_a_time = self.ordering.lock().await;
        for _ in 0..TRIES {
            if let Some(drain) = self.try_order(order.clone(), lease).await? {
                return Ok(drain);
            }
        }
        Err(Refused::new(Refusal::Unavailable, "other controls accept drains at the same time; try again"))
    }

    /// `None` if another control accepted an order meanwhile, which this one may repeat or contradict.
    async fn try_order(&self, order: DrainOrder, lease: Span) -> Result<Option<Drain>, Refused> {
        if let Some(id) = &order.id
            && let Some((_, drain)) = self.record(&id.0).await?
        {
            // The order came twice.
            return Ok(Some(drain));
        }
        let config = &self.shared.config;
        let linger = order.linger.or(config.linger);
        let dark_site = match (order.dark_site, order.require_all) {
            (Some(rule), _) => rule,
            (None, true) => DarkSite::Hold,
            (None, false) => config.dark_site,
        };
        let last = bounded(self.shared.engine.kv_get(keys::LAST_DRAIN, None)).await?.value;
        let last = last.map_or(Index(0), |it| it.modify_index);
        let service = self.registry_name(&order.service);
        let read = bounded(self.shared.engine.health(&service, None)).await?;
        let endpoint = find(&read.value, &service, &order)?;
        let known = self.records().await?;
        let led = known.iter().filter(|(_, drain)| drain.is_led_here());
        let active = || led.clone().map(|(_, drain)| drain).filter(|drain| !drain.is_over());
        if let Some(same) = active().find(|drain| about(drain, &endpoint)) {
            let alike = same.hook == order.hook
                && same.lease == lease
                && same.require_all == order.require_all
                && same.dark_site == dark_site
                && same.linger == linger;
            return if alike {
                Ok(Some(same.clone()))
            } else {
                let text = format!(
                    "{} of {service} is being drained already, with another hook, lease, linger, dark_site or \
                     require_all: cancel {} first",
                    order.instance, same.id
                );
                Err(Refused::new(Refusal::Conflict, text))
            };
        }
        if active().count() >= MAX_DRAINS {
            let text = format!("{MAX_DRAINS} drains are under way already; wait for one to end");
            return Err(Refused::new(Refusal::Unavailable, text));
        }
        if led.clone().count() >= MAX_RECORDS {
            let text = format!(
                "{MAX_RECORDS} drains are recorded, most of instances that are still registered; stop those or let \
                 them in (`waypost status` lists them)"
            );
            return Err(Refused::new(Refusal::Unavailable, text));
        }
        let drain = Drain { linger, dark_site, ..self.fresh(order, service, endpoint, lease) };
        self.must_be_copied(&drain)?;
        let what = format!("drain {}: {} of {} ordered", drain.id, drain.instance, drain.service);
        // An earlier drain of the same instance is replaced, so that cancelling this one admits the instance.
        let earlier = led.filter(|(_, it)| it.phase == Phase::Done && it.is_of(&drain.endpoint));
        let replaced = earlier.map(|(index, it)| {
            let note = Some(format!("replaced by drain {}", drain.id));
            let over = Drain { note, ..cancelled(it.clone(), self.shared.handle.now()) };
            KvOp::Cas { key: keys::drain(&it.id), value: stored(&over), expected: *index }
        });
        let alone = KvOp::Cas {
            key: keys::LAST_DRAIN.to_owned(),
            value: Bytes::copy_from_slice(drain.id.0.as_bytes()),
            expected: last,
        };
        let also = std::iter::once(alone).chain(replaced.take(MAX_REPLACED)).collect();
        match self.write(&drain, Index(0), &drain.by, what, also).await? {
            TxnOutcome::Committed(_) => {
                tracing::info!(
                    drain = %drain.id, service = drain.service, instance = drain.instance,
                    address = hook::address(&drain), by = drain.by,
                    hook = drain.hook.as_deref().map(hook::shown), "drain ordered"
                );
                Ok(Some(drain))
            }
            TxnOutcome::Refused(reasons) => {
                tracing::info!(drain = %drain.id, ?reasons, "not written: something was changed at the same time");
                Ok(None)
            }
        }
    }

    pub(super) async fn cancel(&self, id: &str, by: &str) -> Result<Drain, Refused> {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let Some((index, drain)) = self.record(id).await? else {
                return Err(Refused::new(Refusal::NotFound, format!("there is no drain {id:?}")));
            };
            if drain.phase == Phase::Cancelled {
                let Some(other) = self.also_excluding(&drain).await? else { return Ok(drain) };
                let was = drain.note.unwrap_or_else(|| "cancelled already".to_owned());
                let text = format!(
                    "drain {id} is over ({was}), and drain {other} refuses {} of {} still; to let it in: waypost drain \
                     cancel {other}",
                    drain.instance, drain.service
                );
                return Err(Refused::new(Refusal::Conflict, text));
            }
            let mut cancelled = cancelled(drain, self.shared.handle.now());
            if !cancelled.is_led_here() {
                cancelled.note = Some(format!("{by} at {}", self.shared.config.site));
            }
            let what = format!("drain {id}: {} of {} cancelled", cancelled.instance, cancelled.service);
            if let TxnOutcome::Committed(_) = self.write(&cancelled, index, by, what, Vec::new()).await? {
                tracing::info!(
                    drain = id,
                    service = cancelled.service,
                    instance = cancelled.instance,
                    by,
                    done = cancelled.done.is_some(),
                    "drain cancelled, the instance is admitted again"
                );
                return Ok(cancelled);
            }
        }
        Err(Refused::new(
            Refusal::Unavailable,
            format!("drain {id} changes while it is cancelled; try again"),
        ))
    }

    /// Another drain that keeps the instance of this one out.
    pub(super) async fn also_excluding(&self, drain: &Drain) -> Result<Option<DrainId>, Refused> {
        let records = self.records().await?.into_iter();
        let records = records.map(|(index, it)| (it.id.clone(), (index, Arc::new(it)))).collect();
        let drains = Drains { records, ..Drains::default() };
        Ok(drains.also_excluding(drain, self.shared.handle.now()).map(|it| it.id.clone()))
    }

    pub(super) fn list(&self) -> Vec<DrainView> {
        let drains = Arc::clone(&self.shared.handle.drains().borrow());
        let mut views: Vec<DrainView> = drains.records.values().map(|(_, drain)| self.view(drain)).collect();
        views.sort_by(|a, b| (b.drain.created, &b.drain.id).cmp(&(a.drain.created, &a.drain.id)));
        views
    }

    pub(super) async fn status(&self, id: &str) -> Option<DrainView> {
        match self.seen(&DrainId(id.to_owned())) {
            Some(view) => Some(view),
            // It may have been ordered a moment ago.
            None => Some(self.view(&self.record(id).await.ok()??.1)),
        }
    }

    /// One drain, of those that this node follows.
    pub(super) fn seen(&self, id: &DrainId) -> Option<DrainView> {
        let seen = self.shared.handle.drains().borrow().records.get(id).map(|(_, drain)| Arc::clone(drain));
        seen.map(|drain| self.view(&drain))
    }

    fn view(&self, drain: &Drain) -> DrainView {
        let evidence = Arc::clone(&self.shared.evidence.borrow());
        let registered = drained::is_registered(&self.shared, drain);
        let view = DrainView::new(drain, &evidence, registered, self.shared.handle.now());
        if drain.is_led_here() {
            return view;
        }
        view.told(self.shared.across.progress(drain), self.shared.across.silence(drain))
    }

    /// Refuses a drain whose record other sites could not copy, if there are other sites.
    fn must_be_copied(&self, drain: &Drain) -> Result<(), Refused> {
        let has_sites = self.shared.evidence.borrow().sites.as_ref().is_some_and(|it| !it.is_empty());
        if !has_sites {
            return Ok(());
        }
        let copied = drain.told(Index(0)).copied(&self.shared.config.site);
        copied.map(drop).map_err(|error| {
            let text =
                format!("other sites cannot copy the record, so their gateways would not obey it: {error}");
            Refused::new(Refusal::Wrong, text)
        })
    }

    /// The name in the registry of a Service. Any other text is used as a name in the registry.
    pub(super) fn registry_name(&self, text: &str) -> String {
        let snapshot = self.shared.handle.snapshot();
        let service = snapshot.as_ref().and_then(|it| it.services.get(text));
        service.map_or_else(|| text.to_owned(), |it| it.consul.service.clone())
    }

    fn fresh(&self, order: DrainOrder, service: String, endpoint: Endpoint, lease: Span) -> Drain {
        let now = self.shared.handle.now();
        Drain {
            v: Drain::VERSION,
            id: order.id.unwrap_or_else(new_id),
            service,
            instance: order.instance,
            endpoint,
            by: order.by,
            hook: order.hook,
            require_all: order.require_all,
            lease,
            created: now,
            phase: Phase::Draining,
            since: now,
            unproven: [].into(),
            trouble: None,
            linger: None,
            done: None,
            ended: None,
            note: None,
            site: None,
            revision: Index(0),
            dark_site: DarkSite::Hold,
        }
    }

    /// Writes a record over the one read at `index`, together with its entry in the record of writes and these
    /// operations.
    async fn write(
        &self,
        drain: &Drain,
        index: Index,
        who: &str,
        what: String,
        mut also: Vec<KvOp>,
    ) -> Result<TxnOutcome, Refused> {
        let entry = AuditEntry { at: self.shared.handle.now(), who: who.to_owned(), what, generation: None };
        let record = KvOp::Cas { key: keys::drain(&drain.id), value: stored(drain), expected: index };
        also.splice(0..0, [record, audit_write(&entry)]);
        Ok(bounded(self.shared.engine.txn(also)).await?)
    }

    async fn records(&self) -> Result<Vec<(Index, Drain)>, Refused> {
        let read = bounded(self.shared.engine.kv_list(keys::DRAINS, None)).await?;
        let parse = |entry: &store::engine::KvEntry| {
            Some((entry.modify_index, serde_json::from_slice(&entry.value).ok()?))
        };
        Ok(read.value.iter().filter_map(parse).collect())
    }

    pub(super) async fn record(&self, id: &str) -> Result<Option<(Index, Drain)>, Refused> {
        if uuid::Uuid::try_parse(id).is_err() {
            // Not an id of ours, and perhaps not usable in a key.
            return Ok(None);
        }
        read_record(&self.shared, &DrainId(id.to_owned())).await
    }
}

/// A record as the engine has it now.
async fn read_record(shared: &Shared, id: &DrainId) -> Result<Option<(Index, Drain)>, Refused> {
    let read = bounded(shared.engine.kv_get(&keys::drain(id), None)).await?;
    let Some(entry) = read.value else { return Ok(None) };
    let drain = serde_json::from_slice(&entry.value).map_err(|error| {
        Refused::new(Refusal::Unavailable, format!("the record of drain {id} cannot be read: {error}"))
    })?;
    Ok(Some((entry.modify_index, drain)))
}

/// As kept in the engine.
fn stored(drain: &Drain) -> Bytes {
    serde_json::to_vec(drain).expect("texts and numbers have no failing serialiser").into()
}

fn new_id() -> DrainId {
    DrainId(uuid::Uuid::new_v4().to_string())
}

/// The lease of a valid order.
fn checked(order: &DrainOrder) -> Result<Span, Refused> {
    let wrong = |text: String| Refused::new(Refusal::Wrong, text);
    let lease = order.lease.unwrap_or(Span(LEASE));
    if lease.0 < MIN_LEASE {
        let least = Span(MIN_LEASE);
        return Err(wrong(format!(
            "lease {lease} is shorter than {least}: gateways show every 5s that they live"
        )));
    }
    if let Some(hook) = &order.hook {
        hook::check(hook).map_err(wrong)?;
    }
    if order.require_all && order.dark_site == Some(DarkSite::Unproven) {
        return Err(wrong(
            "require_all waits for every gateway, those of sites that do not answer too, so dark_site cannot be unproven"
                .to_owned(),
        ));
    }
    Ok(lease)
}

/// The instance that an order names.
fn find(endpoints: &[Endpoint], service: &str, order: &DrainOrder) -> Result<Endpoint, Refused> {
    const SHOWN: usize = 10;
    let fits =
        |it: &&Endpoint| it.id == order.instance && order.node.as_ref().is_none_or(|node| it.node == *node);
    let found: Vec<&Endpoint> = endpoints.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] if endpoints.is_empty() => {
            Err(Refused::new(Refusal::NotFound, format!("the registry has no instance of {service}")))
        }
        [] => {
            let ids: Vec<&str> = endpoints.iter().map(|it| it.id.as_str()).take(SHOWN).collect();
            let more = if endpoints.len() > SHOWN { ", …" } else { "" };
            let text =
                format!("{service} has no instance {:?}; it has {}{more}", order.instance, ids.join(", "));
            Err(Refused::new(Refusal::NotFound, text))
        }
        several => {
            let nodes: Vec<&str> = several.iter().map(|it| it.node.as_str()).collect();
            let text = format!(
                "{service} has an instance {:?} on each of {}: say which with `node`",
                order.instance,
                nodes.join(", ")
            );
            Err(Refused::new(Refusal::Conflict, text))
        }
    }
}

fn about(drain: &Drain, endpoint: &Endpoint) -> bool {
    drain.service == endpoint.service && drain.instance == endpoint.id && drain.endpoint.node == endpoint.node
}

/// The record of a cancelled drain. If the registry may have been changed, the driver undoes that first, and the record
/// has a trouble until then. After `done` nothing is left to be undone: what is registered now came later. The registry of
/// another site's drain is that site's.
fn cancelled(drain: Drain, now: Moment) -> Drain {
    let touched = drain.is_led_here() && matches!(drain.phase, Phase::Deregistering | Phase::Calling);
    Drain { phase: Phase::Cancelled, since: now, trouble: touched.then(|| READMITTING.to_owned()), ..drain }
}

#[cfg(test)]
mod tests;
