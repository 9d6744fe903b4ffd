//! The table of routes. The router and the OpenAPI document are both made from it.

use std::sync::LazyLock;

use axum::Router;
use utoipa::openapi::{
    Components, InfoBuilder, OpenApi, OpenApiBuilder, Paths,
    security::{Http, HttpAuthScheme, SecurityScheme},
};

use super::{
    Admin,
    describe::{OpenApiText, Page},
    documents, drains, explain,
    health::{self, Health},
    home, orders, probing, rollout,
    route::{Needs, Route, delete, describe, get, post, router_of},
    simulate, sites, status, tokens,
};
use crate::auth::Auth;

/// The routes of the admin API, except those of [`health::routes`].
fn routes() -> Vec<Route<Admin>> {
    let mut all = pages();
    all.extend(configuration());
    all.extend(operation());
    all.extend(between_sites());
    all
}

fn pages() -> Vec<Route<Admin>> {
    vec![
        get("/", Needs::Nothing, "The status as a page, for a browser.", page),
        get("/openapi.json", Needs::Nothing, "This document.", openapi),
    ]
}

fn configuration() -> Vec<Route<Admin>> {
    vec![
        post("/v1/apply", Needs::Change, "Applies documents, all of them or none.", documents::apply),
        post("/v1/diff", Needs::Read, "Shows what an apply would change.", documents::diff),
        get("/v1/documents", Needs::Read, "The stored documents.", documents::list),
        get("/v1/documents/{kind}/{name}", Needs::Read, "One document.", documents::one),
        delete("/v1/documents/{kind}/{name}", Needs::Change, "Deletes one document.", documents::delete),
        post(
            "/v1/domains/{name}/switch",
            Needs::Change,
            "Switches a blue_green domain to the other colour, or to the one named.",
            documents::switch,
        ),
        get("/v1/tokens", Needs::Read, "The tokens, without anything of their secrets.", tokens::list),
        post(
            "/v1/tokens",
            Needs::Tokens,
            "Makes a token. Without secret and secret_sha256 the server makes the secret and answers with it once.",
            tokens::create,
        ),
        get(
            "/v1/tokens/bootstrap",
            Needs::Read,
            "Which nodes and vantages send no token, and for which of them a pending operator's token waits.",
            tokens::bootstrap,
        ),
        post(
            "/v1/tokens/bootstrap",
            Needs::Tokens,
            "Makes the tokens of a cluster that has none. The operator's token is in force once every node and vantage \
             that it waits for was heard with its own.",
            tokens::order_bootstrap,
        ),
        get("/v1/export", Needs::Read, "Every document as YAML.", documents::export),
        get(
            "/v1/backup",
            Needs::Restore,
            "Every document with its generation, for /v1/restore.",
            documents::backup,
        ),
        post(
            "/v1/restore",
            Needs::Restore,
            "Replaces every document by those of a backup, under a higher epoch.",
            documents::restore,
        ),
        post(
            "/v1/promote",
            Needs::Restore,
            "Makes this site the home, where documents are committed. Refused while the present home answers, unless forced.",
            home::promote,
        ),
        post(
            "/v1/join",
            Needs::Restore,
            "Joins the sites of `[control] join` although this one has other documents, which are replaced.",
            home::join,
        ),
        get(
            "/v1/lost",
            Needs::Restore,
            "The configurations that were replaced by one which does not contain them.",
            home::lost,
        ),
        get("/v1/audit", Needs::Read, "The record of writes, newest first.", documents::audit),
    ]
}

fn operation() -> Vec<Route<Admin>> {
    vec![
        get(
            "/v1/status",
            Needs::Read,
            "What is wrong, then nodes, domains, targets, vantages, services and drains; or what of it is about one \
             domain, service or site.",
            status::status,
        ),
        get(
            "/v1/orders",
            Needs::Read,
            "The overrides, switches and deleted tokens that are ordered, and which sites have each of them.",
            orders::list,
        ),
        get(
            "/v1/rollout",
            Needs::Read,
            "Which nodes of which sites run a generation; with a time to wait, a long poll.",
            rollout::rollout,
        ),
        get("/v1/explain", Needs::Read, "Why a name is answered as it is.", explain::explain),
        post(
            "/v1/explain/request",
            Needs::Read,
            "What becomes of a request at a gateway, and why: route, service, instances.",
            explain::request::explain_request,
        ),
        get(
            "/v1/simulate",
            Needs::Read,
            "Where clients and load would go if sites failed.",
            simulate::simulate,
        ),
        post("/v1/observations", Needs::Vantage, "Takes the report of a prober.", probing::observations),
        get(
            "/v1/vantages/{name}/work",
            Needs::Vantage,
            "What a vantage is to dial; with the last index, a long poll.",
            probing::work,
        ),
        get("/v1/drains", Needs::Read, "The drains, newest first.", drains::list),
        post(
            "/v1/drains",
            Needs::Change,
            "Orders the drain of an instance; answered once the record is durable.",
            drains::order,
        ),
        get("/v1/drains/{id}", Needs::Read, "One drain.", drains::one),
        delete("/v1/drains/{id}", Needs::Change, "Cancels a drain.", drains::cancel),
    ]
}

