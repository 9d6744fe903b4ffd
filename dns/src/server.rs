//! The sockets: bound all at once, served until told to stop, every task owned.

mod batch;
mod connection;
mod https;
pub(crate) mod limits;
mod quic;
pub(crate) mod streams;
mod tcp;
mod tls;
mod udp;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use limits::Limits;
use socket2::{Domain, Protocol, Socket, Type};
use store::vital;
use streams::{Encrypted, Service};
use tokio::{sync::watch, task::JoinSet};

pub(crate) use batch::{receive_one, send_one};
pub use tls::Certificate;

use crate::{
    flatten::refresh::Refresher,
    gate::{self, Gate},
    metrics::Metrics,
    packet::{Dropped, MAX_DATAGRAM, Transport},
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
    /// Cookies, response rates, and who may ask about which zone.
    pub gate: gate::Config,
    /// A folder whose every `ORIGIN.zone` is served beside the configuration's zones.
    pub zones_dir: Option<PathBuf>,
    /// Whom to ask for the targets of ALIAS records outside our zones; empty: whom the system asks.
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

/// Why the server cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to serve.
    #[error("no address to listen on; at least one such as 127.0.0.1:5300 is needed")]
    NoAddress,
    /// One of the addresses cannot be had.
    #[error("cannot listen on {address} over {protocol}: {source}{hint}", hint = Hint(.source))]
    Listen {
        /// The address, as it was asked for.
        address: SocketAddr,
        /// `UDP`, `TCP`, `TLS`, `HTTPS`, `QUIC` or `HTTP/3`.
        protocol: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The folder of zones cannot be read.
    #[error("zones_dir {dir}: {source}")]
    ZonesDir {
        /// The folder.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A socket cannot be served by this runtime.
    #[error("cannot serve a socket that was bound: {0}")]
    Register(io::Error),
    /// No secret can be made.
    #[error("the system has no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// A task ended that should not.
    #[error("a listener ended by itself, which is a defect: {0}")]
    Ended(String),
}

/// What would help, where we know it.
struct Hint<'a>(&'a io::Error);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.kind() {
            io::ErrorKind::AddrInUse => "; another program has it, or this one runs twice",
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        })
    }
}

/// Every listener, bound and not yet served.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listeners: Vec<Listener>,
    addresses: Vec<SocketAddr>,
    encrypted: Encrypted,
    quic: quic::Listeners,
    zones_dir: Option<Arc<ZonesDir>>,
    exchange: Exchange,
}

/// Binds every listener. Packets that come from now on are answered once the server runs.
///
/// # Errors
/// The first address that cannot be had, with its protocol.
pub fn bind(config: Config, store: store::Handle) -> Result<Server, Error> {
    if config.listen.is_empty() {
        return Err(Error::NoAddress);
    }
    let workers = config.workers.max(1);
    let listeners =
        config.listen.iter().map(|address| listen(*address, workers)).collect::<Result<Vec<_>, _>>()?;
    let local = |listener: &Listener| listener.tcp.local_addr().map_err(Error::Register);
    let addresses = listeners.iter().map(local).collect::<Result<Vec<_>, _>>()?;
    let metrics = Arc::<Metrics>::default();
    let gate = Arc::new(Gate::new(config.gate.clone(), Arc::clone(&metrics))?);
    let encrypted = Encrypted::bind(&config)?;
    let quic = quic::Listeners::bind(&config)?;
    let zones_dir = config.zones_dir.as_deref().map(open_zones).transpose()?;
    let zones = zones_dir.as_ref().map(|dir| Arc::clone(dir.zones())).unwrap_or_default();
    let offer = config.discovery.clone();
    let discovery = offer.map(|offer| Arc::new(Discovery::new(offer, store.clone())));
    let exchange =
        Exchange { store, discovery, gate, zones, targets: Arc::default(), served: Arc::default(), metrics };
    Ok(Server { config, listeners, addresses, encrypted, quic, zones_dir, exchange })
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

    /// Cookies, response rates and who may ask: its cookie secrets may change while it serves.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.exchange.gate)
    }

    /// What is known of the targets of ALIAS records outside our zones, also later.
    #[must_use]
    pub fn targets(&self) -> Arc<ArcSwap<Targets>> {
        Arc::clone(&self.exchange.targets)
    }

    /// The addresses, with the ports that were given where 0 was asked.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses of DNS over TLS, likewise.
    #[must_use]
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.encrypted.tls
    }

    /// The addresses of DNS over HTTPS, likewise.
    #[must_use]
    pub fn https_addrs(&self) -> &[SocketAddr] {
        &self.encrypted.https
    }

    /// The addresses of DNS over QUIC, likewise.
    #[must_use]
    pub fn quic_addrs(&self) -> &[SocketAddr] {
        &self.quic.quic
    }

    /// The addresses of DNS over HTTP/3, likewise.
    #[must_use]
    pub fn h3_addrs(&self) -> &[SocketAddr] {
        &self.quic.http3
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
        };
        following.refresh().await;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let limits = Limits::new(
            self.config.tcp_connections,
            self.config.tcp_connections_per_client,
            self.config.tcp_idle,
        );
        let refreshing = self.exchange.refresher(self.config.resolvers).run(stopped.clone());
        tasks.spawn(vital::task("the resolver of ALIAS targets", refreshing));
        self.encrypted.spawn(&mut tasks, &limits, &self.exchange, &stopped);
        self.quic.spawn(&mut tasks, &limits, &self.exchange, &stopped);
        // It ends with the publisher of snapshots, which must not end the server.
        let following = following.run(self.zones_dir.as_ref().map(|dir| dir.changes()));
        let following = tokio::spawn(vital::task("the follower of DNS snapshots", following));
        let mut workers = udp::Workers::default();
        for listener in self.listeners {
            let tcp = tokio::net::TcpListener::from_std(listener.tcp).map_err(Error::Register)?;
            for socket in listener.udp {
                workers.spawn(socket, self.exchange.clone()).map_err(Error::Register)?;
            }
            let (limits, exchange) = (limits.clone(), self.exchange.clone());
            let serving = streams::serve(tcp, Service::Tcp, limits, exchange, stopped.clone());
            tasks.spawn(vital::task("a listener of DNS over TCP", serving));
        }
        tracing::info!(addresses = ?self.addresses, "serving DNS");
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            () = workers.ended() => Err(Error::Ended("a thread for datagrams".to_owned())),
            Some(ended) = tasks.join_next() => {
                Err(Error::Ended(ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned())))
            }
        };
        stop.send_replace(true);
        following.abort();
        let all = async {
            workers.stop().await;
            while tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::debug!("closing connections that are still busy");
        }
        tasks.shutdown().await;
        ended
    }
}

