//! Steered domains: which sites, in which order, and how one comes back.

use serde::{Deserialize, Serialize};

use super::Addresses;
use crate::model::{DomainName, Name, Span, Ttl};

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
