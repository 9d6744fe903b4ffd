//! Waypost seen from outside: real processes, real sockets, real disks, and a real Consul agent where there is one.
//!
//! One binary with its own harness, because a test whose component is missing must be listed as ignored, with the
//! reason, before the run; it never returns early as passed. Every scenario of the main job runs on the embedded
//! engine and on Consul from the same code. `WAYPOST_FULL=1` takes the long counts.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test binary"
)]

mod across;
mod asking;
mod bad_input;
mod cli;
mod components;
mod crash;
mod cut;
mod dark;
mod differential;
mod doubt;
mod drain;
mod drained;
mod drains_across;
mod engine;
mod exchange;
mod explain;
mod failover;
mod full_disk;
mod gateway;
mod geo;
mod harness;
mod identical;
mod idle;
mod instance;
mod logging;
mod loopback_site;
mod names;
mod network;
mod old_layout;
mod outage;
mod partitions;
mod peers;
mod registry;
mod reread;
mod rig;
mod security;
mod several;
mod sites;
mod sites_rig;
mod stale;
mod starts;
mod status;
mod steps;
mod stored;
mod takeover;
mod three_sites;
mod tokens;
mod tools;
mod two_sites;
mod wire;
mod zones;

use std::process::ExitCode;

use components::Components;
use harness::Backing;
use libtest_mimic::{Arguments, Failed, Trial};

/// A scenario of the main job: it gets the engine to run on.
type Scenario = fn(Backing) -> Result<(), Failed>;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("names_lead_to_the_nearest_site_and_an_instance", names::lead_to_the_nearest_site_and_an_instance),
    ("a_killed_gateway_moves_the_answer_and_returns_after_its_hold_down", failover::killed_gateway),
    ("an_instance_killed_under_load_fails_no_request", instance::killed_under_load),
    ("an_instance_drained_under_load_leaves_with_receipts", drain::under_load),
    ("a_frozen_gateway_is_a_laggard_by_name_until_it_wakes", drain::frozen_gateway_wakes),
    ("a_gateway_frozen_beyond_its_lease_is_unproven_by_name", drain::frozen_gateway_lapses),
    ("a_cancelled_drain_lets_the_instance_back_in", drain::cancelled),
    ("a_drain_survives_a_restart_of_control", drain::survives_control),
    ("a_killed_control_is_succeeded_by_the_other_in_the_middle_of_its_work", takeover::killed_leader),
    ("a_view_that_nothing_refreshes_is_called_stale", stale::without_vantages_and_without_an_engine),
    ("a_drained_instance_that_lives_is_never_back", drained::living_instance_is_never_back),
    ("a_drained_instance_that_restarts_is_back_at_once", drained::restarts_under_the_same_id_and_port),
    ("status_says_in_words_what_is_wrong", status::in_words),
    ("a_stuck_drain_says_why", status::stuck_drain),
    ("a_past_moment_is_explained_with_the_documents_of_then", status::the_past),
    ("a_request_is_explained_as_the_gateway_treats_it", explain::request),
    ("dns_and_gateways_outlive_engine_and_control", outage::engine_and_control_killed),
    ("sites_of_the_old_layout_join_at_once_without_a_changed_answer", old_layout::joins_at_once),
    (
        "sites_of_the_old_layout_join_once_their_documents_are_equal",
        old_layout::joins_when_the_documents_are_equal,
    ),
    (
        "a_site_of_the_old_layout_takes_the_documents_of_the_home_on_order",
        old_layout::takes_the_home_on_order,
    ),
];

/// The beginnings of the names of trials that are played two at a time, the longest first: they wait most of the time, for
/// deadlines of many seconds, and give no figures. Each has namespaces of its own, or takes all of its ports from
/// [`harness::free_port`]; a demo takes some by itself, so no trial with a demo is among them.
const SIDE_BY_SIDE: &[&str] = &[
    "partitions::",
    "consul::an_idle_node",
    "doubt::every_client_agent_dead",
    "doubt::",
    "across::",
    "dark::",
    "exchange::",
    "drains_across::",
    "three_sites::",
    "steps::",
    "consul::one_watch_follows",
    "consul::a_restarted_agent",
    "full_disk::",
    "crash::",
    "stored::",
];

/// The place of a trial among those that are played side by side.
fn beside(trial: &Trial) -> Option<usize> {
    SIDE_BY_SIDE.iter().position(|begin| trial.name().starts_with(begin))
}

fn main() -> ExitCode {
    harness::install_crypto();
    let mut arguments = Arguments::from_args();
    let components = Components::find();
    let (mut beside_others, alone): (Vec<_>, Vec<_>) =
        trials(&components).into_iter().partition(|trial| beside(trial).is_some());
    beside_others.sort_by_key(beside);
    // Two cores: scenarios that measure load and latency must not share them. In the full run all of them measure.
    arguments.test_threads = Some(1);
    let first = libtest_mimic::run(&arguments, alone);
    arguments.test_threads = Some(if harness::full() { 1 } else { 2 });
    let second = libtest_mimic::run(&arguments, beside_others);
    if first.has_failed() { first.exit_code() } else { second.exit_code() }
}

fn trials(components: &Components) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, scenario) in SCENARIOS {
        trials.push(Trial::test(format!("embedded::{name}"), move || scenario(Backing::Embedded)));
        trials.push(
            components
                .needs_consul(format!("consul::{name}"), move |consul| scenario(Backing::Consul(consul))),
        );
    }
    trials.extend(bad_input::trials());
    trials.extend(cli::trials());
    trials.extend(crash::trials(components));
    trials.extend(differential::trials(components));
    trials.extend(doubt::trials(components));
    trials.extend(drained::trials());
    trials.extend(drains_across::trials(components));
    trials.extend(engine::trials(components));
    trials.extend(full_disk::trials());
    trials.extend(gateway::trials(components));
    trials.extend(geo::trials());
    trials.extend(identical::trials());
    trials.extend(idle::trials(components));
    trials.extend(logging::trials());
    trials.extend(peers::trials(components));
    trials.extend(registry::trials(components));
    trials.extend(reread::trials());
    trials.extend(exchange::trials(components));
    trials.extend(rig::trials(components));
    trials.extend(security::trials());
    trials.extend(several::trials());
    trials.extend(sites::trials());
    trials.extend(starts::trials());
    trials.extend(status::trials());
    trials.extend(stored::trials(components));
    trials.extend(tokens::trials(components));
    trials.extend(tools::trials(components));
    trials.extend(two_sites::trials(components));
    trials.extend(zones::trials(components));
    trials.extend(across::trials(components));
    trials.extend(cut::trials(components));
    trials.extend(dark::trials(components));
    trials.extend(partitions::trials(components));
    trials.extend(steps::trials(components));
    trials.extend(three_sites::trials(components));
    trials
}
