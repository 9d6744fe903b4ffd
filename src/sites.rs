//! Other sites: who their controls are, how they are called, and who may call ours.
//!
//! [`Peers`] has a [`Peer`] for each other site whose document names a control. A call proves both ends to one another:
//! `trust` checks the server's certificate before anything is sent, [`caller`] checks the caller's token and certificate.
//! What the sites tell one another is not decided here; this room only carries messages, within bounds and deadlines.

pub mod caller;
mod error;
mod files;
mod http;
mod metrics;
mod peer;
mod peers;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trust;

pub use crate::api::exchange;
pub use error::{Failures, PeerError};
pub use metrics::PeerMetrics;
pub use peer::{Answer, Carrier, Peer, Request};
pub use peers::{Carriers, Own, Peers};
