//! The captures of a real agent, replayed: the same requests in a sensible order, the same statuses, the same shapes,
//! and the same values except for those that an agent generates.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
struct Capture {
    name: String,
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
    sent: Value,
    status: u16,
    answer_headers: BTreeMap<String, String>,
    answer: Value,
}

/// What is replayed, in this order.
const ORDER: &str = include_str!("order.txt");

/// Captures that are not replayed, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("agent_host", "describes the machine"),
    ("agent_metrics", "an agent's own metrics"),
    ("agent_metrics_prometheus", "an agent's own metrics"),
    ("agent_reload", "reloads an agent's configuration"),
    ("agent_self", "most of it is an agent's own configuration; tested apart"),
    ("agent_members", "describes serf; tested apart"),
    ("agent_version_115plus", "an endpoint of newer agents"),
    ("agent_services_filter", "?filter is refused"),
    ("agent_services_filter_err", "?filter is refused"),
    ("agent_checks_in_maint", "?filter is refused"),
    ("agent_checks_in_maint2", "?filter is refused"),
    ("catalog_service_filter", "?filter is refused"),
    ("health_service_filter", "?filter is refused"),
    ("health_service_filter_err", "?filter is refused"),
    (
        "agent_service_register_unixsocket_unknownfield",
        "unknown fields are ignored, as newer clients send them",
    ),
    ("agent_service_get_hash_wait", "names a hash that an agent drew; tested apart"),
    ("catalog_nodes_near", "?near sorts by coordinates, and there are none here"),
    ("agent_check_pass_err_nottl", "its check is of a kind that is refused"),
];

fn captures() -> BTreeMap<String, Capture> {
    let all: Vec<Capture> = serde_json::from_str(include_str!("captures.json")).unwrap();
    all.into_iter().map(|it| (it.name.clone(), it)).collect()
}

/// Values that an agent generates, or that count its own writes.
fn is_drawn(key: &str) -> bool {
    ["CreateIndex", "ModifyIndex", "ContentHash", "NodeID"].contains(&key)
}

