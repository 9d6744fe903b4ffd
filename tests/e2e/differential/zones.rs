//! Random zones with everything that servers often get wrong: wildcards, empty names between names, aliases in
//! chains and circles, redirections, delegations and what they hide.
//!
//! Few labels make many meetings: a name is drawn from five labels in up to four places, so that most of them lie
//! above, below or beside another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use fastrand::Rng;

/// A zone file, and the names to query.
#[derive(Debug)]
pub struct ZoneFile {
    pub apex: String,
    pub text: String,
    names: Vec<String>,
}

impl ZoneFile {
    pub fn of(apex: &str, text: String, names: Vec<String>) -> Self {
        Self { apex: apex.to_owned(), text, names }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }
}

const LABELS: &[&str] = &["a", "b", "c", "d", "*"];

/// The places of zones: beside one another, and below.
pub fn many(random: &mut Rng, count: usize) -> Vec<ZoneFile> {
    let apexes: Vec<_> = (0..count)
        .map(|at| match at % 4 {
            // A zone below the one before it, which may or may not delegate it.
            3 => format!("child.z{}.test", at - 1),
            _ => format!("z{at}.test"),
        })
        .collect();
    let mut zones: Vec<_> = apexes.iter().map(|apex| one(random, apex, &apexes)).collect();
    zones.push(from_rfc_4592());
    zones.push(from_rfc_6672());
    zones
}

/// The data at a name decides which other data it may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Alias,
    Redirection,
    Delegation,
}

fn one(random: &mut Rng, apex: &str, apexes: &[String]) -> ZoneFile {
    let mut owners: BTreeMap<String, Kind> = BTreeMap::new();
    for _ in 0..random.usize(5..40) {
        let name = relative(random);
        let kind = match random.u8(..10) {
            0..5 => Kind::Data,
            5..8 => Kind::Alias,
            8 => Kind::Redirection,
            _ => Kind::Delegation,
        };
        let hidden = ancestors(&name).any(|it| owners.get(it) == Some(&Kind::Redirection));
        let hides = kind == Kind::Redirection && owners.keys().any(|it| it.ends_with(&format!(".{name}")));
        // No name may be below a redirection (RFC 6672 §2.4), and wildcards of these kinds mean nothing
        // (RFC 4592 §4.2, §4.4).
        let starred = name.starts_with('*') && matches!(kind, Kind::Redirection | Kind::Delegation);
        if !hidden && !hides && !starred {
            owners.entry(name).or_insert(kind);
        }
    }
    let mut text = format!(
        "$ORIGIN {apex}.\n$TTL 3600\n@ {} SOA ns1 hostmaster 1 7200 600 86400 {}\n@ NS ns1\n@ NS ns.elsewhere.example.\nns1 A 192.0.2.53\nns1 AAAA 2001:db8::53\n",
        random.u32(60..7200),
        random.u32(1..7200)
    );
    let mut target = |random: &mut Rng| match random.u8(..8) {
        0 => "www.elsewhere.example.".to_owned(),
        1 => format!("{}.{}.", relative(random), random.choice(apexes).unwrap()),
        _ => relative(random),
    };
    for (name, kind) in &owners {
        let ttl = random.u32(1..100_000);
        let mut line = |data: String| writeln!(text, "{name} {ttl} {data}").unwrap();
        match kind {
            Kind::Alias => line(format!("CNAME {}", target(random))),
            Kind::Redirection => {
                line(format!("DNAME {}", target(random)));
                if random.bool() {
                    line("TXT \"beside a redirection\"".to_owned());
                }
            }
            Kind::Delegation => {
                for _ in 0..random.u8(1..3) {
                    // Inside the delegation, beside it, or somewhere else.
                    match random.u8(..3) {
                        0 => line(format!("NS ns.{name}")),
                        _ => line(format!("NS {}", target(random))),
                    }
                }
                if random.bool() {
                    line(
                        "DS 12345 13 2 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
                            .to_owned(),
                    );
                }
                if random.bool() {
                    line("TXT \"hidden by the delegation\"".to_owned());
                }
                writeln!(text, "ns.{name} {ttl} A 192.0.2.{}", random.u8(1..255)).unwrap();
            }
            Kind::Data => data(random, &mut line, &mut target),
        }
    }
    if random.bool() {
        text.push_str("child 300 NS ns1.child\nchild 300 NS b\nns1.child 300 A 192.0.2.53\nns1.child 300 AAAA 2001:db8::53\n");
    }
    let text = distinct(&text);
    let names = owners.into_keys().map(|name| format!("{name}.{apex}")).chain([apex.to_owned()]).collect();
    ZoneFile { apex: apex.to_owned(), text, names }
}

