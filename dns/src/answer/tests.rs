use proptest::prelude::*;
use store::{board::Reading, health::State, model::Moment};

use super::*;
use crate::{
    client::Subnet,
    testing::{Small, client_at},
};

const HOST: &str = "orders.example.com";
const ALIAS: &str = "orders.example.com. 3600 IN CNAME gw.example.com.";

fn gateway(ttl: u32, address: &str) -> String {
    format!("gw.example.com. {ttl} IN A {address}")
}

#[test]
fn a_service_leads_through_its_alias_to_the_nearest_healthy_site() {
    let small = Small::healthy();
    for (client, address) in [("10.1.2.3", "192.0.2.1"), ("10.2.2.3", "192.0.2.2"), ("10.3.2.3", "192.0.2.3")]
    {
        assert_eq!(
            small.answer(HOST, RecordType::A, client),
            [ALIAS.to_owned(), gateway(20, address)],
            "{client}"
        );
    }
    small.set("sh", State::Down);
    let moved = small.answer(HOST, RecordType::A, "10.2.2.3");
    assert_eq!(moved[0], ALIAS);
    assert_ne!(moved[1], gateway(20, "192.0.2.2"), "a site that is down is not answered while others are up");
    small.set("sh", State::Up);
    assert_eq!(small.answer(HOST, RecordType::A, "10.2.2.3")[1], gateway(20, "192.0.2.2"));
}

#[test]
fn all_down_answers_as_if_all_were_up() {
    let small = Small::healthy();
    let up = small.answer(HOST, RecordType::A, "10.2.2.3");
    for site in ["bj", "sh", "gz"] {
        small.set(site, State::Down);
    }
    assert_eq!(small.answer(HOST, RecordType::A, "10.2.2.3"), up);
    let unknown = Small::new();
    let shortly = [up[0].clone(), up[1].replace(" 20 IN A ", " 2 IN A ")];
    let given = unknown.answer(HOST, RecordType::A, "10.2.2.3");
    assert_eq!(given, shortly, "so does a configuration without any probe yet, but not for long");
}

#[test]
fn what_is_about_to_change_is_remembered_shortly() {
    let small = Small::healthy();
    small.read("bj", Reading { state: State::Up, unsettled: true, ..Reading::default() });
    assert_eq!(small.answer(HOST, RecordType::A, "10.1.2.3")[1], gateway(2, "192.0.2.1"));
    let held = Reading { state: State::Up, recovered: true, since: Moment(999_000), unsettled: false };
    small.read("bj", held);
    let answer = small.answer(HOST, RecordType::A, "10.1.2.3")[1].clone();
    assert!(
        answer.contains(" 9 IN A ") && !answer.contains("192.0.2.1"),
        "held down for nine more seconds: {answer}"
    );
}

#[test]
fn an_address_family_that_the_chosen_site_lacks_is_the_next_ones_that_has_it() {
    let small = Small::healthy();
    let v6 = "gw.example.com. 20 IN AAAA 2001:db8::1";
    for client in ["10.1.2.3", "10.2.2.3", "10.3.2.3"] {
        let found = small.explain(HOST, RecordType::AAAA, client);
        assert_eq!((found.answer[1].as_str(), found.scope), (v6, 24), "{client}");
    }
    // Also when it is down: no other has the family.
    small.set("bj", State::Down);
    assert_eq!(small.answer(HOST, RecordType::AAAA, "10.2.2.3")[1], v6);
    let https = small.answer("web.example.com", RecordType::HTTPS, "10.2.2.3");
    let hints: Vec<_> = https.iter().map(|it| it.contains("ipv6hint")).collect();
    assert_eq!(hints, [false, false], "hints are of the record's own site");
}

#[test]
fn a_family_that_an_operator_took_out_is_absent_for_the_shortest_ttl_and_for_whom_it_is() {
    let order = "---
kind: Override
name: drain-bj
target: { site: bj }
state: drain
owner: ops
reason: test
";
    let small = Small::with(order);
    for client in ["10.1.2.3", "10.2.2.3"] {
        let found = small.explain(HOST, RecordType::AAAA, client);
        assert_eq!((found.rcode, found.answer.len(), found.scope), ("NOERROR", 1, 24), "{client}");
        assert!(found.authority[0].starts_with("example.com. 2 IN SOA "), "{found:?}");
        assert_eq!(small.answer(HOST, RecordType::A, client).len(), 2, "the other family is served");
    }
}

