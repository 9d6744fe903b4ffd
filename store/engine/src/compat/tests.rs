use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::{
    conformance,
    consul::{Config, Consul},
    embedded::Options,
};

mod nonsense;
mod replay;
mod spelling;

/// Allows every access.
struct Open;

impl Authorise for Open {
    fn may(&self, _: Option<&str>, _: Access<'_>) -> Permit {
        Permit::Allowed
    }
}

/// Has one token, that of a team that registers `orders`.
struct Registrar;

impl Authorise for Registrar {
    fn may(&self, token: Option<&str>, access: Access<'_>) -> Permit {
        let allowed = matches!(access, Access::Registry | Access::Register("orders"));
        match token {
            Some("known") if allowed => Permit::Allowed,
            None | Some("known") => Permit::Denied,
            Some(_) => Permit::Unknown,
        }
    }
}

async fn engine() -> Arc<Embedded> {
    Embedded::in_memory(Options { node: "n1".into(), ..Options::default() }).await
}

async fn send(engine: &Embedded, method: &str, path: &str, body: impl Into<Bytes>) -> (u16, Value) {
    send_as(engine, &Open, None, method, path, body).await
}

async fn send_as(
    engine: &Embedded,
    auth: &dyn Authorise,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: impl Into<Bytes>,
) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("X-Consul-Token", token);
    }
    let response = respond(engine, auth, request.body(body.into()).unwrap()).await;
    let text = String::from_utf8_lossy(response.body()).into_owned();
    (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Serves the face on a real socket.
async fn listening(engine: Arc<Embedded>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let engine = Arc::clone(&engine);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let engine = Arc::clone(&engine);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let response = respond(&engine, &Open, Request::from_parts(head, body)).await;
                        Ok::<_, hyper::Error>(response.map(Full::new))
                    }
                });
                // Dropped polls end connections early.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// The face passes the conformance suite through our own client, as a Consul agent does.
#[tokio::test]
async fn the_face_conforms_through_the_client() {
    let address = listening(engine().await).await;
    let config = Config { url: format!("http://{address}"), token: None, ca_pem: None, datacenter: None };
    conformance::conformance(Arc::new(Consul::new(&config).unwrap())).await;
}

