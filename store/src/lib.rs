//! The shared picture of the world: the model, the engine that keeps it, and every decision made on it.
//!
//! Data goes one way here: documents are committed to an [`engine`], every node compiles them into a
//! [`snapshot`] with a generation, and the roles (`dns`, `proxy`, `prober`) read that snapshot. Verdicts
//! travel beside it on the [`board`], instances beside it as [`discovery`] entries, because both change
//! far more often than configuration. Decisions ([`steering`], [`health`], [`discovery`], [`drain`]) are
//! pure functions: no socket, no clock, no disk; time arrives as an argument.

pub mod beliefs;
pub mod board;
pub mod calendar;
pub mod commit;
pub mod compat;
pub mod dial;
pub mod discovery;
pub mod disk;
pub mod drain;
pub mod engine;
pub mod follow;
pub mod geo;
pub mod handle;
pub mod health;
pub mod journal;
pub mod keys;
pub mod load;
pub mod locality;
pub mod metrics;
pub mod model;
pub mod secret;
pub mod snapshot;
pub mod steering;
#[cfg(test)]
mod testing;
pub mod vital;
pub mod writers;

pub use handle::{Clock, Handle, Publisher};
