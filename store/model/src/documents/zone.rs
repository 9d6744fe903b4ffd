//! Zones: what is delegated to us, and the records in it.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{DomainName, Ttl};

/// A delegated zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// The apex.
    pub name: DomainName,
    /// The name servers.
    pub nameservers: Vec<Nameserver>,
    /// The fields of its SOA record; absent: the first name server is the primary, the rest has the usual values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soa: Option<StartOfAuthority>,
    /// TTL of static records and of service domains' CNAMEs.
    pub ttl: Ttl,
    /// How long resolvers may remember an absence (RFC 2308 §4).
    pub negative_ttl: Ttl,
    /// Static records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<StaticRecord>,
    /// The networks that may query it, by the source address of the query; empty: everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_query: Vec<IpNet>,
}

/// The fields of a zone's SOA record (RFC 1035 §3.3.13) except its minimum, which is [`Zone::negative_ttl`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOfAuthority {
    /// The primary name server.
    pub mname: DomainName,
    /// The mailbox of the zone's administrator, as a name: `john\046doe.example.com`.
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
    /// How often a secondary looks for a newer serial, unless the zone has a value.
    pub const REFRESH: Ttl = seconds(3_600);
    /// How soon it tries again, unless the zone has a value.
    pub const RETRY: Ttl = seconds(600);
    /// After how long without contact it stops answering, unless the zone has a value: two weeks (RFC 1912 §2.2).
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
    /// Addresses that are another name's. Never sent: answers have the addresses, so that it may be where
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

/// True for a name server in the zone `apex` that nothing among the zone's records gives an address: none of its own or
/// of an ALIAS, none by a wildcard (RFC 4592), and it does not lie at or below a delegation, where the zone below
/// answers for it.
pub fn lacks_address<'r>(
    server: &DomainName,
    apex: &DomainName,
    records: impl Iterator<Item = &'r StaticRecord> + Clone,
) -> bool {
    let addressed = |name: &DomainName| {
        let address =
            |data: &RecordData| matches!(data, RecordData::A(_) | RecordData::Aaaa(_) | RecordData::Alias(_));
        records.clone().any(|it| it.name == *name && address(&it.data))
    };
    let delegated = |record: &StaticRecord| {
        matches!(record.data, RecordData::Ns(_)) && record.name != *apex && server.is_within(&record.name)
    };
    if !server.is_within(apex) || addressed(server) || records.clone().any(delegated) {
        return false;
    }
    let exists = |name: &DomainName| *name == *apex || records.clone().any(|it| it.name.is_within(name));
    if exists(server) {
        return true;
    }
    let encloser = std::iter::successors(server.parent(), DomainName::parent).find(exists);
    let wildcard = encloser.and_then(|it| it.resolve("*").ok());
    !wildcard.is_some_and(|wildcard| addressed(&wildcard))
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
