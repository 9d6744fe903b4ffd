//! Requests that are almost right: each is answered, in bounds, and the engine still works afterwards.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::*;

/// No answer about the little that is stored in this test can be larger.
const MAX: usize = 2 << 20;

/// The endpoints, and whether they are read; one that ends in a slash takes a name.
const ROUTES: [(&str, bool); 42] = [
    ("agent/self", true),
    ("agent/members", true),
    ("agent/services", true),
    ("agent/checks", true),
    ("agent/service/", true),
    ("agent/health/service/id/", true),
    ("agent/health/service/name/", true),
    ("agent/service/register", false),
    ("agent/service/register", false),
    ("agent/service/deregister/", false),
    ("agent/service/maintenance/", false),
    ("agent/maintenance", false),
    ("agent/check/register", false),
    ("agent/check/deregister/", false),
    ("agent/check/pass/", false),
    ("agent/check/warn/", false),
    ("agent/check/fail/", false),
    ("agent/check/update/", false),
    ("catalog/register", false),
    ("catalog/register", false),
    ("catalog/deregister", false),
    ("catalog/datacenters", true),
    ("catalog/nodes", true),
    ("catalog/services", true),
    ("catalog/service/", true),
    ("catalog/node/", true),
    ("catalog/node-services/", true),
    ("catalog/connect/", true),
    ("health/service/", true),
    ("health/node/", true),
    ("health/checks/", true),
    ("health/state/", true),
    ("health/connect/", true),
    ("kv/", true),
    ("session/create", false),
    ("session/renew/", false),
    ("session/destroy/", false),
    ("session/info/", true),
    ("session/list", true),
    ("session/node/", true),
    ("txn", false),
    ("txn", false),
];

fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "n1",
        "web",
        "web-1",
        "service:web-1",
        "serfHealth",
        "a",
        "a/b",
        "any",
        "critical",
        "",
        "lock",
        "%ff",
        "%00",
        "%",
        "..",
        "//",
        "%2F",
        "_node_maintenance",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[ -~]{0,12}".prop_map(|text| escaped(&text))]
}

/// As much as a URI needs.
fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn query() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "index",
        "wait",
        "passing",
        "tag",
        "node-meta",
        "near",
        "dc",
        "stale",
        "consistent",
        "cached",
        "raw",
        "recurse",
        "keys",
        "separator",
        "cas",
        "flags",
        "acquire",
        "release",
        "enable",
        "reason",
        "note",
        "hash",
        "format",
        "pretty",
        "token",
        "ns",
        "filter",
        "replace-existing-checks",
    ]);
    let value = prop_oneof![
        Just(String::new()),
        prop::sample::select(vec![
            "0",
            "1",
            "18446744073709551615",
            "-1",
            "true",
            "1s",
            "600h",
            "dc1",
            "x",
            "/",
            "text"
        ])
        .prop_map(str::to_owned),
        word(),
    ];
    prop::collection::vec((name, value), 0..4).prop_map(|all| {
        all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    })
}

