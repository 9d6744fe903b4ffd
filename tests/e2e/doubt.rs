//! Where the registry is wrong: live back ends stay in use, dead ones are dropped.
//!
//! A gateway of its own over a real Consul agent, back ends in this process, and the five ways in which a registry was
//! seen to lose instances that live. In each of them no request may fail.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use tempfile::TempDir;
use waypost::demo::{client::Admin, load::LoadGenerator};

use crate::{
    components::Components,
    harness::{Backing, ConsulAgent, Reaped, ensure, eventually, free_port, full, runtime, waypost},
};

const HOST: &str = "web.gslb.example.com";
const SOON: Duration = Duration::from_secs(30);
/// What a gateway may take to leave a dead back end out, on a busy machine.
const LEFT_OUT: Duration = Duration::from_secs(15);

pub fn trials(components: &Components) -> Vec<Trial> {
    let consul = |name: &str, test: fn(PathBuf) -> Result<(), Failed>| {
        components.needs_consul(format!("doubt::{name}"), test)
    };
    vec![
        consul("a_restored_old_snapshot_loses_no_live_instance", restored),
        consul("a_catalog_emptied_by_mistake_fails_no_request", emptied),
        consul("a_token_that_lost_its_right_fails_no_request_and_comes_back", blinded),
        consul("an_agent_restarted_empty_fails_no_request", restarted_empty),
        consul("every_client_agent_dead_fails_no_request", agents_dead),
        consul("a_service_removed_on_purpose_is_dropped_in_time", |it| purpose(Backing::Consul(it))),
        Trial::test("doubt::embedded_a_service_removed_on_purpose_is_dropped_in_time", || {
            purpose(Backing::Embedded)
        }),
        consul("an_instance_of_no_site_is_named", no_site),
    ]
}

/// A Consul server with its data on disk (three of them with `WAYPOST_FULL=1`), with ACLs if wanted, and client agents.
struct Cluster {
    binary: PathBuf,
    folder: TempDir,
    url: String,
    serf: u16,
    token: &'static str,
    _servers: Vec<Reaped>,
}

const ROOT: &str = "11111111-2222-3333-4444-555555555555";
const OURS: &str = "99999999-8888-7777-6666-555555555555";

