//! The command line against a running control, as an operator and as a script would use it.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::harness::{Backing, Demo, ensure, eventually, run, runs, waypost};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("cli::wrong_use_exits_with_2", wrong_use),
        Trial::test("cli::exit_codes_of_every_command_and_closed_pipes", exit_codes),
        Trial::test("cli::completions_are_scripts_of_their_shells", completions),
        Trial::test("cli::man_pages_can_be_read", man_pages),
        Trial::test("cli::the_life_of_a_document", life_of_a_document),
        Trial::test("cli::an_override_moves_the_answer_and_shows_the_real_state", overrides),
        Trial::test("cli::an_override_that_leaves_a_family_without_answers_warns_first", family),
        Trial::test("cli::colours_are_switched_and_deaths_are_simulated", steering),
        Trial::test("cli::safety_rules_bind_every_override", safety),
        Trial::test("cli::backup_and_restore_raise_the_epoch", backup),
        Trial::test("cli::a_killed_demo_leaves_no_process_behind", killed_demo),
    ]
}

fn wrong_use() -> Result<(), Failed> {
    for arguments in
        [&["fly"][..], &["apply"], &["run"], &["get", "nonsense", "--server", "http://127.0.0.1:1"]]
    {
        let output = run(arguments);
        ensure(output.status.code() == Some(2), || format!("{arguments:?}: {:?}", output.status))?;
    }
    let output = run(&["status", "--server", "http://127.0.0.1:1"]);
    let printed = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.code() == Some(1) && printed.contains("127.0.0.1:1"), || {
        format!("{:?}: {printed}", output.status)
    })
}

