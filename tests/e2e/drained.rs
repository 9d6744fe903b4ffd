//! After a drain: an instance that goes on running stays out, its successor is let in; and names with several addresses.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{extract::State, routing::post};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use waypost::demo::InstanceLayout;

use crate::harness::{Backing, Demo, Reaped, ensure, eventually, full, waypost};

const PATIENCE: Duration = Duration::from_secs(60);

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("embedded::a_name_with_a_dead_address_fails_no_request", || {
        name_with_a_dead_address(&Backing::Embedded)
    })]
}

/// Drains an instance, as the README does unless there is a hook, and waits for the end.
fn drained(demo: &Demo, leaver: &InstanceLayout, hook: Option<SocketAddr>) -> Result<String, Failed> {
    let hook = hook.map(|it| format!("http://{it}/restart"));
    let body = json!({ "service": leaver.service, "instance": leaver.id, "hook": hook });
    let drain: Value = demo.block_on(demo.admin().post("/v1/drains", &body))?;
    let id = drain["id"].as_str().ok_or("a drain without an id")?.to_owned();
    eventually("the end of the drain", PATIENCE, || {
        let drain: Value = demo.block_on(demo.admin().get(&format!("/v1/drains/{id}"))).unwrap_or_default();
        drain["phase"] == "done"
    })?;
    Ok(id)
}

fn status(demo: &Demo) -> Value {
    demo.block_on(demo.admin().get("/v1/status")).unwrap_or_default()
}

/// The part of `status` about a drained instance that is registered.
fn listed(demo: &Demo, id: &str) -> Option<Value> {
    let status = status(demo);
    status["drained_still_registered"].as_array()?.iter().find(|it| it["drain"] == id).cloned()
}

fn asked_often(demo: &Demo, leaver: &InstanceLayout, times: usize) -> Result<(), Failed> {
    for gateway in demo.gateways() {
        for _ in 0..times {
            let answer = demo.get(gateway)?;
            ensure(answer != leaver.id, || format!("{} is back at {gateway}", leaver.id))?;
        }
    }
    Ok(())
}

fn answered_by(demo: &Demo, leaver: &InstanceLayout) -> Result<Duration, Failed> {
    eventually("its return", PATIENCE, || demo.get(demo.near()).is_ok_and(|it| it == leaver.id))
}

pub fn living_instance_is_never_back(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    let leaver = demo.instance(0, 0);
    let id = drained(&demo, &leaver, None)?;
    // It goes on running, so it registers itself again; `status` names it, with the command that lets it in.
    let both = json!(["gateway-bj", "sh/gateway-sh"]);
    eventually("its line in the status", PATIENCE, || {
        listed(&demo, &id).is_some_and(|it| it["refused_by"] == both && it["instance"] == leaver.id.as_str())
    })?;
    let text = String::from_utf8_lossy(&demo.cli(&["status"]).stdout).into_owned();
    let command = format!("waypost drain cancel {id}");
    ensure(text.lines().any(|line| line.contains(&leaver.id) && line.contains(&command)), || text.clone())?;
    asked_often(&demo, &leaver, 60)?;
    told_in_the_log(&demo)?;
    let until = Instant::now() + Duration::from_secs(if full() { 45 } else { 2 });
    while Instant::now() < until {
        asked_often(&demo, &leaver, 10)?;
    }

    // A gateway that starts again has seen nothing end either.
    let gateway = demo.gateway_process(0);
    demo.kill(gateway.pid);
    demo.restart(&gateway);
    eventually("the restarted gateway", PATIENCE, || demo.get(demo.near()).is_ok())?;
    asked_often(&demo, &leaver, 60)?;

    let cancelled = demo.cli(&["drain", "cancel", &id]);
    let printed = String::from_utf8_lossy(&cancelled.stdout).into_owned();
    ensure(cancelled.status.success(), || String::from_utf8_lossy(&cancelled.stderr).into_owned())?;
    ensure(printed.contains(&leaver.id) && !printed.contains("hook"), || {
        format!("cancel printed {printed:?}")
    })?;
    answered_by(&demo, &leaver)?;
    eventually("an empty list", PATIENCE, || listed(&demo, &id).is_none()).map(drop)
}