impl Cluster {
    fn start(binary: &Path, acl: bool) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let (http, serf) = (free_port(), free_port());
        let count = if full() { 3 } else { 1 };
        let mut servers = Vec::new();
        for n in 1..=count {
            let (name, first) = (format!("s{n}"), n == 1);
            let mut config = json!({
                "server": true, "bootstrap_expect": count, "performance": {"raft_multiplier": 1},
                "data_dir": folder.path().join(&name), "node_name": name, "bind_addr": "127.0.0.1",
                "client_addr": "127.0.0.1", "retry_join": [format!("127.0.0.1:{serf}")], "retry_interval": "1s",
                "ports": {"http": if first { http } else { free_port() },
                    "serf_lan": if first { serf } else { free_port() }, "server": free_port(),
                    "serf_wan": -1, "dns": -1, "grpc": -1},
            });
            if acl {
                config["acl"] = json!({"enabled": true, "default_policy": "deny",
                    "tokens": {"master": ROOT, "agent": ROOT}});
            }
            servers.push(spawn(binary, folder.path(), &name, &config)?);
        }
        let token = if acl { ROOT } else { "" };
        let url = format!("http://127.0.0.1:{http}");
        let cluster = Self { binary: binary.to_owned(), folder, url, serf, token, _servers: servers };
        eventually("the Consul server's leader", Duration::from_secs(60), || {
            cluster.get("catalog/nodes").is_ok_and(|it| it.as_array().is_some_and(|it| !it.is_empty()))
        })?;
        Ok(cluster)
    }

    /// A client agent, by its HTTP address.
    fn client(&self, name: &str) -> Result<(Reaped, String), Failed> {
        let http = free_port();
        let config = json!({
            "data_dir": self.folder.path().join(name), "node_name": name, "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1", "retry_join": [format!("127.0.0.1:{}", self.serf)],
            "retry_interval": "1s",
            "ports": {"http": http, "serf_lan": free_port(), "dns": -1, "grpc": -1},
        });
        let agent = spawn(&self.binary, self.folder.path(), name, &config)?;
        eventually("a client agent", SOON, || {
            let nodes = self.get("catalog/nodes").unwrap_or_default();
            nodes.as_array().is_some_and(|it| it.iter().any(|it| it["Node"] == name))
        })?;
        Ok((agent, format!("http://127.0.0.1:{http}")))
    }

    fn get(&self, path: &str) -> Result<Value, Failed> {
        let body = ask(reqwest::Method::GET, &self.url, path, self.token, Vec::new())?;
        Ok(serde_json::from_slice(&body)?)
    }

    fn put(&self, path: &str, body: &Value) -> Result<(), Failed> {
        ask(reqwest::Method::PUT, &self.url, path, self.token, serde_json::to_vec(body)?).map(drop)
    }

    /// Gives the gateway's token these rights beside its own.
    fn allow(&self, policy: Option<&str>, rules: &str) -> Result<String, Failed> {
        let rules = format!(
            "{rules} key_prefix \"\" {{ policy = \"write\" }} agent_prefix \"\" {{ policy = \"read\" }} session_prefix \"\" {{ policy = \"write\" }}"
        );
        let path = policy.map_or_else(|| "acl/policy".to_owned(), |id| format!("acl/policy/{id}"));
        let body = json!({"Name": "ours", "Rules": rules});
        let printed = ask(reqwest::Method::PUT, &self.url, &path, self.token, serde_json::to_vec(&body)?)?;
        let printed: Value = serde_json::from_slice(&printed)?;
        Ok(printed["ID"].as_str().unwrap_or_default().to_owned())
    }
}

fn spawn(binary: &Path, folder: &Path, name: &str, config: &Value) -> Result<Reaped, Failed> {
    let file = folder.join(format!("{name}.json"));
    std::fs::write(&file, config.to_string())?;
    let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
    let mut command = Command::new(binary);
    command.arg("agent").arg("-config-file").arg(file);
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    Ok(Reaped(command.spawn()?))
}

fn ask(
    method: reqwest::Method,
    url: &str,
    path: &str,
    token: &str,
    body: Vec<u8>,
) -> Result<Vec<u8>, Failed> {
    let url = format!("{url}/v1/{path}");
    runtime().block_on(async {
        let client = reqwest::Client::new();
        let answer = client.request(method, &url).header("X-Consul-Token", token).body(body).send().await?;
        let status = answer.status();
        let printed = answer.bytes().await?.to_vec();
        let wrong = || format!("{url}: {status}: {}", String::from_utf8_lossy(&printed));
        ensure(status.is_success(), wrong)?;
        Ok(printed)
    })
}

/// Registers an instance at an agent.
fn register(agent: &str, token: &str, service: &str, id: &str, port: u16, tag: &str) -> Result<(), Failed> {
    let body = json!({"ID": id, "Name": service, "Address": "127.0.0.1", "Port": port, "Tags": [tag]});
    let body = serde_json::to_vec(&body)?;
    ask(reqwest::Method::PUT, agent, "agent/service/register", token, body).map(drop)
}

/// A back end in this process that answers with its name.
struct BackEnd {
    port: u16,
    runtime: Option<tokio::runtime::Runtime>,
}

impl BackEnd {
    fn start(name: &str) -> Result<Self, Failed> {
        let name = name.to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let port = listener.local_addr()?.port();
        let router = axum::Router::new().route("/", axum::routing::get(move || async move { name }));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self { port, runtime: Some(runtime) })
    }

    /// Ends it, with every connection.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A gateway and a control in one process, over a registry.
struct Node {
    gateway: std::net::SocketAddr,
    admin: Admin,
    log: PathBuf,
    runtime: tokio::runtime::Runtime,
    _process: Reaped,
    _folder: TempDir,
}

