use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

mod packets;
mod replay;

/// A catalog in a list.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    nodes: Vec<Row>,
    services: Vec<(String, Held)>,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    address: String,
    meta: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Held {
    node: String,
    address: Option<String>,
    port: u16,
    tags: Vec<String>,
    weight: u32,
    status: CheckStatus,
}

impl Shelf {
    pub(super) fn put_node(&mut self, name: &str, address: &str, meta: &[(&str, &str)]) {
        let meta = meta.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.nodes.push(Row { name: name.to_owned(), address: address.to_owned(), meta });
    }

    /// Puts an instance on the first node.
    pub(super) fn put(&mut self, name: &str, address: &str, port: u16, tag: &str) {
        let held = Held {
            node: self.nodes[0].name.clone(),
            address: Some(address.to_owned()).filter(|it| !it.is_empty()),
            port,
            tags: vec![tag.to_owned()],
            weight: 1,
            status: CheckStatus::Passing,
        };
        self.services.push((name.to_owned(), held));
    }

    fn last(&mut self) -> &mut Held {
        &mut self.services.last_mut().unwrap().1
    }

    fn find(&self, wanted: impl Fn(&Row) -> bool) -> Option<Node<'_>> {
        let row = self.nodes.iter().find(|it| wanted(it))?;
        Some(Node { name: &row.name, address: &row.address, meta: Some(&row.meta) })
    }
}

impl View for Shelf {
    fn instances<'a>(&'a self, service: &str) -> Vec<Instance<'a>> {
        let named = self.services.iter().filter(|(name, _)| name.to_ascii_lowercase() == service);
        let shown = |(_, held): &'a (String, Held)| Instance {
            node: self.find(|it| it.name == held.node).unwrap(),
            address: held.address.as_deref(),
            port: held.port,
            tags: &held.tags,
            weight: held.weight,
            status: held.status,
        };
        named.map(shown).collect()
    }

    fn node<'a>(&'a self, name: &str) -> Option<Node<'a>> {
        self.find(|it| it.name.to_ascii_lowercase() == name)
    }

    fn node_at<'a>(&'a self, address: IpAddr) -> Option<Node<'a>> {
        self.find(|it| it.address.parse() == Ok(address))
    }

    fn service_at(&self, address: IpAddr) -> Option<&str> {
        let there = |held: &Held| held.address.as_ref().is_some_and(|it| it.parse() == Ok(address));
        self.services.iter().find(|(_, held)| there(held)).map(|(name, _)| name.as_str())
    }
}

/// The catalog of the captured agent.
pub(super) fn shelf() -> Shelf {
    let mut shelf = Shelf::default();
    shelf.put_node("n1", "127.0.0.1", &[("consul-network-segment", ""), ("rack", "r1")]);
    shelf.put_node("ext6", "2001:db8::6", &[]);
    shelf.put_node("exth", "db.example.com", &[]);
    shelf.put("consul", "", 8300, "");
    shelf.put("dnsw", "10.9.0.1", 7000, "primary");
    shelf.last().weight = 10;
    shelf.put("dnsw", "10.9.0.2", 7001, "v1");
    *shelf.last() = Held { weight: 2, status: CheckStatus::Warning, ..shelf.last().clone() };
    shelf.put("dnsw", "10.9.0.3", 7002, "v1");
    shelf.last().status = CheckStatus::Critical;
    for n in 0..60 {
        shelf.put("bigsvc", &format!("10.8.0.{}", n + 1), 9000 + n, "");
    }
    shelf.put("dnshost", "backend.example.com", 81, "");
    shelf.put("dnssix", "2001:db8::9", 82, "");
    shelf.put("dnsnoaddr", "", 83, "");
    shelf.put("MixedCase", "", 84, "CaseTag");
    shelf.put("under_score", "", 85, "");
    shelf
}

pub(super) fn names() -> Names {
    Names::new("consul".parse().unwrap(), "dc1", Ttl::ZERO).served_by("N1")
}

fn ask(shelf: &Shelf, name: &str, record_type: &str, turn: usize) -> Answer {
    let question = Question::new(name.parse().unwrap(), record_type.parse().unwrap());
    answer(shelf, &names(), &question, Draw { turn, now: Moment(1_795_406_766_000) })
}

fn lines(queried: &str, records: &[Record]) -> Vec<String> {
    let owner = |record: &Record| match &record.owner {
        Owner::QueryName => format!("{queried}."),
        Owner::At(name) => format!("{name}."),
    };
    let line =
        |it: &Record| format!("{} {} IN {} {}", owner(it), it.ttl.as_secs(), it.data.record_type(), it.data);
    records.iter().map(line).collect()
}

fn answered(shelf: &Shelf, name: &str, record_type: &str) -> Vec<String> {
    let data = |it: &Record| format!("{} {}", it.data.record_type(), it.data);
    ask(shelf, name, record_type, 0).answer.iter().map(data).collect()
}

#[test]
fn a_name_below_which_there_are_names_is_empty_and_not_absent() {
    let shelf = shelf();
    for name in ["consul", "service.consul", "dc1.consul", "addr.dc1.consul", "_tcp.service.consul"] {
        let answer = ask(&shelf, name, "A", 0);
        assert_eq!((answer.rcode, answer.answer.len()), (Rcode::NoError, 0), "{name}");
        assert_eq!(answer.authority.len(), 1, "{name}");
    }
}

