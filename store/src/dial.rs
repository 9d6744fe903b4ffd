//! The interface of a dialer, which finds out whether an instance answers.
//!
//! The prober's checks do the dialling, and this crate may not depend on them, so the program passes them in, as it
//! does with the clock and the disk. A simulation passes its own network.

use std::{fmt, io, sync::Arc};

use async_trait::async_trait;
use model::Check;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// What to dial, and how.
#[derive(Clone, Debug)]
pub struct Dial {
    /// An IP address, or a host name of which any address may answer.
    pub address: String,
    /// The port; never zero.
    pub port: u16,
    /// The check that decides whether it answers; the check's own port is ignored. `None`: accepting a TCP connection
    /// is enough.
    pub check: Option<Check>,
    /// How TLS is spoken with the instance, in place of the check's own terms; `None`: as the check says. Means nothing to a
    /// check in the clear.
    pub tls: Option<Arc<dyn Handshake>>,
}

/// TLS as a gateway speaks it with the instances of a service: with the service's authorities, name and certificate. A check
/// that trusted others would find an instance down that serves, or up that cannot be spoken with.
#[async_trait]
pub trait Handshake: fmt::Debug + Send + Sync + 'static {
    /// Completes a handshake over a new connection, without resuming a session; `protocols` are offered (ALPN, RFC 7301).
    async fn shake(&self, stream: TcpStream, protocols: &[&[u8]]) -> Result<Box<dyn Secured>, NotShaken>;
}

/// A connection with TLS.
pub trait Secured: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Secured for T {}

/// Why a handshake was not completed.
#[derive(Debug)]
pub enum NotShaken {
    /// This machine has nothing to make it with, such as a file that cannot be read; says nothing about the instance.
    Here(String),
    /// The instance, or the connection to it, failed.
    There(io::Error),
}

/// The result of a dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The instance answers.
    Answered,
    /// It does not, or not as the check expects: `connection refused`.
    Failed(String),
    /// This machine could not dial, so the result counts neither way.
    Unable(String),
}

/// Dials instances whose removal is in doubt. Every call ends within about a second, or within the timeout of its
/// check.
#[async_trait]
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// Dials once.
    async fn dial(&self, dial: &Dial) -> Answer;
}