impl Node {
    fn start(engine: &str, token: &str, believe_after: &str) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let (gateway, control) = (free_port(), free_port());
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, token)?;
        let token_key =
            if token.is_empty() { String::new() } else { format!("token_file = {token_file:?}\n") };
        let text = format!(
            "node = \"gw\"\nsite = \"bj\"\ndata_dir = {:?}\n\n[store]\n{engine}\n{token_key}\
             believe_after = \"{believe_after}\"\n\n[proxy]\ncluster = \"main\"\n\
             listen = [\"127.0.0.1:{gateway}\"]\n\n[control]\nlisten = \"127.0.0.1:{control}\"\n",
            folder.path().join("data")
        );
        let file = folder.path().join("gw.toml");
        std::fs::write(&file, text)?;
        let log = folder.path().join("gw.log");
        let mut command = waypost();
        command.arg("run").arg("--config").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
        let process = Reaped(command.spawn()?);
        let admin = Admin::new(&format!("http://127.0.0.1:{control}"));
        let gateway = ([127, 0, 0, 1], gateway).into();
        let node = Self { gateway, admin, log, runtime: runtime(), _process: process, _folder: folder };
        eventually("the node's first configuration", SOON, || {
            node.runtime.block_on(node.admin.apply("world.yaml", WORLD)).is_ok()
        })?;
        Ok(node)
    }

    fn status(&self) -> Value {
        self.runtime.block_on(self.admin.get("/v1/status")).unwrap_or_default()
    }

    /// The service's instances in the status: state by id.
    fn states(&self) -> Vec<(String, String)> {
        let status = self.status();
        let all = status["services"].as_array().into_iter().flatten().filter(|it| it["name"] == "web");
        let instances = all.flat_map(|it| it["instances"].as_array().cloned().unwrap_or_default());
        let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
        instances.map(|it| (text(&it, "id"), text(&it, "state"))).collect()
    }

    fn until_states(
        &self,
        what: &str,
        within: Duration,
        fits: impl Fn(&[(String, String)]) -> bool,
    ) -> Result<(), Failed> {
        let waited = eventually(what, within, || {
            std::thread::sleep(Duration::from_millis(100));
            fits(&self.states())
        });
        let took = waited.map_err(|error| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(25).collect();
            format!(
                "{error:?}; the status has {:?}; the log ends\n{}",
                self.states(),
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        })?;
        println!("  {what}: {took:.1?}");
        Ok(())
    }

    fn load(&self) -> LoadGenerator {
        let _entered = self.runtime.enter();
        LoadGenerator::start(&[self.gateway], HOST, "/", 100)
    }

    /// Ends a load in which nothing may have failed, and that every one of these has answered.
    fn unharmed(&self, load: LoadGenerator, by: &[&str]) -> Result<(), Failed> {
        let report = self.runtime.block_on(load.finish());
        println!("  {} requests, {} failed, answers {:?}", report.sent, report.failed(), report.answers);
        ensure(report.failed() == 0, || {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            format!("{} of {} failed: {:?}\n{log}", report.failed(), report.sent, report.failures)
        })?;
        let answered = by.iter().all(|it| report.answers.contains_key(*it));
        ensure(answered, || format!("not all of {by:?} answered: {:?}", report.answers))
    }

    fn serves(&self, by: &[&str]) -> Result<(), Failed> {
        let mut seen = std::collections::BTreeSet::new();
        eventually(&format!("answers of {by:?}"), SOON, || {
            let answer = self.runtime.block_on(waypost::demo::client::get(self.gateway, HOST, "/"));
            if let Ok(answer) = answer.as_ref()
                && answer.status == 200
            {
                seen.insert(String::from_utf8_lossy(&answer.body).into_owned());
            }
            by.iter().all(|it| seen.contains(*it))
        })
        .map(drop)
    }

    /// Waits until a back end that was killed a moment ago is left out, and prints the time of its log line: the status
    /// has it only with the node's next heartbeat.
    fn until_left_out(&self, id: &str, killed: Instant) -> Result<(), Failed> {
        let line = |it: &str| it.contains("left out") && it.contains(&format!("{id} at "));
        let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
        eventually("the line in the log", LEFT_OUT, || log().lines().any(line))?;
        println!("  from the death of {id} to \"left out\" in the log: {:.1?} (aim: 5 s)", killed.elapsed());
        self.until_states("a back end that dies now is left out", LEFT_OUT, |states| {
            states.iter().any(|(it, state)| it == id && state == "left_out")
        })
    }

    fn logged(&self, words: &str) -> usize {
        std::fs::read_to_string(&self.log).unwrap_or_default().lines().filter(|it| it.contains(words)).count()
    }
}

