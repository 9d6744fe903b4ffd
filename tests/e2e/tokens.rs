//! A running cluster without tokens gets them by the steps of `docs/tokens.md`: no node is locked out, DNS answers go on
//! changing, and nothing is restarted. And the recovery of a lost operator's token.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use crate::{
    components::Components,
    harness::{Backing, Demo, ensure, eventually, run},
};

pub fn trials(components: &Components) -> Vec<Trial> {
    let on_consul = |consul| on_consul(&Backing::Consul(consul));
    vec![
        Trial::test(
            "tokens::a_running_cluster_gets_tokens_and_no_node_is_locked_out",
            on_the_embedded_engine,
        ),
        components.needs_consul("tokens::on_a_consul_they_guard_the_admin_api_alone".to_owned(), on_consul),
    ]
}

const SOON: Duration = Duration::from_secs(60);

/// A demo, and where tokens are made.
struct Cluster {
    demo: Demo,
    made: TempDir,
}

fn printed(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}: {}{}", output.status, text(&output.stdout), text(&output.stderr))
}

impl Cluster {
    fn start(backing: &Backing) -> Result<Self, Failed> {
        Ok(Self { demo: Demo::start(backing)?, made: tempfile::tempdir()? })
    }

    fn made(&self, name: &str) -> PathBuf {
        self.made.path().join("tokens").join(name)
    }

    /// Where the demo's processes look for their tokens.
    fn used(&self) -> PathBuf {
        self.demo.tokens()
    }

    fn succeeds(&self, arguments: &[&str]) -> Result<String, Failed> {
        let output = self.demo.cli(arguments);
        ensure(output.status.success(), || format!("{arguments:?}: {}", printed(&output)))?;
        Ok(printed(&output))
    }

    fn fails(&self, arguments: &[&str], needles: &[&str]) -> Result<(), Failed> {
        let output = self.demo.cli(arguments);
        let printed = printed(&output);
        ensure(output.status.code() == Some(1), || format!("{arguments:?}: {printed}"))?;
        for needle in needles {
            ensure(printed.contains(needle), || format!("{arguments:?}: no {needle:?} in {printed}"))?;
        }
        Ok(())
    }

    /// Every way to a first operator's token is refused, by the names of those it would lock out.
    fn no_first_operator(&self, named: &[&str]) -> Result<(), Failed> {
        let needles = [named, &["waypost token bootstrap --out DIR"]].concat();
        self.fails(&["token", "create", "ops", "--role", "operator"], &needles)?;
        let document =
            format!("kind: Token\nname: ops\nrole: operator\nsecret_sha256: {}\n", "ab".repeat(32));
        let file = self.made.path().join("ops.yaml");
        std::fs::write(&file, &document)?;
        self.fails(&["apply", "-f", file.to_str().unwrap()], &needles)?;
        let backup = self.made.path().join("backup.yaml");
        self.succeeds(&["backup", "-o", backup.to_str().unwrap()])?;
        let text = std::fs::read_to_string(&backup)?;
        std::fs::write(&backup, format!("{text}---\n{document}"))?;
        self.fails(&["restore", backup.to_str().unwrap()], &needles)
    }

    fn bootstrap(&self) -> Result<(), Failed> {
        let out = self.made.path().join("tokens");
        let printed = self.succeeds(&["token", "bootstrap", "--out", out.to_str().unwrap()])?;
        ensure(printed.contains("not in force yet"), || printed)?;
        for entry in std::fs::read_dir(&out)?.flatten() {
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            ensure(mode == 0o600, || format!("{}: {mode:o}", entry.path().display()))?;
        }
        let before = std::fs::read(self.made("operator.token"))?;
        self.succeeds(&["token", "bootstrap", "--out", out.to_str().unwrap()])?;
        ensure(std::fs::read(self.made("operator.token"))? == before, || "written over".to_owned())
    }

