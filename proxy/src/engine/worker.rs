//! One worker: a thread with its own listeners, connections and balancer state. It shares only what [`Shared`] holds,
//! so a pick takes no lock, and a drain that this thread obeys applies to its next pick.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    access_log::WorkerLog,
    answers::Reason,
    balance::{
        attempts::Changed,
        picker::{Known, Picked, Picker},
        retry::NoRetry,
        view::{NoPick, PickContext},
    },
    config::Limits,
    engine::{
        buffer::Buffers, cached_time::CachedTime, client::Client, failure::Failure, timer::Wheel,
        upstream::Upstream,
    },
    http1::{DateCache, Fields},
    limit::Limit,
    metrics::Metrics,
    request_id::{RequestId, RequestIds},
    retry_budget::RetryBudget,
    route::Table,
    shared::{Phase, Shared},
};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_millis(250);

/// A worker's state.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    number: usize,
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) wheel: Rc<Wheel>,
    pub(crate) time: Rc<CachedTime>,
    pub(crate) fields: FreeFields,
    date: RefCell<DateCache>,
    ids: RefCell<RequestIds>,
    pub(crate) log: RefCell<Option<WorkerLog>>,
    /// Connections without a request are closed from then on.
    closes: Cell<Option<Instant>>,
    picker: RefCell<Picker>,
    /// By the services' numbers.
    budgets: RefCell<Vec<RetryBudget>>,
    lease: tokio::sync::Mutex<()>,
    open_connections: Cell<usize>,
    /// Copies of requests under way to mirrors.
    copies: Cell<usize>,
    ended: Notify,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> Rc<Self> {
        let (buffers, time) = (Buffers::new(), Rc::new(CachedTime::new(shared.handle.clock())));
        Rc::new(Self {
            number,
            upstream: Upstream::new(Arc::clone(&shared), number, Rc::clone(&buffers), Rc::clone(&time)),
            buffers,
            time,
            wheel: Wheel::new(),
            fields: FreeFields::default(),
            date: RefCell::default(),
            ids: RefCell::default(),
            log: RefCell::new(shared.access_log.get().map(|it| it.worker())),
            closes: Cell::new(None),
            picker: RefCell::default(),
            budgets: RefCell::default(),
            lease: tokio::sync::Mutex::default(),
            open_connections: Cell::new(0),
            copies: Cell::new(0),
            ended: Notify::new(),
            shared,
        })
    }

    /// The present date for a field `Date`.
    pub(crate) fn with_date<T>(&self, then: impl FnOnce(&[u8; 29]) -> T) -> T {
        then(self.date.borrow_mut().at(self.time.moment()))
    }

    /// True if a client's connection may serve another request after this one. A client that has ended its side may have sent
    /// more requests before.
    pub(crate) fn keeps_alive(&self, client: &Client) -> bool {
        self.shared.phase() == Phase::Serving
            && (!client.ended || client.input.is_some())
            && u64::from(client.requests) < self.limits().max_requests_per_connection
    }

    /// True when the gateway is about to stop.
    pub(crate) fn stops(&self) -> bool {
        self.shared.phase() != Phase::Serving
    }

    /// Until when a connection may be without a request, if it may be `until` then while the gateway serves.
    pub(crate) fn idle_until(&self, until: Instant) -> Instant {
        self.closes.get().map_or(until, |closes| closes.min(until))
    }

    /// Closes connections without a request after the grace of requests that are on their way.
    pub(crate) fn close_idle(&self, grace: Duration) {
        self.closes.set(Some(Instant::now() + grace));
        self.wheel.wake_all();
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
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn pick(
        &self,
        table: &Arc<Table>,
        backend: usize,
        context: &PickContext<'_>,
    ) -> Result<Picked, NoPick> {
        let obeyed = self.upstream.obeyed();
        let known = Known {
            table,
            excluded: (&obeyed.excluded, obeyed.version),
            instances: &self.shared.instances,
            names: &self.shared.names,
            board: self.shared.handle.board(),
        };
        let order = |addresses: &[IpAddr], port| self.upstream.dial_order(addresses, port);
        self.picker.borrow_mut().pick(&known, backend, context, order)
    }

    /// The retry budget of a service: an outage of one leaves those of the others as they are.
    pub(crate) fn with_budget<T>(&self, backend: usize, then: impl FnOnce(&mut RetryBudget) -> T) -> T {
        let mut budgets = self.budgets.borrow_mut();
        if budgets.len() <= backend {
            let limits = self.limits();
            let full = RetryBudget::new(limits.retry_percent, limits.retry_floor, self.time.moment());
            budgets.resize(backend + 1, full);
        }
        then(&mut budgets[backend])
    }

    /// A new request id.
    pub(crate) fn next_id(&self) -> RequestId {
        self.ids.borrow_mut().next(self.time.moment())
    }

    /// Counts a request that was not served well.
    pub(crate) fn count_failure(&self, reason: Reason) {
        self.metrics().failed(reason);
    }

    /// Counts the limit that has ended an attempt.
    pub(crate) fn count_limit(&self, failure: &Failure) {
        match failure {
            Failure::Cut => self.count_cut(),
            failure => failure.limit().into_iter().for_each(|it| self.metrics().met(it)),
        }
    }

    /// Counts a request that is cut.
    pub(crate) fn count_cut(&self) {
        self.metrics().met(if self.cuts_all() { Limit::Shutdown } else { Limit::Drain });
    }

    /// Counts why a request is not sent again; `is_kept`: its body was.
    pub(crate) fn count_no_retry(&self, why: NoRetry, is_kept: bool) {
        match why {
            NoRetry::Budget => self.metrics().retries_refused.increment(),
            NoRetry::Exhausted => self.metrics().met(Limit::Retries),
            NoRetry::NotRepeatable if !is_kept => self.metrics().met(Limit::Buffer),
            _ => {}
        }
    }

    /// True when the gateway's time to stop is over.
    pub(crate) fn cuts_all(&self) -> bool {
        self.upstream.cuts_all.get()
    }

    /// Why requests are cut now.
    pub(crate) fn reason_of_cut(&self) -> Reason {
        if self.cuts_all() { Reason::CutAtShutdown } else { Reason::CutAtDrain }
    }

    /// Cuts every request, because the gateway's time to stop is over.
    pub(crate) fn cut_all(&self) {
        self.upstream.cuts_all.set(true);
        self.wheel.wake_all();
    }

    /// Counts what the report of an outcome has changed.
    pub(crate) fn count(&self, changed: Changed) {
        if changed.ejected > 0 {
            self.metrics().ejections.add(changed.ejected.into());
        }
        if changed.went_down {
            self.metrics().downs.increment();
        }
    }

    /// Hands lines of the access log over that have waited long enough.
    pub(crate) async fn tick_log(&self) {
        loop {
            tokio::time::sleep(LOG_EVERY).await;
            if let Some(log) = &mut *self.log.borrow_mut() {
                log.tick(self.shared.handle.now());
            }
        }
    }

    /// Wakes every connection when requests are to be cut.
    pub(crate) async fn follow_cuts(&self) {
        let mut cuts = self.shared.cuts.subscribe();
        while cuts.changed().await.is_ok() {
            self.wheel.wake_all();
        }
    }

    /// Closes connections that were idle for too long, and forgets old failures.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.upstream.sweep();
        }
    }

    /// Counts a client connection in; the count falls when the value is dropped.
    pub(crate) fn count_connection(self: &Rc<Self>) -> OpenConnection {
        self.open_connections.set(self.open_connections.get() + 1);
        OpenConnection(Rc::clone(self))
    }

    /// Counts a copy to a mirror in, if there may be one more.
    pub(crate) fn place_for_copy(self: &Rc<Self>) -> Option<PlaceForCopy> {
        let copies = self.copies.get();
        if copies >= self.limits().mirrored {
            self.metrics().met(Limit::Mirrored);
            return None;
        }
        self.copies.set(copies + 1);
        Some(PlaceForCopy(Rc::clone(self)))
    }

    /// Client connections that are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.open_connections.get()
    }

    /// Waits until every client connection is closed.
    pub(crate) async fn all_closed(&self) {
        while self.open_connections.get() > 0 {
            self.ended.notified().await;
        }
    }
}

/// A copy of a request on its way to a mirror; dropping it counts it out.
#[derive(Debug)]
pub(crate) struct PlaceForCopy(Rc<Worker>);

impl Drop for PlaceForCopy {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get() - 1);
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