const WORLD: &str = r#"
kind: Site
name: bj
---
kind: Zone
name: gslb.example.com
nameservers: [{ name: ns1, a: [127.0.0.1] }]
---
kind: Cluster
name: main
zone: gslb.example.com
gateway_domain: gw.gslb.example.com
gateways: { bj: { a: [127.0.0.1] } }
---
kind: Domain
name: gw.gslb.example.com
cluster: main
policy: { type: nearest }
---
kind: Service
name: web
cluster: main
hosts: [web.gslb.example.com]
---
kind: Service
name: shop
cluster: main
hosts: [shop.gslb.example.com]
"#;

/// Three live back ends.
fn three() -> Result<Vec<BackEnd>, Failed> {
    ["web-1", "web-2", "web-3"].into_iter().map(BackEnd::start).collect()
}

const ALL: [&str; 3] = ["web-1", "web-2", "web-3"];

fn consul(url: &str) -> String {
    format!("engine = \"consul\"\nurl = \"{url}\"")
}

fn all_are(states: &[(String, String)], state: &str) -> bool {
    ALL.iter().all(|id| states.iter().any(|(it, is)| it == id && is == state))
}

fn pause() {
    std::thread::sleep(Duration::from_secs(if full() { 30 } else { 8 }));
}

/// On a node without an agent: nothing brings these back by itself.
fn external(cluster: &Cluster, id: &str, port: u16, tag: &str) -> Result<(), Failed> {
    let service = json!({"ID": id, "Service": "web", "Address": "127.0.0.1", "Port": port, "Tags": [tag]});
    cluster.put("catalog/register", &json!({"Node": "outside", "Address": "127.0.0.1", "Service": service}))
}

fn restored(binary: PathBuf) -> Result<(), Failed> {
    let cluster = Cluster::start(&binary, false)?;
    let dead: Vec<u16> = (0..3).map(|_| free_port()).collect();
    for (n, port) in dead.iter().enumerate() {
        external(&cluster, &format!("dead-{n}"), *port, "v1")?;
    }
    let snapshot = ask(reqwest::Method::GET, &cluster.url, "snapshot", "", Vec::new())?;
    let mut live = three()?;
    for (n, server) in live.iter().enumerate() {
        external(&cluster, ALL[n], server.port, "v1")?;
        cluster.put("catalog/deregister", &json!({"Node": "outside", "ServiceID": format!("dead-{n}")}))?;
    }
    let node = Node::start(&consul(&cluster.url), "", "5s")?;
    node.serves(&ALL)?;
    let load = node.load();
    ask(reqwest::Method::PUT, &cluster.url, "snapshot", "", snapshot)?;
    // A poll that was begun in the meantime waits for the index that was, up to a minute: a write wakes it.
    std::thread::sleep(Duration::from_secs(1));
    external(&cluster, "dead-0", dead[0], "v2")?;
    node.until_states("the living are unreachable and the dead left out", SOON, |states| {
        let out = states.iter().filter(|(id, state)| id.starts_with("dead") && state == "left_out").count();
        all_are(states, "unreachable") && out >= 2
    })?;
    pause();
    node.unharmed(load, &ALL)?;
    let killed = Instant::now();
    live[2].kill();
    node.until_left_out("web-3", killed)?;
    for (n, server) in live.iter().enumerate().take(2) {
        external(&cluster, ALL[n], server.port, "v3")?;
    }
    node.until_states("those that are registered again are in doubt no more", SOON, |states| {
        !states.iter().any(|(id, _)| id == "web-1" || id == "web-2")
    })
}

