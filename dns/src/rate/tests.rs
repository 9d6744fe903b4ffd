use std::{collections::HashMap, thread};

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn table(config: &Config) -> Table {
    Table::new(config, Arc::default()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> Kind {
    Kind::Answer(Subject::of(text.as_bytes()))
}

/// The decisions on this many responses at one moment.
fn verdicts(table: &Table, client: &str, kind: Kind, at: u64, many: usize) -> Vec<Decision> {
    (0..many).map(|_| table.admit(ip(client), kind, Moment(at))).collect()
}

fn sent(table: &Table, client: &str, kind: Kind, at: u64, many: usize) -> usize {
    verdicts(table, client, kind, at, many).into_iter().filter(|it| *it == Decision::Send).count()
}

#[test]
fn a_second_s_worth_passes_and_every_second_one_beyond_slips() {
    let table = table(&Config::default());
    assert_eq!(sent(&table, "192.0.2.1", name("www.example.com"), NOW, 1000), 1000);
    let beyond = verdicts(&table, "192.0.2.1", name("www.example.com"), NOW, 4);
    assert_eq!(beyond, [Decision::Drop, Decision::Slip, Decision::Drop, Decision::Slip]);
    assert_eq!((table.counts.dropped.get(), table.counts.slipped.get()), (2, 2));
    assert_eq!(sent(&table, "192.0.2.1", Kind::Error, NOW, 1000), 200, "errors have a rate of their own");
}

#[test]
fn slip_sets_how_many_are_truncated() {
    for (slip, expected) in [(0, 0), (1, 30), (3, 10), (10, 3)] {
        let table = table(&Config { errors_per_second: 1, slip, ..Config::default() });
        let all = verdicts(&table, "192.0.2.1", Kind::Error, NOW, 31);
        assert_eq!(all.iter().filter(|it| **it == Decision::Slip).count(), expected, "{slip}");
    }
}

#[test]
fn a_network_a_kind_and_a_subject_have_one_account() {
    let table = table(&Config::default());
    assert_eq!(sent(&table, "192.0.2.1", name("a.example.com"), NOW, 2000), 1000);
    for (client, kind, expected) in [
        ("192.0.2.255", name("a.example.com"), 0),
        ("192.0.3.1", name("a.example.com"), 1),
        ("192.0.2.1", name("b.example.com"), 1),
        ("192.0.2.1", Kind::Absence(Subject::of(b"a.example.com")), 1),
        ("::ffff:192.0.2.1", name("a.example.com"), 0),
    ] {
        assert_eq!(sent(&table, client, kind, NOW, 1), expected, "{client} {kind:?}");
    }
    assert_eq!(sent(&table, "2001:db8:0:1::1", name("a.example.com"), NOW, 2000), 1000);
    assert_eq!(sent(&table, "2001:db8:0:ff::2", name("a.example.com"), NOW, 1), 0, "one /56");
    assert_eq!(sent(&table, "2001:db8:0:100::1", name("a.example.com"), NOW, 1), 1);
}

#[test]
fn a_client_that_stops_is_answered_again_and_one_that_goes_on_is_not() {
    let window = Duration::from_secs(5);
    let table = table(&Config { window, ..Config::default() });
    let from = "192.0.2.1";
    for second in 0..20 {
        let expected = if second == 0 { 1000 } else { 0 };
        assert_eq!(sent(&table, from, name("x"), NOW + second * 1000, 2500), expected, "{second}");
    }
    let stopped = NOW + 19_000;
    assert_eq!(sent(&table, from, name("x"), stopped + 4_900, 1), 0);
    assert_eq!(sent(&table, from, name("x"), stopped + 7_000, 500), 500);
}

#[test]
fn exempt_networks_and_rates_of_zero_are_not_limited() {
    let exempt = vec!["127.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    let config = Config { exempt, absences_per_second: 0, ..Config::default() };
    let table = table(&config);
    for client in ["127.3.2.1", "::ffff:127.0.0.1", "2001:db8:ffff::1"] {
        assert_eq!(sent(&table, client, name("x"), NOW, 3000), 3000, "{client}");
    }
    assert_eq!(sent(&table, "192.0.2.1", Kind::Absence(Subject::of(b"x")), NOW, 3000), 3000);
    assert_eq!(sent(&table, "2001:db9::1", name("x"), NOW, 3000), 1000);
}

/// Accounts are free once they are paid up, so many addresses with one query each displace no account.
#[test]
fn a_flood_of_addresses_with_one_query_each_fills_nothing() {
    let table = table(&Config::default());
    for at in 0..300_000_u32 {
        let client = IpAddr::from((at << 8).to_be_bytes());
        assert_eq!(table.admit(client, name("x"), Moment(NOW + u64::from(at / 1000))), Decision::Send);
    }
    assert_eq!(table.counts.overflow.get(), 0);
}

#[test]
fn a_full_table_drops_the_least_indebted_and_counts_it() {
    let table = table(&Config { accounts: 1, responses_per_second: 1, ..Config::default() });
    assert_eq!(sent(&table, "10.0.0.1", name("x"), NOW, 10), 1);
    for network in 1..=9_u8 {
        let _ = table.admit(IpAddr::from([10, 0, network, 1]), name("x"), Moment(NOW));
    }
    assert_eq!(table.counts.overflow.get(), 2);
    assert_eq!(sent(&table, "10.0.0.1", name("x"), NOW, 1), 0, "the most indebted is kept");
}

/// Time has 40 bits of microseconds here; nothing lasts where it wraps.
#[test]
fn time_may_wrap() {
    let wrap = (1_u64 << 40) / 1000 * 1000;
    let table = table(&Config::default());
    assert_eq!(sent(&table, "10.0.0.1", name("x"), wrap - 1, 3000), 1000);
    assert_eq!(sent(&table, "10.0.0.1", name("x"), wrap + 500, 1500), 0);
    assert_eq!(sent(&table, "10.0.0.1", name("x"), wrap + 20_000, 1000), 1000);
}

#[test]
fn threads_share_the_accounts() {
    let table = table(&Config::default());
    let all = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| sent(&table, "192.0.2.1", name("x"), NOW, 2000))).collect();
        threads.into_iter().map(|it| it.join().unwrap()).sum::<usize>()
    });
    assert!((1000..2000).contains(&all), "{all}");
}

