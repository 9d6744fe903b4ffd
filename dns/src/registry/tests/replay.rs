//! The captures of a real agent, replayed: what it answered is what we answer, but for what is listed here.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Captures that are not replayed, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("dns_txt_service", "answers a question for text with addresses; ours is empty"),
    ("dns_apex_a", "the domain does not exist there, although it has names in it (RFC 8020)"),
    ("dns_bare_service", "the same of `service.consul`"),
    ("dns_ptr_missing", "fails where an address is unknown; we refuse, as other zones' names"),
    ("dns_chaos_edns1", "EDNS version 1 is BADVERS (RFC 6891 §6.1.3)"),
    ("dns2_dc1_ednsv1", "EDNS version 1 is BADVERS (RFC 6891 §6.1.3)"),
    ("dns_query", "prepared queries are not kept"),
    ("dns_query_dc", "prepared queries are not kept"),
    ("dns_ecs", "prepared queries are not kept"),
    ("dns2_mdc_query_dns", "prepared queries are not kept"),
    ("dns2_dc1_to_dc2", "another data centre, which the engine does not have"),
    ("dns2_dc1_to_dc2_node", "another data centre"),
    ("dns2_mdc_killed_dns", "another data centre"),
    ("dns2_dc2_recursor", "recursion"),
];

/// Where an answer differs by intent.
const BUT_FOR: &[(&str, &str, &str)] = &[
    ("dns_node_aaaa_of_v4", "authority", "an absence names its zone (RFC 2308 §3)"),
    ("dns_apex_soa", "authority", "the answer to a question for the SOA has no name servers"),
    ("dns_apex_soa", "additional", "nor their addresses"),
];

#[derive(Debug)]
struct Capture {
    name: String,
    queried: String,
    record_type: String,
    rcode: String,
    authoritative: bool,
    sections: BTreeMap<&'static str, Vec<String>>,
}

const SECTIONS: [&str; 3] = ["answer", "authority", "additional"];

fn captures() -> Vec<Capture> {
    let all: serde_json::Value = serde_json::from_str(include_str!("captures.json")).unwrap();
    let text = |it: &serde_json::Value| it.as_str().unwrap().to_owned();
    let list = |it: &serde_json::Value| it.as_array().unwrap().iter().map(text).collect();
    let read = |it: &serde_json::Value| Capture {
        name: text(&it["name"]),
        queried: text(&it["asked"]),
        record_type: text(&it["type"]),
        rcode: text(&it["rcode"]),
        authoritative: it["authoritative"].as_bool().unwrap(),
        sections: SECTIONS.into_iter().map(|name| (name, list(&it[name]))).collect(),
    };
    all.as_array().unwrap().iter().map(read).collect()
}

/// The serial is the time, and we expire later; the rest of the SOA is the same.
fn comparable(line: &str) -> String {
    match line.split_once(" IN SOA ") {
        Some((owner, soa)) => {
            let kept: Vec<&str> = soa.split(' ').collect();
            format!("{owner} IN SOA {}", [&kept[..2], &kept[3..5], &kept[6..]].concat().join(" "))
        }
        None => line.to_owned(),
    }
}

fn of_second_agent(name: &str) -> bool {
    name.starts_with("dns2_dc2_")
}

fn difference(capture: &Capture, section: &str, ours: &[String]) -> Option<String> {
    let set = |lines: &[String]| lines.iter().map(|it| comparable(it)).collect::<BTreeSet<_>>();
    let (ours, theirs) = (set(ours), set(&capture.sections[section]));
    // Theirs stops at three answers, or where the datagram ends, without a mark.
    let cut = capture.queried.starts_with("bigsvc") && section != "authority";
    let same =
        if cut { ours.is_superset(&theirs) && ours.len() >= 60 || ours == theirs } else { ours == theirs };
    (!same).then(|| format!("{} {section}: {ours:?}, expected {theirs:?}", capture.name))
}

#[test]
fn captures_are_answered_as_a_real_agent_answered_them() {
    let shelf = shelf();
    let left_out: BTreeMap<_, _> = LEFT_OUT.iter().copied().collect();
    let (mut wrong, mut replayed) = (Vec::new(), 0);
    for capture in captures() {
        // A second agent, with other services, TTLs and limits than any default.
        if left_out.contains_key(capture.name.as_str()) || of_second_agent(&capture.name) {
            continue;
        }
        replayed += 1;
        let answer = ask(&shelf, &capture.queried, &capture.record_type, replayed);
        if answer.rcode.as_str() != capture.rcode || answer.authoritative != capture.authoritative {
            wrong.push(format!("{}: {} {}", capture.name, answer.rcode.as_str(), answer.authoritative));
        }
        let ours = [&answer.answer, &answer.authority, &answer.additional];
        for (section, records) in SECTIONS.into_iter().zip(ours) {
            if BUT_FOR.iter().any(|(name, but, _)| (*name, *but) == (capture.name.as_str(), section)) {
                continue;
            }
            wrong.extend(difference(&capture, section, &lines(&capture.queried, records)));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(replayed, 62);
}

#[test]
fn every_exception_is_of_a_capture() {
    let all = captures();
    let there = |name: &str| all.iter().any(|it| it.name == name);
    assert!(LEFT_OUT.iter().all(|(name, why)| there(name) && !why.is_empty()));
    assert!(BUT_FOR.iter().all(|(name, _, why)| there(name) && !why.is_empty()));
}
