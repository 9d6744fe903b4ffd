//! The admin API: HTTP and JSON in front of control, the engine and this node's picture.
//!
//! Handlers translate and nothing else: what they decide is decided in `store::commit`, [`crate::control`] or
//! `store::steering`. Every route stands in [`routes::ROUTES`], from which the OpenAPI description is made and
//! against which the router is tested. Every request is identified first; errors are one JSON object.

mod documents;
mod explain;
mod health;
mod nodes;
pub mod routes;
mod shown;
mod simulate;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use dns::{Targets, zones_dir::Zones};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use store::{
    commit::{CommitError, ReadError},
    engine::{Engine, EngineError},
    handle::Handle,
    health::{Batch, BatchReply, Work},
    model::{InputError, Moment, Name, Span},
};

pub use health::{Health, Reasons, router as health_router};

use crate::{
    api::{DrainOrder, DrainView, OrderedDrain},
    auth::{Auth, Identity, Right},
    control::{ChangeError, ControlHandle, Refusal, Refused, Requester},
    repeats::Repeats,
};

/// The largest request: a thousand documents of ordinary size.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// What the handlers work with.
#[derive(Clone, Debug)]
pub struct Admin {
    engine: Arc<dyn Engine>,
    handle: Handle,
    control: ControlHandle,
    auth: Auth,
    refused: Arc<Repeats>,
    zones: Arc<ArcSwap<Zones>>,
    targets: Arc<ArcSwap<Targets>>,
}

impl Admin {
    /// Over an engine, this node's picture and control.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, handle: Handle, control: ControlHandle, auth: Auth) -> Self {
        let (refused, zones, targets) = (Arc::default(), Arc::default(), Arc::default());
        Self { engine, handle, control, auth, refused, zones, targets }
    }

    /// Logs that a vantage's report was refused: once, and then how often.
    fn tell_refused(&self, caller: &Caller, vantage: &Name, problem: &Problem) {
        let who = caller.0.who();
        if let Some(before) = self.refused.is_due(&format!("{who} {vantage}"), std::time::Instant::now()) {
            let (reason, status) = (&problem.error, problem.status.as_u16());
            tracing::warn!(who, %vantage, reason, status, before, "a report was refused; more are only counted for a minute");
        }
    }

    /// With the zones this node serves from files, which `explain` then knows as well.
    #[must_use]
    pub fn with_zones(self, zones: Arc<ArcSwap<Zones>>) -> Self {
        Self { zones, ..self }
    }

    /// With what this node knows of the targets of ALIAS records, which `explain` then knows as well.
    #[must_use]
    pub fn with_targets(self, targets: Arc<ArcSwap<Targets>>) -> Self {
        Self { targets, ..self }
    }
}

/// A domain's name as documents have it, however a person wrote it: in lower case, without the final dot.
fn domain_name(text: &str) -> String {
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
}

/// Every route.
pub fn router(admin: Admin, health: Health) -> Router {
    Router::new()
        .route("/", get(ui))
        .route("/openapi.json", get(async || Json(routes::openapi())))
        .route("/v1/apply", post(documents::apply))
        .route("/v1/diff", post(documents::diff))
        .route("/v1/documents", get(documents::list))
        .route("/v1/documents/{kind}/{name}", get(documents::one).delete(documents::delete))
        .route("/v1/domains/{name}/switch", post(documents::switch))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/bootstrap", get(tokens::bootstrap).post(tokens::order_bootstrap))
        .route("/v1/export", get(documents::export))
        .route("/v1/backup", get(documents::backup))
        .route("/v1/restore", post(documents::restore))
        .route("/v1/audit", get(documents::audit))
        .route("/v1/status", get(status::status))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/simulate", get(simulate::simulate))
        .route("/v1/observations", post(observations))
        .route("/v1/vantages/{name}/work", get(work))
        .route("/v1/drains", get(drains).post(order_drain))
        .route("/v1/drains/{id}", get(drain).delete(cancel_drain))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such path; see /openapi.json"))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(admin.clone())
        .merge(health::router(health, Some(admin.auth)))
}

async fn ui() -> Response {
    let policy =
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";
    let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")];
    (headers, Html(include_str!("admin/ui.html"))).into_response()
}

