//! The dialer as this crate knows it: something that can tell whether an instance answers.
//!
//! The prober's checks are what dials, and this crate may not name them, so the program passes them in as it passes
//! the clock and the disk. A simulation passes its own network.

use std::fmt;

use async_trait::async_trait;

use model::Check;

/// Where to dial, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Dial {
    /// An IP address, or a host name of which any address will do.
    pub address: String,
    /// The port; never zero.
    pub port: u16,
    /// The check that decides whether it answers; its own port means nothing here. `None`: it accepts a TCP connection.
    pub check: Option<Check>,
}

/// What came of a dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Answered,
    /// It is not, or not as the check expects: `connection refused`.
    Failed(String),
    /// Nothing was learnt, because this machine could not even try: it counts neither way.
    Unable(String),
}

/// Dials instances whose removal is in doubt. Every call ends by itself, within about a second unless its check says
/// otherwise.
#[async_trait]
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// Dials once.
    async fn dial(&self, dial: &Dial) -> Answer;
}
