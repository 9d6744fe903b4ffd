//! Every kind of finding, with its text.

use std::collections::BTreeMap;

use store::{
    drain::Drain,
    health::{Tally, Verdict},
    model::Generation,
};

use super::*;
use crate::api::{
    DomainSite, DrainView, FailoverTime, HookState, InstanceCount, InstanceStatus, NodeStatus, SeenByVantage,
    ServiceStatus, VantageStatus,
};

const NOW: Moment = Moment(1_790_000_120_000);

fn site(name: &str, tier: &str) -> DomainSite {
    DomainSite { site: name.into(), state: tier.into(), tier: tier.into(), ..DomainSite::default() }
}

fn target(site: &str, state: State) -> TargetStatus {
    let see = |name: &str, state: State, reason: &str| {
        let seen =
            SeenByVantage { state: state.as_str().into(), fresh: true, reason: reason.into(), latency: None };
        (name.to_owned(), seen)
    };
    let reason = if state == State::Down { "connection refused" } else { "" };
    TargetStatus {
        key: format!("{site}-key"),
        site: site.into(),
        address: "192.0.2.1".into(),
        check: "web".into(),
        clusters: ["main".to_owned()].into(),
        verdict: Verdict { state, since: Moment(1_790_000_000_000), ..Verdict::default() },
        observations: BTreeMap::from([
            see("v1", state, reason),
            see("v2", state, reason),
            see("v3", State::Up, ""),
        ]),
    }
}

/// Two sites that are well, three vantages, two nodes.
fn world() -> Status {
    let domain = DomainStatus {
        name: "gw.example.com".into(),
        policy: "nearest".into(),
        sites: vec![site("bj", "up"), site("sh", "up")],
        answers: vec!["bj".into()],
        ..DomainStatus::default()
    };
    let vantage = |name: &str| VantageStatus { name: name.into(), fresh: true, withheld: false };
    let generation = Generation::new(1, 4);
    let node = |name: &str, site: &str| NodeStatus {
        node: name.into(),
        site: site.into(),
        roles: vec!["proxy".into()],
        generation: Some(generation),
        ..NodeStatus::default()
    };
    Status {
        generation,
        domains: vec![domain],
        targets: vec![target("bj", State::Up), target("sh", State::Up)],
        vantages: vec![vantage("v1"), vantage("v2"), vantage("v3")],
        nodes: vec![node("gw-bj", "bj"), node("gw-sh", "sh")],
        ..Status::default()
    }
}

/// The world with something done to it, judged.
fn judged(change: impl FnOnce(&mut Status)) -> Status {
    let mut status = world();
    change(&mut status);
    add(&mut status, NOW);
    status
}

fn texts(found: &[Finding]) -> Vec<&str> {
    found.iter().map(|it| it.text.as_str()).collect()
}

fn problems(change: impl FnOnce(&mut Status)) -> Vec<String> {
    texts(&judged(change).problems).into_iter().map(str::to_owned).collect()
}

fn notes(change: impl FnOnce(&mut Status)) -> Vec<String> {
    texts(&judged(change).notes).into_iter().map(str::to_owned).collect()
}

#[test]
fn what_is_well_is_said_in_a_line() {
    let status = judged(|_| ());
    assert!(status.well && status.problems.is_empty() && status.notes.is_empty(), "{status:?}");
    assert_eq!(status.summary, "well; generation 1.4, 1 domain, 2 targets (2 up), 3 vantages, 2 nodes");
}

#[test]
fn with_the_engine_away_no_living_node_or_vantage_is_blamed() {
    let status = judged(|status| {
        status.engine_error = Some("connection refused".into());
        status.engine_away = Some("25s".parse().unwrap());
        status.vantages.iter_mut().for_each(|vantage| vantage.fresh = false);
        status.nodes[0].lags = Some("5m".parse().unwrap());
        for target in &mut status.targets {
            target.verdict.held = true;
            target.verdict.tally = Tally { stale: 3, ..Tally::default() };
        }
    });
    assert_eq!(
        texts(&status.problems),
        [
            "the engine has not been readable for 25s (connection refused); what is shown of nodes, vantages, targets and \
          drains is as it was then; DNS and gateways go on with what they have, and no change takes effect"
        ]
    );
    assert!(
        status.summary.contains("3 vantages and 2 nodes (state unknown: the engine is away)"),
        "{}",
        status.summary
    );
}