/// Files that the commands of the table read and write.
fn files_for_commands(folder: &Path) -> Result<(), Failed> {
    let files = [
        ("right.yaml", "kind: Site\nname: gz\n"),
        ("wrong.yaml", "kind: Site\nname: gz\ncolour: red\n"),
        ("wrong.toml", "node = 1\n"),
        ("example.com.zone", "$TTL 1h\n@ SOA ns1 h 7 2h 10m 2w 1m\n@ NS ns1\nns1 A 192.0.2.53\n"),
        ("wrong.example.zone", "@ SOA\n"),
    ];
    for (name, text) in files {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// Commands against a demo and their exit codes, as DESIGN §8 has them: 0 done, 1 failed, 2 wrong use or a wrong file; of
/// `diff` and `status --check` 1 is an answer, and 2 that there is none. They run in this order, in a folder with the files.
const EXIT_CODES: &[(i32, &str)] = &[
    (1, "diff -f right.yaml"),
    (0, "apply -f right.yaml"),
    (0, "diff -f right.yaml"),
    (0, "get site"),
    (0, "get site gz"),
    (0, "export"),
    (0, "check right.yaml example.com.zone"),
    (0, "import zone example.com.zone --origin example.com"),
    (0, "status"),
    (0, "status gw.waypost.test --problems"),
    (0, "explain orders.waypost.test"),
    (0, "simulate --kill-site bj"),
    (0, "drain list"),
    (0, "override set work --site sh --state up --owner ops --reason test"),
    (0, "override list"),
    (0, "override clear work"),
    (0, "token create ci --role automation"),
    (0, "token list"),
    (0, "token delete ci"),
    (0, "audit"),
    (0, "backup -o backup"),
    (0, "restore backup"),
    (0, "delete site gz"),
    (0, "completions fish"),
    (0, "man man1"),
    (0, "--help"),
    (0, "--version"),
    (0, "drain instance --help"),
    // Right use, but the thing is not there, or it cannot be done.
    (1, "get site nowhere"),
    (1, "delete site nowhere"),
    (1, "explain orders.waypost.test --at 2020-01-01T00:00:00Z"),
    (1, "drain instance orders nowhere"),
    (1, "drain show 9916a821-0551-4019-9daa-27d43fda1ac9"),
    (1, "drain cancel 9916a821-0551-4019-9daa-27d43fda1ac9"),
    (1, "override clear nothing"),
    (1, "token delete nothing"),
    (1, "backup -o nowhere/backup"),
    (1, "man right.yaml"),
    (1, "token reset --consul http://127.0.0.1:1"),
    (1, "status --server http://127.0.0.1:1"),
    (1, "apply -f right.yaml --server http://127.0.0.1:1"),
    (2, "diff -f right.yaml --server http://127.0.0.1:1"),
    (2, "status --check --server http://127.0.0.1:1"),
    // Wrong use.
    (2, "fly"),
    (2, ""),
    (2, "drain"),
    (2, "apply"),
    (2, "man"),
    (2, "run"),
    (2, "completions nonsense"),
    (2, "get nonsense"),
    (2, "explain orders.waypost.test --type NONSENSE"),
    (2, "explain orders.waypost.test --at yesterday"),
    (2, "explain orders.waypost.test --client nobody"),
    (2, "switch gw.waypost.test"),
    (2, "switch gw.waypost.test --to red"),
    (2, "override set o --site bj --state sideways --owner ops --reason x"),
    (2, "override set o --site bj --state down --owner ops --reason x --expires 2020-01-01T00:00:00Z"),
    (2, "token create x --role king"),
    (2, "demo --dns nowhere"),
    (2, "demo --consul http://127.0.0.1:1"),
    (2, "demo --consul http://127.0.0.1:1 --consul http://127.0.0.1:1/"),
    (2, "import zone example.com.zone --origin a..b"),
    (2, "export --server http://127.0.0.1:1 --server http://127.0.0.1:2"),
    (2, "status --server nonsense"),
    // A wrong file, or none.
    (2, "apply -f wrong.yaml"),
    (2, "apply -f nowhere.yaml"),
    (2, "diff -f wrong.yaml"),
    (2, "check wrong.yaml"),
    (2, "check wrong.toml"),
    (2, "check wrong.example.zone"),
    (2, "import zone wrong.example.zone --origin wrong.example"),
    (2, "import zone nowhere --origin example.com"),
    (2, "restore nowhere"),
    (2, "restore right.yaml"),
    (2, "run --config nowhere.toml"),
    (2, "run --config wrong.toml"),
    (2, "token reset --config nowhere.toml"),
    (2, "status --token-file nowhere"),
    (2, "status --ca-file right.yaml"),
];

fn exit_codes() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let folder = tempfile::tempdir()?;
    files_for_commands(folder.path())?;
    let run = |words: &str, stdout: Stdio| {
        let mut command = waypost();
        command.args(words.split_whitespace()).env("WAYPOST_SERVER", &demo.layout.admin);
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        command.spawn()?.wait_with_output()
    };
    let mut wrong = Vec::new();
    for (code, words) in EXIT_CODES {
        let output = run(words, Stdio::piped())?;
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() != Some(*code) || printed.contains("panicked") {
            wrong.push(format!("waypost {words}: {}, not {code}: {printed}", output.status));
        }
        if *code == 2 && printed.is_empty() && !words.contains("--check") {
            wrong.push(format!("waypost {words}: no reason"));
        }
    }
    let well = || run("status --check", Stdio::piped()).is_ok_and(|it| it.status.code() == Some(0));
    eventually("a demo that is well", Duration::from_secs(20), well)?;
    // Reading commands, and clap's own output, into a pipe without a reader.
    let changes = ["apply", "delete", "override", "token", "restore"];
    let harmless = |words: &str| !changes.iter().any(|it| words.starts_with(it));
    let readers = EXIT_CODES.iter().filter(|(code, words)| *code == 0 && harmless(words));
    for words in readers.map(|(_, words)| *words).filter(|it| !it.contains("gz") && !it.starts_with("diff")) {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let output = run(words, writer.into())?;
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.code() != Some(0) || !printed.is_empty() {
            wrong.push(format!("waypost {words} | head: {}: {printed}", output.status));
        }
    }
    ensure(wrong.is_empty(), || wrong.join("\n"))
}

/// True if a program that checks our output is installed.
fn is_installed(program: &str) -> bool {
    let there = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    there.is_ok()
}

fn completions() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(&["completions", shell]);
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure(output.status.success() && script.contains("completions"), || format!("{shell}: {script}"))?;
        ensure(!script.contains("demo-backend"), || format!("{shell} offers a command that is hidden"))?;
        let file = folder.path().join(shell);
        std::fs::write(&file, script)?;
        if matches!(shell, "bash" | "fish" | "zsh") && is_installed(shell) {
            let read = Command::new(shell).arg("-n").arg(&file).output()?;
            ensure(read.status.success(), || String::from_utf8_lossy(&read.stderr).into_owned())?;
        }
    }
    // What bash offers after a word.
    let script = folder.path().join("bash");
    let script = format!(
        "source {}; COMP_WORDS=(waypost drain i); COMP_CWORD=2; _waypost waypost i drain; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let offered = Command::new("bash").args(["-c", &script]).output()?;
    let offered = String::from_utf8_lossy(&offered.stdout).into_owned();
    ensure(offered.trim() == "instance", || format!("bash offers {offered:?}"))
}

