//! What a large installation costs a gateway: 9,000 services with 10 instances each and 50,000 routes.
//!
//! An engine in memory, the follower of a node and a gateway with two workers, as in the program, in one process: a change goes
//! the whole way from a commit or a registration to the answer of a request. It prints how long a start takes until the first
//! answer, memory, what one changed route, service and instance cost, and the longest time that a request on an open
//! connection took meanwhile, beside the same without changes. The cost is the median of the processor time of the threads
//! that plan, commit, follow and compile: neither the workers nor the benchmark's own clients and server are in it. The API,
//! the name server and the disk are not there at all.
//!
//! `cargo bench -p proxy --bench crowd [-- --services N --routes N --changes N --only routes|services|new|instances]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark"
)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use proxy::{Config, Limits, Listener, ProxyHandle};
use store::{
    Handle,
    commit::{self, AuditEntry, Basis, Change, Planned},
    engine::{CheckStatus, Engine, Registration, embedded::Embedded},
    follow::{self, Identity},
    model::{Moment, parse},
    testing::{self, name},
};

const INSTANCES: usize = 10;
const WORKERS: usize = 2;
/// Between two requests of a client that watches a worker.
const PACE: Duration = Duration::from_micros(500);

#[derive(Clone, Copy)]
struct Size {
    services: usize,
    routes: usize,
    changes: usize,
}