fn json() -> impl Strategy<Value = Value> {
    let text = prop::sample::select(vec![
        "",
        "n1",
        "web",
        "web-1",
        "10.0.0.1",
        "::1",
        "passing",
        "bogus",
        "10s",
        "1",
        "-5s",
        "set",
        "get",
        "cas",
        "delete",
        "delete-cas",
        "get-tree",
        "delete-tree",
        "lock",
        "check-index",
        "release",
        "eA==",
        "%",
        "serfHealth",
        "service:web-1",
        "\u{0}",
        "站",
    ]);
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => (0..9_u64).prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        6 => text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let name = prop::sample::select(vec![
            "ID",
            "Name",
            "Node",
            "Address",
            "Service",
            "Tags",
            "Meta",
            "Port",
            "Check",
            "Checks",
            "CheckID",
            "TTL",
            "Status",
            "ServiceID",
            "Weights",
            "Passing",
            "TaggedAddresses",
            "lan",
            "KV",
            "Verb",
            "Key",
            "Value",
            "Index",
            "Session",
            "Flags",
            "Behavior",
            "LockDelay",
            "NodeChecks",
            "ServiceChecks",
            "Definition",
            "Datacenter",
            "HTTP",
            "ModifyIndex",
            "SkipNodeUpdate",
            "Output",
            "node_meta",
        ]);
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::vec((name, inner), 0..8)
                .prop_map(|all| all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

/// Bodies that are right.
const RIGHT: [&str; 9] = [
    r#"{"Name": "web", "ID": "web-1", "Address": "10.0.0.1", "Port": 80, "Meta": {"a": "b"}, "Check": {"TTL": "10s"}}"#,
    r#"{"Name": "mem", "ServiceID": "web-1", "TTL": "15s", "Status": "passing"}"#,
    r#"{"Status": "passing", "Output": "fine"}"#,
    r#"{"Node": "ext", "Address": "10.0.0.2", "Service": {"Service": "db"}, "Check": {"CheckID": "c", "Status": "passing"}}"#,
    r#"{"Node": "ext", "ServiceID": "db"}"#,
    r#"{"Name": "lock", "TTL": "10s", "LockDelay": "0s", "Behavior": "delete"}"#,
    r#"[{"KV": {"Verb": "set", "Key": "a", "Value": "eA=="}}, {"KV": {"Verb": "get-tree", "Key": ""}}]"#,
    r#"[{"Node": {"Verb": "set", "Node": {"Node": "n2", "Address": "::1"}}}]"#,
    r#"[{"Check": {"Verb": "set", "Check": {"Node": "n1", "CheckID": "c", "ServiceID": "web-1"}}}]"#,
];

/// Puts a value somewhere into another.
fn put_into(body: &mut Value, path: &[prop::sample::Index], value: Value) {
    let Some((at, path)) = path.split_first() else {
        *body = value;
        return;
    };
    match body {
        Value::Array(list) if !list.is_empty() => {
            let at = at.index(list.len());
            put_into(&mut list[at], path, value);
        }
        Value::Object(object) if !object.is_empty() => {
            let at = at.index(object.len());
            put_into(object.values_mut().nth(at).unwrap(), path, value);
        }
        _ => *body = value,
    }
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let right = || prop::sample::select(RIGHT.to_vec());
    let path = prop::collection::vec(any::<prop::sample::Index>(), 1..4);
    let nearly = (right(), path, json()).prop_map(|(right, path, value)| {
        let mut body = serde_json::from_str(right).unwrap();
        put_into(&mut body, &path, value);
        body.to_string().into_bytes()
    });
    prop_oneof![
        3 => right().prop_map(|right| right.as_bytes().to_vec()),
        6 => nearly,
        2 => json().prop_map(|json| json.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
        1 => Just(Vec::new()),
        1 => Just("[".repeat(100_000).into_bytes()),
    ]
}

type SentRequest = (&'static str, String, Vec<u8>);

fn requests() -> impl Strategy<Value = SentRequest> {
    let method = prop::sample::select(vec!["GET", "PUT", "DELETE", "POST", "OPTIONS", "HEAD", "PATCH"]);
    let route = prop::sample::select(ROUTES.to_vec());
    (prop::option::weighted(0.3, method), route, word(), query(), body()).prop_map(
        |(method, (path, read), rest, query, body)| {
            let method = method.unwrap_or(if read { "GET" } else { "PUT" });
            let rest = if path.ends_with('/') { rest } else { String::new() };
            (method, format!("/v1/{path}{rest}?{query}"), body)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nonsense_is_answered(all in prop::collection::vec(requests(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async move {
            let engine = engine().await;
            let web = r#"{"Name": "web", "ID": "web-1", "Check": {"TTL": "10s"}}"#;
            prop_assert_eq!(send(&engine, "PUT", "/v1/agent/service/register", web).await.0, 200);
            for (method, url, body) in all {
                let Ok(uri) = url.parse::<http::Uri>() else { continue };
                let request = Request::builder().method(method).uri(uri).body(Bytes::from(body)).unwrap();
                let answer = tokio::time::timeout(Duration::from_secs(700), respond(&engine, &Open, request));
                let answer = answer.await.expect("no wait is longer than ten minutes and its sixteenth");
                let status = answer.status().as_u16();
                prop_assert!(status == 200 || (400..600).contains(&status), "{} {}: {}", method, url, status);
                prop_assert!(answer.body().len() <= MAX, "{} {}", method, url);
            }
            prop_assert_eq!(send(&engine, "PUT", "/v1/kv/alive", "still").await.0, 200);
            Ok(())
        })?;
    }
}
