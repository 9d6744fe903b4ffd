//! Drains: orders become records, records are driven to their end, and everybody can see where they stand.
//!
//! Any control takes orders and cancellations, because both are one write of a record, guarded by its index. Only the
//! holder of the lock drives ([`driver`]).

mod driver;
mod evidence;
mod hook;
mod view;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use store::{
    commit::{AuditEntry, audit_write},
    drain::{Drain, DrainId, LEASE, Phase},
    engine::{Endpoint, Index, KvOp, TxnOutcome},
    keys,
    model::{Moment, Span},
};
use tokio::sync::Mutex;

pub(super) use driver::drive_all;
pub(super) use evidence::{Evidence, watch_nodes, watch_receipts};
pub(super) use hook::Hooks;
pub use view::{DrainView, HookState};

use super::{Refusal, Refused, Shared, intake::bounded};

/// Drains that may be under way at the same time.
pub const MOST_DRAINS: usize = 256;
/// The shortest lease: a gateway shows that it lives every five seconds.
pub const LEAST_LEASE: Duration = Duration::from_secs(6);
/// What a cancelled drain says while the registry still shows what was done for it.
const READMITTING: &str = "maintenance that was set for this drain is being undone";

/// An order to drain an instance.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// A Service, or the name of a service in the registry.
    pub service: String,
    /// The instance's id there.
    pub instance: String,
    /// The node it is registered on; needed only where several nodes have an instance of this id.
    #[serde(default)]
    pub node: Option<String>,
    /// Called with POST once every receipt is in.
    #[serde(default)]
    pub hook: Option<String>,
    /// A gateway silent for longer is not waited for; absent: [`LEASE`].
    #[serde(default)]
    pub lease: Option<Span>,
    /// Wait for silent gateways for ever.
    #[serde(default)]
    pub require_all: bool,
    /// Who orders it; not what the request says, but what its token does.
    #[serde(skip)]
    pub by: String,
}

