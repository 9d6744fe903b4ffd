//! The routes of the admin API with what they are for; the OpenAPI description is made from this table.

use serde_json::{Map, Value, json};

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// `get`, `post` or `delete`.
    pub method: &'static str,
    /// As in OpenAPI: parameters in braces.
    pub path: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// The right a token needs.
    pub right: &'static str,
    /// Query parameters.
    pub query: &'static [&'static str],
    /// What the body is, for those that take one.
    pub body: Option<&'static str>,
}

const fn route(
    method: &'static str,
    path: &'static str,
    right: &'static str,
    query: &'static [&'static str],
    body: Option<&'static str>,
    summary: &'static str,
) -> Route {
    Route { method, path, summary, right, query, body }
}

/// Every route.
pub const ROUTES: &[Route] = &[
    route("get", "/livez", "none", &[], None, "The process runs."),
    route(
        "get",
        "/readyz",
        "none",
        &["strict"],
        None,
        "200 when the node may get traffic, else 503 with the reasons. With `?strict` also 503 while its picture may be \
         out of date: its view is stale, its engine is away, an older configuration stays, or verdicts are frozen.",
    ),
    route("get", "/metrics", "read", &[], None, "Metrics in Prometheus' text format."),
    route("get", "/openapi.json", "none", &[], None, "This description."),
    route(
        "post",
        "/v1/apply",
        "change",
        &[],
        Some("{\"files\": [{\"name\", \"text\"}], \"prune\": false}"),
        "Makes documents true, all or none.",
    ),
    route("post", "/v1/diff", "read", &[], Some("as for /v1/apply"), "What an apply would change."),
    route("get", "/v1/documents", "read", &["kind"], None, "The stored documents."),
    route("get", "/v1/documents/{kind}/{name}", "read", &[], None, "One document."),
    route("delete", "/v1/documents/{kind}/{name}", "change", &["force"], None, "Deletes one document."),
    route(
        "post",
        "/v1/domains/{name}/switch",
        "change",
        &["to"],
        None,
        "Switches a blue_green domain to the other colour, or to the one named.",
    ),
    route("get", "/v1/tokens", "read", &[], None, "The tokens, without anything of their secrets."),
    route(
        "post",
        "/v1/tokens",
        "tokens",
        &[],
        Some("{\"name\", \"role\", \"scope\"?, \"secret\"? | \"secret_sha256\"?, \"replace\"?}"),
        "Makes a token. Without secret and secret_sha256 the secret is made here and answered once; with one of \
         them the caller keeps it, and may put the same token to other servers.",
    ),
    route(
        "get",
        "/v1/tokens/bootstrap",
        "read",
        &[],
        None,
        "Who is heard without a token, and for whom an operator's token that is not in force yet waits.",
    ),
    route(
        "post",
        "/v1/tokens/bootstrap",
        "tokens",
        &[],
        Some(
            "{\"operator\"?: {\"name\", \"secret_sha256\"}, \"tokens\": {\"node/NAME\": {\"name\", \"secret_sha256\"}}, \"force\"?}",
        ),
        "Makes the tokens of a cluster that has none; the operator's is in force once every bearer was heard.",
    ),
    route("get", "/v1/export", "read", &[], None, "Every document as YAML."),
    route("get", "/v1/backup", "restore", &[], None, "Every document with its generation, for /v1/restore."),
    route(
        "post",
        "/v1/restore",
        "restore",
        &["force"],
        Some("a backup, as text"),
        "Puts a backup in the place of everything, under a higher epoch.",
    ),
    route("get", "/v1/audit", "read", &[], None, "The record of writes, newest first."),
    route(
        "get",
        "/v1/status",
        "read",
        &["about"],
        None,
        "What is wrong, then nodes, domains, targets, vantages, services, drains; or what of it is about one \
         domain, service or site.",
    ),
    route(
        "get",
        "/v1/explain",
        "read",
        &["name", "type", "client", "at"],
        None,
        "Why a name is answered as it is.",
    ),
    route(
        "get",
        "/v1/simulate",
        "read",
        &["kill_site", "domain"],
        None,
        "Where clients and load would go if sites died.",
    ),
    route("post", "/v1/observations", "vantage", &[], Some("a numbered batch"), "What a prober saw."),
    route(
        "get",
        "/v1/vantages/{name}/work",
        "vantage",
        &["index", "wait"],
        None,
        "What a vantage is to dial, unless it has that; a long poll with the last index.",
    ),
    route("get", "/v1/drains", "read", &[], None, "The drains, newest first."),
    route(
        "post",
        "/v1/drains",
        "change",
        &[],
        Some("{\"service\", \"instance\", \"node\"?, \"hook\"?, \"lease\"?, \"require_all\"?}"),
        "Orders the drain of an instance; answered once the record is durable.",
    ),
    route("get", "/v1/drains/{id}", "read", &[], None, "One drain: receipts, laggards, hook."),
    route("delete", "/v1/drains/{id}", "change", &[], None, "Cancels a drain."),
];

