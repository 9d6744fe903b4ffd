//! The command line against a running control, as an operator and as a script would use it.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::harness::{Backing, Demo, ensure, eventually, run, runs};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("cli::wrong_use_exits_with_2", wrong_use),
        Trial::test("cli::the_life_of_a_document", life_of_a_document),
        Trial::test("cli::an_override_moves_the_answer_and_shows_the_real_state", overrides),
        Trial::test("cli::a_family_that_an_order_takes_out_is_told_beforehand", family),
        Trial::test("cli::colours_are_switched_and_deaths_are_simulated", steering),
        Trial::test("cli::safety_rules_bind_everybody", safety),
        Trial::test("cli::backup_and_restore_raise_the_epoch", backup),
        Trial::test("cli::a_killed_demo_leaves_nobody_behind", killed_demo),
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
    let said = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.code() == Some(1) && said.contains("127.0.0.1:1"), || {
        format!("{:?}: {said}", output.status)
    })
}

fn json(demo: &Demo, arguments: &[&str]) -> Result<Value, Failed> {
    let output = demo.cli(&[arguments, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.success(), || {
        format!("{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr))
    })?;
    serde_json::from_str(&said).map_err(|error| format!("{arguments:?} printed {said:?}: {error}").into())
}

fn text(demo: &Demo, arguments: &[&str]) -> Result<String, Failed> {
    let output = demo.cli(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.success(), || {
        format!("{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(said)
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
    let said = String::from_utf8_lossy(&before.stderr).into_owned();
    ensure(before.status.code() == Some(1) && said.contains("nothing was configured at"), || said.clone())?;
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

/// DESIGN §4: a family that only sites without a better one have is warned of, by every command that may bring it about.
fn family() -> Result<(), Failed> {
    let demo = Demo::start(&Backing::Embedded)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("fam.yaml");
    let sites = "{ kind: Site, name: bj }\n---\n{ kind: Site, name: sh }\n---";
    std::fs::write(&file, format!("{sites}{FAMILIES}"))?;
    let lacks = "Cluster fam: gateways.sh: has no IPv6 address, unlike bj";
    let says = |output: &std::process::Output, what: &str| {
        let said = [&output.stderr[..], &output.stdout].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure(output.status.success() && said.contains("warning: ") && said.contains(what), || {
            format!("no {what:?} in {said:?}")
        })
    };
    says(&run(&["check", file.to_str().unwrap()]), lacks)?;
    std::fs::write(&file, FAMILIES)?;
    says(&demo.cli(&["apply", "-f", file.to_str().unwrap()]), lacks)?;
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
    says(&drain, "Domain gw.fam.test: overrides take out bj")?;
    says(&drain, "IPv6 has no answer (NODATA)")?;
    let taken_out = || explain().is_ok_and(|it| it["taken_out"] == true && it["answer"][0].is_null());
    eventually("the absence", Duration::from_secs(10), taken_out)?;
    let shown = text(&demo, &["explain", "gw.fam.test", "--type", "AAAA"])?;
    ensure(shown.contains("has no IPv6 address") && shown.contains("overrides take out"), || shown.clone())
}

/// Applies a document that is made of the demo's own with some lines in the place of others.
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
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure(said.contains("blue_green"), || format!("{:?}: {said}", refused.status))?;

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
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure(!output.status.success() && said.contains("keeps at least 2 on"), || {
            format!("{rest:?}: {said}")
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

/// The demo's children die with it, also when it cannot say goodbye.
fn killed_demo() -> Result<(), Failed> {
    let mut demo = Demo::start(&Backing::Embedded)?;
    let layout = demo.layout.clone();
    let instances = layout.sites.iter().flat_map(|site| &site.instances).map(|it| it.pid);
    let pids: Vec<u32> = layout.processes.iter().map(|it| it.pid).chain(instances).collect();
    ensure(pids.len() == 14 && pids.iter().all(|pid| runs(*pid)), || format!("{pids:?} do not all run"))?;
    demo.kill_itself();
    eventually("the end of every child", Duration::from_secs(10), || !pids.iter().any(|pid| runs(*pid)))
        .map(drop)
}
