//! Differences of small configurations whose answers are computed, and of many domains with made-up answers.

use store::{
    board::Reading,
    health::State,
    model::Family,
    steering::Tier,
    testing::{compile_text, two_sites},
};

use super::{
    current::{Answer, AtSite, DomainAnswers, OTHERS, SharedAnswers},
    differences::MAX_LINES,
    *,
};

/// A checked gateway domain, beside two sites.
const DOMAIN: &str = "\
kind: Domain
name: gw.example.com
cluster: main
check: web
ttl: 20s
min_ttl: 2s
";

const NOW: Moment = Moment(1_790_000_000_000);

/// What is logged of one world after another.
struct Watched {
    board: Board,
    generation: u64,
    snapshot: Snapshot,
    before: Option<Answers>,
}

impl Watched {
    /// All addresses are up.
    fn of(gateways: &str) -> Self {
        let board = Board::default();
        let snapshot = compile(gateways, 1, &board);
        let mut watched = Self { board, generation: 1, snapshot, before: None };
        let ips: Vec<String> = watched.snapshot.targets.values().map(|it| it.address.to_string()).collect();
        ips.iter().for_each(|ip| watched.set(ip, State::Up));
        assert_eq!(watched.look(), [""; 0]);
        watched
    }

    fn set(&self, ip: &str, state: State) {
        self.read(ip, Reading { state, ..Reading::default() });
    }

    fn read(&self, ip: &str, reading: Reading) {
        let of = self.snapshot.targets.values().filter(|it| it.address.to_string() == ip);
        of.for_each(|it| self.board.write(it.slot, reading));
    }

    fn configure(&mut self, gateways: &str) {
        self.generation += 1;
        self.snapshot = compile(gateways, self.generation, &self.board);
    }

    fn look(&mut self) -> Vec<String> {
        let seen = Answers::at(&self.snapshot, &self.board, NOW);
        let before = self.before.replace(seen);
        let after = self.before.as_ref().unwrap();
        before.map_or_else(Vec::new, |before| {
            Differences::of(&before, after).lines().iter().map(in_short).collect()
        })
    }
}

fn compile(gateways: &str, generation: u64, board: &Board) -> Snapshot {
    compile_text(&format!("{}---\n{DOMAIN}", two_sites(gateways)), generation, board)
}

/// A line in short.
fn in_short(line: &Line) -> String {
    match line {
        Line::Answer { domains, clients, family, from, to, why } => {
            format!("{domains} {} {clients}: {from} -> {to} ({why})", family.as_str())
        }
        Line::HoldDown { domains, site, what: HoldDown::Begins } => format!("{domains} {site}: begins"),
        Line::HoldDown { domains, site, what: HoldDown::LetBack(how) } => format!("{domains} {site}: {how}"),
        Line::HoldDown { domains, site, what: HoldDown::Ends(why) } => {
            format!("{domains} {site}: ends, {why}")
        }
        Line::More { kinds, domains } => format!("{kinds} more of {domains}"),
    }
}

#[test]
fn a_whole_failover_of_one_family_is_an_answer_that_changed() {
    let mut watched =
        Watched::of("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2], aaaa: ['2001:db8::2'] } }");
    watched.set("192.0.2.2", State::Down);
    let near = "gw.example.com IPv4 near sh: sh 192.0.2.2 -> bj 192.0.2.1";
    assert_eq!(watched.look(), [format!("{near} (192.0.2.2 of sh was up and is down)")]);
    watched.set("2001:db8::2", State::Down);
    assert_eq!(watched.look(), [""; 0], "a family is not left empty because of health, so nothing changed");
    watched.set("192.0.2.2", State::Up);
    let back = "gw.example.com IPv4 near sh: bj 192.0.2.1 -> sh 192.0.2.2 (sh was down and is up)";
    assert_eq!(watched.look(), [back]);
}

