//! The authoritative server: its listeners bound all at once, served until the shutdown, with every task owned.

mod datagrams;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use datagrams::Datagrams;
use futures_util::future::BoxFuture;
use store::vital;
use tokio::sync::watch;

use crate::{
    flatten::refresh::Refresher,
    gate::{self, Gate},
    listeners::{Certificate, Error, Limits, ListenerContext, Listeners, Responder},
    metrics::Metrics,
    packet::{Dropped, MAX_DATAGRAM, Response, Transport},
    registry::{Discovery, Offer},
    respond::respond,
    served::{self, Served},
    targets::Targets,
    zones_dir::{Zones, ZonesDir},
};

/// Where to listen, and the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to serve, each over UDP and TCP. Port 0 takes a free port, the same for both.
    pub listen: Vec<SocketAddr>,
    /// Threads that answer datagrams, per address; at least one.
    pub workers: usize,
    /// Addresses to serve over TLS (RFC 7858).
    pub tls_listen: Vec<SocketAddr>,
    /// Addresses to serve over HTTPS (RFC 8484), at `/dns-query`.
    pub https_listen: Vec<SocketAddr>,
    /// Addresses to serve over QUIC (RFC 9250).
    pub quic_listen: Vec<SocketAddr>,
    /// Addresses to serve over HTTP/3 (RFC 8484), at `/dns-query`.
    pub h3_listen: Vec<SocketAddr>,
    /// The certificate of these four; until it is set nothing is served there.
    pub certificate: Certificate,
    /// Connections open at a time, per address that is listened on; more are closed at once.
    pub tcp_connections: usize,
    /// Connections open at a time of one client (an IPv4 address, an IPv6 /64), over all transports and addresses
    /// together; more are closed at once.
    pub tcp_connections_per_client: usize,
    /// A connection on which no whole query comes, or a reply cannot be sent, for this long is closed
    /// (RFC 7766 §6.2.3).
    pub tcp_idle: Duration,
    /// Cookies, response rates, and which clients may query which zone.
    pub gate: gate::Config,
    /// A folder whose every `ORIGIN.zone` is served beside the configuration's zones.
    pub zones_dir: Option<PathBuf>,
    /// The resolvers of targets of ALIAS records outside our zones; empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
    /// Names of a registry to answer beside the zones.
    pub discovery: Option<Offer>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 5300))],
            workers: 1,
            tls_listen: Vec::new(),
            https_listen: Vec::new(),
            quic_listen: Vec::new(),
            h3_listen: Vec::new(),
            certificate: Certificate::default(),
            tcp_connections: 1024,
            tcp_connections_per_client: 64,
            tcp_idle: Duration::from_secs(10),
            gate: gate::Config::default(),
            zones_dir: None,
            resolvers: Vec::new(),
            discovery: None,
        }
    }
}

/// Every listener, bound and not yet served.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listeners: Listeners,
    zones_dir: Option<Arc<ZonesDir>>,
    exchange: Exchange,
}

/// Binds every listener. Packets that come from now on are answered once the server runs.
///
/// # Errors
/// The first address that cannot be bound, with its protocol.
pub fn bind(config: Config, store: store::Handle) -> Result<Server, Error> {
    if config.listen.is_empty() {
        return Err(Error::NoAddress);
    }
    let listeners = listen(&config)?;
    let metrics = Arc::<Metrics>::default();
    let gate = Arc::new(Gate::new(config.gate.clone(), Arc::clone(&metrics))?);
    let zones_dir = config.zones_dir.as_deref().map(open_zones).transpose()?;
    let zones = zones_dir.as_ref().map(|dir| Arc::clone(dir.zones())).unwrap_or_default();
    let offer = config.discovery.clone();
    let discovery = offer.map(|offer| Arc::new(Discovery::new(offer, store.clone())));
    let exchange =
        Exchange { store, discovery, gate, zones, targets: Arc::default(), served: Arc::default(), metrics };
    Ok(Server { config, listeners, zones_dir, exchange })
}

fn listen(config: &Config) -> Result<Listeners, Error> {
    let mut listeners = Listeners::new(config.certificate.clone());
    for address in &config.listen {
        listeners.bind_plain(*address, config.workers.max(1))?;
    }
    let encrypted = [
        (Transport::Tls, &config.tls_listen),
        (Transport::Https, &config.https_listen),
        (Transport::Quic, &config.quic_listen),
        (Transport::Http3, &config.h3_listen),
    ];
    for (transport, addresses) in encrypted {
        for address in addresses {
            listeners.bind_encrypted(transport, *address)?;
        }
    }
    Ok(listeners)
}

