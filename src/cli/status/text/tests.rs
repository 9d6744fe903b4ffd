//! What a status looks like.

use store::model::Generation;

use super::*;
use crate::api::{HeldBackStatus, InstanceCount, NodeStatus, VantageStatus};

fn finding(text: &str) -> Finding {
    Finding { kind: "kind".into(), about: "about".into(), text: text.into() }
}

/// One site is dead, the other is back and held; the engine answers.
fn troubled() -> Status {
    let site = |name: &str, state: &str| DomainSite {
        site: name.into(),
        state: state.into(),
        tier: state.into(),
        ..DomainSite::default()
    };
    let held = HeldBackStatus {
        why: "hold-down of 10s".into(),
        until: Some("2026-09-21T14:15:30Z".into()),
        by_hand: false,
    };
    let generation = Generation::new(1, 4);
    Status {
        summary: "NOT WELL, 1 problem; generation 1.4".into(),
        problems: vec![finding("gw.example.com fails open")],
        notes: vec![finding("sh is held back")],
        generation,
        domains: vec![DomainStatus {
            name: "gw.example.com".into(),
            policy: "nearest".into(),
            sites: vec![site("bj", "down"), DomainSite { held_back: Some(held), ..site("sh", "up") }],
            answers: vec!["bj".into()],
            answering: Answering::FailOpen,
            ..DomainStatus::default()
        }],
        vantages: vec![
            VantageStatus { name: "v1".into(), fresh: true, withheld: false },
            VantageStatus { name: "v2".into(), fresh: false, withheld: false },
        ],
        nodes: vec![NodeStatus {
            node: "gw-bj".into(),
            site: "bj".into(),
            roles: vec!["proxy".into()],
            generation: Some(Generation::new(1, 3)),
            silent: "40s".parse().unwrap(),
            lost: true,
            lags: Some("50s".parse().unwrap()),
            ..NodeStatus::default()
        }],
        services: vec![ServiceStatus {
            name: "web".into(),
            registry: "web-registry".into(),
            hosts: vec!["web.example.com".into()],
            known: Some(InstanceCount { all: 1, usable: 0 }),
            instances: vec![InstanceStatus {
                id: "web-1".into(),
                node: "n1".into(),
                address: "127.0.0.1:80".into(),
                site: Some("bj".into()),
                state: "critical".into(),
                reason: Some("a check of it or of its node fails".into()),
                ..InstanceStatus::default()
            }],
            ..ServiceStatus::default()
        }],
        ..Status::default()
    }
}

#[test]
fn problems_come_first() {
    let expected = "\
NOT WELL, 1 problem; generation 1.4

Problems
  - gw.example.com fails open

Notes
  - sh is held back

Domains
  NAME            POLICY   SITES                                              FAILOVER  ANSWERS
  gw.example.com  nearest  bj down, sh up (held back until 2026-09-21T14:15:30Z)            bj (FAILS OPEN)
";
    let text = whole(&troubled());
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat(&text).starts_with(&flat(expected)), "{text}");
    for line in [
        "v2 silent",
        "gw-bj bj proxy 1.3 (lags for 50s) LOST, silent for 40s",
        "web web.example.com 0 of 1 usable",
        "Instances of web (registered as web-registry)",
        "bj web-1 n1 127.0.0.1:80 critical a check of it or of its node fails",
    ] {
        assert!(flat(&text).contains(line), "no {line:?} in\n{text}");
    }
    assert_eq!(
        problems(&troubled()),
        "NOT WELL, 1 problem; generation 1.4\n\nProblems\n  - gw.example.com fails open\n\n"
    );
}

#[test]
fn a_family_that_goes_to_a_dead_site_is_marked() {
    let mut status = troubled();
    status.domains[0].answers = vec!["sh".into()];
    status.domains[0].answering = Answering::Normal;
    status.domains[0].dead_ends = vec![DeadEnd { family: "IPv6".into(), site: "bj".into() }];
    let text = whole(&status);
    assert!(text.contains("  sh (IPv6 FAILS OPEN to bj)\n"), "{text}");
}

#[test]
fn with_the_engine_away_nothing_is_called_lost_or_silent() {
    let mut status = troubled();
    status.engine_error = Some("connection refused".into());
    status.nodes[0].lost = false;
    let text = whole(&status);
    for table in ["\nVantages\n", "\nNodes\n"] {
        let rows = text.split_once(table).and_then(|(_, rest)| rest.split("\n\n").next()).unwrap_or_default();
        assert!(rows.contains("unknown, the engine is away"), "{table}{text}");
    }
    assert!(!text.contains("LOST") && !text.contains("silent"), "{text}");
}

#[test]
fn monitoring_gets_one_line() {
    let mut status = troubled();
    assert_eq!(check(&status), "NOT WELL: gw.example.com fails open");
    status.problems.extend([finding("b"), finding("c")]);
    assert_eq!(check(&status), "NOT WELL: gw.example.com fails open; and 2 more problems");
    status.problems.clear();
    status.summary = "well; generation 1.4".into();
    assert_eq!(check(&status), "OK: well; generation 1.4");
}

#[test]
fn only_what_happened_is_printed_again() {
    let before = troubled();
    let mut after = troubled();
    after.nodes[0].silent = "42s".parse().unwrap();
    after.problems[0].text.push_str(" for 42s");
    assert_eq!(mark(&before), mark(&after), "time passed");
    after.domains[0].answers = vec!["sh".into()];
    assert_ne!(mark(&before), mark(&after));
}