#[test]
fn absences_carry_the_soa_for_the_negative_ttl() {
    let small = Small::healthy();
    for (name, record_type, rcode) in [
        ("nothing.example.com", RecordType::A, "NXDOMAIN"),
        ("www.example.com", RecordType::TXT, "NOERROR"),
        ("b.c.example.com", RecordType::A, "NOERROR"),
        ("c.example.com", RecordType::TXT, "NOERROR"),
        ("x.a.b.c.example.com", RecordType::A, "NXDOMAIN"),
        ("gw.example.com", RecordType::TXT, "NOERROR"),
    ] {
        let found = small.explain(name, record_type, "10.1.0.1");
        assert_eq!((found.rcode, found.answer.len()), (rcode, 0), "{name}: {found:?}");
        assert_eq!(found.authority.len(), 1, "{name}");
        assert!(found.authority[0].starts_with("example.com. 60 IN SOA "), "{name}: {found:?}");
    }
}

#[test]
fn static_records_wildcards_and_the_apex_are_answered() {
    let small = Small::healthy();
    let of = |name: &str, record_type| small.answer(name, record_type, "10.1.0.1");
    assert_eq!(of("www.example.com", RecordType::A).len(), 2);
    assert_eq!(of("x.wild.example.com", RecordType::TXT), ["x.wild.example.com. 3600 IN TXT \"hello\""]);
    assert_eq!(of("a.b.wild.example.com", RecordType::TXT).len(), 1, "a wildcard covers deeper names too");
    assert_eq!(of("wild.example.com", RecordType::TXT).len(), 0);
    let servers = small.explain("example.com", RecordType::NS, "10.1.0.1");
    assert_eq!(servers.answer.len(), 2);
    assert!(
        servers.additional.iter().any(|it| it == "ns1.example.com. 3600 IN A 203.0.113.53"),
        "{servers:?}"
    );
    let soa = of("example.com", RecordType::SOA);
    assert!(soa[0].starts_with("example.com. 3600 IN SOA ns1.example.com. "), "{soa:?}");
}

#[test]
fn a_wildcard_host_of_a_service_is_a_wildcard_record() {
    let small = Small::healthy();
    let of = |name: &str| small.answer(name, RecordType::A, "10.1.0.1");
    for name in ["shop.apps.example.com", "a.shop.apps.example.com"] {
        let answer = of(name);
        assert_eq!(answer[0], format!("{name}. 3600 IN CNAME gw.example.com."));
        assert_eq!(answer[1..], of("gw.example.com"), "{name}");
    }
    assert_eq!(of("apps.example.com").len(), 0);
}

#[test]
fn names_below_a_delegation_are_referred() {
    let small = Small::healthy();
    for name in ["child.example.com", "deep.child.example.com"] {
        let found = small.explain(name, RecordType::A, "10.1.0.1");
        assert_eq!((found.rcode, found.answer.len()), ("NOERROR", 0), "{found:?}");
        assert_eq!(found.authority, ["child.example.com. 3600 IN NS ns.child.example.com."]);
        assert_eq!(found.additional, ["ns.child.example.com. 3600 IN A 198.51.100.53"]);
    }
    let question = Question::new("x.child.example.com".parse().unwrap(), RecordType::A);
    let referral = answer(small.lookup(), &question, &client_at("10.1.0.1"));
    assert!(!referral.authoritative && referral.is_referral());
}

#[test]
fn aliases_are_followed_inside_our_zones_and_no_further() {
    let small = Small::healthy();
    let through = small.answer("one.example.com", RecordType::A, "10.1.0.1");
    assert_eq!(through.len(), 3, "{through:?}");
    assert_eq!(through[2], gateway(20, "192.0.2.1"));
    let away = small.explain("away.example.com", RecordType::A, "10.1.0.1");
    assert_eq!(
        (away.rcode, away.answer.as_slice()),
        ("NOERROR", &["away.example.com. 3600 IN CNAME www.example.org.".to_owned()][..])
    );
    assert!(away.authority.is_empty());
    let itself = small.answer("one.example.com", RecordType::CNAME, "10.1.0.1");
    assert_eq!(itself, ["one.example.com. 3600 IN CNAME two.example.com."]);
}

