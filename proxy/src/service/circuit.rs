//! Circuit breaking: the most requests in flight, connections and waiting requests of a service, of all workers together.
//!
//! What exceeds a limit waits in line, and the line is bounded: a request that finds it full is refused at once. Waiting
//! is fair (first come, first served) and ends without trace when the future is dropped. The line is tokio's semaphore,
//! which wakes across threads; without a limit nothing of this is touched.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::Semaphore;

/// The limits of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CircuitLimits {
    /// Connections to its instances.
    pub(crate) connections: u32,
    /// Requests that wait, for their turn or for a connection.
    pub(crate) pending: u32,
    /// Requests in flight.
    pub(crate) requests: u32,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// That of requests in flight, and the line is full.
    Requests,
    /// That of connections, and the line is full.
    Connections,
}

/// The counts of a service. Kept when its limits change; see [`Circuit::limit`].
#[derive(Debug)]
pub(crate) struct Circuit {
    requests: Line,
    connections: Line,
    pending: AtomicU32,
    most_pending: AtomicU32,
    /// Those of `pending` that wait for a connection.
    wanting: AtomicU32,
    /// Connections that serve no request now.
    idle: AtomicU32,
}

/// A number of places, and those who wait for one.
#[derive(Debug)]
struct Line {
    places: Semaphore,
    limit: AtomicU32,
    /// Places to take away when they are free, after the limit was lowered.
    excess: AtomicU32,
}

/// A place taken; dropping it gives it to the first in line.
#[derive(Debug)]
pub(crate) struct Admitted {
    circuit: Arc<Circuit>,
    connection: bool,
}

impl Circuit {
    /// With nothing in flight.
    pub(crate) fn new(limits: CircuitLimits) -> Arc<Self> {
        Arc::new(Self {
            requests: Line::new(limits.requests),
            connections: Line::new(limits.connections),
            pending: AtomicU32::new(0),
            most_pending: AtomicU32::new(limits.pending),
            wanting: AtomicU32::new(0),
            idle: AtomicU32::new(0),
        })
    }

    /// Changes the limits; what is in flight goes on.
    pub(crate) fn limit(&self, limits: CircuitLimits) {
        self.requests.resize(limits.requests);
        self.connections.resize(limits.connections);
        self.most_pending.store(limits.pending, Ordering::Relaxed);
    }

    /// Admits a request, when it is its turn.
    ///
    /// # Errors
    /// Too many are in flight and too many wait already.
    pub(crate) async fn request(self: &Arc<Self>) -> Result<Admitted, Full> {
        self.admit(&self.requests, false).await.ok_or(Full::Requests)
    }

    /// Allows a new connection, when it is its turn.
    ///
    /// # Errors
    /// There are too many and too many wait already.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Admitted, Full> {
        self.admit(&self.connections, true).await.ok_or(Full::Connections)
    }

    /// Admits a request if that needs no waiting.
    pub(crate) fn request_at_once(self: &Arc<Self>) -> Option<Admitted> {
        self.admit_at_once(&self.requests, false)
    }

    /// Allows a new connection if that needs no waiting.
    pub(crate) fn connection_at_once(self: &Arc<Self>) -> Option<Admitted> {
        self.admit_at_once(&self.connections, true)
    }

    /// How many wait for a connection: as many idle ones are better closed than kept.
    pub(crate) fn connections_wanted(&self) -> u32 {
        self.wanting.load(Ordering::SeqCst)
    }

    /// Connections that serve no request now, of all workers. A request that has begun to wait for a connection looks at this,
    /// and a worker that has counted an idle one looks at [`Self::connections_wanted`]: the later of the two sees the other.
    pub(crate) fn idle(&self) -> u32 {
        self.idle.load(Ordering::SeqCst)
    }

    /// True if no request may wait.
    pub(crate) fn has_no_line(&self) -> bool {
        self.most_pending.load(Ordering::Relaxed) == 0
    }

    /// Requests that wait.
    #[cfg(test)]
    pub(crate) fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    fn admit_at_once(self: &Arc<Self>, line: &Line, connection: bool) -> Option<Admitted> {
        line.places.try_acquire().ok()?.forget();
        Some(Admitted { circuit: Arc::clone(self), connection })
    }

    async fn admit(self: &Arc<Self>, line: &Line, connection: bool) -> Option<Admitted> {
        if let Some(admitted) = self.admit_at_once(line, connection) {
            return Some(admitted);
        }
        let _waiting = self.wait(connection)?;
        // The semaphore is never closed.
        line.places.acquire().await.ok()?.forget();
        Some(Admitted { circuit: Arc::clone(self), connection })
    }

    fn wait(&self, connection: bool) -> Option<Waiting<'_>> {
        let most = self.most_pending.load(Ordering::Relaxed);
        let more = |pending: u32| (pending < most).then_some(pending + 1);
        self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let wanting = connection.then_some(&self.wanting);
        if let Some(wanting) = wanting {
            wanting.fetch_add(1, Ordering::SeqCst);
        }
        Some(Waiting { pending: &self.pending, wanting })
    }
}

/// One that waits; counted out when it is dropped, also before its turn.
struct Waiting<'a> {
    pending: &'a AtomicU32,
    wanting: Option<&'a AtomicU32>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
        if let Some(wanting) = self.wanting {
            wanting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Line {
    fn new(limit: u32) -> Self {
        Self {
            places: Semaphore::new((limit as usize).min(Semaphore::MAX_PERMITS)),
            limit: AtomicU32::new(limit),
            excess: AtomicU32::new(0),
        }
    }

    fn resize(&self, limit: u32) {
        let before = self.limit.swap(limit, Ordering::Relaxed);
        if limit > before {
            // What was to be taken away stays first.
            let mut more = limit - before;
            let less = |excess: u32| Some(excess - excess.min(more));
            let excess =
                self.excess.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_default();
            more -= excess.min(more);
            self.places.add_permits(more as usize);
        } else {
            let fewer = (before - limit) as usize;
            let taken = self.places.forget_permits(fewer);
            self.excess.fetch_add((fewer - taken) as u32, Ordering::Relaxed);
        }
    }

    fn give_back(&self) {
        let one_less = |excess: u32| excess.checked_sub(1);
        if self.excess.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            self.places.add_permits(1);
        }
    }
}

impl Admitted {
    /// Counts the connection of this place as idle, until that is dropped.
    pub(crate) fn idle(&self) -> IdlePlace {
        self.circuit.idle.fetch_add(1, Ordering::SeqCst);
        IdlePlace(Arc::clone(&self.circuit))
    }

    /// Of which service it is.
    pub(crate) const fn circuit(&self) -> &Arc<Circuit> {
        &self.circuit
    }
}

/// A connection that is idle; dropping this counts it out.
#[derive(Debug)]
pub(crate) struct IdlePlace(Arc<Circuit>);

impl Drop for IdlePlace {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let line = if self.connection { &self.circuit.connections } else { &self.circuit.requests };
        line.give_back();
    }
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
