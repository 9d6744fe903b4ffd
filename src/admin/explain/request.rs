//! `/v1/explain/request`: what becomes of a request at a gateway, and why.
//!
//! Everything is decided in `proxy`, whose code serves requests too. A node that is a gateway answers with what its workers
//! see, on the admin API or, if it has none, on the listener of its status. Another one answers from the snapshot, and reads
//! the instances of services that it does not follow from the registry.

use std::time::Duration;

use axum::{Json, extract::State};
use futures_util::future::BoxFuture;
use proxy::explain::{
    ExplainError, ExplainedInstance, ExplainedService, ExplainedSite, Explainer, Explanation, Outcome,
    Question, Registry, Rules,
};
use store::{
    discovery::{Entry, Standing},
    engine::Engine,
    model::Name,
};

use crate::{
    admin::{Admin, Caller, Problem, request::JsonBody},
    api::{
        ExplainedRequest, LostRoute, RequestCircuit, RequestInstance, RequestMirror, RequestOutcome,
        RequestQuestion, RequestRoute, RequestRules, RequestService, RequestShare, RequestSite,
    },
    auth::Right,
};

/// How long the registry may take to name a service's instances.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(2);

pub(in crate::admin) async fn explain_request(
    State(admin): State<Admin>,
    caller: Caller,
    JsonBody(question): JsonBody<RequestQuestion>,
) -> Result<Json<ExplainedRequest>, Problem> {
    caller.needs(Right::Read)?;
    let explaining = admin.explaining.as_deref();
    let explaining = explaining.ok_or_else(|| Problem::not_found("this node explains no requests"))?;
    let engine = &admin.engine;
    let registry =
        |service: String| Box::pin(async move { read(&**engine, &service).await }) as BoxFuture<'_, _>;
    explaining.explain(question, &registry).await.map(Json)
}

/// The instances of a service in the registry.
async fn read(engine: &dyn Engine, service: &str) -> Result<Entry, String> {
    let read = tokio::time::timeout(REGISTRY_PATIENCE, engine.health(service, None)).await;
    let read = read.map_err(|_| "the registry does not answer".to_owned())?;
    let read = read.map_err(|error| format!("the registry cannot be read: {error}"))?;
    let standing = if read.value.is_empty() { Standing::Gone } else { Standing::Present };
    Ok(Entry { endpoints: read.value, standing, ..Entry::default() })
}

/// A node that explains requests.
#[derive(Clone, Debug)]
pub struct Explaining {
    /// How it does so.
    pub explainer: Explainer,
    /// Its name.
    pub node: Name,
}

impl Explaining {
    /// Explains a request. `registry` reads the instances of a service.
    pub(in crate::admin) async fn explain(
        &self,
        question: RequestQuestion,
        registry: Registry<'_>,
    ) -> Result<ExplainedRequest, Problem> {
        let RequestQuestion { method, url, headers, client, cluster } = question;
        let asked = Question { method, url, headers, client, cluster };
        let explained = self.explainer.explain(&asked, registry).await.map_err(|error| match error {
            ExplainError::NoSnapshot => Problem::not_found(error.to_string()),
            ExplainError::Mistakes(mistakes) => {
                Problem { input_errors: mistakes, ..Problem::wrong("the request cannot be explained") }
            }
        })?;
        Ok(shown(explained, self.node.as_str()))
    }
}

fn shown(of: Explanation, node: &str) -> ExplainedRequest {
    ExplainedRequest {
        generation: of.generation,
        node: node.to_owned(),
        cluster: of.cluster,
        site: of.site,
        live: of.live,
        listener: of.listener,
        client: of.client,
        trusted: of.trusted,
        scheme: of.scheme.to_owned(),
        host: of.host,
        path: of.path,
        hosts: of.hosts,
        route: of.route.map(|it| RequestRoute {
            name: it.name,
            host: it.host,
            path: it.path,
            kind: it.kind.to_owned(),
            priority: it.priority,
            conditions: it.conditions,
        }),
        lost: of
            .lost
            .into_iter()
            .map(|it| LostRoute { name: it.name, host: it.host, path: it.path, why: it.why })
            .collect(),
        more_lost: of.more_lost,
        outcome: outcome(of.outcome),
        shares: of
            .shares
            .into_iter()
            .map(|it| RequestShare {
                service: it.service,
                weight: it.weight,
                percent: rounded(it.percent),
                elsewhere: it.elsewhere,
            })
            .collect(),
        sticks_by: of.sticks_by,
        mirror: of.mirror.map(|(service, percent)| RequestMirror { service, percent }),
        services: of.services.into_iter().map(service).collect(),
        rules: of.rules.map(rules),
        notes: of.notes,
    }
}

fn outcome(of: Outcome) -> RequestOutcome {
    match of {
        Outcome::Forwarded { target, head, set_cookie } => {
            RequestOutcome::Forwarded { target, added: head.added, removed: head.removed, set_cookie }
        }
        Outcome::Redirected { status, location } => RequestOutcome::Redirected { status, location },
        Outcome::Answered { status, media_type, body } => {
            RequestOutcome::Answered { status, media_type, body }
        }
        Outcome::Refused { status, reason, detail } => {
            RequestOutcome::Refused { status, reason: reason.to_owned(), detail }
        }
    }
}

fn service(of: ExplainedService) -> RequestService {
    RequestService {
        name: of.name,
        registry: of.registered,
        balance: of.balance,
        hashed: of.hashed,
        chosen: of.chosen,
        standing: of.standing.to_owned(),
        reason: of.reason,
        circuit: of.circuit.map(|(requests, pending, connections)| RequestCircuit {
            requests,
            pending,
            connections,
        }),
        sites: of.sites.into_iter().map(site).collect(),
        out: of.out.into_iter().map(instance).collect(),
        last_resort: of.last_resort,
    }
}

fn site(of: ExplainedSite) -> RequestSite {
    RequestSite {
        site: of.site,
        why: of.why,
        share: rounded(of.share),
        by_gateways: of.by_gateways,
        panics: of.panics,
        instances: of.instances.into_iter().map(instance).collect(),
    }
}

fn instance(of: ExplainedInstance) -> RequestInstance {
    RequestInstance {
        id: of.id,
        node: of.node,
        address: of.address,
        state: of.state.to_owned(),
        reason: of.reason,
        share: rounded(of.share),
        weight: of.weight,
        in_flight: of.in_flight,
        latency_ms: of.latency.map(|it| it.as_secs_f64() * 1000.0),
    }
}

fn rules(of: Rules) -> RequestRules {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    RequestRules {
        connect_ms: of.connect.map(millis),
        first_byte_ms: of.first_byte.map(millis),
        idle_ms: of.idle.map(millis),
        per_try_ms: of.per_try.map(millis),
        total_ms: of.total.map(millis),
        max_body_bytes: of.body,
        retries: of.retries,
        retry_on: of.retry_on,
        retry_codes: of.retry_codes,
        repeatable: of.repeatable,
        hedge_after_ms: of.hedge.map(|(after, _)| millis(after)),
        hedge_most: of.hedge.map(|(_, most)| most),
    }
}

/// With one digit behind the point.
fn rounded(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}
