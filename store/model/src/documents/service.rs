//! Services: what a team registers, and how gateways treat its instances.
//!
//! What a document does not say of ejection and connections is the gateway's own, from `[proxy.limits]` of its
//! configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Cluster, CookieName, HeaderName};
use crate::{
    DomainName, Name, Percent, Span,
    words::{tagged, words},
};

/// What a team registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Names its UUID domain, `<uuid>.<zone of the cluster>`. When the document has none, the first commit gives it
    /// [`Service::uuid_in`] the zone of its cluster, and it keeps that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The cluster that serves it.
    pub cluster: Name,
    /// What it is in the registry.
    pub consul: ConsulService,
    /// Its host names, exact or with `*` as the first label.
    #[serde(default)]
    pub hosts: Vec<DomainName>,
    /// Where it runs; absent: every site of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<Vec<Name>>,
    /// Where its hosts' CNAMEs point.
    pub route_by: RouteBy,
    /// The Check that decides whether an instance answers: while its removal from the registry is in doubt, and for
    /// gateways all the time ([`Service::health`]); dialled at the instance's own port. Absent: it accepts a TCP
    /// connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Name>,
    /// How gateways use that check. Absent: [`Health::default`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Box<Health>>,
    /// How an instance is picked.
    #[serde(default, skip_serializing_if = "Balance::is_usual")]
    pub balance: Balance,
    /// How long a new instance, or one that is back, takes to get its full share. Zero: at once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slow_start: Span,
    /// Whether the registry's weights count.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub registry_weights: bool,
    /// When an instance is not picked because of what requests showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Box<Ejection>>,
    /// How many times what the healthy instances of a site get as their share counts before the next site gets any: by 140,
    /// a site with 72 of 100 instances keeps all of its requests.
    #[serde(
        default = "Service::usual_overprovision",
        skip_serializing_if = "Service::is_usual_overprovision"
    )]
    pub overprovision: Percent,
    /// The largest share of requests that a gateway forwards to other sites.
    #[serde(default = "Service::usual_cross_site", skip_serializing_if = "Service::is_usual_cross_site")]
    pub cross_site_max: Percent,
    /// The most connections and requests at a time, per gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<Box<CircuitBreaker>>,
    /// TLS to the instances; absent: in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<BackendTls>>,
    /// How connections to the instances are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<Box<KeepAlive>>,
    /// The PROXY header that each connection to an instance begins with; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
}

const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_true(value: &bool) -> bool {
    *value
}

fn is_zero(span: &Span) -> bool {
    *span == Span::default()
}

impl Service {
    /// Overprovisioning unless the document has another, as Envoy's.
    pub const OVERPROVISION: Percent = Percent(140);
    /// The share that may go to other sites unless the document has another.
    pub const CROSS_SITE_MAX: Percent = Percent(100);

    /// A service of a cluster, in the registry by its own name, with nothing else.
    #[must_use]
    pub fn new(name: Name, cluster: Name) -> Self {
        Self {
            uuid: None,
            cluster,
            consul: ConsulService { service: name.as_str().to_owned(), tags: Vec::new() },
            hosts: Vec::new(),
            sites: None,
            route_by: RouteBy::default(),
            check: None,
            health: None,
            balance: Balance::default(),
            slow_start: Span::default(),
            registry_weights: true,
            ejection: None,
            overprovision: Self::OVERPROVISION,
            cross_site_max: Self::CROSS_SITE_MAX,
            circuit_breaker: None,
            tls: None,
            keep_alive: None,
            proxy_protocol: None,
            name,
        }
    }

    /// The UUID of a service whose document has none: version 5 (RFC 9562 §5.5) of `<name>.<zone>` in the namespace of
    /// domain names, so that independent engines give the same service the same UUID.
    #[must_use]
    pub fn uuid_in(name: &Name, zone: &DomainName) -> Uuid {
        // A zone's text is in lower case and has no final dot.
        let text = format!("{}.{}", name.as_str().to_lowercase(), zone.as_str());
        Uuid::new_v5(&Uuid::NAMESPACE_DNS, text.as_bytes())
    }

    /// Its UUID domain, `<uuid>.<zone of its cluster>`; none while it has no UUID.
    #[must_use]
    pub fn uuid_domain(&self, cluster: &Cluster) -> Option<DomainName> {
        cluster.zone.resolve(&self.uuid?.to_string()).ok()
    }

    const fn usual_overprovision() -> Percent {
        Self::OVERPROVISION
    }

    fn is_usual_overprovision(percent: &Percent) -> bool {
        *percent == Self::OVERPROVISION
    }

    const fn usual_cross_site() -> Percent {
        Self::CROSS_SITE_MAX
    }

    fn is_usual_cross_site(percent: &Percent) -> bool {
        *percent == Self::CROSS_SITE_MAX
    }
}

/// A service in the registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConsulService {
    /// The name there.
    pub service: String,
    /// Only instances that carry all of these.
    #[serde(default)]
    pub tags: Vec<String>,
}

words! {
    /// Where service domains point.
    #[derive(Default)]
    pub enum RouteBy {
        /// To the cluster's gateway domain.
        #[default]
        "gateway" Gateway,
        /// To the service's own UUID domain.
        "uuid" Uuid,
    }
}