fn main() {
    // `cargo test` runs benchmarks too, with this argument missing.
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let number = |key: &str, usual: usize| {
        let at = arguments.iter().position(|it| it == key);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(usual)
    };
    let size = Size {
        services: number("--services", 9_000),
        routes: number("--routes", 50_000),
        changes: number("--changes", 100),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let only = arguments.iter().position(|it| it == "--only").and_then(|at| arguments.get(at + 1));
    runtime.block_on(run(size, only.map(String::as_str)));
}

async fn run(size: Size, only: Option<&str>) {
    let port = instances();
    let engine = Embedded::in_memory(store::engine::embedded::Options::default()).await;
    let began = Instant::now();
    let control = Control { engine: Arc::clone(&engine), basis: Arc::default() };
    control.apply(&foundation(size)).await;
    println!("{} services and {} routes applied in {:.1?}", size.services, size.routes, began.elapsed());
    let began = Instant::now();
    for service in 0..size.services {
        for number in 0..INSTANCES {
            engine.register(&registration(service, number, port, CheckStatus::Passing)).await.unwrap();
        }
    }
    println!("{} instances registered in {:.1?}", size.services * INSTANCES, began.elapsed());

    let before = resident();
    let began = Instant::now();
    let (handle, gateway, address) = start(&engine).await;
    let mut client = Client::new(address);
    let last = size.services - 1;
    wait(|| client.ask(&host(last)) == 200).await;
    println!("start to the first answer: {:.1?}", began.elapsed());
    println!(
        "resident: {:.0} MB with the engine, {:.0} MB without",
        resident() / 1e6,
        (resident() - before) / 1e6
    );
    let began = Instant::now();
    let mut clients = [Client::new(address), Client::new(address)];
    for service in 0..size.services {
        wait(|| clients[0].ask(&host(service)) == 200).await;
        assert_eq!(clients[1].ask(&host(service)), 200);
    }
    println!(
        "every service asked once per client: {:.1?}; resident {:.0} MB",
        began.elapsed(),
        resident() / 1e6
    );

    println!(
        "change     p50 until it is answered  p90     most     CPU of the node     longest request meanwhile"
    );
    let nothing = Watched::during(address, async {
        let mut row = Row::new("none");
        for _ in 0..size.changes {
            let used = cpu();
            tokio::time::sleep(SETTLES).await;
            row.times.push(Duration::ZERO);
            row.cpu.push(cpu().saturating_sub(used));
        }
        row
    });
    let (longest, row) = nothing.await;
    row.print(longest);
    let wanted = |what: &str| only.is_none_or(|only| only == what);
    if wanted("routes") {
        change_routes(&control, address, size).await;
    }
    if wanted("services") {
        change_services(&control, &handle, address, size).await;
    }
    if wanted("new") {
        add_services(&control, address, size).await;
    }
    if wanted("instances") {
        change_instances(&engine, address, size, port).await;
    }
    drop(gateway);
}

/// A change of each kind, many times: prints how long it took from the text until it was answered, and what control, engine,
/// follower and gateway spent together. Beside that work goes on that depends on nothing: the row without changes has it, too.
struct Row {
    what: &'static str,
    times: Vec<Duration>,
    cpu: Vec<Duration>,
}

impl Row {
    fn new(what: &'static str) -> Self {
        Self { what, times: Vec::new(), cpu: Vec::new() }
    }

    fn print(mut self, longest: Duration) {
        self.times.sort();
        self.cpu.sort();
        let at = |all: &[Duration], percent: usize| all[(all.len() - 1) * percent / 100];
        println!(
            "{:<10} {:>24} {:>8} {:>8} {:>18} {:>12}",
            self.what,
            shown(at(&self.times, 50)),
            shown(at(&self.times, 90)),
            shown(at(&self.times, 100)),
            shown(at(&self.cpu, 50)),
            shown(longest),
        );
    }
}

fn shown(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// The node has taken a change and is idle again: what comes after the answer is part of the change's cost. It is more than a
/// tenth of a second, because a follower reads ten times a second at most and a change would wait for that.
const SETTLES: Duration = Duration::from_millis(120);

async fn change_routes(control: &Control, address: SocketAddr, size: Size) {
    let row = Watched::during(address, async {
        let mut row = Row::new("route");
        let mut client = Client::new(address);
        for change in 0..size.changes {
            let at = change * 7_919 % size.routes;
            let (path, text) = (format!("/changed-{change}"), route(at, size, &format!("/changed-{change}")));
            let (began, used) = (Instant::now(), cpu());
            let committed = control.change(text);
            wait(|| client.ask_path(&route_host(at), &path) == 200).await;
            row.times.push(began.elapsed());
            committed.await.unwrap();
            tokio::time::sleep(SETTLES).await;
            row.cpu.push(cpu().saturating_sub(used));
        }
        row
    });
    let (longest, row) = row.await;
    row.print(longest);
}

async fn change_services(control: &Control, handle: &Handle, address: SocketAddr, size: Size) {
    let row = Watched::during(address, async {
        let mut row = Row::new("service");
        let mut snapshots = handle.snapshots();
        for change in 0..size.changes {
            let at = change * 4_241 % size.services;
            let text =
                service(at, &format!("balance: {{ type: round_robin }}\nslow_start: {}s\n", change + 1));
            snapshots.mark_unchanged();
            let (began, used) = (Instant::now(), cpu());
            let committed = control.change(text);
            snapshots.changed().await.unwrap();
            row.times.push(began.elapsed());
            committed.await.unwrap();
            tokio::time::sleep(SETTLES).await;
            row.cpu.push(cpu().saturating_sub(used));
        }
        row
    });
    let (longest, row) = row.await;
    row.print(longest);
}

async fn add_services(control: &Control, address: SocketAddr, size: Size) {
    let row = Watched::during(address, async {
        let mut row = Row::new("new service");
        let mut client = Client::new(address);
        for change in 0..size.changes {
            let text = service(size.services + change, "");
            let (began, used) = (Instant::now(), cpu());
            let committed = control.change(text);
            // It has no instance, which is another answer than that of a host without a route.
            wait(|| client.ask(&host(size.services + change)) == 503).await;
            row.times.push(began.elapsed());
            committed.await.unwrap();
            tokio::time::sleep(SETTLES).await;
            row.cpu.push(cpu().saturating_sub(used));
        }
        row
    });
    let (longest, row) = row.await;
    row.print(longest);
}

async fn change_instances(engine: &Arc<Embedded>, address: SocketAddr, size: Size, port: u16) {
    let row = Watched::during(address, async {
        let mut row = Row::new("instance");
        let mut client = Client::new(address);
        for change in 0..size.changes {
            // All instances of a service but one go, so that its answer tells: one after the other, the last is measured.
            let at = (change * 4_241 + 17) % size.services;
            for number in 1..INSTANCES {
                let critical = registration(at, number, port, CheckStatus::Critical);
                engine.register(&critical).await.unwrap();
            }
            tokio::time::sleep(SETTLES).await;
            let (began, used) = (Instant::now(), cpu());
            engine.register(&registration(at, 0, port, CheckStatus::Warning)).await.unwrap();
            let _ = client.ask(&host(at));
            row.times.push(began.elapsed());
            tokio::time::sleep(SETTLES).await;
            row.cpu.push(cpu().saturating_sub(used));
        }
        row
    });
    let (longest, row) = row.await;
    row.print(longest);
}

/// Clients that ask all the time, one connection to each worker.
struct Watched;

impl Watched {
    /// The longest time that a request took while something was done.
    async fn during<T>(address: SocketAddr, done: impl Future<Output = T>) -> (Duration, T) {
        let stop = Arc::new(AtomicBool::new(false));
        let watchers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    let (mut client, mut longest) = (Client::new(address), Duration::ZERO);
                    assert_eq!(client.ask(&host(0)), 200);
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        assert_eq!(client.ask(&host(0)), 200);
                        longest = longest.max(began.elapsed());
                        std::thread::sleep(PACE);
                    }
                    longest
                })
            })
            .collect();
        let done = done.await;
        stop.store(true, Ordering::Relaxed);
        (watchers.into_iter().map(|it| it.join().unwrap()).max().unwrap_or_default(), done)
    }
}

