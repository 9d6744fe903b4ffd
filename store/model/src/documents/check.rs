//! Checks: what is dialled, how often, and what counts as success.

mod probe;

use std::time::Duration;

pub use probe::{
    DnsProbe, ExternalProbe, GrpcProbe, Header, HttpProbe, HttpVersion, Method, Probe, ProbeType,
    StatusError, StatusRange, TcpProbe, Tls, TlsProbe,
};

use serde::{Deserialize, Serialize};

use crate::{Name, Span};

/// How a target is probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: Name,
    /// What is dialled and expected.
    #[serde(flatten)]
    pub probe: Probe,
    /// The port dialled; 0 for what has none (`icmp`, and `external` where none is given).
    pub port: u16,
    /// Start to start.
    pub interval: Span,
    /// For the whole probe; at most the interval.
    pub timeout: Span,
    /// Failures in a row after which a vantage reports Down; the first is followed at once by `fall - 1`
    /// confirmations started 100 ms apart, overlapping.
    pub fall: u8,
    /// Successes in a row after which a vantage reports Up.
    pub rise: u8,
    /// How many of the configured vantages must agree.
    pub quorum: Quorum,
    /// The half-life of flaps: after this time a change to Down counts half as much. Zero: flaps do not count.
    #[serde(default = "Check::usual_damping", skip_serializing_if = "Check::is_usual_damping")]
    pub damping: Span,
}

impl Check {
    /// The half-life of flaps unless the document has another.
    pub const DAMPING: Span = Span(Duration::from_secs(30));

    const fn usual_damping() -> Span {
        Self::DAMPING
    }

    fn is_usual_damping(damping: &Span) -> bool {
        *damping == Self::DAMPING
    }
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

impl Quorum {
    /// How many of `configured` vantages must agree; at least one.
    #[must_use]
    pub fn votes_needed(self, configured: usize) -> usize {
        match self {
            Self::Majority => configured / 2 + 1,
            Self::Any => 1,
            Self::All => configured.max(1),
            Self::Count(count) => usize::from(count).max(1),
        }
    }
}
