//! What sites tell one another of the instances in their registries, and how it is kept in each site's own engine.
//!
//! Each site watches its own registry alone. A control tells the others what its node's discovery entries hold
//! ([`Teller`]): the whole, in pages, and after that numbered changes. The leading control of another site writes them to
//! its own engine ([`Writer`]), and that site's nodes read them there ([`reader`]). So the loss of a site costs the others
//! freshness, and a node needs no connection to other sites.
//!
//! ```text
//! registry ─▶ discovery ─▶ Teller ─── pages ───▶ Writer ─▶ engine ─▶ reader ─▶ discovery of the nodes
//!            (one site)                              (another site)
//! ```
//!
//! The layout in the engine (`layout`) makes a reader's costs those of the changes: a small head for each site is followed
//! by one long poll, and each change of it is read once, as one of the numbered batches in a ring. The base, from which a
//! reader starts, is never read again by one that keeps up; its shards are rewritten one by one as the ring moves on.
//!
//! Everything is a sequence of [`Change`]s with absolute content. A change may be applied twice, so a reader may start from
//! shards of different ages and repeat what happened since the oldest of them.

mod layout;
mod log;
mod metrics;
mod page;
pub mod reader;
mod teller;
mod told;
mod writer;

pub use self::{
    layout::{Dark, Head},
    metrics::RemoteMetrics,
    page::{Cursor, MAX_PAGE, Page, PageError},
    teller::Teller,
    told::{Change, Gateways, Instance, State, Told, Value, gateways_of},
    writer::{TakeError, Taken, Writer},
};

#[cfg(test)]
mod tests;