#[test]
fn failing_open_is_said_with_the_site_that_is_dead() {
    let status = judged(|status| {
        status.domains[0].sites = vec![site("bj", "down"), site("sh", "forced down")];
        status.domains[0].answering = Answering::FailOpen;
        status.targets = vec![target("bj", State::Down), target("sh", State::Up)];
    });
    assert_eq!(
        texts(&status.problems),
        [
            "gw.example.com fails open: no site is left (bj down, sh forced down), so clients are still sent to bj",
            "bj 192.0.2.1 (check web) is down since 2026-09-21T14:13:20Z (2m): connection refused (seen down by 2 of \
             3 vantages)",
        ]
    );
    assert_eq!(
        status.summary,
        "NOT WELL, 2 problems; generation 1.4, 1 domain (1 failing open), 2 targets (1 up, 1 down), 3 vantages, 2 nodes"
    );
    let nothing = problems(|it| it.domains[0].answering = Answering::Nodata);
    assert!(nothing[0].ends_with("when_none is nodata: nothing is answered"), "{nothing:?}");
    let backup = problems(|it| it.domains[0].answering = Answering::Backup);
    assert_eq!(backup, ["gw.example.com: no site is left (bj up, sh up): the backup addresses are answered"]);
    let unknown = problems(|it| it.domains[0].answering = Answering::Unknown);
    assert!(unknown[0].ends_with("clients are sent to bj without a verdict"), "{unknown:?}");
}

#[test]
fn clients_of_a_family_or_of_a_forced_site_that_go_to_a_dead_one_are_said() {
    let one_family = problems(|status| {
        status.domains[0].dead_ends = vec![DeadEnd { family: "IPv6".into(), site: "bj".into() }];
        status.domains[0].answers = vec!["sh".into()];
    });
    assert_eq!(
        one_family,
        ["gw.example.com: IPv6 clients are still sent to bj, whose IPv6 addresses are down"]
    );
    let force = |status: &mut Status| {
        let order = OverrideInForce {
            name: "bj-up".into(),
            state: "up".into(),
            authority: "human".into(),
            owner: "ops".into(),
            reason: "it lives".into(),
            expires: None,
        };
        status.domains[0].sites[0] =
            DomainSite { state: "down".into(), forced: Some(order), ..site("bj", "up") };
    };
    let first = problems(|status| {
        force(status);
        status.domains[0].answering = Answering::FailOpen;
    });
    assert_eq!(
        first,
        ["gw.example.com fails open: bj is down and forced up, so clients are still sent there"]
    );
    let near = problems(|status| {
        force(status);
        status.domains[0].answers = vec!["sh".into()];
    });
    assert_eq!(near, ["gw.example.com: bj is down and forced up, so clients may be sent there"]);
}

#[test]
fn domains_that_are_answered_alike_are_said_together() {
    let found = judged(|status| {
        status.domains[0].answering = Answering::FailOpen;
        let uuid =
            DomainStatus { name: "6f0c1f6e-5c1e-4c53.example.com".into(), ..status.domains[0].clone() };
        status.domains.insert(0, uuid);
    });
    assert_eq!(
        texts(&found.problems),
        [
            "gw.example.com, 6f0c1f6e-5c1e-4c53.example.com fail open: no site is left (bj up, sh up), so clients are still \
          sent to bj"
        ]
    );
    assert_eq!(found.problems[0].about, "gw.example.com");
}

#[test]
fn a_site_that_counts_as_up_and_is_seen_down_is_said() {
    let found = problems(|status| {
        status.targets[0].observations = target("bj", State::Down).observations;
    });
    assert_eq!(
        found,
        ["bj 192.0.2.1 (check web) still counts as up: connection refused (seen down by 2 of 3 vantages)"]
    );
}

#[test]
fn a_site_whose_every_target_is_down_is_said_once() {
    let found = problems(|status| {
        status.targets.extend([target("bj", State::Down), target("bj", State::Down)]);
        status.targets.remove(0);
    });
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("all 2 targets of bj are down since"), "{found:?}");
}

#[test]
fn a_recovered_site_is_held_back_with_its_reason() {
    let held = |why: &str, until: Option<&str>, by_hand| HeldBackStatus {
        why: why.into(),
        until: until.map(str::to_owned),
        by_hand,
    };
    let waits = notes(|status| {
        status.domains[0].sites[0].held_back =
            Some(held("hold-down of 10s", Some("2026-09-21T14:15:30Z"), false));
    });
    assert_eq!(
        waits,
        ["bj is up again and is held back in gw.example.com: hold-down of 10s, until 2026-09-21T14:15:30Z"]
    );
    let by_hand =
        problems(|it| it.domains[0].sites[0].held_back = Some(held("recovery by hand", None, true)));
    assert_eq!(
        by_hand,
        [
            "bj is up again and is held back in gw.example.com: recovery by hand; let it back with: waypost override set \
          NAME --state release --site bj"
        ]
    );
}