/// How gateways use the check of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Health {
    /// Whether gateways dial the instances by the service's check.
    pub active: bool,
    /// How often. Absent: the interval of the check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
}

impl Default for Health {
    fn default() -> Self {
        Self { active: true, interval: None }
    }
}

tagged! {
    /// How an instance is picked. Weights count in each.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    #[serde(tag = "type")]
    pub enum Balance {
        /// The better of two that are drawn, by requests in flight and latency.
        "p2c" P2c {},
        /// One after the other.
        "round_robin" RoundRobin {},
        /// The one with the fewest requests in flight.
        "least_requests" LeastRequests {},
        /// By consistent hash of something of the request.
        "hash" Hash {
            /// Of what.
            hash_on: HashOn,
            /// The most requests in flight of an instance, in percent of the mean; beyond that the next one is picked.
            bounded_load: Percent,
        },
    }
    /// The ways to pick an instance.
    pub enum BalanceType;
}

impl Default for Balance {
    fn default() -> Self {
        Self::P2c {}
    }
}

impl Balance {
    /// The bound on the load of an instance unless the document has another.
    pub const BOUNDED_LOAD: Percent = Percent(125);

    const fn is_usual(&self) -> bool {
        matches!(self, Self::P2c {})
    }
}

/// What a consistent hash is of. A request that lacks it is balanced as by [`Balance::P2c`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashOn {
    /// The value of a header field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(CookieName),
    /// The client's address.
    Client,
}

/// When an instance is not picked because of what requests showed. It is never held against an instance that the client or
/// its request was the cause.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ejection {
    /// After how many failures in a row. Absent: the gateway's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive: Option<u16>,
    /// For how long the first time, doubling each time. Absent: the gateway's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Span>,
    /// The longest.
    #[serde(default = "Ejection::usual_at_most")]
    pub at_most: Span,
    /// The share of a site's instances that may be ejected at a time; at least one stays.
    #[serde(default = "Ejection::usual_max_percent")]
    pub max_percent: Percent,
    /// When less than this share of a site's instances is healthy, ejections do not count there. Zero: they always do.
    #[serde(default = "Ejection::usual_panic_percent")]
    pub panic_percent: Percent,
}

impl Ejection {
    /// The longest ejection unless the document has another.
    pub const AT_MOST: Span = Span(std::time::Duration::from_secs(60));
    /// The share that may be ejected unless the document has another.
    pub const MAX_PERCENT: Percent = Percent(50);
    /// The panic threshold unless the document has another, as Envoy's.
    pub const PANIC_PERCENT: Percent = Percent(50);

    const fn usual_at_most() -> Span {
        Self::AT_MOST
    }

    const fn usual_max_percent() -> Percent {
        Self::MAX_PERCENT
    }

    const fn usual_panic_percent() -> Percent {
        Self::PANIC_PERCENT
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive: None,
            base: None,
            at_most: Self::AT_MOST,
            max_percent: Self::MAX_PERCENT,
            panic_percent: Self::PANIC_PERCENT,
        }
    }
}

/// The most of a service at a time, of all workers of a gateway together. What exceeds it waits its turn, and what finds the
/// line full gets a 503 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CircuitBreaker {
    /// Connections to its instances.
    #[serde(default = "CircuitBreaker::usual_connections")]
    pub connections: u32,
    /// Requests that wait, for their turn or for a connection.
    #[serde(default = "CircuitBreaker::usual_pending")]
    pub pending: u32,
    /// Requests in flight.
    #[serde(default = "CircuitBreaker::usual_requests")]
    pub requests: u32,
}

impl CircuitBreaker {
    /// The most connections unless the document has another.
    pub const CONNECTIONS: u32 = 16_384;
    /// The most waiting requests unless the document has another.
    pub const PENDING: u32 = 1_024;
    /// The most requests in flight unless the document has another.
    pub const REQUESTS: u32 = 16_384;

    const fn usual_connections() -> u32 {
        Self::CONNECTIONS
    }

    const fn usual_pending() -> u32 {
        Self::PENDING
    }

    const fn usual_requests() -> u32 {
        Self::REQUESTS
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { connections: Self::CONNECTIONS, pending: Self::PENDING, requests: Self::REQUESTS }
    }
}

/// TLS from a gateway to an instance. The files are on the gateways' machines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BackendTls {
    /// Whether the certificate must be valid, for the name, by an authority that is trusted.
    pub verify: bool,
    /// The authorities, in PEM. Absent: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The name that is asked for (SNI) and that the certificate must be for. Absent: the service's first host without `*`,
    /// else the address that the instance is registered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<DomainName>,
    /// What the gateway shows. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
}

impl Default for BackendTls {
    fn default() -> Self {
        Self { verify: true, ca_file: None, server_name: None, client_certificate: None }
    }
}

/// A certificate with its key, both files in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The certificate, then those of the authorities between.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// How connections to instances are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeepAlive {
    /// How long an idle one is kept; zero: each request has its own. Absent: the gateway's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Span>,
    /// The most idle ones per instance and worker. Absent: the gateway's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u16>,
    /// After how many requests one is closed. Absent: there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
}

words! {
    /// A version of the PROXY protocol.
    pub enum ProxyProtocol {
        /// One line of text.
        "v1" V1,
        /// Binary.
        "v2" V2,
    }
}
