//! `/livez`, `/readyz` and `/metrics`: on every node, on the control port or a listener of their own.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use store::handle::asks_strictly;

use super::{Caller, bearer};
use crate::{
    auth::{Auth, Right},
    telemetry::Metrics,
};

/// Reasons in words, as they are at the moment of asking.
pub type Reasons = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the three answer from.
#[derive(Clone)]
pub struct Health {
    /// The node's metrics.
    pub metrics: Arc<Metrics>,
    /// Why the node should get no traffic; empty when it may.
    pub unready: Reasons,
    /// Why its picture may differ from what is true, although it serves on; empty when it should not.
    pub doubts: Reasons,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

/// The three routes. Health needs no token; metrics need a token where there is something that knows tokens
/// and asks for one.
pub fn router(health: Health, auth: Option<Auth>) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state((health, auth))
}

/// Plain, it says whether the node may get traffic: it serves on with its last good picture, whatever is away. With
/// `?strict` it also fails while that picture may differ from what is true.
async fn readyz(State((health, _)): State<(Health, Option<Auth>)>, RawQuery(query): RawQuery) -> Response {
    let mut reasons = (health.unready)();
    if asks_strictly(query.as_deref().unwrap_or_default()) {
        reasons.extend((health.doubts)());
    }
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
