//! The link between two sites is cut under load: no request fails on either side, no answer changes, both take orders, and
//! both are equal soon after the link is back.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};

use crate::{
    asking::load,
    components::Components,
    harness::{Backing, ensure, eventually, full},
    sites_rig::{GATEWAYS, OTHER, OUTSIDE, PATIENCE, Rig, WEB, only},
};

const EQUAL_WITHIN: Duration = Duration::from_secs(5);
/// How long answers are watched after the link is back.
const AFTERWARDS: Duration = Duration::from_secs(5);

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![components.needs_namespaces_and_consul(
        "cut::no_request_fails_and_no_answer_changes_while_two_sites_do_not_hear_one_another",
        under_load,
    )]
}

fn under_load(consul: PathBuf) -> Result<(), Failed> {
    let cut_for = Duration::from_secs(if full() { 60 } else { 12 });
    let mut rig = Rig::start(&[("bj", Backing::Embedded), ("sh", Backing::Consul(consul))], (3, 0))?;
    for id in ["bj-3", "bj-4"] {
        rig.start_back_end("bj", "web", id)?;
    }
    let sites = ["bj", "sh"];
    // Each site's own clients, and some outside that use both.
    let mut loads = Vec::new();
    for site in sites {
        loads.push((site, load(rig.place(site), &[rig.site(site).gateway()], WEB, 50)));
    }
    let both = [rig.site("bj").gateway(), rig.site("sh").gateway()];
    loads.push((OUTSIDE, load(rig.outside(), &both, WEB, 50)));
    let watches: Vec<_> =
        sites.iter().flat_map(|site| [GATEWAYS, OTHER].map(|name| rig.watch(site, site, name))).collect();
    eventually("answers", PATIENCE, || watches.iter().all(|it| it.last().is_some()))?;

    let began = Instant::now();
    rig.net.cut("bj", "sh")?;
    eventually("sites that do not hear one another", PATIENCE, || {
        sites.iter().all(|site| rig.view(site).is_ok_and(|view| view.hears == 0))
    })?;
    println!("  both controls named the other as dark {:.1?} after the cut", began.elapsed());
    for (site, service) in [("bj", "only-bj"), ("sh", "only-sh")] {
        let name = format!("at-{site}");
        rig.done(site, &Rig::order(&name))?;
        rig.kill(site, &format!("only-{site}-1"));
        rig.start_back_end(site, service, &format!("only-{site}-2"))?;
    }
    rig.apply("bj", "kind: Service\nname: of-the-cut\ncluster: main\nconsul: { service: none }\n")?;
    let waits = drain(&rig, "bj-3", &[])?;
    let goes_on = drain(&rig, "bj-4", &["--lease", "6s", "--dark-site", "unproven"])?;
    eventually("the end of a drain without the dark site", PATIENCE, || {
        shows(&rig, "bj", &goes_on)["phase"] == "done"
    })?;
    let unproven = shows(&rig, "bj", &goes_on)["unproven"].to_string();
    ensure(unproven == "[\"sh\"]", || format!("unproven: {unproven}"))?;
    println!("  a drain that may go on ended {:.1?} after the cut", began.elapsed());
    std::thread::sleep(cut_for.saturating_sub(began.elapsed()));
    let waiting = shows(&rig, "bj", &waits);
    ensure(waiting["phase"] == "draining" && waiting["awaited"] == serde_json::json!(["sh"]), || {
        waiting.to_string()
    })?;
    for site in sites {
        ensure(rig.view(site).is_ok_and(|view| !view.stale), || {
            format!("{site} hears two of three, and is stale")
        })?;
    }

    rig.net.heal()?;
    let healed = Instant::now();
    eventually("the same at both sites", PATIENCE, || is_equal(&rig))
        .map_err(|failed| format!("{failed:?}: {:?} {:?}", rig.view("bj"), rig.view("sh")))?;
    let equal = healed.elapsed();
    for id in [&waits, &goes_on] {
        for site in sites {
            eventually("the end of a drain at both sites", PATIENCE, || {
                shows(&rig, site, id)["phase"] == "done"
            })?;
        }
    }
    println!("  the drain that had to wait ended {:.1?} after the cut was healed", healed.elapsed());
    std::thread::sleep(AFTERWARDS);
    println!("  cut for {cut_for:?}; equal {equal:.2?} after it was healed, at most {EQUAL_WITHIN:?}");
    let changes: usize = watches.iter().map(|it| it.changes_since(began)).sum();
    let mut failed = 0;
    for (clients, load) in loads {
        let report = rig.place(clients).run(load.finish());
        println!(
            "  clients at {clients}: {} requests, {} failed {:?}, slowest {:.0?}",
            report.sent,
            report.failed(),
            report.failures,
            report.slowest
        );
        failed += report.failed();
    }
    println!("  {changes} answers changed");
    ensure(failed == 0, || format!("{failed} requests failed"))?;
    ensure(changes == 0, || {
        format!("{:?}", watches.iter().map(crate::asking::Watch::seen).collect::<Vec<_>>())
    })?;
    ensure(!full() || equal < EQUAL_WITHIN, || format!("equal after {equal:?}"))
}

fn is_equal(rig: &Rig) -> bool {
    let (Ok(bj), Ok(sh)) = (rig.view("bj"), rig.view("sh")) else { return false };
    let has_all =
        |view: &crate::sites_rig::View| ["at-bj", "at-sh"].iter().all(|it| view.orders.contains(it));
    let is_served = |at: &str, of: &str| {
        rig.served(at, at, &only(of)).is_ok_and(|it| it == (200, format!("only-{of}-2")))
    };
    bj.is_as(&sh) && bj.agrees && sh.agrees && has_all(&bj) && is_served("bj", "sh") && is_served("sh", "bj")
}

/// Orders a drain at bj; its id.
fn drain(rig: &Rig, id: &str, more: &[&str]) -> Result<String, Failed> {
    let printed = rig.done("bj", &[&["drain", "instance", "web", id], more].concat())?;
    Ok(printed.trim().to_owned())
}

fn shows(rig: &Rig, site: &str, id: &str) -> serde_json::Value {
    let shown = rig.done(site, &["--json", "drain", "show", id]);
    shown.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
