//! Tokens through the API: made, listed, and brought into a cluster that has none.

use axum::{Json, extract::State, http::StatusCode};

use super::{
    Admin, Caller, JsonBody, Problem,
    describe::{Created, List},
};
use crate::{
    api::{BootstrapOrder, BootstrapState, HomeAnswer, HomeChange, MadeToken, NewToken, TokenView},
    auth::Right,
};

pub(super) async fn list(State(admin): State<Admin>, caller: Caller) -> Result<List<TokenView>, Problem> {
    caller.needs(Right::Read)?;
    Ok(List(admin.control.tokens().await?))
}

pub(super) async fn create(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(wanted): JsonBody<NewToken>,
) -> Result<Created<MadeToken>, Problem> {
    caller.needs(Right::Tokens)?;
    match admin.change(&caller, HomeChange::Token(wanted)).await? {
        HomeAnswer::Token(made) => Ok(Created(made)),
        _ => Err(Problem::new(StatusCode::BAD_GATEWAY, "the home answered something else than was asked")),
    }
}

pub(super) async fn bootstrap(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<BootstrapState>, Problem> {
    caller.needs(Right::Read)?;
    admin.control.bootstrap().await.map(Json).map_err(|error| caller.problem(error))
}

pub(super) async fn order_bootstrap(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(order): JsonBody<BootstrapOrder>,
) -> Result<Json<BootstrapState>, Problem> {
    caller.needs(Right::Tokens)?;
    match admin.change(&caller, HomeChange::Bootstrap(order)).await? {
        HomeAnswer::Bootstrap(state) => Ok(Json(state)),
        _ => Err(Problem::new(StatusCode::BAD_GATEWAY, "the home answered something else than was asked")),
    }
}
