//! The listeners: sockets, the loops that read them, and what a listener and a client may take up.
//!
//! Below everything that answers. The authoritative server and the registry's server both bind their sockets here
//! ([`Listeners`]), and hand in what answers a packet ([`Responder`]) and a batch of datagrams
//! ([`udp::DatagramResponder`]).

pub(crate) mod batch;
mod bound;
pub(crate) mod connection;
mod https;
mod limits;
mod quic;
mod streams;
pub(crate) mod tcp;
mod tls;
pub(crate) mod udp;

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use self::tls::Certificate;
pub(crate) use self::{bound::Listeners, connection::ListenerContext, limits::Limits};
use crate::{
    metrics::Metrics,
    packet::{Dropped, Response, Transport},
};

/// Why the server cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No address is configured.
    #[error("no address to listen on; at least one such as 127.0.0.1:5300 is needed")]
    NoAddress,
    /// One of the addresses cannot be bound.
    #[error("cannot listen on {address} over {protocol}: {source}{hint}", hint = Hint(.source))]
    Listen {
        /// The address, as it is configured.
        address: SocketAddr,
        /// `UDP`, `TCP`, `TLS`, `HTTPS`, `QUIC` or `HTTP/3`.
        protocol: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The folder of zones cannot be read.
    #[error("zones_dir {dir}: {source}")]
    ZonesDir {
        /// The folder.
        dir: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A socket cannot be served by this runtime.
    #[error("cannot serve a socket that was bound: {0}")]
    Register(io::Error),
    /// No secret can be generated.
    #[error("the system has no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// A task ended before the shutdown.
    #[error("a listener ended by itself, which is a defect: {0}")]
    Ended(String),
}

/// What would help, where that is known.
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

/// What answers the packets of a socket, and what counts them; cheap to clone.
pub(crate) trait Responder: Clone + Send + Sync + 'static {
    /// The reply to a packet, or why it gets none.
    fn reply(&self, packet: &[u8], peer: SocketAddr, transport: Transport) -> Result<Response, Dropped>;

    /// What the reply has to wait for; other replies must not wait with it.
    fn wait(&self, _: &[u8], _: SocketAddr) -> Option<BoxFuture<'static, ()>> {
        None
    }

    /// The counters of its sockets.
    fn metrics(&self) -> &Arc<Metrics>;
}

/// Ready once the shutdown was announced, or its sender is gone.
pub(crate) async fn end(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a shutdown as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