fn man_pages() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("man1");
    let output = run(&["man", dir.to_str().unwrap(), "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    let files = listed["files"].as_array().ok_or("no files")?;
    ensure(files.len() > 30, || listed.to_string())?;
    for file in files.iter().filter_map(Value::as_str) {
        let page = std::fs::read_to_string(file)?;
        for section in ["NAME", "SYNOPSIS", "EXAMPLES", "\"EXIT STATUS\""] {
            ensure(page.contains(&format!(".SH {section}\n")), || format!("{file} has no {section}"))?;
        }
    }
    if is_installed("groff") {
        let page = dir.join("waypost-diff.1");
        let shown = Command::new("groff").args(["-man", "-Tascii", "-ww"]).arg(page).output()?;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let complaints = String::from_utf8_lossy(&shown.stderr).into_owned();
        ensure(complaints.is_empty() && text.contains("waypost diff -f world.yaml"), || {
            format!("{complaints}{text}")
        })?;
    }
    Ok(())
}

fn json(demo: &Demo, arguments: &[&str]) -> Result<Value, Failed> {
    let output = demo.cli(&[arguments, &["--json"]].concat());
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.success(), || {
        format!("{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr))
    })?;
    serde_json::from_str(&printed)
        .map_err(|error| format!("{arguments:?} printed {printed:?}: {error}").into())
}

fn text(demo: &Demo, arguments: &[&str]) -> Result<String, Failed> {
    let output = demo.cli(arguments);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.success(), || {
        format!("{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(printed)
}

fn life_of_a_document() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("site.yaml");
    let file_name = file.to_str().unwrap();
    std::fs::write(&file, "kind: Site\nname: gz\nlocation: { lat: 23.13, lon: 113.26 }\n")?;
    let differs = demo.cli(&["diff", "-f", file_name]);
    ensure(
        differs.status.code() == Some(1) && String::from_utf8_lossy(&differs.stdout).contains("gz"),
        || format!("diff does not name the site: {differs:?}"),
    )?;
    let first = json(&demo, &["apply", "-f", file_name])?;
    let again = json(&demo, &["apply", "-f", file_name])?;
    ensure(first["generation"] == again["generation"], || format!("{first} and {again}"))?;
    ensure(text(&demo, &["get", "site", "gz"])?.contains("23.13"), || "get".to_owned())?;
    let exported = text(&demo, &["export"])?;
    let copy = folder.path().join("all.yaml");
    std::fs::write(&copy, &exported)?;
    let whole = json(&demo, &["apply", "-f", copy.to_str().unwrap(), "--prune"])?;
    ensure(whole["generation"] == first["generation"], || {
        format!("export is not what was applied: {whole}")
    })?;
    text(&demo, &["delete", "site", "gz"])?;
    ensure(!demo.cli(&["get", "site", "gz"]).status.success(), || {
        "a deleted site is still there".to_owned()
    })?;
    let status = text(&demo, &["status"])?;
    for needle in ["gateway-bj", "gw.waypost.test", "gz-telecom", "up"] {
        ensure(status.to_lowercase().contains(needle), || format!("no {needle} in:\n{status}"))?;
    }
    Ok(())
}

fn overrides() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    text(
        &demo,
        &[
            "override", "set", "bj-work", "--site", "bj", "--state", "down", "--owner", "ops", "--reason",
            "switch",
        ],
    )?;
    let (near, far) = (demo.near().ip(), demo.far().ip());
    eventually("the forced answer", Duration::from_secs(10), || demo.answers(far))?;
    let explained = text(&demo, &["explain", &demo.layout.service.host, "--client", "127.0.0.1"])?;
    for needle in ["bj", "sh", "down", "up", "switch"] {
        ensure(explained.to_lowercase().contains(needle), || format!("no {needle} in:\n{explained}"))?;
    }
    let both = demo.cli(&[
        "override", "set", "sh-work", "--site", "sh", "--state", "down", "--owner", "ops", "--reason", "x",
    ]);
    ensure(!both.status.success(), || "forcing all down was not refused".to_owned())?;
    let now = jiff::Timestamp::now().to_string();
    let host = demo.layout.service.host.clone();
    // Its clock and ours may differ a little.
    let explained = || demo.cli(&["explain", &host, "--at", &now]).status.success();
    eventually("that moment to be past", Duration::from_secs(10), explained)?;
    let past = text(&demo, &["explain", &host, "--at", &now])?;
    ensure(past.contains("as of") && past.contains("1. sh") && !past.contains("reach back"), || {
        past.clone()
    })?;
    let before = demo.cli(&["explain", &host, "--at", "2026-01-01T00:00:00Z"]);
    let printed = String::from_utf8_lossy(&before.stderr).into_owned();
    ensure(before.status.code() == Some(1) && printed.contains("nothing was configured at"), || {
        printed.clone()
    })?;
    text(&demo, &["override", "clear", "bj-work"])?;
    eventually("the return", Duration::from_secs(10), || demo.answers(near)).map(drop)
}

const FAMILIES: &str = "
{ kind: Zone, name: fam.test, nameservers: [{ name: ns1, a: [127.0.0.1] }] }
---
kind: Cluster
name: fam
zone: fam.test
gateway_domain: gw.fam.test
gateways:
  bj: { a: [127.0.9.1], aaaa: ['2001:db8::1'] }
  sh: { a: [127.0.9.2], aaaa: [] }
";

/// DESIGN §4: every command that may leave a family of addresses without an answer warns of it.
fn family() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("fam.yaml");
    let sites = "{ kind: Site, name: bj }\n---\n{ kind: Site, name: sh }\n---";
    std::fs::write(&file, format!("{sites}{FAMILIES}"))?;
    let lacks = "Cluster fam: gateways.sh: has no IPv6 address, unlike bj";
    let warns_of = |output: &std::process::Output, what: &str| {
        let printed = [&output.stderr[..], &output.stdout].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        ensure(output.status.success() && printed.contains("warning: ") && printed.contains(what), || {
            format!("no {what:?} in {printed:?}")
        })
    };
    warns_of(&run(&["check", file.to_str().unwrap()]), lacks)?;
    std::fs::write(&file, FAMILIES)?;
    warns_of(&demo.cli(&["apply", "-f", file.to_str().unwrap()]), lacks)?;
    let explain = || json(&demo, &["explain", "gw.fam.test", "--type", "AAAA"]);
    let answered =
        || explain().is_ok_and(|it| it["answer"][0].as_str().is_some_and(|it| it.contains("2001:db8::1")));
    eventually("the IPv6 address", Duration::from_secs(10), answered)?;
    let drain = demo.cli(&[
        "override",
        "set",
        "bj-fam",
        "--site",
        "bj",
        "--domain",
        "gw.fam.test",
        "--state",
        "drain",
        "--owner",
        "ops",
        "--reason",
        "x",
    ]);
    warns_of(&drain, "Domain gw.fam.test: overrides take out bj")?;
    warns_of(&drain, "IPv6 has no answer (NODATA)")?;
    let taken_out = || explain().is_ok_and(|it| it["taken_out"] == true && it["answer"][0].is_null());
    eventually("the absence", Duration::from_secs(10), taken_out)?;
    let shown = text(&demo, &["explain", "gw.fam.test", "--type", "AAAA"])?;
    ensure(shown.contains("has no IPv6 address") && shown.contains("overrides take out"), || shown.clone())
}

