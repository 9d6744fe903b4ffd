//! What an operator and a monitoring system read: status in words, exit codes, and the past.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Backing, Demo, Reaped, ensure, eventually, run, runs, signal, waypost};

const PATIENCE: Duration = Duration::from_secs(60);
/// Without a listener.
const NOWHERE: &str = "http://127.0.0.1:1";

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("status::every_command_has_the_same_exit_codes", exit_codes),
        Trial::test("status::failures_are_one_line_of_json", json_failures),
        Trial::test("status::files_without_documents_are_refused", silent_files),
        Trial::test("status::check_narrow_and_watch", check_and_watch),
        Trial::test("status::values_are_shown_and_documents_are_json", values),
        Trial::test("status::an_override_of_the_past_is_refused", past_override),
        Trial::test("status::a_simulated_end_of_every_site_is_reported", all_dead),
        Trial::test("status::times_are_rfc_3339", times),
    ]
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn exits(arguments: &[&str], code: i32) -> Result<Output, Failed> {
    let output = run(arguments);
    ensure(output.status.code() == Some(code), || {
        format!("{arguments:?}: {:?}, not {code}: {}{}", output.status, stdout(&output), stderr(&output))
    })?;
    Ok(output)
}

fn answers(demo: &Demo, arguments: &[&str], code: i32) -> Result<Output, Failed> {
    exits(&[arguments, &["--server", &demo.layout.admin]].concat(), code)
}

fn status(demo: &Demo, arguments: &[&str]) -> String {
    stdout(&demo.cli(&[&["status"], arguments].concat()))
}

fn json(demo: &Demo, arguments: &[&str]) -> Result<Value, Failed> {
    let output = answers(demo, &[arguments, &["--json"]].concat(), 0)?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{arguments:?} printed {}: {error}", stdout(&output)).into())
}

/// Waits until the status has a text.
fn shows(demo: &Demo, needle: &str) -> Result<(), Failed> {
    let printed = eventually(needle, PATIENCE, || status(demo, &[]).contains(needle));
    printed.map(drop).map_err(|_| format!("no {needle:?} in:\n{}", status(demo, &[])).into())
}

/// Waits until the status at a control has a text.
fn shows_at(control: &str, needle: &str) -> Result<(), Failed> {
    let status = || stdout(&run(&["status", "--server", control]));
    let printed = eventually(needle, PATIENCE, || status().contains(needle));
    printed.map(drop).map_err(|_| format!("no {needle:?} in:\n{}", status()).into())
}

/// A folder with a right file, a wrong one, one without a document, and a right one with other values.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("right.yaml", "kind: Site\nname: gz\n");
    write("wrong.yaml", "kind: Site\nname: gz\ncolour: red\n");
    write("empty.yaml", "# nothing yet\n");
    write("empty", "");
    write("no-ca.pem", "no certificate\n");
    write("folder/notes.txt", "nothing to apply\n");
    write("mixed/node.toml", "node = \"n\"\n");
    write("mixed/example.com.zone", "@ SOA\n");
    write("example.com.zone", "@ SOA\n");
    folder
}

