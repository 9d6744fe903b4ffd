//! Three sites, one of them with the embedded engine and two with a Consul server each: how soon every node of every site runs
//! what was applied, and how soon a site that was away does.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};

use crate::{
    asking::{ask_gateway, first_address},
    components::Components,
    harness::{Backing, ensure, eventually, full},
    sites_rig::{OUTSIDE, PATIENCE, Rig, ZONE},
};

const RUN_WITHIN: Duration = Duration::from_secs(2);
const CURRENT_WITHIN: Duration = Duration::from_secs(5);

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![components.needs_namespaces_and_consul(
        "three_sites::every_node_of_every_site_runs_what_was_applied_and_a_site_that_was_away_catches_up",
        applied,
    )]
}

fn applied(consul: PathBuf) -> Result<(), Failed> {
    let consul = Backing::Consul(consul);
    let engines = [("bj", Backing::Embedded), ("sh", consul.clone()), ("gz", consul)];
    let rig = Rig::start(&engines, (1, 0))?;
    let trials = if full() { 100 } else { 8 };
    // At the home, and at a site that passes it on.
    for at in ["bj", "sh"] {
        let mut took = Vec::new();
        for number in 0..trials {
            let began = Instant::now();
            apply(&rig, at, &format!("{at}-{number}"))?;
            took.push(runs_everywhere(&rig, &format!("{at}-{number}"), began)?);
        }
        took.sort_unstable();
        let p99 = took[(took.len() * 99).div_ceil(100) - 1];
        println!(
            "  applied at {at} ({trials} times): every node of every site runs it after {:.2?} (median), {p99:.2?} (p99), at \
             most {RUN_WITHIN:?}",
            took[took.len() / 2]
        );
        ensure(!full() || p99 < RUN_WITHIN, || format!("applied at {at}: p99 {p99:?}"))?;
    }
    away(&rig)
}

fn apply(rig: &Rig, at: &str, name: &str) -> Result<(), Failed> {
    let service = format!(
        "kind: Service\nname: {name}\ncluster: main\nconsul: {{ service: web }}\nhosts: [{name}.{ZONE}]\n"
    );
    let (taken, text) = rig.try_apply(at, &service)?;
    ensure(taken, || format!("apply at {at}: {text}"))
}

/// Waits until every name server knows the name of a new service and every gateway serves it.
fn runs_everywhere(rig: &Rig, name: &str, since: Instant) -> Result<Duration, Failed> {
    for site in &rig.sites {
        let (dns, gateway) = (site.dns(), site.gateway());
        let host = format!("{name}.{ZONE}");
        eventually(&format!("{name} at {}", site.name), PATIENCE, || {
            let host = host.clone();
            rig.place(site.name).run(async move { runs(dns, gateway, &host).await })
        })?;
    }
    Ok(since.elapsed())
}

async fn runs(dns: SocketAddr, gateway: SocketAddr, host: &str) -> bool {
    first_address(dns, host, None).await.is_ok()
        && ask_gateway(gateway, host).await.is_ok_and(|(status, _)| status == 200)
}

/// One site is cut off for a while, and documents change.
fn away(rig: &Rig) -> Result<(), Failed> {
    let away_for = Duration::from_secs(if full() { 60 } else { 8 });
    let began = Instant::now();
    for other in ["bj", "sh", OUTSIDE] {
        rig.net.cut("gz", other)?;
    }
    eventually("a dark site", PATIENCE, || {
        rig.status("bj").is_ok_and(|status| status["problems"].to_string().contains("site_dark"))
    })?;
    for number in 0..5 {
        apply(rig, "bj", &format!("meanwhile-{number}"))?;
    }
    let status = rig.status("bj")?;
    let gz = status["sites"].as_array().into_iter().flatten().find(|it| it["site"] == "gz").cloned();
    let is_behind = gz.as_ref().is_some_and(|gz| gz["generation"] != status["generation"]);
    ensure(is_behind, || format!("status shows the generation of a site that is away: {gz:?}"))?;
    std::thread::sleep(away_for.saturating_sub(began.elapsed()));
    rig.net.heal()?;
    let current = runs_everywhere(rig, "meanwhile-4", Instant::now())?;
    println!("  away for {away_for:?}: every node current {current:.2?} later, at most {CURRENT_WITHIN:?}");
    ensure(!full() || current < CURRENT_WITHIN, || format!("current after {current:?}"))?;
    rig.all_well().map(drop)
}
