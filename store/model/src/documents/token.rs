//! Tokens, and the nodes and vantages that must use theirs before an operator's token is in force.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::super::{Name, words::words};

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
    /// Only of an operator's token: it is not in force before each of these has used a token. Its bearer may use
    /// it before, and requests without a token are taken until then. Empty: it is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Bearer>,
}

impl Token {
    /// True when requests need a token because of this one.
    #[must_use]
    pub fn makes_tokens_needed(&self) -> bool {
        self.role == Role::Operator && self.waits_for.is_empty()
    }
}

words! {
    /// What a token may do.
    pub enum Role {
        /// Everything, tokens included.
        "operator" Operator,
        /// Everything but tokens, backup and restore.
        "automation" Automation,
        /// Its own observations and work.
        "vantage" Vantage,
        /// Services and checks in the catalog; nothing below `waypost/`.
        "registrar" Registrar,
        /// What a node of ours needs: read everything, write its own heartbeats, receipts and observations.
        "node" Node,
        /// What a node with control needs of the engine: what a node needs, every key below `waypost/`, sessions, and
        /// the registry. Through the admin API no more than a node. With a site in its scope it is for the control of
        /// that site to call the controls of other sites, and for nothing else but reading.
        "control" Control,
        /// Read, but for secrets.
        "reader" Reader,
    }
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
    /// The site whose control bears it. Other sites' controls take it, and no engine does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Name>,
}

/// What sends heartbeats, and needs a token once there is an operator's: written `node/NAME` or `vantage/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bearer {
    /// A node, which writes its heartbeat to the engine.
    Node(Name),
    /// A vantage, whose prober reports to the admin API.
    Vantage(Name),
}

impl fmt::Display for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Vantage(name) => write!(f, "vantage/{name}"),
        }
    }
}

/// What a [`Bearer`] should have looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node/NAME or vantage/NAME")]
pub struct BearerError;

impl FromStr for Bearer {
    type Err = BearerError;

    fn from_str(text: &str) -> Result<Self, BearerError> {
        let (kind, name) = text.split_once('/').ok_or(BearerError)?;
        let name = name.parse().map_err(|_| BearerError)?;
        match kind {
            "node" => Ok(Self::Node(name)),
            "vantage" => Ok(Self::Vantage(name)),
            _ => Err(BearerError),
        }
    }
}

impl Serialize for Bearer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bearer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_reads_as_it_prints() {
        for good in ["node/gateway-bj", "vantage/gz-telecom"] {
            assert_eq!(good.parse::<Bearer>().unwrap().to_string(), good);
        }
        for bad in ["", "gw", "node/", "node/a/b", "site/bj", "node/UPPER"] {
            assert!(bad.parse::<Bearer>().is_err(), "{bad}");
        }
    }
}