/// RFC 9460; the answer carries two sites.
#[test]
fn https_records_follow_the_ranks_of_the_sites() {
    let small = Small::healthy();
    let https = |client| small.answer("web.example.com", RecordType::HTTPS, client);
    let near_bj = [
        "web.example.com. 20 IN HTTPS 1 bj.web.example.com. alpn=h2,http/1.1 port=8443 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1",
        "web.example.com. 20 IN HTTPS 2 gz.web.example.com. alpn=h2,http/1.1 port=8443 ipv4hint=192.0.2.3",
    ];
    assert_eq!(https("10.1.2.3").iter().map(|it| it.replace('"', "")).collect::<Vec<_>>(), near_bj);
    small.set("bj", State::Down);
    assert!(https("10.1.2.3")[0].contains(" 1 ") && !https("10.1.2.3").concat().contains("bj.web"));
    let own = small.answer("bj.web.example.com", RecordType::A, "10.2.0.1");
    assert_eq!(own, ["bj.web.example.com. 20 IN A 192.0.2.1"], "a site's own name is not steered");
    assert_eq!(small.answer(HOST, RecordType::HTTPS, "10.1.2.3"), [ALIAS], "other domains have none");
}

/// RFC 6672 §2.2, §2.3 and §3.1.
#[test]
fn what_lies_below_a_redirected_name_is_looked_for_elsewhere() {
    let small = Small::healthy();
    let found = small.explain("one.moved.example.com", RecordType::A, "10.1.0.1");
    assert_eq!(
        found.answer,
        [
            "moved.example.com. 3600 IN DNAME example.com.",
            "one.moved.example.com. 3600 IN CNAME one.example.com.",
            "one.example.com. 3600 IN CNAME two.example.com.",
            "two.example.com. 3600 IN CNAME gw.example.com.",
            &gateway(20, "192.0.2.1"),
        ]
    );
    let itself = small.explain("moved.example.com", RecordType::A, "10.1.0.1");
    assert_eq!((itself.rcode, itself.answer.len()), ("NOERROR", 0), "the name itself is not redirected");
    assert_eq!(small.answer("moved.example.com", RecordType::DNAME, "10.1.0.1").len(), 1);
    let alias = small.answer("x.moved.example.com", RecordType::CNAME, "10.1.0.1");
    assert_eq!(alias.len(), 2, "the alias that is made is what the question is about: {alias:?}");
    assert_eq!(small.explain("nothing.moved.example.com", RecordType::A, "10.1.0.1").rcode, "NXDOMAIN");
    let long = [&["abcdefgh"; 24].join("."), ".far.example.com"].concat();
    let found = small.explain(&long, RecordType::A, "10.1.0.1");
    assert_eq!((found.rcode, found.answer.len()), ("YXDOMAIN", 1), "{found:?}");
}

/// As NSD answers: a redirection once in an answer however often the chain comes to it, one that makes the name longer
/// each time used once, and no end before the zones' own.
#[test]
fn chains_through_redirections_go_on_and_name_each_once() {
    let zone = "---
kind: Zone
name: d.test
nameservers: [{ name: ns1, a: [203.0.113.53] }]
records:
  - { name: self, type: DNAME, data: x.self }
  - { name: q1, type: CNAME, data: x.u }
  - { name: u, type: DNAME, data: v }
  - { name: y, type: CNAME, data: z.u }
  - { name: x.v, type: CNAME, data: y }
  - { name: z.v, type: A, data: 192.0.2.9 }
  - { name: s1, type: DNAME, data: s2 }
  - { name: s2, type: DNAME, data: s1 }
  - { name: to, type: CNAME, data: a.own }
  - { name: own, type: DNAME, data: below }
  - { name: own, type: A, data: 192.0.2.8 }
  - { name: a.below, type: CNAME, data: own }
  - { name: back, type: DNAME, data: '@' }
";
    let aliases = (0..20).map(|n| format!("  - {{ name: c{n}, type: CNAME, data: c{} }}\n", n + 1));
    let small = Small::with(&format!(
        "{zone}{}  - {{ name: c20, type: A, data: 192.0.2.7 }}\n",
        aliases.collect::<String>()
    ));
    let ask_for = |name: &str, kind: RecordType| {
        let found = small.explain(&format!("{name}.d.test"), kind, "10.1.0.1");
        assert!(kind == RecordType::A || found.authority.is_empty(), "{found:?}");
        let count = |word: &str| found.answer.iter().filter(|it| it.contains(word)).count();
        (found.rcode, count(" DNAME "), count(" CNAME "), count(" A "))
    };
    let ask = |name: &str| ask_for(name, RecordType::A);
    assert_eq!(ask_for("back", RecordType::DNAME), ("NOERROR", 1, 0, 0));
    assert_eq!(
        ask_for("back.back", RecordType::DNAME),
        ("NOERROR", 1, 1, 0),
        "back at the redirection itself"
    );
    assert_eq!(ask("w.self"), ("NOERROR", 1, 1, 0), "it would grow");
    assert_eq!(ask("q1"), ("NOERROR", 1, 5, 1), "through one redirection twice");
    assert_eq!(ask("q.s1"), ("NOERROR", 2, 2, 0), "a circle");
    assert_eq!(ask("to"), ("NOERROR", 1, 3, 1), "a redirection passed is no name that was visited");
    assert_eq!(ask("c0"), ("NOERROR", 0, 20, 1), "longer than any resolver follows");
}

