//! A view that no heartbeat refreshes is called stale wherever an operator looks, and nowhere once it is not.

use std::time::Duration;

use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Backing, Demo, ensure, eventually, signal};

const PATIENCE: Duration = Duration::from_secs(40);

/// The status and the text of an answer of control.
fn get(demo: &Demo, path: &str) -> Option<(u16, String)> {
    let url = format!("{}{path}", demo.layout.admin);
    demo.block_on(async {
        let answer = reqwest::get(url).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    })
}

fn strictly(demo: &Demo, status: u16, reason: &str) -> bool {
    get(demo, "/readyz?strict").is_some_and(|(is, text)| is == status && text.contains(reason))
}

fn status(demo: &Demo) -> Option<Value> {
    serde_json::from_slice(&demo.cli(&["status", "--json"]).stdout).ok()
}

/// Whether control's view is stale, and that of each other node, as `status` shows them.
fn stale_views(demo: &Demo) -> Option<(bool, Vec<bool>)> {
    let status = status(demo)?;
    let stale = |view: &Value| view["stale"].as_bool();
    let nodes: Option<Vec<bool>> = status["nodes"].as_array()?.iter().map(|it| stale(&it["view"])).collect();
    Some((stale(&status["view"])?, nodes.filter(|it| it.len() >= 3)?))
}

/// All of them show the same.
fn all_views(demo: &Demo, are_stale: bool) -> bool {
    stale_views(demo)
        .is_some_and(|(control, nodes)| control == are_stale && nodes.into_iter().all(|it| it == are_stale))
}

fn seconds_stale(demo: &Demo) -> Option<f64> {
    let (_, text) = get(demo, "/metrics")?;
    let line = text.lines().find(|line| line.starts_with("waypost_store_view_stale_seconds "))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn times_logged(demo: &Demo, role: &str, words: &str) -> usize {
    let log = demo.process(role).config.with_extension("log");
    // A control that starts is stale too, until it has asked the other site for its verdicts.
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.contains(words) && !line.contains("this control started")).count()
}

pub fn without_vantages_and_without_an_engine(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    eventually("a view that is fresh", PATIENCE, || strictly(&demo, 200, "ok"))?;
    ensure(all_views(&demo, false) && seconds_stale(&demo) == Some(0.0), || {
        format!("stale while all is well: {:?}", status(&demo))
    })?;
    let probers: Vec<_> = demo.layout.processes.iter().filter(|it| it.role == "prober").cloned().collect();

    // Two of three are a quorum, so one silent vantage does not make the view stale. With all three silent no verdict can
    // change.
    demo.kill(probers[0].pid);
    std::thread::sleep(Duration::from_secs(8));
    ensure(stale_views(&demo).is_some_and(|(control, _)| !control), || {
        format!("two of three vantages are enough: {:?}", status(&demo))
    })?;
    demo.kill(probers[1].pid);
    demo.kill(probers[2].pid);
    eventually("503 to /readyz?strict", PATIENCE, || strictly(&demo, 503, "3 of 3 vantages are silent"))?;
    // Control, the DNS node and the gateway of the site, and on the embedded engine that one's own node.
    eventually("every node's view", PATIENCE, || all_views(&demo, true))?;
    ensure(seconds_stale(&demo).is_some_and(|it| it > 0.0), || {
        format!("metrics: {:?}", seconds_stale(&demo))
    })?;
    ensure(get(&demo, "/readyz").is_some_and(|(status, _)| status == 200), || "it serves on".to_owned())?;
    ensure(demo.answers(demo.near().ip()), || "staleness changed an answer".to_owned())?;
    let text = String::from_utf8_lossy(&demo.cli(&["status"]).stdout).into_owned();
    ensure(text.contains("no verdict changes since") && text.contains("gz-telecom"), || text.clone())?;
    for role in ["control", "dns", "gateway"] {
        let logged = times_logged(&demo, role, "the view is stale:");
        ensure(logged == 1, || format!("{role} logged it {logged} times"))?;
    }

    demo.restart(&probers[0]);
    demo.restart(&probers[1]);
    eventually("a view that is fresh again", PATIENCE, || strictly(&demo, 200, "ok"))?;
    eventually("every node's view again", PATIENCE, || all_views(&demo, false))?;
    ensure(seconds_stale(&demo) == Some(0.0), || format!("metrics: {:?}", seconds_stale(&demo)))?;
    eventually("the end in the log", PATIENCE, || times_logged(&demo, "dns", "is no longer stale") == 1)?;

    match &demo.consul {
        Some(agent) => signal(agent.pid(), Signal::KILL),
        None => demo.kill(demo.process("engine").pid),
    }
    eventually("the engine's absence", PATIENCE, || strictly(&demo, 503, "the engine cannot be read"))?;
    eventually("a stale view without an engine", PATIENCE, || strictly(&demo, 503, "the view is stale"))?;
    ensure(get(&demo, "/readyz").is_some_and(|(status, _)| status == 200), || "it serves on".to_owned())
}
