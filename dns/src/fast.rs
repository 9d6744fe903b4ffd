//! The fast path: plain queries answered from one packet into another, without allocation, lock or wait.
//!
//! A [`Table`] is compiled from a snapshot, off the hot path: every name of every zone in its wire form, in one
//! open-addressed hash table whose entries fill a cache line each. What does not depend on health is taken
//! from [`answer()`](crate::answer()) when the table is made, and kept as an *image*, the octets that follow the question
//! in a reply; a question for the name has the same length in any case, so the compression pointers in an image
//! hold. What depends on health is decided per query by `store::steering`, through the same function that the
//! general path calls, and written after the aliases' image. Domains that differ in nothing but their names share a
//! *plan*, so that a hundred thousand names of one cluster are decided once per batch and not once each.
//!
//! The path answers what is common and hands everything else on: [`reply`](Table::reply) returns `None`, and
//! the general path takes the packet. Where it answers, it answers as the general path does; a property test holds
//! the two equal.

mod compile;
#[cfg(test)]
mod gated;
mod memo;
mod name;
mod query;
mod table;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use memo::Scratch;
pub(crate) use table::Table;