/// How long connections may go on after the end was announced.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// What answers the packets of a socket, and what counts them; cheap to clone.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// The reply to a packet, or why it gets none.
    fn reply(&self, packet: &[u8], peer: SocketAddr, transport: Transport) -> Result<Vec<u8>, Dropped>;

    /// What the reply should wait for; others are not to wait with it.
    fn wait(&self, _: &[u8], _: SocketAddr) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// The counters of its sockets.
    fn metrics(&self) -> &Arc<Metrics>;
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

impl Answers for Exchange {
    fn reply(&self, packet: &[u8], peer: SocketAddr, transport: Transport) -> Result<Vec<u8>, Dropped> {
        let inside =
            self.discovery.as_ref().and_then(|it| it.respond(packet, peer, (transport, MAX_DATAGRAM)));
        let outcome = inside.unwrap_or_else(|| {
            let (served, targets) = (self.served.load(), self.targets.load());
            let lookup = served.lookup(&targets, self.store.board(), self.store.now());
            respond(packet, peer.ip(), transport, Some(lookup), self.gate.at(lookup.now))
        });
        self.metrics.record(transport, &outcome);
        outcome.map(|response| response.bytes)
    }

    fn wait(&self, packet: &[u8], peer: SocketAddr) -> Option<BoxFuture<'static, ()>> {
        self.discovery.as_ref()?.wait(packet, peer)
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

/// Ready once the end was announced, or its sender is gone.
pub(crate) async fn end(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an end as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// One address over both protocols.
#[derive(Debug)]
pub(crate) struct Listener {
    /// One for each worker.
    pub(crate) udp: Vec<UdpSocket>,
    /// For connections.
    pub(crate) tcp: TcpListener,
}

/// Binds one address over both protocols. TCP comes first: its port is never shared, so that a second server
/// on the same address is noticed.
pub(crate) fn listen(address: SocketAddr, workers: usize) -> Result<Listener, Error> {
    let mut tries = 0;
    loop {
        let tcp =
            tcp_listener(address).map_err(|source| Error::Listen { address, protocol: "TCP", source })?;
        let port = tcp.local_addr().map_err(Error::Register)?.port();
        let bind = |_| udp_socket(SocketAddr::new(address.ip(), port), workers > 1);
        tries += 1;
        match (0..workers).map(bind).collect() {
            Ok(udp) => return Ok(Listener { udp, tcp }),
            // A free TCP port that another program uses for UDP: try the next.
            Err(error) if address.port() == 0 && in_use(&error) && tries < PORTS_TRIED => {}
            Err(source) => return Err(Error::Listen { address, protocol: "UDP", source }),
        }
    }
}

const PORTS_TRIED: u32 = 32;

fn in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn tcp_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = stream_socket(address)?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// A socket for connections; it has its address and does not listen yet.
fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // A restart need not wait for the old process's closed connections.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn udp_socket(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(shared)?;
    if address.ip().is_unspecified() {
        // To reply from the address that was asked.
        match address {
            SocketAddr::V4(_) => batch::tell_addresses(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO)?,
            SocketAddr::V6(_) => batch::tell_addresses(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?,
        }
    }
    // As much as the system allows: what comes while a batch is answered waits there.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

const BUFFER: usize = 4 << 20;

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // So that `[::]` and `0.0.0.0` can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
