//! `/livez`, `/readyz` and `/metrics`: on every node, on the control port or a listener of their own.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Caller, bearer};
use crate::{
    auth::{Auth, Right},
    telemetry::Metrics,
};

/// What the three answer from.
#[derive(Clone)]
pub struct Health {
    /// The node's metrics.
    pub metrics: Arc<Metrics>,
    /// Why the node should get no traffic; empty when it may.
    pub unready: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

/// The three routes. Health is for everybody who asks; metrics need a token where there is something that knows tokens
/// and asks for one.
pub fn router(health: Health, auth: Option<Auth>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state((health, auth))
}

async fn readyz(State((health, _)): State<(Health, Option<Auth>)>) -> Response {
    let reasons = (health.unready)();
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
}

async fn metrics(State((health, auth)): State<(Health, Option<Auth>)>, headers: HeaderMap) -> Response {
    if let Some(auth) = auth
        && let Err(problem) = Caller(auth.identify_request(bearer(&headers), &headers)).needs(Right::Read)
    {
        return problem.into_response();
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], health.metrics.text()).into_response()
}