#[test]
fn a_type_that_is_not_there_is_an_empty_answer_with_an_soa() {
    let shelf = shelf();
    for (name, wanted) in [
        ("dnsw.service.consul", "TXT"),
        ("n1.node.consul", "AAAA"),
        ("ext6.node.consul", "TXT"),
        ("0a090001.addr.consul", "AAAA"),
        ("consul", "MX"),
    ] {
        let answer = ask(&shelf, name, wanted, 0);
        assert_eq!((answer.rcode, answer.answer.len()), (Rcode::NoError, 0), "{name}");
        assert_eq!(answer.authority[0].data.record_type(), RecordType::SOA, "{name}");
    }
}

#[test]
fn a_service_whose_instances_are_all_critical_is_not_there() {
    let mut shelf = shelf();
    shelf.put("down", "10.0.0.1", 80, "");
    shelf.last().status = CheckStatus::Critical;
    assert_eq!(ask(&shelf, "down.service.consul", "SRV", 0).rcode, Rcode::NxDomain);
}

#[test]
fn turns_put_every_instance_first_and_leave_none_out() {
    let shelf = shelf();
    let mut firsts = std::collections::BTreeSet::new();
    for turn in 0..60 {
        let answer = ask(&shelf, "bigsvc.service.consul", "A", turn);
        assert_eq!(answer.answer.len(), 60);
        firsts.insert(answer.answer[0].data.to_string());
    }
    assert_eq!(firsts.len(), 60);
}

#[test]
fn host_names_are_an_alias_only_where_there_is_no_address() {
    let mut shelf = shelf();
    let of = "dnshost.service.consul";
    for wanted in ["A", "AAAA", "CNAME", "TXT", "ANY"] {
        assert_eq!(answered(&shelf, of, wanted), ["CNAME backend.example.com."], "{wanted}");
    }
    shelf.put("dnshost", "10.0.0.1", 81, "");
    assert_eq!(answered(&shelf, of, "A"), ["A 10.0.0.1"]);
    assert!(answered(&shelf, of, "AAAA").is_empty());
    assert_eq!(answered(&shelf, of, "SRV").len(), 2);
}

#[test]
fn records_are_never_given_twice() {
    let mut shelf = shelf();
    for _ in 0..2 {
        shelf.put("twice", "10.0.0.1", 80, "");
        shelf.put("twice", "10.0.0.1", 81, "");
    }
    assert_eq!(answered(&shelf, "twice.service.consul", "A"), ["A 10.0.0.1"]);
    let located = ask(&shelf, "twice.service.consul", "SRV", 0);
    assert_eq!(located.answer.len(), 2);
    let addresses = located.additional.iter().filter(|it| it.data.record_type() == RecordType::A);
    assert_eq!(addresses.count(), 1);
}

#[test]
fn a_node_that_cannot_be_named_is_reached_by_its_address() {
    let mut shelf = Shelf::default();
    shelf.put_node("rack 7", "10.0.0.7", &[("a", "b")]);
    shelf.put("web", "", 80, "");
    assert_eq!(answered(&shelf, "web.service.consul", "SRV"), ["SRV 1 1 80 0a000007.addr.dc1.consul."]);
    shelf.put("odd", "/run/odd.sock", 0, "");
    assert!(answered(&shelf, "odd.service.consul", "SRV").is_empty());
}

#[test]
fn a_data_centre_that_is_no_label_is_left_out_of_names() {
    let names = Names::new("consul".parse().unwrap(), "Bei jing", Ttl::ZERO);
    assert_eq!(names.of_node("n1").unwrap().as_str(), "n1.node.consul");
    let names = Names::new("consul".parse().unwrap(), "BJ", Ttl::ZERO);
    assert_eq!(names.of_node("n1").unwrap().as_str(), "n1.node.bj.consul");
}

#[test]
fn answers_are_remembered_for_as_long_as_was_configured_and_absences_never() {
    let shelf = shelf();
    let names = Names::new("consul".parse().unwrap(), "dc1", Ttl::from_secs(5).unwrap());
    let ask = |name: &str| {
        let question = Question::new(name.parse().unwrap(), RecordType::SRV);
        answer(&shelf, &names, &question, Draw::default())
    };
    let found = ask("dnsw.service.consul");
    assert!(found.answer.iter().chain(&found.additional).all(|it| it.ttl.as_secs() == 5));
    assert_eq!(ask("zz.service.consul").authority[0].ttl, Ttl::ZERO);
}

proptest! {
    #[test]
    fn no_question_panics_and_every_absence_names_its_zone(
        labels in prop::collection::vec("[a-z0-9_]{1,12}|service|node|addr|dc1|_tcp", 0..6),
        arpa in any::<bool>(),
        wanted in prop::sample::select(vec!["A", "AAAA", "SRV", "TXT", "ANY", "NS", "SOA", "PTR", "MX", "AXFR"]),
        turn in any::<usize>(),
    ) {
        let apex = if arpa { "in-addr.arpa" } else { "consul" };
        let name = labels.iter().map(String::as_str).chain([apex]).collect::<Vec<_>>().join(".");
        let answer = ask(&shelf(), &name, wanted, turn);
        let zoned = answer.authority.iter().any(|it| it.data.record_type() == RecordType::SOA);
        prop_assert!(!answer.answer.is_empty() || zoned || answer.rcode == Rcode::Refused, "{name} {wanted}");
    }
}