#[test]
fn a_frozen_cluster_is_said_with_its_targets() {
    let found = problems(|status| {
        status.frozen = vec!["main".into()];
        status.frozen_since = [("main".into(), "2026-09-21T14:14:20Z".into())].into();
        status.targets[0].verdict.frozen = true;
        let other = TargetStatus { clusters: ["other".to_owned()].into(), ..status.targets[0].clone() };
        status.targets.push(TargetStatus { address: "192.0.2.9".into(), ..other });
        status.frozen.push("other".into());
    });
    assert!(
        found[1].contains("cluster other is frozen") && found[1].contains("kept: bj 192.0.2.9 (check web);")
    );
    assert!(found[0].contains("kept: bj 192.0.2.1 (check web);"), "{found:?}");
    assert!(
        found[0].starts_with(
            "health in cluster main is frozen since 2026-09-21T14:14:20Z (1m): more targets are down at once than its \
             guard allows, so their last good verdicts are kept: bj 192.0.2.1 (check web)"
        ),
        "{found:?}"
    );
}

#[test]
fn silent_vantages_and_the_targets_they_cannot_judge_are_reported() {
    let one = problems(|it| it.vantages[1].fresh = false);
    assert_eq!(one, ["vantage v2 does not report, so it has no vote"]);
    let all = problems(|status| {
        status.vantages.iter_mut().for_each(|vantage| vantage.fresh = false);
        status.targets[0].verdict.held = true;
        status.targets[0].verdict.tally = Tally { stale: 3, ..Tally::default() };
    });
    assert_eq!(
        all,
        [
            "too few vantages report to judge bj 192.0.2.1 (check web): the last verdicts are kept, and changes there are not noticed",
            "no vantage reports (v1, v2, v3): the sites are not probed, and verdicts do not change",
        ]
    );
    let doubts = problems(|it| it.vantages[0].withheld = true);
    assert!(doubts[0].starts_with("vantage v1 reports a fault of its own network"), "{doubts:?}");
    let split = notes(|status| {
        status.targets[0].verdict.held = true;
        status.targets[0].verdict.tally = Tally { up: 1, down: 1, unknown: 1, stale: 0 };
    });
    assert!(split[0].contains("1 up, 1 down, 1 unknown; its verdict stays up"), "{split:?}");
}

#[test]
fn a_stale_view_is_said_once_with_its_reason() {
    let view = || ViewStatus {
        stale: true,
        since: Some("2026-09-21T14:14:00Z".into()),
        reason: Some("3 of 3 vantages are silent (v1, v2, v3): too few are heard".into()),
    };
    let ours = problems(|status| {
        status.view = view();
        status.nodes[0].view = Some(view());
        status.vantages.iter_mut().for_each(|vantage| vantage.fresh = false);
    });
    let text = "no verdict changes since 2026-09-21T14:14:00Z: 3 of 3 vantages are silent (v1, v2, v3): too few are heard";
    assert_eq!(ours, [text]);
    let theirs = problems(|it| it.nodes[0].view = Some(view()));
    assert_eq!(theirs, [format!("on node gw-bj (bj), {text}")]);
}

#[test]
fn lost_nodes_and_those_that_lag_are_named() {
    let lost = problems(|status| {
        (status.nodes[0].lost, status.nodes[0].silent) = (true, "40s".parse().unwrap());
    });
    assert_eq!(lost, ["node gw-bj (bj; proxy) is lost: silent for 40s"]);
    let lags = |span: &str| {
        judged(|status| {
            status.nodes[0].lags = Some(span.parse().unwrap());
            status.nodes[0].generation = Some(Generation::new(1, 3));
        })
    };
    let text = "node gw-bj (bj; proxy) has run 1.3 instead of 1.4 for";
    assert_eq!(texts(&lags("25s").problems), [format!("{text} 25s")]);
    let fresh = lags("2s");
    assert!(fresh.well && fresh.notes[0].text == format!("{text} 2s"), "{fresh:?}");
}

#[test]
fn services_without_usable_instances_are_said() {
    let service = |standing: &str, reason: Option<&str>, known| ServiceStatus {
        name: "web".into(),
        standing: standing.into(),
        reason: reason.map(str::to_owned),
        known,
        instances: vec![InstanceStatus::default()],
        ..ServiceStatus::default()
    };
    let of_service = |service: ServiceStatus| problems(|it| it.services = vec![service]);
    assert!(of_service(service("present", None, Some(InstanceCount { all: 3, usable: 1 }))).is_empty());
    assert!(of_service(service("unread", None, None)).is_empty());
    assert_eq!(of_service(service("gone", None, None)), ["the registry has no instance of service web"]);
    assert_eq!(
        of_service(service("present", None, Some(InstanceCount { all: 3, usable: 0 }))),
        ["none of the 3 instances of service web is passing"]
    );
    let doubted = of_service(service("suspicious", Some("index went back from 9 to 1"), None));
    assert!(
        doubted[0].ends_with(
            "is suspicious, and its last known instances stay in use: index went back from 9 to 1"
        )
    );
}