fn emptied(binary: PathBuf) -> Result<(), Failed> {
    let cluster = Cluster::start(&binary, false)?;
    let live = three()?;
    for (n, server) in live.iter().enumerate() {
        register(&cluster.url, "", "web", ALL[n], server.port, "v1")?;
    }
    register(&cluster.url, "", "shop", "shop-1", live[0].port, "v1")?;
    let node = Node::start(&consul(&cluster.url), "", "5s")?;
    node.serves(&ALL)?;
    let load = node.load();
    for id in ALL.into_iter().chain(["shop-1"]) {
        cluster.put("catalog/deregister", &json!({"Node": "s1", "ServiceID": id}))?;
    }
    // Anti-entropy may bring them back within a second, so the status may miss it.
    eventually("a doubt in the log", SOON, || node.logged("in doubt") > 0)?;
    // Far beyond the time after which a service that is missing alone counts as gone.
    pause();
    if full() {
        let healed = || {
            cluster.get("health/service/web").is_ok_and(|it| it.as_array().is_some_and(|it| it.len() == 3))
        };
        let took = eventually("anti-entropy", Duration::from_secs(180), healed)?;
        println!("  anti-entropy brought them back after {took:.1?}");
    } else {
        for (n, server) in live.iter().enumerate() {
            register(&cluster.url, "", "web", ALL[n], server.port, "v2")?;
        }
    }
    node.until_states("none is in doubt", SOON, |states| states.is_empty())?;
    node.unharmed(load, &ALL)
}

fn blinded(binary: PathBuf) -> Result<(), Failed> {
    const READ: &str = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }";
    let cluster = Cluster::start(&binary, true)?;
    let policy = cluster.allow(None, READ)?;
    cluster.put("acl/token", &json!({"SecretID": OURS, "Policies": [{"Name": "ours"}]}))?;
    let live = three()?;
    for (n, server) in live.iter().enumerate() {
        register(&cluster.url, ROOT, "web", ALL[n], server.port, "v1")?;
    }
    let node = Node::start(&consul(&cluster.url), OURS, "5s")?;
    node.serves(&ALL)?;
    let load = node.load();
    cluster.allow(Some(&policy), "")?;
    if !full() {
        // Without a change the loss shows when the long poll ends, after about a minute.
        register(&cluster.url, ROOT, "web", "web-1", live[0].port, "v2")?;
    }
    let within = if full() { Duration::from_secs(180) } else { SOON };
    node.until_states("all are unreachable", within, |states| all_are(states, "unreachable"))?;
    pause();
    cluster.allow(Some(&policy), READ)?;
    node.until_states("none is in doubt once the right is back", SOON, |states| states.is_empty())?;
    node.unharmed(load, &ALL)
}

fn restarted_empty(binary: PathBuf) -> Result<(), Failed> {
    let mut agent = ConsulAgent::start(&binary);
    let live = three()?;
    for round in 0..40 {
        // So that the index is higher than that of a fresh agent.
        register(&agent.url, "", "web", "web-1", live[0].port, &format!("v{round}"))?;
    }
    for (n, server) in live.iter().enumerate() {
        register(&agent.url, "", "web", ALL[n], server.port, "v1")?;
    }
    let node = Node::start(&consul(&agent.url), "", "5s")?;
    node.serves(&ALL)?;
    let load = node.load();
    agent.restart(&binary);
    node.until_states("all are unreachable", SOON, |states| all_are(states, "unreachable"))?;
    pause();
    for (n, server) in live.iter().enumerate() {
        register(&agent.url, "", "web", ALL[n], server.port, "v1")?;
    }
    node.until_states("none is in doubt", SOON, |states| states.is_empty())?;
    node.unharmed(load, &ALL)
}