/// Applies a document of the demo with some of its lines replaced.
fn rewrite(demo: &Demo, kind: &str, name: &str, change: impl Fn(&str) -> String) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("changed.yaml");
    std::fs::write(&file, change(&text(demo, &["get", kind, name])?))?;
    text(demo, &["apply", "-f", file.to_str().unwrap()]).map(drop)
}

fn steering() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let (near, far) = (demo.near().ip(), demo.far().ip());
    let name = demo.layout.gateway_domain.clone();
    let refused = demo.cli(&["switch", &name]);
    let printed = String::from_utf8_lossy(&refused.stderr);
    ensure(printed.contains("blue_green"), || format!("{:?}: {printed}", refused.status))?;

    let simulated = json(&demo, &["simulate", "--kill-site", "bj", "--domain", &name])?;
    let group = &simulated["domains"][0]["groups"][0];
    ensure(group["before"]["bj"] == 100.0 && group["after"]["sh"] == 100.0, || simulated.to_string())?;
    let shown = text(&demo, &["simulate", "--kill-site", "bj"])?;
    ensure(shown.contains("near bj") && shown.contains("Load"), || shown.clone())?;
    ensure(demo.answers(near), || "a simulation changed the answer".to_owned())?;

    rewrite(&demo, "domain", &name, |document| {
        document.replace("type: nearest", "type: blue_green, active: blue, blue: [bj], green: [sh]")
    })?;
    let patience = Duration::from_secs(10);
    text(&demo, &["switch", &name])?;
    eventually("the other colour", patience, || demo.answers(far))?;
    text(&demo, &["switch", &name, "--to", "green"])?;
    ensure(demo.answers(far), || "switched although it was green already".to_owned())?;
    text(&demo, &["switch", &name])?;
    eventually("the first colour", patience, || demo.answers(near))?;
    let explained = text(&demo, &["explain", &name, "--client", "127.0.0.1"])?;
    for needle in ["policy blue_green", "failover   at most", "detect 2s900ms"] {
        ensure(explained.contains(needle), || format!("no {needle:?} in:\n{explained}"))?;
    }
    Ok(())
}