/// Lists where two answers differ in shape or value.
pub(super) fn compare(ours: &Value, theirs: &Value, at: &str, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys.into_iter().filter(|key| !is_drawn(key)) {
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => compare(a, b, &format!("{at}.{key}"), found),
                    (Some(_), None) => found.push(format!("{at}.{key} is ours alone")),
                    _ => found.push(format!("{at}.{key} is missing")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            // Checks and tags come in the order of an agent's maps, which is random.
            let key = |it: &&Value| it.get("CheckID").or_else(|| it.get("Name")).unwrap_or(it).to_string();
            let unordered = a
                .iter()
                .all(|it| it.is_string() || it.get("CheckID").is_some() || it.get("LockDelay").is_some());
            let (mut a, mut b): (Vec<&Value>, Vec<&Value>) = (a.iter().collect(), b.iter().collect());
            if unordered {
                a.sort_by_key(key);
                b.sort_by_key(key);
            }
            for (n, (a, b)) in a.into_iter().zip(b).enumerate() {
                compare(a, b, &format!("{at}[{n}]"), found);
            }
        }
        (Value::String(a), Value::String(b))
            if uuid::Uuid::try_parse(a).is_ok() == uuid::Uuid::try_parse(b).is_ok() =>
        {
            if a != b && uuid::Uuid::try_parse(a).is_err() {
                found.push(format!("{at}: {a:?}, expected {b:?}"));
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{at}: {a}, expected {b}")),
    }
}

/// Differences that are intended, each with its reason.
pub(super) fn meant(difference: &str) -> bool {
    [
        // An agent lists its node's address by family as well, and describes itself.
        ".TaggedAddresses.lan_ipv4",
        ".TaggedAddresses.wan_ipv4",
        ".Meta.consul-network-segment",
        ".Meta.rack",
        ".NodeMeta.rack",
        ".NodeMeta.consul-network-segment",
        // The real text ends in the address of a page.
        "Request body(524289 bytes) too large",
        // Another message for malformed JSON, and another index.
        "Request decode failed: ",
        "current modify index",
        // An agent's own checks come back with a definition of empty fields from two endpoints, without from others.
        ".Definition",
        // An agent that has no metadata shows null or {} by the way the registration took.
        ".Meta: ",
        ".ServiceMeta: ",
        ".ServiceTags: ",
        ".Type: ",
    ]
    .iter()
    .any(|it| difference.contains(it))
}

/// The request as it is sent to us: the ids of captured sessions are replaced by those of this run, and checks that are
/// refused here are left out.
fn prepared(capture: &Capture, sessions: &BTreeMap<String, String>) -> (String, Bytes) {
    let mut path = capture.path.clone();
    let mut sent = match &capture.sent {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        body => {
            let mut body = body.clone();
            let checks = body.get_mut("Checks").and_then(Value::as_array_mut);
            if let Some(checks) = checks.filter(|_| capture.path.contains("agent/service")) {
                checks.retain(|it| it["TCP"].is_null());
            }
            body.to_string()
        }
    };
    if sent == "524289 bytes" || sent == "524288 bytes" {
        sent = "x".repeat(sent[..6].parse().unwrap());
    }
    path = renamed(&path, sessions);
    (path, Bytes::from(renamed(&sent, sessions)))
}

fn renamed(text: &str, sessions: &BTreeMap<String, String>) -> String {
    sessions.iter().fold(text.to_owned(), |text, (then, now)| text.replace(then, now))
}

fn id_of(answer: &Value) -> Option<&str> {
    answer.get("ID")?.as_str()
}

#[tokio::test(start_paused = true)]
async fn captures_are_answered_as_a_real_agent_answered_them() {
    let engine = engine().await;
    let captures = captures();
    let mut sessions = BTreeMap::new();
    let (mut wrong, mut replayed) = (Vec::new(), BTreeSet::new());
    for line in ORDER.lines().map(str::trim).filter(|it| !it.is_empty() && !it.starts_with('#')) {
        if let Some(seconds) = line.strip_prefix("sleep ") {
            tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
            continue;
        }
        if let Some(request) = line.strip_prefix("also ") {
            let mut parts = request.splitn(3, ' ');
            let (method, path) = (parts.next().unwrap(), renamed(parts.next().unwrap(), &sessions));
            send(&engine, method, &path, parts.next().unwrap_or_default().to_owned()).await;
            continue;
        }
        if let Some((then, body)) = line.strip_prefix("session ").and_then(|it| it.split_once(' ')) {
            let (_, created) = send(&engine, "PUT", "/v1/session/create", body.to_owned()).await;
            sessions.insert(then.to_owned(), id_of(&created).unwrap().to_owned());
            continue;
        }
        let capture = captures.get(line).unwrap_or_else(|| panic!("no capture {line}"));
        replayed.insert(capture.name.clone());
        let (mut path, body) = prepared(capture, &sessions);
        if line == "kv_cas_ok" {
            let (_, there) = send(&engine, "GET", "/v1/kv/a/b", "").await;
            path = format!("/v1/kv/a/b?cas={}", there[0]["ModifyIndex"]);
        }
        let mut request = Request::builder().method(capture.method.as_str()).uri(&path);
        for (name, value) in &capture.headers {
            request = request.header(name, value);
        }
        let response = respond(&engine, &Open, request.body(body).unwrap()).await;
        let mut found = Vec::new();
        if response.status().as_u16() != capture.status {
            found.push(format!("status {}, expected {}", response.status(), capture.status));
        }
        for (name, value) in &capture.answer_headers {
            let ours = response.headers().get(name).and_then(|it| it.to_str().ok());
            let drawn = ["X-Consul-Index", "X-Consul-Contenthash", "Content-Type"].contains(&name.as_str());
            let cached = ["X-Cache", "Age"].contains(&name.as_str());
            // The index of an error is meaningless (it is 1), so ours has none.
            let failed = capture.status >= 500;
            if !cached && !failed && (ours.is_none() || (!drawn && ours != Some(value))) {
                found.push(format!("header {name}: {ours:?}, expected {value:?}"));
            }
        }
        let text = String::from_utf8_lossy(response.body()).into_owned();
        let json = response.headers().get("content-type").is_some_and(|it| it == "application/json");
        let ours = if json { serde_json::from_str(&text).unwrap() } else { Value::String(text) };
        if let (Some(now), Some(then)) = (id_of(&ours), id_of(&capture.answer)) {
            sessions.insert(then.to_owned(), now.to_owned());
        }
        compare(&ours, &capture.answer, "", &mut found);
        found.retain(|it| !meant(it));
        wrong.extend(found.into_iter().map(|it| format!("{}: {it}", capture.name)));
    }
    let left_out: BTreeSet<String> = LEFT_OUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    for name in captures.keys().filter(|it| !replayed.contains(*it) && !left_out.contains(*it)) {
        wrong.push(format!("{name} is neither replayed nor left out"));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
