//! The table of `docs/partitions.md`: every partition is made, and what the sites do is compared with its row.

use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::{
    components::Components,
    harness::{Backing, ensure, eventually},
    sites_rig::{CONTROL_PORT, GATEWAY_PORT, GATEWAYS, OUTSIDE, PATIENCE, Rig, WEB, only},
};

const PAGE: &str = include_str!("../../docs/partitions.md");
/// How long what must not arrive, or must not change, is watched.
const WATCHED: Duration = Duration::from_millis(1_500);

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![
        components
            .needs_namespaces_and_consul("partitions::every_row_of_the_page_is_what_the_sites_do", every_row),
    ]
}

/// The cells of the table's rows, by the name of their columns.
struct Row<'p> {
    columns: Vec<&'p str>,
    cells: Vec<&'p str>,
}

impl Row<'_> {
    fn cell(&self, column: &str) -> Result<&str, Failed> {
        let at = self.columns.iter().position(|it| *it == column);
        at.and_then(|at| self.cells.get(at).copied()).ok_or_else(|| format!("no column {column:?}").into())
    }
}

fn rows() -> Vec<Row<'static>> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let is_row = |line: &&str| line.starts_with('|');
    let mut lines = PAGE.lines().skip_while(|line| !is_row(line)).take_while(is_row).map(cells);
    let columns = lines.next().unwrap_or_default();
    lines.skip(1).map(|cells| Row { columns: columns.clone(), cells }).collect()
}

fn every_row(consul: std::path::PathBuf) -> Result<(), Failed> {
    let engines = [("bj", Backing::Embedded), ("sh", Backing::Consul(consul))];
    let mut rig = Rig::start(&engines, (1, 0))?;
    let rows = rows();
    ensure(rows.len() >= 15, || format!("{} rows", rows.len()))?;
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let partition = row.cell("partition")?;
        let began = Instant::now();
        make(&mut rig, partition)?;
        let compared = compare(&rig, row, number);
        if let Err(failed) = compared {
            wrong.push(format!("{partition}: {}", failed.message().unwrap_or_default()));
        }
        mend(&mut rig, partition)?;
        let ended = Instant::now();
        rig.all_well().map_err(|failed| format!("after {partition:?}: {failed:?}"))?;
        rig.all_let_back()?;
        println!("  {partition}: {:.0?}, equal {:.1?} after its end", began.elapsed(), ended.elapsed());
    }
    ensure(wrong.is_empty(), || wrong.join("\n"))
}

fn make(rig: &mut Rig, partition: &str) -> Result<(), Failed> {
    match partition {
        "none" => {}
        "bj and sh do not hear one another" => rig.net.cut("bj", "sh")?,
        "bj is cut off from everything" => {
            rig.net.cut("bj", "sh")?;
            rig.net.cut("bj", OUTSIDE)?;
        }
        "sh is cut off from everything" => {
            rig.net.cut("bj", "sh")?;
            rig.net.cut("sh", OUTSIDE)?;
        }
        "the vantage outside is cut off from everything" => {
            rig.net.cut("bj", OUTSIDE)?;
            rig.net.cut("sh", OUTSIDE)?;
        }
        "bj does not hear the vantage outside" => {
            rig.net.cut_calls(OUTSIDE, "bj", &[CONTROL_PORT])?;
        }
        "the gateway of bj is reached only from bj" => {
            for from in ["sh", OUTSIDE] {
                rig.net.cut_calls(from, "bj", &[GATEWAY_PORT])?;
            }
        }
        "only the vantage in bj is left" => {
            rig.kill("sh", "prober");
            rig.kill_outside();
        }
        "bj cannot call sh" => cut_calls(rig, "bj", "sh")?,
        "sh cannot call bj" => cut_calls(rig, "sh", "bj")?,
        "the control of sh is dead" => rig.kill("sh", "control"),
        "the control of bj is dead" => rig.kill("bj", "control"),
        "the engine of sh is dead" => rig.kill("sh", "engine"),
        "sh is dark" => rig.kill_site("sh"),
        "bj is dark" => rig.kill_site("bj"),
        other => return Err(format!("the page has a partition that this test does not make: {other}").into()),
    }
    Ok(())
}

/// One site's control cannot ask the other's. Returns when it has noticed: a question that was asked before is still answered.
fn cut_calls(rig: &Rig, from: &str, to: &str) -> Result<(), Failed> {
    rig.net.cut_calls(from, to, &[CONTROL_PORT])?;
    eventually("a site that does not answer", PATIENCE, || rig.view(from).is_ok_and(|view| view.hears == 0))?;
    Ok(())
}

/// Undoes it.
fn mend(rig: &mut Rig, partition: &str) -> Result<(), Failed> {
    rig.net.heal()?;
    match partition {
        "only the vantage in bj is left" => {
            rig.start_roles("sh", &["prober"])?;
            rig.start_outside()?;
        }
        "the control of sh is dead" => rig.start_roles("sh", &["control"])?,
        "the control of bj is dead" => rig.start_roles("bj", &["control"])?,
        "the engine of sh is dead" => rig.start_roles("sh", &["engine"])?,
        "sh is dark" => rig.start_site("sh", 1)?,
        "bj is dark" => rig.start_site("bj", 1)?,
        _ => {}
    }
    Ok(())
}