    /// Copies each file to its node, as an operator does.
    fn hand_out(&self, wanted: impl Fn(&str) -> bool) -> Result<(), Failed> {
        std::fs::create_dir_all(self.used())?;
        for entry in std::fs::read_dir(self.made.path().join("tokens"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if wanted(&name) && name != "operator.token" {
                std::fs::copy(entry.path(), self.used().join(name))?;
            }
        }
        Ok(())
    }

    fn waits_for(&self, waiting: &str) -> Result<(), Failed> {
        let mut last = String::new();
        let seen = eventually(&format!("waiting for {waiting} alone"), SOON, || {
            last = printed(&self.demo.cli(&["token", "list"]));
            last.contains(&format!("with a token: {waiting}\n"))
        });
        seen.map(drop).map_err(|error| format!("{}: {last}", error.message().unwrap_or_default()).into())
    }

    fn restart(&mut self, role: &str) -> Result<(), Failed> {
        let process = self.demo.process(role);
        self.demo.kill(process.pid);
        self.demo.restart(&process);
        let process = self.demo.process(role);
        ensure(process.pid != 0, || format!("{role} did not start"))
    }

    fn needs_a_token(&self) -> Result<(), Failed> {
        let mut last = String::new();
        let seen = eventually("the operator's token in force", SOON, || {
            last = printed(&self.demo.cli(&["status"]));
            last.contains("this needs a token")
        });
        let last_words = || Demo::last_words(&self.demo.process("control"));
        seen.map(drop).map_err(|_| format!("not in force: {last}\n{}", last_words()).into())
    }

    /// With a token both sites are whole: every node sends heartbeats and every vantage is fresh.
    fn is_whole(&self, token: &Path) -> Result<(), Failed> {
        self.demo.layout.sites.iter().try_for_each(|site| Self::site_is_whole(&site.admin, token))
    }

    fn site_is_whole(control: &str, token: &Path) -> Result<(), Failed> {
        let mut last = String::new();
        let seen = eventually("a report of every node and vantage", SOON, || {
            let arguments =
                ["status", "--json", "--server", control, "--token-file", token.to_str().unwrap()];
            let output = run(&arguments);
            last = printed(&output);
            let Ok(status) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
                return false;
            };
            let all = |list: &str, field: &str, wanted: bool| {
                let list = status[list].as_array().cloned().unwrap_or_default();
                !list.is_empty() && list.iter().all(|it| it[field] == wanted)
            };
            all("nodes", "lost", false) && all("vantages", "fresh", true)
        });
        seen.map(drop).map_err(|_| format!("not whole: {last}").into())
    }
}

const EVERYBODY: &[&str] = &[
    "node/control-bj",
    "node/control-sh",
    "node/dns-bj",
    "node/dns-sh",
    "node/gateway-bj",
    "node/gateway-sh",
    "vantage/bj-inside",
    "vantage/gz-telecom",
    "vantage/sh-inside",
];

fn on_the_embedded_engine() -> Result<(), Failed> {
    let mut cluster = Cluster::start(&Backing::Embedded)?;
    cluster.no_first_operator(EVERYBODY)?;
    let unharmed = cluster.succeeds(&["token", "list"])?;
    ensure(!unharmed.contains("operator"), || unharmed.clone())?;
    cluster.bootstrap()?;
    cluster.hand_out(|name| !name.contains("gz-telecom"))?;
    cluster.waits_for("vantage/gz-telecom")?;
    // Still no request is refused, and what is waited for survives a restart of control.
    cluster.restart("control")?;
    cluster.waits_for("vantage/gz-telecom")?;
    let status = cluster.succeeds(&["status"])?;
    ensure(status.contains("BOOTSTRAP") && status.contains("vantage/gz-telecom"), || status.clone())?;
    let near = cluster.demo.near().ip();
    ensure(cluster.demo.answers(near), || "DNS does not answer the near site".to_owned())?;
    cluster.hand_out(|_| true)?;
    cluster.needs_a_token()?;
    let operator = cluster.made("operator.token");
    cluster.is_whole(&operator)?;
    moves_on(&mut cluster, &operator)?;
    reset(&mut cluster, &operator)
}

