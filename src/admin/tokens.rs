//! Tokens through the API: made, listed, and brought into a cluster that has none.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{Admin, Caller, Problem, Sent};
use crate::{
    api::{Bootstrap, BootstrapOrder, NewToken, TokenView},
    auth::Right,
};

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Vec<TokenView>>, Problem> {
    caller.needs(Right::Read)?;
    Ok(Json(admin.control.tokens().await?))
}

pub(super) async fn create(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(wanted): Sent<NewToken>,
) -> Result<Response, Problem> {
    caller.needs(Right::Tokens)?;
    let made = admin.control.create_token(caller.requester(), wanted).await;
    let made = made.map_err(|error| caller.problem(error))?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

pub(super) async fn bootstrap(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Bootstrap>, Problem> {
    caller.needs(Right::Read)?;
    admin.control.bootstrap().await.map(Json).map_err(|error| caller.problem(error))
}

pub(super) async fn order_bootstrap(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(order): Sent<BootstrapOrder>,
) -> Result<Json<Bootstrap>, Problem> {
    caller.needs(Right::Tokens)?;
    let ordered = admin.control.order_bootstrap(caller.requester(), &order).await;
    ordered.map(Json).map_err(|error| caller.problem(error))
}