fn exit_codes() -> Result<(), Failed> {
    let folder = files();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (right, wrong, missing) = (path("right.yaml"), path("wrong.yaml"), path("missing"));
    let output = path("backup");
    // A right command without an answer.
    let unreachable: &[&[&str]] = &[
        &["apply", "-f", &right],
        &["get", "site"],
        &["get", "site", "bj"],
        &["delete", "site", "bj"],
        &["export"],
        &["status"],
        &["explain", "a.example.com"],
        &["simulate", "--kill-site", "bj"],
        &["switch", "a.example.com"],
        &["drain", "list"],
        &["drain", "show", "x"],
        &["drain", "cancel", "x"],
        &["drain", "instance", "web", "web-1"],
        &["override", "list"],
        &["override", "clear", "x"],
        &["override", "set", "x", "--state", "up", "--owner", "o", "--reason", "r"],
        &["token", "list"],
        &["token", "delete", "x"],
        &["audit"],
        &["backup", "-o", &output],
        &["restore", &right],
    ];
    for arguments in unreachable {
        let printed = exits(&[arguments, &["--server", NOWHERE][..]].concat(), 1)?;
        ensure(stderr(&printed).contains("127.0.0.1:1"), || format!("{arguments:?}: {}", stderr(&printed)))?;
    }
    exits(&["diff", "-f", &right, "--server", NOWHERE], 2)?;
    let printed = exits(&["status", "--check", "--server", NOWHERE], 2)?;
    let line = stdout(&printed);
    ensure(line.starts_with("UNKNOWN: ") && line.lines().count() == 1, || line.clone())?;
    // Wrong use, and files that are missing or wrong, are found before a request is sent.
    let wrongly: &[&[&str]] = &[
        &[],
        &["fly"],
        &["status", "--colour"],
        &["status", "--check", "--watch"],
        &["get", "nonsense"],
        &["explain"],
        &["demo", "--consul", "nonsense"],
        &["explain", "a.example.com", "--client", "nobody"],
        &["explain", "a.example.com", "--at", "yesterday"],
        &["override", "set", "x", "--state", "sideways", "--owner", "o", "--reason", "r"],
        &["override", "set", "x", "--state", "up", "--owner", "o", "--reason", "r", "--expires", "soon"],
        &["drain", "instance", "web", "web-1", "--lease", "long"],
        &["switch", "a.example.com", "--to", "red"],
        &["token", "create", "x", "--role", "king"],
        &["apply"],
        &["apply", "-f", &missing],
        &["apply", "-f", &path("folder")],
        &["diff", "-f", &missing],
        &["restore", &missing],
        &["run", "--config", &missing],
        &["check", &missing],
        &["check", &wrong],
        &["check", &path("example.com.zone")],
        &["check", &path("mixed")],
        &["import", "zone", &missing, "--origin", "example.com"],
        &["import", "zone", &path("example.com.zone"), "--origin", "example.com"],
        &["import", "zone", &path("example.com.zone"), "--origin", "a b"],
        &["get", "site", "--token-file", &missing],
        &["get", "site", "--token-file", &path("empty")],
        &["get", "site", "--ca-file", &missing],
        &["get", "site", "--ca-file", &path("no-ca.pem")],
        &["get", "site", "--server", "nonsense"],
    ];
    for arguments in wrongly {
        exits(arguments, 2)?;
    }
    exits(&["check", &right], 0)?;
    exits(&["--version"], 0)?;
    exits(&["status", "--help"], 0).map(drop)
}

fn json_failures() -> Result<(), Failed> {
    let folder = files();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let shape = |output: &Output, exit: i64| -> Result<Value, Failed> {
        let printed = stderr(output);
        let value: Value = serde_json::from_str(&printed).map_err(|error| format!("{printed:?}: {error}"))?;
        ensure(value["error"].is_string() && value["exit"] == exit, || printed.clone())?;
        Ok(value)
    };
    shape(&exits(&["status", "--json", "--server", NOWHERE], 1)?, 1)?;
    shape(&exits(&["status", "--json", "--colour"], 2)?, 2)?;
    shape(&exits(&["restore", &path("missing"), "--json"], 2)?, 2)?;
    shape(&exits(&["run", "--config", &path("missing"), "--json"], 2)?, 2)?;
    for command in [&["run"][..], &["token", "reset"]] {
        let config = path("mixed/node.toml");
        let found = exits(&[command, &["--config", &config, "--json"]].concat(), 2)?;
        let value = shape(&found, 2)?;
        let mistakes = value["mistakes"].as_array().cloned().unwrap_or_default();
        ensure(mistakes.iter().any(|it| it["field"] == "data_dir"), || value.to_string())?;
    }
    let found = exits(&["check", &path("wrong.yaml"), "--json"], 2)?;
    let value = shape(&found, 2)?;
    ensure(value["mistakes"][0]["field"] == "colour", || value.to_string())?;
    let listed: Value = serde_json::from_slice(&found.stdout)?;
    ensure(listed[0]["line"] == 3, || listed.to_string())
}

