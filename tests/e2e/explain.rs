//! `waypost explain request`, at a control and at a gateway, beside what that gateway does.

use std::{io::Write as _, process::Output, time::Duration};

use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Backing, Demo, ensure, eventually, free_port, run, signal};

const PATIENCE: Duration = Duration::from_secs(60);

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn explain(server: &str, arguments: &[&str]) -> Result<Value, Failed> {
    let output = run(&[&["explain", "request"], arguments, &["--server", server, "--json"]].concat());
    ensure(output.status.success(), || text(&output))?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The instances of all sites, each with its state and its share of all requests.
fn instances(explained: &Value) -> Vec<(String, String, f64)> {
    let word = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    let list = |it: &Value| it.as_array().cloned().unwrap_or_default();
    let sites = list(&explained["services"][0]["sites"]);
    let of_site = |site: &Value| {
        let share = site["share"].as_f64().unwrap_or_default() / 100.0;
        let of = |it: &Value| {
            (word(it, "id"), word(it, "state"), it["share"].as_f64().unwrap_or_default() * share)
        };
        list(&site["instances"]).iter().map(of).collect::<Vec<_>>()
    };
    let out = list(&explained["services"][0]["out"]);
    let out = out.iter().map(|it| (word(it, "id"), word(it, "state"), 0.0));
    sites.iter().flat_map(of_site).chain(out).collect()
}

pub fn request(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    eventually("a demo that is well", PATIENCE, || demo.cli(&["status", "--check"]).status.success())?;
    let url = format!("http://{}/a/../b", demo.layout.service.host);

    // A control is no gateway: it answers from documents and registry, and says so.
    let admin = demo.layout.admin.clone();
    let told = explain(&admin, &["GET", &url])?;
    ensure(told["live"] == false && told["outcome"]["kind"] == "forwarded" && told["path"] == "/b", || {
        told.to_string()
    })?;
    ensure(instances(&told).iter().filter(|it| it.2 > 0.0).count() == 3, || told.to_string())?;
    let printed = demo.cli(&["explain", "request", "GET", &url]);
    ensure(printed.status.success() && text(&printed).contains("gateway    none"), || text(&printed))?;
    let wrong = demo.cli(&["explain", "request", "G T", "ftp://x", "-H", "no colon"]);
    let said = text(&wrong);
    ensure(wrong.status.code() == Some(2), || said.clone())?;
    for mistake in ["method: \"G T\"", "url: \"ftp://x\"", "headers[0]: \"no colon\""] {
        ensure(said.contains(mistake), || format!("{mistake}: {said}"))?;
    }

    // A gateway answers on the listener of its status with what its workers see.
    let port = free_port();
    let process = demo.gateway_process(0);
    let mut file = std::fs::OpenOptions::new().append(true).open(&process.config)?;
    writeln!(file, "listen = \"127.0.0.1:{port}\"")?;
    demo.kill(process.pid);
    demo.restart(&process);
    let (gateway, near) = (format!("http://127.0.0.1:{port}"), demo.near());
    eventually("the gateway serves", PATIENCE, || demo.get(near).is_ok())?;
    let killed = demo.instance(0, 0);
    signal(killed.pid, Signal::KILL);
    let mut told = Value::Null;
    eventually("the gateway knows that the instance is dead", PATIENCE, || {
        let _ = demo.get(near);
        told = explain(&gateway, &["GET", &url]).unwrap_or_default();
        let state = instances(&told).into_iter().find(|it| it.0 == killed.id).map(|it| it.1);
        told["live"] == true && state.as_deref().is_none_or(|it| it == "down" || it == "critical")
    })?;
    for _ in 0..20 {
        let id = demo.get(near)?;
        let used = instances(&told).into_iter().any(|it| it.0 == id && it.2 > 0.0);
        ensure(used, || format!("{id} answered, and it is not used by {told}"))?;
    }
    let refused = explain(&gateway, &["GET", &url.replace("/a/", "/%2F/")])?;
    ensure(refused["outcome"]["reason"] == "bad_request" && refused["outcome"]["status"] == 400, || {
        refused.to_string()
    })
}