fn agents_dead(binary: PathBuf) -> Result<(), Failed> {
    let cluster = Cluster::start(&binary, false)?;
    let mut live = three()?;
    let mut agents = Vec::new();
    for (n, server) in live.iter().enumerate() {
        let (agent, url) = cluster.client(&format!("c{n}"))?;
        register(&url, "", "web", ALL[n], server.port, "v1")?;
        agents.push(agent);
    }
    let node = Node::start(&consul(&cluster.url), "", "5s")?;
    node.serves(&ALL)?;
    let load = node.load();
    agents.clear();
    node.until_states("all are in doubt", Duration::from_secs(90), |states| all_are(states, "doubtful"))?;
    pause();
    node.unharmed(load, &ALL)?;
    let killed = Instant::now();
    live[1].kill();
    node.until_left_out("web-2", killed)?;
    node.serves(&["web-1", "web-3"])
}

fn purpose(backing: Backing) -> Result<(), Failed> {
    let (cluster, http) = match backing {
        Backing::Consul(binary) => (Some(Cluster::start(&binary, false)?), 0),
        Backing::Embedded => (None, free_port()),
    };
    let engine = match &cluster {
        Some(cluster) => consul(&cluster.url),
        None => format!("engine = \"embedded\"\nhttp = \"127.0.0.1:{http}\""),
    };
    let node = Node::start(&engine, "", "12s")?;
    let url = cluster.as_ref().map_or_else(|| format!("http://127.0.0.1:{http}"), |it| it.url.clone());
    let live = three()?;
    register(&url, "", "shop", "shop-1", live[0].port, "v1")?;
    for (n, server) in live.iter().enumerate() {
        register(&url, "", "web", ALL[n], server.port, "v1")?;
    }
    node.serves(&ALL)?;
    for id in ALL {
        let path = format!("agent/service/deregister/{id}");
        ask(reqwest::Method::PUT, &url, &path, "", Vec::new())?;
    }
    node.until_states("the last is in doubt at first", SOON, |states| {
        states.iter().any(|(_, state)| state == "doubtful")
    })?;
    node.serves(&["web-3"])?;
    node.until_states("the registry's answer is accepted", SOON, |states| states.is_empty())?;
    let answer = node.runtime.block_on(waypost::demo::client::get(node.gateway, HOST, "/"))?;
    ensure(answer.status == 503, || format!("it answers {} without an instance", answer.status))
}

fn no_site(binary: PathBuf) -> Result<(), Failed> {
    let agent = ConsulAgent::start(&binary);
    let node = Node::start(&consul(&agent.url), "", "60s")?;
    let live = BackEnd::start("web-1")?;
    let body = json!({"ID": "web-9", "Name": "web", "Address": "127.0.0.1", "Port": live.port, "Meta": {"site": "atlantis"}});
    ask(reqwest::Method::PUT, &agent.url, "agent/service/register", "", serde_json::to_vec(&body)?)?;
    node.until_states("it is named as never used", SOON, |states| {
        states == [("web-9".to_owned(), "unused".to_owned())]
    })?;
    let printed = node.logged("atlantis");
    ensure(printed == 1, || format!("the log names it {printed} times"))?;
    let body = json!({"ID": "web-8", "Name": "web", "Address": "nowhere.invalid", "Port": live.port});
    ask(reqwest::Method::PUT, &agent.url, "agent/service/register", "", serde_json::to_vec(&body)?)?;
    node.until_states("a host name without an address is named", SOON, |states| {
        states.contains(&("web-8".to_owned(), "unused".to_owned()))
    })?;
    // It is looked up every few seconds, for both families.
    std::thread::sleep(Duration::from_secs(7));
    let printed = node.logged("cannot be resolved");
    ensure(printed == 1, || format!("the log names the host name {printed} times"))
}
