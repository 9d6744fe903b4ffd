//! The admin API: HTTP and JSON for control, the engine and what this node knows.
//!
//! Handlers only translate. What they answer is decided in `store::commit`, [`crate::control`] or `store::steering`; the
//! types of requests and answers are in [`crate::api`]. Every route is in the table of `routes`, from which the router
//! and the OpenAPI document are made. Every handler asks its caller for the right that it needs, and an error is one JSON
//! object.

mod describe;
mod documents;
mod drains;
mod explain;
mod health;
mod home;
mod nodes;
mod orders;
mod probing;
mod problem;
mod request;
mod rollout;
mod route;
mod routes;
mod shown;
mod simulate;
mod sites;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tokens;

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use axum::{Router, extract::DefaultBodyLimit, http::StatusCode, middleware};
use dns::{Targets, zones_dir::Zones};
use store::{engine::Engine, handle::Handle, model::Name};

pub use explain::request::Explaining;
pub use health::{Health, Reasons, status_router};

use crate::{auth::Auth, control::ControlHandle, repeats::Repeats, sites::Peers};
use problem::Problem;
use request::{Caller, JsonBody, QueryParams};

/// The largest request: a thousand documents of ordinary size.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// What the handlers work with.
#[derive(Clone, Debug)]
pub struct Admin {
    engine: Arc<dyn Engine>,
    handle: Handle,
    control: ControlHandle,
    auth: Auth,
    peers: Peers,
    refused: Arc<Repeats>,
    zones: Arc<ArcSwap<Zones>>,
    targets: Arc<ArcSwap<Targets>>,
    explaining: Option<Arc<Explaining>>,
}

impl Admin {
    /// For an engine, what this node knows, control, and the controls of other sites.
    #[must_use]
    pub fn new(
        engine: Arc<dyn Engine>,
        handle: Handle,
        control: ControlHandle,
        auth: Auth,
        peers: Peers,
    ) -> Self {
        let (refused, zones, targets) = (Arc::default(), Arc::default(), Arc::default());
        Self { engine, handle, control, auth, peers, refused, zones, targets, explaining: None }
    }

    /// Logs that a vantage's report was refused: at once, and then at most once a minute with how often it was.
    fn log_refused_report(&self, caller: &Caller, vantage: &Name, problem: &Problem) {
        let who = caller.0.who();
        if let Some(before) = self.refused.is_due(&format!("{who} {vantage}"), Instant::now()) {
            let (reason, status) = (&problem.error, problem.status.as_u16());
            tracing::warn!(who, %vantage, reason, status, before, "a report was refused; more are only counted for a minute");
        }
    }

    /// With the zones that this node serves from files, so that `explain` knows them.
    #[must_use]
    pub fn with_zones(self, zones: Arc<ArcSwap<Zones>>) -> Self {
        Self { zones, ..self }
    }

    /// With what explains requests to gateways.
    #[must_use]
    pub fn with_requests(self, explaining: Explaining) -> Self {
        Self { explaining: Some(Arc::new(explaining)), ..self }
    }

    /// With what this node knows of the targets of ALIAS records, so that `explain` knows them.
    #[must_use]
    pub fn with_targets(self, targets: Arc<ArcSwap<Targets>>) -> Self {
        Self { targets, ..self }
    }
}

/// The name of a domain as documents have it: in lower case, without the final dot.
fn domain_name(text: &str) -> String {
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
}

/// The admin API, with health and metrics.
pub fn router(admin: Admin, health: Health) -> Router {
    let auth = admin.auth.clone();
    routes::router()
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such path; see /openapi.json"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(admin.clone(), sites::say_who_answers))
        .with_state(admin)
        .merge(health::router(health, Some(auth)))
}
