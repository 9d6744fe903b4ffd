use std::{net::IpAddr, sync::Arc};

use hickory_proto::op::Message;
use proptest::prelude::*;
use store::{
    board::{Board, Reading},
    health::State,
    model::{self, Generation, Moment, Placed},
    snapshot::Snapshot,
};

use super::{Scratch, Table};
use crate::{
    lookup::Lookup, packet::Transport, respond::respond, targets::Targets, testing::open_gate,
    zones_dir::Zones,
};

/// Configuration that has a bit of everything, drawn from few names so that queries meet it.
const FIXED: &str = "
{ kind: Site, name: bj, networks: [10.1.0.0/16, '2001:db8:1::/48'] }
---
{ kind: Site, name: sh, networks: [10.2.0.0/16, 10.1.128.0/17] }
---
{ kind: Site, name: gz, networks: [10.3.0.0/24] }
---
kind: Cluster
name: main
zone: example.com
gateway_domain: gw.example.com
gateways:
  bj: { a: [192.0.2.1, 192.0.2.9], aaaa: ['2001:db8::1'] }
  sh: { a: [192.0.2.2], aaaa: [] }
  gz: { a: [192.0.2.3, 192.0.2.1], aaaa: ['2001:db8::3'] }
---
{ kind: Check, name: web, type: tcp, port: 80, interval: 1s, timeout: 800ms }
---
{ kind: Zone, name: sub.example.com, nameservers: [{ name: ns, a: [203.0.113.54] }], ttl: 5m, negative_ttl: 7m, records: [
  { name: a, type: CNAME, data: gw.example.com. }, { name: b, type: CNAME, data: nothing.example.com. } ] }
---
kind: Service
name: orders
uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10
cluster: main
consul: { service: orders, tags: [] }
hosts: [orders.example.com, '*.apps.example.com']
";

const LABELS: &[&str] = &["a", "b", "c", "w", "ns"];

fn documents(records: &[String], (domain, orders): (&str, &str)) -> String {
    let zone = format!(
        "---\nkind: Zone\nname: example.com\nnameservers: [{{ name: ns, a: [203.0.113.53] }}]\nttl: 1h\nnegative_ttl: 60s\n\
         records: [{}]\n",
        records.join(", ")
    );
    let domains = ["gw", "x.gw", "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10"].map(|name| {
        format!("---\n{{ kind: Domain, name: {name}.example.com, cluster: main, check: web, {domain} }}\n")
    });
    format!("{FIXED}{zone}{}{orders}\n", domains.concat())
}

/// A configuration of these documents, if they are valid; the tests of documents cover invalid ones.
fn snapshot(text: &str, board: &Board) -> Result<Snapshot, String> {
    let wrong = |errors: &dyn std::fmt::Debug| format!("{errors:?}");
    let documents = model::parse("random.yaml", text).map_err(|it| wrong(&it))?;
    let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
    let world = model::World::check(placed, Moment(0)).map_err(|it| wrong(&it))?;
    Ok(Snapshot::compile(world.sources(), Generation::new(1, 7), board))
}

fn relative() -> impl Strategy<Value = String> {
    let label = prop::sample::select(LABELS);
    prop_oneof![
        3 => prop::collection::vec(label.clone(), 1..4).prop_map(|labels| labels.join(".")),
        1 => prop::collection::vec(label.clone(), 0..2).prop_map(|labels| [vec!["*"], labels].concat().join(".")),
        1 => (label.clone(), label).prop_map(|(below, above)| format!("{below}.*.{above}")),
    ]
}

