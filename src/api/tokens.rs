//! Tokens: how one is made, what is shown of it, and how far a cluster is with its first tokens.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use store::model::{Bearer, Generation, Name, Role, Scope};
use utoipa::ToSchema;

use super::schema;

/// A token without anything of its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: Name,
    /// What it may do.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// What its role is limited to.
    #[schema(value_type = schema::Scope)]
    pub scope: Scope,
    /// False for an operator's token that is not in force yet.
    pub in_force: bool,
}

/// A token to be made. The secret is made by the server unless the request holds a secret or its digest: that way one
/// secret can be used at several servers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its name, as the record of writes shows it.
    #[schema(value_type = String)]
    pub name: Name,
    /// What it may do.
    #[schema(value_type = schema::Role)]
    pub role: Role,
    /// What its role is limited to.
    #[serde(default)]
    #[schema(value_type = schema::Scope)]
    pub scope: Scope,
    /// The secret: at least 16 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Or the SHA-256 of the secret, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_sha256: Option<String>,
    /// Replace a token of the same name; its secret is refused from then on.
    #[serde(default)]
    pub replace: bool,
}

/// A token that was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// The generation that holds it.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// Its secret, if the server made it. It is stored nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// How far a cluster is with its first tokens.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BootstrapState {
    /// The operators' tokens in force. With any of them, every request needs a token.
    #[schema(value_type = Vec<String>)]
    pub operators: Vec<Name>,
    /// The operator's token that is not in force yet.
    pub pending: Option<PendingToken>,
    /// The nodes and vantages (`node/NAME`, `vantage/NAME`) that sent something without a token in the last minute, and
    /// the role that each of them needs.
    #[schema(value_type = BTreeMap<String, schema::Role>)]
    pub without_token: BTreeMap<Bearer, Role>,
    /// The services registered at this engine; a bootstrap does not wait for what registers them. Empty on a Consul,
    /// whose own ACLs guard them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registered: Vec<String>,
}

/// An operator's token that is not in force yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingToken {
    /// Its name.
    #[schema(value_type = String)]
    pub operator: Name,
    /// The nodes and vantages that have not been heard with a token yet.
    #[schema(value_type = BTreeSet<String>)]
    pub waits_for: BTreeSet<Bearer>,
}

/// The name of a token and the digest of its secret, which the sender keeps.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenDigest {
    /// The token's name.
    #[schema(value_type = String)]
    pub name: Name,
    /// The SHA-256 of its secret, in hexadecimal.
    pub secret_sha256: String,
}

/// The tokens that a bootstrap makes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BootstrapOrder {
    /// The operator's token; absent if one is pending already.
    #[serde(default)]
    pub operator: Option<TokenDigest>,
    /// The tokens of the nodes and vantages (`node/NAME`, `vantage/NAME`) that have none.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, TokenDigest>)]
    pub tokens: BTreeMap<Bearer, TokenDigest>,
    /// The token for registering services at this engine, which refuses registrations without one afterwards.
    #[serde(default)]
    pub registrar: Option<TokenDigest>,
    /// Put the operator's token in force at once, even if that locks nodes out.
    #[serde(default)]
    pub force: bool,
}
