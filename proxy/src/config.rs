//! A gateway's settings: its name and site, where it listens, how it shuts down, and every limit.
//!
//! The defaults of the limits are stated once, in [`Limits::default`]; the reader of the configuration takes them from
//! there, and `docs/configuration.md` is compared with it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use store::model::Name;

use crate::tls::ServerTls;

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
    /// Where relative paths in documents begin.
    pub folder: PathBuf,
    /// Where to listen and how, at least one.
    pub listeners: Vec<Listener>,
    /// What is shown to clients that speak TLS; it may be set and changed at any time.
    pub tls: ServerTls,
    /// Worker threads, each with its own listeners, connection pool and balancer state; 0 is taken as 1.
    pub workers: usize,
    /// How long it goes on serving after `/readyz` begins to fail, so that the load balancer in front can remove it.
    pub lameduck: Duration,
    /// How long requests in flight may take after it stops accepting; then they are cut off.
    pub shutdown_deadline: Duration,
    /// Its limits.
    pub limits: Limits,
}

/// A place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address; port 0 takes a free port.
    pub address: SocketAddr,
    /// Clients speak TLS.
    pub tls: bool,
    /// A connection begins with a PROXY header (version 1 or 2). It is taken from `trusted_networks` only: any other peer could
    /// claim to be any client, and is refused.
    pub proxy_protocol: bool,
    /// Every request is answered with a redirect to the same URL by https at this port; 443 is not written into the URL.
    pub redirect_to_https: Option<u16>,
    /// Whose PROXY headers, `Forwarded`, `X-Forwarded-*` and `X-Real-IP` are believed. Their connections are not counted
    /// against `max_connections_per_client`, because they are those of many clients.
    pub trusted_networks: Networks,
}

impl Listener {
    /// Plain HTTP at an address, without trusted networks.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            tls: false,
            proxy_protocol: false,
            redirect_to_https: None,
            trusted_networks: Networks::default(),
        }
    }

    /// TLS at an address, without trusted networks.
    #[must_use]
    pub fn tls(address: SocketAddr) -> Self {
        Self { tls: true, ..Self::plain(address) }
    }
}

/// A few networks of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Box<[IpNet]>);

impl Networks {
    /// The most networks of one list; they are searched one after the other.
    pub const MAX: usize = 256;

