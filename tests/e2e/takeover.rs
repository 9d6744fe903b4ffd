//! Two controls at one engine: the leading one is killed in the middle of a drain, and then in the middle of a change of
//! verdicts; the other one goes on.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::Value;
use waypost::demo::ProcessLayout;

use crate::{
    drain::{Platform, awaited, drain, is_done, order, receipts},
    harness::{Backing, Demo, Reaped, ensure, eventually, free_port, full, signal, waypost},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// How soon the other control has to lead.
const SUCCEEDED_WITHIN: Duration = Duration::from_secs(10);
const LOCKS: [&str; 2] = ["drains", "verdicts"];

/// A control with its admin address.
struct Control {
    url: String,
    config: PathBuf,
}

impl Control {
    fn log(&self) -> String {
        std::fs::read_to_string(self.config.with_extension("log")).unwrap_or_default()
    }

    /// How often it began to lead, by lock.
    fn terms(&self) -> [usize; 2] {
        let log = self.log();
        LOCKS.map(|lock| log.lines().filter(|it| it.contains("lock acquired") && it.contains(lock)).count())
    }
}

/// Starts a second control beside the demo's, and lets the probers report to both.
fn second(demo: &mut Demo) -> Result<(Control, Reaped), Failed> {
    let first = demo.process("control");
    let text = std::fs::read_to_string(&first.config)?;
    let url = format!("http://127.0.0.1:{}", free_port());
    let listen = |url: &str| url.trim_start_matches("http://").to_owned();
    let data = first.config.with_extension("");
    let text = text
        .replace("node = \"control-bj\"", "node = \"control-bj-2\"")
        .replace(&listen(&demo.layout.admin), &listen(&url))
        .replace(&format!("{}\"", data.display()), &format!("{}-2\"", data.display()));
    let config = first.config.with_file_name("control-bj-2.toml");
    std::fs::write(&config, text)?;
    let mut command = waypost();
    command.arg("run").arg("--config").arg(&config);
    let log = std::fs::File::create(config.with_extension("log"))?;
    let process = Reaped(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
    let probers: Vec<ProcessLayout> =
        demo.layout.processes.iter().filter(|it| it.role == "prober").cloned().collect();
    for prober in probers {
        let text = std::fs::read_to_string(&prober.config)?;
        let both = format!("\"{}\", \"{url}\"", demo.layout.admin);
        std::fs::write(&prober.config, text.replace(&format!("\"{}\"", demo.layout.admin), &both))?;
        demo.kill(prober.pid);
        demo.restart(&prober);
    }
    Ok((Control { url, config }, process))
}

/// Waits until a control holds both locks once more than before.
fn leads(control: &Control, before: [usize; 2], killed: Instant) -> Result<Duration, Failed> {
    eventually("the other control to lead", PATIENCE, || {
        control.terms().iter().zip(before).all(|(now, before)| *now > before)
    })?;
    let after = killed.elapsed();
    println!("  it leads {after:.1?} after the kill");
    // How busy the machine is decides how soon, except in the full run.
    ensure(!full() || after < SUCCEEDED_WITHIN, || format!("{after:?}, at most {SUCCEEDED_WITHIN:?}"))?;
    Ok(after)
}

/// The published verdicts.
fn published(demo: &Demo) -> String {
    let url = format!("{}/v1/kv/waypost/verdicts/x?raw", demo.layout.engine);
    demo.block_on(async { reqwest::get(url).await?.error_for_status()?.text().await }).unwrap_or_default()
}

pub fn killed_leader(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    let (platform, hook) = Platform::start(&demo);
    let leader = demo.process("control");
    let first = Control { url: demo.layout.admin.clone(), config: leader.config.clone() };
    let (second, mut other) = second(&mut demo)?;
    eventually("the second control to wait", PATIENCE, || {
        LOCKS.iter().all(|lock| {
            second.log().lines().any(|it| it.contains("waiting for the lock") && it.contains(lock))
        })
    })?;
    eventually("verdicts from both", PATIENCE, || published(&demo).matches("\"state\":\"up\"").count() == 2)?;

    let leaver = demo.instance(0, 0);
    let frozen = demo.layout.sites[1].gateway.pid;
    signal(frozen, Signal::STOP);
    let id = order(&demo, &leaver, hook, &Value::Null)?;
    eventually("the near gateway's receipt", PATIENCE, || receipts(&drain(&demo, &id)) == ["gateway-bj"])?;
    let killed = Instant::now();
    demo.kill(leader.pid);
    demo.layout.admin.clone_from(&second.url);
    leads(&second, [0, 0], killed)?;
    eventually("the laggard's name", PATIENCE, || awaited(&drain(&demo, &id)).contains("sh/gateway-sh"))?;
    ensure(platform.calls().is_empty(), || "the hook was called with a gateway frozen".to_owned())?;
    signal(frozen, Signal::CONT);
    eventually("the end of the drain", PATIENCE, || is_done(&drain(&demo, &id)))?;
    let calls = platform.calls();
    ensure(calls.len() == 1 && calls[0].key == id, || format!("{calls:?}"))?;
    let said = second.log();
    ensure(said.contains("is silent: its session is ended"), || said.clone())?;

    // The killed one comes back and waits; then the other is killed while a verdict changes.
    demo.restart(&leader);
    let before = first.terms();
    eventually("the first control to wait", PATIENCE, || {
        let waits = |it: &&str| it.contains("waiting for the lock") && it.contains("control-bj-2");
        first.log().lines().filter(waits).count() >= LOCKS.len()
    })?;
    eventually("both gateways", PATIENCE, || published(&demo).matches("\"state\":\"up\"").count() == 2)?;
    let (gateway, far) = (demo.gateway_process(0), demo.far());
    demo.kill(gateway.pid);
    let killed = Instant::now();
    drop(other.0.kill());
    drop(other.0.wait());
    demo.layout.admin.clone_from(&first.url);
    leads(&first, before, killed)?;
    eventually("the answer of the far site", PATIENCE, || demo.answers(far.ip()))?;
    eventually("the published verdict", PATIENCE, || published(&demo).contains("\"state\":\"down\""))?;
    ensure(first.terms() == [before[0] + 1, before[1] + 1], || format!("{:?}", first.terms()))
}
