//! A demo under test, and the faults that tests inject into it.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use waypost::demo::{
    InstanceLayout, Layout, ProcessLayout,
    client::{Admin, DnsAnswer},
};

/// Which engine a scenario runs on.
#[derive(Clone, Debug)]
pub enum Backing {
    Embedded,
    /// A real agent, by its binary.
    Consul(PathBuf),
}

/// True in the full run, with long counts and strict limits.
pub fn full() -> bool {
    std::env::var_os("WAYPOST_FULL").is_some_and(|it| it == "1")
}

pub fn install_crypto() {
    // Another test of this process may have set it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

pub fn waypost() -> Command {
    Command::new(env!("CARGO_BIN_EXE_waypost"))
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    waypost().args(arguments).output().unwrap()
}

/// Runs another program to its end, which must be a success; returns what it printed.
pub fn output_of(program: &Path, arguments: &[&str]) -> Result<String, Failed> {
    let output = Command::new(program).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.success(), || {
        format!("{arguments:?}: {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(text)
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Polls until a condition holds; the error names what did not happen.
pub fn eventually(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration, Failed> {
    let started = Instant::now();
    loop {
        if condition() {
            return Ok(started.elapsed());
        }
        if started.elapsed() > within {
            return Err(format!("{what} did not happen within {within:?}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

/// A process that dies with its owner.
pub struct Reaped(pub Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real Consul agent with nothing in it.
pub struct ConsulAgent {
    pub url: String,
    ports: Vec<u16>,
    process: Reaped,
    folder: TempDir,
    /// Its data are on a disk, so that it finds them after a restart.
    durable: bool,
}

impl ConsulAgent {
    pub fn start(binary: &Path) -> Self {
        let agent = Self::begin(binary, false);
        agent.await_leader();
        agent
    }

    /// A server of one, which keeps its data across a restart.
    pub fn durable(binary: &Path) -> Self {
        let agent = Self::begin(binary, true);
        agent.await_leader();
        agent
    }

    /// Two agents that know nothing of one another.
    fn start_two(binary: &Path) -> [Self; 2] {
        let agents = [Self::begin(binary, false), Self::begin(binary, false)];
        agents.iter().for_each(Self::await_leader);
        agents
    }

    fn begin(binary: &Path, durable: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<_> = (0..5).map(|_| free_port()).collect();
        let process = Self::spawn(binary, &ports, folder.path(), durable);
        let url = format!("http://127.0.0.1:{}", ports[0]);
        Self { url, ports, process, folder, durable }
    }

    fn spawn(binary: &Path, ports: &[u16], folder: &Path, durable: bool) -> Reaped {
        let mut command = Command::new(binary);
        command.args(["agent", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "n1"]);
        if durable {
            command.args(["-server", "-bootstrap-expect=1", "-data-dir=data"]);
            command.arg("-hcl=performance { raft_multiplier = 1 }");
        } else {
            command.arg("-dev");
        }
        let flags = ["-http-port", "-server-port", "-serf-lan-port", "-serf-wan-port", "-dns-port"];
        for (flag, port) in flags.iter().zip(ports) {
            command.arg(format!("{flag}={port}"));
        }
        command.arg("-grpc-port=-1");
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Reaped(command.spawn().unwrap())
    }

    /// Kills it and starts another one at the same address; an empty one, unless its data are durable.
    pub fn restart(&mut self, binary: &Path) {
        self.begin_again(binary);
        self.await_leader();
    }

    /// As [`ConsulAgent::restart`], without waiting for anything.
    pub fn begin_again(&mut self, binary: &Path) {
        drop(self.process.0.kill());
        drop(self.process.0.wait());
        self.process = Self::spawn(binary, &self.ports, self.folder.path(), self.durable);
    }

    /// Waits until it has a leader and its own node in the catalog: before that it makes no session.
    fn await_leader(&self) {
        let ready = || self.answers("status/leader") && self.answers("catalog/nodes");
        eventually("the Consul agent's leader", Duration::from_secs(60), ready).unwrap();
    }

    /// Where it answers DNS.
    pub fn dns(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[4]).into()
    }

    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// True once a query is answered with more than `""` or `[]`.
    fn answers(&self, path: &str) -> bool {
        let url = format!("{}/v1/{path}", self.url);
        runtime().block_on(async {
            let answer = reqwest::get(url).await.ok()?.text().await.ok()?;
            Some(answer.trim().len() > 2)
        }) == Some(true)
    }
}

/// A port that is free, and that was given to no other trial of this process: theirs may not be bound yet.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = waypost::demo::free_port([127, 0, 0, 1].into()).unwrap();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// A running `waypost demo --json`.
pub struct Demo {
    pub layout: Layout,
    /// The agent of the first site, if there is one.
    pub consul: Option<ConsulAgent>,
    /// The agent of the second site.
    pub other_consul: Option<ConsulAgent>,
    runtime: tokio::runtime::Runtime,
    restarted: Vec<Reaped>,
    process: Reaped,
}

impl Demo {
    pub fn start(backing: &Backing) -> Result<Self, Failed> {
        Self::start_at(backing, ([127, 0, 0, 1], 0).into())
    }

    /// As [`Demo::start`], with DNS at an address.
    pub fn start_at(backing: &Backing, dns: SocketAddr) -> Result<Self, Failed> {
        let (consul, other_consul) = match backing {
            Backing::Embedded => (None, None),
            Backing::Consul(binary) => {
                let [first, second] = ConsulAgent::start_two(binary);
                (Some(first), Some(second))
            }
        };
        let mut command = waypost();
        command.args(["demo", "--json", "--dns", &dns.to_string()]);
        for agent in consul.iter().chain(&other_consul) {
            command.args(["--consul", &agent.url]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = Reaped(command.spawn()?);
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line)?;
        let layout =
            serde_json::from_str(&line).map_err(|error| format!("demo printed {line:?}: {error}"))?;
        Ok(Self { layout, consul, other_consul, runtime: runtime(), restarted: Vec::new(), process })
    }

    /// The process of the demo itself.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// SIGKILL for the demo itself.
    pub fn kill_itself(&mut self) {
        drop(self.process.0.kill());
        drop(self.process.0.wait());
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Enters the runtime, so that something can be spawned on it.
    pub fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.runtime.enter()
    }

    pub fn resolve(&self) -> Option<DnsAnswer> {
        let (dns, host) = (self.layout.dns, self.layout.service.host.clone());
        self.block_on(waypost::demo::client::resolve(dns, &host)).ok()
    }

    pub fn answers(&self, address: IpAddr) -> bool {
        self.resolve().is_some_and(|it| it.addresses == [address])
    }

    /// The instance that answers through a gateway; the error has what came instead.
    pub fn get(&self, gateway: SocketAddr) -> Result<String, String> {
        let host = self.layout.service.host.clone();
        let answer = self
            .block_on(waypost::demo::client::get(gateway, &host, "/"))
            .map_err(|error| error.to_string())?;
        let body = String::from_utf8_lossy(&answer.body).trim().to_owned();
        if answer.status == 200 { Ok(body) } else { Err(format!("status {}: {body}", answer.status)) }
    }

    pub fn gateways(&self) -> Vec<SocketAddr> {
        self.layout.sites.iter().map(|site| site.gateway.address).collect()
    }

    pub fn near(&self) -> SocketAddr {
        self.layout.sites[0].gateway.address
    }

    pub fn far(&self) -> SocketAddr {
        self.layout.sites[1].gateway.address
    }

    pub fn instance(&self, site: usize, at: usize) -> InstanceLayout {
        self.layout.sites[site].instances[at].clone()
    }

    /// The first process of a role, which is in the first site.
    pub fn process(&self, role: &str) -> ProcessLayout {
        self.layout.processes.iter().find(|it| it.role == role).unwrap().clone()
    }

    /// Where the processes look for their tokens.
    pub fn tokens(&self) -> PathBuf {
        let site = self.layout.processes[0].config.parent().unwrap();
        site.with_file_name("tokens")
    }

    /// SIGKILL for the engine of every site.
    pub fn kill_engines(&mut self) {
        for agent in self.consul.iter().chain(&self.other_consul) {
            signal(agent.pid(), Signal::KILL);
        }
        self.kill_all("engine");
    }

    /// SIGKILL for every process of a role.
    pub fn kill_all(&mut self, role: &str) {
        let all = self.layout.processes.iter().filter(|it| it.role == role).map(|it| it.pid);
        for pid in all.collect::<Vec<_>>() {
            self.kill(pid);
        }
    }

    pub fn gateway_process(&self, site: usize) -> ProcessLayout {
        let pid = self.layout.sites[site].gateway.pid;
        self.layout.processes.iter().find(|it| it.pid == pid).unwrap().clone()
    }

    pub fn admin(&self) -> Admin {
        Admin::new(&self.layout.admin)
    }

    /// Runs the command line against this demo's control.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        waypost().args(arguments).args(["--server", &self.layout.admin]).output().unwrap()
    }

    /// Brings a killed process back, as an operator would.
    pub fn restart(&mut self, process: &ProcessLayout) {
        let mut command = waypost();
        command.arg("run").arg("--config").arg(&process.config);
        // Beside the log of its earlier life.
        let log = process.config.with_extension("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = Reaped(command.spawn().unwrap());
        let pid = child.0.id();
        self.restarted.push(child);
        for site in self.layout.sites.iter_mut().filter(|it| it.gateway.pid == process.pid) {
            site.gateway.pid = pid;
        }
        for known in self.layout.processes.iter_mut().filter(|it| it.config == process.config) {
            known.pid = pid;
        }
    }

    /// The last lines a process of this demo logged, to be shown beside a failure.
    pub fn last_words(process: &ProcessLayout) -> String {
        let log = std::fs::read_to_string(process.config.with_extension("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Kills a process of this demo and waits until it is gone.
    pub fn kill(&mut self, pid: u32) {
        if let Some(at) = self.restarted.iter().position(|it| it.0.id() == pid) {
            drop(self.restarted.remove(at));
            return;
        }
        signal(pid, Signal::KILL);
        eventually("the end of a killed process", Duration::from_secs(10), || !runs(pid)).unwrap();
    }
}

/// Only ever called with the pids that a demo of ours printed.
pub fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// False once a process is gone, or dead and not yet reaped by its parent. Each of its threads is looked at: the first
/// one may be dead while others still hold the process's sockets and files.
pub fn runs(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
        state.is_some_and(|state| state != 'Z' && state != 'X')
    })
}
