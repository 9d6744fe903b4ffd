//! One worker: a thread with its own listeners, connections and balancer state. It shares only what [`Shared`] holds,
//! so a pick takes no lock, and a drain that this thread obeys applies to its next pick.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use store::{discovery::Entry, model::Moment};
use tokio::{sync::Notify, time::Instant};

use crate::{
    balance::{Candidate, Candidates, Eligibility, failover_order},
    breaker::{Breaker, Ejection},
    config::Limits,
    engine::{buffer::Buffers, client::Client, timer::Wheel, upstream::Upstream},
    happy_eyeballs::DialAddresses,
    http1::{DateCache, Fields},
    instance::{InFlight, Instance},
    metrics::Metrics,
    retry_budget::RetryBudget,
    route::Table,
    shared::{Phase, Shared},
};

const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// A worker's state.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    number: usize,
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) wheel: Rc<Wheel>,
    pub(crate) fields: FreeFields,
    date: RefCell<DateCache>,
    /// Connections without a request are closed from then on.
    closes: Cell<Option<Instant>>,
    views: RefCell<Views>,
    breakers: RefCell<HashMap<u64, (Breaker, Arc<Instance>)>>,
    pub(crate) budget: RefCell<RetryBudget>,
    lease: tokio::sync::Mutex<()>,
    open_connections: Cell<usize>,
    ended: Notify,
}

/// The candidates per backend of a table.
#[derive(Debug, Default)]
struct Views {
    table: Option<Arc<Table>>,
    of: Vec<Option<View>>,
}

#[derive(Debug)]
struct View {
    entry: Arc<Entry>,
    version: u64,
    candidates: Candidates,
}