fn silent_files() -> Result<(), Failed> {
    let folder = files();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let cases = [
        (vec!["apply", "-f", "folder"], "there is no file in this folder"),
        (vec!["check", "folder"], "there is no file in this folder"),
        (vec!["check", "empty.yaml"], "there is no document in it"),
        (vec!["check", "mixed"], "example.com.zone"),
        (vec!["check", "mixed"], "data_dir"),
        (vec!["get", "site", "--token-file", "empty"], "it is empty"),
        (vec!["get", "site", "--ca-file", "no-ca.pem"], "there is no certificate in it"),
        (
            vec!["token", "reset", "--consul", NOWHERE, "--consul-token-file", "missing"],
            "--consul-token-file missing: no such file",
        ),
    ];
    for (arguments, needle) in cases {
        let arguments: Vec<String> = arguments
            .into_iter()
            .map(|it| if Path::new(&path(it)).exists() { path(it) } else { it.to_owned() })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let printed = stderr(&exits(&arguments, 2)?);
        ensure(printed.contains(needle), || format!("{arguments:?}: no {needle:?} in {printed}"))?;
    }
    for (log, needle) in [("inof", "there is no log level \"inof\""), ("proxy=inof", "log")] {
        let node = format!(
            "node = \"n\"\nsite = \"s\"\ndata_dir = \"/tmp\"\n[store]\nengine = \"embedded\"\n[telemetry]\nlog = \"{log}\"\n"
        );
        std::fs::write(folder.path().join("node.toml"), node)?;
        let printed = stderr(&exits(&["check", &path("node.toml")], 2)?);
        ensure(printed.contains(needle) && printed.contains("node.toml:7"), || format!("{log}: {printed}"))?;
    }
    Ok(())
}

/// The status with a dead site, a dead node, a forced site and an engine that is away; on both engines.
pub fn in_words(backing: Backing) -> Result<(), Failed> {
    let mut demo = Demo::start(&backing)?;
    eventually("a demo that is well", PATIENCE, || demo.cli(&["status", "--check"]).status.success())
        .map_err(|_| status(&demo, &[]))?;
    let far = demo.gateway_process(1);
    demo.kill(far.pid);
    shows(&demo, "sh 127.0.2.1 (check web) is down since ")?;
    shows_at(&demo.layout.sites[1].admin, "node gateway-sh (sh; proxy) is lost: silent for ")?;
    let order =
        ["override", "set", "bj-work", "--site", "bj", "--state", "down", "--owner", "ops", "--reason", "x"];
    answers(&demo, &order, 0)?;
    shows(&demo, "fail open: no site is left (bj forced down, sh down), so clients are still sent to sh")?;
    shows(&demo, "bj is forced down in ")?;
    let line = stdout(&answers(&demo, &["status", "--check"], 1)?);
    ensure(line.starts_with("NOT WELL: ") && line.lines().count() == 1, || line.clone())?;

    answers(&demo, &["override", "clear", "bj-work"], 0)?;
    demo.restart(&far);
    shows(&demo, "sh is up again and is held back in ")?;
    eventually("a demo that is well again", PATIENCE, || demo.cli(&["status", "--check"]).status.success())
        .map_err(|_| status(&demo, &[]))?;

    let engine = demo.consul.as_ref().map_or_else(|| demo.process("engine").pid, |agent| agent.pid());
    signal(engine, Signal::STOP);
    let away = shows(&demo, "the engine has not been readable for");
    let later = std::thread::scope(|scope| {
        // Longer than a node may be silent.
        let wait = scope.spawn(|| std::thread::sleep(Duration::from_secs(20)));
        wait.join().map(|()| status(&demo, &[]))
    });
    signal(engine, Signal::CONT);
    away?;
    let later = later.map_err(|_| "the wait failed")?;
    for needle in ["is lost", "LOST", "does not report", "no vantage reports"] {
        ensure(!later.contains(needle), || format!("{needle:?} is reported of living nodes in:\n{later}"))?;
    }
    for needle in ["the engine is away", "1 problem;"] {
        ensure(later.contains(needle), || format!("no {needle:?} in:\n{later}"))?;
    }
    eventually("a demo whose engine is back", PATIENCE, || demo.cli(&["status", "--check"]).status.success())
        .map(drop)
        .map_err(|_| status(&demo, &[]).into())
}

/// A drain that waits for a frozen gateway is reported with its name and with what comes next; on both engines.
pub fn stuck_drain(backing: Backing) -> Result<(), Failed> {
    let demo = Demo::start(&backing)?;
    let service = demo.layout.service.name.clone();
    let instance = demo.instance(0, 0);
    let frozen = demo.gateway_process(1).pid;
    signal(frozen, Signal::STOP);
    let printed = (|| {
        answers(&demo, &["drain", "instance", &service, &instance.id], 0)?;
        shows(&demo, "makes no progress: sh/gateway-sh has been silent for ")?;
        shows(&demo, "(frozen, dead or cut off); it is given up on after 1m")
    })();
    signal(frozen, Signal::CONT);
    printed?;
    let done = || status(&demo, &[]).contains(" done ");
    eventually("the end of the drain", PATIENCE, done).map(drop)
}

