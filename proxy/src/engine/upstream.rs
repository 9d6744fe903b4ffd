//! A worker's connections to instances. This module alone owns them: it makes them, lends each to one request at a
//! time ([`InUse`]), takes them back, and closes them.
//!
//! One owner, because a receipt for a drain depends on it: a worker acknowledges drains only after every idle connection
//! that they exclude is closed, and a request counts as in flight until its connection is idle again or closed.

use std::{
    cell::{Cell, Ref, RefCell},
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use store::drain::Drains;
use tokio::{sync::watch, time::Instant};

use super::{
    buffer::Buffers,
    cached_time::CachedTime,
    dial::{DialError, establish, set_up},
    pool::{Pool, UpstreamConnection},
    pump::release,
    waiting::{HANDED_IN_A_ROW, Ticket, Waiting},
};
use crate::{
    excluded::Excluded,
    happy_eyeballs::{self, DialAddresses, RecentFailures},
    instance::{InFlight, Instance},
    proxy_protocol::Addresses,
    service::{
        circuit::{Admitted, Circuit, Full},
        connections::Connections,
    },
    shared::Shared,
};

/// What a new connection is made with.
#[derive(Debug)]
pub(crate) struct Dial<'a> {
    /// Where.
    pub(crate) addresses: &'a DialAddresses,
    pub(crate) terms: &'a Connections,
    /// The ends of the client's connection.
    pub(crate) client: Addresses,
    /// Its place, where connections are limited.
    pub(crate) place: Option<Admitted>,
    /// How long it may take in all.
    pub(crate) within: Duration,
}

/// What comes of waiting for a connection.
#[derive(Debug)]
pub(crate) enum Turn {
    /// A new one may be made.
    Place(Admitted),
    /// One is free.
    Connection(Box<UpstreamConnection>),
}

/// The connections of one worker, and the drains that they must obey.
#[derive(Debug)]
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    buffers: Rc<Buffers>,
    time: Rc<CachedTime>,
    /// The worker's number, under which it acknowledges drains.
    worker: usize,
    published: RefCell<watch::Receiver<Arc<Drains>>>,
    obeyed: RefCell<Obeyed>,
    pool: RefCell<Pool>,
    waiting: RefCell<Waiting>,
    recent_failures: RefCell<RecentFailures>,
    /// All requests are cut, because the gateway's time to stop is over.
    pub(crate) cuts_all: Cell<bool>,
}

/// The drains as this worker obeys them.
#[derive(Debug, Default)]
pub(crate) struct Obeyed {
    all: Arc<Drains>,
    /// The instances that they exclude now.
    pub(crate) excluded: Excluded,
    /// Grows whenever `excluded` changes.
    pub(crate) version: u64,
}

impl Upstream {
    /// No connections yet.
    pub(crate) fn new(
        shared: Arc<Shared>,
        worker: usize,
        buffers: Rc<Buffers>,
        time: Rc<CachedTime>,
    ) -> Rc<Self> {
        let upstream = Rc::new(Self {
            published: RefCell::new(shared.handle.drains()),
            shared,
            buffers,
            time,
            worker,
            obeyed: RefCell::default(),
            pool: RefCell::default(),
            waiting: RefCell::default(),
            recent_failures: RefCell::default(),
            cuts_all: Cell::new(false),
        });
        upstream.published.borrow_mut().mark_changed();
        upstream.obey_newest_drains();
        upstream
    }

    /// Obeys the newest drains from now on: the idle connections to instances that they exclude are closed, and then the
    /// drains are acknowledged.
    fn obey_newest_drains(&self) {
        let mut published = self.published.borrow_mut();
        let mut obeyed = self.obeyed.borrow_mut();
        let changed = published.has_changed().unwrap_or(false);
        if !changed && obeyed.excluded.until.is_none_or(|until| self.shared.handle.now() < until) {
            return;
        }
        let now = self.shared.handle.now();
        obeyed.all = Arc::clone(&published.borrow_and_update());
        obeyed.excluded = Excluded::by(&obeyed.all, now);
        obeyed.version += 1;
        let excluded = |connection: &mut UpstreamConnection| {
            obeyed.excluded.contains(&connection.instance.endpoint, now)
        };
        let closed = self.pool.borrow_mut().remove(excluded);
        self.count_closed(closed);
        self.shared.acknowledge(self.worker, Arc::clone(&obeyed.all));
    }

    fn count_closed(&self, closed: usize) {
        for _ in 0..closed {
            self.shared.metrics.idle.decrement();
        }
    }

