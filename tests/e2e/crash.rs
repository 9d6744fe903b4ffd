//! Durability of the embedded engine: it is killed while it writes, and traced while it acknowledges.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::{
    components::Components,
    harness::{Reaped, ensure, eventually, free_port, full, run, runtime, waypost},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![
        Trial::test("crash::no_acknowledged_write_is_lost", no_acknowledged_write_is_lost),
        Trial::test("crash::a_corrupt_engine_refuses_to_start", corrupt_engine),
        Trial::test("crash::a_corrupt_snapshot_is_moved_aside", corrupt_snapshot),
        components.needs_strace("crash::each_acknowledgement_follows_a_sync_of_its_bytes", acknowledgements),
    ]
}

/// An engine node of its own.
struct EngineNode {
    folder: TempDir,
    url: String,
    process: Option<Reaped>,
}

impl EngineNode {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let http = format!("127.0.0.1:{}", free_port());
        let text = format!(
            "node = \"engine\"\nsite = \"bj\"\ndata_dir = \"{}\"\n[store]\nengine = \"embedded\"\nhttp = \"{http}\"\n",
            folder.path().join("data").display()
        );
        std::fs::write(folder.path().join("engine.toml"), text).unwrap();
        Self { folder, url: format!("http://{http}"), process: None }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("engine.toml")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn start(&mut self) -> Result<(), Failed> {
        self.start_as(waypost())
    }

    fn start_as(&mut self, mut command: Command) -> Result<(), Failed> {
        command.arg("run").arg("--config").arg(self.config());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        self.process = Some(Reaped(child));
        let url = format!("{}/v1/status/leader", self.url);
        let runtime = runtime();
        let answers = || runtime.block_on(reqwest::get(&url)).is_ok_and(|it| it.status().is_success());
        eventually("the engine's first answer", Duration::from_secs(30), answers).map(drop)
    }

    /// SIGKILL, and gone when this returns.
    fn kill(&mut self) {
        self.process = None;
    }
}

/// Kills at a different moment in each round, with several writers going.
fn no_acknowledged_write_is_lost() -> Result<(), Failed> {
    const WRITERS: usize = 4;
    let rounds = if full() { 20 } else { 5 };
    let mut engine = EngineNode::new();
    let runtime = runtime();
    let client = reqwest::Client::new();
    let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
    for round in 0..rounds {
        engine.start()?;
        let stop = Arc::new(AtomicBool::new(false));
        let before = acknowledged.lock().unwrap().len();
        for writer in 0..WRITERS {
            let (client, url, stop) = (client.clone(), engine.url.clone(), Arc::clone(&stop));
            let acknowledged = Arc::clone(&acknowledged);
            runtime.spawn(async move {
                for n in 0..1_000 / WRITERS {
                    let key = format!("crash/{round}/{writer}/{n}");
                    let put = client.put(format!("{url}/v1/kv/{key}")).body(key.clone()).send().await;
                    let Ok(answer) = put else { break };
                    if stop.load(Ordering::Relaxed) || answer.text().await.is_ok_and(|it| it.trim() != "true")
                    {
                        break;
                    }
                    acknowledged.lock().unwrap().push(key);
                }
            });
        }
        let wanted = before + 40 + round * 40;
        eventually("some writes", Duration::from_secs(60), || acknowledged.lock().unwrap().len() >= wanted)?;
        engine.kill();
        stop.store(true, Ordering::Relaxed);
    }
    engine.start()?;
    let kept = acknowledged.lock().unwrap().clone();
    let lost: Vec<_> = kept
        .iter()
        .filter(|key| {
            let url = format!("{}/v1/kv/{key}?raw", engine.url);
            let read = runtime.block_on(async { client.get(url).send().await?.text().await });
            read.ok().as_deref() != Some(key.as_str())
        })
        .collect();
    println!("{rounds} kills, {} acknowledged writes, {} lost", kept.len(), lost.len());
    ensure(lost.is_empty(), || format!("lost: {lost:?}"))
}

fn largest_file(folder: &Path) -> PathBuf {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                files.push((meta.len(), entry.path()));
            }
        }
    }
    files.into_iter().max().unwrap().1
}

fn store_of(data: &Path, named: &str) -> PathBuf {
    std::fs::read_dir(data).unwrap().map(|it| it.unwrap().path()).find(|it| it.ends_with(named)).unwrap()
}