/// Takes orders.
#[derive(Debug)]
pub(super) struct Desk {
    shared: Arc<Shared>,
    /// One order at a time, so that two for one instance see each other.
    ordering: Mutex<()>,
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ordering: Mutex::default() }
    }

    pub(super) async fn order(&self, order: DrainOrder) -> Result<Drain, Refused> {
        let lease = checked(&order)?;
        let _one_at_a_time = self.ordering.lock().await;
        let service = self.registry_name(&order.service);
        let read = bounded(self.shared.engine.health(&service, None)).await?;
        let endpoint = find(&read.value, &service, &order)?;
        let known = self.records().await?;
        let active = || known.iter().map(|(_, drain)| drain).filter(|drain| !drain.is_over());
        if let Some(same) = active().find(|drain| about(drain, &endpoint)) {
            let alike =
                same.hook == order.hook && same.lease == lease && same.require_all == order.require_all;
            return if alike {
                Ok(same.clone())
            } else {
                let text = format!(
                    "{} of {service} is being drained already, with another hook, lease or require_all: \
                     cancel {} first",
                    order.instance, same.id
                );
                Err(Refused::new(Refusal::Conflict, text))
            };
        }
        if active().count() >= MOST_DRAINS {
            let text = format!("{MOST_DRAINS} drains are under way already; wait for one to end");
            return Err(Refused::new(Refusal::Unavailable, text));
        }
        let drain = self.fresh(order, service, endpoint, lease);
        let what = format!("drain {}: {} of {} ordered", drain.id, drain.instance, drain.service);
        match self.write(&drain, Index(0), &drain.by, what).await? {
            TxnOutcome::Committed(_) => {
                tracing::info!(drain = %drain.id, service = drain.service, instance = drain.instance, by = drain.by, "ordered");
                Ok(drain)
            }
            TxnOutcome::Refused(reasons) => {
                Err(Refused::new(Refusal::Unavailable, format!("the record was not written: {reasons:?}")))
            }
        }
    }

    pub(super) async fn cancel(&self, id: &str, by: &str) -> Result<Drain, Refused> {
        const TRIES: usize = 5;
        for _ in 0..TRIES {
            let Some((index, drain)) = self.record(id).await? else {
                return Err(Refused::new(Refusal::NotFound, format!("there is no drain {id:?}")));
            };
            match drain.phase {
                Phase::Cancelled => return Ok(drain),
                Phase::Done => {
                    let text =
                        format!("drain {id} is done: the platform was told to stop {}", drain.instance);
                    return Err(Refused::new(Refusal::Conflict, text));
                }
                Phase::Draining | Phase::Deregistering | Phase::Calling => {}
            }
            let cancelled = cancelled(drain, self.shared.handle.now());
            let what = format!("drain {id}: {} of {} cancelled", cancelled.instance, cancelled.service);
            if let TxnOutcome::Committed(_) = self.write(&cancelled, index, by, what).await? {
                tracing::info!(drain = id, by, "cancelled");
                return Ok(cancelled);
            }
        }
        Err(Refused::new(
            Refusal::Unavailable,
            format!("drain {id} changes while it is cancelled; try again"),
        ))
    }

    pub(super) fn list(&self) -> Vec<DrainView> {
        let evidence = self.shared.evidence.borrow().clone();
        let (drains, now) = (self.shared.handle.drains(), self.shared.handle.now());
        let mut views: Vec<DrainView> = drains
            .borrow()
            .records
            .values()
            .map(|(_, drain)| DrainView::new(drain, &evidence, now))
            .collect();
        views.sort_by(|a, b| (b.drain.created, &b.drain.id).cmp(&(a.drain.created, &a.drain.id)));
        views
    }

    pub(super) async fn status(&self, id: &str) -> Option<DrainView> {
        let id = DrainId(id.to_owned());
        let seen = self.shared.handle.drains().borrow().records.get(&id).map(|(_, drain)| Arc::clone(drain));
        let drain = match seen {
            Some(drain) => drain,
            // Ordered just now, perhaps.
            None => Arc::new(self.record(&id.0).await.ok()??.1),
        };
        let evidence = self.shared.evidence.borrow().clone();
        Some(DrainView::new(&drain, &evidence, self.shared.handle.now()))
    }

    /// A Service's name in the registry; what is no Service is taken for such a name.
    fn registry_name(&self, text: &str) -> String {
        let snapshot = self.shared.handle.snapshot();
        let service = snapshot.as_ref().and_then(|it| it.services.get(text));
        service.map_or_else(|| text.to_owned(), |it| it.consul.service.clone())
    }

    fn fresh(&self, order: DrainOrder, service: String, endpoint: Endpoint, lease: Span) -> Drain {
        let now = self.shared.handle.now();
        Drain {
            v: Drain::VERSION,
            id: DrainId(uuid::Uuid::new_v4().to_string()),
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
        }
    }

    /// Writes a record over the one read at `index`, with its entry in the record of writes.
    async fn write(
        &self,
        drain: &Drain,
        index: Index,
        who: &str,
        what: String,
    ) -> Result<TxnOutcome, Refused> {
        let entry = AuditEntry { at: self.shared.handle.now(), who: who.to_owned(), what, generation: None };
        let record = KvOp::Cas { key: keys::drain(&drain.id), value: stored(drain), expected: index };
        Ok(bounded(self.shared.engine.txn(vec![record, audit_write(&entry)])).await?)
    }

    async fn records(&self) -> Result<Vec<(Index, Drain)>, Refused> {
        let read = bounded(self.shared.engine.kv_list(keys::DRAINS, None)).await?;
        let parse = |entry: &store::engine::KvEntry| {
            Some((entry.modify_index, serde_json::from_slice(&entry.value).ok()?))
        };
        Ok(read.value.iter().filter_map(parse).collect())
    }

    async fn record(&self, id: &str) -> Result<Option<(Index, Drain)>, Refused> {
        if uuid::Uuid::try_parse(id).is_err() {
            // Not one of ours, and perhaps no key at all.
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

/// The lease of an order that can be.
fn checked(order: &DrainOrder) -> Result<Span, Refused> {
    let wrong = |text: String| Refused::new(Refusal::Wrong, text);
    let lease = order.lease.unwrap_or(Span(LEASE));
    if lease.0 < LEAST_LEASE {
        let least = Span(LEAST_LEASE);
        return Err(wrong(format!(
            "lease {lease} is shorter than {least}: gateways show every 5s that they live"
        )));
    }
    if let Some(hook) = &order.hook {
        hook::check(hook).map_err(wrong)?;
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

/// The record of a drain that is called off. From the moment the registry may have been touched, the driver undoes
/// that first: until then the record carries a trouble.
fn cancelled(drain: Drain, now: Moment) -> Drain {
    let touched = drain.phase != Phase::Draining;
    Drain { phase: Phase::Cancelled, since: now, trouble: touched.then(|| READMITTING.to_owned()), ..drain }
}

#[cfg(test)]
mod tests;
