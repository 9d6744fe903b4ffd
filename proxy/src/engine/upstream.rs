//! A worker's connections to instances. This module alone owns them: it makes them, lends each to one request at a
//! time ([`InUse`]), takes them back, and closes them.
//!
//! One owner, because a receipt for a drain depends on it: a worker acknowledges drains only after every idle connection
//! that they exclude is closed, and a request counts as in flight until its connection is idle again or closed.

use std::{
    cell::{Ref, RefCell},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use store::drain::Drains;
use tokio::{sync::watch, time::Instant};

use super::{
    buffer::Buffers,
    pool::{Pool, UpstreamConnection},
    pump::release,
    stream::Stream,
};
use crate::{
    excluded::Excluded,
    happy_eyeballs::{self, DialAddresses, RecentFailures},
    instance::{InFlight, Instance},
    shared::Shared,
};

/// The connections of one worker, and the drains that they must obey.
#[derive(Debug)]
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    buffers: Rc<Buffers>,
    /// The worker's number, under which it acknowledges drains.
    worker: usize,
    published: RefCell<watch::Receiver<Arc<Drains>>>,
    obeyed: RefCell<Obeyed>,
    pool: RefCell<Pool>,
    recent_failures: RefCell<RecentFailures>,
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
    pub(crate) fn new(shared: Arc<Shared>, worker: usize, buffers: Rc<Buffers>) -> Rc<Self> {
        let upstream = Rc::new(Self {
            published: RefCell::new(shared.handle.drains()),
            shared,
            buffers,
            worker,
            obeyed: RefCell::default(),
            pool: RefCell::default(),
            recent_failures: RefCell::default(),
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

    /// Takes an idle connection to one of these addresses out of the pool.
    fn take_idle(&self, addresses: &DialAddresses) -> Option<UpstreamConnection> {
        let idle_for = self.shared.config.limits.idle_for;
        let mut pool = self.pool.borrow_mut();
        let before = pool.len();
        let connection = addresses.all().iter().find_map(|address| pool.take(*address, idle_for));
        self.count_closed((before - pool.len()) as usize);
        connection
    }

    /// Makes a connection to the first of these addresses that accepts one.
    async fn connect(
        &self,
        instance: Arc<Instance>,
        addresses: &DialAddresses,
        limit: Duration,
    ) -> io::Result<UpstreamConnection> {
        let race = happy_eyeballs::connect(addresses.all(), limit).await;
        if let DialAddresses::Several(_) = addresses {
            let winner = race.outcome.as_ref().ok().map(|(_, address)| *address);
            self.recent_failures.borrow_mut().learn(&race.losers, winner, self.shared.handle.now());
        }
        let connection = race.outcome.and_then(|(stream, address)| {
            stream.set_nodelay(true)?;
            Ok(UpstreamConnection::new(Stream::Plain(stream), instance, address))
        });
        if connection.is_err() {
            self.shared.metrics.connect_failures.increment();
        }
        connection
    }

    /// Takes a connection back after a whole exchange, into the pool or to be closed.
    fn give_back(&self, mut connection: UpstreamConnection) {
        if self.is_excluded(&connection.instance) || self.shared.is_closing() {
            return;
        }
        connection.reused = true;
        connection.idle_since = Instant::now();
        if self.pool.borrow_mut().put(connection, self.shared.config.limits.idle_per_instance).is_none() {
            self.shared.metrics.idle.increment();
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
        let closed = self.pool.borrow_mut().sweep(self.shared.config.limits.idle_for);
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

    /// True when the request is to be cut, because a drain of its instance has waited long enough.
    pub(crate) fn is_cut(&self) -> bool {
        self.in_flight.as_ref().is_some_and(InFlight::is_cut)
    }

    /// Uses an idle connection to one of these addresses; false when there is none. `surely`: one that has ended is never
    /// used, at the cost of a system call.
    pub(crate) fn take_idle(&mut self, addresses: &DialAddresses, surely: bool) -> bool {
        let Some(in_flight) = &self.in_flight else { return false };
        while let Some(mut connection) = self.upstream.take_idle(addresses) {
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

    /// Uses a new connection, to the first of these addresses that accepts one.
    ///
    /// # Errors
    /// When there is no connection to any of them.
    pub(crate) async fn connect(&mut self, addresses: &DialAddresses, limit: Duration) -> io::Result<()> {
        let instance = self.instance().ok_or(io::ErrorKind::NotConnected)?;
        self.connection = Some(self.upstream.connect(Arc::clone(instance), addresses, limit).await?);
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
                // Octets behind a response that nobody asked for.
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

impl Drop for InUse {
    fn drop(&mut self) {
        self.close();
    }
}
