//! What an idle node costs its Consul: its heartbeats and its long polls, in every state of the KV.
//!
//! One node with all roles runs on a real agent. A relay between the two counts the requests; the agent's raft log has
//! the number of writes. On Consul a read of a missing key or prefix wakes on every write to the
//! KV, so the states in which keys are missing are the ones that matter.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};

use crate::{
    components::Components,
    harness::{ConsulAgent, Reaped, ensure, eventually, free_port, full, runs, runtime, waypost},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    type Test = fn(PathBuf) -> Result<(), Failed>;
    let mut all: Vec<(&str, Test)> =
        vec![("consul::an_idle_node_costs_its_heartbeats_and_its_long_polls", idle)];
    if full() {
        all.push(("consul::an_idle_node_stays_idle_when_tombstones_were_collected", collected));
    }
    all.into_iter().map(|(name, test)| components.needs_consul(name.to_owned(), test)).collect()
}

/// How long each state is watched.
fn window() -> Duration {
    Duration::from_secs(if full() { 60 } else { 15 })
}

/// Raft writes a second that one heartbeat may cost: a node's and a vantage's each come every 2 s at most.
const WRITES_PER_HEARTBEAT: f64 = 0.5;
/// Requests a second of one node with all roles, however busy its Consul is: each of its followed keys and
/// prefixes is read once a second at most.
const MAX_REQUESTS: f64 = 12.0;