fn data(random: &mut Rng, line: &mut impl FnMut(String), target: &mut impl FnMut(&mut Rng) -> String) {
    for kind in 0..9 {
        if random.u8(..3) != 0 && kind != 0 {
            continue;
        }
        match kind {
            0 => (0..random.u8(1..4)).for_each(|_| line(format!("A 192.0.2.{}", random.u8(1..255)))),
            1 => line(format!("AAAA 2001:db8::{:x}", random.u16(1..))),
            2 => line(format!("MX {} {}", random.u8(..), target(random))),
            3 => line(format!("SRV {} 5 443 {}", random.u8(..), target(random))),
            4 => line("CAA 0 issue \"ca.example.net\"".to_owned()),
            5 => line("TYPE65280 \\# 3 0a0b0c".to_owned()),
            6 => line(format!("PTR {}", target(random))),
            7 => line(format!("NAPTR 10 20 \"s\" \"sip+d2u\" \"\" {}", target(random))),
            // Now and then more than fits in a datagram.
            _ if random.u8(..6) == 0 => {
                (0..12).for_each(|at| line(format!("TXT \"{at:0>200}\"")));
            }
            _ => line("TXT \"one\" \"two\"".to_owned()),
        }
    }
}

/// Records that came twice only once, and none below a redirection that the addresses of name servers made.
fn distinct(text: &str) -> String {
    let mut seen = BTreeSet::new();
    let lines = text.lines().filter(|line| {
        let words: Vec<_> = line.split(' ').collect();
        // With any TTL.
        seen.insert((words[0].to_owned(), words.get(2..).unwrap_or_default().join(" ")))
    });
    lines.fold(String::new(), |mut text, line| {
        text.push_str(line);
        text.push('\n');
        text
    })
}

fn relative(random: &mut Rng) -> String {
    let depth = *random.choice(&[1, 1, 2, 2, 2, 3, 3, 4]).unwrap();
    (0..depth).map(|_| *random.choice(LABELS).unwrap()).collect::<Vec<_>>().join(".")
}

fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.')).map(|(_, rest)| rest)
}

/// A name in a zone, below or above one of its names, beside them, or outside.
pub fn question(random: &mut Rng, zone: &ZoneFile) -> String {
    let known = random.choice(&zone.names).unwrap();
    match random.u8(..12) {
        0..5 => known.clone(),
        5..8 => format!("{}.{known}", relative(random)),
        8 => known.split_once('.').map_or_else(String::new, |(_, above)| above.to_owned()),
        9 => "www.elsewhere.example".to_owned(),
        _ => format!("{}.{}", relative(random), zone.apex),
    }
}

/// The example of RFC 4592 §2.2.1, under its name.
fn from_rfc_4592() -> ZoneFile {
    let text = "\
$ORIGIN example.
$TTL 3600
@ SOA ns.example.com. hostmaster 1 7200 600 86400 300
@ NS ns.example.com.
@ NS ns.example.net.
* TXT \"this is a wildcard\"
* MX 10 host1.example.
sub.* TXT \"this is not a wildcard\"
host1 A 192.0.2.1
_ssh._tcp.host1 SRV 0 0 22 host1
_ssh._tcp.host2 SRV 0 0 22 host2
subdel NS ns.example.com.
subdel NS ns.example.net.
";
    let names =
        ["host3", "foo.bar", "host1", "ghost.*", "sub.*", "_telnet._tcp.host1", "host.subdel", "_tcp.host1"];
    named("example", text, &names)
}

/// The zones of RFC 6672 §2.2 and §5.3: a redirection to a name far too long and one to itself.
fn from_rfc_6672() -> ZoneFile {
    let long = ["a"; 4].map(|it| it.repeat(61)).join(".");
    let text = format!(
        "\
$ORIGIN dname.test.
$TTL 3600
@ SOA ns hostmaster 1 7200 600 86400 300
@ NS ns
ns A 192.0.2.53
to DNAME target
target A 192.0.2.1
x.target A 192.0.2.2
*.y.target A 192.0.2.3
al.target CNAME x.to
self DNAME self
long DNAME {long}.
chain DNAME to
"
    );
    let names = ["to", "x.to", "a.y.to", "al.to", "none.to", "self", "a.self", "a.long", "x.chain", "long"];
    named("dname.test", &text, &names)
}

fn named(apex: &str, text: &str, names: &[&str]) -> ZoneFile {
    let names = names.iter().map(|name| format!("{name}.{apex}")).collect();
    ZoneFile { apex: apex.to_owned(), text: text.to_owned(), names }
}
