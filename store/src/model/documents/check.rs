//! Checks: what is dialled, how often, and what counts as success.

mod probe;

use std::time::Duration;

pub use probe::{
    DnsProbe, ExternalProbe, GrpcProbe, Header, HttpProbe, HttpVersion, Method, Probe, StatusError,
    StatusRange, TcpProbe, Tls, TlsProbe,
};

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
    /// The port dialled; 0 for what has none (`icmp`, and `external` where none is given).
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::TargetKey;

    #[test]
    fn the_same_check_by_another_name_is_the_same_dial() {
        let span = |text: &str| text.parse().unwrap();
        let check = Check {
            name: "web".parse().unwrap(),
            probe: Probe::tcp(),
            port: 80,
            interval: span("1s"),
            timeout: span("800ms"),
            fall: 4,
            rise: 2,
            quorum: Quorum::Majority,
            damping: Check::DAMPING,
        };
        let key = |check: &Check| TargetKey::new([192, 0, 2, 1].into(), check);
        assert_eq!(key(&check), key(&Check { name: "other".parse().unwrap(), ..check.clone() }));
        let expect = TcpProbe { send: None, expect: Some("220".into()) };
        assert_ne!(key(&check), key(&Check { probe: Probe::Tcp(expect), ..check.clone() }));
        let sni = |name: &str| {
            let tls = Tls { server_name: Some(name.parse().unwrap()), ..Tls::default() };
            key(&Check { probe: Probe::Tls(Box::new(TlsProbe { tls })), ..check.clone() })
        };
        assert_ne!(sni("a.example.com"), sni("b.example.com"));
    }
}
