//! What the controls of sites answer one another.

use serde::{Deserialize, Serialize};
use store::model::Name;
use utoipa::ToSchema;

use super::exchange::Version;

/// Which control answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteIdentity {
    /// The version of the exchange between sites.
    #[schema(value_type = u32)]
    pub v: Version,
    /// Its site.
    #[schema(value_type = String)]
    pub site: Name,
    /// Its node.
    #[schema(value_type = String)]
    pub node: Name,
    /// Drawn when its process started.
    pub boot: String,
}