#[test]
fn prefixes_of_every_length_are_possible() {
    for (ipv4_prefix, ipv6_prefix) in [(0, 0), (32, 64), (255, 255)] {
        let table = table(&Config { ipv4_prefix, ipv6_prefix, ..Config::default() });
        assert_eq!(sent(&table, "192.0.2.1", name("x"), NOW, 1), 1);
    }
}

/// The rule itself, written down without bits: microseconds ahead, by key.
#[derive(Default)]
struct Plain {
    accounts: HashMap<(u8, u8), (u64, u64)>,
}

impl Plain {
    fn admit(&mut self, config: &Config, client: u8, subject: u8, now: u64) -> Decision {
        let cost = 1_000_000 / u64::from(config.responses_per_second);
        let most = 1_000_000 + u64::try_from(config.window.as_micros()).unwrap();
        let (paid, refused) = self.accounts.entry((client, subject)).or_default();
        let ahead = paid.saturating_sub(now * 1000);
        *paid = now * 1000 + (ahead + cost).min(most);
        if ahead + cost <= 1_000_000 {
            *refused = 0;
            return Decision::Send;
        }
        *refused += 1;
        let slip = u64::from(config.slip);
        if slip > 0 && refused.is_multiple_of(slip) { Decision::Slip } else { Decision::Drop }
    }
}

proptest! {
    #[test]
    fn words_of_bits_agree_with_the_plain_rule(
        rate in 1_u32..20, slip in 0_u8..=10, seconds in 1_u64..4,
        steps in prop::collection::vec((0_u8..3, 0_u8..3, 0_u64..400), 1..300),
    ) {
        let window = Duration::from_secs(seconds);
        let config = Config { responses_per_second: rate, slip, window, ..Config::default() };
        let (table, mut plain, mut now) = (table(&config), Plain::default(), NOW);
        for (client, subject, later) in steps {
            now += later;
            let address = IpAddr::from([192, 0, client, 1]);
            let kind = name(&subject.to_string());
            let decision = table.admit(address, kind, Moment(now));
            prop_assert_eq!(decision, plain.admit(&config, client, subject, now));
        }
    }
}

/// Numbers are kept with compiled names, so they are the same in every process.
#[test]
fn subjects_distinguish_names() {
    let names: [&[u8]; 6] =
        [b"\0", b"\x01a\0", b"\x01b\0", b"\x07example\0", b"\x07example\x03com\0", b"\x07example\x03con\0"];
    for (at, name) in names.iter().enumerate() {
        assert!(names[..at].iter().all(|other| Subject::of(other) != Subject::of(name)), "{name:?}");
    }
    assert_eq!(Subject::of(b"\x01a\0"), Subject::of(&[1, b'a', 0]));
}