#[test]
fn names_outside_the_zones_are_refused() {
    let small = Small::healthy();
    for name in ["example.org", "com", "notexample.com", "."] {
        let found = small.explain(name, RecordType::A, "10.1.0.1");
        assert_eq!((found.rcode, found.zone.is_none(), found.answer.len()), ("REFUSED", true, 0), "{name}");
    }
}

fn states() -> impl Strategy<Value = [State; 3]> {
    let state = prop::sample::select(vec![State::Up, State::Down, State::Unknown]);
    [state.clone(), state.clone(), state]
}

fn same(a: &Answer, b: &Answer) -> bool {
    (a.rcode, &a.answer, &a.authority) == (b.rcode, &b.answer, &b.authority)
}

proptest! {
    /// For every scope returned, all addresses inside get the same answer (RFC 7871, DESIGN §4).
    #[test]
    fn scopes_are_honest(states in states(), client: [u8; 4], noise: u32, near in any::<bool>(), v6 in any::<bool>()) {
        let small = Small::new();
        for (site, state) in ["bj", "sh", "gz"].into_iter().zip(states) {
            small.set(site, state);
        }
        // Half of the clients are where the networks are.
        let client = if near { [10, client[1] % 5, client[2], client[3]] } else { client };
        let question = Question::new(HOST.parse().unwrap(), if v6 { RecordType::AAAA } else { RecordType::A });
        let first = answer(small.lookup(), &question, &Client::at(client.into()));
        let keep = u32::MAX.checked_shl(32 - u32::from(first.scope)).unwrap_or(0);
        let other = (u32::from_be_bytes(client) & keep) | (noise & !keep);
        let second = answer(small.lookup(), &question, &Client::at(other.to_be_bytes().into()));
        prop_assert!(same(&first, &second), "{client:?} and {:?} within /{}", other.to_be_bytes(), first.scope);
    }

    /// The address that a subnet option names counts, and not where the query came from.
    #[test]
    fn a_subnet_stands_for_the_client(site in 1_u8..4, third: u8) {
        let small = Small::healthy();
        let question = Question::new(HOST.parse().unwrap(), RecordType::A);
        let subnet = Subnet::parse(&[0, 1, 24, 0, 10, site, third]).unwrap();
        let client = Client { source: "10.1.0.1".parse().unwrap(), subnet: Some(subnet) };
        let there = answer(small.lookup(), &question, &Client::at([10, site, third, 1].into()));
        prop_assert!(same(&answer(small.lookup(), &question, &client), &there));
    }

    /// In every state of health there is an answer.
    #[test]
    fn health_never_empties_an_answer(states in states(), client: [u8; 4]) {
        let small = Small::new();
        for (site, state) in ["bj", "sh", "gz"].into_iter().zip(states) {
            small.set(site, state);
        }
        for record_type in [RecordType::A, RecordType::AAAA] {
            let question = Question::new(HOST.parse().unwrap(), record_type);
            let found = answer(small.lookup(), &question, &Client::at(client.into()));
            prop_assert_eq!(found.answer.len(), 2, "{}", record_type);
        }
    }
}
