use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    drain::{Drains, LEASE, Step, advance, tests::drain},
    model::Span,
    testing::{endpoint, name},
};

const ID: &str = "9916a821-0551-4019-9daa-27d43fda1ac9";
const NOW: Moment = Moment(9_000_000);

fn led(phase: Phase) -> Drain {
    Drain { id: DrainId(ID.into()), ..drain(phase) }
}

/// The copy of a record of `bj`.
fn copy(phase: Phase, index: u64) -> Drain {
    led(phase).told(Index(index)).copied(&name("bj")).unwrap()
}

fn receipt(gateway: &str, boot: &str) -> Receipt {
    let (drain, at) = (DrainId(ID.into()), Moment(0));
    Receipt { drain, gateway: gateway.into(), boot: boot.into(), index: Index(1), at }
}

fn ended(gateway: &str) -> Ended {
    let (drain, at) = (DrainId(ID.into()), Moment(0));
    let proof = crate::drain::ending::Proof::Refused;
    Ended { drain, gateway: gateway.into(), boot: "b".into(), at, proof }
}

/// The site sh with a copy, and gateways silent for so many seconds.
fn told(gateways: &[(&str, u64)], receipts: &[&str]) -> Told {
    let gateway = |secs: u64| ToldGateway { boot: "b".into(), silent_ms: secs * 1_000 };
    Told {
        settled: true,
        direct: true,
        copies: [(DrainId(ID.into()), ToldCopy { phase: Phase::Draining, cancelled_by: None })].into(),
        gateways: gateways.iter().map(|(node, secs)| ((*node).to_owned(), gateway(*secs))).collect(),
        receipts: receipts.iter().map(|node| receipt(node, "b")).collect(),
        endings: vec![],
    }
}

fn step(order: &Drain, told: Option<Told>, silent: u64) -> Step {
    let site = OtherSite { silent: Duration::from_secs(silent), told: told.map(Arc::new) };
    advance(order, &[], &BTreeMap::new(), &[(name("sh"), site)].into())
}

fn awaits(names: &[&str]) -> Step {
    Step::AwaitReceipts(names.iter().map(|it| (*it).to_owned()).collect())
}

fn goes_on(unproven: &[&str]) -> Step {
    Step::Deregister { unproven: unproven.iter().map(|it| (*it).to_owned()).collect() }
}

#[test]
fn the_registry_is_not_touched_before_every_site_has_the_record_and_its_gateways_have_proved() {
    let order = led(Phase::Draining);
    assert_eq!(step(&order, None, 0), awaits(&["sh"]), "it has not answered yet");
    let without = Told { copies: BTreeMap::new(), ..told(&[("g1", 0)], &[]) };
    assert_eq!(step(&order, Some(without), 0), awaits(&["sh"]), "it has no copy yet");
    let unsettled = Told { settled: false, ..told(&[], &[]) };
    assert_eq!(step(&order, Some(unsettled), 0), awaits(&["sh"]), "it may have gateways");
    assert_eq!(step(&order, Some(told(&[("g1", 0), ("g2", 0)], &["g1"])), 0), awaits(&["sh/g2"]));
    assert_eq!(step(&order, Some(told(&[("g1", 0), ("g2", 0)], &["g1", "g2"])), 0), goes_on(&[]));
    assert_eq!(step(&order, Some(told(&[], &[])), 0), goes_on(&[]), "it has no gateways");
    let again = Told { receipts: vec![receipt("g1", "earlier")], ..told(&[("g1", 0)], &[]) };
    assert_eq!(step(&order, Some(again), 0), awaits(&["sh/g1"]), "a restarted gateway proves again");
}

#[test]
fn a_gateway_of_another_site_lapses_as_one_of_the_own_does() {
    let mut order = led(Phase::Draining);
    assert_eq!(step(&order, Some(told(&[("g1", 60)], &[])), 0), goes_on(&["sh/g1"]));
    assert_eq!(step(&order, Some(told(&[("g1", 58)], &[])), 2), goes_on(&["sh/g1"]));
    order.require_all = true;
    assert_eq!(step(&order, Some(told(&[("g1", 60)], &[])), 0), awaits(&["sh/g1"]));
}

#[test]
fn a_dark_site_is_waited_for_or_recorded_as_unproven_after_the_lease() {
    let lease = LEASE.as_secs();
    let mut order = led(Phase::Draining);
    for answer in [None, Some(told(&[("g1", 0)], &[]))] {
        order.dark_site = DarkSite::Hold;
        assert_eq!(step(&order, answer.clone(), 100 * lease), awaits(&["sh"]));
        order.dark_site = DarkSite::Unproven;
        assert_eq!(step(&order, answer.clone(), lease - 1), awaits(&["sh"]));
        assert_eq!(step(&order, answer.clone(), lease), goes_on(&["sh"]));
        order.require_all = true;
        assert_eq!(step(&order, answer, 100 * lease), awaits(&["sh"]), "all are required");
        order.require_all = false;
    }
    order.dark_site = DarkSite::Hold;
    let proved = told(&[("g1", 0)], &["g1"]);
    assert_eq!(step(&order, Some(proved), 100 * lease), goes_on(&[]), "what it proved stays proven");
}

