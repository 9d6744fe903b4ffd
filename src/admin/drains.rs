//! Drains through the API: ordered, shown, cancelled.

use axum::{
    Json,
    extract::{Path, State},
};
use store::model::Moment;

use super::{
    Admin, Caller, JsonBody, Problem,
    describe::{Created, List},
};
use crate::{
    api::{CancelledDrain, DrainOrder, DrainView, OrderedDrain},
    auth::Right,
    control::Cancelled,
};

pub(super) async fn list(State(admin): State<Admin>, caller: Caller) -> Result<List<DrainView>, Problem> {
    caller.needs(Right::Read)?;
    Ok(List(admin.control.drains()))
}

pub(super) async fn order(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(mut order): JsonBody<DrainOrder>,
) -> Result<Created<OrderedDrain>, Problem> {
    caller.needs(Right::Change)?;
    caller.0.who().clone_into(&mut order.by);
    Ok(Created(OrderedDrain { drain: admin.control.drain_anywhere(order, &admin.peers).await? }))
}

pub(super) async fn one(
    State(admin): State<Admin>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<DrainView>, Problem> {
    caller.needs(Right::Read)?;
    let view = admin.control.drain_status(&id).await;
    view.map(Json).ok_or_else(|| Problem::not_found(format!("no drain {id:?}")))
}

pub(super) async fn cancel(
    State(admin): State<Admin>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<CancelledDrain>, Problem> {
    caller.needs(Right::Change)?;
    let Cancelled { drain, not_told } =
        admin.control.cancel_anywhere(&id, caller.0.who(), &admin.peers).await?;
    // The drain is cancelled even if the engine does not answer this question.
    let still_refused_by = admin.control.also_excluding(&drain).await.unwrap_or_default();
    Ok(Json(CancelledDrain {
        deregistered: drain.done.is_some() || drain.trouble.is_some(),
        done: drain.done.map(Moment::rfc3339),
        hook_called: drain.done.is_some() && drain.hook.is_some(),
        id: drain.id,
        instance: drain.instance,
        phase: drain.phase,
        service: drain.service,
        still_refused_by,
        not_told,
    }))
}