#[test]
fn an_address_that_leaves_the_answer_of_its_site_is_logged() {
    let mut watched = Watched::of("{ bj: { a: [192.0.2.1, 192.0.2.3] }, sh: { a: [192.0.2.2] } }");
    watched.set("192.0.2.3", State::Down);
    let change = "gw.example.com IPv4 near bj, all others: bj 192.0.2.1 192.0.2.3 -> bj 192.0.2.1";
    assert_eq!(watched.look(), [format!("{change} (192.0.2.3 of bj was up and is down)")]);
    assert_eq!(watched.look(), [""; 0], "once");
}

#[test]
fn other_addresses_in_the_configuration_are_logged() {
    let mut watched = Watched::of("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }");
    watched.configure("{ bj: { a: [192.0.2.9] }, sh: { a: [192.0.2.2] } }");
    watched.set("192.0.2.9", State::Up);
    let change = "gw.example.com IPv4 near bj, all others: bj 192.0.2.1 -> bj 192.0.2.9";
    let why = "192.0.2.9 of bj is new; 192.0.2.1 is no longer an address of bj; configuration 1.2";
    assert_eq!(watched.look(), [format!("{change} ({why})")]);
}

#[test]
fn a_domain_that_is_added_or_removed_is_logged() {
    let mut watched = Watched::of("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }");
    let service = "{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }
---
kind: Service
name: orders
uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10
cluster: main
consul: { service: orders }
hosts: [orders.example.com]";
    watched.configure(service);
    let (uuid, no) = ("6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.example.com IPv4", "no such domain");
    let lines = [
        format!("{uuid} near bj, all others: {no} -> bj 192.0.2.1 (configuration 1.2)"),
        format!("{uuid} near sh: {no} -> sh 192.0.2.2 (configuration 1.2)"),
    ];
    assert_eq!(watched.look(), lines);
    watched.configure("{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }");
    let lines = [
        format!("{uuid} near bj, all others: bj 192.0.2.1 -> {no} (configuration 1.3)"),
        format!("{uuid} near sh: sh 192.0.2.2 -> {no} (configuration 1.3)"),
    ];
    assert_eq!(watched.look(), lines);
}

#[test]
fn domains_that_share_their_sites_are_seen_as_each_would_be_by_itself() {
    let gateways = "{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }
---
kind: Domain
name: other.example.com
cluster: main
check: web
answers: 2
---
kind: Domain
name: empty.example.com
cluster: main
check: web
when_none: nodata";
    let watched = Watched::of(gateways);
    ["192.0.2.1", "192.0.2.2"].iter().for_each(|ip| watched.set(ip, State::Down));
    let seen = Answers::at(&watched.snapshot, &watched.board, NOW);
    let answer = |name: &str| &*seen.domains[name].answer(OTHERS, Family::V4).unwrap().full;
    assert_eq!(answer("gw.example.com"), "bj 192.0.2.1");
    assert_eq!(answer("other.example.com"), "bj 192.0.2.1, sh 192.0.2.2");
    assert_eq!(answer("empty.example.com"), "nothing (NODATA)");
}

#[test]
fn the_end_of_a_hold_down_says_whether_the_site_was_let_back() {
    let gateways = "{ bj: { a: [192.0.2.1] }, sh: { a: [192.0.2.2] } }";
    let forced = |state: &str| {
        let order = "---\nkind: Override\nname: work\ntarget: { site: bj }\nowner: ops\nreason: test";
        format!("{gateways}\n{order}\nstate: {state}")
    };
    let held = || {
        let mut watched = Watched::of(gateways);
        watched.set("192.0.2.1", State::Down);
        watched.look();
        watched
            .read("192.0.2.1", Reading { state: State::Up, since: NOW, recovered: true, unsettled: false });
        assert_eq!(watched.look(), ["gw.example.com bj: begins"]);
        watched
    };
    let last = |mut watched: Watched| watched.look().pop().unwrap();
    let watched = held();
    watched.set("192.0.2.1", State::Up);
    assert_eq!(last(watched), "gw.example.com bj: let back");
    let watched = held();
    watched.set("192.0.2.1", State::Down);
    assert_eq!(last(watched), "gw.example.com bj: ends, it is down again");
    let mut watched = held();
    watched.configure(&forced("down"));
    let why = "it is forced down (override work: down, by ops: test)";
    assert_eq!(last(watched), format!("gw.example.com bj: ends, {why}"));
    let mut watched = held();
    watched.configure(&forced("up"));
    assert_eq!(last(watched), "gw.example.com bj: let back (override work: up, by ops: test)");
}