/// What the controls of sites ask one another.
fn between_sites() -> Vec<Route<Admin>> {
    vec![
        get(
            "/v1/sites/identity",
            Needs::Site,
            "Which control answers here, for the control of another site.",
            sites::identity,
        ),
        post(
            "/v1/sites/exchange",
            Needs::Site,
            "What has changed at this site since the state of the question; waits for up to a second for news.",
            sites::exchange,
        ),
        post("/v1/sites/shards", Needs::Site, "Shards of this site's configuration.", sites::shards),
        post(
            "/v1/sites/instances",
            Needs::Site,
            "The instances of this site that follow a cursor; waits for up to a second for news.",
            sites::instances,
        ),
        post(
            "/v1/sites/change",
            Needs::Site,
            "A change of documents that another site passes on to the home.",
            sites::change,
        ),
        post(
            "/v1/sites/drains",
            Needs::Site,
            "What is new of the drains that concern the caller: those of this site, and what its gateways have proved of the \
             caller's.",
            sites::drains,
        ),
        post(
            "/v1/sites/drains/orders",
            Needs::Site,
            "The order of a drain of an instance of this site, or its cancellation, that another site passes on.",
            sites::drain,
        ),
        get(
            "/v1/sites/bearers",
            Needs::Site,
            "The nodes and vantages of this site, and the token with which each was heard last.",
            sites::bearers,
        ),
        get(
            "/v1/sites/verdicts",
            Needs::Site,
            "The verdicts of this site with their history, for a control that was alone.",
            sites::verdicts,
        ),
    ]
}

async fn page() -> Page {
    Page(include_str!("ui.html"))
}

async fn openapi() -> OpenApiText {
    OpenApiText(&DOCUMENT)
}

/// The routes of the admin API, except those of health and metrics.
pub(super) fn router() -> Router<Admin> {
    router_of(routes())
}

/// The OpenAPI document.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut text = document().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
});

fn document() -> OpenApi {
    let info = InfoBuilder::new().title("Waypost admin API").version(env!("CARGO_PKG_VERSION"));
    let (mut paths, mut components) = (Paths::new(), Components::new());
    describe::<Admin>(routes(), &mut paths, &mut components);
    describe::<(Health, Option<Auth>)>(health::routes(), &mut paths, &mut components);
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("token", token);
    OpenApiBuilder::new().info(info.build()).paths(paths).components(Some(components)).build()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use serde_json::Value;
    use utoipa::openapi::{
        Required,
        path::{HttpMethod, Parameter},
    };

    use super::*;
    use crate::admin::testing::Api;

    #[test]
    fn the_openapi_document_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        if std::env::var_os("WAYPOST_WRITE_DOCS").is_some() {
            std::fs::write(&path, &*DOCUMENT).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == *DOCUMENT, "run this test with WAYPOST_WRITE_DOCS=1 to write {}", path.display());
    }

    /// The operations of the document that is kept, not of the table.
    fn documented() -> Vec<(String, String)> {
        let kept: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
        let paths = kept["paths"].as_object().unwrap().clone().into_iter();
        let operations = |(path, item): (String, Value)| {
            let methods: Vec<String> = item.as_object().unwrap().keys().cloned().collect();
            methods.into_iter().map(move |method| (method, path.clone()))
        };
        paths.flat_map(operations).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_route_of_the_table_is_served() {
        let api = Api::start().await;
        let documented = documented();
        assert!(documented.len() > 25, "{documented:?}");
        for (method, template) in documented {
            let path = template.replace("{kind}", "site").replace("{name}", "x").replace("{id}", "x");
            let method = method.to_uppercase();
            let answer = api.ask(&method, &path, "").await;
            let (status, text) = (answer.status, answer.text);
            assert!(status != 405 && !text.contains("no such path"), "{method} {path}: {status} {text}");
        }
    }

    /// Axum does not list the routes of a router, so this reads the sources.
    #[test]
    fn only_the_table_adds_routes() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
        let mut files: Vec<_> = std::fs::read_dir(&sources).unwrap().map(|it| it.unwrap().path()).collect();
        files.push(sources.with_extension("rs"));
        let adds =
            |text: &str| [concat!(".rou", "te("), concat!("axum::rou", "ting")].map(|it| text.contains(it));
        let mut found = Vec::new();
        for file in files.iter().filter(|file| file.extension().is_some_and(|it| it == "rs")) {
            let text = std::fs::read_to_string(file).unwrap();
            if adds(&text).contains(&true) && !file.ends_with("route.rs") {
                found.push(file.display().to_string());
            }
        }
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn one_name_is_one_schema() {
        let (admin, health) = (routes(), health::routes());
        let descriptions =
            admin.iter().map(|it| &it.description).chain(health.iter().map(|it| &it.description));
        let mut named: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, schema) in descriptions.flat_map(|it| &it.schemas) {
            let schema = serde_json::to_value(schema).unwrap();
            let before = named.entry(name).or_insert_with(|| schema.clone());
            assert_eq!(*before, schema, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_without_a_token_gets_what_needs_no_right() {
        let api = Api::guarded().await;
        let takes_no_input = |route: &Route<Admin>| {
            let without_body = route.description.body.is_none();
            let optional = |it: &Parameter| matches!(it.required, Required::False);
            without_body && route.description.query.iter().all(optional)
        };
        for route in routes().iter().filter(|route| takes_no_input(route)) {
            let path = route.path.replace("{kind}", "site").replace("{name}", "x").replace("{id}", "x");
            let method = match route.method {
                HttpMethod::Post => "POST",
                HttpMethod::Delete => "DELETE",
                _ => "GET",
            };
            let answer = api.ask(method, &path, "").await;
            assert_eq!(
                answer.status == 401,
                route.needs != Needs::Nothing,
                "{method} {path}: {}",
                answer.text
            );
        }
    }
}