/// The description, as OpenAPI 3.1.
#[must_use]
pub fn openapi() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let entry = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = entry {
            methods.insert(route.method.to_owned(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Waypost admin API", "version": env!("CARGO_PKG_VERSION") },
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "paths": paths,
    })
}

fn operation(route: &Route) -> Value {
    let parameter = |name: &str, place: &str| json!({ "name": name, "in": place, "required": place == "path", "schema": { "type": "string" } });
    let in_path = route.path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = in_path
        .map(|name| parameter(name, "path"))
        .chain(route.query.iter().map(|name| parameter(name, "query")))
        .collect();
    let mut operation = json!({
        "summary": route.summary,
        "description": format!("Needs the right: {}.", route.right),
        "parameters": parameters,
        "responses": {
            "default": { "description": "`{\"error\", \"mistakes\"?}` when it was not done; else what was asked for." }
        },
    });
    if route.right != "none" {
        operation["security"] = json!([{ "token": [] }]);
    }
    if let Some(body) = route.body {
        operation["requestBody"] = json!({ "required": true, "description": body });
    }
    operation
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt as _;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use store::engine::embedded::{Embedded, Options};

    use super::*;
    use crate::{admin, auth::Auth, control, telemetry::Metrics};

    #[tokio::test]
    async fn every_route_of_the_table_is_served() {
        let engine = Embedded::in_memory(Options::default()).await;
        // Nobody feeds the handle: there is no configuration and no picture.
        let (handle, _) = store::handle::channel(store::handle::Clock::default(), Duration::MAX);
        let name = |text: &str| text.parse().unwrap();
        let settings = control::Config::new(name("n"), name("bj"), "boot".to_owned());
        let control = control::start(settings, engine.clone(), handle.clone());
        let metrics = Arc::new(Metrics::new("n", Vec::new(), None).unwrap());
        let health = admin::Health { metrics, unready: Arc::new(Vec::new), doubts: Arc::new(Vec::new) };
        let auth = Auth::new(handle.clone(), None);
        let router = admin::router(admin::Admin::new(engine, handle, control.handle(), auth), health);
        let service = TowerToHyperService::new(router);
        for route in ROUTES {
            let path = route.path.replace("{kind}", "site").replace("{name}", "x").replace("{id}", "x");
            let method = route.method.to_uppercase();
            let request = Request::builder().method(method.as_str()).uri(&path).body(Body::empty()).unwrap();
            let answer = service.call(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body);
            assert!(status != 405 && !text.contains("no such path"), "{method} {path}: {status} {text}");
        }
        let described = openapi();
        assert_eq!(
            described["paths"]["/v1/documents/{kind}/{name}"]["delete"]["parameters"][0]["name"],
            "kind"
        );
    }
}
