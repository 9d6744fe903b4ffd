//! Deterministic simulation: the program's own prober, control, engine and follower in one process, with only the rim
//! replaced: clocks, network, targets and disks. A seed gives a world and its faults; a checker beside the
//! readers reports the invariants of the design that do not hold.
//!
//! `WAYPOST_SEED=n cargo test --test sim one_seed -- --nocapture` plays one seed and prints its trace, with
//! `WAYPOST_MESSAGES=1` every message of it, and with `WAYPOST_KIND=Connected` of sites whose controls are connected;
//! `WAYPOST_SEEDS=n` sets how many seeds of each kind are played (30 and 12, or 1,000 in full).
//!
//! A seed repeats itself because nodes meet only between windows of time; a message's latency and loss follow from
//! its content, not from which of two tasks sent first; and each node has its own source of random numbers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    unnameable_types,
    reason = "a test binary"
)]

mod answers;
mod boot;
mod check;
mod net;
mod node;
mod operator;
mod oracle;
mod rim;
mod run;
mod sites;
mod world;

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use net::lock;
use run::{Kind, Report, Sabotage, run};

/// The first seed; the others follow it.
const FIRST: u64 = 1;

fn seeds(short: u64) -> u64 {
    if let Some(count) = std::env::var("WAYPOST_SEEDS").ok().and_then(|it| it.parse().ok()) {
        return count;
    }
    if std::env::var("WAYPOST_FULL").is_ok_and(|it| it == "1") { 1_000 } else { short }
}

/// Plays seeds on every core, and gives those the closure wants, at most `most`.
fn search(
    count: u64,
    most: usize,
    kind: Kind,
    sabotage: Sabotage,
    wanted: impl Fn(&Report) -> bool + Sync,
) -> Vec<(u64, Report)> {
    let next = AtomicU64::new(FIRST);
    let found = Mutex::new(Vec::new());
    let play = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= FIRST + count || lock(&found).len() >= most {
                return;
            }
            let report = run(seed, kind, sabotage);
            if wanted(&report) {
                lock(&found).push((seed, report));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(play);
        }
    });
    found.into_inner().unwrap()
}

/// The name of the variable for how the sites of one seed are.
const KIND: &str = "WAYPOST_KIND";

fn hold_in_every_seed(kind: Kind, count: u64) {
    let failed = search(count, 10, kind, Sabotage::None, |report| !report.violations.is_empty());
    let lines = failed.iter().map(|(seed, report)| {
        let first = report.violations.first().map_or("", String::as_str);
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{kind:?}-{seed}.trace"));
        let trace = match std::fs::write(&file, report.trace.join("\n")) {
            Ok(()) => file.display().to_string(),
            Err(error) => error.to_string(),
        };
        format!(
            "{KIND}={kind:?} WAYPOST_SEED={seed} cargo test --test sim one_seed -- --nocapture\n    {first}\n    \
             trace: {trace}"
        )
    });
    let lines: Vec<String> = lines.collect();
    assert!(lines.is_empty(), "play them again:\n{}", lines.join("\n"));
}

#[test]
fn invariants_hold_in_every_seed() {
    hold_in_every_seed(Kind::Alone, seeds(30));
}

#[test]
fn invariants_hold_in_every_seed_of_connected_sites() {
    hold_in_every_seed(Kind::Connected, seeds(12));
}

/// Plays `WAYPOST_SEED`, and prints its trace.
#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("WAYPOST_SEED") else { return };
    let kind =
        if std::env::var(KIND).is_ok_and(|it| it == "Connected") { Kind::Connected } else { Kind::Alone };
    let report = run(seed.parse().expect("WAYPOST_SEED is a number"), kind, Sabotage::None);
    println!("{}", report.trace.join("\n"));
    assert_eq!(report.violations, Vec::<String>::new());
}

fn repeats_itself(kind: Kind, seeds: u64) {
    for seed in FIRST..FIRST + seeds {
        let (once, again) = (run(seed, kind, Sabotage::None), run(seed, kind, Sabotage::None));
        let differs = once.trace.iter().zip(&again.trace).find(|(a, b)| a != b);
        assert_eq!(differs, None, "{kind:?} seed {seed}");
        assert!(once == again, "{kind:?} seed {seed}");
    }
}

#[test]
fn a_seed_repeats_itself() {
    repeats_itself(Kind::Alone, (seeds(30) / 40).max(5));
}

/// The invariant that a violation names.
fn breaks(kind: Kind, sabotage: Sabotage, invariant: &str) {
    let named = |report: &Report| report.violations.iter().any(|it| it.starts_with(invariant));
    let noticed = search(200, 1, kind, sabotage, named);
    assert!(!noticed.is_empty(), "{sabotage:?} breaks {invariant}, and the checker does not notice");
}

#[test]
fn votes_of_the_silent_are_noticed() {
    breaks(Kind::Alone, Sabotage::CountStale, "4:");
}

#[test]
fn an_older_generation_is_noticed() {
    breaks(Kind::Alone, Sabotage::AdoptOlder, "6:");
}

#[test]
fn empty_answers_are_noticed() {
    breaks(Kind::Alone, Sabotage::EmptyWhenDown, "3:");
}

#[test]
fn forgetting_is_noticed() {
    breaks(Kind::Alone, Sabotage::ForgetWhenCut, "1:");
}

#[test]
fn a_vantage_that_never_doubts_itself_is_noticed() {
    breaks(Kind::Alone, Sabotage::BlindToItself, "4:");
}

#[test]
fn orders_taken_without_comparing_are_noticed() {
    breaks(Kind::Connected, Sabotage::OrdersAsTheyCome, "orders:");
}

#[test]
fn an_older_copy_is_noticed() {
    breaks(Kind::Connected, Sabotage::CopyOlder, "back:");
}

#[test]
fn a_half_copy_is_noticed() {
    breaks(Kind::Connected, Sabotage::HalfCopy, "whole:");
}

#[test]
fn an_ignored_adoption_is_noticed() {
    breaks(Kind::Connected, Sabotage::IgnoreAdoptions, "adoption:");
}

#[test]
fn instances_of_dark_sites_that_are_forgotten_are_noticed() {
    breaks(Kind::Connected, Sabotage::ForgetDarkSites, "instances:");
}

#[test]
fn shares_that_other_sites_do_not_hear_of_are_noticed() {
    breaks(Kind::Connected, Sabotage::KeepShares, "healed: shares:");
}

#[test]
fn a_caller_with_the_name_of_another_site_is_noticed() {
    breaks(Kind::Connected, Sabotage::AcceptOtherNames, "forged:");
}
