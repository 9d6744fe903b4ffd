//! The interface of a dialer, which finds out whether an instance answers.
//!
//! The prober's checks do the dialling, and this crate may not depend on them, so the program passes them in, as it
//! does with the clock and the disk. A simulation passes its own network.

use std::fmt;

use async_trait::async_trait;

use model::Check;

/// What to dial, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Dial {
    /// An IP address, or a host name of which any address may answer.
    pub address: String,
    /// The port; never zero.
    pub port: u16,
    /// The check that decides whether it answers; the check's own port is ignored. `None`: accepting a TCP connection
    /// is enough.
    pub check: Option<Check>,
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
