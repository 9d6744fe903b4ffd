//! The data of an earlier version is read: its data folder, a node's own memory, and its keys in either engine.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    components::Components,
    harness::{ConsulAgent, Reaped, ensure, eventually, free_port, runtime, waypost},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![
        Trial::test("stored::a_data_folder_is_read", data_folder),
        Trial::test("stored::a_nodes_own_memory_is_read", own_memory),
        Trial::test("stored::keys_are_read_from_the_embedded_engine", keys_on_embedded),
        components.needs_consul("stored::keys_are_read_from_consul".to_owned(), keys_on_consul),
    ]
}

const PATIENCE: Duration = Duration::from_secs(40);

/// A file that the earlier version left.
fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/stored").join(name)
}

fn stored_json(name: &str) -> Result<Value, Failed> {
    Ok(serde_json::from_slice(&std::fs::read(stored(name))?)?)
}

fn secret(token: &str) -> String {
    format!("the-test-secret-of-{token}")
}

/// A copy of the stored folders, with the secrets that nodes read from files beside them.
fn unpacked() -> Result<TempDir, Failed> {
    let folder = tempfile::tempdir()?;
    let archive = stored("data.tar.gz");
    let done = Command::new("tar").arg("-C").arg(folder.path()).arg("-xzf").arg(archive).status()?;
    ensure(done.success(), || format!("tar: {done}"))?;
    for token in ["ops", "node-edge"] {
        std::fs::write(folder.path().join(token), secret(token))?;
    }
    Ok(folder)
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// Starts a node of a name in a folder, with the sections of its configuration.
fn start(folder: &Path, name: &str, sections: &str) -> Result<Reaped, Failed> {
    let config = folder.join(format!("{name}.toml"));
    let data = folder.join(name);
    std::fs::write(&config, format!("node = \"{name}\"\nsite = \"bj\"\ndata_dir = {data:?}\n{sections}"))?;
    let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
    let mut command = waypost();
    command.arg("run").arg("--config").arg(config).arg("--die-with-parent");
    Ok(Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?))
}

fn embedded_section(folder: &Path, face: SocketAddr) -> String {
    format!("[store]\nengine = \"embedded\"\nhttp = \"{face}\"\ntoken_file = {:?}\n", folder.join("ops"))
}

fn control_section(folder: &Path, admin: SocketAddr) -> String {
    format!("[control]\nlisten = \"{admin}\"\ntoken_file = {:?}\n", folder.join("ops"))
}

fn dns_section(dns: SocketAddr) -> String {
    format!("[dns]\nlisten = [\"{dns}\"]\ndiscovery_domain = \"consul\"\n")
}