fn record() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        relative(),
        Just("gw".to_owned()),
        Just("orders".to_owned()),
        Just("www.example.org.".to_owned()),
        Just(".".to_owned())
    ];
    let named = target.clone().prop_filter("an ALIAS leads to a name", |target| target != ".");
    let data = prop_oneof![
        2 => target.clone().prop_map(|target| format!("type: CNAME, data: '{target}'")),
        1 => target.clone().prop_map(|target| format!("type: DNAME, data: '{target}'")),
        1 => target.clone().prop_map(|target| format!("type: MX, data: '10 {target}'")),
        1 => target.clone().prop_map(|target| format!("type: NS, data: '{target}'")),
        1 => ("[a-z]{1,200}", 1..9_usize).prop_map(|(text, strings)| {
            format!("type: TXT, data: '{}'", vec![format!("\"{text}\""); strings].join(" "))
        }),
        1 => named.prop_map(|target| format!("type: ALIAS, data: '{target}'")),
        2 => any::<u8>().prop_map(|last| format!("type: A, data: 198.51.100.{last}")),
        1 => any::<u8>().prop_map(|last| format!("type: AAAA, data: '2001:db8:5::{last:x}'")),
        1 => Just("type: HTTPS, data: '1 . alpn=h2'".to_owned()),
        1 => Just(r"type: TYPE999, data: '\# 1 00'".to_owned()),
    ];
    let ttl = prop_oneof![
        Just(String::new()),
        prop_oneof![Just(0), 1..9000_u32].prop_map(|ttl| format!("ttl: {ttl}s, "))
    ];
    (relative(), ttl, data).prop_map(|(name, ttl, data)| format!("{{ name: '{name}', {ttl}{data} }}"))
}

/// A domain's fields, and overrides beside it.
fn domain() -> impl Strategy<Value = (String, String)> {
    let policy = prop::sample::select(vec![
        "policy: { type: nearest }",
        "policy: { type: failover, order: [sh, bj] }, sites: [sh, bj]",
        "policy: { type: nearest }, sites: [gz, sh]",
        "policy: { type: nearest }, https: { alpn: [h2] }",
    ]);
    let none = prop::sample::select(vec!["open", "nodata", "{ backup: { a: [192.0.2.77], aaaa: [] } }"]);
    let orders = prop::collection::vec(
        (prop::sample::select(vec!["bj", "sh", "gz"]), prop::sample::select(vec!["drain", "down", "up"])),
        0..3,
    );
    (policy, none, 1..4_u8, 1..3_u8, orders).prop_map(|(policy, none, answers, min_up, orders)| {
        let order = |(n, (site, state)): (usize, (&str, &str))| {
            format!("\n---\n{{ kind: Override, name: o{n}, target: {{ site: {site} }}, state: {state}, owner: o, reason: r, force: true }}")
        };
        let orders: String = orders.into_iter().enumerate().map(order).collect();
        (format!("{policy}, when_none: {none}, answers: {answers}, min_up: {min_up}, ttl: 20s, min_ttl: 2s"), orders)
    })
}

/// A query, mostly a good one: name, type, case, EDNS with options.
fn query() -> impl Strategy<Value = Vec<u8>> {
    let apex = prop::sample::select(vec!["example.com", "sub.example.com", "example.org"]);
    let known =
        prop::sample::select(vec!["gw", "orders", "x.gw", "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10", ""]);
    let name = (prop_oneof![relative(), known.prop_map(str::to_owned)], apex, any::<u64>());
    let types =
        prop::sample::select(vec![1_u16, 28, 1, 28, 5, 2, 6, 16, 15, 65, 64, 43, 255, 33, 252, 41, 0, 999]);
    let edns =
        prop::option::weighted(0.7, (prop::sample::select(vec![0_u16, 512, 1232, 4096]), options(), 0..3_u8));
    (any::<[u8; 2]>(), prop::sample::select(vec![0_u8, 1, 0x80, 0x20, 2]), any::<u8>(), name, types, edns)
        .prop_map(|(id, flags, low, (relative, apex, case), record_type, edns)| {
            let mut packet = vec![id[0], id[1], flags, low, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
            let full = if relative.is_empty() { apex.to_owned() } else { format!("{relative}.{apex}") };
            for label in full.split('.') {
                packet.push(u8::try_from(label.len()).unwrap());
                let cased = |(at, octet): (usize, u8)| {
                    if case >> (at % 64) & 1 == 1 { octet.to_ascii_uppercase() } else { octet }
                };
                packet.extend(label.bytes().enumerate().map(cased));
            }
            packet.push(0);
            packet.extend(record_type.to_be_bytes());
            packet.extend([0, 1]);
            if let Some((payload, options, version)) = edns {
                packet.extend([0, 0, 41]);
                packet.extend(payload.to_be_bytes());
                packet.extend([0, version / 2, 0x80, 0]);
                packet.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
                packet.extend(options);
            }
            packet
        })
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let v4 = (1..5_u8, any::<u8>(), 0..33_u8).prop_map(|(second, third, length)| {
        let bits = u32::from_be_bytes([10, second, third, 1])
            & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let octets = usize::from(length.div_ceil(8));
        let mut option = vec![0, 8, 0, u8::try_from(octets + 4).unwrap(), 0, 1, length, 0];
        option.extend(bits.to_be_bytes().into_iter().take(octets));
        option
    });
    let v6 = Just(vec![0, 8, 0, 10, 0, 2, 48, 0, 0x20, 1, 0x0d, 0xb8, 0, 1]);
    let cookie = any::<[u8; 8]>().prop_map(|cookie| [vec![0, 10, 0, 8], cookie.to_vec()].concat());
    let other = prop::collection::vec(any::<u8>(), 0..9);
    prop_oneof![3 => v4, 1 => v6, 1 => cookie, 1 => other, 2 => Just(Vec::new())]
}

fn states() -> impl Strategy<Value = Vec<(State, bool, bool)>> {
    let state = prop::sample::select(vec![State::Up, State::Down, State::Unknown]);
    prop::collection::vec((state, any::<bool>(), any::<bool>()), 8)
}

/// A reply as a resolver reads it: sections in order, names without regard to compression.
fn understood(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).expect("our replies can be read")
}

