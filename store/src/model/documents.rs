//! The ten kinds of documents, as they run. `example/world.yaml` of the design binds their fields and defaults.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DomainName, Name, Span, Ttl, Weight};

/// A document of any kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[expect(missing_docs, reason = "each variant is its type, documented there")]
pub enum Document {
    Site(Site),
    Cluster(Cluster),
    Zone(Zone),
    Check(Check),
    Domain(Domain),
    Service(Service),
    Route(Route),
    Vantage(Vantage),
    Override(Override),
    Token(Token),
}

/// The kinds, in the order in which documents may refer to one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names of the document types")]
pub enum Kind {
    Site,
    Zone,
    Cluster,
    Check,
    Domain,
    Service,
    Route,
    Vantage,
    Override,
    Token,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Site,
        Self::Zone,
        Self::Cluster,
        Self::Check,
        Self::Domain,
        Self::Service,
        Self::Route,
        Self::Vantage,
        Self::Override,
        Self::Token,
    ];

    /// As written in documents: `Site`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Site => "Site",
            Self::Zone => "Zone",
            Self::Cluster => "Cluster",
            Self::Check => "Check",
            Self::Domain => "Domain",
            Self::Service => "Service",
            Self::Route => "Route",
            Self::Vantage => "Vantage",
            Self::Override => "Override",
            Self::Token => "Token",
        }
    }

    /// The kind a person means, in any case, singular or plural: `site`, `Sites`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            lower == name || lower.strip_suffix('s') == Some(&name)
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What identifies a document: one name means one thing within a kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocumentId {
    /// The kind.
    pub kind: Kind,
    /// Its name: a [`Name`], or a [`DomainName`] for zones and domains.
    pub name: String,
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Document {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> DocumentId {
        let (kind, name) = match self {
            Self::Site(it) => (Kind::Site, it.name.as_str()),
            Self::Cluster(it) => (Kind::Cluster, it.name.as_str()),
            Self::Zone(it) => (Kind::Zone, it.name.as_str()),
            Self::Check(it) => (Kind::Check, it.name.as_str()),
            Self::Domain(it) => (Kind::Domain, it.name.as_str()),
            Self::Service(it) => (Kind::Service, it.name.as_str()),
            Self::Route(it) => (Kind::Route, it.name.as_str()),
            Self::Vantage(it) => (Kind::Vantage, it.name.as_str()),
            Self::Override(it) => (Kind::Override, it.name.as_str()),
            Self::Token(it) => (Kind::Token, it.name.as_str()),
        };
        DocumentId { kind, name: name.to_owned() }
    }
}

/// A data centre.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub name: Name,
    /// Where it stands; decides which site is the next nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Clients that are nearest here, whatever geography says; the longest prefix of all sites wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
}

/// A place on Earth, in degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// -90 to 90.
    pub lat: f64,
    /// -180 to 180.
    pub lon: f64,
}

/// IPv4 and IPv6 addresses of one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// IPv4.
    #[serde(default)]
    pub a: Vec<Ipv4Addr>,
    /// IPv6.
    #[serde(default)]
    pub aaaa: Vec<Ipv6Addr>,
}

/// Gateways that serve the same services in several sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: Name,
    /// The zone its names lie in.
    pub zone: DomainName,
    /// The unified domain of all its sites.
    pub gateway_domain: DomainName,
    /// Per site, the addresses clients are sent to.
    pub gateways: BTreeMap<Name, Addresses>,
}

/// A delegated zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// The apex.
    pub name: DomainName,
    /// The name servers.
    pub nameservers: Vec<Nameserver>,
    /// What its SOA record says; absent: the first name server is the primary, the rest is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soa: Option<StartOfAuthority>,
    /// TTL of static records and of service domains' CNAMEs.
    pub ttl: Ttl,
    /// How long resolvers may remember an absence (RFC 2308 §4).
    pub negative_ttl: Ttl,
    /// Static records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<StaticRecord>,
    /// The networks that may ask about it, by the address a query comes from; empty: everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_query: Vec<IpNet>,
}

/// What a zone's SOA record says (RFC 1035 §3.3.13), but for its minimum, which is [`Zone::negative_ttl`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOfAuthority {
    /// The primary name server.
    pub mname: DomainName,
    /// The mailbox of whoever answers for the zone, as a name: `john\046doe.example.com`.
    pub rname: DomainName,
    /// The serial; absent: derived from the generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<u32>,
    /// How often a secondary looks for a newer serial.
    pub refresh: Ttl,
    /// How soon it tries again.
    pub retry: Ttl,
    /// After how long without contact it stops answering.
    pub expire: Ttl,
    /// The TTL of the record itself; absent: the zone's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
}

