use std::fs;

use hickory_proto::rr::RecordType as WireType;
use store::snapshot::Snapshot;
use tempfile::TempDir;

use super::*;
use crate::{
    Lookup,
    packet::Transport,
    record::Rcode,
    respond::respond,
    testing::{Small, parsed, query},
};

fn zone(serial: u32, address: &str) -> String {
    format!("$TTL 60\n@ SOA ns.elsewhere. a 0{serial} 2 3 4 5\n@ NS ns.elsewhere.\nwww A {address}\n")
}

struct Place {
    temp: TempDir,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Self { temp: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(name, text)| place.put(name, text));
        place
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.temp.path().join(name), text).unwrap();
    }

    fn open(&self) -> (ZonesDir, Report) {
        ZonesDir::open(self.temp.path()).unwrap()
    }
}

fn view(dir: &ZonesDir, name: &str) -> Option<Arc<ZoneView>> {
    dir.zones().load().zone_of(name).cloned()
}

#[test]
fn the_deepest_zone_answers_and_its_serial_is_the_files() {
    let place = Place::new(&[
        ("example.com.zone", &zone(7, "192.0.2.1")),
        ("Sub.Example.com.zone", &zone(8, "192.0.2.2")),
        ("0\\04725.2.0.192.in-addr.arpa.zone", &zone(9, "192.0.2.3")),
        ("README", "no zone"),
        (".example.org.zone", "an editor's"),
    ]);
    let (dir, report) = place.open();
    assert_eq!((report.zones, report.changed, report.failed), (3, 3, 0));
    assert!(report.warnings[0].contains("1 files are not served") && report.warnings[0].contains(": README"));
    assert_eq!(view(&dir, "a.b.example.com").unwrap().serial, 7);
    assert_eq!(view(&dir, "www.sub.example.com").unwrap().serial, 8);
    assert_eq!(view(&dir, r"1.0\04725.2.0.192.in-addr.arpa").unwrap().serial, 9);
    assert!(view(&dir, "example.org").is_none());
    assert!(view(&dir, "www.example.com").unwrap().get("www.example.com").is_some());
}

#[test]
fn what_did_not_change_is_the_same_view() {
    let place = Place::new(&[
        ("a.zone", &zone(1, "192.0.2.1")),
        ("b.zone", &format!("{}$INCLUDE hosts\n", zone(1, "192.0.2.1"))),
        ("hosts", "x A 192.0.2.9\n"),
    ]);
    let (dir, _) = place.open();
    let (a, b) = (view(&dir, "a").unwrap(), view(&dir, "b").unwrap());
    assert_eq!(dir.reread(), Report { zones: 2, ..Report::default() });
    assert!(Arc::ptr_eq(&a, &view(&dir, "a").unwrap()));
    place.put("hosts", "y A 192.0.2.9\n");
    assert_eq!(dir.reread(), Report { zones: 2, changed: 1, ..Report::default() });
    assert!(Arc::ptr_eq(&a, &view(&dir, "a").unwrap()));
    assert!(!Arc::ptr_eq(&b, &view(&dir, "b").unwrap()));
    assert!(view(&dir, "b").unwrap().get("y.b").is_some());
}

#[test]
fn a_file_with_an_error_costs_only_what_was_never_right() {
    let place = Place::new(&[
        ("a.zone", &zone(1, "192.0.2.1")),
        ("b.zone", &zone(1, "192.0.2")),
        ("c..d.zone", &zone(1, "192.0.2.1")),
    ]);
    let (dir, report) = place.open();
    assert_eq!((report.zones, report.failed, report.errors.len()), (1, 2, 3));
    assert!(report.errors[0].contains("b.zone:4:7: \"192.0.2\" is not an IPv4 address"), "{report:?}");
    place.put("a.zone", &zone(2, "192.0.2"));
    place.put("b.zone", &zone(2, "192.0.2.2"));
    let report = dir.reread();
    assert_eq!((report.zones, report.changed, report.failed), (2, 1, 2));
    assert!(report.errors[1].ends_with("a.zone: the zone a is served as it was"), "{report:?}");
    assert_eq!(view(&dir, "a").unwrap().serial, 1);
    fs::remove_file(place.temp.path().join("a.zone")).unwrap();
    assert_eq!(dir.reread().removed, 1);
    assert!(view(&dir, "a").is_none());
    let mut shown = Vec::new();
    dir.collect(&mut |sample| shown.push(sample.value));
    assert_eq!(shown, [1.0, 5.0]);
}

#[test]
fn two_files_for_one_zone_are_one_too_many() {
    let place = Place::new(&[("A.zone", &zone(1, "192.0.2.1")), ("a.zone", &zone(2, "192.0.2.1"))]);
    let (dir, report) = place.open();
    assert_eq!((report.zones, report.failed), (1, 1));
    assert_eq!(view(&dir, "a").unwrap().serial, 1);
}