fn open_zones(dir: &Path) -> Result<Arc<ZonesDir>, Error> {
    let opened = ZonesDir::open(dir).map_err(|source| Error::ZonesDir { dir: dir.to_owned(), source });
    let (zones_dir, report) = opened?;
    report.log();
    Ok(Arc::new(zones_dir))
}

impl Server {
    /// The zones served from files, also after rereads.
    #[must_use]
    pub fn zones(&self) -> Arc<ArcSwap<Zones>> {
        Arc::clone(&self.exchange.zones)
    }

    /// The folder of zones, to be read again on request.
    #[must_use]
    pub fn zones_dir(&self) -> Option<Arc<ZonesDir>> {
        self.zones_dir.clone()
    }

    /// Cookies, response rates and access rules: its cookie secrets may change while it serves.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.exchange.gate)
    }

    /// What is known of the targets of ALIAS records outside our zones, also later.
    #[must_use]
    pub fn targets(&self) -> Arc<ArcSwap<Targets>> {
        Arc::clone(&self.exchange.targets)
    }

    /// The addresses over a transport, with the ports that were given where the configuration has 0.
    #[must_use]
    pub fn addresses(&self, transport: Transport) -> Vec<SocketAddr> {
        self.listeners.addresses(transport)
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.exchange.metrics)
    }

    /// Serves until `shutdown` is ready; then finishes what has begun, for at most a second.
    ///
    /// # Errors
    /// When a socket cannot be served at all; errors of single packets and connections are counted instead.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let following = served::Follow {
            store: self.exchange.store.clone(),
            zones: Arc::clone(&self.exchange.zones),
            served: Arc::clone(&self.exchange.served),
            gate: Arc::clone(&self.exchange.gate),
            retired: std::sync::Mutex::default(),
        };
        following.refresh().await;
        let (stop, stopped) = watch::channel(false);
        let limits = Limits::new(
            self.config.tcp_connections,
            self.config.tcp_connections_per_client,
            self.config.tcp_idle,
        );
        let addresses = self.addresses(Transport::Tcp);
        let shared = ListenerContext { responder: self.exchange.clone(), limits, stopped: stopped.clone() };
        let datagrams = || Datagrams::new(self.exchange.clone());
        let mut serving = self.listeners.serve(&shared, "dns-udp", datagrams)?;
        let refreshing = self.exchange.refresher(self.config.resolvers).run(stopped);
        serving.spawn("the resolver of ALIAS targets", refreshing);
        // It ends with the publisher of snapshots, which must not end the server.
        let following = following.run(self.zones_dir.as_ref().map(|dir| dir.changes()));
        let following = tokio::spawn(vital::task("the follower of DNS snapshots", following));
        tracing::info!(?addresses, "serving DNS");
        let ended = serving.until(shutdown, stop).await;
        following.abort();
        ended
    }
}

/// What every task needs to answer a packet.
#[derive(Clone, Debug)]
struct Exchange {
    store: store::Handle,
    discovery: Option<Arc<Discovery>>,
    gate: Arc<Gate>,
    zones: Arc<ArcSwap<Zones>>,
    served: Arc<ArcSwap<Served>>,
    targets: Arc<ArcSwap<Targets>>,
    metrics: Arc<Metrics>,
}

impl Exchange {
    fn refresher(&self, resolvers: Vec<SocketAddr>) -> Refresher {
        let Self { store, zones, targets, metrics, .. } = self.clone();
        Refresher { store, zones, targets, metrics, resolvers }
    }
}

impl Responder for Exchange {
    fn reply(&self, packet: &[u8], peer: SocketAddr, transport: Transport) -> Result<Response, Dropped> {
        let inside =
            self.discovery.as_ref().and_then(|it| it.respond(packet, peer, (transport, MAX_DATAGRAM)));
        let outcome = inside.unwrap_or_else(|| {
            let (served, targets) = (self.served.load(), self.targets.load());
            let lookup = served.lookup(&targets, self.store.board(), self.store.now());
            respond(packet, peer.ip(), transport, Some(lookup), self.gate.at(lookup.now))
        });
        self.metrics.record(transport, &outcome);
        outcome
    }

    fn wait(&self, packet: &[u8], peer: SocketAddr) -> Option<BoxFuture<'static, ()>> {
        self.discovery.as_ref()?.wait(packet, peer)
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

#[cfg(test)]
mod tests;
