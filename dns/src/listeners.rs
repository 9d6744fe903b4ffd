//! The listeners: sockets, the loops that read them, and what a listener and a client may take up.
//!
//! Below everything that answers. The authoritative [`server`](crate::server) and the registry's server both bind
//! their sockets here, and hand in what answers a packet.

pub(crate) mod batch;
pub(crate) mod connection;
mod https;
pub(crate) mod limits;
pub(crate) mod quic;
pub(crate) mod streams;
pub(crate) mod tcp;
pub(crate) mod tls;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::{
    metrics::Metrics,
    packet::{Dropped, Transport},
};

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