/// The instance that gets a request, with the request counted in.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) addresses: DialAddresses,
    pub(crate) in_flight: InFlight,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> Rc<Self> {
        let limits = &shared.config.limits;
        let buffers = Buffers::new();
        Rc::new(Self {
            number,
            upstream: Upstream::new(Arc::clone(&shared), number, Rc::clone(&buffers)),
            buffers,
            wheel: Wheel::new(),
            fields: FreeFields::default(),
            date: RefCell::default(),
            closes: Cell::new(None),
            views: RefCell::default(),
            breakers: RefCell::default(),
            budget: RefCell::new(RetryBudget::new(
                limits.retry_percent,
                limits.retry_floor,
                shared.handle.now(),
            )),
            lease: tokio::sync::Mutex::default(),
            open_connections: Cell::new(0),
            ended: Notify::new(),
            shared,
        })
    }

    /// The present date for a field `Date`.
    pub(crate) fn with_date<T>(&self, then: impl FnOnce(&[u8]) -> T) -> T {
        then(self.date.borrow_mut().at(self.shared.handle.now()))
    }

    /// True if a client's connection may serve another request after this one.
    pub(crate) fn keeps_alive(&self, client: &Client) -> bool {
        self.shared.phase() == Phase::Serving
            && !client.ended
            && u64::from(client.requests) < self.limits().max_requests_per_connection
    }

    /// Until when a connection may be without a request, if it may be `until` then while the gateway serves.
    pub(crate) fn idle_until(&self, until: Instant) -> Instant {
        self.closes.get().map_or(until, |closes| closes.min(until))
    }

    /// Closes connections without a request after the grace of requests that are on their way.
    pub(crate) fn close_idle(&self, grace: Duration) {
        self.closes.set(Some(Instant::now() + grace));
        self.wheel.fire_all();
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.config.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    pub(crate) fn lease_lapsed(&self) -> bool {
        self.shared.handle.lease_lapsed()
    }

    /// Reads the drains again if this node may have missed some. The first request does that, and the others wait for
    /// it.
    pub(crate) async fn assure_lease(&self) {
        if !self.lease_lapsed() {
            return;
        }
        let _one = self.lease.lock().await;
        if self.lease_lapsed() {
            self.metrics().lease_lapses.increment();
            tracing::warn!(worker = self.number, "lease expired, reading the drains again");
            self.shared.handle.reread_drains(self.limits().lease_patience).await;
        }
    }

    /// Picks an instance that was not tried yet and that the newest drains do not exclude, and counts the request in.
    pub(crate) fn pick(&self, table: &Arc<Table>, backend: usize, tried: &[u64]) -> Option<Picked> {
        let now = self.shared.handle.now();
        let mut views = self.views.borrow_mut();
        let candidates = self.candidates(&mut views, table, backend, now)?;
        let mut breakers = self.breakers.borrow_mut();
        let eligibility = |it: &Candidate| match breakers.get(&it.instance.number) {
            _ if tried.contains(&it.instance.number) => Eligibility::Out,
            Some((breaker, _)) if !breaker.admits(now) => Eligibility::Ejected,
            _ => Eligibility::Fit,
        };
        let board = self.shared.handle.board();
        let service = table.backend(backend)?;
        let away = || failover_order(&table.snapshot, service, table.home, board, now);
        let picked = candidates.pick(eligibility, away, |below| fastrand::u32(..below))?;
        let addresses = picked.dial_addresses(|all, port| self.upstream.dial_order(all, port))?;
        if let Some((breaker, _)) = breakers.get_mut(&picked.instance.number) {
            breaker.picked(&self.ejection(), now);
        }
        Some(Picked { addresses, in_flight: self.shared.instances.begin(&picked.instance, now) })
    }

    fn candidates<'a>(
        &self,
        views: &'a mut Views,
        table: &Arc<Table>,
        number: usize,
        now: Moment,
    ) -> Option<&'a Candidates> {
        if !views.table.as_ref().is_some_and(|known| Arc::ptr_eq(known, table)) {
            views.table = Some(Arc::clone(table));
            views.of = (0..table.numbers()).map(|_| None).collect();
        }
        let backend = table.backend(number)?;
        let obeyed = self.upstream.obeyed();
        let entry = backend.slot.load();
        let view = views.of.get_mut(number)?;
        let current = |view: &View| Arc::ptr_eq(&view.entry, &entry) && view.version == obeyed.version;
        if !view.as_ref().is_some_and(current) {
            let shared = (&*self.shared.instances, &self.shared.names);
            let candidates = Candidates::build(&entry, backend, table, &obeyed.excluded, now, shared);
            *view = Some(View { entry, version: obeyed.version, candidates });
        }
        view.as_ref().map(|view| &view.candidates)
    }

    fn ejection(&self) -> Ejection {
        let limits = self.limits();
        Ejection { after: limits.eject_after, base: limits.eject_for, at_most: limits.eject_at_most }
    }

    /// Notes that an instance answered.
    pub(crate) fn succeeded(&self, instance: &Instance) {
        let mut breakers = self.breakers.borrow_mut();
        if !breakers.is_empty()
            && let Some((breaker, instance)) = breakers.remove(&instance.number)
        {
            uncount_ejection(breaker, &instance);
        }
    }

    /// Notes that an instance failed.
    pub(crate) fn failed(&self, instance: &Arc<Instance>) {
        let mut breakers = self.breakers.borrow_mut();
        let (breaker, _) =
            breakers.entry(instance.number).or_insert_with(|| (Breaker::default(), Arc::clone(instance)));
        let ejected = breaker.ejected();
        if breaker.failed(&self.ejection(), self.shared.handle.now()) {
            self.metrics().ejections.increment();
            if !ejected {
                instance.ejected_by.fetch_add(1, Ordering::Relaxed);
            }
            let endpoint = &instance.endpoint;
            tracing::warn!(service = endpoint.service, instance = endpoint.id, "instance ejected");
        }
    }

    /// Wakes every connection when requests are to be cut.
    pub(crate) async fn follow_cuts(&self) {
        let mut cuts = self.shared.cuts.subscribe();
        while cuts.changed().await.is_ok() {
            self.wheel.fire_all();
        }
    }

    /// Closes connections that were idle for too long, and forgets old failures.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.upstream.sweep();
            let (rule, now) = (self.ejection(), self.shared.handle.now());
            self.breakers.borrow_mut().retain(|_, (breaker, instance)| {
                // An instance that left the registry has no other holder.
                let stays = !breaker.stale(&rule, now) && Arc::strong_count(instance) > 1;
                if !stays {
                    uncount_ejection(*breaker, instance);
                }
                stays
            });
        }
    }

    /// Counts a client connection in; the count falls when the value is dropped.
    pub(crate) fn count_connection(self: &Rc<Self>) -> OpenConnection {
        self.open_connections.set(self.open_connections.get() + 1);
        OpenConnection(Rc::clone(self))
    }

    /// Waits until every client connection is closed.
    pub(crate) async fn all_closed(&self) {
        while self.open_connections.get() > 0 {
            self.ended.notified().await;
        }
    }
}

fn uncount_ejection(breaker: Breaker, instance: &Instance) {
    if breaker.ejected() {
        instance.ejected_by.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open client connection; dropping it counts it out.
#[derive(Debug)]
pub(crate) struct OpenConnection(Rc<Worker>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open_connections.set(self.0.open_connections.get() - 1);
        self.0.ended.notify_one();
    }
}

/// The memory of fields that no connection uses now.
#[derive(Debug, Default)]
pub(crate) struct FreeFields(RefCell<Vec<Fields>>);

impl FreeFields {
    pub(crate) fn take(&self) -> Fields {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_back(&self, fields: Fields) {
        let mut free = self.0.borrow_mut();
        if free.len() < 64 {
            free.push(fields);
        }
    }
}