/// A past moment is explained with the documents and overrides of that time; on both engines.
pub fn the_past(backing: Backing) -> Result<(), Failed> {
    let demo = Demo::start(&backing)?;
    let name = demo.layout.gateway_domain.clone();
    eventually("a demo that is well", PATIENCE, || demo.cli(&["status", "--check"]).status.success())?;
    let audit = json(&demo, &["audit"])?;
    let first = audit.as_array().and_then(|all| all.last()).cloned().unwrap_or_default();
    let before = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(1_200));
    let order =
        ["override", "set", "bj-work", "--site", "bj", "--state", "down", "--owner", "ops", "--reason", "x"];
    answers(&demo, &order, 0)?;
    std::thread::sleep(Duration::from_millis(200));
    let during = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(1_200));
    answers(&demo, &["override", "clear", "bj-work"], 0)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("changed.yaml");
    let document = stdout(&answers(&demo, &["get", "domain", &name], 0)?).replace("ttl: 20s", "ttl: 33s");
    std::fs::write(&file, document)?;
    answers(&demo, &["apply", "-f", file.to_str().unwrap()], 0)?;
    std::thread::sleep(Duration::from_millis(1_200));

    let explained = |at: jiff::Timestamp| json(&demo, &["explain", &name, "--at", &at.to_string()]);
    let (was, ordered, now) = (explained(before)?, explained(during)?, json(&demo, &["explain", &name])?);
    let site = |it: &Value| it["sites"][0]["site"].as_str().unwrap_or_default().to_owned();
    ensure(
        site(&was) == "bj" && was["answer"][0].as_str().is_some_and(|it| it.contains("127.0.1.1")),
        || was.to_string(),
    )?;
    ensure(site(&ordered) == "sh" && ordered["sites"][1]["forced"]["name"] == "bj-work", || {
        ordered.to_string()
    })?;
    // An override is an order, which makes no generation.
    ensure(now["generation"] != was["generation"] && was["generation"] == ordered["generation"], || {
        format!("{now} and {was}")
    })?;
    let whole = |it: &Value| it["failover"]["ttl"].clone();
    ensure(whole(&was) == "20s" && whole(&ordered) == "20s" && whole(&now) == "33s", || {
        format!("TTLs of then: {was}, {ordered}, {now}")
    })?;
    let printed = stderr(&answers(&demo, &["explain", &name, "--at", "2026-01-01T00:00:00Z"], 1)?);
    let began = first["at"].as_str().unwrap_or_default();
    ensure(
        !began.is_empty() && printed.contains("nothing was configured at") && printed.contains(began),
        || format!("{printed} does not name {began}"),
    )
}

fn check_and_watch() -> Result<(), Failed> {
    let mut demo = Demo::start(&Backing::Embedded)?;
    let service = demo.layout.service.name.clone();
    eventually("a demo that is well", PATIENCE, || demo.cli(&["status", "--check"]).status.success())?;
    let line = stdout(&answers(&demo, &["status", "--check"], 0)?);
    ensure(line.starts_with("OK: well; generation ") && line.lines().count() == 1, || line.clone())?;
    let value = json(&demo, &["status", "--check"])?;
    ensure(value["well"] == true && value["problems"] == serde_json::json!([]), || value.to_string())?;
    let text = stdout(&answers(&demo, &["status", "--problems"], 0)?);
    ensure(text.starts_with("well;") && !text.contains("Domains"), || text.clone())?;

    let narrowed = json(&demo, &["status", &service])?;
    let instances = narrowed["services"][0]["instances"].as_array().cloned().unwrap_or_default();
    ensure(instances.len() == 6 && instances.iter().all(|it| it["state"] == "passing"), || {
        narrowed.to_string()
    })?;
    let site = json(&demo, &["status", "sh"])?;
    let all_sh = site["targets"]
        .as_array()
        .is_some_and(|all| !all.is_empty() && all.iter().all(|it| it["site"] == "sh"));
    ensure(all_sh, || site.to_string())?;
    answers(&demo, &["status", "nothing.example.org"], 1)?;
    answers(&demo, &["status", "nothing.example.org", "--check"], 2)?;

    // What cannot be printed is no answer.
    let folder = tempfile::tempdir()?;
    let same = folder.path().join("same.yaml");
    std::fs::write(&same, stdout(&answers(&demo, &["export"], 0)?))?;
    for (arguments, code) in [
        (&["status", "--check"][..], 2),
        (&["status", "--watch"], 1),
        (&["status"], 1),
        (&["diff", "-f", same.to_str().unwrap()], 2),
    ] {
        let mut command = waypost();
        command.args(arguments).args(["--server", &demo.layout.admin]);
        let output = command.stdout(std::fs::File::options().write(true).open("/dev/full")?).output()?;
        ensure(output.status.code() == Some(code), || {
            format!("{arguments:?} ended with {} instead of {code}: {}", output.status, stderr(&output))
        })?;
    }

    let mut command = waypost();
    command.args(["status", "--watch", "--problems", "--server", &demo.layout.admin]).stdout(Stdio::piped());
    let mut watching = Reaped(command.spawn()?);
    let lines = lines_of(watching.0.stdout.take().unwrap());
    let first = lines.recv_timeout(PATIENCE)?;
    ensure(first.starts_with("--- 20") && first.ends_with('Z'), || format!("no time of day: {first:?}"))?;
    let gateway = demo.gateway_process(1).pid;
    demo.kill(gateway);
    let mut seen: Vec<String> = Vec::new();
    while !seen.last().is_some_and(|it| it.contains("(check web) is down since")) {
        seen.push(lines.recv_timeout(PATIENCE).map_err(|_| format!("no dead site in {seen:?}"))?);
    }
    ensure(seen.iter().all(|it| !it.contains('\u{1b}')), || format!("escapes in a pipe: {seen:?}"))?;
    ensure(seen.iter().filter(|it| it.starts_with("--- ")).count() < 10, || {
        format!("not only changes: {seen:?}")
    })?;
    signal(watching.0.id(), Signal::INT);
    let pid = watching.0.id();
    eventually("the end of the watch", Duration::from_secs(10), || !runs(pid))?;
    let code = watching.0.wait()?.code();
    ensure(code == Some(0), || format!("Ctrl-C ended it with {code:?}"))
}