#[test]
fn gateways_of_other_sites_have_their_sites_name_and_its_silence() {
    let told = Told { endings: vec![ended("g1")], ..told(&[("g1", 2)], &["g1"]) };
    let site = OtherSite { silent: Duration::from_secs(3), told: Some(Arc::new(told)) };
    let (sh, id, mut gateways) = (name("sh"), DrainId(ID.into()), BTreeMap::new());
    site.add_gateways(&sh, &mut gateways);
    assert_eq!(gateways["sh/g1"], Gateway { boot: "b".into(), silent: Duration::from_secs(5) });
    assert_eq!(site.receipts(&sh, &id).next().unwrap().gateway, "sh/g1");
    assert_eq!(site.endings(&sh, &id).next().unwrap().gateway, "sh/g1");
    assert_eq!(site.receipts(&sh, &DrainId("other".into())).count(), 0);
    let order = led(Phase::Done);
    let never = OtherSite { silent: Duration::from_secs(59), told: None };
    assert!(!never.is_settled_for(&order));
    assert!(OtherSite { silent: LEASE, ..never }.is_settled_for(&order));
}

#[test]
fn a_copy_has_what_gateways_need_and_no_more() {
    let mut order = led(Phase::Done);
    order.endpoint.tags = vec!["a".into()];
    order.endpoint.meta = ["boot", "site", "secret"].map(|it| (it.to_owned(), "x".to_owned())).into();
    let copy = order.told(Index(7)).copied(&name("bj")).unwrap();
    assert_eq!((copy.site.as_ref(), copy.revision, copy.is_led_here()), (Some(&name("bj")), Index(7), false));
    let meta: Vec<_> = copy.endpoint.meta.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(meta, ["boot=x", "site=bj"]);
    assert!(copy.endpoint.tags.is_empty());
    let text = serde_json::to_vec(&copy).unwrap();
    assert_eq!(serde_json::from_slice::<Drain>(&text).unwrap(), copy);
}

#[test]
fn copies_that_cannot_be_are_refused() {
    let bj = name("bj");
    let refused = |drain: Drain| drain.copied(&bj).unwrap_err().to_string();
    for id in ["d1", "", "../x", "9916A821-0551-4019-9DAA-27D43FDA1AC9", "9916a82105514019-9daa27d43fda1ac9-"]
    {
        assert!(
            refused(Drain { id: DrainId(id.into()), ..led(Phase::Draining) }).contains("no UUID"),
            "{id}"
        );
    }
    assert!(refused(Drain { v: 3, ..led(Phase::Draining) }).contains("at most 2"));
    assert!(refused(Drain { service: "x".repeat(600), ..led(Phase::Draining) }).contains("600 octets"));
    let long = Drain { by: "x".repeat(MAX_COPY), ..led(Phase::Draining) };
    assert!(refused(long).contains("octets; expected at most"));
    let wrong = Told { gateways: told(&[("a/b", 0)], &[]).gateways, ..Told::default() };
    assert!(wrong.check().unwrap_err().contains("a/b"));
    assert_eq!(told(&[("g1", 0)], &["g1"]).check(), Ok(()));
}

#[test]
fn a_record_that_is_led_elsewhere_is_never_replaced() {
    let later = copy(Phase::Done, 9);
    assert!(!later.replaces(Some(&led(Phase::Draining)), NOW), "it is ours");
    let other = led(Phase::Draining).copied(&name("gz")).unwrap();
    assert!(!later.replaces(Some(&other), NOW), "it is of another site");
    let head = DrainHead::of(&led(Phase::Done), Index(9), NOW);
    assert!(!head.is_wanted(Some(&led(Phase::Draining))));
    assert!(head.is_wanted(None) && head.is_wanted(Some(&copy(Phase::Draining, 3))));
    assert!(!head.is_wanted(Some(&copy(Phase::Done, 9))));
}

#[test]
fn what_is_over_is_not_copied_anew() {
    assert!(!copy(Phase::Cancelled, 9).replaces(None, NOW));
    assert!(!DrainHead::of(&led(Phase::Cancelled), Index(9), NOW).is_wanted(None));
    let lingered = Drain { linger: Some(Span(LEASE)), ..copy(Phase::Done, 9) };
    assert!(!lingered.replaces(None, NOW) && lingered.replaces(Some(&copy(Phase::Calling, 8)), NOW));
    assert!(copy(Phase::Done, 9).replaces(None, NOW), "it keeps the instance out");
}