#[tokio::test(start_paused = true)]
async fn a_blocking_read_ends_with_a_change_or_its_wait() {
    let engine = engine().await;
    let (_, before) = send(&engine, "GET", "/v1/health/service/orders", "").await;
    assert_eq!(before, json!([]));
    let index = engine.read(|view| view.service_index("orders"));
    let path = format!("/v1/health/service/orders?index={index}&wait=10s");
    let started = tokio::time::Instant::now();
    send(&engine, "GET", &path, "").await;
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(10) && waited <= Duration::from_millis(10_630), "{waited:?}");
    let registers = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        send(&engine, "PUT", "/v1/agent/service/register", r#"{"Name":"orders","Port":80}"#).await
    };
    let started = tokio::time::Instant::now();
    let ((_, after), _) = tokio::join!(send(&engine, "GET", &path, ""), registers);
    assert_eq!(after.as_array().unwrap().len(), 1);
    assert_eq!(started.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn a_token_writes_only_its_own_services() {
    let engine = engine().await;
    let put = |path, body| send_as(&engine, &Registrar, Some("known"), "PUT", path, body);
    assert_eq!(put("/v1/agent/service/register", r#"{"Name":"orders"}"#).await.0, 200);
    for (path, body) in [
        ("/v1/agent/service/register", r#"{"Name":"users"}"#),
        ("/v1/agent/service/register", r#"{"Name":"users","ID":"orders"}"#),
        ("/v1/kv/waypost/config/head", "x"),
        ("/v1/kv/app", "x"),
        ("/v1/session/create", "{}"),
        ("/v1/agent/maintenance?enable=true", ""),
        ("/v1/catalog/register", r#"{"Node":"n1","Address":"10.0.0.1"}"#),
        ("/v1/catalog/deregister", r#"{"Node":"n1"}"#),
        ("/v1/txn", r#"[{"KV":{"Verb":"set","Key":"waypost/x","Value":"eA=="}}]"#),
        ("/v1/txn", r#"[{"Node":{"Verb":"delete","Node":{"Node":"n1"}}}]"#),
    ] {
        assert_eq!(put(path, body).await, (403, json!("Permission denied")), "{path} {body}");
    }
    let get = |token, path| send_as(&engine, &Registrar, token, "GET", path, "");
    assert_eq!(get(Some("known"), "/v1/kv/waypost/?recurse").await.0, 403);
    assert_eq!(get(None, "/v1/health/service/orders").await, (403, json!("Permission denied")));
    assert_eq!(get(Some("other"), "/v1/health/service/orders").await, (403, json!("ACL not found")));
    assert_eq!(get(Some("known"), "/v1/health/service/orders").await.0, 200);
}

/// An id gives no right to what has it: a registration that names the id of an instance or a check of another service,
/// or of the node, does not take it over, report it or remove it.
#[tokio::test]
async fn a_token_cannot_take_over_foreign_instances_by_id() {
    let engine = engine().await;
    let users = r#"{"Name":"users","ID":"u1","Check":{"TTL":"1h","Status":"passing"}}"#;
    assert_eq!(send(&engine, "PUT", "/v1/agent/service/register", users).await.0, 200);
    let orders = r#"{"Name":"orders","ID":"o1","Check":{"TTL":"1h","Status":"passing"}}"#;
    assert_eq!(send(&engine, "PUT", "/v1/agent/service/register", orders).await.0, 200);
    let state = async || {
        let checks = send(&engine, "GET", "/v1/health/node/n1", "").await.1;
        (checks, send(&engine, "GET", "/v1/agent/services", "").await.1)
    };
    let before = state().await;
    let mut done = Vec::new();
    for (path, body) in [
        (
            "/v1/agent/service/register",
            r#"{"Name":"orders","ID":"o1","Check":{"CheckID":"service:u1","TTL":"1s"}}"#,
        ),
        (
            "/v1/agent/service/register",
            r#"{"Name":"orders","ID":"o1","Check":{"CheckID":"serfHealth","TTL":"1s"}}"#,
        ),
        ("/v1/agent/check/register", r#"{"Name":"x","ID":"service:u1","ServiceID":"o1","TTL":"1s"}"#),
        (
            "/v1/catalog/register",
            r#"{"Node":"n1","SkipNodeUpdate":true,"Service":{"Service":"orders","ID":"u1"}}"#,
        ),
        (
            "/v1/catalog/register",
            r#"{"Node":"n1","SkipNodeUpdate":true,"Service":{"Service":"orders","ID":"o1"},"Check":{"CheckID":"serfHealth","Status":"critical"}}"#,
        ),
        (
            "/v1/catalog/register",
            r#"{"Node":"n1","SkipNodeUpdate":true,"Service":{"Service":"orders","ID":"o1"},"Check":{"CheckID":"service:u1","ServiceID":"u1","Status":"critical"}}"#,
        ),
        (
            "/v1/txn",
            r#"[{"Service":{"Verb":"delete","Node":"n1","Service":{"Service":"orders","ID":"u1"}}}]"#,
        ),
        ("/v1/txn", r#"[{"Service":{"Verb":"set","Node":"n1","Service":{"Service":"orders","ID":"u1"}}}]"#),
        (
            "/v1/txn",
            r#"[{"Check":{"Verb":"set","Check":{"Node":"n1","CheckID":"serfHealth","ServiceID":"o1","Status":"critical"}}}]"#,
        ),
        (
            "/v1/txn",
            r#"[{"Check":{"Verb":"delete","Check":{"Node":"n1","CheckID":"service:u1","ServiceID":"o1"}}}]"#,
        ),
    ] {
        let status = send_as(&engine, &Registrar, Some("known"), "PUT", path, body).await.0;
        if status != 403 || state().await != before {
            done.push(format!("{status} {path} {body}"));
        }
    }
    assert!(done.is_empty(), "{}", done.join("\n"));
}

/// Without its node the engine would accept registrations for a node that does not exist, and refuse every session.
#[tokio::test]
async fn the_own_node_cannot_be_removed() {
    let engine = engine().await;
    let (status, text) = send(&engine, "PUT", "/v1/catalog/deregister", r#"{"Node":"n1"}"#).await;
    assert!(status == 400 && text.as_str().unwrap().contains("own"), "{status} {text}");
    let op = r#"[{"Node":{"Verb":"delete","Node":{"Node":"n1"}}}]"#;
    let (status, text) = send(&engine, "PUT", "/v1/txn", op).await;
    assert!(status == 409 && text.to_string().contains("own"), "{status} {text}");
    assert_eq!(send(&engine, "PUT", "/v1/session/create", "").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_the_catalog_took_over_does_not_lapse() {
    let engine = engine().await;
    for (name, ttl) in [("long", "2562047h"), ("short", "1ns"), ("taken", "10s")] {
        let body = format!(r#"{{"Name":"{name}","Check":{{"TTL":"{ttl}","Status":"passing"}}}}"#);
        assert_eq!(send(&engine, "PUT", "/v1/agent/service/register", body).await.0, 200);
    }
    let taken = r#"{"Node":"n1","SkipNodeUpdate":true,
        "Check":{"CheckID":"service:taken","ServiceID":"taken","Status":"passing"}}"#;
    assert_eq!(send(&engine, "PUT", "/v1/catalog/register", taken).await.0, 200);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for (name, status) in [("long", "passing"), ("short", "critical"), ("taken", "passing")] {
        let checks = send(&engine, "GET", &format!("/v1/health/checks/{name}"), "").await.1;
        assert_eq!(checks[0]["Status"], status, "{name}");
    }
}

#[tokio::test]
async fn a_check_that_needs_a_runner_is_refused() {
    let engine = engine().await;
    let body = r#"{"Name":"web","Port":80,"Check":{"HTTP":"http://127.0.0.1/","Interval":"10s"}}"#;
    let (status, text) = send(&engine, "PUT", "/v1/agent/service/register", body).await;
    assert_eq!(status, 400);
    assert!(text.as_str().unwrap().contains("TTL check"), "{text}");
    assert_eq!(send(&engine, "GET", "/v1/agent/services", "").await.1, json!({}));
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{0,8}",
        prop::sample::select(vec![
            "kv",
            "agent",
            "service",
            "register",
            "deregister",
            "maintenance",
            "check",
            "pass",
            "update",
            "catalog",
            "nodes",
            "services",
            "node",
            "health",
            "state",
            "any",
            "session",
            "create",
            "renew",
            "info",
            "list",
            "txn",
            "status",
            "leader",
            "self",
            "waypost",
            "%2F",
            "%00",
            "%ff",
            "name",
            "id",
            "checks",
        ])
        .prop_map(str::to_owned),
    ]
}

fn body() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec![
        "null",
        "1",
        "-1",
        "\"\"",
        "\"x\"",
        "\"10s\"",
        "[]",
        "{}",
        "[null]",
        "[{\"KV\":{\"Verb\":\"set\"}}]",
        "true",
        "{\"ID\":\"a\",\"Name\":\"b\"}",
        "1e400",
        "\"eA==\"",
        "99999999999999999999",
    ]);
    let key = prop::sample::select(vec![
        "Name",
        "ID",
        "Check",
        "Checks",
        "TTL",
        "Port",
        "Weights",
        "Meta",
        "Tags",
        "Node",
        "Address",
        "Service",
        "KV",
        "Verb",
        "Key",
        "Value",
        "Index",
        "LockDelay",
        "TaggedAddresses",
        "Status",
    ]);
    let object = prop::collection::vec((key, value.clone()), 0..5).prop_map(|pairs| {
        let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", pairs.join(","))
    });
    prop_oneof![
        value.prop_map(str::to_owned),
        object.clone(),
        prop::collection::vec(object, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
        ".{0,40}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var("WAYPOST_FULL").as_deref() == Ok("1") { 20_000 } else { 2_000 }))]

    #[test]
    fn no_request_panics(
        method in prop::sample::select(vec!["GET", "PUT", "DELETE", "POST", "OPTIONS"]),
        segments in prop::collection::vec(segment(), 0..5),
        query in prop::sample::select(vec![
            "", "?recurse", "?keys&separator=/", "?raw", "?cas=1", "?cas=x", "?acquire=x", "?index=1&wait=1ms", "?passing",
            "?tag=a&tag=b", "?node-meta=a:b", "?enable=true", "?flags=9", "?wait=1", "?%zz=1", "?dc=x",
        ]),
        body in body(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let engine = engine().await;
            let path = format!("/v1/{}{query}", segments.join("/"));
            let Ok(request) = Request::builder().method(method).uri(&path).body(Bytes::from(body)) else { return };
            let response = respond(&engine, &Open, request).await;
            assert!(response.status().as_u16() < 600 && response.body().len() < 1 << 20, "{path}");
            let again = Request::builder().method("GET").uri("/v1/catalog/services").body(Bytes::new()).unwrap();
            assert!(respond(&engine, &Open, again).await.status().is_success(), "after {method} {path}");
        });
    }
}
