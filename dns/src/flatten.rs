//! ALIAS: a name whose addresses and HTTPS records are another name's, also at an apex, where a CNAME is not allowed.
//!
//! Every question is answered from memory: a target in our zones from those (`follow`), any other from an immutable table
//! of the resolver's last answers ([`Targets`](crate::targets::Targets)). A task (`refresh`) resolves each again before it
//! expires. No query ever waits for that task, and while resolving fails the last answer is served.

pub(crate) mod refresh;

use std::{borrow::Cow, collections::BTreeSet};

use store::{
    model::{DomainName, RecordData, Ttl},
    snapshot::{Owner as Entry, ZoneView},
};

use crate::{
    lookup::{Found, Lookup, MAX_ALIASES, alias, find},
    record::RecordType,
};

/// The target of an ALIAS.
#[derive(Clone, Debug)]
pub(crate) enum End<'a> {
    /// A name of ours, with what lies there.
    Here { zone: &'a ZoneView, name: Cow<'a, DomainName>, entry: &'a Entry },
    /// A name outside our zones.
    Elsewhere(Cow<'a, DomainName>),
    /// A name in our zones that does not exist.
    Nothing,
    /// None: the aliases form a circle, or are too many.
    Nowhere,
}

/// Follows the ALIAS at an entry, if there is one, through aliases of both kinds. With the TTL of the shortest.
pub(crate) fn follow<'a>(lookup: Lookup<'a>, zone: &'a ZoneView, entry: &'a Entry) -> Option<(End<'a>, Ttl)> {
    let (target, mut ttl) = flattened(zone, entry)?;
    let mut target = Cow::Borrowed(target);
    for _ in 0..MAX_ALIASES {
        let Some(zone) = lookup.zone_of(target.as_str()) else { return Some((End::Elsewhere(target), ttl)) };
        let entry = match find(zone, target.as_str(), RecordType::A) {
            Found::Entry { entry, .. } => entry,
            Found::Nothing => return Some((End::Nothing, ttl)),
            Found::Redirection { owner, target: to, ttl: its } => {
                let labels = target.as_str().strip_suffix(owner.as_str());
                let labels = labels.and_then(|labels| labels.strip_suffix('.'));
                // A name that becomes too long is none (RFC 6672 §2.2).
                let Some(next) = labels.and_then(|labels| to.resolve(labels).ok()) else {
                    return Some((End::Nowhere, ttl));
                };
                (target, ttl) = (Cow::Owned(next), ttl.min(its));
                continue;
            }
            // A delegation: a resolver follows it.
            _ => return Some((End::Elsewhere(target), ttl)),
        };
        let Some((next, its)) = alias(zone, entry).or_else(|| flattened(zone, entry)) else {
            return Some((End::Here { zone, name: target, entry }, ttl));
        };
        (target, ttl) = (Cow::Borrowed(next), ttl.min(its));
    }
    Some((End::Nowhere, ttl))
}

fn flattened<'a>(zone: &ZoneView, entry: &'a Entry) -> Option<(&'a DomainName, Ttl)> {
    entry.records.iter().find_map(|record| match &record.data {
        RecordData::Alias(target) => Some((target, zone.ttl(record))),
        _ => None,
    })
}