/// Sends a request with a token; the status and the text of the answer.
fn send(method: Method, url: &str, token: &str, body: String) -> Result<(u16, String), Failed> {
    runtime().block_on(async {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request = client.request(method, url).bearer_auth(secret(token));
        let request = request.header("X-Consul-Token", secret(token));
        let request = request.header("Content-Type", "application/json").body(body);
        let answer = request.timeout(Duration::from_secs(10)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    })
}

fn get(url: &str, token: &str) -> Result<(u16, String), Failed> {
    send(Method::GET, url, token, String::new())
}

/// The addresses that DNS answers to a client of `bj`.
fn addresses(dns: SocketAddr, name: &str) -> BTreeSet<IpAddr> {
    let answer = runtime().block_on(waypost::demo::client::resolve(dns, name));
    answer.map(|it| it.addresses.into_iter().collect()).unwrap_or_default()
}

/// Names whose answers show the documents, the last verdicts, the override and the colour in use.
fn names_are_answered(dns: SocketAddr) -> Result<(), Failed> {
    for (name, address) in [
        ("gw.gslb.example.com", "203.0.113.20"),
        ("www.gslb.example.com", "203.0.113.20"),
        ("orders.gslb.example.com", "203.0.113.20"),
        ("6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.gslb.example.com", "203.0.113.20"),
        ("canary.gslb.example.com", "203.0.113.20"),
        ("colour.gslb.example.com", "203.0.113.20"),
        ("ordered.gslb.example.com", "203.0.113.10"),
    ] {
        let wanted = BTreeSet::from([address.parse()?]);
        eventually(&format!("{address} for {name}"), PATIENCE, || addresses(dns, name) == wanted)?;
    }
    Ok(())
}

/// The instances that were registered, by the names that DNS gives them.
fn instances_are_named(dns: SocketAddr) -> Result<(), Failed> {
    let wanted = BTreeSet::from([[127, 0, 0, 11].into(), [127, 0, 0, 12].into()]);
    eventually("both instances", PATIENCE, || addresses(dns, "orders.service.consul") == wanted).map(drop)
}

/// A control that gives the answers of the earlier version.
struct Control {
    url: String,
    log: PathBuf,
}

impl Control {
    fn json(&self, path: &str) -> Result<Value, Failed> {
        let (status, text) = get(&format!("{}{path}", self.url), "ops")?;
        ensure(status == 200, || format!("{path}: {status}: {text}"))?;
        Ok(serde_json::from_str(&text)?)
    }

    fn eventually_answers(&self, path: &str, what: impl Fn(&Value) -> bool) -> Result<(), Failed> {
        let mut last = None;
        let holds = || {
            last = self.json(path).ok();
            last.as_ref().is_some_and(&what)
        };
        eventually(path, PATIENCE, holds).map(drop).map_err(|error| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            format!("{}: last {last:?}\n{log}", error.message().unwrap_or_default()).into()
        })
    }

    /// The documents, the record of writes and the past.
    fn has_what_was_written(&self) -> Result<(), Failed> {
        let documents = stored_json("documents.json")?;
        self.eventually_answers("/v1/documents", |now| *now == documents)?;
        let audit = stored_json("audit.json")?;
        let entries = audit.as_array().cloned().unwrap_or_default();
        self.eventually_answers("/v1/audit", |now| {
            entries.iter().all(|entry| now.as_array().is_some_and(|now| now.contains(entry)))
        })?;
        let first = entries.last().and_then(|it| it["at"].as_str()).ok_or("no first entry")?;
        let at = first.parse::<jiff::Timestamp>()? + Duration::from_millis(500);
        let then = self.json(&format!("/v1/explain?name=gw.gslb.example.com&client=10.1.0.9&at={at}"))?;
        ensure(then.to_string().contains("40s"), || format!("the TTL of then: {then}"))?;
        let files = serde_json::json!({
            "files": [{ "name": "documents.yaml", "text": std::fs::read_to_string(stored("documents.yaml"))? }]
        });
        let (status, text) = send(Method::POST, &format!("{}/v1/diff", self.url), "ops", files.to_string())?;
        ensure(status == 200 && text.contains("colour.gslb.example.com"), || format!("{status}: {text}"))?;
        for other in ["ordered.gslb.example.com", "prober-gz", "orders-api", "bj"] {
            ensure(!text.contains(other), || format!("{other} is another: {text}"))?;
        }
        Ok(())
    }

    /// Verdicts, drains and answers, as `status` shows them.
    fn has_the_same_status(&self) -> Result<(), Failed> {
        let before = stored_json("status.json")?;
        let of = |list: &Value, fields: &[&str]| -> Vec<Vec<Value>> {
            let list = list.as_array().cloned().unwrap_or_default();
            list.iter().map(|it| fields.iter().map(|field| it[*field].clone()).collect()).collect()
        };
        let of_targets = |status: &Value| -> Vec<[Value; 4]> {
            let list = status["targets"].as_array().cloned().unwrap_or_default();
            let target = |target: &Value| {
                let verdict = &target["verdict"];
                [&target["key"], &verdict["state"], &verdict["since"], &verdict["history"]].map(Value::clone)
            };
            list.iter().map(target).collect()
        };
        self.eventually_answers("/v1/status", |now| of_targets(now) == of_targets(&before))?;
        self.eventually_answers("/v1/status", |now| {
            let fields = ["name", "policy", "sites", "answers"];
            of(&now["domains"], &fields) == of(&before["domains"], &fields)
        })?;
        self.eventually_answers("/v1/status", |now| {
            let observed = |status: &Value| {
                let list = status["targets"].as_array().cloned().unwrap_or_default();
                let seen = |target: &Value| {
                    ["gz-telecom", "sh-inside"]
                        .map(|vantage| target["observations"][vantage]["state"].clone())
                };
                list.iter().map(seen).collect::<Vec<_>>()
            };
            observed(now) == observed(&before)
        })?;
        self.eventually_answers("/v1/status", |now| {
            let fields =
                ["id", "service", "instance", "phase", "created", "endpoint", "require_all", "by", "lease"];
            of(&now["drains"], &fields) == of(&before["drains"], &fields)
                && now["drains"][0]["awaited"] == serde_json::json!(["edge"])
        })
    }

    /// Each token identifies its bearer and has the rights of its role.
    fn knows_the_tokens(&self) -> Result<(), Failed> {
        let work = |vantage: &str| format!("/v1/vantages/{vantage}/work");
        for (token, path, expected) in [
            ("ops", "/v1/status".to_owned(), 200),
            ("machine", "/v1/status".to_owned(), 200),
            ("watcher", "/v1/status".to_owned(), 200),
            ("watcher", "/v1/backup".to_owned(), 403),
            ("nobody", "/v1/status".to_owned(), 401),
            ("prober-gz", work("gz-telecom"), 200),
            ("prober-gz", work("sh-inside"), 403),
            ("prober-sh", work("sh-inside"), 200),
        ] {
            let (status, text) = get(&format!("{}{path}", self.url), token)?;
            ensure(status == expected, || format!("{token}, {path}: {status}, not {expected}: {text}"))?;
        }
        Ok(())
    }

    fn has_everything(&self) -> Result<(), Failed> {
        self.has_what_was_written()?;
        self.has_the_same_status()?;
        self.knows_the_tokens()
    }
}

