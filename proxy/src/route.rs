//! Routing: which route a request takes, what that changes in it, and to which services it leads.
//!
//! ```text
//!  snapshot ─▶ table ─▶ index ─▶ compiled ─▶ conditions, split, rewrite
//! ```
//!
//! A [`Table`] is immutable and shared by all workers; the next one shares with it what did not change ([`store::sharing`]). Routes
//! are looked up in the `index`; a property test compares it with a linear scan. Requests come in as the trait [`Request`],
//! so that every version of HTTP is routed alike. Nothing here waits, locks, or allocates for a plain request.
//!
//! Ours and not a crate's: routers such as `matchit` match paths only, are built whole, and have no priorities and no
//! conditions to fall back by.

mod backend;
mod compiled;
mod conditions;
mod explain;
mod index;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod linear;
mod request;
mod rewrite;
mod split;
mod table;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use backend::{Backend, Own, Way};
pub(crate) use compiled::{CompiledRoute, Matched};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use index::Index;
pub(crate) use request::Request;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use rewrite::PathChange;
pub(crate) use rewrite::{FieldChanges, NewPath};
pub(crate) use split::{NewSession, session_key, stable_hash};
pub(crate) use table::{Situation, Table};
