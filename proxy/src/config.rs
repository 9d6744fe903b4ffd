//! A gateway's settings: its name and site, where it listens, how it shuts down, and every limit.

use std::{net::SocketAddr, time::Duration};

use store::model::Name;

/// A gateway's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster whose services it serves.
    pub cluster: Name,
    /// Its site: instances in the same site are picked first.
    pub site: Name,
    /// This node's name, as in its registration; written into receipts and `Via`.
    pub node: String,
    /// Identifies this process, drawn at its start: a restarted gateway has to prove drains again.
    pub boot: String,
    /// Where to listen; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Worker threads, each with its own listeners, connection pool and balancer state; 0 is taken as 1.
    pub workers: usize,
    /// How long it goes on serving after `/readyz` begins to fail, so that the load balancer in front can remove it.
    pub lameduck: Duration,
    /// How long requests in flight may take after it stops accepting; then they are cut off.
    pub shutdown_deadline: Duration,
    /// Its limits.
    pub limits: Limits,
}

/// The limits of a gateway. The defaults suit most.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Client connections at once, over all workers. Beyond it a connection gets a 503 and is closed.
    pub max_connections: usize,
    /// Bytes of a request or response head; more is refused with 431 (of a response: 502). At least 8 KiB.
    pub max_header_bytes: usize,
    /// How long a client connection may take to send a head, and how long it may stay idle between requests.
    pub header_timeout: Duration,
    /// How long a connection to an instance may take to be made.
    pub connect_timeout: Duration,
    /// How long an instance may take to begin its response, counted from the last byte of the request sent to it.
    pub response_timeout: Duration,
    /// Attempts on other instances after the first, for one request.
    pub retries: u8,
    /// Retries allowed per hundred requests, so that an outage is not amplified.
    pub retry_percent: u8,
    /// Retries allowed per second and worker in any case.
    pub retry_floor: u16,
    /// Responses to GET, HEAD and OPTIONS up to this many bytes are held until they are complete, so that an instance
    /// that dies in the middle of one costs a retry and not a failed request.
    pub small_answer: u64,
    /// How long such a response is held before it is streamed.
    pub small_answer_patience: Duration,
    /// Idle connections kept per instance and worker.
    pub idle_per_instance: usize,
    /// How long an idle connection is kept. Keep it below the instances' own keep-alive time: a connection
    /// they close at the same moment costs a request that may not be repeated.
    pub idle_for: Duration,
    /// Failures in a row after which a worker stops picking an instance.
    pub eject_after: u8,
    /// For how long, the first time; doubles with each ejection that follows.
    pub eject_for: Duration,
    /// The longest ejection.
    pub eject_at_most: Duration,
    /// A request that came through more gateways than this is in a forwarding loop: 508.
    pub max_hops: u8,
    /// How long a gateway whose lease ran out waits for fresh drains before it serves with what it has.
    pub lease_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(30),
            retries: 2,
            retry_percent: 20,
            retry_floor: 10,
            small_answer: 64 * 1024,
            small_answer_patience: Duration::from_secs(1),
            idle_per_instance: 64,
            idle_for: Duration::from_secs(30),
            eject_after: 3,
            eject_for: Duration::from_secs(5),
            eject_at_most: Duration::from_secs(60),
            max_hops: 4,
            lease_patience: Duration::from_secs(1),
        }
    }
}

/// Why a gateway could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No address to listen on.
    #[error("proxy: no address to listen on; expected at least one, such as 127.0.0.1:8080")]
    NoAddress,
    /// An address cannot be listened on.
    #[error("proxy: cannot listen on {address}: {source}")]
    Listen {
        /// The requested address.
        address: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A worker thread could not be started.
    #[error("proxy: cannot start worker {number}: {source}")]
    Start {
        /// Which one, from 0.
        number: usize,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A worker thread ended early; the reason is in the log.
    #[error("proxy: worker {0} died")]
    Died(usize),
}
