//! Every process of the home site is killed at once: the other site goes on by itself, takes orders, and both are equal soon
//! after the site is back.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};

use crate::{
    asking::load,
    components::Components,
    harness::{Backing, ensure, eventually, full},
    sites_rig::{CLIENTS, GATEWAYS, OTHER, OUTSIDE, PATIENCE, Rig, WEB, only, two},
};

const HOLD_DOWN: u32 = 3;
const RAMP: u32 = 6;
/// How long a site stays dark after everything was shown.
const DARK: Duration = Duration::from_secs(2);

/// What the issue asks for.
const MOVED_WITHIN: Duration = Duration::from_secs(2);
const ORDERED_WITHIN: Duration = Duration::from_secs(1);
const EQUAL_WITHIN: Duration = Duration::from_secs(5);

pub fn trials(components: &Components) -> Vec<Trial> {
    vec![
        components
            .needs_namespaces("dark::embedded::the_home_is_killed_whole_and_the_other_site_goes_on", || {
                home_killed(&Backing::Embedded, if full() { 20 } else { 2 })
            }),
        components.needs_namespaces_and_consul(
            "dark::consul::the_home_is_killed_whole_and_the_other_site_goes_on",
            |consul| home_killed(&Backing::Consul(consul), if full() { 20 } else { 1 }),
        ),
    ]
}

/// What was measured in one trial.
#[derive(Default)]
struct Measured {
    /// From the kill until the other site's name server answered without the home.
    moved: Duration,
    /// From the command until an order had its effect on an answer.
    ordered: Duration,
    /// From the start of the home's processes until everything was equal, and from the first answer of its control.
    equal: Duration,
    equal_after_control: Duration,
    /// From the first client that came back to the last.
    ramp: Duration,
    requests: u64,
    failed: u64,
}

fn home_killed(backing: &Backing, trials: usize) -> Result<(), Failed> {
    let mut rig = Rig::start(&two(backing), (HOLD_DOWN, RAMP))?;
    let mut all = Vec::new();
    for number in 1..=trials {
        let measured = trial(&mut rig, number)
            .map_err(|failed| format!("trial {number}: {failed:?}{}", rig.last_words()))?;
        all.push(measured);
    }
    report(&all)
}

fn report(all: &[Measured]) -> Result<(), Failed> {
    println!("  | measured in {} trials | median | worst | at most |", all.len());
    println!("  |---|---|---|---|");
    let mut broken = Vec::new();
    let mut row = |what: &str, of: fn(&Measured) -> Duration, limit: Option<Duration>| {
        let mut values: Vec<Duration> = all.iter().map(of).collect();
        values.sort_unstable();
        let (median, worst) = (values[values.len() / 2], values[values.len() - 1]);
        let limit_text = limit.map_or_else(String::new, |limit| format!("{limit:.1?}"));
        println!("  | {what} | {median:.2?} | {worst:.2?} | {limit_text} |");
        if limit.is_some_and(|limit| worst > limit) {
            broken.push(format!("{what}: {worst:.2?}"));
        }
    };
    row("the other site's DNS answers without the home", |it| it.moved, Some(MOVED_WITHIN));
    row("an override given there has its effect", |it| it.ordered, Some(ORDERED_WITHIN));
    row("all equal since the home's processes were started", |it| it.equal, None);
    row("all equal since the home's control answered", |it| it.equal_after_control, Some(EQUAL_WITHIN));
    row("from the first client that is back to the last", |it| it.ramp, None);
    let (requests, failed) = all.iter().fold((0, 0), |sum, it| (sum.0 + it.requests, sum.1 + it.failed));
    println!("  {requests} requests at the other site's gateway, {failed} failed");
    // Others may use this machine; only the full run tests the limits.
    ensure(!full() || broken.is_empty(), || broken.join("; "))
}

