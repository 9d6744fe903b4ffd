//! The engine: it moves HTTP/1.1 between clients and instances.
//!
//! One task per client connection does everything for it: it reads a head, decides (`request`), takes an instance's
//! connection (`upstream`), passes the request and the response on (`exchange`, `pump`), and tries another instance where
//! that is allowed (`attempts`). No channel and no second task lies between the two sockets, so that a request costs the
//! two reads and two writes that it must, and back-pressure is simply not reading.
//!
//! Ours and not hyper's: hyper turns a 1xx of an instance into an error and writes 100 by itself, drops reason phrases and
//! the case of names, ends a request whose client closed its half, and cannot pass on the answer of an instance that stopped
//! reading. What it cost per request is in `tests/bench/README.md`.

pub(crate) mod answer;
pub(crate) mod arrival;
pub(crate) mod asked;
mod attempts;
pub(crate) mod buffer;
mod cached_time;
pub(crate) mod client;
pub(crate) mod connection;
mod copies;
mod dial;
mod exchange;
mod failure;
mod hedge;
mod logged;
mod mirror;
mod own_answer;
mod passed;
mod patience;
mod pool;
mod pump;
mod queue;
mod reach;
mod reading;
mod relay;
pub(crate) mod request;
mod sent;
pub(crate) mod stream;
pub(crate) mod timer;
pub(crate) mod times;
mod tunnel;

mod unread;
pub(crate) mod upstream;
mod waiting;
mod watch;
pub(crate) mod worker;