/// What a process prints, line by line, so that a test can stop waiting for it.
fn lines_of(out: std::process::ChildStdout) -> std::sync::mpsc::Receiver<String> {
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.take_while(|line| send.send(line.clone()).is_ok()).for_each(drop);
    });
    lines
}

fn values() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let name = demo.layout.gateway_domain.clone();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("domain.json");
    let path = file.to_str().unwrap();
    let document = json(&demo, &["get", "domain", &name])?;
    ensure(document["kind"] == "Domain" && document["ttl"] == "20s" && document["min_up"] == 1, || {
        document.to_string()
    })?;
    std::fs::write(&file, document.to_string())?;
    let same = stdout(&answers(&demo, &["diff", "-f", path], 0)?);
    ensure(same == "no differences\n", || same.clone())?;
    std::fs::write(&file, document.to_string().replace("20s", "1m"))?;
    let printed = stdout(&answers(&demo, &["diff", "-f", path], 1)?);
    ensure(
        printed.contains("~ Domain gw.waypost.test\n") && printed.contains("    ttl: 20s -> 1m\n"),
        || printed.clone(),
    )?;
    let found = answers(&demo, &["diff", "-f", path, "--json"], 1)?;
    let value: Value = serde_json::from_slice(&found.stdout)?;
    let change = &value["differences"][0];
    ensure(change["name"] == name.as_str() && change["fields"][0] == "ttl", || value.to_string())?;
    ensure(
        change["values"][0] == serde_json::json!({ "field": "ttl", "before": "20s", "after": "1m" }),
        || value.to_string(),
    )?;
    let new = "kind: Site\nname: gz\nregion: south\n";
    std::fs::write(folder.path().join("site.yaml"), new)?;
    let printed =
        stdout(&answers(&demo, &["diff", "-f", folder.path().join("site.yaml").to_str().unwrap()], 1)?);
    ensure(printed.contains("+ Site gz\n  + region: south\n"), || printed.clone())?;
    std::fs::write(&file, document.to_string().replace("20s", "0s"))?;
    answers(&demo, &["diff", "-f", path], 2)?;
    answers(&demo, &["apply", "-f", path], 2)?;

    let all = json(&demo, &["get", "site"])?;
    ensure(all.as_array().is_some_and(|all| all.len() == 2 && all[0]["name"] == "bj"), || all.to_string())?;
    let exported = json(&demo, &["export"])?;
    ensure(exported.as_array().is_some_and(|all| all.len() > 6), || exported.to_string())?;
    answers(&demo, &["get", "site", "nothing"], 1)?;
    answers(&demo, &["delete", "site", "nothing"], 1)?;
    answers(&demo, &["explain", &name, "--type", "NOTHING"], 2)?;
    answers(&demo, &["simulate", "--kill-site", "nothing"], 2)?;
    answers(&demo, &["drain", "instance", "nothing", "nothing"], 1)?;
    answers(&demo, &["restore", path], 2)?;
    let mut token = waypost();
    token.args(["token", "create", "ci", "--role", "reader", "--server", &demo.layout.admin]);
    ensure(token.output()?.status.success(), || "token create".to_owned())?;
    let text = stdout(&answers(&demo, &["get", "token", "ci"], 0)?);
    let changed: String = text
        .lines()
        .map(|line| {
            if line.starts_with("secret_sha256") {
                format!("secret_sha256: \"{}\"\n", "0".repeat(64))
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    std::fs::write(&file, changed)?;
    let printed = stdout(&answers(&demo, &["diff", "-f", path], 1)?);
    ensure(printed.contains("secret_sha256: (hidden) -> (hidden)") && !printed.contains("0000"), || {
        printed.clone()
    })
}

fn past_override() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let past = "2020-01-01T00:00:00Z";
    let order = [
        "override",
        "set",
        "old",
        "--site",
        "bj",
        "--state",
        "down",
        "--owner",
        "ops",
        "--reason",
        "x",
        "--expires",
        past,
    ];
    let printed = stderr(&answers(&demo, &order, 2)?);
    ensure(printed.contains(past) && printed.contains("nothing was sent"), || printed.clone())?;
    answers(&demo, &["get", "override", "old"], 1)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("world.yaml");
    let text = format!(
        "kind: Site\nname: gz\n---\nkind: Override\nname: old\ntarget: {{ site: bj }}\nstate: down\nowner: ops\nreason: x\nexpires: {past}\n"
    );
    std::fs::write(&file, text)?;
    let printed = stdout(&answers(&demo, &["apply", "-f", file.to_str().unwrap()], 0)?);
    ensure(
        printed.contains("warning: ") && printed.contains("world.yaml:10: Override old: expires"),
        || printed.clone(),
    )?;
    answers(&demo, &["get", "site", "gz"], 0)?;
    let explained = json(&demo, &["explain", &demo.layout.gateway_domain.clone()])?;
    ensure(explained["sites"][0]["site"] == "bj" && explained["sites"][0]["forced"].is_null(), || {
        explained.to_string()
    })
}

fn all_dead() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let text = stdout(&answers(&demo, &["simulate", "--kill-site", "bj", "--kill-site", "sh"], 0)?);
    for needle in
        ["NO SITE WOULD BE LEFT", "gw.waypost.test", "it would fail open: its clients would still be sent to"]
    {
        ensure(text.contains(needle), || format!("no {needle:?} in:\n{text}"))?;
    }
    ensure(!text.contains("would answer as before"), || text.clone())?;
    let value = json(&demo, &["simulate", "--kill-site", "bj", "--kill-site", "sh"])?;
    ensure(value["nothing_left"] == true && value["unserved"][0]["answering"] == "fail_open", || {
        value.to_string()
    })?;
    let one = json(&demo, &["simulate", "--kill-site", "bj"])?;
    ensure(one["nothing_left"] == false && one["unserved"] == serde_json::json!([]), || one.to_string())
}