fn answer(text: &str) -> Answer {
    Answer { full: text.into(), brief: text.split(' ').next().unwrap().into() }
}

fn alike(answers: &[(&str, &str)], sites: &[(&str, Tier)]) -> SharedAnswers {
    let site = |(site, tier): &(&str, Tier)| AtSite {
        site: (*site).into(),
        tier: *tier,
        order: "".into(),
        addresses: vec![],
    };
    Arc::new(DomainAnswers {
        answers: answers.iter().map(|(who, what)| ((*who).into(), Family::V4, answer(what))).collect(),
        sites: sites.iter().map(site).collect(),
    })
}

fn seen<'s>(domains: impl IntoIterator<Item = (String, &'s SharedAnswers)>) -> Answers {
    let domains = domains.into_iter().map(|(name, seen)| (name.parse().unwrap(), Arc::clone(seen)));
    Answers { generation: "1".to_owned(), domains: domains.collect() }
}

#[test]
fn a_hundred_thousand_domains_that_change_alike_are_one_line() {
    let up = alike(&[("bj", "bj 192.0.2.1"), ("sh", "sh 192.0.2.2")], &[("bj", Tier::Up)]);
    let down = alike(&[("bj", "sh 192.0.2.2"), ("sh", "sh 192.0.2.2")], &[("bj", Tier::Down)]);
    let world = |one| seen((0..100_000).map(|n| (format!("d{n:06}.example"), one)));
    let lines = Differences::of(&world(&up), &world(&down)).lines();
    let Line::Answer { domains, from, to, why, .. } = &lines[0] else { panic!("{lines:?}") };
    assert_eq!(lines.len(), 1);
    assert_eq!([from, to, why], ["bj 192.0.2.1", "sh 192.0.2.2", "bj was up and is down"]);
    assert!(domains.starts_with("d000000.example, ") && domains.ends_with(" and 99995 more"), "{domains}");
}

#[test]
fn clusters_with_addresses_of_their_own_that_leave_a_site_are_one_line() {
    let worlds = |site: &str, tier| -> Vec<SharedAnswers> {
        (0..50).map(|n| alike(&[(OTHERS, &format!("{site} 192.0.2.{n}"))], &[("bj", tier)])).collect()
    };
    let [up, down] = [worlds("bj", Tier::Up), worlds("sh", Tier::Down)];
    let world = |all: &[SharedAnswers]| seen((0..).map(|n| format!("d{n:02}.example")).zip(all));
    let lines = Differences::of(&world(&up), &world(&down)).lines();
    let line = "IPv4 all clients: bj -> sh (bj was up and is down)";
    let names = "d00.example, d01.example, d02.example, d03.example, d04.example and 45 more";
    assert_eq!(lines.iter().map(in_short).collect::<Vec<_>>(), [format!("{names} {line}")]);
}

#[test]
fn changes_that_are_all_different_are_bounded() {
    let worlds = |of: &str| -> Vec<SharedAnswers> {
        (0..50).map(|n| alike(&[(OTHERS, &format!("{of}{n} 192.0.2.1"))], &[("bj", Tier::Up)])).collect()
    };
    let [then, now] = [worlds("a"), worlds("b")];
    let world = |all: &[SharedAnswers]| seen((0..).map(|n| format!("d{n}.example")).zip(all));
    let lines = Differences::of(&world(&then), &world(&now)).lines();
    assert_eq!(lines.len(), MAX_LINES + 1);
    assert_eq!(lines.last(), Some(&Line::More { kinds: 30, domains: 30 }));
}
