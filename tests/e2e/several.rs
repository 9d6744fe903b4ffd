//! Commands with several `--server`: every control gets the request, each answer is reported, and a failure at one does not
//! undo the change at the others.

use std::{path::PathBuf, process::Output, time::Duration};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::harness::{Reaped, ensure, eventually, free_port, waypost};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("several::documents_go_to_every_server", documents),
        Trial::test("several::a_server_that_is_away_holds_back_no_other", away),
        Trial::test("several::uuids_that_differ_are_refused_with_the_line_to_write", uuids),
        Trial::test("several::a_token_is_one_secret_everywhere", token),
        Trial::test("several::colours_are_switched_to_the_same_everywhere", colours),
        Trial::test("several::commands_for_one_server_refuse_several", one_only),
    ]
}

const WORLD: &str = "\
kind: Site
name: bj
---
kind: Site
name: sh
---
kind: Zone
name: example.com
nameservers: [{ name: ns1, a: [192.0.2.53] }]
---
kind: Cluster
name: main
zone: example.com
gateway_domain: gw.example.com
gateways: { bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }
---
kind: Domain
name: gw.example.com
cluster: main
policy: { type: blue_green, active: blue, blue: [bj], green: [sh] }
---
kind: Service
name: web
cluster: main
consul: { service: web }
hosts: [web.example.com]
";
/// `python3 -c 'import uuid; print(uuid.uuid5(uuid.NAMESPACE_DNS, "web.example.com"))'`
const UUID: &str = "4ca800b9-8516-5383-a8ed-63aef4ad818f";

/// Two sites' controls, each over an engine of its own.
struct Two {
    folder: TempDir,
    servers: [String; 2],
    processes: Vec<Option<Reaped>>,
}

impl Two {
    fn start() -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let servers = [free_port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let mut two = Self { folder, servers, processes: Vec::new() };
        for number in 0..2 {
            let process = two.node(number)?;
            two.processes.push(Some(process));
        }
        for server in &two.servers {
            eventually("control", Duration::from_secs(30), || {
                two.at(&[server], &["get", "site"]).status.success()
            })?;
        }
        std::fs::write(two.file(), WORLD)?;
        Ok(two)
    }

    fn node(&self, number: usize) -> Result<Reaped, Failed> {
        let path = |name: &str| self.folder.path().join(format!("{name}-{number}"));
        let listen = self.servers[number].trim_start_matches("http://");
        let text = format!(
            "node = \"n{number}\"\nsite = \"s{number}\"\ndata_dir = \"{}\"\n[store]\nengine = \"embedded\"\n\
             [control]\nlisten = \"{listen}\"\n",
            path("data").display()
        );
        std::fs::write(path("node"), text)?;
        let mut command = waypost();
        command.args(["run", "--config"]).arg(path("node"));
        Ok(Reaped(command.stderr(std::fs::File::create(path("log"))?).spawn()?))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("world.yaml")
    }

    fn at(&self, servers: &[&str], arguments: &[&str]) -> Output {
        let mut command = waypost();
        command.args(arguments);
        for server in servers {
            command.args(["--server", server]);
        }
        command.output().unwrap()
    }

    fn both(&self, arguments: &[&str]) -> Output {
        self.at(&[&self.servers[0], &self.servers[1]], arguments)
    }

    fn apply(&self) -> Output {
        self.both(&["apply", "-f", self.file().to_str().unwrap()])
    }