/// Every field that holds a moment holds it in one form.
fn times() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let (service, instance) = (demo.layout.service.name.clone(), demo.instance(0, 0));
    eventually("a demo that is well", PATIENCE, || demo.cli(&["status", "--check"]).status.success())?;
    answers(&demo, &["drain", "instance", &service, &instance.id, "--wait"], 0)?;
    let mut seen = 0;
    for arguments in [&["status"][..], &["audit"], &["drain", "list"]] {
        let value = json(&demo, arguments)?;
        each_moment(&value, &mut |at| {
            seen += 1;
            let text = at.as_str().unwrap_or_default();
            let fits = at.is_null() || (text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok());
            ensure(fits, || format!("{arguments:?} writes a moment as {at}"))
        })?;
    }
    ensure(seen > 10, || format!("only {seen} moments"))
}

fn each_moment(value: &Value, look: &mut impl FnMut(&Value) -> Result<(), Failed>) -> Result<(), Failed> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|it| each_moment(it, look)),
        Value::Object(map) => map.iter().try_for_each(|(key, inner)| {
            if ["at", "since", "created", "expires", "until"].contains(&key.as_str()) && !inner.is_object() {
                look(inner)
            } else {
                each_moment(inner, look)
            }
        }),
        _ => Ok(()),
    }
}
