mod tolerance;

use std::{collections::HashMap, fmt::Write as _};

use proptest::prelude::*;
use store::model::{RecordData, StartOfAuthority, StaticRecord, Ttl, arbitrary};

use super::*;
use crate::record::{Data, plain_type};

impl Files for HashMap<&str, String> {
    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, String> {
        let text = self.get(path).ok_or_else(|| format!("there is no {path}"))?;
        if text.len() > most { Err("too long".to_owned()) } else { Ok(text.clone().into_bytes()) }
    }
}

const HEAD: &str = "$TTL 1h\n@ SOA ns1 john\\.doe 7 2h 10m 2w 1m\n@ NS ns1\nns1 A 192.0.2.53\n";

fn apex() -> DomainName {
    "example.com".parse().unwrap()
}

fn loaded(text: &str) -> Zone {
    read("z", text.as_bytes(), &apex(), &NoFiles).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

/// What is wrong with a text that follows a proper head of four lines.
fn errors(text: &str) -> Vec<String> {
    let found = read("z", format!("{HEAD}{text}").as_bytes(), &apex(), &NoFiles).unwrap_err();
    found.iter().map(ToString::to_string).collect()
}

fn records(zone: &Zone) -> Vec<String> {
    let shown = |record: &StaticRecord| {
        let ttl = record.ttl.unwrap_or(zone.ttl).as_secs();
        format!("{} {ttl} {} {}", record.name, plain_type(&record.data), Data::Plain(record.data.clone()))
    };
    zone.records.iter().map(shown).collect()
}

#[test]
fn a_usual_zone() {
    let zone = loaded(
        "; as BIND writes it
$ORIGIN .
$TTL 3600 ; 1 hour
example.com             IN SOA  ns1.example.com. host\\.master.example.com. (
                                2026112301 ; serial
                                7200 10m 2W
                                60 )
                        NS      ns1.example.com.
                        NS      ns.elsewhere.
                        MX      10 mail.example.com.
$ORIGIN example.com.
ns1                     A       192.0.2.53
$TTL 300
*                       IN 1h30m TXT \"a;b\" c\\\"
Mail            60 IN   AAAA    2001:db8::1
                        A       192.0.2.1
                        A       192.0.2.1
0/25                    CNAME   a\\.b
_443._tcp               TLSA    3 1 1 ( 0a
                                        0b )
sub                     NS      ns1.sub
ns1.sub                 A       192.0.2.2
old                     DNAME   new
",
    );
    let soa = zone.soa.as_ref().unwrap();
    assert_eq!((soa.mname.as_str(), soa.rname.as_str()), ("ns1.example.com", r"host\046master.example.com"));
    assert_eq!((soa.serial, soa.refresh.as_secs(), soa.ttl), (Some(2_026_112_301), 7200, None));
    assert_eq!((zone.ttl.as_secs(), zone.negative_ttl.as_secs()), (3600, 60));
    let servers: Vec<_> = zone.nameservers.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(servers, ["ns1.example.com", "ns.elsewhere"]);
    assert_eq!(
        records(&zone),
        [
            "example.com 3600 MX 10 mail.example.com.",
            "ns1.example.com 3600 A 192.0.2.53",
            r#"*.example.com 5400 TXT "a;b" "c\"""#,
            "mail.example.com 60 AAAA 2001:db8::1",
            "mail.example.com 300 A 192.0.2.1",
            r"0\04725.example.com 300 CNAME a\046b.example.com.",
            "_443._tcp.example.com 300 TLSA 3 1 1 0a0b",
            "sub.example.com 300 NS ns1.sub.example.com.",
            "ns1.sub.example.com 300 A 192.0.2.2",
            "old.example.com 300 DNAME new.example.com.",
        ]
    );
}

/// As in NSD: neither the SOA's minimum nor its TTL, nor the TTL of the record before, is another record's.
#[test]
fn without_a_ttl_and_a_default_it_is_an_hour() {
    let text = "w A 192.0.2.1\n@ SOA a b 1 2 3 4 50\n@ NS ns.elsewhere.\na 70 A 192.0.2.1\nb A 192.0.2.1\n$TTL 9\nc A 192.0.2.1\n";
    let read = read_placed("z", text.as_bytes(), &apex(), &NoFiles, Dnssec::Refuse).unwrap();
    let zone = &read.zone;
    assert_eq!((zone.ttl.as_secs(), zone.soa.as_ref().unwrap().ttl), (3600, None));
    let lines = [
        "w.example.com 3600 A 192.0.2.1",
        "a.example.com 70 A 192.0.2.1",
        "b.example.com 3600 A 192.0.2.1",
        "c.example.com 9 A 192.0.2.1",
    ];
    assert_eq!(records(zone), lines);
    let warnings = read.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(warnings.len() == 1 && warnings[0].starts_with("z:1:1: a record without a TTL"), "{warnings:#?}");
    let zone = loaded("@ 9 SOA a b 1 2 3 4 50\n@ NS ns.elsewhere.\n");
    assert_eq!((zone.ttl.as_secs(), zone.soa.unwrap().ttl.unwrap().as_secs()), (3600, 9));
    let zone = loaded("@ 9 SOA a b 1 2 3 4 50\n@ 8 NS ns.elsewhere.\n");
    assert_eq!((zone.ttl.as_secs(), zone.soa.unwrap().ttl.unwrap().as_secs()), (8, 9));
}

#[test]
fn files_include_files() {
    let files = HashMap::from([
        ("hosts", "a A 192.0.2.1\n$ORIGIN deep\nb A 192.0.2.2\n$INCLUDE more x.example.com.\n".to_owned()),
        ("more", "@ A 192.0.2.3\n".to_owned()),
        ("bad", "\nwhat\n".to_owned()),
        ("loop", "$INCLUDE loop\n".to_owned()),
        ("blank", " A 192.0.2.88\n".to_owned()),
    ]);
    // The origin is afterwards as it was; the owner goes in and comes out.
    let text = format!("{HEAD}$INCLUDE hosts\n A 192.0.2.54\nc A 192.0.2.4\n");
    let zone = read("dir/z", text.as_bytes(), &apex(), &files).unwrap();
    let names: Vec<_> = zone.records.iter().map(|it| it.name.as_str()).skip(1).collect();
    let own = ["a.example.com", "b.deep.example.com", "x.example.com", "x.example.com", "c.example.com"];
    assert_eq!(names, own);
    let zone = read("z", format!("{HEAD}$INCLUDE blank\n").as_bytes(), &apex(), &files).unwrap();
    assert_eq!(records(&zone)[1], "ns1.example.com 3600 A 192.0.2.88");
    let deep = |levels: usize| {
        let files: Vec<_> =
            (1..=levels).map(|n| (format!("f{n}"), format!("$INCLUDE f{}\n", n + 1))).collect();
        let mut files: HashMap<&str, String> =
            files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
        let last = format!("f{levels}");
        files.insert(&last, "a A 192.0.2.1\n".to_owned());
        read("z", format!("{HEAD}$INCLUDE f1\n").as_bytes(), &apex(), &files).is_ok()
    };
    assert!(deep(10) && !deep(11), "as deep as NSD goes");
    for (file, expected) in [
        ("bad", "dir/bad:2:1: the line ends behind"),
        ("loop", "dir/loop:1:10: \"loop\" is included too deep"),
        ("none", "dir/z:5:10: there is no none"),
    ] {
        let text = format!("{HEAD}$INCLUDE {file}\n");
        let found = read("dir/z", text.as_bytes(), &apex(), &files).unwrap_err();
        assert!(found[0].to_string().starts_with(expected), "{}", found[0]);
    }
}

#[test]
fn one_line_generates_many_records() {
    let zone = loaded(&format!("{HEAD}$GENERATE 1-3/2 h${{0,2}} 60 A 192.0.2.$\n"));
    assert_eq!(records(&zone)[1..], ["h01.example.com 60 A 192.0.2.1", "h03.example.com 60 A 192.0.2.3"]);
    assert!(errors("$GENERATE 1-300 h$ A 192.0.2.$")[0].starts_with("z:5:1: \"192.0.2.256\" is not an IPv4"));
}

#[test]
fn errors_have_line_word_and_expectation() {
    let cases = [
        ("a A 192.0.2", "z:5:5: \"192.0.2\" is not an IPv4 address"),
        ("a 1x A 192.0.2.1", "z:5:3: \"1x\" is not a TTL of 0 to 2147483647 seconds, or such as 1h30m"),
        ("a CH A 192.0.2.1", "z:5:3: \"CH\" is not the class IN"),
        ("a CLASS003 A 192.0.2.1", "z:5:3: \"CLASS003\" is not the class IN"),
        ("a IN 60 WHAT x", "z:5:9: \"WHAT\" is not a record type"),
        ("a IN", "z:5:3: the line ends behind \"IN\"; expected a record type and its data"),
        ("a MX 10", "z:5: the data ends too early; expected a name"),
        ("a..b A 192.0.2.1", "z:5:1: \"a..b\" is not a domain name"),
        ("a TXT \"b", "z:5:7: a quote that is not closed on its line; expected a closing \""),
        ("a TXT (\nb\n", "z:5:7: a parenthesis that is not closed; expected a closing )"),
        ("@ SOA a b 1 2 3 4 5", "z:5:1: a second SOA with other content; the first is at z:2"),
        ("a SOA a b 1 2 3 4 5", "z:5:1: a SOA at a.example.com, which is not the apex"),
        ("$WHAT", "z:5:1: \"$WHAT\" is not one of $ORIGIN"),
        ("$ORIGIN", "z:5:1: $ORIGIN takes one name"),
        ("$TTL x", "z:5:6: \"x\" is not a TTL"),
        (
            "a CNAME b\na A 192.0.2.1",
            "z:5: a.example.com is a CNAME, and there is other data at it; expected a CNAME alone",
        ),
        ("@ CNAME b", "z:5: example.com is a CNAME, and"),
        ("a CNAME b\na CNAME c", "z:5: a.example.com has 2 CNAMEs"),
        ("a DNAME b\nx.y.a A 192.0.2.1", "z:6: x.y.a.example.com lies below the DNAME of a.example.com"),
        ("a DNAME b\na DNAME c", "z:5: a.example.com has 2 DNAMEs"),
        ("@ NS ns2", "z:5: ns2.example.com lies in the zone and has no address"),
        ("$INCLUDE x", "z:5:10: no other file can be had here"),
    ];
    for (text, expected) in cases {
        let found = errors(text);
        assert!(found[0].starts_with(expected), "{text}: {found:#?}");
    }
    let missing = read("z", b"", &apex(), &NoFiles).unwrap_err();
    assert_eq!(missing[0].to_string(), "z: the zone has no SOA; expected one SOA record at example.com");
    assert!(missing[1].to_string().starts_with("z: the zone has no name server"));
}

#[test]
fn all_errors_come_at_once_up_to_a_bound() {
    assert_eq!(errors("a A x\nb A 192.0.2.1\nc WHAT\nd\n").len(), 3);
    assert_eq!(errors(&"a A x\n".repeat(100)).len(), MAX_ERRORS);
}

/// A zone as a file; everything is written in full.
fn written(zone: &Zone) -> String {
    let mut out = String::new();
    let soa = zone.soa.as_ref().unwrap();
    let (apex, ttl) = (&zone.name, soa.ttl.unwrap_or(zone.ttl).as_secs());
    let times = [soa.refresh, soa.retry, soa.expire, zone.negative_ttl].map(|it| it.as_secs().to_string());
    let (mname, rname, serial) = (&soa.mname, &soa.rname, soa.serial.unwrap());
    writeln!(out, "{apex}. {ttl} SOA {mname}. {rname}. {serial} {}", times.join(" ")).unwrap();
    for server in &zone.nameservers {
        writeln!(out, "{apex}. {} NS {}.", zone.ttl.as_secs(), server.name).unwrap();
    }
    for record in &zone.records {
        let (ttl, kind) = (record.ttl.unwrap_or(zone.ttl).as_secs(), plain_type(&record.data));
        writeln!(out, "{}. {ttl} IN {kind} {}", record.name, Data::Plain(record.data.clone())).unwrap();
    }
    out
}

/// Removes from any zone what no zone file can hold, and changes the rest to the form in which it is read.
fn legal(mut zone: Zone) -> Zone {
    // No zone file has access rules.
    zone.allow_query.clear();
    zone.negative_ttl = zone.negative_ttl.min(Ttl::MAX);
    let apex = zone.name.clone();
    for server in &mut zone.nameservers {
        let name = server.name.clone();
        let a = std::mem::take(&mut server.a).into_iter().map(RecordData::A);
        zone.records.extend(a.map(|data| StaticRecord { name: name.clone(), ttl: None, data }));
    }
    let soa = zone.soa.take().unwrap_or_else(|| StartOfAuthority {
        mname: apex.clone(),
        rname: apex.clone(),
        serial: None,
        refresh: StartOfAuthority::REFRESH,
        retry: StartOfAuthority::RETRY,
        expire: StartOfAuthority::EXPIRE,
        ttl: None,
    });
    let ttl = soa.ttl.filter(|ttl| *ttl != zone.ttl);
    let [refresh, retry, expire] = [soa.refresh, soa.retry, soa.expire].map(|it| it.min(Ttl::MAX));
    zone.soa =
        Some(StartOfAuthority { serial: Some(soa.serial.unwrap_or(1)), ttl, refresh, retry, expire, ..soa });
    let mut kept: Vec<StaticRecord> = Vec::new();
    // The name servers' addresses, which came last, stay.
    for mut it in zone.records.into_iter().rev() {
        let alone = |data: &RecordData| matches!(data, RecordData::Cname(_) | RecordData::Dname(_));
        let beside =
            kept.iter().any(|other| other.name == it.name && (alone(&other.data) || alone(&it.data)));
        let dname = |it: &StaticRecord| matches!(it.data, RecordData::Dname(_));
        let below =
            |a: &StaticRecord, b: &StaticRecord| dname(b) && a.name != b.name && a.name.is_within(&b.name);
        let nested = kept.iter().any(|other| below(other, &it) || below(&it, other));
        let at_apex = it.name == apex && (alone(&it.data) || matches!(it.data, RecordData::Ns(_)));
        let twice = kept.iter().any(|other| other.name == it.name && other.data == it.data);
        let alias = |data: &RecordData| matches!(data, RecordData::Alias(_));
        let address = |data: &RecordData| {
            alias(data) || matches!(data, RecordData::A(_) | RecordData::Aaaa(_) | RecordData::Ns(_))
        };
        let flattened = kept.iter().any(|other| {
            let either = |a: &RecordData, b: &RecordData| alias(a) && address(b);
            other.name == it.name && (either(&other.data, &it.data) || either(&it.data, &other.data))
        });
        if !(beside || nested || at_apex || twice || flattened) {
            it.ttl = it.ttl.filter(|ttl| *ttl != zone.ttl);
            kept.push(it);
        }
    }
    kept.reverse();
    Zone { records: kept, ..zone }
}

proptest! {
    #[test]
    fn a_zone_that_is_written_reads_as_it_was(zone in arbitrary::zone().prop_map(legal)) {
        let text = written(&zone);
        let found = read("z", text.as_bytes(), &zone.name, &NoFiles);
        prop_assert_eq!(found, Ok(zone), "{}", text);
    }

    #[test]
    fn no_text_is_too_strange(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read("z", &text, &apex(), &NoFiles);
    }

    #[test]
    fn no_change_to_a_zone_is_too_strange(
        zone in arbitrary::zone().prop_map(legal),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), "[ \n\t\"();\\\\$@0-9A-Z.]{0,3}"), 1..6),
    ) {
        let mut text = written(&zone).into_bytes();
        for (at, put) in changes {
            let at = at.index(text.len());
            text.splice(at..(at + 1).min(text.len()), put.bytes());
        }
        if let Err(errors) = read("z", &text, &zone.name, &NoFiles) {
            prop_assert!((1..=MAX_ERRORS).contains(&errors.len()));
        }
    }
}