fn compare(rig: &Rig, row: &Row<'_>, number: usize) -> Result<(), Failed> {
    for site in ["bj", "sh"] {
        let expected = row.cell(&format!("DNS of {site}"))?;
        let mut last = String::new();
        let answers = || {
            last = match rig.answer(site, site, GATEWAYS) {
                Ok(address) => rig.site_at(address).unwrap_or("?").to_owned(),
                Err(_) => "no answer".to_owned(),
            };
            last == expected
        };
        eventually("an answer", Duration::from_secs(15), answers)
            .map_err(|_| Failed::from(format!("DNS of {site} answers {last:?}, not {expected:?}")))?;
    }
    let expected = row.cell("stale")?;
    let mut last = String::new();
    eventually("a stale view", Duration::from_secs(25), || {
        last = stale(rig, row);
        last == expected
    })
    .map_err(|_| Failed::from(format!("stale: {last}, not {expected}")))?;
    gateways(rig, row)?;
    orders(rig, row, number)?;
    documents(rig, row, number)?;
    // Nothing of it was only for a moment.
    for site in ["bj", "sh"] {
        let expected = row.cell(&format!("DNS of {site}"))?;
        let now = rig.answer(site, site, GATEWAYS);
        let as_expected = match &now {
            Ok(address) => rig.site_at(*address) == Some(expected),
            Err(_) => expected == "no answer",
        };
        ensure(as_expected, || format!("DNS of {site} does not stay at {expected}: {now:?}"))?;
    }
    Ok(())
}

/// Where the name server, if there is one, is stale.
fn stale(rig: &Rig, row: &Row<'_>) -> String {
    let is_stale = |site: &str| {
        let lives = row.cell(&format!("DNS of {site}")).is_ok_and(|it| it != "no answer");
        lives && rig.dns_is_stale(site)
    };
    match (is_stale("bj"), is_stale("sh")) {
        (false, false) => "neither",
        (true, false) => "bj",
        (false, true) => "sh",
        (true, true) => "both",
    }
    .to_owned()
}

fn gateways(rig: &Rig, row: &Row<'_>) -> Result<(), Failed> {
    for (site, other) in [("bj", "sh"), ("sh", "bj")] {
        let expected = row.cell(&format!("gateway of {site}"))?;
        let own = rig.served(site, site, WEB);
        if expected == "no answer" {
            ensure(own.is_err(), || format!("gateway of {site}: {own:?}"))?;
            continue;
        }
        let is_own = own.as_ref().is_ok_and(|(status, id)| *status == 200 && id.starts_with(site));
        ensure(is_own, || format!("gateway of {site} for a service of both sites: {own:?}"))?;
        let fits: fn(u16) -> bool = match expected {
            "serves both" => |status| status == 200,
            "serves its own" => |status| (502..=504).contains(&status),
            other => return Err(format!("the page has {other:?} for a gateway").into()),
        };
        // The first requests may have been sent into the cut, over connections that were open.
        let mut across = Ok((0, String::new()));
        eventually("an answer across", Duration::from_secs(30), || {
            across = rig.served(site, site, &only(other));
            across.as_ref().is_ok_and(|(status, _)| fits(*status))
        })
        .map_err(|_| {
            Failed::from(format!("gateway of {site} for a service of {other}: {across:?}, not {expected}"))
        })?;
    }
    Ok(())
}

fn orders(rig: &Rig, row: &Row<'_>, number: usize) -> Result<(), Failed> {
    let mut absent = Vec::new();
    for (site, other) in [("bj", "sh"), ("sh", "bj")] {
        let expected = row.cell(&format!("orders at {site}"))?;
        let name = format!("row-{number}-{site}");
        let order = Rig::order(&name);
        let (taken, text) = rig.typed(site, &order)?;
        ensure(taken == (expected != "refused"), || format!("orders at {site}: {text}"))?;
        match expected {
            "refused" => {}
            "reach both" => {
                eventually("an order at the other site", Duration::from_secs(10), || {
                    rig.typed(other, &["get", "override", &name]).is_ok_and(|(found, _)| found)
                })?;
            }
            _ if expected == format!("stay at {site}") => absent.push((other, name)),
            other => return Err(format!("the page has {other:?} for orders").into()),
        }
    }
    absent_still(rig, "override", &absent)
}

fn documents(rig: &Rig, row: &Row<'_>, number: usize) -> Result<(), Failed> {
    let mut absent = Vec::new();
    for (site, other) in [("bj", "sh"), ("sh", "bj")] {
        let expected = row.cell(&format!("documents at {site}"))?;
        let name = format!("row-{number}-{site}");
        let document = format!("kind: Service\nname: {name}\ncluster: main\nconsul: {{ service: none }}\n");
        let (taken, text) = rig.try_apply(site, &document)?;
        ensure(taken == (expected != "refused"), || format!("documents at {site}: {text}"))?;
        match expected {
            "refused" => absent.push((other, name)),
            "reach both" => {
                eventually("a document at both sites", Duration::from_secs(10), || {
                    [site, other]
                        .iter()
                        .all(|at| rig.typed(at, &["get", "service", &name]).is_ok_and(|(found, _)| found))
                })?;
            }
            _ if expected == format!("stay at {site}") => absent.push((other, name)),
            other => return Err(format!("the page has {other:?} for documents").into()),
        }
    }
    absent_still(rig, "service", &absent)
}

/// What must not have reached a site has not, also a while later.
fn absent_still(rig: &Rig, kind: &str, absent: &[(&str, String)]) -> Result<(), Failed> {
    if !absent.is_empty() {
        std::thread::sleep(WATCHED);
    }
    for (site, name) in absent {
        let (found, text) = rig.typed(site, &["get", kind, name])?;
        ensure(!found, || format!("{kind} {name} has reached {site}: {text}"))?;
    }
    Ok(())
}
