//! How far a generation has come.

use serde::{Deserialize, Serialize};
use store::model::{Generation, Span};
use utoipa::{IntoParams, ToSchema};

use super::schema;

/// How many sites are enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Enough {
    /// Every site.
    #[default]
    All,
    /// More than half of the sites.
    Quorum,
}

impl Enough {
    /// True if this many of all sites are enough.
    #[must_use]
    pub const fn is_reached(self, done: usize, of: usize) -> bool {
        match self {
            Self::All => done >= of,
            Self::Quorum => done * 2 > of,
        }
    }
}

/// The question how far a generation has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
pub struct RolloutQuery {
    /// The generation, such as `1.7@bj`.
    #[param(value_type = String)]
    #[serde(with = "as_text")]
    pub generation: Generation,
    /// `all` sites, or a `quorum` of them: more than half.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    pub enough: Enough,
    /// How long to wait for that, such as `5s`, at most ten seconds; absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub wait: Option<Span>,
}

/// A generation in a query.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use store::model::Generation;

    pub(super) fn serialize<S: Serializer>(
        generation: &Generation,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(generation)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Generation, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|_| D::Error::custom(format!("{text:?} is no generation; expected one such as 1.7@bj")))
    }
}

/// How far a generation has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// The generation.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// True if enough sites are done.
    pub done: bool,
    /// The sites, by name.
    pub sites: Vec<SiteRollout>,
}

/// How far a generation has come at one site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteRollout {
    /// The site.
    pub site: String,
    /// True if it is the home.
    pub home: bool,
    /// True if every node that is not lost runs the generation, or a later one.
    pub done: bool,
    /// The number of nodes that are not lost.
    pub nodes: usize,
    /// The nodes that do not run it yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// The nodes that have been silent for too long, which are not waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Why the site as a whole is pending; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
}
