//! How many connections there may be, in all and per client, and how many each worker has.
//!
//! A [`Place`] is taken before a connection reaches a worker, so that what is over a limit costs no worker anything, and
//! it is given back when it is dropped. The counts of clients are behind a few locks that are held for one look-up when a
//! connection begins and when it ends; no request takes one.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use store::model::Moment;

use crate::{answers::Reason, failures::Failures, metrics::Metrics};

/// Locks over which the clients are spread.
const SHARDS: usize = 16;

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many are open as may be (`max_connections`).
    All,
    /// Its client has as many as it may (`max_connections_per_client`).
    Client,
}

impl Full {
    /// Why, for the log, the metrics and the client.
    pub(crate) const fn reason(self) -> Reason {
        match self {
            Self::All => Reason::TooManyConnections,
            Self::Client => Reason::ClientConnections,
        }
    }
}

/// The connections that are open, in all, by client and by worker.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    most_per_client: usize,
    open: AtomicUsize,
    workers: Box<[AtomicUsize]>,
    clients: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
    hasher: RandomState,
    metrics: Arc<Metrics>,
    /// What the log shows of connections that were refused, by the time since this was made.
    shown: (Failures, Instant),
}

impl Places {
    pub(crate) fn new(
        most: usize,
        most_per_client: usize,
        workers: usize,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_per_client,
            open: AtomicUsize::new(0),
            workers: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            clients: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            metrics,
            shown: (Failures::default(), Instant::now()),
        })
    }

    /// Takes a place for a connection of `worker`. A client that is `None` is not counted: the peer stands for many.
    ///
    /// # Errors
    /// Which limit is reached; it was counted.
    pub(crate) fn take(self: &Arc<Self>, worker: usize, client: Option<IpAddr>) -> Result<Place, Full> {
        if self.open.fetch_add(1, Relaxed) >= self.most {
            self.open.fetch_sub(1, Relaxed);
            self.metrics.connections_refused.increment();
            return Err(Full::All);
        }
        self.of_worker(worker, |count| count.fetch_add(1, Relaxed));
        self.metrics.connections_open.increment();
        let mut place = Place { places: Arc::clone(self), worker, client: None };
        if let Some(client) = client {
            place.count_for(client)?;
        }
        self.metrics.connections.increment();
        Ok(place)
    }

    /// Counts a connection over a limit among the failures and the responses, if there was one, and tells the log of some.
    pub(crate) fn note_refused(&self, full: Full, peer: SocketAddr, answered: bool) {
        let reason = full.reason();
        self.metrics.failed(reason);
        if answered {
            self.metrics.responded(reason.status());
        }
        let (shown, since) = &self.shown;
        let now = Moment(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
        let Some(left_out) = shown.is_due(reason, "", now) else { return };
        let most = match full {
            Full::All => self.most,
            Full::Client => self.most_per_client,
        };
        tracing::warn!(reason = reason.word(), %peer, most, left_out, "a connection was refused: {}", reason.title());
    }

    /// The connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// The connections that a worker has, with those that it has not taken yet.
    pub(crate) fn of(&self, worker: usize) -> usize {
        self.workers.get(worker).map_or(0, |it| it.load(Relaxed))
    }

    fn of_worker(&self, worker: usize, change: impl FnOnce(&AtomicUsize) -> usize) {
        if let Some(count) = self.workers.get(worker) {
            change(count);
        }
    }

    fn clients(&self, client: &IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let shard = self.hasher.hash_one(client) % SHARDS as u64;
        // Counting cannot leave the table half changed.
        self.clients[usize::try_from(shard).unwrap_or(0)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    worker: usize,
    client: Option<IpAddr>,
}

impl Place {
    /// Counts the connection for the client that its PROXY header names, instead of its peer.
    ///
    /// # Errors
    /// The client has as many as it may; it was counted.
    pub(crate) fn count_for(&mut self, client: IpAddr) -> Result<(), Full> {
        let client = network(client);
        if self.client == Some(client) {
            return Ok(());
        }
        self.forget_client();
        let mut clients = self.places.clients(&client);
        let count = clients.entry(client).or_default();
        if *count >= self.places.most_per_client {
            self.places.metrics.connections_refused_client.increment();
            return Err(Full::Client);
        }
        *count += 1;
        drop(clients);
        self.client = Some(client);
        Ok(())
    }

    /// The worker that it is counted for.
    pub(super) const fn worker(&self) -> usize {
        self.worker
    }

    /// Another worker has the connection.
    pub(super) fn move_to(&mut self, worker: usize) {
        if worker == self.worker {
            return;
        }
        self.places.of_worker(self.worker, |count| count.fetch_sub(1, Relaxed));
        self.places.of_worker(worker, |count| count.fetch_add(1, Relaxed));
        self.worker = worker;
    }

    fn forget_client(&mut self) {
        let Some(client) = self.client.take() else { return };
        let mut clients = self.places.clients(&client);
        if let Some(count) = clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&client);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.forget_client();
        self.places.of_worker(self.worker, |count| count.fetch_sub(1, Relaxed));
        self.places.open.fetch_sub(1, Relaxed);
        self.places.metrics.connections_open.decrement();
    }
}

/// Whose connection it is: a host's IPv4 address, or the /64 of which an IPv6 host may use every address.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_has_its_share_and_gets_it_back() {
        let places = Places::new(100, 2, 1, Arc::default());
        let take = |client: &str| places.take(0, Some(ip(client)));
        let kept = [take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap()];
        assert_eq!(take("192.0.2.1").unwrap_err(), Full::Client);
        assert_eq!((places.open(), places.metrics.connections_refused_client.get()), (2, 1));
        assert!(take("192.0.2.2").is_ok());
        assert!(places.take(0, None).is_ok(), "a peer that stands for many clients");
        drop(kept);
        assert!(take("192.0.2.1").is_ok());
        let _six = [take("2001:db8::1").unwrap(), take("2001:db8::ffff:1").unwrap()];
        assert!(take("2001:db8:0:0:1::").is_err() && take("2001:db8:0:1::1").is_ok());
        assert_eq!((places.open(), places.of(0)), (2, 2));
        drop(_six);
        assert!(places.clients.iter().all(|it| it.lock().unwrap().is_empty()), "nothing is kept of them");
    }

    #[test]
    fn all_together_have_a_limit() {
        let places = Places::new(2, 2, 1, Arc::default());
        let kept = [places.take(0, None).unwrap(), places.take(0, Some(ip("192.0.2.1"))).unwrap()];
        assert_eq!(places.take(0, None).unwrap_err(), Full::All);
        assert_eq!(places.metrics.connections_refused.get(), 1);
        drop(kept);
        assert!(places.take(0, None).is_ok());
        assert_eq!(places.metrics.connections_open.get(), 0);
    }

    #[test]
    fn a_place_can_move_to_another_worker_and_another_client() {
        let places = Places::new(9, 1, 2, Arc::default());
        let mut place = places.take(0, None).unwrap();
        place.move_to(1);
        assert_eq!((places.of(0), places.of(1)), (0, 1));
        place.count_for(ip("192.0.2.1")).unwrap();
        place.count_for(ip("192.0.2.1")).unwrap();
        let mut other = places.take(0, None).unwrap();
        assert_eq!(other.count_for(ip("192.0.2.1")), Err(Full::Client));
        place.count_for(ip("192.0.2.2")).unwrap();
        assert_eq!(other.count_for(ip("192.0.2.1")), Ok(()));
        drop((place, other));
        assert_eq!((places.open(), places.of(0), places.of(1)), (0, 0, 0));
    }
}