fn drain(phase: Phase, stuck: Option<&str>, unproven: &[&str]) -> DrainView {
    let unproven = unproven.iter().map(|it| (*it).to_owned()).collect();
    let endpoint = store::testing::endpoint("web", "web-1");
    let drain = Drain { unproven, ..store::testing::drain("d1", endpoint, phase) };
    DrainView {
        drain,
        address: "127.0.0.1:80".into(),
        receipts: Vec::new(),
        awaited: BTreeSet::new(),
        hook_state: HookState::None,
        endings: Vec::new(),
        refused_by: BTreeSet::new(),
        still_registered: false,
        stuck: stuck.map(str::to_owned),
    }
}

#[test]
fn drains_are_said_and_stuck_ones_are_problems() {
    let with = |view: DrainView| judged(|it| it.drains = vec![view]);
    let moving = with(drain(Phase::Draining, None, &[]));
    assert!(moving.well && moving.notes[0].text == "the drain of web-1 of web is under way", "{moving:?}");
    assert!(moving.summary.ends_with(", 1 drain under way"), "{}", moving.summary);
    let stuck = with(drain(Phase::Draining, Some("g2 has been silent for 12s"), &[]));
    assert_eq!(
        texts(&stuck.problems),
        ["the drain of web-1 of web makes no progress: g2 has been silent for 12s (waypost drain show d1)"]
    );
    let over = with(drain(Phase::Done, None, &["g2"]));
    assert!(over.well && over.notes[0].text.contains("ended without proof from g2"), "{over:?}");
    assert!(with(drain(Phase::Done, None, &[])).notes.is_empty());
    let away = judged(|status| {
        status.engine_error = Some("away".into());
        status.drains = vec![drain(Phase::Draining, Some("g2 has been silent for 12s"), &[])];
    });
    assert_eq!(away.problems.len(), 1, "the engine is what is wrong: {away:?}");
}

#[test]
fn an_engine_that_takes_no_writes_is_a_problem() {
    let refuses = |it: &mut Status| it.engine_refuses = Some("no heartbeat: the disk is full".into());
    let status = judged(refuses);
    assert!(!status.well && status.problems[0].kind == "engine_refuses", "{status:?}");
    assert!(
        status.problems[0].text.starts_with("the engine takes no writes: no heartbeat: the disk is full; ")
    );
    let away = judged(|status| {
        refuses(status);
        status.engine_error = Some("connection refused".into());
    });
    assert_eq!(away.problems.iter().filter(|it| it.about == "engine").count(), 1, "{away:?}");
}

#[test]
fn orders_in_force_are_notes() {
    let order = |state: &str| OverrideInForce {
        name: "bj-work".into(),
        state: state.into(),
        authority: "human".into(),
        owner: "ops".into(),
        reason: "switch".into(),
        expires: Some("2026-12-01T04:00:00Z".into()),
    };
    let noted = notes(|it| it.domains[0].sites[0].forced = Some(order("down")));
    assert_eq!(
        noted,
        ["bj is forced down in gw.example.com by ops: switch (override bj-work, until 2026-12-01T04:00:00Z)"]
    );
    let drained = notes(|it| it.domains[0].sites[0].forced = Some(order("drain")));
    assert!(drained[0].starts_with("bj is being drained in"), "{drained:?}");
}

#[test]
fn a_budget_that_cannot_be_kept_is_a_problem() {
    let found = problems(|status| {
        let (whole, budget) = ("31s".parse().unwrap(), Some("20s".parse().unwrap()));
        status.domains[0].failover = Some(FailoverTime { whole, budget, ..FailoverTime::default() });
    });
    assert_eq!(found, ["a failover of gw.example.com may take 31s, which is more than its budget of 20s"]);
}

#[test]
fn very_many_alike_are_counted() {
    let found = problems(|status| {
        status.nodes = (0..5_000).map(|_| NodeStatus { lost: true, ..status.nodes[0].clone() }).collect();
    });
    assert_eq!(found.len(), MAX_ALIKE + 1);
    assert_eq!(found[MAX_ALIKE], "4980 more findings of the kind node_lost are not listed");
}
