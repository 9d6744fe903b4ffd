//! `/livez`, `/readyz` and `/metrics`, on every node: with the admin API, or on a listener of their own.

use std::{fmt, sync::Arc};

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::HeaderMap,
};
use serde::Deserialize;
use store::handle::asks_strictly;
use utoipa::IntoParams;

use super::{
    Caller, Problem,
    describe::{MetricsText, NotReady},
    explain::request::Explaining,
    request::{JsonBody, bearer},
    route::{Needs, Route, get, post, router_of},
};
use crate::{
    api::{ExplainedRequest, RequestQuestion},
    auth::{Auth, Right},
    telemetry::Metrics,
};

/// Reasons in words, at the moment of the call.
pub type Reasons = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the three paths answer from.
#[derive(Clone)]
pub struct Health {
    /// The node's metrics.
    pub metrics: Arc<Metrics>,
    /// Why the node should get no traffic; empty if it may.
    pub unready: Reasons,
    /// Why what the node knows may be out of date although it serves; empty if it should not be.
    pub doubts: Reasons,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

/// How strictly readiness is judged.
#[derive(Debug, Deserialize, IntoParams)]
#[expect(dead_code, reason = "only its description is used: the parameter has no value")]
struct ReadyzQuery {
    /// Also fail while what the node knows may be out of date. The parameter needs no value.
    strict: Option<String>,
}

/// The three routes.
pub(super) fn routes() -> Vec<Route<(Health, Option<Auth>)>> {
    let ready = get(
        "/readyz",
        Needs::Nothing,
        "200 if the node may get traffic, otherwise 503 with the reasons. With `?strict` also 503 while its view may be \
         out of date: its health view is stale, its engine is away, it runs an older configuration, or verdicts are \
         frozen.",
        readyz,
    );
    vec![
        get("/livez", Needs::Nothing, "The process runs.", livez),
        ready.with_query::<ReadyzQuery>(),
        get("/metrics", Needs::Read, "Metrics in Prometheus' text format.", metrics),
    ]
}

/// What a listener of the status serves: the three routes and, if the node explains requests there, that.
pub fn status_router(health: Health, auth: Option<Auth>, explaining: Option<Explaining>) -> Router {
    let router = router(health, auth.clone());
    let Some(explaining) = explaining else { return router };
    let summary = "What becomes of a request at a gateway, and why.";
    let routes = vec![post("/v1/explain/request", Needs::Read, summary, explain_request)];
    router.merge(router_of(routes).with_state((Arc::new(explaining), auth)))
}

/// As the admin API does, for nodes without one. Only a gateway explains here, and it reads no registry.
async fn explain_request(
    State((explaining, auth)): State<(Arc<Explaining>, Option<Auth>)>,
    headers: HeaderMap,
    JsonBody(question): JsonBody<RequestQuestion>,
) -> Result<Json<ExplainedRequest>, Problem> {
    if let Some(auth) = auth {
        Caller(auth.identify_request(bearer(&headers), &headers)).needs(Right::Read)?;
    }
    explaining
        .explain(question, &|_| Box::pin(async { Err("a gateway reads it".to_owned()) }))
        .await
        .map(Json)
}

/// The three routes as a router. Health needs no token. Metrics need one if `auth` is given.
pub(super) fn router(health: Health, auth: Option<Auth>) -> Router {
    router_of(routes()).with_state((health, auth))
}

async fn livez() -> &'static str {
    "ok\n"
}

/// Without `?strict`, a node is ready as long as it can answer from the last good state that it knows.
async fn readyz(
    State((health, _)): State<(Health, Option<Auth>)>,
    RawQuery(query): RawQuery,
) -> Result<&'static str, NotReady> {
    let mut reasons = (health.unready)();
    if asks_strictly(query.as_deref().unwrap_or_default()) {
        reasons.extend((health.doubts)());
    }
    if reasons.is_empty() { Ok("ok\n") } else { Err(NotReady(reasons)) }
}

async fn metrics(
    State((health, auth)): State<(Health, Option<Auth>)>,
    headers: HeaderMap,
) -> Result<MetricsText, Problem> {
    if let Some(auth) = auth {
        Caller(auth.identify_request(bearer(&headers), &headers)).needs(Right::Read)?;
    }
    Ok(MetricsText(health.metrics.text()))
}
