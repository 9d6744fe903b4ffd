//! Two sites with an engine, a control and gateways each: an instance of one of them is drained at both, whichever control
//! takes the order, and whichever site is dark.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    components::Components,
    harness::{Backing, Reaped, ensure, eventually, free_port, full, signal},
    loopback_site::{PATIENCE, Site, documents, get, make_tokens},
};

type Scenario = fn(&Backing) -> Result<(), Failed>;

const SCENARIOS: [(&str, Scenario); 4] = [
    ("an_order_at_another_site_leaves_with_the_receipts_of_both", ordered_elsewhere),
    ("a_dark_site_holds_a_drain_or_is_unproven_by_name_and_obeys_when_it_is_back", dark_site),
    ("while_the_leading_site_is_dark_the_other_obeys_and_may_cancel", dark_leader),
    ("a_node_that_is_killed_at_any_step_leaves_nothing_undone", killed_anywhere),
];

pub fn trials(components: &Components) -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, scenario) in SCENARIOS {
        all.push(Trial::test(format!("drains_across::embedded::{name}"), move || {
            scenario(&Backing::Embedded)
        }));
        all.push(components.needs_consul(format!("drains_across::consul::{name}"), move |consul| {
            scenario(&Backing::Consul(consul))
        }));
    }
    all
}

const HOST: &str = "web.example.com";
const SERVICE: &str =
    "kind: Service\nname: web\ncluster: main\nconsul: { service: web }\nhosts: [web.example.com]\n";

/// What the scenarios order of a site and ask it.
trait Drains {
    fn another_gateway(&self) -> Result<Reaped, Failed>;
    fn drain(&self, arguments: &[&str]) -> Result<String, Failed>;
    fn drain_of(&self, instance: &str, arguments: &[&str]) -> Result<String, Failed>;
    fn shows(&self, id: &str) -> Value;
    fn has_phase(&self, id: &str, phase: &str) -> bool;
    fn stuck(&self, id: &str) -> String;
    fn serves(&self) -> bool;
    fn record(&self, id: &str) -> Value;
    fn is_registered(&self) -> bool;
    fn has_instance(&self, id: &str) -> bool;
}

impl Drains for Site {
    /// Another gateway of this site, in a process of its own.
    fn another_gateway(&self) -> Result<Reaped, Failed> {
        let listen = (self.address, free_port()).into();
        self.node("gateway", &(self.store(false) + &self.proxy(listen)))
    }

    /// Orders a drain of the instance `w1`; its id.
    fn drain(&self, arguments: &[&str]) -> Result<String, Failed> {
        self.drain_of("w1", arguments)
    }

    fn drain_of(&self, instance: &str, arguments: &[&str]) -> Result<String, Failed> {
        let text = self.done(&[&["drain", "instance", "web", instance], arguments].concat())?;
        Ok(text.trim().to_owned())
    }

    /// A drain as its control shows it.
    fn shows(&self, id: &str) -> Value {
        self.json(&["drain", "show", id]).unwrap_or_default()
    }

    fn has_phase(&self, id: &str, phase: &str) -> bool {
        self.shows(id)["phase"] == phase
    }

