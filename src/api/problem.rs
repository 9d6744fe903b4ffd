//! Why a request was refused.

use serde::{Deserialize, Serialize};
use store::model::InputError;
use utoipa::ToSchema;

use super::schema;

/// The answer to a request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Why.
    pub error: String,
    /// The errors in the documents that were sent, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::InputError>)]
    pub mistakes: Vec<InputError>,
}
