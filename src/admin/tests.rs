//! What the API answers, as a file: its JSON is read by programs that are not ours, so no field changes by accident.

use std::{fmt::Write as _, path::Path, time::Duration};

use serde_json::{Value, json};
use store::testing::two_sites;

use super::testing::{Answer, Api};

mod schemas;

/// Documents beside the two sites: two domains, one of them with two colours, a service with a host of this zone and one
/// outside, an override and a vantage.
const MORE: &str = "\
kind: Domain
name: gw.example.com
cluster: main
check: web
budget: 1s
recovery: { mode: manual }
policy: { type: failover, order: [bj, sh] }
---
kind: Domain
name: shop.example.com
cluster: main
policy: { type: blue_green, active: blue, blue: [bj], green: [sh] }
---
kind: Service
name: orders
uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10
cluster: main
consul: { service: orders-registry }
hosts: [orders.example.com, orders.example.org]
route_by: gateway
---
kind: Override
name: works
target: { site: sh }
state: down
owner: ops
reason: new switches
---
kind: Vantage
name: v1
";

/// Two sites, one of them forced down.
fn configuration() -> String {
    let gateways = "{ bj: { a: [192.0.2.1], aaaa: ['2001:db8::1'] }, sh: { a: [192.0.2.2] } }";
    format!("{}---\n{MORE}", two_sites(&format!("{gateways}\ncapacity: {{ bj: 1000 }}")))
}