    /// True if an address is in one of them. IPv4 addresses in IPv6 form (`::ffff:192.0.2.1`) count as IPv4.
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// True if there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// The limits of a gateway. The defaults suit most. A time that is [`Limits::NO_LIMIT`] never passes.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Client connections at once, over all workers. Beyond it a connection gets a 503 (one that speaks TLS: nothing) and is
    /// closed. More costs memory and file descriptors, two for each connection with a request in flight.
    pub max_connections: usize,
    /// Client connections at once of one IPv4 address or IPv6 /64, over all workers; others get a 429. Less keeps one client
    /// from taking the places of all others; clients behind one NAT share an address. The default is 2,000 browsers with six
    /// connections each behind one address, and less than a third of all places, so that a few addresses cannot take all.
    pub max_connections_per_client: usize,
    /// Requests on one client connection; the response to the last has `Connection: close`. Fewer spread clients over the
    /// workers and gateways sooner after a change, at the cost of more handshakes.
    pub max_requests_per_connection: u64,
    /// Bytes of a request or response head; more is refused with 431 (of a response: 502). At least 8 KiB.
    pub max_header_bytes: usize,
    /// Fields in a request or response head or in trailers; more is refused with 431 (of a response: 502).
    pub max_headers: usize,
    /// Bytes of a request target; a longer one is refused with 414. RFC 9110 §4.1 recommends at least 8000.
    pub max_target_bytes: usize,
    /// Visible octets that URIs do not have (`" < > \ ^ ` { | }`) are taken in the query of a request and percent-encoded
    /// before anything else looks at it; otherwise they are refused with 400.
    pub lenient_query: bool,
    /// Bytes of a request body; more is refused with 413. `None`: any size, since bodies pass through in flat memory.
    pub max_body_bytes: Option<u64>,
    /// How long a client connection may take to send a head, counted from its first byte: 408. Less frees places sooner
    /// from clients that send slowly on purpose; more suits slow networks.
    pub header_timeout: Duration,
    /// How long a client connection may stay idle before its first request and between requests. Less costs clients new
    /// connections, more costs memory.
    pub client_idle: Duration,
    /// How long a client may send nothing in the middle of a request body: 408, and no instance is blamed.
    pub body_timeout: Duration,
    /// Bytes per second that a client must send of a request body, on average from the end of [`Self::rate_grace`]; fewer is
    /// 408. 0: any rate.
    pub min_request_rate: u64,
    /// How long a client may take none of a response that waits for it; then the connection is cut. So is an upgraded
    /// connection when either side takes nothing for so long.
    pub send_timeout: Duration,
    /// Bytes per second that a client must take of a response that waits for it, on average from the end of
    /// [`Self::rate_grace`]; a slower one is cut. 0: any rate.
    pub min_response_rate: u64,
    /// How long both rates are not looked at after a body began.
    pub rate_grace: Duration,
    /// How long a TLS handshake with a client may take, with the PROXY header before it. Less frees places sooner, more
    /// suits slow networks.
    pub tls_handshake_timeout: Duration,
    /// After how long without any packet the system asks whether the other side of a connection is still there (TCP
    /// keep-alive), with clients and instances; it is given up after four questions in a row, 15 s apart. Zero: never asked.
    pub tcp_keepalive: Duration,
    /// How long a connection to an instance may take to be made.
    pub connect_timeout: Duration,
    /// How long an instance may take to begin its response, counted from the last byte of the request sent to it.
    pub response_timeout: Duration,
    /// How long an instance may send nothing in the middle of a response body; then it is cut. More suits streams of rare
    /// events.
    pub response_idle: Duration,
    /// How long a client that has ended its side of the connection waits for a response; then it is taken for gone, and the
    /// request is cancelled at the instance. More suits scripts that close their half and wait, less frees instances sooner.
    pub client_fin_timeout: Duration,
    /// How long a drain waits for the requests in flight to its instance; then they are cut, and the log names them. Less
    /// ends drains sooner, more suits long downloads and WebSockets.
    pub drain_deadline: Duration,
    /// How long an upgraded connection (such as a WebSocket) may stay without a byte in either direction.
    pub upgrade_idle: Duration,
    /// How long a request body waits for `100 Continue` of an instance before it is sent anyway (RFC 9110 §10.1.1).
    pub continue_timeout: Duration,
    /// Bytes of a request body that are kept so that the request can be sent again to another instance. Longer ones are
    /// repeated only if nothing of the body was sent. More costs memory per upload in flight.
    pub request_buffer: usize,
    /// Copies of requests under way to mirrors at once, per worker; beyond it requests are not mirrored. More costs memory and
    /// connections while a mirror is slow.
    pub mirrored: usize,
    /// Attempts on other instances after the first, for one request.
    pub retries: u8,
    /// Retries and hedged copies allowed per hundred requests to a service, so that an outage is not amplified.
    pub retry_percent: u8,
    /// Retries of a service allowed per second and worker in any case, also if [`Self::retry_percent`] is 0. Up to ten
    /// seconds' worth is saved up.
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

impl Limits {
    /// What stands for no limit where there is always one: longer than a gateway runs.
    pub const NO_LIMIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 40_000,
            max_connections_per_client: 12_000,
            max_requests_per_connection: 100_000,
            max_header_bytes: 64 * 1024,
            max_headers: 128,
            max_target_bytes: 16 * 1024,
            lenient_query: false,
            max_body_bytes: None,
            header_timeout: Duration::from_secs(10),
            client_idle: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            min_request_rate: 240,
            send_timeout: Duration::from_secs(30),
            min_response_rate: 240,
            rate_grace: Duration::from_secs(10),
            tls_handshake_timeout: Duration::from_secs(10),
            tcp_keepalive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(30),
            response_idle: Duration::from_secs(60),
            client_fin_timeout: Duration::from_secs(2),
            drain_deadline: Duration::from_secs(300),
            upgrade_idle: Duration::from_secs(3600),
            continue_timeout: Duration::from_secs(1),
            request_buffer: 64 * 1024,
            mirrored: 256,
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
    /// Connections cannot be accepted.
    #[error("proxy: cannot begin to accept connections: {0}")]
    Accept(#[source] std::io::Error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_addresses_in_either_form() {
        let networks: Networks =
            ["192.0.2.0/24", "2001:db8::/32"].map(|it| it.parse::<IpNet>().unwrap()).into_iter().collect();
        for (address, inside) in [
            ("192.0.2.9", true),
            ("::ffff:192.0.2.9", true),
            ("192.0.3.1", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(networks.contain(address.parse().unwrap()), inside, "{address}");
        }
        assert!(!Networks::default().contain("127.0.0.1".parse().unwrap()));
    }
}