/// A relay that counts the requests that pass through it.
struct Relay {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Relay {
    fn to(agent: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (requests, ended) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (Arc::clone(&requests), Arc::clone(&ended));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect(agent) else { continue };
                let (Ok(back), Ok(answers)) = (client.try_clone(), server.try_clone()) else { continue };
                let count = Arc::clone(&count);
                std::thread::spawn(move || pass(client, server, |bytes| count_requests(bytes, &count)));
                std::thread::spawn(move || pass(answers, back, |_| {}));
            }
        });
        Ok(Self { address, requests, ended })
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut piece = [0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        see(&piece[..read]);
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// The client sends a request head in one piece.
fn count_requests(bytes: &[u8], count: &AtomicU64) {
    let lines = bytes.windows(11).filter(|it| it == b" HTTP/1.1\r\n").count();
    count.fetch_add(lines as u64, Ordering::Relaxed);
}

struct Rig {
    agent: ConsulAgent,
    relay: Relay,
    node: Reaped,
    admin: SocketAddr,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Rig {
    fn start(consul: &Path) -> Result<Self, Failed> {
        let agent = ConsulAgent::start(consul);
        let address = agent.url.trim_start_matches("http://").parse()?;
        let relay = Relay::to(address)?;
        let folder = tempfile::tempdir()?;
        let [admin, dns, proxy] = [free_port(), free_port(), free_port()];
        let text = format!(
            "node = \"n\"\nsite = \"bj\"\ndata_dir = {:?}\n[store]\nengine = \"consul\"\nurl = \"http://{}\"\n\
             [dns]\nlisten = [\"127.0.0.1:{dns}\"]\n[proxy]\ncluster = \"main\"\nlisten = [\"127.0.0.1:{proxy}\"]\n\
             [control]\nlisten = \"127.0.0.1:{admin}\"\n\
             [prober]\nvantage = \"v\"\nreport_to = [\"http://127.0.0.1:{admin}\"]\ncanaries = []\n",
            folder.path().join("data"),
            relay.address,
        );
        let config = folder.path().join("node.toml");
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut command = waypost();
        command.arg("run").arg("--config").arg(&config).arg("--die-with-parent");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let node = Reaped(command.spawn()?);
        let admin = SocketAddr::from(([127, 0, 0, 1], admin));
        let rig = Self { agent, relay, node, admin, runtime: runtime(), folder };
        eventually("the node's registration", PATIENCE, || rig.has("waypost/nodes/n"))?;
        eventually("the locks", PATIENCE, || rig.has("waypost/locks/drains"))?;
        Ok(rig)
    }

    fn has(&self, key: &str) -> bool {
        let url = format!("{}/v1/kv/{key}", self.agent.url);
        self.runtime.block_on(async { reqwest::get(url).await.is_ok_and(|it| it.status() == 200) })
    }

    fn delete(&self, prefix: &str) -> Result<(), Failed> {
        let url = format!("{}/v1/kv/{prefix}?recurse", self.agent.url);
        let client = reqwest::Client::new();
        self.runtime.block_on(async { client.delete(url).send().await?.error_for_status() })?;
        Ok(())
    }

    fn put(&self, key: &str, value: String) -> Result<(), Failed> {
        let url = format!("{}/v1/kv/{key}", self.agent.url);
        let client = reqwest::Client::new();
        self.runtime.block_on(async { client.put(url).body(value).send().await?.error_for_status() })?;
        Ok(())
    }

    fn apply(&self) -> Result<(), Failed> {
        let server = format!("http://{}", self.admin);
        let file = self.folder.path().join("world.yaml");
        std::fs::write(&file, WORLD)?;
        let output =
            waypost().args(["apply", "--server", &server, "-f"]).arg(&file).stdin(Stdio::null()).output()?;
        ensure(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn raft_index(&self) -> Result<u64, Failed> {
        let url = format!("{}/v1/agent/self", self.agent.url);
        let text = self.runtime.block_on(async { reqwest::get(url).await?.text().await })?;
        let stats: serde_json::Value = serde_json::from_str(&text)?;
        let index = stats["Stats"]["raft"]["last_log_index"].as_str().ok_or("no raft index")?;
        Ok(index.parse()?)
    }

    /// Watches the node for a while: `heartbeats` are written, and `busy` other writes a second by another client.
    fn watch(&self, state: &str, heartbeats: f64, busy: u64) -> Result<(), Failed> {
        // The effects of the change to this state are over then.
        std::thread::sleep(Duration::from_secs(3));
        let (requests, raft) = (self.relay.requests(), self.raft_index()?);
        let started = Instant::now();
        let mut others = 0;
        while started.elapsed() < window() {
            if busy == 0 {
                std::thread::sleep(Duration::from_millis(100));
            } else {
                self.put("app/other", others.to_string())?;
                others += 1;
                std::thread::sleep(Duration::from_secs(1) / u32::try_from(busy)?);
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let requests = self.relay.requests() - requests;
        let raft = self.raft_index()? - raft - others;
        let (per_second, writes) = (requests as f64 / seconds, raft as f64 / seconds);
        println!("  {state}: {per_second:.1} requests and {writes:.2} raft writes a second");
        ensure(runs(self.node.0.id()), || "the node ended".to_owned())?;
        let log = std::fs::read_to_string(self.folder.path().join("log"))?;
        let most = log.lines().map(without_time).fold(std::collections::HashMap::new(), |mut all, line| {
            *all.entry(line).or_insert(0_u32) += 1;
            all
        });
        if let Some((line, count)) = most.into_iter().max_by_key(|(_, count)| *count) {
            ensure(count < 20, || format!("{state}: logged {count} times: {line}"))?;
        }
        ensure(per_second <= MAX_REQUESTS, || format!("{state}: {per_second:.1} requests a second"))?;
        // One more for an edge of the window, and for the agent's own.
        let allowed = heartbeats * WRITES_PER_HEARTBEAT + 2.0 / seconds;
        ensure(writes <= allowed, || format!("{state}: {writes:.2} raft writes a second of {allowed:.2}"))
    }
}

fn without_time(line: &str) -> &str {
    line.split_once(' ').map_or(line, |(_, rest)| rest)
}

const PATIENCE: Duration = Duration::from_secs(30);

const WORLD: &str = "\
kind: Site
name: bj
location: { lat: 39.90, lon: 116.40 }
networks: [127.0.0.0/8]
---
kind: Zone
name: waypost.test
nameservers: [{ name: ns1, a: [127.0.0.1] }]
ttl: 1h
negative_ttl: 60s
---
kind: Cluster
name: main
zone: waypost.test
gateway_domain: gw.waypost.test
gateways:
  bj: { a: [127.0.0.1], aaaa: [] }
---
kind: Check
name: up
type: tcp
port: 8500
interval: 5s
timeout: 800ms
fall: 3
rise: 2
---
kind: Domain
name: gw.waypost.test
cluster: main
policy: { type: nearest }
check: up
ttl: 20s
---
kind: Service
name: orders
cluster: main
consul: { service: orders, tags: [] }
hosts: [orders.waypost.test]
sites: [bj]
route_by: gateway
---
kind: Vantage
name: v
site: null
";

fn idle(consul: PathBuf) -> Result<(), Failed> {
    let rig = Rig::start(&consul)?;
    rig.watch("nothing is there", 1.0, 0)?;
    rig.watch("nothing is there and others write", 1.0, 20)?;
    rig.apply()?;
    eventually("an observation", PATIENCE, || rig.has("waypost/observations/v/x"))?;
    rig.watch("a configuration", 2.0, 0)?;
    rig.delete("waypost/config/")?;
    rig.watch("the configuration is gone", 2.0, 0)?;
    rig.delete("waypost/")?;
    rig.watch("everything is deleted", 2.0, 0)?;
    eventually("the node's registration, again", PATIENCE, || rig.has("waypost/nodes/n"))?;
    Ok(())
}

/// Consul forgets deletions after a quarter of an hour; from then on a prefix without keys wakes on every write again.
fn collected(consul: PathBuf) -> Result<(), Failed> {
    let rig = Rig::start(&consul)?;
    rig.put("waypost/drains/probe", "{}".to_owned())?;
    rig.put("waypost/receipts/probe", "{}".to_owned())?;
    rig.delete("waypost/")?;
    rig.watch("deletions are remembered", 1.0, 0)?;
    let index = |rig: &Rig| -> Result<u64, Failed> {
        let url = format!("{}/v1/kv/waypost/drains/?recurse", rig.agent.url);
        let answer = rig.runtime.block_on(async { reqwest::get(url).await })?;
        let index = answer.headers().get("x-consul-index").ok_or("no index")?;
        Ok(index.to_str()?.parse()?)
    };
    // While its tombstone is there, the index of the prefix stays where the deletion put it.
    let before = index(&rig)?;
    let deadline = Duration::from_secs(20 * 60);
    eventually("the tombstones' collection", deadline, || {
        std::thread::sleep(Duration::from_secs(5));
        index(&rig).is_ok_and(|now| now > before + 3)
    })?;
    rig.watch("deletions are collected", 1.0, 0)?;
    rig.watch("deletions are collected and others write", 1.0, 20)
}
