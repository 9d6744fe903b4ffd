//! The sockets: bound all at once, served until told to stop, every task owned.

pub(crate) mod tcp;
mod udp;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    answer::World,
    metrics::Metrics,
    registry::{Discovery, Offer},
    respond::{Dropped, Transport, respond},
};

/// Where to listen, and the limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses to serve, each over UDP and TCP. Port 0 takes a free port, the same for both.
    pub listen: Vec<SocketAddr>,
    /// Tasks that answer datagrams, per address; at least one.
    pub workers: usize,
    /// TCP connections open at a time, per address; more are closed at once.
    pub tcp_connections: usize,
    /// A TCP connection on which no whole query comes, or no reply can be sent, for this long is closed
    /// (RFC 7766 §6.2.3).
    pub tcp_idle: Duration,
    /// Names of a registry to answer beside the zones.
    pub discovery: Option<Offer>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 5300))],
            workers: 1,
            tcp_connections: 1024,
            tcp_idle: Duration::from_secs(10),
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
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A socket cannot be served by this runtime.
    #[error("cannot serve a socket that was bound: {0}")]
    Register(io::Error),
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
    listeners: Vec<(UdpSocket, TcpListener)>,
    addresses: Vec<SocketAddr>,
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
    let listeners = config.listen.iter().map(|address| listen(*address)).collect::<Result<Vec<_>, _>>()?;
    let local = |(udp, _): &(UdpSocket, TcpListener)| udp.local_addr().map_err(Error::Register);
    let addresses = listeners.iter().map(local).collect::<Result<Vec<_>, _>>()?;
    let offer = config.discovery.clone();
    let discovery = offer.map(|offer| Arc::new(Discovery::new(offer, store.clone())));
    let exchange = Exchange { store, discovery, metrics: Arc::default() };
    Ok(Server { config, listeners, addresses, exchange })
}

impl Server {
    /// The addresses, with the ports that were given where 0 was asked.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
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
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (udp, tcp) in self.listeners {
            let udp = Arc::new(tokio::net::UdpSocket::from_std(udp).map_err(Error::Register)?);
            let tcp = tokio::net::TcpListener::from_std(tcp).map_err(Error::Register)?;
            for _ in 0..self.config.workers.max(1) {
                tasks.spawn(udp::serve(Arc::clone(&udp), self.exchange.clone(), stopped.clone()));
            }
            let limits = tcp::Limits { connections: self.config.tcp_connections, idle: self.config.tcp_idle };
            tasks.spawn(tcp::serve(tcp, limits, self.exchange.clone(), stopped.clone()));
        }
        tracing::info!(addresses = ?self.addresses, "serving DNS");
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            Some(ended) = tasks.join_next() => {
                Err(Error::Ended(ended.map_or_else(|error| error.to_string(), |()| "it returned".to_owned())))
            }
        };
        stop.send_replace(true);
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::debug!("closing TCP connections that are still busy");
        }
        tasks.shutdown().await;
        ended
    }
}

/// How long conversations may go on after the end was announced.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// What answers the packets of a socket, and what counts them; cheap to clone.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// The reply to a packet, if it gets one.
    fn reply(&self, packet: &[u8], peer: SocketAddr, transport: Transport) -> Option<Vec<u8>>;

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
    metrics: Arc<Metrics>,
}

impl Answers for Exchange {
    fn reply(&self, packet: &[u8], peer: SocketAddr, transport: Transport) -> Option<Vec<u8>> {
        let inside = self.discovery.as_ref().and_then(|it| it.respond(packet, peer, transport));
        let snapshot = self.store.snapshot();
        let world = snapshot.as_deref().map(|snapshot| World {
            snapshot,
            board: self.store.board(),
            now: self.store.now(),
        });
        let outcome = match peer.port() {
            0 => Err(Dropped::NoReturn),
            _ => inside.unwrap_or_else(|| respond(packet, peer.ip(), transport, world)),
        };
        self.metrics.record(transport, &outcome);
        outcome.ok().map(|response| response.bytes)
    }

    fn wait(&self, packet: &[u8], peer: SocketAddr) -> Option<BoxFuture<'static, ()>> {
        self.discovery.as_ref()?.wait(packet, peer)
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

/// Ready once the end was announced, or nobody is left to announce it.
pub(crate) async fn end(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is an end as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Binds one address over both protocols. TCP comes first: its port is never shared, so that a second server
/// on the same address is noticed.
pub(crate) fn listen(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let mut tries = 0;
    loop {
        let tcp =
            tcp_listener(address).map_err(|source| Error::Listen { address, protocol: "TCP", source })?;
        let port = tcp.local_addr().map_err(Error::Register)?.port();
        tries += 1;
        match udp_socket(SocketAddr::new(address.ip(), port)) {
            Ok(udp) => return Ok((udp, tcp)),
            // A free TCP port that somebody uses for UDP: try the next.
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
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // A restart need not wait for the old process's closed connections.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // So that `[::]` and `0.0.0.0` can be listened on side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
