//! One worker: a thread with its own listeners, connections and balancer state. Nothing in it is shared but
//! what [`Shared`] holds, so picking takes no lock and a drain obeyed by this thread binds its next pick.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use store::{discovery::Entry, drain::Drains, model::Moment};
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    balance::{Candidate, Candidates, Eligibility, failover_order},
    breaker::{Breaker, Ejection},
    config::Limits,
    excluded::Excluded,
    happy_eyeballs::{self, DialAddresses, RecentFailures},
    instance::{InFlight, Instance},
    metrics::Metrics,
    pool::{Pool, UpstreamConnection},
    retry_budget::RetryBudget,
    route::Table,
    shared::Shared,
};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a connection may take to be ready for the next request after a response was read to its end.
const READY_PATIENCE: Duration = Duration::from_secs(1);

/// A worker's state.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    number: usize,
    published: RefCell<watch::Receiver<Arc<Drains>>>,
    obeyed: RefCell<Obeyed>,
    views: RefCell<Views>,
    breakers: RefCell<HashMap<u64, (Breaker, Arc<Instance>)>>,
    pub(crate) budget: RefCell<RetryBudget>,
    pool: RefCell<Pool>,
    recent_failures: RefCell<RecentFailures>,
    to_close: mpsc::UnboundedSender<ToClose>,
    lease: tokio::sync::Mutex<()>,
    open_connections: Cell<usize>,
    ended: Notify,
}

