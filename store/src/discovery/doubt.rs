//! One instance whose removal is not proven.
//!
//! A doubt belongs to one instance, never to a service: three instances that vanish together are three doubts, and each
//! ends separately.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    engine::{Endpoint, Index},
    model::Moment,
};

/// What identifies a registration: node, id, address and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceKey {
    /// Its node.
    pub node: String,
    /// Its id on that node.
    pub id: String,
    /// Its address, as registered.
    pub address: String,
    /// Its port.
    pub port: u16,
}

impl InstanceKey {
    /// The key of an endpoint.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        Self {
            node: endpoint.node.clone(),
            id: endpoint.id.clone(),
            address: endpoint.address.clone(),
            port: endpoint.port,
        }
    }

    /// True if both have the same address and port.
    #[must_use]
    pub fn same_address(&self, other: &Self) -> bool {
        self.port == other.port && self.address == other.address
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}:{} (node {})", self.id, self.address, self.port, self.node)
    }
}

/// Why an instance is in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Missing together with all or most others, at an index that grew. The only doubt with a time limit.
    Missing,
    /// Missing after the index went back.
    StepBack {
        /// The index before.
        from: Index,
        /// The index after.
        to: Index,
    },
    /// Missing although the index did not grow: the answer was filtered.
    NotGrown,
    /// Missing, and this node's token cannot read anything else in the registry either.
    Blind,
    /// Critical together with all others.
    Critical,
    /// New, in an answer whose index went back: an old registration, whose process may have ended long ago.
    Newcomer,
    /// Of the registry of another site, and that site tells nothing at present.
    Dark,
}

impl Cause {
    /// True if the registry lists the instance.
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        matches!(self, Self::Critical | Self::Newcomer)
    }

    /// True if the registry's answer is invalid for the instance, so that the doubt has no time limit.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::StepBack { .. } | Self::NotGrown | Self::Blind | Self::Dark)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "missing in the registry together with most others"),
            Self::StepBack { from, to } if from <= to => {
                write!(
                    f,
                    "missing since the registry lists at index {to} what index {from} had left behind: a restored snapshot?"
                )
            }
            Self::StepBack { from, to } => {
                write!(f, "missing since the registry's index went back from {from} to {to}")
            }
            Self::NotGrown => write!(
                f,
                "missing although the registry's index did not grow: does the token still have service:read \
                 and node:read?"
            ),
            Self::Blind => write!(f, "missing, and the registry shows nothing else either, or only its name"),
            Self::Critical => write!(f, "critical together with all others"),
            Self::Newcomer => write!(f, "first seen in an answer whose index went back"),
            Self::Dark => write!(f, "its site tells nothing"),
        }
    }
}

/// One instance in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The instance as it was before the doubt, with the newer data of its registration.
    pub endpoint: Endpoint,
    /// Why it is in doubt.
    pub cause: Cause,
    /// Since when it has been in doubt for this cause.
    pub since: Moment,
    /// The index of the answer that caused the doubt.
    pub index: Index,
    /// True while it is used as before; false after failed dials, or until the first successful one.
    pub held: bool,
    /// Failed dials in a row.
    #[serde(default)]
    pub failures: u32,
    /// The result of the last dial; empty before the first.
    #[serde(default)]
    pub dialled: String,
}

impl Doubt {
    /// The key of its instance.
    #[must_use]
    pub fn key(&self) -> InstanceKey {
        InstanceKey::of(&self.endpoint)
    }

    /// True if the doubt is about this instance.
    #[must_use]
    pub fn is_of(&self, key: &InstanceKey) -> bool {
        let Endpoint { node, id, address, port, .. } = &self.endpoint;
        (*port, id, address, node) == (key.port, &key.id, &key.address, &key.node)
    }

    /// True if the registry has to be read again periodically: no long poll shows that a permission was granted
    /// again, nor that the address of a missing instance now belongs to another service.
    #[must_use]
    pub const fn needs_reading(&self) -> bool {
        !self.cause.is_listed()
    }