#[test]
fn a_copy_without_a_record_stays_while_it_keeps_a_registered_instance_out() {
    for phase in [Phase::Draining, Phase::Calling, Phase::Done] {
        assert!(!is_spared(&copy(phase, 1), true, NOW), "{phase:?}");
        assert!(is_spared(&copy(phase, 1), false, NOW), "{phase:?}");
    }
    assert!(is_spared(&copy(Phase::Cancelled, 1), true, NOW));
    assert!(is_spared(&Drain { ended: Some(NOW), ..copy(Phase::Done, 1) }, true, NOW));
}

#[test]
fn an_id_counts_in_one_registry_only() {
    let drains = |drain: Drain| Drains {
        records: [(drain.id.clone(), (Index(1), Arc::new(drain)))].into(),
        ..Drains::default()
    };
    let registered = |site: &str, port: u16| {
        let mut it = endpoint("web", "web-1");
        it.port = port;
        it.meta.extend((!site.is_empty()).then(|| ("site".to_owned(), site.to_owned())));
        it
    };
    let excluded =
        |drains: &Drains, site: &str, port| drains.excluding(&registered(site, port), NOW).is_some();
    let ours = drains(copy(Phase::Draining, 1));
    let same = copy(Phase::Draining, 1).endpoint.port;
    assert!(excluded(&ours, "bj", 81), "under another port there");
    assert!(excluded(&ours, "", same) && excluded(&ours, "sh", same), "an address is one everywhere");
    assert!(!excluded(&ours, "", 81) && !excluded(&ours, "sh", 81), "another instance with its id");
    let mut order = led(Phase::Draining);
    assert!(excluded(&drains(order.clone()), "sh", 81), "its site is not known");
    order.endpoint.meta.insert("site".into(), "bj".into());
    assert!(!excluded(&drains(order.clone()), "sh", 81));
    assert!(excluded(&drains(order), "", 81));
}

/// What may happen to a record at the site that leads it, one after the other.
fn history() -> impl Strategy<Value = Vec<Drain>> {
    let phases = [Phase::Draining, Phase::Deregistering, Phase::Calling, Phase::Done];
    (vec((any::<bool>(), any::<bool>()), 1..9), any::<bool>()).prop_map(move |(steps, cancels)| {
        let mut record = led(Phase::Draining);
        let mut all = vec![record.clone()];
        let mut at = 0;
        for (moves, troubled) in steps {
            if moves && at < 3 {
                at += 1;
                record.phase = phases[at];
            } else if record.phase == Phase::Done {
                record.ended = Some(NOW);
            }
            record.trouble = troubled.then(|| "again".to_owned());
            all.push(record.clone());
        }
        if cancels {
            all.push(Drain { phase: Phase::Cancelled, ..record });
        }
        all
    })
}

proptest! {
    /// Any order of arrival, any loss and repetition, cancelled here or not: nothing goes back, and in the end all copies
    /// are equal.
    #[test]
    fn copies_only_move_forward_and_come_to_the_last_record(
        records in history(),
        arrivals in vec(any::<prop::sample::Index>(), 0..20),
        cancelled in proptest::option::of(0..20_usize),
    ) {
        let told = |at: usize| {
            records[at].told(Index(at as u64 + 1)).copied(&name("bj")).unwrap()
        };
        let mut known: Option<Drain> = None;
        let last = records.len() - 1;
        for (n, arrival) in arrivals.iter().map(|it| it.index(records.len())).chain([last]).enumerate() {
            let before = known.clone();
            let news = told(arrival);
            if news.replaces(known.as_ref(), NOW) {
                known = Some(news);
            }
            if cancelled == Some(n) && let Some(copy) = &mut known {
                copy.phase = Phase::Cancelled;
            }
            if let (Some(before), Some(after)) = (&before, &known) {
                prop_assert!(before.stamp(before.revision) <= after.stamp(after.revision));
                prop_assert!(before.phase <= after.phase);
            }
        }
        match known {
            Some(copy) if copy.phase == Phase::Cancelled => {}
            Some(copy) => prop_assert_eq!(copy, told(last)),
            None => prop_assert!(!records[last].excludes(NOW)),
        }
    }

    /// An engine of the leading site that was rolled back leads no copy back, and once the drain has passed where it was,
    /// the copy follows again.
    #[test]
    fn a_record_that_was_rolled_back_leads_no_copy_back(
        before in select(vec![Phase::Draining, Phase::Deregistering, Phase::Calling, Phase::Done, Phase::Cancelled]),
        after in select(vec![Phase::Draining, Phase::Deregistering, Phase::Calling, Phase::Done, Phase::Cancelled]),
    ) {
        let (known, news) = (copy(before, 900), copy(after, 5));
        prop_assert_eq!(news.replaces(Some(&known), NOW), after > before);
    }
}