/// The drains as this worker obeys them.
#[derive(Debug, Default)]
struct Obeyed {
    all: Arc<Drains>,
    /// Only those that exclude their instance now.
    excluded: Excluded,
    /// Grows whenever `excluded` changes.
    version: u64,
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

/// What is on its way out of a worker, in order.
#[derive(Debug)]
pub(crate) enum ToClose {
    /// A connection to be closed; whatever it carried is under way until it is.
    Connection(UpstreamConnection, Option<InFlight>),
    /// Everything that these drains exclude is closed once this is reached.
    Acknowledge(Arc<Drains>),
}

/// Somebody to send a request to.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) places: DialAddresses,
    pub(crate) flight: InFlight,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> (Rc<Self>, mpsc::UnboundedReceiver<ToClose>) {
        // Bounded by the connections there are.
        let (to_close, queue) = mpsc::unbounded_channel();
        let limits = &shared.config.limits;
        let worker = Rc::new(Self {
            number,
            published: RefCell::new(shared.handle.drains()),
            obeyed: RefCell::default(),
            views: RefCell::default(),
            breakers: RefCell::default(),
            budget: RefCell::new(RetryBudget::new(
                limits.retry_percent,
                limits.retry_floor,
                shared.handle.now(),
            )),
            pool: RefCell::default(),
            recent_failures: RefCell::default(),
            to_close,
            lease: tokio::sync::Mutex::default(),
            open_connections: Cell::new(0),
            ended: Notify::new(),
            shared,
        });
        worker.published.borrow_mut().mark_changed();
        worker.obey_newest_drains();
        (worker, queue)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.config.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Obeys the newest drains from now on: their instances leave the pool, and once those connections are
    /// closed, the state is acknowledged.
    fn obey_newest_drains(&self) {
        let now = self.shared.handle.now();
        let mut published = self.published.borrow_mut();
        let mut obeyed = self.obeyed.borrow_mut();
        let fresh = published.has_changed().unwrap_or(false);
        if !fresh && obeyed.excluded.until.is_none_or(|until| now < until) {
            return;
        }
        obeyed.all = Arc::clone(&published.borrow_and_update());
        obeyed.excluded = Excluded::by(&obeyed.all, now);
        obeyed.version += 1;
        let excluded =
            |connection: &UpstreamConnection| obeyed.excluded.contains(&connection.instance.endpoint, now);
        for connection in self.pool.borrow_mut().remove(excluded) {
            self.metrics().idle.decrement();
            self.close_later(ToClose::Connection(connection, None));
        }
        self.close_later(ToClose::Acknowledge(Arc::clone(&obeyed.all)));
    }

    /// True when a drain keeps the instance from getting requests.
    pub(crate) fn is_excluded(&self, instance: &Instance) -> bool {
        self.obey_newest_drains();
        self.obeyed.borrow().excluded.contains(&instance.endpoint, self.shared.handle.now())
    }

    pub(crate) fn lease_lapsed(&self) -> bool {
        self.shared.handle.lease_lapsed()
    }

    /// Reads the drains again if this node may have missed some; the first request does, the others wait.
    pub(crate) async fn assure_lease(&self) {
        if !self.lease_lapsed() {
            return;
        }
        let _one = self.lease.lock().await;
        if self.lease_lapsed() {
            self.metrics().lease_lapses.increment();
            tracing::warn!(worker = self.number, "own lease ran out, reading the drains again");
            self.shared.handle.reread_drains(self.limits().lease_patience).await;
        }
    }

    /// Picks an instance that was not tried yet, by the newest drains, and counts the request in.
    pub(crate) fn pick(&self, table: &Arc<Table>, backend: usize, tried: &[u64]) -> Option<Picked> {
        self.obey_newest_drains();
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
        let away = || failover_order(&table.snapshot, &table.backends[backend], table.home, board, now);
        let picked = candidates.pick(eligibility, away, |below| fastrand::u32(..below))?;
        let recent_failures = self.recent_failures.borrow();
        let places = picked.places(|all, port| recent_failures.order(all, port, fastrand::usize(..), now))?;
        if let Some((breaker, _)) = breakers.get_mut(&picked.instance.number) {
            breaker.picked(&self.ejection(), now);
        }
        Some(Picked { places, flight: self.shared.instances.begin(&picked.instance) })
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
            views.of = table.backends.iter().map(|_| None).collect();
        }
        let backend = table.backends.get(number)?;
        let obeyed = self.obeyed.borrow();
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

    /// An instance answered.
    pub(crate) fn succeeded(&self, instance: &Instance) {
        let mut breakers = self.breakers.borrow_mut();
        if !breakers.is_empty()
            && let Some((breaker, instance)) = breakers.remove(&instance.number)
        {
            forgive(breaker, &instance);
        }
    }

    /// An instance failed.
    pub(crate) fn failed(&self, instance: &Arc<Instance>) {
        let mut breakers = self.breakers.borrow_mut();
        let (breaker, _) =
            breakers.entry(instance.number).or_insert_with(|| (Breaker::default(), Arc::clone(instance)));
        let ejected = breaker.ejected();
        if breaker.failed(&self.ejection(), self.shared.handle.now()) {
            self.metrics().ejections.increment();
            if !ejected {
                instance.ejected_by.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            let endpoint = &instance.endpoint;
            tracing::warn!(service = endpoint.service, instance = endpoint.id, "instance ejected");
        }
    }

    /// An idle connection to one of these places.
    pub(crate) fn take_idle(&self, places: &DialAddresses) -> Option<UpstreamConnection> {
        let mut pool = self.pool.borrow_mut();
        let before = pool.len();
        let connection = places.all().iter().find_map(|place| pool.take(*place));
        for _ in pool.len()..before {
            self.metrics().idle.decrement();
        }
        connection
    }

    /// A new connection, to the first of these places that answers.
    pub(crate) async fn connect(
        &self,
        instance: &Arc<Instance>,
        places: &DialAddresses,
    ) -> io::Result<UpstreamConnection> {
        let limits = self.limits();
        let race = happy_eyeballs::connect(places.all(), limits.connect_timeout).await;
        if let DialAddresses::Several(_) = places {
            let winner = race.outcome.as_ref().ok().map(|(_, place)| *place);
            self.recent_failures.borrow_mut().learn(&race.losers, winner, self.shared.handle.now());
        }
        let connection = match race.outcome {
            Ok((stream, place)) => {
                UpstreamConnection::over(stream, Arc::clone(instance), place, limits.max_header_bytes).await
            }
            Err(error) => Err(error),
        };
        if connection.is_err() {
            self.metrics().connect_failures.increment();
        }
        connection
    }

    /// Takes a connection back after a whole exchange: into the pool, or out.
    pub(crate) fn give_back(self: &Rc<Self>, connection: UpstreamConnection, flight: InFlight) {
        if connection.sender.is_closed() || self.is_excluded(&connection.instance) || self.shared.is_closing()
        {
            self.close_later(ToClose::Connection(connection, Some(flight)));
        } else if connection.sender.is_ready() {
            self.keep(connection);
        } else {
            let worker = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let mut connection = connection;
                let ready = tokio::time::timeout(READY_PATIENCE, connection.sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) && !worker.is_excluded(&connection.instance) {
                    worker.keep(connection);
                    drop(flight);
                } else {
                    worker.close_later(ToClose::Connection(connection, Some(flight)));
                }
            });
        }
    }