    /// One word for `status` and metrics: `doubtful`, `unreachable` or `left_out`.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match (self.held, self.cause.is_unreachable()) {
            (false, _) => "left_out",
            (true, true) => "unreachable",
            (true, false) => "doubtful",
        }
    }
}

/// An instance whose removal, or whose change to critical, was accepted recently. When the others follow within
/// seconds, it was part of a larger event and is reconsidered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// The instance as it was before.
    pub endpoint: Endpoint,
    /// When the registry's answer was accepted.
    pub at: Moment,
}

/// What the registry shows apart from the service in question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// It was not read.
    #[default]
    Unknown,
    /// Other services, so the token can read.
    Sees,
    /// Nothing, or the name of the service without its instances: a permission is missing.
    Blind,
}

/// The service that Consul's servers register themselves; it is there even in an empty catalog.
const OF_CONSUL: &str = "consul";

impl Sight {
    /// What the names in the catalog show when the registry answers that a service has no instance.
    #[must_use]
    pub fn of(service: &str, names: &[String]) -> Self {
        let others = names.iter().any(|it| it != service && it != OF_CONSUL);
        // A name without instances means that the nodes may not be read.
        let named = names.iter().any(|it| it == service);
        if named || !others { Self::Blind } else { Self::Sees }
    }
}

/// Why an instance is no longer used, or is used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// In doubt from now on; kept while it answers.
    Doubted,
    /// In doubt from now on, and not used before a dial has answered.
    Awaited,
    /// Still in doubt, for another cause.
    Recast,
    /// The registry lists it again, or for the first time in a valid answer.
    Cleared,
    /// In doubt and no longer used: its dials failed.
    LeftOut,
    /// In doubt and used again: it answers.
    TakenIn,
    /// Dropped: deregistered while most others stay.
    Deregistered,
    /// Dropped: missing for long enough that the registry's answer is accepted.
    Believed,
    /// Dropped: its dials failed.
    Dead,
    /// Dropped: its address belongs to another registration, which is named.
    Reassigned(String),
    /// Dropped: a drain record.
    Drained,
    /// Dropped: the site in whose registry it was says so.
    Told,
    /// Critical, in a valid answer.
    Critical,
    /// In maintenance.
    Maintenance,
}

impl Fate {
    /// The label of the metric that counts dropped instances; `None` if this drops none.
    #[must_use]
    pub const fn proof(&self) -> Option<&'static str> {
        match self {
            Self::Deregistered => Some("deregistered"),
            Self::Believed => Some("believed"),
            Self::Dead | Self::LeftOut => Some("dials"),
            Self::Reassigned(_) => Some("reassigned"),
            Self::Drained => Some("drained"),
            Self::Told => Some("told"),
            Self::Critical => Some("critical"),
            Self::Maintenance => Some("maintenance"),
            Self::Doubted | Self::Awaited | Self::Recast | Self::Cleared | Self::TakenIn => None,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Doubted => "in doubt, kept while it answers",
            Self::Awaited => "in doubt, not used before it answers",
            Self::Recast => "still in doubt, for another reason",
            Self::Cleared => "no longer in doubt: the registry lists it",
            Self::LeftOut => "left out: its dials failed",
            Self::TakenIn => "taken in: it answers",
            Self::Deregistered => "dropped: it was deregistered",
            Self::Believed => "dropped: the registry has said so for long enough",
            Self::Dead => "dropped: its dials failed",
            Self::Reassigned(to) => return write!(f, "dropped: its address now belongs to {to}"),
            Self::Drained => "dropped: a drain record",
            Self::Told => "dropped: its site says so",
            Self::Critical => "not used: its checks are critical",
            Self::Maintenance => "not used: in maintenance",
        };
        f.write_str(text)
    }
}
