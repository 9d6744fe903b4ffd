//! The authoritative DNS server: bytes to answers and nothing else.
//!
//! Three layers, each testable without the next. [`answer()`] decides: a pure function of a snapshot, the board, a
//! question and a client; which site a client is sent to it asks `store::steering` and never ranks itself.
//! [`respond()`] speaks the protocol: a packet in, a packet out, still pure. [`Server`] owns the sockets.
//! [`explain()`] shows a decision instead of encoding it.
//!
//! Framing and idle limits of TCP come from `hickory-server`, encoding from `hickory-proto`; none of their types
//! is in this crate's interface. The accept and receive loops are our own, because a server has to bound its
//! connections, survive every error of `accept`, and stay silent towards malformed *responses*; the library's
//! loops do neither. A faster path for UDP may come beside [`respond()`]; it has to agree with it.

pub mod answer;
mod client;
mod explain;
mod metrics;
mod name;
mod record;
pub mod registry;
mod reply;
mod request;
mod respond;
mod server;
#[cfg(test)]
mod testing;

pub use answer::{Answer, Question, World, answer};
pub use client::{Client, Subnet};
pub use explain::{Alias, Explanation, Step, explain};
pub use metrics::Metrics;
pub use name::{NotAName, QueryName};
pub use record::{Data, NotAType, Owner, Rcode, Record, RecordType, Soa};
pub use respond::{Dropped, Response, Transport, respond};
pub use server::{Config, Error, Server, bind};