/// Every step is logged at the default level, by control and by the gateway that refuses.
fn told_in_the_log(demo: &Demo) -> Result<(), Failed> {
    let log = |process: &waypost::demo::ProcessLayout| {
        std::fs::read_to_string(process.config.with_extension("log")).unwrap_or_default()
    };
    let control = log(&demo.process("control"));
    for step in [
        "drain ordered",
        "waiting for receipts",
        "gateway-bj, sh\"",
        "receipt",
        "every receipt is in",
        "instance deregistered",
        "drain done",
    ] {
        ensure(control.contains(step), || format!("control's log has no {step:?}:\n{control}"))?;
    }
    let refused = "is registered again; it gets no requests";
    eventually("the gateway's line", PATIENCE, || log(&demo.gateway_process(0)).contains(refused)).map(drop)
}

/// Stops a back end, and starts another in its place a second later.
#[derive(Clone)]
struct Platform {
    instance: InstanceLayout,
    engine: String,
    token_file: PathBuf,
    running: Arc<Mutex<Option<(Reaped, Instant)>>>,
}

impl Platform {
    fn restart(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        drop(running.take());
        std::thread::sleep(Duration::from_secs(1));
        let InstanceLayout { service, id, address, .. } = &self.instance;
        let mut command = waypost();
        command.args(["demo-backend", "--service", service, "--id", id, "--site", "bj"]);
        command.args(["--engine", &self.engine, "--listen", &address.to_string()]);
        command.arg("--token-file").arg(&self.token_file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        *running = Some((Reaped(command.spawn().unwrap()), Instant::now()));
    }

    fn started(&self) -> Instant {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map_or_else(Instant::now, |(_, started)| *started)
    }

    /// As a hook, which answers when the new process has been started.
    fn listen(&self, demo: &Demo) -> Result<SocketAddr, Failed> {
        let listener = demo.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let router = axum::Router::new().route("/restart", post(restart)).with_state(self.clone());
        let _runtime = demo.enter();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(address)
    }
}

async fn restart(State(platform): State<Platform>) {
    tokio::task::spawn_blocking(move || platform.restart()).await.unwrap();
}

pub fn restarts_under_the_same_id_and_port(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    let instance = demo.instance(0, 0);
    let (engine, running) = (demo.layout.engine.clone(), Arc::default());
    let token_file = demo.tokens().join("registrar.token");
    let platform = Platform { instance: instance.clone(), engine, token_file, running };
    let hook = platform.listen(&demo)?;
    let mut slowest = Duration::ZERO;
    for round in 0..if full() { 20 } else { 4 } {
        // Alternately: after the end of a drain without a hook, and by the hook.
        if round % 2 == 0 {
            drained(&demo, &instance, None)?;
            if round == 0 {
                demo.kill(instance.pid);
            }
            platform.restart();
        } else {
            drained(&demo, &instance, Some(hook))?;
        }
        answered_by(&demo, &instance)?;
        let back = platform.started().elapsed();
        slowest = slowest.max(back);
        // The machine may be busy with other things, except in the full run.
        let allowed = Duration::from_secs(if full() { 2 } else { 10 });
        ensure(back <= allowed, || format!("restart {round}: back after {back:?}, at most {allowed:?}"))?;
    }
    println!("slowest return {slowest:?}");
    Ok(())
}

/// An instance registered as `localhost`, which is an address of either family, and listening on one of them.
fn name_with_a_dead_address(backing: &Backing) -> Result<(), Failed> {
    let demo = Demo::start(backing)?;
    let documents = "kind: Service\nname: named\nuuid: 6f1f0a60-3a57-4d0a-9c06-0d8a3f7d5a11\ncluster: main\n\
                     consul: { service: named, tags: [] }\nhosts: [named.waypost.test]\nsites: [bj, sh]\n\
                     route_by: gateway\n";
    demo.block_on(demo.admin().apply("named.yaml", documents))?;
    let living = demo.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let port = living.local_addr()?.port();
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "named" }));
    let _runtime = demo.enter();
    tokio::spawn(async move { axum::serve(living, router).await });
    let registration = json!({ "Name": "named", "ID": "named-1", "Address": "localhost", "Port": port });
    let url = format!("{}/v1/agent/service/register", demo.layout.engine);
    demo.block_on(reqwest::Client::new().put(url).json(&registration).send())?.error_for_status()?;
    let get = || demo.block_on(waypost::demo::client::get(demo.near(), "named.waypost.test", "/"));
    eventually("a first answer", PATIENCE, || get().is_ok_and(|it| it.status == 200))?;
    let answers: Vec<u16> = (0..60).filter_map(|_| get().ok()).map(|it| it.status).collect();
    let good = answers.iter().filter(|status| **status == 200).count();
    ensure(good == 60, || format!("{good} of 60 requests were answered: {answers:?}"))
}
