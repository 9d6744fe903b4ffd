//! Probers through the API: they fetch their work and report what they see.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};

use super::{Admin, Caller, JsonBody, Problem, QueryParams};
use crate::{
    api::{Report, ReportReply, VantageWork, WorkQuery},
    auth::Right,
};

pub(super) async fn observations(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(Report(batch)): JsonBody<Report>,
) -> Result<Json<ReportReply>, Problem> {
    let vantage = batch.vantage.clone();
    let accepted = match caller.needs(Right::Vantage(vantage.as_str())) {
        Ok(()) => admin.control.observe(batch).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    let reply = accepted.inspect_err(|problem| admin.log_refused_report(&caller, &vantage, problem))?;
    admin.control.reported(&vantage, caller.0.writer()).await;
    Ok(Json(ReportReply(reply)))
}

pub(super) async fn work(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    QueryParams(query): QueryParams<WorkQuery>,
) -> Result<Json<VantageWork>, Problem> {
    caller.needs(Right::Vantage(&name))?;
    let wait = query.wait.map_or(Duration::ZERO, |span| span.0);
    Ok(Json(VantageWork(admin.control.work(&name, query.index, wait).await?)))
}
