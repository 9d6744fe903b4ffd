//! How far a generation has come, through the API.

use axum::{Json, extract::State};

use super::{Admin, Caller, Problem, QueryParams};
use crate::{
    api::{Rollout, RolloutQuery},
    auth::Right,
};

/// How far a generation has come; with a time to wait, a long poll.
pub(super) async fn rollout(
    State(admin): State<Admin>,
    caller: Caller,
    QueryParams(query): QueryParams<RolloutQuery>,
) -> Result<Json<Rollout>, Problem> {
    caller.needs(Right::Read)?;
    Ok(Json(admin.control.rollout(query).await))
}