/// Requests and their answers, as they will be compared.
struct Record {
    api: Api,
    text: String,
    /// What differs from run to run, and what it is called here.
    names: Vec<(String, &'static str)>,
}

impl Record {
    async fn send(&mut self, method: &str, path: &str, body: &str) -> Answer {
        // Two writes in one millisecond have no order in the record of writes.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = self.api.ask(method, path, body).await;
        self.keep(&format!("{method} {path}"), body, &answer);
        if answer.status < 300
            && let Ok(sent) = serde_json::from_str::<Value>(body)
        {
            schemas::check_request(method, path, &sent);
        }
        answer
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    /// Repeats the request until the answer holds all of these.
    async fn settled(&mut self, path: &str, holds: &[&str]) {
        let answer = self.api.ask_until(path, holds).await;
        self.keep(&format!("GET {path}"), "", &answer);
    }

    fn keep(&mut self, what: &str, body: &str, answer: &Answer) {
        let (method, path) = what.split_once(' ').unwrap_or_default();
        if let Ok(value) = serde_json::from_str::<Value>(&answer.text)
            && path != "/v1/nothing"
        {
            schemas::check_answer(method, path, answer.status, &value);
        }
        let sent = if body.is_empty() || body.len() > 300 { String::new() } else { format!("{body}\n") };
        let text = laid_out(&answer.text);
        let kept = format!("### {what}\n{sent}{}\n{}\n\n", answer.status, text.trim_end());
        self.text.push_str(&self.names.iter().fold(kept, |text, (id, name)| text.replace(id, name)));
    }
}

/// Fields whose values are moments, times that went by, and counters of the engine.
const PASSING: &[&str] = &["create_index", "index", "lasting", "modify_index", "silent"];

/// JSON with a line for each value, in its original order; moments and times are replaced by a star.
fn laid_out(text: &str) -> String {
    let (mut out, mut depth, mut in_string, mut escaped) = (String::new(), 0_usize, false, false);
    if !text.starts_with(['{', '[']) {
        return text.lines().map(without_moments).collect::<Vec<_>>().join("\n");
    }
    for character in text.chars() {
        match character {
            _ if in_string => {
                out.push(character);
                (in_string, escaped) = (escaped || character != '"', character == '\\' && !escaped);
            }
            '{' | '[' | ',' => {
                depth += usize::from(character != ',');
                let _ = write!(out, "{character}\n{}", "  ".repeat(depth));
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                let _ = write!(out, "\n{}{character}", "  ".repeat(depth));
            }
            ':' => out.push_str(": "),
            _ => {
                in_string = character == '"';
                out.push(character);
            }
        }
    }
    out.lines().filter(|line| !line.trim().is_empty()).map(starred).collect::<Vec<_>>().join("\n")
}

fn starred(line: &str) -> String {
    let passes = |key: &str| PASSING.iter().any(|it| key.trim() == format!("\"{it}\""));
    match line.split_once(": ") {
        Some((key, value)) if passes(key) && value.trim_end_matches(',') != "null" => {
            format!("{key}: *{}", if value.ends_with(',') { "," } else { "" })
        }
        _ => without_moments(line),
    }
}

/// Moments in RFC 3339, and how long ago they were, replaced by a star.
fn without_moments(line: &str) -> String {
    let Some(at) = line.find("2026-09-21T") else { return line.to_owned() };
    let end = line[at..].find('Z').map_or(line.len(), |end| at + end + 1);
    let rest = ["(0s)", "(1s)"].iter().find_map(|ago| line[end..].trim_start().strip_prefix(ago));
    format!("{}*{}", &line[..at], without_moments(rest.unwrap_or_else(|| &line[end..])))
}

/// The body of an apply.
fn apply(text: &str, prune: bool) -> String {
    json!({ "files": [{ "name": "world.yaml", "text": text }], "prune": prune }).to_string()
}

async fn documents(record: &mut Record) {
    record.get("/v1/explain?name=gw.example.com").await;
    record.send("POST", "/v1/apply", "{").await;
    record.send("POST", "/v1/apply", r#"{"file": []}"#).await;
    record.send("POST", "/v1/apply", &apply("kind: Site\nname: '!'\n---\nkind: Zoo\n", false)).await;
    record.send("POST", "/v1/diff", &apply(&configuration(), false)).await;
    record.send("POST", "/v1/apply", &apply(&configuration(), false)).await;
    record.send("POST", "/v1/apply", &apply(&configuration(), false)).await;
    let changed = "kind: Site\nname: bj\nnetworks: [10.1.0.0/17]\n---\nkind: Site\nname: gz\n";
    record.send("POST", "/v1/diff", &apply(changed, false)).await;
    record.send("POST", "/v1/diff", &apply("kind: Vantage\nname: v2\n", true)).await;
    let service = "kind: Service\nname: pay\ncluster: main\nconsul: { service: pay }\nroute_by: gateway\n";
    record.send("POST", "/v1/apply", &apply(service, false)).await;
    record.send("DELETE", "/v1/documents/service/pay", "").await;
    record.send("DELETE", "/v1/documents/service/pay", "").await;
    record.get("/v1/documents?kind=site").await;
    record.get("/v1/documents?kind=zoo").await;
    record.get("/v1/documents/domain/SHOP.example.com.").await;
    record.get("/v1/documents/site/none").await;
    record.send("POST", "/v1/domains/shop.example.com/switch?to=green", "").await;
    record.send("POST", "/v1/domains/gw.example.com/switch", "").await;
    record.send("POST", "/v1/domains/none.example.com/switch", "").await;
    record.get("/v1/export").await;
    record.send("POST", "/v1/restore", "kind: Site\n").await;
    let backup = record.get("/v1/backup").await;
    record.send("POST", "/v1/restore", &backup.text).await;
}

async fn tokens(record: &mut Record) {
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let token = |role: &str| json!({ "name": "ci", "role": role, "secret_sha256": digest }).to_string();
    record.send("POST", "/v1/tokens", &token("reader")).await;
    record.send("POST", "/v1/tokens", &token("automation")).await;
    record.send("POST", "/v1/tokens", r#"{"name": "ci", "role": "reader", "secret": "short"}"#).await;
    record.get("/v1/tokens").await;
    record.api.ask_until("/v1/tokens/bootstrap", &["operators"]).await;
    record.get("/v1/tokens/bootstrap").await;
    record.send("POST", "/v1/tokens/bootstrap", "{}").await;
}

async fn observations(record: &mut Record) {
    record.settled("/v1/vantages/v1/work", &["192.0.2.1", "192.0.2.2"]).await;
    record.get("/v1/vantages/none/work").await;
    let snapshot = record.api.handle.snapshot().unwrap();
    let mut targets: Vec<_> = snapshot.targets.values().collect();
    targets.sort_by_key(|target| target.address);
    let seen = |at: usize| {
        let state = if at == 0 { "down" } else { "up" };
        let reason = if at == 0 { "connection refused" } else { "connected" };
        json!({ "target": targets[at].key, "state": state, "since": 1, "reason": reason, "latency": "3ms" })
    };
    let batch = json!({
        "vantage": "v1", "boot": "b", "number": 1, "heartbeat": 1, "withheld": false, "full": true,
        "observations": (0..targets.len()).map(seen).collect::<Vec<_>>(),
    });
    record.send("POST", "/v1/observations", &batch.to_string()).await;
    let gap = json!({
        "vantage": "v1", "boot": "b", "number": 9, "heartbeat": 2, "withheld": false, "full": false,
        "observations": [],
    });
    record.send("POST", "/v1/observations", &gap.to_string()).await;
    record.send("POST", "/v1/observations", &gap.to_string().replace("v1", "none")).await;
}

async fn drains(record: &mut Record) {
    record.api.register("orders-registry", "o-1", [10, 1, 0, 9]).await;
    record.api.register("orders-registry", "o-2", [10, 1, 0, 10]).await;
    record.api.keep_alive("gw-1", "v1");
    tokio::time::sleep(Duration::from_millis(500)).await;
    record.send("POST", "/v1/drains", r#"{"service": "orders", "instance": "none"}"#).await;
    record.send("POST", "/v1/drains", r#"{"service": "orders"}"#).await;
    let order =
        json!({ "service": "orders", "instance": "o-1", "hook": "http://127.0.0.1:9/stop", "linger": "1h" });
    let ordered = record.api.ask("POST", "/v1/drains", &order.to_string()).await;
    let id = serde_json::from_str::<Value>(&ordered.text).unwrap()["id"].as_str().unwrap().to_owned();
    record.names.push((id.clone(), "DRAIN"));
    record.keep("POST /v1/drains", &order.to_string(), &ordered);
    record.settled(&format!("/v1/drains/{id}"), &["\"awaited\":[\"gw-1\"]"]).await;
    record.get("/v1/drains").await;
    record.get("/v1/drains/none").await;
}

async fn views(record: &mut Record) {
    record.settled("/v1/status", &["down since", "is under way", "\"gw-1\"", "\"control-1\""]).await;
    record.get("/v1/status?about=orders").await;
    record.get("/v1/status?about=sh").await;
    record.get("/v1/status?about=none").await;
    record.get("/v1/explain?name=orders.example.com&type=A&client=10.1.2.3").await;
    record.get("/v1/explain?name=gw.example.com&type=AAAA&client=192.0.2.200").await;
    record.get("/v1/explain?name=elsewhere.example.net").await;
    record.get("/v1/explain?name=gw.example.com&type=NONE").await;
    record.get("/v1/explain?name=gw.example.com&client=nobody").await;
    record.get("/v1/explain").await;
    record.get("/v1/explain?name=gw.example.com&at=2031-01-01T00:00:00Z").await;
    record.get("/v1/explain?name=gw.example.com&at=2020-01-01T00:00:00Z").await;
    let now = record.api.handle.now().rfc3339();
    let past = record.api.ask("GET", &format!("/v1/explain?name=gw.example.com&at={now}"), "").await;
    record.keep("GET /v1/explain?name=gw.example.com&at=NOW", "", &past);
    for question in [
        r#"{"method": "GET", "url": "http://orders.example.com/a/../b?c"}"#,
        r#"{"method": "GET", "url": "http://orders.example.com/%2F", "headers": ["X-A: b"]}"#,
        r#"{"method": "GE T", "url": "/", "headers": ["x"], "cluster": "none"}"#,
        r#"{"url": "/"}"#,
    ] {
        record.send("POST", "/v1/explain/request", question).await;
    }
    record.get("/v1/simulate?kill_site=bj").await;
    record.get("/v1/simulate?kill_site=sh&domain=gw.example.com").await;
    record.get("/v1/simulate?kill_site=gz").await;
    record.get("/v1/simulate?kill_site=bj&domain=none.example.com").await;
    record.get("/v1/simulate").await;
    record.get("/v1/nothing").await;
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_as_it_was() {
    let mut record = Record { api: Api::start().await, text: String::new(), names: Vec::new() };
    documents(&mut record).await;
    tokens(&mut record).await;
    observations(&mut record).await;
    drains(&mut record).await;
    views(&mut record).await;
    let id = record.names[0].0.clone();
    record.send("DELETE", &format!("/v1/drains/{id}"), "").await;
    record.send("DELETE", "/v1/drains/none", "").await;
    record.get("/v1/audit").await;

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/tests/answers.txt");
    if std::env::var_os("WAYPOST_WRITE_DOCS").is_some() {
        std::fs::write(&path, &record.text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    for (kept, found) in kept.split("### ").zip(record.text.split("### ")) {
        assert_eq!(kept, found, "an answer changed; see {}", path.display());
    }
    assert_eq!(kept.len(), record.text.len());
}