fn safety() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    rewrite(&demo, "cluster", "main", |document| {
        format!("{document}keep: [{{ at_least: 2, of: [bj, sh] }}]\n")
    })?;
    let order = ["override", "set", "work", "--site", "bj", "--owner", "ops", "--reason", "x", "--state"];
    for rest in [&["down"][..], &["drain", "--over", "10m"], &["down", "--force"]] {
        let output = demo.cli(&[&order[..], rest].concat());
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure(!output.status.success() && printed.contains("keeps at least 2 on"), || {
            format!("{rest:?}: {printed}")
        })?;
    }
    Ok(())
}

fn backup() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let folder = tempfile::tempdir()?;
    let (file, site) = (folder.path().join("backup"), folder.path().join("site.yaml"));
    let before = json(&demo, &["status"])?["generation"].clone();
    text(&demo, &["backup", "-o", file.to_str().unwrap()])?;
    std::fs::write(&site, "kind: Site\nname: gz\n")?;
    text(&demo, &["apply", "-f", site.to_str().unwrap()])?;
    text(&demo, &["restore", file.to_str().unwrap()])?;
    let patience = Duration::from_secs(10);
    eventually("the restored generation", patience, || {
        json(&demo, &["status"]).is_ok_and(|it| it["generation"]["epoch"].as_u64() > before["epoch"].as_u64())
    })?;
    ensure(!demo.cli(&["get", "site", "gz"]).status.success(), || {
        "the later site is still there".to_owned()
    })?;
    ensure(demo.answers(demo.near().ip()), || format!("{:?}", demo.resolve()))
}

/// The demo's children end with it, also when it is killed.
fn killed_demo() -> Result<(), Failed> {
    let mut demo = Demo::start(&Backing::Embedded)?;
    let layout = demo.layout.clone();
    let instances = layout.sites.iter().flat_map(|site| &site.instances).map(|it| it.pid);
    let pids: Vec<u32> = layout.processes.iter().map(|it| it.pid).chain(instances).collect();
    ensure(pids.len() == 17 && pids.iter().all(|pid| runs(*pid)), || format!("{pids:?} do not all run"))?;
    demo.kill_itself();
    eventually("the end of every child", Duration::from_secs(10), || !pids.iter().any(|pid| runs(*pid)))
        .map(drop)
}
