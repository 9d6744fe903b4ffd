//! A worker's connections to instances. This module alone owns them: it makes them, lends each to one request at a
//! time ([`InUse`]), takes them back, and closes them.
//!
//! One owner, because a receipt for a drain depends on it: a worker acknowledges drains only after every connection
//! that they exclude is closed, and a request counts as in flight until its connection is idle again or closed.

use std::{
    cell::{Ref, RefCell},
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use store::drain::Drains;
use tokio::sync::{mpsc, watch};

use crate::{
    excluded::Excluded,
    happy_eyeballs::{self, DialAddresses, RecentFailures},
    instance::{InFlight, Instance},
    pool::{Pool, UpstreamConnection},
    request_body::RequestBody,
    shared::Shared,
};

/// How long a connection may take to be ready for the next request after a response was read to its end.
const READY_PATIENCE: Duration = Duration::from_secs(1);

/// The connections of one worker, and the drains that they must obey.
#[derive(Debug)]
pub(crate) struct Upstream {
    shared: Arc<Shared>,
    /// The worker's number, under which it acknowledges drains.
    worker: usize,
    published: RefCell<watch::Receiver<Arc<Drains>>>,
    obeyed: RefCell<Obeyed>,
    pool: RefCell<Pool>,
    recent_failures: RefCell<RecentFailures>,
    to_close: mpsc::UnboundedSender<ToClose>,
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

/// What is to be closed or acknowledged, in the order of the queue.
#[derive(Debug)]
pub(crate) enum ToClose {
    /// A connection. Its request, if it has one, stays in flight until the connection is closed.
    Connection(UpstreamConnection, Option<InFlight>),
    /// When this is reached, every connection that these drains exclude is closed.
    Acknowledge(Arc<Drains>),
}

impl Upstream {
    /// No connections yet. The second value is the queue for [`Upstream::close_in_order`].
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> (Rc<Self>, mpsc::UnboundedReceiver<ToClose>) {
        // Bounded by the number of connections.
        let (to_close, queue) = mpsc::unbounded_channel();
        let upstream = Rc::new(Self {
            published: RefCell::new(shared.handle.drains()),
            shared,
            worker,
            obeyed: RefCell::default(),
            pool: RefCell::default(),
            recent_failures: RefCell::default(),
            to_close,
        });
        upstream.published.borrow_mut().mark_changed();
        upstream.obey_newest_drains();
        (upstream, queue)
    }

    /// Obeys the newest drains from now on: the connections to instances that they exclude leave the pool, and when
    /// those are closed, the drains are acknowledged.
    fn obey_newest_drains(&self) {
        let now = self.shared.handle.now();
        let mut published = self.published.borrow_mut();
        let mut obeyed = self.obeyed.borrow_mut();
        let changed = published.has_changed().unwrap_or(false);
        if !changed && obeyed.excluded.until.is_none_or(|until| now < until) {
            return;
        }
        obeyed.all = Arc::clone(&published.borrow_and_update());
        obeyed.excluded = Excluded::by(&obeyed.all, now);
        obeyed.version += 1;
        let excluded =
            |connection: &UpstreamConnection| obeyed.excluded.contains(&connection.instance.endpoint, now);
        for connection in self.pool.borrow_mut().remove(excluded) {
            self.shared.metrics.idle.decrement();
            self.close_later(connection, None);
        }
        self.enqueue(ToClose::Acknowledge(Arc::clone(&obeyed.all)));
    }

    /// The newest drains, which this worker obeys from now on.
    pub(crate) fn obeyed(&self) -> Ref<'_, Obeyed> {
        self.obey_newest_drains();
        self.obeyed.borrow()
    }

    /// True when a drain excludes the instance from new requests.
    pub(crate) fn is_excluded(&self, instance: &Instance) -> bool {
        self.obeyed().excluded.contains(&instance.endpoint, self.shared.handle.now())
    }

    /// The order in which the addresses of a host name are dialled.
    pub(crate) fn dial_order(&self, addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
        let now = self.shared.handle.now();
        self.recent_failures.borrow().order(addresses, port, fastrand::usize(..), now)
    }

    /// Takes an idle connection to one of these addresses out of the pool.
    fn take_idle(&self, addresses: &DialAddresses) -> Option<UpstreamConnection> {
        let mut pool = self.pool.borrow_mut();
        let before = pool.len();
        let connection = addresses.all().iter().find_map(|address| pool.take(*address));
        for _ in pool.len()..before {
            self.shared.metrics.idle.decrement();
        }
        connection
    }

    /// Makes a connection to the first of these addresses that accepts one.
    async fn connect(
        &self,
        instance: Arc<Instance>,
        addresses: &DialAddresses,
    ) -> io::Result<UpstreamConnection> {
        let limits = &self.shared.config.limits;
        let race = happy_eyeballs::connect(addresses.all(), limits.connect_timeout).await;
        if let DialAddresses::Several(_) = addresses {
            let winner = race.outcome.as_ref().ok().map(|(_, address)| *address);
            self.recent_failures.borrow_mut().learn(&race.losers, winner, self.shared.handle.now());
        }
        let connection = match race.outcome {
            Ok((stream, address)) => {
                UpstreamConnection::over(stream, instance, address, limits.max_header_bytes).await
            }
            Err(error) => Err(error),
        };
        if connection.is_err() {
            self.shared.metrics.connect_failures.increment();
        }
        connection
    }

    /// Takes a connection back after a whole exchange, into the pool or to be closed.
    fn give_back(self: &Rc<Self>, mut connection: UpstreamConnection, in_flight: InFlight) {
        if connection.sender.is_closed() || self.is_excluded(&connection.instance) || self.shared.is_closing()
        {
            self.close_later(connection, Some(in_flight));
        } else if connection.sender.is_ready() {
            self.keep(connection);
        } else {
            let upstream = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let ready = tokio::time::timeout(READY_PATIENCE, connection.sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) && !upstream.is_excluded(&connection.instance) {
                    upstream.keep(connection);
                    drop(in_flight);
                } else {
                    upstream.close_later(connection, Some(in_flight));
                }
            });
        }
    }

    fn keep(&self, connection: UpstreamConnection) {
        match self.pool.borrow_mut().put(connection, self.shared.config.limits.idle_per_instance) {
            None => self.shared.metrics.idle.increment(),
            Some(surplus) => self.close_later(surplus, None),
        }
    }

    fn close_later(&self, connection: UpstreamConnection, in_flight: Option<InFlight>) {
        self.enqueue(ToClose::Connection(connection, in_flight));
    }

    fn enqueue(&self, item: ToClose) {
        // The receiver is gone only when the thread ends, and then every connection is closed anyway.
        let _ = self.to_close.send(item);
    }

    /// Closes what is in the queue, in order, and acknowledges drains when everything before them is closed.
    pub(crate) async fn close_in_order(&self, mut queue: mpsc::UnboundedReceiver<ToClose>) {
        while let Some(item) = queue.recv().await {
            match item {
                ToClose::Connection(connection, in_flight) => {
                    connection.close().await;
                    drop(in_flight);
                }
                ToClose::Acknowledge(drains) => self.shared.acknowledge(self.worker, drains),
            }
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

    /// Closes connections that were idle for too long, and forgets old failures of addresses.
    pub(crate) fn sweep(&self) {
        for connection in self.pool.borrow_mut().sweep(self.shared.config.limits.idle_for) {
            self.shared.metrics.idle.decrement();
            self.close_later(connection, None);
        }
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

    /// Uses an idle connection to one of these addresses; false when there is none.
    pub(crate) fn take_idle(&mut self, addresses: &DialAddresses) -> bool {
        let (Some(in_flight), Some(mut connection)) = (&self.in_flight, self.upstream.take_idle(addresses))
        else {
            return false;
        };
        // The address may have been registered under another id or host name since the connection was made. A drain
        // finds a connection by the instance that it served last.
        connection.instance = Arc::clone(in_flight.instance());
        self.connection = Some(connection);
        true
    }

    /// Uses a new connection, to the first of these addresses that accepts one.
    ///
    /// # Errors
    /// When there is no connection to any of them.
    pub(crate) async fn connect(&mut self, addresses: &DialAddresses) -> io::Result<()> {
        let instance = self.instance().ok_or(io::ErrorKind::NotConnected)?;
        self.connection = Some(self.upstream.connect(Arc::clone(instance), addresses).await?);
        Ok(())
    }

    /// Where a request is sent; `None` without a connection.
    pub(crate) fn sender(&mut self) -> Option<&mut SendRequest<RequestBody>> {
        self.connection.as_mut().map(|connection| &mut connection.sender)
    }

    /// The response was read to its end: the connection may serve another request.
    pub(crate) fn give_back(&mut self) {
        if let (Some(connection), Some(in_flight)) = (self.connection.take(), self.in_flight.take()) {
            self.upstream.give_back(connection, in_flight);
        }
    }

    /// Closes the connection; the request stays in flight and may get another one.
    pub(crate) fn close_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.upstream.close_later(connection, None);
        }
    }

    /// Closes the connection. The request is in flight until that is done.
    pub(crate) fn close(&mut self) {
        let in_flight = self.in_flight.take();
        if let Some(connection) = self.connection.take() {
            self.upstream.close_later(connection, in_flight);
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.close();
    }
}
