//! The registry's DNS server: one address, over UDP and TCP, as Consul's port 8600.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use store::{Clock, engine::catalog::Catalog};
use tokio::sync::watch;

use super::{Draw, Names, Offer, answer, metrics::RegistryMetrics, packet};
use crate::{
    answer::Answer,
    listeners::{Error, Limits, ListenerContext, Listeners, Responder, udp::OneByOne},
    metrics::Metrics,
    packet::{Dropped, MAX_DATAGRAM, PAYLOAD, Response, Transport},
};

/// A catalog that answers packets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    catalog: Arc<dyn Catalog>,
    names: Names,
    clock: Clock,
    turn: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Registry {
    /// The names of a catalog.
    #[must_use]
    pub fn new(catalog: Arc<dyn Catalog>, names: Names, clock: Clock) -> Self {
        let (turn, metrics) = (AtomicUsize::default(), Arc::default());
        Self { shared: Arc::new(Shared { catalog, names, clock, turn, metrics }) }
    }

    fn draw(&self) -> Draw {
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        Draw { turn, now: self.shared.clock.now() }
    }
}

/// The networks whose clients are answered in as large a datagram as they take; see [`packet`].
static INSIDE: LazyLock<Vec<IpNet>> = LazyLock::new(Offer::inside);

/// What a datagram to a client has room for, in octets.
fn room(client: IpAddr) -> u16 {
    let client = client.to_canonical();
    if INSIDE.iter().any(|network| network.contains(&client)) { MAX_DATAGRAM } else { PAYLOAD }
}

impl Responder for Registry {
    fn reply(&self, packet: &[u8], peer: SocketAddr, transport: Transport) -> Result<Response, Dropped> {
        let outcome = match peer.port() {
            0 => Err(Dropped::NoReturn),
            _ => packet::respond(packet, peer.ip(), (transport, room(peer.ip())), |question| {
                let mut found = Answer::default();
                let Shared { catalog, names, .. } = &*self.shared;
                catalog.look(&mut |view| found = answer(view, names, question, self.draw()));
                found
            }),
        };
        self.shared.metrics.record(transport, &outcome);
        outcome
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }
}

/// The listeners, bound and not yet served.
#[derive(Debug)]
pub struct Server {
    listeners: Listeners,
    address: SocketAddr,
    limits: Limits,
    registry: Registry,
}

/// TCP connections open at a time; more are closed at once.
const CONNECTIONS: usize = 1024;
/// TCP connections of one client: fewer than all, and more than a proxy in front of many hosts needs.
const PER_CLIENT: usize = 256;
/// How long a TCP connection may be idle (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// Binds an address over UDP and TCP; port 0 takes a free port, the same for both.
///
/// # Errors
/// When the address cannot be bound; the protocol is named.
pub fn bind(address: SocketAddr, registry: Registry) -> Result<Server, Error> {
    let mut listeners = Listeners::default();
    listeners.bind_plain(address, 1)?;
    let address = listeners.addresses(Transport::Tcp).first().copied().unwrap_or(address);
    let limits = Limits::new(CONNECTIONS, PER_CLIENT, IDLE);
    Ok(Server { listeners, address, limits, registry })
}

impl Server {
    /// The address, with the port that was given where the configuration has 0.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<RegistryMetrics> {
        Arc::new(RegistryMetrics::new(Arc::clone(self.registry.metrics())))
    }

    /// Serves until `shutdown` is ready; then finishes what has begun, for at most a second.
    ///
    /// # Errors
    /// When a socket cannot be served at all; errors of single packets and connections are counted instead.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let (stop, stopped) = watch::channel(false);
        let shared = ListenerContext { responder: self.registry.clone(), limits: self.limits, stopped };
        let serving = self.listeners.serve(&shared, "registry-udp", || OneByOne(self.registry.clone()))?;
        tracing::info!(address = %self.address, "serving the registry's names");
        serving.until(shutdown, stop).await
    }
}