#[test]
fn a_folder_that_is_gone_changes_nothing() {
    let place = Place::new(&[("a.zone", &zone(1, "192.0.2.1"))]);
    let (dir, _) = place.open();
    drop(place);
    let report = dir.reread();
    assert_eq!((report.zones, report.failed), (1, 1));
    assert!(view(&dir, "a").is_some());
    assert!(ZonesDir::open(Path::new("/nowhere/at/all")).is_err());
}

#[test]
fn files_answer_beside_a_configuration_and_before_there_is_one() {
    let place = Place::new(&[
        ("example.com.zone", &zone(1, "198.51.100.1")),
        ("sub.example.com.zone", &zone(1, "198.51.100.2")),
        ("example.org.zone", &format!("{}alias CNAME www.sub.example.com.\n", zone(1, "198.51.100.3"))),
    ]);
    let (dir, _) = place.open();
    let (small, zones, nothing) = (Small::healthy(), dir.zones().load(), Snapshot::default());
    let configured = Lookup { zones: &zones, ..small.lookup() };
    let bare = Lookup { snapshot: &nothing, ..configured };
    let ask = |lookup: Lookup<'_>, name: &str| {
        let packet = query(name, WireType::A, None);
        let guard = small.gate.at(lookup.now);
        let response = respond(&packet, [10, 1, 0, 9].into(), Transport::Udp, Some(lookup), guard).unwrap();
        let addresses: Vec<_> = parsed(&response).answers.iter().map(|it| it.data.to_string()).collect();
        (response.rcode, response.no_snapshot, addresses.join(" "))
    };
    let (found, none) = (|text: &str| (Rcode::NoError, false, text.to_owned()), String::new());
    assert_eq!(ask(configured, "www.example.org."), found("198.51.100.3"));
    assert_eq!(ask(configured, "alias.example.org."), found("www.sub.example.com. 198.51.100.2"));
    assert_eq!(ask(configured, "www.sub.example.com."), found("198.51.100.2"), "the deepest zone answers");
    assert_eq!(ask(configured, "gw.example.com."), found("192.0.2.1"), "the configuration comes first");
    assert_eq!(ask(configured, "example.net."), (Rcode::Refused, false, none.clone()));
    assert_eq!(ask(bare, "www.example.com."), found("198.51.100.1"));
    assert_eq!(ask(bare, "example.net."), (Rcode::ServFail, true, none));
}

#[test]
fn files_and_records_that_are_passed_over_are_reported() {
    let zone = zone(1, "192.0.2.1");
    let place = Place::new(&[
        ("a.zone", &format!("{zone}$INCLUDE hosts\nwww.b. A 192.0.2.9\n")),
        ("hosts", "x A 192.0.2.9\n"),
        ("b.db", &zone),
        ("c", &zone),
    ]);
    let (dir, report) = place.open();
    assert_eq!((report.zones, report.failed, report.warnings.len()), (1, 0, 2), "{report:?}");
    assert!(report.warnings[0].contains("a.zone:6:1: \"www.b.\" lies outside the zone a"), "{report:?}");
    assert!(report.warnings[1].contains("2 files are not served"), "{report:?}");
    assert!(report.warnings[1].contains(": b.db, c; expected ORIGIN.zone"), "{report:?}");
    assert_eq!(dir.reread().warnings.len(), 1, "what did not change is not reported again");
}

#[test]
fn an_included_file_is_part_of_a_zone_whatever_its_name() {
    let zone = format!("{}$INCLUDE hosts.zone\n$INCLUDE ./c..d.zone\n", zone(1, "192.0.2.1"));
    let place = Place::new(&[("hosts.zone", "x A 192.0.2.9\n"), ("c..d.zone", ""), ("a.zone", &zone)]);
    let (dir, report) = place.open();
    assert_eq!(report, Report { zones: 1, changed: 1, ..Report::default() });
    assert!(view(&dir, "a").unwrap().get("x.a").is_some());
    assert_eq!(dir.reread(), Report { zones: 1, ..Report::default() });
    // An error in it is reported once, as one of the zone.
    place.put("hosts.zone", "x A 192.0.2\n");
    let report = dir.reread();
    assert_eq!((report.zones, report.failed, report.errors.len()), (1, 1, 2), "{report:?}");
    assert!(report.errors[0].contains("hosts.zone:1:5: \"192.0.2\" is not an IPv4"), "{report:?}");
    // By itself it is no zone.
    place.put("a.zone", &self::zone(2, "192.0.2.1"));
    let report = dir.reread();
    assert_eq!((report.zones, report.failed), (1, 2), "{report:?}");
}

#[test]
fn a_signed_zone_is_not_served() {
    let signed = format!("{}@ DNSKEY 257 3 13 AQID\n", zone(1, "192.0.2.1"));
    let place = Place::new(&[("a.zone", &signed), ("b.zone", &zone(1, "192.0.2.1"))]);
    let (dir, report) = place.open();
    assert_eq!((report.zones, report.failed), (1, 1));
    assert!(report.errors[0].contains("a.zone:5: the zone is signed (it has DNSKEY)"), "{report:?}");
    assert!(view(&dir, "a").is_none());
}