    fn keep(&self, connection: UpstreamConnection) {
        match self.pool.borrow_mut().put(connection, self.limits().idle_per_instance) {
            None => self.metrics().idle.increment(),
            Some(surplus) => self.close_later(ToClose::Connection(surplus, None)),
        }
    }

    /// Sends something out; nobody is left to take it only when the thread ends, and then all is closed.
    pub(crate) fn close_later(&self, to_close: ToClose) {
        let _ = self.to_close.send(to_close);
    }

    /// Closes what leaves, in order, and acknowledges drains when everything before is closed.
    pub(crate) async fn close_in_order(&self, mut queue: mpsc::UnboundedReceiver<ToClose>) {
        while let Some(to_close) = queue.recv().await {
            match to_close {
                ToClose::Connection(connection, flight) => {
                    connection.close().await;
                    drop(flight);
                }
                ToClose::Acknowledge(drains) => self.shared.acknowledge(self.number, drains),
            }
        }
    }

    /// Takes new drains also while no request comes in.
    pub(crate) async fn follow_drains(&self) {
        let mut published = self.shared.handle.drains();
        loop {
            // First of all what was published since this worker was made: nothing will announce it again.
            self.obey_newest_drains();
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    /// Closes connections that were idle for too long, and forgets old failures.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            for connection in self.pool.borrow_mut().sweep(self.limits().idle_for) {
                self.metrics().idle.decrement();
                self.close_later(ToClose::Connection(connection, None));
            }
            let (rule, now) = (self.ejection(), self.shared.handle.now());
            self.recent_failures.borrow_mut().forget(now);
            self.breakers.borrow_mut().retain(|_, (breaker, instance)| {
                // Nobody else holds an instance that left the registry.
                let stays = !breaker.stale(&rule, now) && Arc::strong_count(instance) > 1;
                if !stays {
                    forgive(*breaker, instance);
                }
                stays
            });
        }
    }

    /// Counts a client connection in; the count falls when the value is dropped.
    pub(crate) fn count_connection(self: &Rc<Self>) -> OpenConnection {
        self.open_connections.set(self.open_connections.get() + 1);
        self.metrics().connections.increment();
        self.metrics().connections_open.increment();
        OpenConnection(Rc::clone(self))
    }

    /// Waits until no client connection is left.
    pub(crate) async fn all_closed(&self) {
        while self.open_connections.get() > 0 {
            self.ended.notified().await;
        }
    }
}

fn forgive(breaker: Breaker, instance: &Instance) {
    if breaker.ejected() {
        instance.ejected_by.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// A client connection that is open.
#[derive(Debug)]
pub(crate) struct OpenConnection(Rc<Worker>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open_connections.set(self.0.open_connections.get() - 1);
        self.0.metrics().connections_open.decrement();
        self.0.ended.notify_one();
    }
}