struct Client(TcpStream);

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// The status of the answer for a host.
    fn ask(&mut self, host: &str) -> u16 {
        self.ask_path(host, "/")
    }

    fn ask_path(&mut self, host: &str, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let read = self.0.read(&mut piece).unwrap();
            assert!(read > 0, "the gateway closed the connection");
            answer.extend_from_slice(&piece[..read]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return head[9..12].parse().unwrap();
            }
        }
    }
}

/// One server for all instances: it listens on every address of this machine.
fn instances() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                    let mut head = [0; 2048];
                    while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
    port
}

async fn start(engine: &Arc<Embedded>) -> (Handle, ProxyHandle, SocketAddr) {
    let identity = Identity {
        node: "bench".into(),
        site: "s0".into(),
        roles: ["proxy".to_owned()].into(),
        boot: "bench".into(),
    };
    let memory = store::disk::LastGood::in_memory();
    let clock = store::Clock::default();
    let options = follow::Options::default();
    let (handle, follower) =
        follow::start_from(Arc::clone(engine) as _, memory, clock, identity, options).await;
    let config = Config {
        cluster: name("main"),
        site: name("s0"),
        node: "bench".into(),
        boot: "bench".into(),
        listeners: vec![Listener::plain("127.0.0.1:0".parse().unwrap())],
        workers: WORKERS,
        lameduck: Duration::ZERO,
        folder: std::path::PathBuf::new(),
        shutdown_deadline: Duration::from_secs(1),
        limits: Limits {
            max_requests_per_connection: 1_000_000_000,
            idle_per_instance: 1,
            // Every connection is two descriptors of this process, and there are two for each service.
            idle_for: Duration::from_millis(500),
            ..Limits::default()
        },
        tls: proxy::tls::ServerTls::default(),
    };
    let proxy = proxy::bind(config, handle.clone()).unwrap();
    let (gateway, address) = (proxy.handle(), proxy.local_addrs()[0]);
    tokio::spawn(async move {
        let _follower = follower;
        proxy.run().await.unwrap();
    });
    (handle, gateway, address)
}

fn host(service: usize) -> String {
    format!("s{service}.apps.example.com")
}

