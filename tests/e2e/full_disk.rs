//! A disk that is full for a while, played by a limit on the size of files (RLIMIT_FSIZE): the engine refuses writes and
//! reports it, loses nothing, and takes writes again by itself once there is room. The signal that comes with that limit
//! (SIGXFSZ) ends no node.

use std::{path::Path, process::Stdio, time::Duration};

use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::harness::{Reaped, ensure, eventually, free_port, runs, runtime, signal, waypost};

pub fn trials() -> Vec<Trial> {
    vec![Trial::test("full_disk::the_engine_refuses_writes_and_recovers_by_itself", engine)]
}

const PATIENCE: Duration = Duration::from_secs(30);

struct Node {
    process: Reaped,
    face: String,
    admin: String,
}

impl Node {
    fn start(config: &Path, face: u16, admin: u16) -> Result<Self, Failed> {
        let mut command = waypost();
        command.arg("run").arg("--config").arg(config).arg("--die-with-parent");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Reaped(command.spawn()?);
        let [face, admin] = [face, admin].map(|port| format!("http://127.0.0.1:{port}"));
        let node = Self { process, face, admin };
        eventually("the admin API", PATIENCE, || {
            node.get(&format!("{}/livez", node.admin)).is_some_and(|(status, _)| status == 200)
        })?;
        Ok(node)
    }

    /// The largest file it may write; none: there is no limit.
    fn limit(&self, largest: Option<u64>) -> Result<(), Failed> {
        let pid = i32::try_from(self.process.0.id()).ok().and_then(Pid::from_raw);
        prlimit(pid, Resource::Fsize, Rlimit { current: largest, maximum: None })?;
        Ok(())
    }

    fn get(&self, url: &str) -> Option<(u16, String)> {
        runtime().block_on(async {
            let answer = reqwest::get(url).await.ok()?;
            Some((answer.status().as_u16(), answer.text().await.ok()?))
        })
    }

    fn put(&self, key: &str, value: &str) -> u16 {
        let url = format!("{}/v1/kv/{key}", self.face);
        runtime().block_on(async {
            let put = reqwest::Client::new().put(url).body(value.to_owned()).send().await;
            put.map_or(0, |answer| answer.status().as_u16())
        })
    }

    fn value(&self, key: &str) -> Option<String> {
        let (status, text) = self.get(&format!("{}/v1/kv/{key}?raw", self.face))?;
        (status == 200).then_some(text)
    }

    fn is_well(&self) -> bool {
        self.get(&format!("{}/readyz?strict", self.admin)).is_some_and(|(status, _)| status == 200)
    }

    fn problems(&self) -> String {
        self.get(&format!("{}/v1/status", self.admin)).map(|(_, text)| text).unwrap_or_default()
    }
}

fn engine() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (face, admin) = (free_port(), free_port());
    let (config, site) = (folder.path().join("node.toml"), folder.path().join("site.yaml"));
    let (data, log) = (folder.path().join("data"), folder.path().join("waypost.log"));
    std::fs::write(
        &config,
        format!(
            "node = \"n\"\nsite = \"bj\"\ndata_dir = {data:?}\n[store]\nengine = \"embedded\"\n\
             http = \"127.0.0.1:{face}\"\n[control]\nlisten = \"127.0.0.1:{admin}\"\n\
             [telemetry]\nlog_file = {log:?}\n"
        ),
    )?;
    let mut node = Node::start(&config, face, admin)?;
    std::fs::write(&site, "kind: Site\nname: bj\n")?;
    let applied = waypost().args(["apply", "-f"]).arg(&site).args(["--server", &node.admin]).output()?;
    ensure(applied.status.success(), || String::from_utf8_lossy(&applied.stderr).into_owned())?;
    eventually("a node without doubts", PATIENCE, || node.is_well())?;
    ensure(node.put("kept", "before") == 200, || "the first write".to_owned())?;
    for round in 0..2 {
        node.limit(Some(0))?;
        eventually("a refused write", PATIENCE, || node.put("refused", "x") == 500)?;
        ensure(node.put("kept", "after") == 500, || "a write on a full disk".to_owned())?;
        let before = if round == 0 { "before" } else { "again" };
        ensure(node.value("kept").as_deref() == Some(before), || "what was acknowledged is read".to_owned())?;
        eventually("doubts", PATIENCE, || !node.is_well())?;
        eventually("the problem in the status", PATIENCE, || node.problems().contains("engine_refuses"))?;
        ensure(runs(node.process.0.id()), || "the node ended".to_owned())?;
        node.limit(None)?;
        eventually("a write that is taken", PATIENCE, || node.put("kept", "again") == 200)?;
        ensure(node.value("refused").is_none(), || "a refused write is there".to_owned())?;
        eventually("a node without doubts", PATIENCE, || node.is_well())?;
    }
    let text = std::fs::read_to_string(&log)?;
    ensure(text.contains("the engine accepts writes again"), || text.clone())?;
    signal(node.process.0.id(), Signal::KILL);
    node.process.0.wait()?;
    let node = Node::start(&config, face, admin)?;
    eventually("a node without doubts after a restart", PATIENCE, || node.is_well())?;
    ensure(node.value("kept").as_deref() == Some("again"), || "the last write is lost".to_owned())?;
    ensure(node.value("refused").is_none(), || "a refused write is there after a restart".to_owned())
}
