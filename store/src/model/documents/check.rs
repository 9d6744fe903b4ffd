//! Checks: what is dialled, how often, and what counts as success.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Name, Span};

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
    /// How long until a turn to Down counts half as much against a target that flaps; zero: never at all.
    #[serde(default = "Check::usual_damping", skip_serializing_if = "Check::is_usual_damping")]
    pub damping: Span,
}

impl Check {
    /// The half-life of flaps unless the document says otherwise.
    pub const DAMPING: Span = Span(Duration::from_secs(30));

    const fn usual_damping() -> Span {
        Self::DAMPING
    }

    fn is_usual_damping(damping: &Span) -> bool {
        *damping == Self::DAMPING
    }
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