fn trial(rig: &mut Rig, number: usize) -> Result<Measured, Failed> {
    let mut measured = Measured::default();
    let (bj, sh) = (rig.site("bj").address, rig.site("sh").address);
    let load = load(rig.outside(), &[rig.site("sh").gateway()], WEB, 100);
    let watch = rig.watch(OUTSIDE, "sh", GATEWAYS);
    eventually("the home in the answer", PATIENCE, || watch.last() == Some(bj))?;

    let killed = Instant::now();
    rig.kill_site("bj");
    eventually("an answer without the home", PATIENCE, || watch.last() == Some(sh))?;
    measured.moved = watch.since(sh).unwrap_or_else(Instant::now) - killed;
    measured.ordered = order(rig, number)?;
    rig.kill("sh", &format!("only-sh-{number}"));
    rig.start_back_end("sh", "only-sh", &format!("only-sh-{}", number + 1))?;
    std::thread::sleep(DARK);

    let started = Instant::now();
    rig.start_site("bj", number + 1)?;
    eventually("an answer of the home's control", PATIENCE, || rig.status("bj").is_ok())?;
    let answered = Instant::now();
    eventually("the same at both sites", PATIENCE, || is_equal(rig, number))
        .map_err(|failed| Failed::from(format!("{failed:?}: {:?} {:?}", rig.view("bj"), rig.view("sh"))))?;
    measured.equal = started.elapsed();
    measured.equal_after_control = answered.elapsed();
    ensure(watch.changes_since(killed) >= 1, || "the watch lost its answers".to_owned())?;
    measured.ramp = ramp(rig, started)?;

    let report = rig.outside().run(load.finish());
    (measured.requests, measured.failed) = (report.sent, report.failed());
    ensure(report.failed() == 0, || format!("requests failed at the other site: {:?}", report.failures))?;
    rig.done("bj", &["override", "clear", "away-from-sh"])?;
    rig.all_well()?;
    rig.all_let_back()?;
    Ok(measured)
}

/// An order at the site that is left: how long until it has its effect.
fn order(rig: &Rig, number: usize) -> Result<Duration, Failed> {
    let (bj, sh) = (rig.site("bj").address, rig.site("sh").address);
    let answer = || rig.answer(OUTSIDE, "sh", OTHER);
    ensure(answer() == Ok(sh), || format!("before the order: {:?}", answer()))?;
    let began = Instant::now();
    let reason = format!("trial {number}");
    let arguments = [
        "override",
        "set",
        "away-from-sh",
        "--domain",
        OTHER,
        "--site",
        "sh",
        "--state",
        "down",
        "--owner",
        "o",
        "--reason",
        &reason,
    ];
    rig.done("sh", &arguments)?;
    eventually("the effect of an order", PATIENCE, || answer() == Ok(bj))?;
    Ok(began.elapsed())
}

/// Generation, orders and verdicts are the same, and each gateway serves what was started at the other site meanwhile.
fn is_equal(rig: &Rig, number: usize) -> bool {
    let (Ok(bj), Ok(sh)) = (rig.view("bj"), rig.view("sh")) else { return false };
    let is_served = |at: &str, of: &str| {
        let expected = format!("only-{of}-{}", number + 1);
        rig.served(OUTSIDE, at, &only(of)).is_ok_and(|it| it == (200, expected))
    };
    bj.is_as(&sh) && bj.agrees && sh.agrees && !bj.stale && is_served("bj", "sh") && is_served("sh", "bj")
}

/// Follows the answers for some clients until all have come back: each of them once, one after another, and both name
/// servers agree in the end. Returns the time from the first to the last.
fn ramp(rig: &Rig, started: Instant) -> Result<Duration, Failed> {
    let home = rig.site("bj").address;
    let mut back: BTreeMap<Ipv4Addr, Instant> = BTreeMap::new();
    let mut gone_again = Vec::new();
    eventually("the return of every client", PATIENCE, || {
        for (client, address) in rig.answers_of_clients("sh", GATEWAYS) {
            if address == home {
                back.entry(client).or_insert_with(Instant::now);
            } else if back.contains_key(&client) {
                gone_again.push(client);
            }
        }
        back.len() == CLIENTS.len()
    })?;
    ensure(gone_again.is_empty(), || format!("clients came back and went again: {gone_again:?}"))?;
    let first = back.values().min().copied().unwrap_or(started);
    let last = back.values().max().copied().unwrap_or(started);
    ensure(first - started >= Duration::from_secs(HOLD_DOWN.into()), || {
        format!("a client came back {:?} after the start, before the hold-down", first - started)
    })?;
    ensure(last - first >= Duration::from_secs(RAMP.into()) / 3, || {
        format!("all clients came back within {:?}, not by the ramp", last - first)
    })?;
    eventually("the same answers at both sites", PATIENCE, || {
        rig.answers_of_clients("sh", GATEWAYS) == rig.answers_of_clients("bj", GATEWAYS)
    })?;
    Ok(last - first)
}