/// Every name outside our zones that an ALIAS leads to.
pub(crate) fn elsewhere(lookup: Lookup<'_>) -> BTreeSet<DomainName> {
    let zones = lookup.snapshot.zones().chain(lookup.zones.iter());
    let entries = zones.flat_map(|zone| zone.names().map(move |(_, entry)| (zone, entry)));
    entries
        .filter_map(|(zone, entry)| match follow(lookup, zone, entry)?.0 {
            End::Elsewhere(name) => Some(name.into_owned()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use store::{
        board::Board,
        model::{self, Generation, Moment, Placed},
        snapshot::Snapshot,
    };

    use super::*;
    use crate::{
        answer::{Answer, answer},
        client::Client,
        question::Question,
        record::Rcode,
        targets::Targets,
        testing::Small,
        zones_dir::Zones,
    };

    const ZONES: &str = "
kind: Zone
name: a.test
nameservers: [{ name: ns1, a: [192.0.2.53] }]
ttl: 1h
negative_ttl: 60s
records:
  - { name: '@', type: ALIAS, data: www.b.test., ttl: 100s }
  - { name: '@', type: TXT, data: t }
  - { name: out, type: ALIAS, data: x.other.test. }
  - { name: far, type: ALIAS, data: far.b.test. }
  - { name: none, type: ALIAS, data: nowhere.b.test. }
  - { name: text, type: ALIAS, data: text.b.test. }
  - { name: c1, type: ALIAS, data: c2 }
  - { name: c2, type: ALIAS, data: c1 }
  - { name: chain, type: CNAME, data: out }
  - { name: '*.w', type: ALIAS, data: www.b.test. }
  - { name: off, type: ALIAS, data: off.b.test. }
  - { name: own, type: ALIAS, data: www.b.test. }
  - { name: own, type: HTTPS, data: '1 . alpn=h2' }
  - { name: cut, type: ALIAS, data: x.child.b.test. }
  - { name: via, type: ALIAS, data: www.moved.b.test. }
  - { name: grow, type: ALIAS, data: x.grow.b.test. }
---
kind: Zone
name: b.test
nameservers: [{ name: ns1, a: [192.0.2.53] }]
ttl: 1h
negative_ttl: 30s
records:
  - { name: www, type: A, data: 192.0.2.1 }
  - { name: www, type: A, data: 192.0.2.2, ttl: 50s }
  - { name: www, type: HTTPS, data: '1 . alpn=h2' }
  - { name: www, type: HTTPS, data: '2 other.example. alpn=h3' }
  - { name: off, type: A, data: 192.0.2.1 }
  - { name: off, type: HTTPS, data: '0 .' }
  - { name: far, type: CNAME, data: further.other.test., ttl: 20s }
  - { name: text, type: TXT, data: t }
  - { name: child, type: NS, data: ns.elsewhere.test. }
  - { name: moved, type: DNAME, data: b.test., ttl: 40s }
  - { name: grow, type: DNAME, data: y.grow }
";

    fn snapshot(documents: &str) -> Snapshot {
        let documents = model::parse("alias.yaml", documents).unwrap();
        let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        let world = model::World::check(placed, Moment(0)).unwrap();
        Snapshot::compile(world.sources(), Generation::new(1, 7), &Board::default())
    }

    const NOW: Moment = Moment(1_000_000);

    fn ask(snapshot: &Snapshot, targets: &Targets, name: &str, record_type: RecordType) -> Answer {
        let board = Board::default();
        let lookup = Lookup { snapshot, zones: Zones::none(), targets, board: &board, now: NOW };
        let question = Question::new(name.parse().unwrap(), record_type);
        answer(lookup, &question, &Client::at(IpAddr::from([10, 1, 0, 9])))
    }

    fn shown(answer: &Answer) -> Vec<String> {
        answer.answer.iter().map(|it| format!("{} {}", it.ttl.as_secs(), it.data)).collect()
    }

    fn knowing(name: &str, last: u8, left: i64) -> Targets {
        Targets::knowing(name, last, Moment(NOW.0.saturating_add_signed(left * 1000)))
    }

    #[test]
    fn a_target_of_ours_answers_under_the_name_of_the_question() {
        let snapshot = snapshot(ZONES);
        let ask = |name, record_type| ask(&snapshot, Targets::none(), name, record_type);
        let apex = ask("a.test", RecordType::A);
        assert_eq!(shown(&apex), ["50 192.0.2.1", "50 192.0.2.2"], "of its TTLs the shortest");
        assert!(
            apex.authoritative && apex.answer.iter().all(|it| it.owner == crate::record::Owner::QueryName)
        );
        assert_eq!(shown(&ask("x.w.a.test", RecordType::A)).len(), 2, "a wildcard's too");
        assert_eq!(shown(&ask("a.test", RecordType::TXT)), ["3600 \"t\""], "other types are its own");
        assert_eq!(ask("a.test", RecordType::NS).answer.len(), 1);
        let through = ask("via.a.test", RecordType::A);
        assert_eq!(shown(&through), ["40 192.0.2.1", "40 192.0.2.2"], "through a redirection of ours");
        let https = ask("via.a.test", RecordType::HTTPS);
        assert!(shown(&https)[0].starts_with("40 1 www.b.test."), "{https:?}");
        assert_eq!(ask("grow.a.test", RecordType::A).rcode, Rcode::ServFail, "a chain without an end");
    }

    #[test]
    fn what_the_target_has_not_is_absent_in_the_zone_of_the_question() {
        let snapshot = snapshot(ZONES);
        for (name, record_type) in [
            ("a.test", RecordType::AAAA),
            ("text.a.test", RecordType::A),
            ("none.a.test", RecordType::A),
            ("a.test", RecordType(model::rdata::ALIAS)),
            ("none.a.test", RecordType::MX),
        ] {
            let answer = ask(&snapshot, Targets::none(), name, record_type);
            assert_eq!((answer.rcode, shown(&answer).len()), (Rcode::NoError, 0), "{name} {record_type}");
            let [soa] = &answer.authority[..] else { panic!("{name}: one SOA") };
            assert_eq!(soa.owner, crate::record::Owner::At("a.test".parse().unwrap()), "{name}");
        }
        assert_eq!(ask(&snapshot, Targets::none(), "c1.a.test", RecordType::A).rcode, Rcode::ServFail);
    }

    #[test]
    fn a_target_of_others_answers_from_the_table_also_when_that_is_stale() {
        let snapshot = snapshot(ZONES);
        for name in ["out.a.test", "chain.a.test"] {
            let never = ask(&snapshot, Targets::none(), name, RecordType::A);
            assert_eq!(never.rcode, Rcode::ServFail);
            let fresh = ask(&snapshot, &knowing("x.other.test", 7, 90), name, RecordType::A);
            assert_eq!(shown(&fresh).last().unwrap(), "90 198.51.100.7");
            let stale = ask(&snapshot, &knowing("x.other.test", 7, -90), name, RecordType::A);
            assert_eq!(shown(&stale).last().unwrap(), "30 198.51.100.7");
        }
        let through = ask(&snapshot, &knowing("further.other.test", 8, 90), "far.a.test", RecordType::A);
        assert_eq!(shown(&through), ["20 198.51.100.8"], "no CNAME is shown, its TTL counts");
        assert!(through.flattened && !ask(&snapshot, Targets::none(), "www.b.test", RecordType::A).flattened);
    }

    /// RFC 9460 §2.5: under another name the target has to be written out.
    #[test]
    fn https_records_come_with_the_addresses_and_name_their_target() {
        let snapshot = snapshot(ZONES);
        let targets = knowing("x.other.test", 7, 90);
        let https = |name| {
            let answer = ask(&snapshot, &targets, name, RecordType::HTTPS);
            shown(&answer).iter().map(|it| it.replace('"', "")).collect::<Vec<_>>()
        };
        for (name, ttl) in [("a.test", 100), ("x.w.a.test", 3600)] {
            let expected =
                ["1 www.b.test. alpn=h2", "2 other.example. alpn=h3"].map(|it| format!("{ttl} {it}"));
            assert_eq!(https(name), expected, "{name}");
        }
        assert_eq!(https("out.a.test"), ["90 1 x.other.test. alpn=h2"]);
        assert_eq!(https("chain.a.test").last().unwrap(), "90 1 x.other.test. alpn=h2");
        assert_eq!(https("off.a.test"), ["3600 0 ."], "no service stays no service");
        assert_eq!(https("own.a.test"), ["3600 1 . alpn=h2"], "a record of its own goes before");
        let never = ask(&snapshot, Targets::none(), "out.a.test", RecordType::HTTPS);
        assert_eq!(never.rcode, Rcode::ServFail);
        let none = ask(&snapshot, &targets, "text.a.test", RecordType::HTTPS);
        assert_eq!((none.rcode, none.answer.len(), none.authority.len()), (Rcode::NoError, 0, 1));
    }

    #[test]
    fn names_to_resolve_are_those_outside_our_zones() {
        let (snapshot, board) = (snapshot(ZONES), Board::default());
        let lookup = Lookup {
            snapshot: &snapshot,
            zones: Zones::none(),
            targets: Targets::none(),
            board: &board,
            now: NOW,
        };
        let names: Vec<_> = elsewhere(lookup).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["further.other.test", "x.child.b.test", "x.other.test"]);
    }

    #[test]
    fn a_steered_target_is_steered_for_its_client_and_has_its_scope() {
        let more = "---\nkind: Zone\nname: z.test\nnameservers: [{ name: ns1, a: [192.0.2.53] }]\nrecords:\n  \
                    - { name: '@', type: ALIAS, data: gw.example.com. }\n";
        let small = Small::with(more);
        for client in ["10.1.0.9", "10.2.0.9", "10.3.0.9"] {
            let direct = small.explain("gw.example.com", RecordType::A, client);
            let apex = small.explain("z.test", RecordType::A, client);
            let data = |lines: &[String]| {
                lines
                    .iter()
                    .map(|it| it.rsplit(' ').next().unwrap_or_default().to_owned())
                    .collect::<Vec<_>>()
            };
            assert_eq!((data(&apex.answer), apex.scope), (data(&direct.answer), direct.scope));
            assert!(apex.steered.is_some() && !apex.answer.is_empty() && apex.scope > 0);
        }
    }
}
