//! What is known of one instance whose removal is not proved.
//!
//! A doubt belongs to one instance, never to a service: three instances that vanish together are three doubts, and each
//! ends for itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    engine::{Endpoint, Index},
    model::Moment,
};

/// What makes a registration the same: who it is, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

    /// True if both are reached at the same place.
    #[must_use]
    pub fn same_place(&self, other: &Self) -> bool {
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
    /// Missing together with all or most others, at an index that grew. The only doubt that time ends.
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
    /// Missing, and this node's token reads nothing else in the registry either.
    Blind,
    /// Critical together with all others.
    Critical,
    /// Not known before, in an answer whose index went back: an old registration, perhaps of something long dead.
    Newcomer,
}

impl Cause {
    /// True if the registry lists the instance.
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        matches!(self, Self::Critical | Self::Newcomer)
    }

    /// True if the registry cannot be believed about the instance at all, so that no time ends the doubt.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::StepBack { .. } | Self::NotGrown | Self::Blind)
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
        }
    }
}

/// One instance in doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The instance as it was when it was last trusted, with what the registry has said of it since.
    pub endpoint: Endpoint,
    /// Why it is in doubt.
    pub cause: Cause,
    /// Since when, for this cause.
    pub since: Moment,
    /// The index of the answer that brought the doubt.
    pub index: Index,
    /// True while it is used as if nothing had happened; false once dials failed, or until a first one answers.
    pub held: bool,
    /// Failed dials in a row.
    #[serde(default)]
    pub failures: u32,
    /// What the last dial said; empty before the first.
    #[serde(default)]
    pub dialled: String,
}

impl Doubt {
    /// Its instance.
    #[must_use]
    pub fn key(&self) -> InstanceKey {
        InstanceKey::of(&self.endpoint)
    }

    /// True if it is about this instance.
    #[must_use]
    pub fn is_of(&self, key: &InstanceKey) -> bool {
        let it = &self.endpoint;
        it.port == key.port && it.id == key.id && it.address == key.address && it.node == key.node
    }

    /// True if the registry has to be asked again and again: no long poll shows that a right is back, nor that the place
    /// of a missing instance belongs to another service for good.
    #[must_use]
    pub const fn needs_reading(&self) -> bool {
        !self.cause.is_listed()
    }

    /// One word for people and metrics: `doubtful`, `unreachable` or `left_out`.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match (self.held, self.cause.is_unreachable()) {
            (false, _) => "left_out",
            (true, true) => "unreachable",
            (true, false) => "doubtful",
        }
    }
}

/// An instance whose removal, or whose turn to critical, was believed a moment ago. When the others follow it within
/// seconds, it was part of something larger and is reconsidered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// The instance as it was when it was last trusted.
    pub endpoint: Endpoint,
    /// When the registry was believed.
    pub at: Moment,
}

/// What the registry shows beside the service in question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// It was not looked at.
    #[default]
    Unknown,
    /// Others: the token reads.
    Sees,
    /// Nothing, or the very name that has no instance: a right is missing.
    Blind,
}

/// The service that Consul's servers register for themselves: it is there also in a catalog that was emptied.
const OF_CONSUL: &str = "consul";

impl Sight {
    /// What the names in the catalog say of the registry's answer that a service has no instance.
    #[must_use]
    pub fn of(service: &str, names: &[String]) -> Self {
        let others = names.iter().any(|it| it != service && it != OF_CONSUL);
        // A name without instances is one whose nodes may not be read.
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
    /// The doubt has another cause than before.
    Recast,
    /// The registry lists it again, or for the first time believably.
    Cleared,
    /// Left out while the doubt lasts: its dials failed.
    LeftOut,
    /// Taken in again while the doubt lasts: it answers.
    TakenIn,
    /// Out: deregistered while most others stay.
    Deregistered,
    /// Out: deregistered long enough ago.
    Believed,
    /// Out: its dials failed.
    Dead,
    /// Out: its place belongs to another registration, which is named.
    Reassigned(String),
    /// Out: a drain record.
    Drained,
    /// Critical, and believed.
    Critical,
    /// In maintenance.
    Maintenance,
}

impl Fate {
    /// For the metric that counts why instances were dropped; `None` if this drops none.
    #[must_use]
    pub const fn proof(&self) -> Option<&'static str> {
        match self {
            Self::Deregistered => Some("deregistered"),
            Self::Believed => Some("believed"),
            Self::Dead | Self::LeftOut => Some("dials"),
            Self::Reassigned(_) => Some("reassigned"),
            Self::Drained => Some("drained"),
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
            Self::Critical => "not used: its checks are critical",
            Self::Maintenance => "not used: in maintenance",
        };
        f.write_str(text)
    }
}
