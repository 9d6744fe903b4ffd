//! The authoritative DNS server: bytes to answers and nothing else.
//!
//! Three layers, each testable without the next. [`answer()`] decides: a pure function of a snapshot, the board, a
//! question and a client; `store::steering` ranks the sites, and nothing here does.
//! [`respond()`] speaks the protocol: a packet in, a packet out, still pure. [`Server`] owns the sockets.
//! [`explain()`] shows a decision instead of encoding it. Every query passes the [`gate`] first: cookies, response
//! rates, and access rules; the fast path uses it in the same order as [`respond()`].
//!
//! Encoding comes from `hickory-proto`, HTTP from `hyper`, encryption from `rustls`, whose configuration is what a
//! [`Certificate`] takes. The accept and receive loops and the framing of streams are our own, because a server has
//! to bound its connections, survive every error of `accept`, and stay silent towards malformed *responses*.
//!
//! Datagrams take a faster path first, for plain queries: a table compiled from the snapshot, with replies written ahead as
//! far as they depend on nothing, read and written by batches on threads of their own. It hands all other queries
//! on to [`respond()`], and a property test holds the two equal. Measured as in `tests/bench/README.md`, on 2
//! cores, with health, client subnet, cookies, rate limits and metrics on:
//!
//! * CPU per query: 0.98 of gdnsd's and 1.14 of a bare echo's (10,000 steered names), of which 92 % is the kernel's; with
//!   1,000,000 names 1.14 of that.
//! * Memory of a node that only answers, 100,000 steered names of five sites: 166 to 172 MB, 200 MB at the peak of its first
//!   start. Start to first answer with them: 0.8 to 1.3 s, with the engine there or away.
//! * 100,000 verdicts flipped at once: written in 0.9 ms at most, the last old answer 0.3 ms later, no query around it
//!   waited longer than 1.1 ms (`benches/flips.rs`).
//!
//! `flatten` keeps what ALIAS records need of other zones, so that answering needs nothing but memory.

mod acl;
mod answer;
mod client;
pub mod cookie;
mod edns;
mod encode;
mod explain;
mod extended;
mod fast;
mod flatten;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gate;
mod listeners;
mod lookup;
mod metrics;
mod name;
mod options;
mod packet;
mod question;
pub mod rate;
mod record;
pub mod registry;
mod reply;
mod request;
mod respond;
mod served;
mod server;
mod targets;
#[cfg(test)]
mod testing;
mod tsig;
pub mod zonefile;
pub mod zones_dir;

pub use answer::{Answer, answer};
pub use client::{Client, Subnet};
pub use explain::{Alias, Explanation, Step, explain};
pub use extended::ExtendedError;
pub use gate::{Gate, Guard};
pub use listeners::{Certificate, Error};
pub use lookup::Lookup;
pub use metrics::Metrics;
pub use name::{NotAName, QueryName};
pub use packet::{Dropped, Response, Transport, TransportOptions};
pub use question::Question;
pub use record::{Data, NotAType, Owner, Rcode, Record, RecordType, Soa};
pub use respond::respond;
pub use server::{Config, Server, bind};
pub use targets::Targets;