    /// The newest drains, which this worker obeys from now on.
    pub(crate) fn obeyed(&self) -> Ref<'_, Obeyed> {
        self.obey_newest_drains();
        self.obeyed.borrow()
    }

    /// True when a drain excludes the instance from new requests.
    pub(crate) fn is_excluded(&self, instance: &Instance) -> bool {
        let obeyed = self.obeyed();
        !obeyed.excluded.is_empty() && obeyed.excluded.contains(&instance.endpoint, self.shared.handle.now())
    }

    /// The order in which the addresses of a host name are dialled.
    pub(crate) fn dial_order(&self, addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
        let now = self.shared.handle.now();
        self.recent_failures.borrow().order(addresses, port, fastrand::usize(..), now)
    }

    /// Takes an idle connection for an instance at one of these addresses out of the pool.
    fn take_idle(
        &self,
        instance: &Instance,
        addresses: &DialAddresses,
        terms: &Connections,
    ) -> Option<UpstreamConnection> {
        let (mut pool, now) = (self.pool.borrow_mut(), self.time.now());
        let before = pool.len();
        let admits = |it: &UpstreamConnection| terms.admit(it.identity.as_ref(), &instance.endpoint);
        let connection = addresses.all().iter().find_map(|address| pool.take((*address, now), terms, admits));
        self.count_closed((before - pool.len()) as usize);
        connection
    }

    /// Makes a connection to the first of these addresses that accepts one.
    async fn connect(
        &self,
        instance: Arc<Instance>,
        dial: Dial<'_>,
    ) -> Result<UpstreamConnection, DialError> {
        let end = Instant::now() + dial.within;
        let race = happy_eyeballs::connect(dial.addresses.all(), dial.within).await;
        if let DialAddresses::Several(_) = dial.addresses {
            let winner = race.outcome.as_ref().ok().map(|(_, address)| *address);
            self.recent_failures.borrow_mut().learn(&race.losers, winner, self.shared.handle.now());
        }
        let terms = dial.terms;
        let identity = terms.tls.as_ref().map(|it| it.identity(&instance.endpoint));
        let ready = async {
            let (stream, address) = race.outcome.map_err(DialError::Connect)?;
            set_up(&stream, self.shared.config.limits.tcp_keepalive).map_err(DialError::Connect)?;
            let stream = establish(stream, terms, &dial.client, identity.as_ref(), end).await?;
            Ok((stream, address))
        };
        let ready = ready.await;
        if ready.is_err() {
            self.shared.metrics.connect_failures.increment();
        }
        let (stream, address) = ready?;
        Ok(UpstreamConnection::new(stream, (instance, address), (terms, identity), dial.place))
    }

    /// Takes a connection back after a whole exchange: for one that waits for it, into the pool, or to be closed.
    fn give_back(&self, mut connection: UpstreamConnection) {
        connection.served = connection.served.saturating_add(1);
        let serves_on = !connection.told && connection.keep.allows(connection.served);
        if !serves_on || self.is_excluded(&connection.instance) || self.shared.is_closing() {
            return;
        }
        connection.reused = true;
        connection.idle_since = self.time.now();
        let Some(connection) = self.hand_over(connection) else { return };
        if self.pool.borrow_mut().put(connection).is_none() {
            self.shared.metrics.idle.increment();
        }
    }

    /// Gives a connection straight to a request of this worker that waits for one to the same instance; without that, each
    /// request would need a new one just while there are too many. Only so often in a row: those who wait at other workers,
    /// or for other instances, have their turn too.
    fn hand_over(&self, mut connection: UpstreamConnection) -> Option<UpstreamConnection> {
        let Some(circuit) = connection.place.as_ref().map(|it| Arc::clone(it.circuit())) else {
            return Some(connection);
        };
        if !connection.rests && connection.handed < HANDED_IN_A_ROW && circuit.connections_wanted() > 0 {
            while let Some(waiter) = self.waiting.borrow_mut().next(&connection, &circuit) {
                connection.handed += 1;
                match waiter.send(connection) {
                    Ok(()) => return None,
                    Err(left) => connection = left,
                }
            }
        }
        connection.handed = 0;
        Some(connection)
    }

    /// Closes idle connections of a service whose places others wait for, here and at the other workers.
    fn make_room(&self, of: &Arc<Circuit>) {
        let closed = self.pool.borrow_mut().make_room(Some(of));
        self.count_closed(closed);
        if of.idle() > 0 {
            self.shared.crowded.send_replace(());
        }
    }

    /// Closes idle connections whose places others wait for, also if those are at other workers.
    pub(crate) async fn follow_crowds(&self) {
        let mut crowded = self.shared.crowded.subscribe();
        while crowded.changed().await.is_ok() {
            let closed = self.pool.borrow_mut().make_room(None);
            self.count_closed(closed);
        }
    }

    /// Obeys new drains also while no request comes in.
    pub(crate) async fn follow_drains(&self) {
        let mut published = self.shared.handle.drains();
        loop {
            // First the drains published since this worker was made: no change will announce them.
            self.obey_newest_drains();
            if published.changed().await.is_err() {
                return;
            }
        }
    }

    /// Closes connections that ended or were idle for too long, and forgets old failures of addresses.
    pub(crate) fn sweep(&self) {
        let closed = self.pool.borrow_mut().sweep();
        self.count_closed(closed);
        self.recent_failures.borrow_mut().forget(self.shared.handle.now());
    }
}