    fn stuck(&self, id: &str) -> String {
        self.shows(id)["stuck"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether this site's gateway answers with the instance.
    fn serves(&self) -> bool {
        self.ask(HOST).is_ok_and(|it| it == (200, "w1".to_owned()))
    }

    /// The record of a drain in this site's own engine.
    fn record(&self, id: &str) -> Value {
        let url = format!("{}/v1/kv/waypost/drains/{id}?raw", self.engine);
        let (_, text) = get(&url, None).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn is_registered(&self) -> bool {
        self.has_instance("w1")
    }

    fn has_instance(&self, id: &str) -> bool {
        let url = format!("{}/v1/health/service/web", self.engine);
        let id = format!("{id:?}");
        get(&url, None).is_ok_and(|(_, text)| text.contains(&id) && !text.contains("_maintenance"))
    }
}

/// Two sites; `sh` is the home. The instance is registered at `bj`, and both serve it.
struct World {
    bj: Site,
    sh: Site,
    _back_end: Reaped,
    _folder: TempDir,
}

impl World {
    fn start(backing: &Backing) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let site = |name| Site::new(folder.path(), name, [127, 0, 0, 1], backing);
        let (mut bj, mut sh) = (site("bj")?, site("sh")?);
        sh.start(None)?;
        let (applied, text) = sh.apply(&format!("{}---\n{SERVICE}", documents(&bj, &sh)), &[])?;
        ensure(applied, || text)?;
        make_tokens(&sh, [&bj, &sh])?;
        bj.start(Some(&sh))?;
        let back_end = bj.back_end("web", "w1")?;
        eventually("the instance at its own site", PATIENCE, || bj.serves())?;
        eventually("the instance at the other site", PATIENCE, || sh.serves())?;
        Ok(Self { bj, sh, _back_end: back_end, _folder: folder })
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn ordered_elsewhere(backing: &Backing) -> Result<(), Failed> {
    let World { bj, sh, _back_end, _folder } = World::start(backing)?;
    let frozen = sh.another_gateway()?;
    let (success, text) = sh.command(&["drain", "instance", "web", "w9"])?;
    ensure(!success && text.contains("no other site has told of w9"), || text)?;
    signal(frozen.0.id(), Signal::STOP);
    let id = sh.drain(&["--site", "bj"])?;
    eventually("the laggard's name at the leading site", PATIENCE, || {
        names(&bj.shows(&id)["awaited"]) == ["sh/gateway-sh"]
    })?;
    eventually("the laggard's name where it was ordered", PATIENCE, || {
        names(&sh.shows(&id)["awaited"]) == ["sh/gateway-sh"]
    })?;
    // The record is in both engines, the gateways that live have proved, and the registry was not touched.
    ensure(bj.record(&id)["phase"] == "draining" && sh.record(&id)["phase"] == "draining", || {
        format!("{} and {}", bj.record(&id), sh.record(&id))
    })?;
    ensure(sh.record(&id)["site"] == "bj" && bj.record(&id)["site"].is_null(), || {
        sh.record(&id).to_string()
    })?;
    ensure(bj.is_registered() && !bj.serves() && !sh.serves(), || "both gateways keep from it".to_owned())?;
    let list = sh.done(&["drain", "list"])?;
    ensure(list.contains("w1 of web at bj"), || list)?;
    let again = sh.drain(&["--site", "bj"])?;
    ensure(again == id, || format!("a repeated order is {id}, not {again}"))?;

    signal(frozen.0.id(), Signal::CONT);
    eventually("the end", PATIENCE, || bj.has_phase(&id, "done"))?;
    eventually("the end at the other site", PATIENCE, || sh.has_phase(&id, "done"))?;
    let done = bj.shows(&id);
    let mut receipts: Vec<_> = done["receipts"].as_array().into_iter().flatten().collect();
    receipts.sort_by_key(|it| it["gateway"].to_string());
    let gateways: Vec<_> = receipts.iter().filter_map(|it| it["gateway"].as_str()).collect();
    ensure(gateways == ["control-bj", "sh/control-sh", "sh/gateway-sh"], || done.to_string())?;
    ensure(names(&done["unproven"]).is_empty(), || done.to_string())?;
    let by = done["by"].as_str().unwrap_or_default();
    ensure(by.ends_with(" at sh"), || format!("ordered by {by}"))?;

    // The process lives and registers itself again. It is refused at both sites until an operator lets it in, here at the other
    // site.
    eventually("the process that registers itself again", PATIENCE, || bj.is_registered())?;
    for _ in 0..20 {
        ensure(!bj.serves() && !sh.serves(), || "a drained process was let in".to_owned())?;
    }
    sh.done(&["drain", "cancel", &id])?;
    ensure(bj.has_phase(&id, "cancelled") && sh.has_phase(&id, "cancelled"), || bj.shows(&id).to_string())?;
    eventually("the instance at its own site", PATIENCE, || bj.serves())?;
    eventually("the instance at the other site", PATIENCE, || sh.serves())?;
    Ok(())
}

/// For how many seconds a site has not answered, as the reason of a drain says it.
fn silent_for(stuck: &str) -> Option<u64> {
    let (_, rest) = stuck.split_once("has not answered for ")?;
    rest.split_once('s')?.0.parse().ok()
}

fn dark_site(backing: &Backing) -> Result<(), Failed> {
    let World { bj, mut sh, _back_end, _folder } = World::start(backing)?;
    sh.kill();
    let id = bj.drain(&["--lease", "6s"])?;
    eventually("more silence than the lease", PATIENCE, || {
        silent_for(&bj.stuck(&id)).is_some_and(|it| it >= 9)
    })?;
    let held = bj.shows(&id);
    ensure(held["phase"] == "draining" && names(&held["awaited"]) == ["sh"], || held.to_string())?;
    ensure(bj.stuck(&id).contains("hold"), || held.to_string())?;
    let status = bj.command(&["status"])?.1;
    ensure(status.contains("the site sh has not answered"), || status)?;
    ensure(bj.is_registered(), || "the registry was touched".to_owned())?;
    bj.done(&["drain", "cancel", &id])?;

    let (success, text) =
        bj.command(&["drain", "instance", "web", "w1", "--require-all", "--dark-site", "unproven"])?;
    ensure(!success && text.contains("require_all waits for every gateway"), || text)?;
    let id = bj.drain(&["--lease", "6s", "--dark-site", "unproven"])?;
    eventually("the end without the site", PATIENCE, || bj.has_phase(&id, "done"))?;
    let done = bj.shows(&id);
    ensure(names(&done["unproven"]) == ["sh"], || done.to_string())?;

    sh.start(None)?;
    eventually("the record at the site that is back", PATIENCE, || sh.has_phase(&id, "done"))?;
    eventually("the process that registers itself again", PATIENCE, || bj.is_registered())?;
    for _ in 0..20 {
        ensure(!sh.serves(), || "the site that is back picks a drained process".to_owned())?;
    }
    sh.done(&["drain", "cancel", &id])?;
    eventually("the instance at the other site", PATIENCE, || sh.serves())?;
    Ok(())
}

fn dark_leader(backing: &Backing) -> Result<(), Failed> {
    let World { mut bj, sh, _back_end, _folder } = World::start(backing)?;
    let frozen = sh.another_gateway()?;
    signal(frozen.0.id(), Signal::STOP);
    let id = bj.drain(&[])?;
    eventually("the laggard's name", PATIENCE, || names(&bj.shows(&id)["awaited"]) == ["sh/gateway-sh"])?;
    bj.kill();
    eventually("that the leading site is dark", PATIENCE, || {
        sh.stuck(&id).contains("the site bj, which leads it, has not answered")
    })?;
    signal(frozen.0.id(), Signal::CONT);
    for _ in 0..20 {
        ensure(!sh.serves(), || "the other site no longer obeys".to_owned())?;
    }
    ensure(sh.record(&id)["phase"] == "draining", || "a copy was driven".to_owned())?;
    let (success, text) = sh.command(&["drain", "instance", "web", "w1"])?;
    ensure(!success && text.contains("bj") && text.contains("cannot be asked"), || text)?;
    let text = sh.done(&["drain", "cancel", &id])?;
    ensure(text.contains("the site bj, which leads the drain, does not answer"), || text)?;
    eventually("the instance, although its site is dark", PATIENCE, || sh.serves())?;

    bj.start(Some(&sh))?;
    eventually("the cancellation at the leading site", PATIENCE, || bj.has_phase(&id, "cancelled"))?;
    eventually("the instance at its own site", PATIENCE, || bj.serves())?;
    ensure(sh.has_phase(&id, "cancelled") && sh.serves(), || sh.shows(&id).to_string())
}

fn killed_anywhere(backing: &Backing) -> Result<(), Failed> {
    let World { mut bj, mut sh, _back_end, _folder } = World::start(backing)?;
    let trials: u64 = if full() { 50 } else { 4 };
    for trial in 0..trials {
        let instance = format!("k{trial}");
        let _instance = bj.back_end("web", &instance)?;
        eventually("the instance", PATIENCE, || bj.has_instance(&instance))?;
        let id = if trial % 4 < 2 { &bj } else { &sh }.drain_of(&instance, &["--site", "bj"])?;
        // Another step each time: how long each takes depends on the machine.
        std::thread::sleep(Duration::from_millis(trial * 67 % 500));
        if trial % 2 == 0 {
            bj.kill();
            bj.start(Some(&sh))?;
        } else {
            sh.kill();
            sh.start(None)?;
        }
        eventually("the end", PATIENCE, || bj.has_phase(&id, "done"))
            .map_err(|error| Failed::from(format!("{error:?}, trial {trial}: {}", bj.shows(&id))))?;
        eventually("the end at the other site", PATIENCE, || sh.record(&id)["phase"] == "done")?;
        let done = bj.shows(&id);
        ensure(names(&done["unproven"]).is_empty(), || format!("trial {trial}: {done}"))?;
        ensure(sh.record(&id)["unproven"] == done["unproven"], || sh.record(&id).to_string())?;
    }
    eventually("the instance that was not drained", PATIENCE, || bj.serves() && sh.serves())?;
    Ok(())
}