fn board(snapshot: &Snapshot, board: &Board, states: &[(State, bool, bool)]) {
    for (target, (state, recovered, unsettled)) in snapshot.targets.values().zip(states.iter().cycle()) {
        let since = Moment(if *unsettled { 999_999 } else { 5 });
        let reading = Reading { state: *state, recovered: *recovered, unsettled: *unsettled, since };
        board.write(target.slot, reading);
    }
}

fn source() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1..5_u8, any::<u8>()).prop_map(|(second, third)| IpAddr::from([10, second, third, 9])),
        Just("2001:db8:1::9".parse().unwrap()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 1_000_000, ..ProptestConfig::default() })]

    /// Where the fast path answers, it answers as the general path does: over random zones, health, clients and
    /// queries.
    #[test]
    fn the_fast_path_agrees_with_the_general_one(
        records in prop::collection::vec(record(), 0..12),
        domain in domain(),
        states in states(),
        queries in prop::collection::vec((query(), source()), 1..120),
    ) {
        let health = Board::default();
        // An order about a site that the domain does not have is an error.
        let whole = (domain.0.as_str(), domain.1.as_str());
        let domain = if snapshot(&documents(&[], whole), &health).is_ok() { whole } else { (whole.0, "") };
        // Records that go together with nothing are left out one by one.
        let mut kept = Vec::new();
        for record in records {
            kept.push(record);
            if snapshot(&documents(&kept, domain), &health).is_err() {
                kept.pop();
            }
        }
        let snapshot = snapshot(&documents(&kept, domain), &health).map_err(TestCaseError::fail)?;
        board(&snapshot, &health, &states);
        let lookup = Lookup { snapshot: &snapshot, zones: Zones::none(), targets: Targets::none(), board: &health, now: Moment(1_000_000) };
        let gate = open_gate();
        let (table, guard) = (Table::compile(lookup, &gate), gate.at(lookup.now));
        // Targets outside the zones are resolved only later.
        let targets = Targets::knowing("www.example.org", 7, Moment(1_090_000));
        let lookup = Lookup { targets: &targets, ..lookup };
        let mut scratch = Scratch::default();
        for (packet, source) in queries {
            let mut out = [0xaa; 1280];
            let Some(fast) = table.reply(&packet, source, (lookup, guard), &mut scratch, &mut out) else { continue };
            let general = respond(&packet, source, Transport::Udp, Some(lookup), guard).expect("the fast path only answers queries");
            let (fast_message, general_message) = (understood(&out[..fast.octets]), understood(&general.bytes));
            prop_assert_eq!(&fast_message, &general_message, "{:?}", understood_query(&packet));
            prop_assert_eq!((fast.rcode, fast.subnet), (general.rcode, general.subnet));
            prop_assert!(!general.truncated);
        }
    }

    /// No packet is too strange: it is answered as by the general path or handed on.
    #[test]
    fn strange_packets_are_handed_on(packet in query(), noise in prop::collection::vec((any::<u16>(), any::<u8>()), 0..4), cut in any::<u16>()) {
        let health = Board::default();
        let snapshot = snapshot(&documents(&[], ("policy: { type: nearest }", "")), &health).unwrap();
        let lookup = Lookup { snapshot: &snapshot, zones: Zones::none(), targets: Targets::none(), board: &health, now: Moment(1_000_000) };
        let gate = open_gate();
        let (table, guard) = (Table::compile(lookup, &gate), gate.at(lookup.now));
        let mut packet = packet;
        for (at, octet) in noise {
            let at = usize::from(at) % packet.len();
            packet[at] = octet;
        }
        if cut % 3 == 0 {
            packet.truncate(usize::from(cut) % packet.len());
        }
        let mut out = [0; 1280];
        let source = IpAddr::from([10, 1, 1, 1]);
        if let Some(fast) = table.reply(&packet, source, (lookup, guard), &mut Scratch::default(), &mut out) {
            let general = respond(&packet, source, Transport::Udp, Some(lookup), guard).unwrap();
            prop_assert_eq!(understood(&out[..fast.octets]), understood(&general.bytes));
        }
    }
}

