//! Every decision that the roles share, and what keeps a node's data current.
//!
//! The documents and the engine that stores them are crates of their own, [`model`] and [`engine`], which do not depend
//! on one another. This crate combines them and re-exports both, so that the roles depend on `store` alone.
//!
//! Data goes one way here: documents are committed to an [`engine`], every node compiles them into a [`snapshot`]
//! with a generation, and the roles (`dns`, `proxy`, `prober`) read that snapshot. Verdicts are kept apart from it on
//! the [`board`], and instances in [`discovery`] entries, because both change far more often than configuration.
//! Decisions ([`steering`], [`health`], [`discovery`], [`drain`]) are pure functions without sockets, clocks and
//! disks; time is an argument.

pub mod board;
pub mod calendar;
pub mod commit;
pub mod dial;
pub mod discovery;
pub mod disk;
pub mod drain;
pub mod follow;
pub mod geo;
pub mod handle;
pub mod health;
pub mod health_state;
pub mod journal;
pub mod keys;
pub mod load;
pub mod locality;
pub mod metrics;
pub mod orders;
pub mod remote;
pub mod sharing;
pub mod snapshot;
pub mod steering;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod writers;

pub use engine::{self, compat, secret, vital};
pub use handle::{Clock, Handle, Publisher};
pub use model;