    fn document(&self, number: usize, kind: &str, name: &str) -> String {
        text(&self.at(&[&self.servers[number]], &["get", kind, name]))
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn exits(output: &Output, code: i32) -> Result<String, Failed> {
    let printed = text(output);
    ensure(output.status.code() == Some(code), || format!("{} instead of {code}: {printed}", output.status))?;
    Ok(printed)
}

fn documents() -> Result<(), Failed> {
    let two = Two::start()?;
    let printed = exits(&two.apply(), 0)?;
    for server in &two.servers {
        ensure(printed.lines().any(|line| line == server), || format!("no line {server}: {printed}"))?;
    }
    ensure(printed.matches("+ Service web").count() == 2 && printed.matches(UUID).count() == 2, || {
        printed.clone()
    })?;
    for number in 0..2 {
        let document = two.document(number, "service", "web");
        ensure(document.contains(&format!("uuid: {UUID}")), || document.clone())?;
    }
    ensure(exits(&two.apply(), 0)?.matches("unchanged").count() == 2, || "again".to_owned())?;
    let order =
        ["override", "set", "work", "--site", "bj", "--state", "drain", "--owner", "ops", "--reason", "x"];
    exits(&two.both(&order), 0)?;
    let printed = exits(&two.both(&["override", "list"]), 0)?;
    ensure(printed.matches("# Override work").count() == 2, || printed.clone())?;
    ensure(two.servers.iter().all(|it| printed.lines().any(|line| line == it)), || printed.clone())?;
    let listed = exits(&two.both(&["override", "clear", "work", "--json"]), 0)?;
    let listed: Value = serde_json::from_str(&listed)?;
    for (number, server) in two.servers.iter().enumerate() {
        let one = &listed[number];
        ensure(one["server"] == server.as_str() && one["result"]["generation"]["number"] == 1, || {
            one.to_string()
        })?;
    }
    exits(&two.at(&[&two.servers[0]], &["delete", "service", "web"]), 0)?;
    let printed = exits(&two.both(&["delete", "service", "web"]), 0)?;
    ensure(printed.contains("there is no Service web") && printed.contains("- Service web"), || {
        printed.clone()
    })?;
    exits(&two.both(&["delete", "service", "web"]), 1)?;
    ensure(two.document(1, "service", "web").contains("no Service web"), || "it is still there".to_owned())
}

fn away() -> Result<(), Failed> {
    let mut two = Two::start()?;
    two.processes[0] = None;
    let printed = exits(&two.apply(), 1)?;
    ensure(printed.contains("+ Service web") && printed.contains("does not answer"), || printed.clone())?;
    ensure(printed.contains("1 of 2 servers failed"), || printed.clone())?;
    ensure(two.document(1, "site", "bj").contains("name: bj"), || {
        "the other one did not get the documents".to_owned()
    })?;
    let printed = two.both(&["override", "clear", "nothing", "--json"]);
    ensure(printed.status.code() == Some(1), || format!("{}", printed.status))?;
    let failure: Value = serde_json::from_slice(&printed.stderr)?;
    ensure(failure["exit"] == 1 && failure["error"].is_string(), || failure.to_string())?;
    let printed: Value = serde_json::from_slice(&printed.stdout)?;
    ensure(printed[0]["error"].as_str().is_some_and(|it| it.contains("does not answer")), || {
        printed.to_string()
    })?;
    ensure(printed[1]["result"].is_null() && printed[1]["error"].is_null(), || printed.to_string())?;
    // The exit code for a wrong file needs the answer of all servers.
    let wrong = two.folder.path().join("wrong.yaml");
    std::fs::write(&wrong, "kind: Site\nname: gz\ncolour: red\n")?;
    exits(&two.both(&["apply", "-f", wrong.to_str().unwrap()]), 1)?;
    // Running the command again completes the change.
    two.processes[0] = Some(two.node(0)?);
    eventually("the first one's return", Duration::from_secs(30), || two.apply().status.success())?;
    ensure(two.document(0, "service", "web") == two.document(1, "service", "web"), || {
        "they differ".to_owned()
    })?;
    exits(&two.both(&["apply", "-f", wrong.to_str().unwrap()]), 2)?;
    exits(&two.both(&["token", "create", "v", "--role", "vantage"]), 2)?;
    exits(&two.at(&[&two.servers[0]], &["token", "create", "v", "--role", "vantage"]), 2).map(drop)
}

fn uuids() -> Result<(), Failed> {
    let two = Two::start()?;
    exits(&two.apply(), 0)?;
    // As an older version left it: one site has a UUID that was drawn.
    let drawn = "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10";
    let other = two.folder.path().join("drawn.yaml");
    std::fs::write(&other, format!("{WORLD}uuid: {drawn}\n"))?;
    exits(&two.at(&[&two.servers[1]], &["apply", "-f", other.to_str().unwrap()]), 0)?;
    let more = format!("{WORLD}---\nkind: Site\nname: gz\n");
    std::fs::write(two.file(), &more)?;
    let printed = exits(&two.apply(), 1)?;
    ensure(printed.lines().any(|line| line == format!("uuid: {UUID}")), || printed.clone())?;
    ensure(printed.contains(drawn) && two.servers.iter().all(|it| printed.contains(it)), || printed.clone())?;
    for number in 0..2 {
        let site = two.document(number, "site", "gz");
        ensure(site.contains("no Site gz"), || format!("something was written: {site}"))?;
    }
    std::fs::write(
        two.file(),
        more.replace("hosts: [web.example.com]\n", &format!("hosts: [web.example.com]\nuuid: {UUID}\n")),
    )?;
    exits(&two.apply(), 0)?;
    // Without the line it is kept.
    std::fs::write(two.file(), &more)?;
    exits(&two.apply(), 0)?;
    ensure(two.document(1, "service", "web").contains(UUID), || "it was not kept".to_owned())?;
    // Stored at one and new at the other is a difference, too.
    exits(&two.at(&[&two.servers[0]], &["delete", "service", "web"]), 0)?;
    exits(&two.at(&[&two.servers[1]], &["apply", "-f", other.to_str().unwrap()]), 0)?;
    let printed = exits(&two.apply(), 1)?;
    ensure(printed.lines().any(|line| line == format!("uuid: {drawn}")), || printed.clone())
}

fn token() -> Result<(), Failed> {
    let mut two = Two::start()?;
    let made = two.both(&["token", "create", "probe", "--role", "reader"]);
    let secret = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    ensure(made.status.success() && secret.len() == 64, || text(&made))?;
    let digest: String = Sha256::digest(&secret).iter().map(|byte| format!("{byte:02x}")).collect();
    for number in 0..2 {
        let document = two.document(number, "token", "probe");
        ensure(document.contains(&digest), || format!("not this secret: {document}"))?;
    }
    exits(&two.both(&["token", "delete", "probe"]), 0)?;
    let made = exits(&two.both(&["token", "create", "probe", "--role", "reader", "--json"]), 0)?;
    let made: Value = serde_json::from_str(&made)?;
    ensure(made["secret"].as_str().is_some_and(|it| it.len() == 64), || made.to_string())?;
    ensure(made["servers"].as_array().is_some_and(|it| it.len() == 2), || made.to_string())?;
    let listed = exits(&two.both(&["token", "list"]), 0)?;
    ensure(listed.matches("# Token probe").count() == 2, || listed.clone())?;

    // One is away. Run again, the same command would give it another secret than the first one has.
    let create = ["token", "create", "late", "--role", "reader"];
    two.processes[0] = None;
    let printed = exits(&two.both(&create), 1)?;
    ensure(printed.contains("--replace"), || printed.clone())?;
    two.processes[0] = Some(two.node(0)?);
    let listed = |two: &Two| two.at(&[&two.servers[0]], &["token", "list"]).status.success();
    eventually("the first one's return", Duration::from_secs(30), || listed(&two))?;
    let again = two.both(&create);
    let printed = exits(&again, 1)?;
    ensure(
        again.stdout.is_empty() && printed.contains(&two.servers[1]) && printed.contains("--replace"),
        || printed,
    )?;
    let document = two.document(0, "token", "late");
    ensure(document.contains("no Token late"), || format!("a second secret: {document}"))?;
    exits(&two.both(&[&create[..], &["--replace"]].concat()), 0)?;
    let digest = |number| {
        let text = two.document(number, "token", "late");
        text.lines().find(|line| line.contains("secret_sha256")).map(str::to_owned)
    };
    ensure(digest(0).is_some() && digest(0) == digest(1), || format!("{:?}, {:?}", digest(0), digest(1)))
}

fn colours() -> Result<(), Failed> {
    let mut two = Two::start()?;
    exits(&two.apply(), 0)?;
    let name = "gw.example.com";
    // A switch lies over the document, which stays blue.
    let green = |two: &Two, number: usize| {
        let status = two.at(&[&two.servers[number]], &["status", name, "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        status["switches"][0]["active"] == "green"
    };
    let active = |two: &Two| [0, 1].map(|number| green(two, number));
    exits(&two.both(&["switch", name]), 0)?;
    ensure(active(&two) == [true, true], || format!("{:?}", active(&two)))?;
    // One is away. Without a colour the same command, run again, would switch the other one to and fro.
    two.processes[0] = None;
    for _ in 0..2 {
        let printed = exits(&two.both(&["switch", name]), 1)?;
        ensure(printed.contains("does not answer") && printed.contains("--to"), || printed.clone())?;
        ensure(active(&two) == [false, true], || format!("{:?}", active(&two)))?;
    }
    for _ in 0..2 {
        exits(&two.both(&["switch", name, "--to", "blue"]), 1)?;
        ensure(!active(&two)[1], || format!("{:?}", active(&two)))?;
    }
    // It comes back green; each would switch to the colour that it does not use.
    two.processes[0] = Some(two.node(0)?);
    let differ = |two: &Two| text(&two.both(&["switch", name])).contains("--to");
    eventually("the first one's return", Duration::from_secs(30), || differ(&two))?;
    ensure(active(&two) == [true, false], || format!("{:?}", active(&two)))?;
    exits(&two.both(&["switch", name, "--to", "blue"]), 0)?;
    ensure(active(&two) == [false, false], || format!("{:?}", active(&two)))?;
    let printed = exits(&two.both(&["switch", "nothing.example.com"]), 1)?;
    ensure(printed.matches("no Domain nothing.example.com").count() >= 2, || printed.clone())
}

fn one_only() -> Result<(), Failed> {
    let servers = ["http://127.0.0.1:1", "http://127.0.0.1:2"];
    for arguments in [
        &["status"][..],
        &["get", "site"],
        &["export"],
        &["audit"],
        &["token", "bootstrap", "--out", "/nowhere"],
    ] {
        let mut command = waypost();
        let output = command.args(arguments).env("WAYPOST_SERVER", servers.join(",")).output()?;
        let printed = exits(&output, 2)?;
        ensure(printed.contains("takes one server, and 2 are given"), || printed.clone())?;
    }
    let twice =
        waypost().args(["delete", "site", "bj", "--server", servers[0], "--server", servers[0]]).output()?;
    ensure(exits(&twice, 2)?.contains("duplicate address"), || text(&twice))
}