fn data_folder() -> Result<(), Failed> {
    let folder = unpacked()?;
    let folder = folder.path();
    let (face, admin, dns) = (address(), address(), address());
    let sections =
        [embedded_section(folder, face), control_section(folder, admin), dns_section(dns)].concat();
    let _home = start(folder, "home", &sections)?;
    let control = Control { url: format!("http://{admin}"), log: folder.join("home.log") };
    control.has_everything()?;
    names_are_answered(dns)?;
    instances_are_named(dns)?;
    for (token, path, expected) in [
        ("team", "health/service/orders", 200),
        ("team", "kv/waypost/config/head", 403),
        ("node-edge", "kv/waypost/config/head", 200),
    ] {
        let (status, text) = get(&format!("http://{face}/v1/{path}"), token)?;
        ensure(status == expected, || format!("{token}, {path}: {status}, not {expected}: {text}"))?;
    }
    // Every key is there with the octets it had, beside those that this program writes by itself.
    let (_, now) = get(&format!("http://{face}/v1/kv/?recurse"), "ops")?;
    let now: Vec<Value> = serde_json::from_str(&now)?;
    for entry in stored_json("kv.json")?.as_array().into_iter().flatten() {
        let key = entry["Key"].as_str().unwrap_or_default();
        let changes =
            ["nodes/", "locks/", "drains/", "writers/", "verdicts/"].map(|it| format!("waypost/{it}"));
        let same = |it: &Value| it["Key"] == entry["Key"] && it["Value"] == entry["Value"];
        let is_there = changes.iter().any(|prefix| key.starts_with(prefix.as_str())) || now.iter().any(same);
        ensure(is_there, || format!("{key} is gone or another"))?;
    }
    Ok(())
}

/// A node that reaches no engine starts from its own last state.
fn own_memory() -> Result<(), Failed> {
    let folder = unpacked()?;
    let folder = folder.path();
    let (dns, gateway, status) = (address(), address(), address());
    let sections = format!(
        "[store]\nengine = \"consul\"\nurl = \"http://{}\"\ntoken_file = {:?}\n{}\
         [proxy]\ncluster = \"main\"\nlisten = [\"{gateway}\"]\n[telemetry]\nlisten = \"{status}\"\n",
        address(),
        folder.join("node-edge"),
        dns_section(dns)
    );
    let _edge = start(folder, "edge", &sections)?;
    names_are_answered(dns)?;
    instances_are_named(dns)?;
    let ready = || get(&format!("http://{status}/readyz"), "ops").is_ok_and(|(status, _)| status == 200);
    eventually("a node that is ready", PATIENCE, ready)?;
    let (_, metrics) = get(&format!("http://{status}/metrics"), "ops")?;
    ensure(metrics.lines().any(|line| line == "waypost_store_generation_number 3"), || metrics.clone())
}

/// Puts the stored keys into an empty engine, and starts a node on it.
fn keys(engine: &str, folder: &Path) -> Result<(), Failed> {
    let stored = stored_json("kv.json")?;
    let set = |entry: &Value| {
        let [key, value, flags] = ["Key", "Value", "Flags"].map(|field| &entry[field]);
        serde_json::json!({ "KV": { "Verb": "set", "Key": key, "Value": value, "Flags": flags } })
    };
    let sets: Vec<Value> = stored.as_array().into_iter().flatten().map(set).collect();
    // A transaction takes 64 operations.
    for sets in sets.chunks(32) {
        let body = serde_json::to_string(sets)?;
        let (status, text) = send(Method::PUT, &format!("{engine}/v1/txn"), "ops", body)?;
        ensure(status == 200, || format!("{status}: {text}"))?;
    }
    let (admin, dns) = (address(), address());
    let sections = format!(
        "[store]\nengine = \"consul\"\nurl = \"{engine}\"\ntoken_file = {:?}\n{}{}",
        folder.join("ops"),
        control_section(folder, admin),
        dns_section(dns)
    );
    let _node = start(folder, "other", &sections)?;
    let control = Control { url: format!("http://{admin}"), log: folder.join("other.log") };
    control.has_everything()?;
    names_are_answered(dns)
}

fn keys_on_embedded() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("ops"), secret("ops"))?;
    let face = address();
    let _engine = start(folder.path(), "engine", &embedded_section(folder.path(), face))?;
    let engine = format!("http://{face}");
    let leader = || get(&format!("{engine}/v1/status/leader"), "ops").is_ok_and(|(status, _)| status == 200);
    eventually("the engine", PATIENCE, leader)?;
    keys(&engine, folder.path())
}

fn keys_on_consul(consul: PathBuf) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("ops"), secret("ops"))?;
    let agent = ConsulAgent::start(&consul);
    keys(&agent.url, folder.path())
}