/// One request's use of an instance. It counts as in flight from the pick until the connection it used is idle again
/// or closed, however it ends, so a drained instance's count is zero only when no connection of a request touches it.
///
/// Dropping it closes the connection: after a response that was not read to its end the connection cannot serve again.
#[derive(Debug)]
pub(crate) struct InUse {
    upstream: Rc<Upstream>,
    connection: Option<UpstreamConnection>,
    in_flight: Option<InFlight>,
}

impl InUse {
    /// For a request that was counted in and has no connection yet.
    pub(crate) fn new(upstream: &Rc<Upstream>, in_flight: InFlight) -> Self {
        Self { upstream: Rc::clone(upstream), connection: None, in_flight: Some(in_flight) }
    }

    /// The instance, until the connection is given back or closed.
    pub(crate) fn instance(&self) -> Option<&Arc<Instance>> {
        self.in_flight.as_ref().map(InFlight::instance)
    }

    /// True when the request is to be cut, because a drain of its instance or the gateway's shutdown has waited long enough.
    pub(crate) fn is_cut(&self) -> bool {
        self.upstream.cuts_all.get() || self.in_flight.as_ref().is_some_and(InFlight::is_cut)
    }

    /// Uses an idle connection to one of these addresses; false when there is none. `surely`: one that has ended is never
    /// used, at the cost of a system call.
    pub(crate) fn take_idle(&mut self, addresses: &DialAddresses, terms: &Connections, surely: bool) -> bool {
        let Some(in_flight) = &self.in_flight else { return false };
        while let Some(mut connection) = self.upstream.take_idle(in_flight.instance(), addresses, terms) {
            if surely && !connection.is_quiet_for_sure() {
                continue;
            }
            // The address may have been registered under another id or host name since the connection was made. A
            // drain finds a connection by the instance that it served last.
            connection.instance = Arc::clone(in_flight.instance());
            self.connection = Some(connection);
            return true;
        }
        false
    }

    /// Waits for a connection where there are as many as may be: for the place of another, or for one that another request
    /// of this worker does not need any more.
    pub(crate) fn turn(
        &self,
        terms: &Connections,
        circuit: &Arc<Circuit>,
    ) -> impl Future<Output = Result<Turn, Full>> + use<> {
        let (upstream, circuit) = (Rc::clone(&self.upstream), Arc::clone(circuit));
        let waits = self.instance().map(|instance| {
            let identity = terms.tls.as_ref().map(|it| it.identity(&instance.endpoint));
            upstream.waiting.borrow_mut().enlist((instance.number, identity), &circuit)
        });
        async move {
            let Some((ticket, handed)) = waits else { return Err(Full::Connections) };
            let _leaves = Leaves(upstream, ticket);
            tokio::select! {
                biased;
                Ok(connection) = handed => Ok(Turn::Connection(Box::new(connection))),
                place = circuit.connection() => place.map(Turn::Place),
            }
        }
    }

    /// Closes idle connections whose places requests like this one wait for.
    pub(crate) fn make_room(&self, circuit: &Arc<Circuit>) {
        self.upstream.make_room(circuit);
    }

    /// Uses a connection that another request has just left; if it has ended meanwhile, its place is left.
    pub(crate) fn take_over(&mut self, mut connection: UpstreamConnection) -> Option<Admitted> {
        if !connection.is_quiet_for_sure() {
            return connection.place.take();
        }
        if let Some(in_flight) = &self.in_flight {
            connection.instance = Arc::clone(in_flight.instance());
        }
        self.connection = Some(connection);
        None
    }

    /// Uses a new connection, to the first of these addresses that accepts one.
    ///
    /// # Errors
    /// When there is no connection to any of them.
    pub(crate) async fn connect(&mut self, dial: Dial<'_>) -> Result<(), DialError> {
        let instance = self.instance().ok_or_else(|| DialError::Connect(ErrorKind::NotConnected.into()))?;
        self.connection = Some(self.upstream.connect(Arc::clone(instance), dial).await?);
        Ok(())
    }

    /// The connection; `None` before there is one and after its end.
    pub(crate) const fn connection(&mut self) -> Option<&mut UpstreamConnection> {
        self.connection.as_mut()
    }

    /// The response was read to its end: the connection may serve another request.
    pub(crate) fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            if connection.input.is_none() {
                self.upstream.give_back(connection);
            } else {
                // Octets behind the response, which were not asked for.
                self.connection = Some(connection);
            }
        }
        self.close();
    }

    /// Closes the connection and counts the request out.
    pub(crate) fn close(&mut self) {
        self.close_connection();
        self.in_flight = None;
    }

    /// Closes the connection; the request stays in flight and may get another one.
    pub(crate) fn close_connection(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            release(&mut connection.input, &self.upstream.buffers);
        }
    }
}

/// Leaves the line of those who wait for a connection.
struct Leaves(Rc<Upstream>, Ticket);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.waiting.borrow_mut().leave(self.1);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.close();
    }
}