impl StartOfAuthority {
    /// How often a secondary looks for a newer serial, unless the zone says.
    pub const REFRESH: Ttl = seconds(3_600);
    /// How soon it tries again, unless the zone says.
    pub const RETRY: Ttl = seconds(600);
    /// After how long without contact it stops answering, unless the zone says: two weeks (RFC 1912 §2.2).
    pub const EXPIRE: Ttl = seconds(1_209_600);
}

const fn seconds(secs: u32) -> Ttl {
    match Ttl::from_secs(secs) {
        Some(ttl) => ttl,
        None => Ttl::MAX,
    }
}

/// A name server of a zone, with its glue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nameserver {
    /// Its full name.
    pub name: DomainName,
    /// IPv4 glue.
    #[serde(default)]
    pub a: Vec<Ipv4Addr>,
    /// IPv6 glue.
    #[serde(default)]
    pub aaaa: Vec<Ipv6Addr>,
}

/// One static record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticRecord {
    /// The owner, in full.
    pub name: DomainName,
    /// Its own TTL; absent: the zone's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// Type and data.
    #[serde(flatten)]
    pub data: RecordData,
}

/// Type and data of a static record. Written in documents in presentation form (RFC 1035 §5.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum RecordData {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    #[serde(rename = "AAAA")]
    Aaaa(Ipv6Addr),
    /// An alias.
    #[serde(rename = "CNAME")]
    Cname(DomainName),
    /// A delegation below the zone.
    #[serde(rename = "NS")]
    Ns(DomainName),
    /// A reverse name.
    #[serde(rename = "PTR")]
    Ptr(DomainName),
    /// One or more strings of up to 255 octets.
    #[serde(rename = "TXT")]
    Txt(Vec<String>),
    /// A mail exchanger.
    #[serde(rename = "MX")]
    Mx {
        /// Lower is preferred.
        preference: u16,
        /// The host.
        exchange: DomainName,
    },
    /// A service's location (RFC 2782).
    #[serde(rename = "SRV")]
    Srv {
        /// Lower is preferred.
        priority: u16,
        /// Share among equal priorities.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: DomainName,
    },
    /// Who may issue certificates (RFC 8659).
    #[serde(rename = "CAA")]
    Caa {
        /// 128 is "critical".
        flags: u8,
        /// Such as `issue`, `issuewild` or `iodef`.
        tag: String,
        /// The tag's value.
        value: String,
    },
    /// Addresses that are another name's. Never sent: whoever asks gets the addresses, so that it may stand where
    /// a CNAME may not, as at the apex.
    #[serde(rename = "ALIAS")]
    Alias(DomainName),
    /// An alias for everything below the name (RFC 6672).
    #[serde(rename = "DNAME")]
    Dname(DomainName),
    /// Any other type, and data of the types above that they cannot hold, such as `MX 0 .`.
    Other {
        /// The type's number.
        record_type: u16,
        /// The data as on the wire, names in it uncompressed (RFC 3597 §4); at most 65535 octets.
        #[serde(with = "octets")]
        data: Vec<u8>,
    },
}

/// Octets in the stored form: base64 text.
mod octets {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(octets: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(octets))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// How a target is probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: Name,
    /// What is dialled and expected.
    #[serde(flatten)]
    pub probe: Probe,
    /// The port dialled.
    pub port: u16,
    /// Start to start.
    pub interval: Span,
    /// For the whole probe; at most the interval.
    pub timeout: Span,
    /// Failures in a row that make a vantage say Down; the first is followed at once by `fall - 1`
    /// confirmations started 100 ms apart, overlapping.
    pub fall: u8,
    /// Successes in a row that make a vantage say Up.
    pub rise: u8,
    /// How many of the configured vantages must agree.
    pub quorum: Quorum,
}

/// What a probe dials and what it expects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Probe {
    /// The port accepts a connection.
    Tcp {},
    /// HTTP/1.1 GET answers with an expected status.
    Http {
        /// The path asked for.
        path: String,
        /// The Host header; absent: the address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Statuses that count as success.
        expect_status: Vec<u16>,
    },
}

/// How many of the configured vantages must agree before a verdict changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quorum {
    /// More than half.
    #[default]
    Majority,
    /// One.
    Any,
    /// Every one.
    All,
    /// This many.
    #[serde(untagged)]
    Count(u16),
}

