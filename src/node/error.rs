//! Why a node cannot start, and which of these errors a restart does not repair.
//!
//! Those are reported as a wrong configuration (exit code 2), after which the systemd unit does not restart. Errors that may
//! pass by themselves have exit code 1: an address that another process still has, a full disk, an engine that is in use.

use std::{io, net::SocketAddr, path::PathBuf};

use store::engine::EngineError;

use crate::{control, listen::ListenError, telemetry::TelemetryError};

/// Why a node cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its folder.
    #[error("data_dir {path}: {error}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// An address that this machine does not have.
    #[error("{key}: this machine has no address {} ({address})", address.ip())]
    NoSuchAddress {
        /// The key that names it.
        key: &'static str,
        /// The address, with its port.
        address: SocketAddr,
    },
    /// Its engine.
    #[error("[store]: {0}")]
    Engine(#[from] EngineError),
    /// The files of its last good state.
    #[error(transparent)]
    Disk(#[from] store::disk::DiskError),
    /// One of its own listeners.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The access log of the gateway.
    #[error("[proxy.access_log] path: {0}")]
    AccessLog(io::Error),
    /// The DNS role.
    #[error("[dns]: {0}")]
    Dns(#[from] dns::Error),
    /// The names of the embedded engine.
    #[error("[store] dns: {0}")]
    Registry(dns::Error),
    /// The gateway role.
    #[error("[proxy]: {0}")]
    Proxy(#[from] proxy::Error),
    /// The prober role.
    #[error("[prober]: {0}")]
    Prober(#[from] prober::Error),
    /// The control role.
    #[error("[control]: {0}")]
    Control(#[from] control::Error),
    /// Its metrics.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Signals.
    #[error("cannot listen for SIGHUP: {0}")]
    Signal(io::Error),
    /// A part ended that should run until the shutdown.
    #[error("{0} ended by itself, which is a defect")]
    Ended(&'static str),
    /// A task or thread panicked that the node needs.
    #[error("{0} panicked, which is a defect; the log says where")]
    Panicked(&'static str),
}

impl NodeError {
    /// True if the configuration, or what it names, must be changed before a start can succeed.
    #[must_use]
    pub fn is_of_configuration(&self) -> bool {
        match self {
            Self::Folder { error, .. } => is_of_the_folder(error),
            Self::NoSuchAddress { .. }
            | Self::Listen(ListenError::Tls { .. })
            | Self::Dns(dns::Error::NoAddress | dns::Error::ZonesDir { .. })
            | Self::Proxy(proxy::Error::NoAddress)
            | Self::Prober(prober::Error::Config(_)) => true,
            Self::Listen(ListenError::Bind { source, .. })
            | Self::Dns(dns::Error::Listen { source, .. })
            | Self::Registry(dns::Error::Listen { source, .. })
            | Self::Proxy(proxy::Error::Listen { source, .. }) => {
                matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::AddrNotAvailable)
            }
            _ => false,
        }
    }
}

fn is_of_the_folder(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AlreadyExists, InvalidInput, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    matches!(
        error.kind(),
        AlreadyExists | InvalidInput | NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem
    )
}
