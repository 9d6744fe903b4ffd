//! An instance is drained: no request fails, every gateway writes a receipt, and only then the hook is called.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, http::HeaderMap, routing::post};
use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::{Value, json};
use waypost::demo::{InstanceLayout, load::LoadGenerator};

use crate::harness::{Backing, Demo, ensure, eventually, full, signal};

const PATIENCE: Duration = Duration::from_secs(60);

/// The platform that stops processes: a real HTTP server for the hook.
#[derive(Clone, Default)]
pub struct Platform {
    calls: Arc<Mutex<Vec<Call>>>,
}

#[derive(Clone, Debug)]
pub struct Call {
    at: Instant,
    pub key: String,
    body: Value,
}

async fn stop(State(platform): State<Platform>, headers: HeaderMap, Json(body): Json<Value>) {
    let key = headers.get("idempotency-key").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
    platform.calls.lock().unwrap_or_else(PoisonError::into_inner).push(Call {
        at: Instant::now(),
        key,
        body,
    });
}

impl Platform {
    pub fn start(demo: &Demo) -> (Self, SocketAddr) {
        let platform = Self::default();
        let router = Router::new().route("/stop", post(stop)).with_state(platform.clone());
        let listener = demo.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let _runtime = demo.enter();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (platform, address)
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub fn order(
    demo: &Demo,
    leaver: &InstanceLayout,
    hook: SocketAddr,
    extra: &Value,
) -> Result<String, Failed> {
    let mut body = json!({
        "service": leaver.service, "instance": leaver.id, "hook": format!("http://{hook}/stop"),
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    let drain: Value = demo.block_on(demo.admin().post("/v1/drains", &body))?;
    Ok(drain["id"].as_str().ok_or("a drain without an id")?.to_owned())
}

pub fn drain(demo: &Demo, id: &str) -> Value {
    demo.block_on(demo.admin().get(&format!("/v1/drains/{id}"))).unwrap_or_default()
}

pub fn is_done(drain: &Value) -> bool {
    drain["phase"] == "done"
}

pub fn receipts(drain: &Value) -> Vec<String> {
    let mut names: Vec<String> = drain["receipts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|it| it["gateway"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

pub fn awaited(drain: &Value) -> String {
    drain["awaited"].to_string()
}

fn load(demo: &Demo, rate: u32) -> LoadGenerator {
    let _runtime = demo.enter();
    LoadGenerator::start(&demo.gateways(), &demo.layout.service.host, "/", rate)
}

pub fn under_load(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    let (platform, hook) = Platform::start(&demo);
    let leaver = demo.instance(0, 1);
    let (wanted, rate) = if full() { (100_000, 1_500) } else { (5_000, 500) };
    let load = load(&demo, rate);
    eventually("a fifth of the load", PATIENCE * 5, || load.so_far().sent >= wanted / 5)?;
    let id = order(&demo, &leaver, hook, &Value::Null)?;
    eventually("the end of the drain", PATIENCE, || is_done(&drain(&demo, &id)))?;
    let done = drain(&demo, &id);
    let used = load.so_far().answers.get(&leaver.id).copied().unwrap_or(0);
    ensure(used > 0, || format!("{} was never used before", leaver.id))?;

    // The back end is alive and registers itself again each second while its check is refused: it gets no
    // request, for as long as a platform may take to stop it. Then it is stopped, and no request fails then either.
    let a_while = load.so_far().sent + if full() { 15_000 } else { 1_000 };
    eventually("a while of load", PATIENCE, || load.so_far().sent >= a_while)?;
    let later = load.so_far().answers.get(&leaver.id).copied().unwrap_or(0);
    demo.kill(leaver.pid);
    eventually("the rest of the load", PATIENCE * 5, || load.so_far().sent >= wanted)?;
    let report = demo.block_on(load.finish());
    println!("{} requests, {} failed, slowest {:?}", report.sent, report.failed(), report.slowest);
    ensure(report.failed() == 0, || format!("failed: {:?}", report.failures))?;
    ensure(later == used, || format!("{} requests reached {} after its receipts", later - used, leaver.id))?;
    ensure(receipts(&done) == ["gateway-bj", "sh/gateway-sh"], || format!("receipts: {done}"))?;
    let calls = platform.calls();
    ensure(calls.first().is_some_and(|call| call.key == id), || format!("hook calls: {calls:?}"))?;
    ensure(calls[0].body["instance"] == leaver.id.as_str(), || format!("hook body: {}", calls[0].body))
}

pub fn frozen_gateway_wakes(backing: Backing) -> Result<(), Failed> {
    let demo = Demo::start(&backing)?;
    let (platform, hook) = Platform::start(&demo);
    let leaver = demo.instance(0, 0);
    let frozen = demo.layout.sites[1].gateway.pid;
    let length = Duration::from_secs(if full() { 10 } else { 3 });
    signal(frozen, Signal::STOP);
    let frozen_at = Instant::now();
    let id = order(&demo, &leaver, hook, &Value::Null)?;
    eventually("the laggard's name", PATIENCE, || {
        let drain = drain(&demo, &id);
        awaited(&drain).contains("sh/gateway-sh") && receipts(&drain) == ["gateway-bj"]
    })?;
    while frozen_at.elapsed() < length {
        ensure(platform.calls().is_empty(), || "the hook was called while a gateway was frozen".to_owned())?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let woken_at = Instant::now();
    signal(frozen, Signal::CONT);
    eventually("the end of the drain", PATIENCE, || is_done(&drain(&demo, &id)))?;
    let done = drain(&demo, &id);
    ensure(receipts(&done) == ["gateway-bj", "sh/gateway-sh"], || format!("receipts: {done}"))?;
    ensure(done["unproven"].as_array().is_none_or(Vec::is_empty), || format!("unproven: {done}"))?;
    ensure(platform.calls().iter().all(|call| call.at >= woken_at), || {
        "the hook was called too early".to_owned()
    })
}

pub fn frozen_gateway_lapses(backing: Backing) -> Result<(), Failed> {
    let demo = Demo::start(&backing)?;
    let (platform, hook) = Platform::start(&demo);
    let leaver = demo.instance(0, 0);
    let frozen = demo.layout.sites[1].gateway.pid;
    signal(frozen, Signal::STOP);
    let lease = if full() { "60s" } else { "8s" };
    let id = order(&demo, &leaver, hook, &json!({ "lease": lease }))?;
    eventually("the end of the drain", PATIENCE * 3, || is_done(&drain(&demo, &id)))?;
    let done = drain(&demo, &id);
    signal(frozen, Signal::CONT);
    ensure(done["unproven"] == json!(["sh/gateway-sh"]), || format!("unproven: {done}"))?;
    ensure(receipts(&done) == ["gateway-bj"], || format!("receipts: {done}"))?;
    ensure(platform.calls()[0].body["unproven"] == json!(["sh/gateway-sh"]), || {
        format!("{:?}", platform.calls())
    })
}

pub fn cancelled(backing: Backing) -> Result<(), Failed> {
    let demo = Demo::start(&backing)?;
    let (platform, hook) = Platform::start(&demo);
    let leaver = demo.instance(0, 0);
    let frozen = demo.layout.sites[1].gateway.pid;
    signal(frozen, Signal::STOP);
    let id = order(&demo, &leaver, hook, &Value::Null)?;
    let near = demo.near();
    eventually("the near gateway's receipt", PATIENCE, || receipts(&drain(&demo, &id)) == ["gateway-bj"])?;
    let answers: Vec<_> = (0..30).map(|_| demo.get(near)).collect::<Result<_, _>>()?;
    ensure(!answers.contains(&leaver.id), || format!("{} is still picked: {answers:?}", leaver.id))?;
    let cancelled = demo.cli(&["drain", "cancel", &id]);
    signal(frozen, Signal::CONT);
    ensure(cancelled.status.success(), || String::from_utf8_lossy(&cancelled.stderr).into_owned())?;
    eventually("its return", PATIENCE, || demo.get(near).is_ok_and(|it| it == leaver.id))?;
    ensure(drain(&demo, &id)["phase"] == "cancelled", || drain(&demo, &id).to_string())?;
    ensure(platform.calls().is_empty(), || "the hook of a cancelled drain was called".to_owned())
}

pub fn survives_control(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    let (platform, hook) = Platform::start(&demo);
    let leaver = demo.instance(0, 0);
    let frozen = demo.layout.sites[1].gateway.pid;
    signal(frozen, Signal::STOP);
    let id = order(&demo, &leaver, hook, &Value::Null)?;
    eventually("the near gateway's receipt", PATIENCE, || receipts(&drain(&demo, &id)) == ["gateway-bj"])?;
    let control = demo.process("control");
    demo.kill(control.pid);
    demo.restart(&control);
    eventually("the drain in a new control", PATIENCE, || {
        awaited(&drain(&demo, &id)).contains("sh/gateway-sh")
    })
    .map_err(|error| {
        let (seen, words) = (drain(&demo, &id), Demo::last_words(&control));
        Failed::from(format!(
            "{}; seen: {seen}; control logged:\n{words}",
            error.message().unwrap_or_default()
        ))
    })?;
    ensure(platform.calls().is_empty(), || "the hook was called with a gateway frozen".to_owned())?;
    signal(frozen, Signal::CONT);
    eventually("the end of the drain", PATIENCE, || is_done(&drain(&demo, &id)))?;
    ensure(platform.calls().iter().all(|call| call.key == id), || format!("{:?}", platform.calls()))?;
    ensure(!platform.calls().is_empty(), || "the hook was not called".to_owned())
}