fn corrupt_engine() -> Result<(), Failed> {
    for damage in ["truncated", "overwritten"] {
        let mut engine = EngineNode::new();
        engine.start()?;
        let client = reqwest::Client::new();
        let runtime = runtime();
        for n in 0..50 {
            let put = client.put(format!("{}/v1/kv/k{n}", engine.url)).body("x".repeat(2_000));
            runtime.block_on(put.send())?;
        }
        engine.kill();
        let file = largest_file(&store_of(&engine.data(), "engine"));
        let bytes = std::fs::read(&file)?;
        let damaged = match damage {
            "truncated" => bytes[..bytes.len() / 3].to_vec(),
            _ => {
                bytes.iter().enumerate().map(|(at, byte)| if at % 97 == 3 { !byte } else { *byte }).collect()
            }
        };
        std::fs::write(&file, damaged)?;
        let output = run(&["run", "--config", engine.config().to_str().unwrap()]);
        let printed = String::from_utf8_lossy(&output.stderr);
        ensure(output.status.code() == Some(1), || format!("{damage}: exit {:?}: {printed}", output.status))?;
        ensure(printed.contains("engine") && printed.contains("waypost restore"), || {
            format!("{damage}: {printed}")
        })?;
        ensure(!printed.contains("panicked"), || format!("{damage}: {printed}"))?;
    }
    Ok(())
}

fn corrupt_snapshot() -> Result<(), Failed> {
    let mut engine = EngineNode::new();
    engine.start()?;
    engine.kill();
    let node = store_of(&engine.data(), "node");
    std::fs::remove_dir_all(&node)?;
    let db = sled::open(&node)?;
    db.insert("config", b"no checksum before this".as_slice())?;
    db.flush()?;
    drop(db);
    engine.start()?;
    let aside = engine.data().join("node.corrupt-1");
    ensure(aside.is_dir(), || format!("nothing at {}", aside.display()))
}

/// Traces an engine: between the write of a value to the disk and the 200 that acknowledges it, a sync of that
/// file has begun and completed.
fn acknowledgements(strace: PathBuf) -> Result<(), Failed> {
    const WRITES: usize = 40;
    let mut engine = EngineNode::new();
    let trace = engine.folder.path().join("trace");
    let mut command = Command::new(strace);
    command.args([
        "-f",
        "-qq",
        "-s",
        "200000",
        "-e",
        "trace=pwrite64,write,writev,sendto,fdatasync,fsync",
        "-o",
    ]);
    command.arg(&trace).arg(env!("CARGO_BIN_EXE_waypost"));
    engine.start_as(command)?;
    let client = reqwest::Client::new();
    let runtime = runtime();
    for n in 0..WRITES {
        let put = client.put(format!("{}/v1/kv/traced/{n}", engine.url)).body(format!("value-of-{n}-traced"));
        let answer = runtime.block_on(put.send())?;
        ensure(answer.status().is_success(), || format!("write {n}: {}", answer.status()))?;
    }
    // Killing strace detaches it; the engine is its child and is found by its configuration.
    let traced = traced_child(&engine);
    crate::harness::signal(traced, rustix::process::Signal::KILL);
    eventually("the end of the trace", Duration::from_secs(10), || {
        engine.process.as_mut().is_none_or(|it| it.0.try_wait().is_ok_and(|status| status.is_some()))
    })?;
    let text = std::fs::read_to_string(&trace)?;
    for n in 0..WRITES {
        follows_its_sync(&text, &format!("value-of-{n}-traced"))
            .map_err(|why| format!("write {n}: {why}"))?;
    }
    println!("{WRITES} acknowledgements, each after a completed sync of its bytes");
    Ok(())
}

fn traced_child(engine: &EngineNode) -> u32 {
    let strace = engine.process.as_ref().unwrap().0.id();
    let children = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

/// Looks for: the value written to a file; then a sync that starts after it and returns 0; then the next answer.
fn follows_its_sync(trace: &str, value: &str) -> Result<(), String> {
    let lines: Vec<&str> = trace.lines().collect();
    let written = lines.iter().position(|line| line.contains("pwrite64(") && line.contains(value));
    let written = written.ok_or("its bytes were never written to a file")?;
    let written = completion(&lines, written);
    let answered = (written..lines.len()).find(|at| lines[*at].contains("HTTP/1.1 200"));
    let answered = answered.ok_or("no answer followed")?;
    let synced = (written..answered).any(|at| {
        let starts = lines[at].contains("fdatasync(") || lines[at].contains(" fsync(");
        starts
            && completion(&lines, at) < answered
            && lines[completion(&lines, at)].trim_end().ends_with("= 0")
    });
    if synced {
        Ok(())
    } else {
        Err("it was acknowledged before a sync of its bytes had completed".to_owned())
    }
}

/// The line at which the call that starts here returns.
fn completion(lines: &[&str], at: usize) -> usize {
    if !lines[at].trim_end().ends_with("<unfinished ...>") {
        return at;
    }
    let thread = lines[at].split_whitespace().next().unwrap_or_default();
    let resumed = |line: &&&str| line.split_whitespace().next() == Some(thread) && line.contains("resumed>");
    lines.iter().skip(at + 1).position(|line| resumed(&line)).map_or(usize::MAX, |found| at + 1 + found)
}
