//! One worker: a thread with its own listeners, connections and balancer state. Nothing in it is shared but
//! what [`Shared`] holds, so picking takes no lock and a drain taken by this thread binds its next pick.

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
    breaker::{Breaker, Ejection},
    budget::Budget,
    config::Limits,
    instance::{InFlight, Instance},
    metrics::Metrics,
    pick::{Candidate, Candidates, Fitness, takeover},
    pool::{Link, Pool},
    race::{self, Avoided, Places},
    route::Table,
    shared::Shared,
    shut::Shut,
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
    taken: RefCell<Taken>,
    views: RefCell<Views>,
    breakers: RefCell<HashMap<u64, (Breaker, Arc<Instance>)>>,
    pub(crate) budget: RefCell<Budget>,
    pool: RefCell<Pool>,
    avoided: RefCell<Avoided>,
    leaving: mpsc::UnboundedSender<Leaving>,
    lease: tokio::sync::Mutex<()>,
    conversations: Cell<usize>,
    ended: Notify,
}

/// The drains as this worker obeys them.
#[derive(Debug, Default)]
struct Taken {
    all: Arc<Drains>,
    /// Only those that shut their instance now.
    shut: Shut,
    /// Grows whenever `shut` changes.
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
pub(crate) enum Leaving {
    /// A connection to be closed; whatever it carried is under way until it is.
    Link(Link, Option<InFlight>),
    /// Everything that these drains shut is closed once this is reached.
    Taken(Arc<Drains>),
}

/// Somebody to send a request to.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) places: Places,
    pub(crate) flight: InFlight,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> (Rc<Self>, mpsc::UnboundedReceiver<Leaving>) {
        // Bounded by the connections there are.
        let (leaving, left) = mpsc::unbounded_channel();
        let limits = &shared.config.limits;
        let worker = Rc::new(Self {
            number,
            published: RefCell::new(shared.handle.drains()),
            taken: RefCell::default(),
            views: RefCell::default(),
            breakers: RefCell::default(),
            budget: RefCell::new(Budget::new(limits.retry_percent, limits.retry_floor, shared.handle.now())),
            pool: RefCell::default(),
            avoided: RefCell::default(),
            leaving,
            lease: tokio::sync::Mutex::default(),
            conversations: Cell::new(0),
            ended: Notify::new(),
            shared,
        });
        worker.published.borrow_mut().mark_changed();
        worker.take_drains();
        (worker, left)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.config.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Obeys the newest drains from now on: their instances leave the pool, and once those connections are
    /// closed, the state is acknowledged.
    fn take_drains(&self) {
        let now = self.shared.handle.now();
        let mut published = self.published.borrow_mut();
        let mut taken = self.taken.borrow_mut();
        let fresh = published.has_changed().unwrap_or(false);
        if !fresh && taken.shut.until.is_none_or(|until| now < until) {
            return;
        }
        taken.all = Arc::clone(&published.borrow_and_update());
        taken.shut = Shut::by(&taken.all, now);
        taken.version += 1;
        let shut = |link: &Link| taken.shut.contains(&link.instance.endpoint, now);
        for link in self.pool.borrow_mut().remove(shut) {
            self.metrics().idle.decrement();
            self.leave(Leaving::Link(link, None));
        }
        self.leave(Leaving::Taken(Arc::clone(&taken.all)));
    }

    /// True when a drain keeps the instance from getting requests.
    pub(crate) fn is_shut(&self, instance: &Instance) -> bool {
        self.take_drains();
        self.taken.borrow().shut.contains(&instance.endpoint, self.shared.handle.now())
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
        self.take_drains();
        let now = self.shared.handle.now();
        let mut views = self.views.borrow_mut();
        let candidates = self.candidates(&mut views, table, backend, now)?;
        let mut breakers = self.breakers.borrow_mut();
        let fitness = |it: &Candidate| match breakers.get(&it.instance.number) {
            _ if tried.contains(&it.instance.number) => Fitness::Out,
            Some((breaker, _)) if !breaker.admits(now) => Fitness::Ejected,
            _ => Fitness::Fit,
        };
        let board = self.shared.handle.board();
        let away = || takeover(&table.snapshot, &table.backends[backend], table.home, board, now);
        let picked = candidates.pick(fitness, away, |below| fastrand::u32(..below))?;
        let avoided = self.avoided.borrow();
        let places = picked.places(|all, port| avoided.order(all, port, fastrand::usize(..), now))?;
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
        let taken = self.taken.borrow();
        let entry = backend.slot.load();
        let view = views.of.get_mut(number)?;
        let current = |view: &View| Arc::ptr_eq(&view.entry, &entry) && view.version == taken.version;
        if !view.as_ref().is_some_and(current) {
            let shared = (&*self.shared.instances, &self.shared.names);
            let candidates = Candidates::build(&entry, backend, table, &taken.shut, now, shared);
            *view = Some(View { entry, version: taken.version, candidates });
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
    pub(crate) fn take_idle(&self, places: &Places) -> Option<Link> {
        let mut pool = self.pool.borrow_mut();
        let before = pool.len();
        let link = places.all().iter().find_map(|place| pool.take(*place));
        for _ in pool.len()..before {
            self.metrics().idle.decrement();
        }
        link
    }

    /// A new connection, to the first of these places that answers.
    pub(crate) async fn connect(&self, instance: &Arc<Instance>, places: &Places) -> io::Result<Link> {
        let limits = self.limits();
        let race = race::connect(places.all(), limits.connect_timeout).await;
        if let Places::Several(_) = places {
            let winner = race.outcome.as_ref().ok().map(|(_, place)| *place);
            self.avoided.borrow_mut().learn(&race.beaten, winner, self.shared.handle.now());
        }
        let link = match race.outcome {
            Ok((stream, place)) => {
                Link::over(stream, Arc::clone(instance), place, limits.max_header_bytes).await
            }
            Err(error) => Err(error),
        };
        if link.is_err() {
            self.metrics().connect_failures.increment();
        }
        link
    }

    /// Takes a connection back after a whole exchange: into the pool, or out.
    pub(crate) fn give_back(self: &Rc<Self>, link: Link, flight: InFlight) {
        if link.sender.is_closed() || self.is_shut(&link.instance) || self.shared.is_closing() {
            self.leave(Leaving::Link(link, Some(flight)));
        } else if link.sender.is_ready() {
            self.keep(link);
        } else {
            let worker = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let mut link = link;
                let ready = tokio::time::timeout(READY_PATIENCE, link.sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) && !worker.is_shut(&link.instance) {
                    worker.keep(link);
                    drop(flight);
                } else {
                    worker.leave(Leaving::Link(link, Some(flight)));
                }
            });
        }
    }

    fn keep(&self, link: Link) {
        match self.pool.borrow_mut().put(link, self.limits().idle_per_instance) {
            None => self.metrics().idle.increment(),
            Some(surplus) => self.leave(Leaving::Link(surplus, None)),
        }
    }

    /// Sends something out; nobody is left to take it only when the thread ends, and then all is closed.
    pub(crate) fn leave(&self, leaving: Leaving) {
        let _ = self.leaving.send(leaving);
    }

    /// Closes what leaves, in order, and acknowledges drains when everything before is closed.
    pub(crate) async fn see_off(&self, mut left: mpsc::UnboundedReceiver<Leaving>) {
        while let Some(leaving) = left.recv().await {
            match leaving {
                Leaving::Link(link, flight) => {
                    link.close().await;
                    drop(flight);
                }
                Leaving::Taken(drains) => self.shared.acknowledge(self.number, drains),
            }
        }
    }

    /// Takes new drains also while no request comes in.
    pub(crate) async fn follow_drains(&self) {
        let mut published = self.shared.handle.drains();
        loop {
            // First of all what was published since this worker was made: nothing will announce it again.
            self.take_drains();
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    /// Closes connections that were idle for too long, and forgets old failures.
    pub(crate) async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            for link in self.pool.borrow_mut().sweep(self.limits().idle_for) {
                self.metrics().idle.decrement();
                self.leave(Leaving::Link(link, None));
            }
            let (rule, now) = (self.ejection(), self.shared.handle.now());
            self.avoided.borrow_mut().forget(now);
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
    pub(crate) fn converse(self: &Rc<Self>) -> Conversation {
        self.conversations.set(self.conversations.get() + 1);
        self.metrics().connections.increment();
        self.metrics().connections_open.increment();
        Conversation(Rc::clone(self))
    }

    /// Waits until no client connection is left.
    pub(crate) async fn silence(&self) {
        while self.conversations.get() > 0 {
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
pub(crate) struct Conversation(Rc<Worker>);

impl Drop for Conversation {
    fn drop(&mut self) {
        self.0.conversations.set(self.0.conversations.get() - 1);
        self.0.metrics().connections_open.decrement();
        self.0.ended.notify_one();
    }
}
