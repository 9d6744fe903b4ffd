//! Why the demo cannot run, or why a scene failed.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Why the demo cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A folder, a file or a process.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// The options do not fit together.
    #[error("{0}")]
    Usage(String),
    /// A requested address is in use.
    #[error("cannot use {address} for {by}: {error}")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
        /// The flag or the part that requested it.
        by: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// The documents were refused, or control did not answer.
    #[error("{0}")]
    Admin(String),
    /// Something did not come up in time.
    #[error("{what} did not happen within {within:?}; logs are in {logs}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
        /// Where to look.
        logs: PathBuf,
    },
    /// A scene of the tour did not show what it should.
    #[error("{0}")]
    Scene(String),
}

impl DemoError {
    pub(crate) fn io(what: impl Into<String>, error: std::io::Error) -> Self {
        Self::Io { what: what.into(), error }
    }
}