fn understood_query(packet: &[u8]) -> Option<String> {
    Message::from_vec(packet).ok().map(|message| format!("{:?}", message.queries))
}

/// What is common is answered here, and not handed on.
#[test]
fn common_queries_are_answered_on_the_fast_path() {
    let health = Board::default();
    let record = "{ name: www, type: A, data: 198.51.100.1 }".to_owned();
    let snapshot = snapshot(&documents(&[record], ("policy: { type: nearest }", "")), &health).unwrap();
    let lookup = Lookup {
        snapshot: &snapshot,
        zones: Zones::none(),
        targets: Targets::none(),
        board: &health,
        now: Moment(1_000_000),
    };
    let gate = open_gate();
    let (table, guard) = (Table::compile(lookup, &gate), gate.at(lookup.now));
    assert_eq!(table.plans.len(), 1, "three domains that differ in their names only share a plan");
    for (name, record_type) in [
        ("gw.example.com", 1_u16),
        ("gw.example.com", 28),
        ("gw.example.com", 65),
        ("orders.example.com", 1),
        ("orders.example.com", 65),
        ("orders.example.com", 5),
        ("www.example.com", 1),
        ("www.example.com", 16),
        ("nothing.example.com", 1),
        ("a.b.nothing.example.com", 28),
        ("example.com", 6),
        ("example.com", 2),
        ("a.sub.example.com", 1),
    ] {
        let packet = crate::testing::query(name, record_type.into(), Some(1232));
        let mut out = [0; 1280];
        let fast =
            table.reply(&packet, [10, 1, 1, 1].into(), (lookup, guard), &mut Scratch::default(), &mut out);
        assert!(fast.is_some(), "{name} {record_type}");
    }
}

/// A type that an owner has is never denied because its records are too many for an image, nor for an odd name.
#[test]
fn what_cannot_be_written_ahead_is_for_the_general_path() {
    let health = Board::default();
    let long = vec![format!("\"{}\"", "a".repeat(200)); 8].join(" ");
    let records = [
        format!("{{ name: long, type: TXT, data: '{long}' }}"),
        "{ name: a.*.b, type: A, data: 198.51.100.1 }".to_owned(),
        r"{ name: 'a\.b', type: A, data: 198.51.100.1 }".to_owned(),
    ];
    let snapshot = snapshot(&documents(&records, ("policy: { type: nearest }", "")), &health).unwrap();
    let lookup = Lookup {
        snapshot: &snapshot,
        zones: Zones::none(),
        targets: Targets::none(),
        board: &health,
        now: Moment(1_000_000),
    };
    let gate = open_gate();
    let (table, guard) = (Table::compile(lookup, &gate), gate.at(lookup.now));
    let mut out = [0; 1280];
    let mut ask = |name: &[&str], record_type: u16| {
        let mut packet = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.iter().chain(&["example", "com"]) {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend(label.bytes());
        }
        packet.extend([0, 0, u8::try_from(record_type).unwrap(), 0, 1]);
        let fast =
            table.reply(&packet, [10, 1, 1, 1].into(), (lookup, guard), &mut Scratch::default(), &mut out);
        fast.map(|fast| understood(&out[..fast.octets]).answers.len())
    };
    assert_eq!(ask(&["long"], 16), None);
    assert_eq!(ask(&["long"], 1), Some(0));
    assert_eq!(ask(&["a", "*", "b"], 1), Some(1));
    assert_eq!(ask(&["a.b"], 1), Some(1));
}
