//! Steered domains: which sites, in which order, and how one comes back.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Addresses, Policy, Rule, Schedule};
use crate::{
    DomainName, Name, Span, Ttl,
    words::{tagged, words},
};

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
    /// How sites are ranked for whom no rule ranks them otherwise.
    pub policy: Policy,
    /// In front of the policy; the first that fits decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
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
    /// Whose observations decide whether a site is down.
    #[serde(default, skip_serializing_if = "Jurisdiction::is_global")]
    pub verdict: Jurisdiction,
    /// From a site's death to the last client's last wrong answer; computed, shown and alerted on when more. Absent: not
    /// limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Span>,
    /// The parameters of HTTPS records (RFC 9460); absent: there are no such records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<Box<Https>>,
}

/// A domain that its document, the world and the snapshot hold together: there may be a hundred thousand, and each is
/// a good part of a kilobyte. Changing one that others hold changes a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDomain(Arc<Domain>);

impl From<Domain> for SharedDomain {
    fn from(domain: Domain) -> Self {
        Self(Arc::new(domain))
    }
}

impl Deref for SharedDomain {
    type Target = Domain;

    fn deref(&self) -> &Domain {
        &self.0
    }
}

impl DerefMut for SharedDomain {
    fn deref_mut(&mut self) -> &mut Domain {
        Arc::make_mut(&mut self.0)
    }
}

impl Serialize for SharedDomain {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedDomain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Domain::deserialize(deserializer).map(Self::from)
    }
}

/// The parameters that the HTTPS records of a steered domain have in common (RFC 9460). There is one record per answered site, its
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
    Backup(Box<Addresses>),
}

words! {
    /// Whose observations decide whether a site is down.
    #[derive(Default)]
    pub enum Jurisdiction {
        /// All vantages', for all clients.
        #[default]
        "global" Global,
        /// For clients of a region, its own vantages'; where those have no verdict, all vantages'.
        "regional" Regional,
    }
}

impl Jurisdiction {
    const fn is_global(&self) -> bool {
        matches!(self, Self::Global)
    }
}

/// How a site comes back after it was down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Who or what lets it back.
    #[serde(flatten)]
    pub mode: RecoveryMode,
    /// Up for this long before it is used again.
    pub hold_down: Span,
    /// Over this long client networks move back, each once; zero: all at once.
    pub ramp: Span,
    /// A Check that must find the site ready too: its data in sync, its caches warm. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Name>,
}

tagged! {
    /// Who or what lets a recovered site back, its hold-down and its gate aside.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[serde(tag = "mode")]
    pub enum RecoveryMode {
        /// Nothing more.
        #[default]
        "automatic" Automatic,
        /// An override `release`.
        "manual" Manual,
        /// The hours of a schedule. Let back once, a site stays when they are over.
        "window" Window {
            /// When.
            window: Box<Schedule>,
        },
    }
    /// What a [`RecoveryMode`] is called.
    pub enum RecoveryKind;
}
