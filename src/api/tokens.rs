//! Tokens: what is made, what is shown of them, and how far a cluster is on its way to them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use store::model::{Bearer, Generation, Name, Role, Scope};

/// One token, without anything of its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenView {
    /// Its name.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// On what.
    pub scope: Scope,
    /// False for an operator's token that still waits.
    pub in_force: bool,
}

/// A token to be made. Its secret may be made here, or by the caller, who then sends the secret or its digest: so one
/// secret can be put to several clusters.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What the record of writes will show.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// On what.
    #[serde(default)]
    pub scope: Scope,
    /// The secret: at least 16 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Or the SHA-256 of it, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_sha256: Option<String>,
    /// Put it in the place of a token of the same name, whose secret ends with that.
    #[serde(default)]
    pub replace: bool,
}

/// A token that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MadeToken {
    /// The generation that holds it.
    pub generation: Generation,
    /// Its secret, if it was made here. It is stored nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// How far a cluster is on its way to tokens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The operators' tokens in force, by name: with any of them, every request needs a token.
    pub operators: Vec<Name>,
    /// The operator's token that is not in force yet.
    pub pending: Option<Pending>,
    /// Who was heard in the last minute without a token, and the role it needs.
    pub without_token: BTreeMap<Bearer, Role>,
    /// The services that are registered at this engine, for whose writers nothing waits. Empty on a real Consul, whose
    /// own ACLs guard them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registered: Vec<String>,
}

/// An operator's token that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its name.
    pub operator: Name,
    /// Who has still to be heard with a token.
    pub waits_for: BTreeSet<Bearer>,
}

/// A name and the digest of a secret that the caller keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyed {
    /// The token's name.
    pub name: Name,
    /// The SHA-256 of its secret, in hexadecimal.
    pub secret_sha256: String,
}

/// What a bootstrap is to make.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapOrder {
    /// The operator's token; absent when one waits already.
    #[serde(default)]
    pub operator: Option<Keyed>,
    /// The tokens of those that have none.
    #[serde(default)]
    pub tokens: BTreeMap<Bearer, Keyed>,
    /// A token for whoever registers services at this engine, which takes no registration without one afterwards.
    #[serde(default)]
    pub registrar: Option<Keyed>,
    /// Put the operator's token in force at once, even if nodes are locked out.
    #[serde(default)]
    pub force: bool,
}