/// The cluster does its work: an answer moves when a gateway dies, and instances are still registered.
fn moves_on(cluster: &mut Cluster, operator: &Path) -> Result<(), Failed> {
    let gateway = cluster.demo.gateway_process(0);
    cluster.demo.kill(gateway.pid);
    let far = cluster.demo.far();
    eventually("the answer of the far site", SOON, || cluster.demo.answers(far.ip()))?;
    // Longer than the back ends' TTL: an instance that could not renew would be critical by now.
    std::thread::sleep(Duration::from_secs(7));
    cluster.demo.get(far)?;
    let url = format!("{}/v1/health/service/orders?passing", cluster.demo.layout.engine);
    let secret = std::fs::read_to_string(operator)?;
    let passing = |token: Option<&str>| {
        cluster.demo.block_on(async {
            let mut request = reqwest::Client::new().get(&url);
            if let Some(token) = token {
                request = request.header("X-Consul-Token", token);
            }
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            let text = answer.text().await?;
            let listed: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
            Ok::<_, Failed>((status, listed.len()))
        })
    };
    let (with, without) = (passing(Some(secret.trim()))?, passing(None)?);
    ensure(with == (200, 3) && without.0 == 403, || format!("with a token {with:?}, without {without:?}"))?;
    let token = ["--token-file", operator.to_str().unwrap()];
    cluster.fails(&[&["token", "delete", "operator"], &token[..]].concat(), &["last operator's token"])?;
    cluster.fails(
        &[&["token", "delete", "node-dns-bj"], &token[..]].concat(),
        &["node/dns-bj (token node-dns-bj)"],
    )?;
    cluster.demo.restart(&gateway);
    Ok(())
}

/// The operator's token is lost: a new one, and then none.
fn reset(cluster: &mut Cluster, lost: &Path) -> Result<(), Failed> {
    let engine = cluster.demo.process("engine");
    let config = engine.config.to_str().unwrap().to_owned();
    let new = cluster.made("new.token");
    let arguments = ["token", "reset", "--config", &config, "--out", new.to_str().unwrap()];
    let running = run(&arguments);
    ensure(
        running.status.code() == Some(1) && printed(&running).contains("in use by another process"),
        || printed(&running),
    )?;
    ensure(!new.exists(), || "a secret was left behind".to_owned())?;
    cluster.demo.kill(engine.pid);
    let done = run(&arguments);
    ensure(done.status.success() && printed(&done).contains("ended: operator"), || printed(&done))?;
    cluster.demo.restart(&engine);
    cluster.is_whole(&new)?;
    let old = ["status", "--token-file", lost.to_str().unwrap()];
    eventually("the end of the lost token", SOON, || {
        printed(&cluster.demo.cli(&old)).contains("no such token")
    })?;
    let engine = cluster.demo.process("engine");
    cluster.demo.kill(engine.pid);
    let done = run(&["token", "reset", "--config", &config]);
    ensure(done.status.success(), || printed(&done))?;
    cluster.demo.restart(&engine);
    eventually("requests without a token", SOON, || cluster.demo.cli(&["status"]).status.success()).map(drop)
}

/// On a real Consul its own ACLs guard the nodes' keys: only vantages wait.
fn on_consul(backing: &Backing) -> Result<(), Failed> {
    let cluster = Cluster::start(backing)?;
    cluster.no_first_operator(&["by it: vantage/bj-inside, vantage/gz-telecom, vantage/sh-inside."])?;
    cluster.bootstrap()?;
    ensure(!cluster.made("node-dns-bj.token").exists(), || "a node was given a token".to_owned())?;
    cluster.hand_out(|_| true)?;
    cluster.needs_a_token()?;
    cluster.is_whole(&cluster.made("operator.token"))?;
    let url = cluster.demo.layout.engine.clone();
    let new = cluster.made("new.token");
    let done = run(&["token", "reset", "--consul", &url, "--out", new.to_str().unwrap()]);
    ensure(done.status.success(), || printed(&done))?;
    cluster.is_whole(&new)?;
    let done = run(&["token", "reset", "--consul", &url]);
    ensure(done.status.success(), || printed(&done))?;
    eventually("requests without a token", SOON, || cluster.demo.cli(&["status"]).status.success()).map(drop)
}
