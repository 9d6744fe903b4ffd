//! How many connections a listener and a client may have.
//!
//! Clients are counted over all transports together, so that a client that comes by three of them does not get three
//! times as many connections.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What a listener allows; the clients are counted over all of them.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(super) connections: usize,
    pub(super) idle: Duration,
    clients: Arc<Clients>,
}

impl Limits {
    pub(crate) fn new(connections: usize, per_client: usize, idle: Duration) -> Self {
        let clients = Clients { most: per_client, open: Mutex::default() };
        Self { connections, idle, clients: Arc::new(clients) }
    }

    /// One of a client's connections, unless it has as many as it may.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Place> {
        self.clients.admit(peer)
    }
}

/// Connections by client.
#[derive(Debug)]
struct Clients {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One of a client's connections, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let client = client(peer);
        let mut open = self.open();
        let count = open.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Place { clients: Arc::clone(self), client })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Counting cannot leave the table half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.clients.open();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// Whose connection it is: a host's IPv4 address, or the /64 of which an IPv6 host may use every address.
fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_gets_it_back() {
        let clients = Arc::new(Clients { most: 2, open: Mutex::default() });
        let admit = |text: &str| clients.admit(text.parse().unwrap());
        let kept = [admit("192.0.2.1").unwrap(), admit("::ffff:192.0.2.1").unwrap()];
        assert!(admit("192.0.2.1").is_none() && admit("192.0.2.2").is_some());
        drop(kept);
        assert!(admit("192.0.2.1").is_some());
        assert!(clients.open().is_empty(), "nothing is kept of clients that are gone");
        let _kept = [admit("2001:db8::1").unwrap(), admit("2001:db8::ffff:1").unwrap()];
        assert!(admit("2001:db8:0:0:1::").is_none() && admit("2001:db8:0:1::1").is_some());
    }
}