/// A steered name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// The name, in full.
    pub name: DomainName,
    /// Whose gateways it sends clients to.
    pub cluster: Name,
    /// The sites it may answer with; absent: all of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<Vec<Name>>,
    /// How sites are ranked.
    pub policy: Policy,
    /// How sites are probed; absent: not at all, and every site stays Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Name>,
    /// TTL while nothing is about to change.
    pub ttl: Ttl,
    /// TTL while something is.
    pub min_ttl: Ttl,
    /// How many sites' addresses an answer carries.
    pub answers: u8,
    /// Fewer usable sites than this, and the next tier is let in.
    pub min_up: u8,
    /// The answer when no site is left.
    pub when_none: WhenNone,
    /// How a site comes back.
    pub recovery: Recovery,
    /// What HTTPS records say beside the sites (RFC 9460); absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<Box<Https>>,
}

/// What the HTTPS records of a steered domain say of every site (RFC 9460). There is one record per answered site, its
/// priority the site's rank; each leads to `<site>.<domain>`, a name of the site's own, so that a client can go on to
/// the next by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Https {
    /// The protocols spoken, such as `h2` (RFC 9460 §7.1).
    pub alpn: Vec<String>,
    /// The port, where it is not 443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// How sites are ranked among those of equal health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Policy {
    /// By the client's locality.
    Nearest {},
    /// In this order.
    Failover {
        /// Every site of the domain, first choice first.
        order: Vec<Name>,
    },
}

/// The answer when every site is down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenNone {
    /// As if every site were up.
    #[default]
    Open,
    /// No address.
    Nodata,
    /// These addresses.
    Backup(Addresses),
}

/// How a site comes back after it was down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// By itself, for now the only mode.
    pub mode: RecoveryMode,
    /// Up for this long before it is used again.
    pub hold_down: Span,
    /// Over this long clients move back; zero: at once.
    pub ramp: Span,
}

/// Who decides that a recovered site is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryMode {
    /// The hold-down.
    #[default]
    Automatic,
}

/// What a team registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Names its UUID domain, `<uuid>.<zone of the cluster>`. Assigned at commit when the document has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The cluster that serves it.
    pub cluster: Name,
    /// What it is in the registry.
    pub consul: ConsulService,
    /// Its host names.
    #[serde(default)]
    pub hosts: Vec<DomainName>,
    /// Where it runs; absent: every site of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<Vec<Name>>,
    /// Where its hosts' CNAMEs point.
    pub route_by: RouteBy,
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

/// Where service domains point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteBy {
    /// To the cluster's gateway domain.
    #[default]
    Gateway,
    /// To the service's own UUID domain.
    Uuid,
}

/// What requests go to which service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// The hosts it applies to.
    pub hosts: Vec<DomainName>,
    /// The paths it applies to; the longest match of all routes wins.
    pub paths: Vec<PathMatch>,
    /// Where requests go.
    pub to: Vec<RouteTarget>,
}

/// A path condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// Whole segments: `/api` matches `/api` and `/api/x`, not `/apis`.
    Prefix(String),
}

/// One destination of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTarget {
    /// The service.
    pub service: Name,
    /// Its share.
    pub weight: Weight,
}

/// A place from which a prober dials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vantage {
    /// Its name.
    pub name: Name,
    /// The site it stands in; absent: outside every site.
    #[serde(default)]
    pub site: Option<Name>,
}

/// An operator's order, laid over what probes say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// Its name.
    pub name: Name,
    /// What it is about.
    pub target: OverrideTarget,
    /// The order.
    pub state: OverrideState,
    /// Who answers for it.
    pub owner: String,
    /// Why.
    pub reason: String,
    /// When it ends by itself; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<jiff::Timestamp>,
    /// Allows an order that leaves a domain without any site that is not forced down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// What an override is about: a site, a domain (glob) at every site, or a domain at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideTarget {
    /// The site; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Name>,
    /// A domain or a glob (`*` stands for any run of characters); absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// What an operator ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverrideState {
    /// Use it whatever probes say.
    Up,
    /// Use it only when nothing else is left at all.
    Down,
    /// Stop sending new clients there; before `down` when nothing else is left.
    Drain,
}

/// A credential of the admin API and the Consul face.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its name: what the record of writes shows.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// On what.
    #[serde(default)]
    pub scope: Scope,
    /// SHA-256 of the secret, in hexadecimal.
    pub secret_sha256: String,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, tokens included.
    Operator,
    /// Everything but tokens, backup and restore.
    Automation,
    /// Its own observations and work.
    Vantage,
    /// Services and checks in the catalog; nothing below `waypost/`.
    Registrar,
    /// What a node of ours needs: read everything, write its own heartbeats, receipts and observations.
    Node,
    /// Read, but for secrets.
    Reader,
}

/// What a token's role is limited to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The vantage it reports for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vantage: Option<Name>,
    /// The registry service names it may register.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<String>>,
}