/// An error as clients see it.
#[derive(Debug, Serialize)]
pub struct Problem {
    #[serde(skip)]
    status: StatusCode,
    error: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mistakes: Vec<InputError>,
}

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), mistakes: Vec::new() }
    }

    fn wrong(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    fn gone(error: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

impl From<Vec<InputError>> for Problem {
    fn from(mistakes: Vec<InputError>) -> Self {
        let error = match mistakes.len() {
            1 => "1 mistake, nothing was changed".to_owned(),
            n => format!("{n} mistakes, nothing was changed"),
        };
        Self { status: StatusCode::BAD_REQUEST, error, mistakes }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        let status = match error {
            EngineError::Refused(_) | EngineError::Denied(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Engine(error) => error.into(),
            other => Self::new(StatusCode::SERVICE_UNAVAILABLE, other.to_string()),
        }
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        let status = match error {
            CommitError::Conflict => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused.kind {
            Refusal::NotFound => StatusCode::NOT_FOUND,
            Refusal::Wrong => StatusCode::BAD_REQUEST,
            Refusal::Conflict => StatusCode::CONFLICT,
            Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, refused.text)
    }
}

/// Whose request it is; a handler asks it for the right it needs.
#[derive(Debug)]
pub(crate) struct Caller(Identity);

impl Caller {
    fn needs(&self, right: Right<'_>) -> Result<(), Problem> {
        if self.0.may(right) {
            return Ok(());
        }
        Err(self.denied(right))
    }

    fn denied(&self, right: Right<'_>) -> Problem {
        match &self.0 {
            Identity::Anonymous => Problem::new(
                StatusCode::UNAUTHORIZED,
                "this needs a token: send it as `Authorization: Bearer`, or name its file with --token-file",
            ),
            Identity::Unknown => Problem::new(StatusCode::UNAUTHORIZED, "no such token"),
            identity => {
                let text = format!("the token {} may not do this ({right:?})", identity.who());
                Problem::new(StatusCode::FORBIDDEN, text)
            }
        }
    }

    /// As control knows who asks for a change.
    fn requester(&self) -> Requester<'_> {
        let (name, authority) = (self.0.who(), self.0.authority());
        Requester { name, authority, may_change_tokens: self.0.may(Right::Tokens) }
    }

    /// What this caller is answered when control refuses a change.
    fn problem(&self, error: ChangeError) -> Problem {
        match error {
            ChangeError::Input(errors) => errors.into(),
            ChangeError::TokensDenied => self.denied(Right::Tokens),
            ChangeError::Refused(refused) => refused.into(),
            ChangeError::Read(error) => error.into(),
            ChangeError::Commit(error) => error.into(),
            ChangeError::Engine(error) => error.into(),
        }
    }
}

/// The secret a request carries.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

impl FromRequestParts<Admin> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Self::Rejection> {
        Ok(Self(admin.auth.identify_request(bearer(&parts.headers), &parts.headers)))
    }
}

/// A JSON body; what is none is told like every other mistake.
#[derive(Debug)]
pub(crate) struct Sent<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = Json::<T>::from_request(request, state).await;
        read.map(|Json(it)| Self(it)).map_err(|wrong| match wrong.status() {
            too_large @ StatusCode::PAYLOAD_TOO_LARGE => {
                let most = MAX_BODY / 1024 / 1024;
                Problem::new(
                    too_large,
                    format!("the request is longer than {most} MiB: send it in several parts"),
                )
            }
            status => Problem::new(status, wrong.body_text()),
        })
    }
}

/// Query parameters, likewise.
#[derive(Debug)]
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(it)| Self(it)).map_err(|wrong| Problem::new(wrong.status(), wrong.body_text()))
    }
}

async fn observations(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(batch): Sent<Batch>,
) -> Result<Json<BatchReply>, Problem> {
    let vantage = batch.vantage.clone();
    let taken = match caller.needs(Right::Vantage(vantage.as_str())) {
        Ok(()) => admin.control.observe(batch).await.map_err(Problem::from),
        Err(problem) => Err(problem),
    };
    let reply = taken.inspect_err(|problem| admin.tell_refused(&caller, &vantage, problem))?;
    admin.control.reported(&vantage, caller.0.writer()).await;
    Ok(Json(reply))
}

#[derive(Debug, Deserialize)]
struct WorkQuery {
    #[serde(default)]
    index: u64,
    wait: Option<Span>,
}

async fn work(
    State(admin): State<Admin>,
    caller: Caller,
    Path(name): Path<String>,
    Asked(query): Asked<WorkQuery>,
) -> Result<Json<Work>, Problem> {
    caller.needs(Right::Vantage(&name))?;
    let wait = query.wait.map_or(std::time::Duration::ZERO, |span| span.0);
    Ok(Json(admin.control.work(&name, query.index, wait).await?))
}

async fn drains(State(admin): State<Admin>, caller: Caller) -> Result<Json<Vec<DrainView>>, Problem> {
    caller.needs(Right::Read)?;
    Ok(Json(admin.control.drains()))
}

async fn order_drain(
    State(admin): State<Admin>,
    caller: Caller,
    Sent(mut order): Sent<DrainOrder>,
) -> Result<Response, Problem> {
    caller.needs(Right::Change)?;
    caller.0.who().clone_into(&mut order.by);
    let drain = OrderedDrain { drain: admin.control.drain(order).await? };
    Ok((StatusCode::CREATED, Json(drain)).into_response())
}

async fn drain(
    State(admin): State<Admin>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<DrainView>, Problem> {
    caller.needs(Right::Read)?;
    let view = admin.control.drain_status(&id).await;
    view.map(Json).ok_or_else(|| Problem::not_found(format!("no drain {id:?}")))
}

async fn cancel_drain(
    State(admin): State<Admin>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Right::Change)?;
    let drain = admin.control.cancel(&id, caller.0.who()).await?;
    // It is cancelled, whether or not this can be found out.
    let still_refused_by = admin.control.also_holding(&drain).await.unwrap_or_default();
    Ok(Json(json!({
        "id": drain.id, "phase": drain.phase, "service": drain.service, "instance": drain.instance,
        "done": drain.done.map(Moment::rfc3339),
        "hook_called": drain.done.filter(|_| drain.hook.is_some()).is_some(),
        "deregistered": drain.done.is_some() || drain.trouble.is_some(),
        "still_refused_by": still_refused_by,
    }))
    .into_response())
}