fn route_host(at: usize) -> String {
    if at.is_multiple_of(10) { "www.example.com".to_owned() } else { format!("h{at}.example.com") }
}

fn route_path(at: usize) -> String {
    if at.is_multiple_of(10) { format!("/team-{}/part-{at}", at % 50) } else { "/api".to_owned() }
}

fn service(at: usize, more: &str) -> String {
    format!("kind: Service\nname: s{at}\ncluster: main\nhosts: [{}]\n{more}", host(at))
}

/// A route of its usual path, and of another one.
fn route(at: usize, size: Size, path: &str) -> String {
    let (host, usual) = (route_host(at), route_path(at));
    let paths = if path == usual {
        format!("[{{ prefix: {usual} }}]")
    } else {
        format!("[{{ prefix: {usual} }}, {{ prefix: {path} }}]")
    };
    let service = at % size.services;
    format!("kind: Route\nname: r{at}\nhosts: [{host}]\npaths: {paths}\nto: [{{ service: s{service} }}]\n")
}

fn foundation(size: Size) -> String {
    let mut text =
        "kind: Site\nname: s0\n---\nkind: Zone\nname: example.com\nnameservers: [{ name: ns.x. }]\n---\n\
        kind: Cluster\nname: main\nzone: example.com\ngateway_domain: gw.example.com\n\
        gateways: { s0: { a: [127.0.0.1] } }\n"
            .to_owned();
    for at in 0..size.services {
        text.push_str("---\n");
        text.push_str(&service(at, ""));
    }
    for at in 0..size.routes {
        text.push_str("---\n");
        text.push_str(&route(at, size, &route_path(at)));
    }
    text
}

fn registration(service: usize, number: usize, port: u16, status: CheckStatus) -> Registration {
    let host = (service * INSTANCES + number) % 250_000;
    #[expect(clippy::cast_possible_truncation, reason = "remainders below 250")]
    let address =
        Ipv4Addr::new(127, 1 + (host / 62_500) as u8, (host / 250 % 250) as u8, 1 + (host % 250) as u8);
    Registration {
        address: (address, port).into(),
        status,
        ..testing::registration(&format!("s{service}"), &format!("s{service}-{number}"))
    }
}

/// Changes documents as a control does, which keeps what it has read and checked between changes.
#[derive(Clone)]
struct Control {
    engine: Arc<Embedded>,
    basis: Arc<tokio::sync::Mutex<Basis>>,
}

impl Control {
    /// Plans and commits on the threads whose time is counted. The change is in force before this ends.
    fn change(&self, text: String) -> JoinHandle<()> {
        let control = self.clone();
        tokio::spawn(async move { control.apply(&text).await })
    }

    async fn apply(&self, text: &str) {
        let changes = parse("bench.yaml", text).unwrap_or_else(|errors| panic!("{errors:?}"));
        let changes = changes.into_iter().map(Change::Put).collect();
        let mut basis = self.basis.lock().await;
        basis.read(&*self.engine).await.unwrap();
        let planned = match basis.plan(changes, Moment(1), testing::author()) {
            Ok(Planned::Changed(planned)) => planned,
            Ok(_) => panic!("nothing changes"),
            Err(errors) => panic!("{errors:?}"),
        };
        let entry = AuditEntry { at: Moment(1), who: "bench".into(), what: "bench".into(), generation: None };
        commit::commit(&*self.engine, *planned, entry).await.unwrap();
    }
}

/// Polls until something holds.
async fn wait(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(120), "it never came");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// The memory of this process, in bytes.
fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|it| it.parse::<f64>().ok());
    pages.unwrap_or_default() * 4096.0
}

/// What the background threads of the node have used. Its workers forward for the clients that watch them.
fn cpu() -> Duration {
    let mut used = Duration::ZERO;
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if !name.starts_with("tokio-rt") {
            continue;
        }
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let ns = text.split(' ').next().and_then(|it| it.parse::<u64>().ok()).unwrap_or_default();
        used += Duration::from_nanos(ns);
    }
    used
}
