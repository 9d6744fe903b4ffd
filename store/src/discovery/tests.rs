mod properties;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::*;
use crate::{
    dial::Answer,
    engine::{CheckStatus, Indexed, Reading},
};

fn serving(endpoint: &Endpoint) -> bool {
    endpoint.status != CheckStatus::Critical && !endpoint.maintenance
}

pub(super) fn endpoint(id: usize) -> Endpoint {
    let address = format!("10.0.{}.{}", id / 250, id % 250);
    Endpoint { address, ..crate::testing::endpoint("web", &format!("web-{id}")) }
}

fn critical(id: usize) -> Endpoint {
    Endpoint { status: CheckStatus::Critical, ..endpoint(id) }
}

fn in_maintenance(id: usize) -> Endpoint {
    Endpoint { maintenance: true, ..critical(id) }
}

fn of(ids: impl IntoIterator<Item = usize>) -> Vec<Endpoint> {
    ids.into_iter().map(endpoint).collect()
}

fn key(id: usize) -> InstanceKey {
    InstanceKey::of(&endpoint(id))
}

/// A service and the events around it, second by second.
struct World {
    entry: Entry,
    now: u64,
    sight: Sight,
    drained: BTreeSet<usize>,
    /// When each was registered: at the index of the first answer that lists it.
    registered: BTreeMap<InstanceKey, Index>,
    dials: bool,
    fates: Vec<(String, Fate)>,
}

impl World {
    fn of(index: u64, endpoints: Vec<Endpoint>) -> Self {
        let (entry, drained, fates) = (Entry::default(), BTreeSet::new(), Vec::new());
        let (now, sight, registered) = (1_000_000, Sight::Unknown, BTreeMap::new());
        let mut world = Self { entry, now, sight, drained, registered, dials: true, fates };
        world.reads(index, endpoints);
        assert_eq!(world.entry.doubts, []);
        world
    }

    fn after(&mut self, seconds: u64) -> &mut Self {
        self.now += seconds * 1_000;
        self
    }

    fn reads(&mut self, index: u64, mut value: Vec<Endpoint>) -> &mut Self {
        for endpoint in value.iter_mut().filter(|it| it.modify_index == Index(1)) {
            let at = *self.registered.entry(InstanceKey::of(endpoint)).or_insert(Index(index));
            (endpoint.create_index, endpoint.modify_index) = (at, at);
        }
        let drained = self.drained.clone();
        let context = Context {
            now: Moment(self.now),
            believe_after: BELIEVE_AFTER,
            dials: self.dials,
            sight: self.sight,
            drained: &|it| drained.iter().any(|id| it.id == format!("web-{id}")),
        };
        let reading = Reading::Answered(Indexed { index: Index(index), value });
        let judged = judge(&self.entry, reading, &context);
        self.take(judged);
        self
    }

    fn take(&mut self, judged: Judgement) {
        self.fates = judged.fates.into_iter().map(|(key, fate)| (key.id, fate)).collect();
        self.entry = judged.entry;
    }

    fn outage(&mut self) -> &mut Self {
        let none = |_: &Endpoint| false;
        let context = Context {
            now: Moment(self.now),
            believe_after: BELIEVE_AFTER,
            dials: self.dials,
            sight: self.sight,
            drained: &none,
        };
        let judged = judge(&self.entry, Reading::Unreachable("refused".into()), &context);
        self.take(judged);
        self
    }

    fn dial(&mut self, ids: impl IntoIterator<Item = usize>, answer: &Answer) -> &mut Self {
        for id in ids {
            if let Some(judged) = dialled(&self.entry, &key(id), answer, 3, Moment(self.now)) {
                self.take(judged);
            }
        }
        self
    }

    fn answer(&mut self, ids: impl IntoIterator<Item = usize>) -> &mut Self {
        self.dial(ids, &Answer::Answered)
    }

    /// This many failures in a row, for each.
    fn fail(&mut self, times: usize, ids: impl IntoIterator<Item = usize> + Clone) -> &mut Self {
        for _ in 0..times {
            self.dial(ids.clone(), &Answer::Failed("connection refused".into()));
        }
        self
    }

    /// The ids that a gateway would use.
    fn used(&self) -> Vec<String> {
        let usable = |it: &&Endpoint| it.status != CheckStatus::Critical && !it.maintenance;
        let mut ids: Vec<_> = self.entry.endpoints.iter().filter(usable).map(|it| it.id.clone()).collect();
        ids.sort();
        ids
    }

    /// The ids that are used at their present address and not at an earlier one.
    fn used_at_home(&self) -> BTreeSet<String> {
        let home = self.entry.endpoints.iter().filter(|it| serving(it) && it.port == 80);
        home.filter(|it| it.id.starts_with("web-")).map(|it| it.id.clone()).collect()
    }

    fn uses(&self, ids: impl IntoIterator<Item = usize>) {
        let mut wanted: Vec<_> = ids.into_iter().map(|id| format!("web-{id}")).collect();
        wanted.sort();
        assert_eq!(self.used(), wanted, "{:#?}", self.entry.doubts);
    }

    fn states(&self) -> BTreeMap<String, &'static str> {
        self.entry.doubts.iter().map(|it| (it.endpoint.id.clone(), it.state())).collect()
    }
}

#[test]
fn deregistrations_at_a_growing_index_while_most_others_stay_are_accepted_at_once() {
    for (before, after) in [(0, 3), (3, 5), (3, 2), (2, 1), (4, 2), (6, 3), (100, 50)] {
        let mut world = World::of(5, of(0..before));
        world.after(1).reads(9, of(0..after)).uses(0..after);
        assert_eq!(world.entry.doubts, [], "{before} -> {after}");
    }
}

#[test]
fn instances_missing_together_are_in_doubt_until_their_dials_fail() {
    for (before, after) in [(1, 0), (3, 0), (3, 1), (5, 2), (100, 49)] {
        let mut world = World::of(5, of(0..before));
        world.after(1).reads(9, of(0..after)).uses(0..before);
        assert!(matches!(world.entry.standing, Standing::Suspicious { .. }), "{before} -> {after}");
        world.fail(2, after..before).answer(after..after + 1).uses(0..before);
        world.fail(3, after..before).uses(0..after);
        assert_eq!(world.entry.doubts, [], "{before} -> {after}");
    }
}

#[test]
fn a_deregistered_service_is_dropped_after_its_time_if_the_token_can_read() {
    let mut world = World::of(5, of(0..3));
    world.after(1).reads(9, vec![]);
    for _ in 0..59 {
        world.after(1).answer(0..3).reads(9, vec![]).uses(0..3);
    }
    world.after(1).reads(9, vec![]).uses(0..3);
    world.sight = Sight::Sees;
    world.reads(9, vec![]).uses([]);
    assert_eq!((&world.entry.standing, world.entry.doubts.len()), (&Standing::Gone, 0));
    assert!(world.fates.iter().all(|(_, fate)| *fate == Fate::Believed));
    // Other instances of the service show that the token can read.
    let mut world = World::of(5, of(0..5));
    world.after(1).reads(9, of(0..1)).after(60).reads(9, of(0..1)).uses(0..1);
}

#[test]
fn with_a_token_that_reads_nothing_else_the_doubt_has_no_time_limit() {
    let mut world = World::of(5, of(0..3));
    world.after(1).reads(9, vec![]);
    world.sight = Sight::Blind;
    for _ in 0..20 {
        world.after(60).reads(9, vec![]).uses(0..3);
    }
    assert!(matches!(world.entry.standing, Standing::Unreachable { .. }));
    // The token can read again: the time limit begins here.
    world.sight = Sight::Sees;
    world.after(60).reads(9, vec![]).uses(0..3);
    world.after(59).reads(9, vec![]).uses(0..3);
    world.after(1).reads(9, vec![]).uses([]);
}

#[test]
fn a_filtered_answer_has_the_index_of_the_complete_one_and_proves_nothing() {
    for left in [0..0, 0..1, 0..2] {
        let mut world = World::of(15, of(0..3));
        world.sight = Sight::Sees;
        world.after(1).reads(15, of(left.clone())).uses(0..3);
        assert!(matches!(world.entry.standing, Standing::Unreachable { .. }));
        world.after(100_000).reads(15, of(left.clone())).after(1).reads(38, of(left.clone())).uses(0..3);
        world.fail(3, 2..3).uses(0..2);
        assert_eq!(world.states()["web-2"], "left_out");
        // A restart in place: it answers again.
        world.answer(2..3).uses(0..3);
        world.after(1).reads(39, of(0..3)).uses(0..3);
        assert_eq!((world.entry.doubts.len(), &world.entry.standing), (0, &Standing::Present));
    }
}

#[test]
fn an_old_snapshot_lists_ended_instances_and_loses_no_other() {
    // 0 to 2 are running and not in the snapshot; 3 to 5 are in it and ended long ago.
    let mut world = World::of(253, of(0..3));
    world.after(1).reads(61, of(3..6)).uses(0..3);
    world.fail(3, 3..6).answer(0..3).uses(0..3);
    world.after(3_600).reads(61, of(3..6)).after(1).reads(64, of(3..6)).uses(0..3);
    // Anti-entropy registers the running ones again and removes the others.
    world.after(1).reads(270, of(0..6)).uses(0..3);
    world.after(1).reads(273, of(0..3)).uses(0..3);
    assert_eq!((world.entry.doubts.len(), &world.entry.standing), (0, &Standing::Present));
}

#[test]
fn an_old_snapshot_is_known_also_when_the_next_write_has_raised_its_index() {
    let mut world = World::of(253, of(0..3));
    let old = |id| Endpoint { modify_index: Index(50), ..endpoint(id) };
    let touched = Endpoint { modify_index: Index(260), ..endpoint(3) };
    world.after(1).reads(260, vec![touched, old(4)]).uses(0..4);
    world.fail(3, 4..5).after(100).reads(261, vec![]);
    assert!(
        matches!(&world.entry.standing, Standing::Unreachable { reason } if reason.contains("restored snapshot"))
    );
    // One that is known, in an older form.
    let mut world = World::of(253, of(0..3));
    world.after(1).reads(260, vec![old(0)]).after(100).reads(261, vec![old(0)]).uses(0..3);
}

#[test]
fn an_instance_of_the_snapshot_that_answers_is_used() {
    let mut world = World::of(253, of(0..3));
    world.after(1).reads(61, of(2..5)).uses(0..3);
    world.answer(3..4).uses(0..4);
    // Registered since, so it is not old data.
    let again = Endpoint { modify_index: Index(300), ..endpoint(4) };
    world.after(1).reads(300, [of(2..4), vec![again]].concat()).uses(0..5);
    // One at the address of a running instance is used with it.
    let mut world = World::of(253, of(0..1));
    let renamed = Endpoint { id: "web-9".into(), ..endpoint(0) };
    world.after(1).reads(61, vec![renamed]).uses([9]);
    // Without other instances to use, or without dials, it is used at once.
    let mut world = World::of(253, vec![]);
    world.after(1).reads(61, of(0..2)).uses(0..2);
    let mut world = World::of(253, of(0..1));
    world.dials = false;
    world.after(1).reads(61, of(1..2)).uses(0..2);
}

/// An older registration: the same id at another port.
fn elsewhere(id: usize) -> Endpoint {
    Endpoint { port: 81, create_index: Index(2), modify_index: Index(2), ..endpoint(id) }
}

/// An older registration under another id at the same address.
fn alias(id: usize, status: CheckStatus) -> Endpoint {
    Endpoint {
        id: format!("alias-{id}"),
        status,
        create_index: Index(3),
        modify_index: Index(3),
        ..endpoint(id)
    }
}

#[test]
fn a_snapshot_that_has_the_same_ids_at_other_ports_loses_none() {
    let mut world = World::of(80, of(0..3));
    // This many of the old registrations were written again since, at this index.
    let old = |count: usize, index| {
        let written = (0..count).map(move |id| Endpoint { modify_index: Index(index), ..elsewhere(id) });
        written.chain((count..3).map(elsewhere)).collect::<Vec<_>>()
    };
    let critical = Endpoint { status: CheckStatus::Critical, ..elsewhere(2) };
    let one_is_critical = [old(2, 66)[..2].to_vec(), vec![critical]].concat();
    for (index, listed) in [(60, old(0, 0)), (64, old(1, 64)), (66, old(2, 66)), (67, one_is_critical)] {
        world.after(5).reads(index, listed);
        assert_eq!(world.used_at_home().len(), 3, "at index {index}: {:#?}", world.entry.doubts);
    }
    // Registered since at a third address, for the first time: moved.
    let moved = Endpoint { port: 82, modify_index: Index(70), ..endpoint(1) };
    world.after(5).reads(70, [old(2, 66), vec![moved]].concat());
    let home: Vec<_> = world.used_at_home().into_iter().collect();
    assert_eq!(home, ["web-0", "web-2"]);
}

#[test]
fn an_instance_that_always_shared_the_address_proves_nothing() {
    let other = || alias(1, CheckStatus::Critical);
    for index in [5, 20] {
        let mut world = World::of(20, vec![endpoint(0), endpoint(1), other()]);
        world.after(1).reads(index, vec![endpoint(0), other()]).uses([0, 1]);
        world.after(1).reads(index, vec![endpoint(0), other()]).uses([0, 1]);
    }
    // Nor does an old registration at its address that does not serve.
    let mut world = World::of(253, of(0..2));
    world
        .after(1)
        .reads(61, vec![endpoint(0), other()])
        .after(1)
        .reads(62, vec![endpoint(0), other()])
        .uses([0, 1]);
}

#[test]
fn an_instance_that_was_down_has_to_answer_before_an_old_snapshot_is_accepted() {
    let passing =
        || (0..3).map(|id| Endpoint { modify_index: Index(10), ..endpoint(id) }).collect::<Vec<_>>();
    for down in [critical(1), in_maintenance(1)] {
        let mut world = World::of(100, vec![endpoint(0), down, endpoint(2)]);
        world.after(1).reads(50, passing()).uses([0, 2]);
        world.fail(3, 1..2).after(1).reads(51, passing()).uses([0, 2]);
        world.answer(1..2).uses(0..3);
    }
    // Known by dials.
    let mut world = World::of(100, of(0..3));
    world.after(1).reads(101, (0..3).map(critical).collect()).fail(3, 1..2).uses([0, 2]);
    world.after(1).reads(50, passing()).uses([0, 2]);
    world.answer(1..2).uses(0..3);
    // Registered since, so it is not old data.
    let mut world = World::of(100, vec![endpoint(0), critical(1)]);
    world.after(1).reads(101, of(0..2)).uses(0..2);
}

#[test]
fn a_deregistration_is_accepted_also_while_all_are_critical() {
    let mut world = World::of(30, of(0..3));
    world.after(1).reads(31, (0..3).map(critical).collect()).uses(0..3);
    world.after(1).reads(32, (1..3).map(critical).collect()).uses(1..3);
    assert!(!world.states().contains_key("web-0"));
    // Most of them are missing together, as always.
    world.after(10).reads(33, vec![]).uses(1..3);
}

#[test]
fn the_alarm_ends_when_the_others_are_registered_again_and_the_dead_are_dropped_after_a_while() {
    let again = |id| Endpoint { modify_index: Index(290), ..endpoint(id) };
    let mut world = World::of(253, of(0..3));
    world.after(1).reads(61, vec![]).fail(3, 2..3).uses(0..2);
    assert!(matches!(world.entry.standing, Standing::Unreachable { .. }));
    world.after(1).reads(300, (0..2).map(again).collect()).uses(0..2);
    assert_eq!(world.entry.standing, Standing::Present);
    assert_eq!(world.states()["web-2"], "left_out", "it is dialled on for a while");
    world.after(60).reads(300, (0..2).map(again).collect()).uses(0..2);
    assert_eq!(world.entry.doubts, []);
    assert_eq!(world.fates, [("web-2".to_owned(), Fate::Dead)]);
    // An instance that answers is kept, and so is the alarm.
    let mut world = World::of(253, of(0..3));
    world.after(1).reads(61, vec![]).after(600).reads(300, (0..2).map(again).collect()).uses(0..3);
    assert!(matches!(world.entry.standing, Standing::Unreachable { .. }));
    // When all are left out, none is used, and the status has the reason.
    let mut world = World::of(253, of(0..2));
    world.after(1).reads(61, vec![]).fail(3, 0..2).after(600).reads(64, vec![]).uses([]);
    assert!(matches!(world.entry.standing, Standing::Unreachable { .. }));
    world.answer(0..1).uses(0..1);
}

#[test]
fn a_catalog_with_other_names_is_readable_and_one_with_only_the_missing_service_is_not() {
    let names = |all: &[&str]| all.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    assert_eq!(Sight::of("web", &names(&["consul", "x"])), Sight::Sees);
    assert_eq!(Sight::of("web", &names(&["x"])), Sight::Sees);
    for blind in [&[][..], &["consul"], &["web"], &["consul", "web"], &["web", "x"]] {
        assert_eq!(Sight::of("web", &names(blind)), Sight::Blind, "{blind:?}");
    }
}

#[test]
fn new_instances_beside_missing_ones_are_used_at_once() {
    let mut world = World::of(5, of(0..3));
    world.after(1).reads(9, of(3..6)).uses(0..6);
    world.fail(3, 0..3).uses(3..6);
    assert_eq!(world.entry.standing, Standing::Present);
}

#[test]
fn a_rolling_replacement_is_accepted_step_by_step() {
    let mut world = World::of(5, of(0..3));
    let mut now = vec![0, 1, 2];
    for n in 0..3 {
        now.push(n + 3);
        world.after(1).reads(10 + 2 * n as u64, of(now.iter().copied())).uses(now.iter().copied());
        now.remove(0);
        world.after(1).reads(11 + 2 * n as u64, of(now.iter().copied())).uses(now.iter().copied());
    }
}

#[test]
fn a_catalog_emptied_one_by_one_is_missing_together() {
    let mut world = World::of(5, of(0..3));
    world.reads(6, of(1..3)).reads(7, of(2..3)).reads(8, vec![]);
    world.uses(1..3);
    assert_eq!(world.states()["web-0"], "left_out", "it has to answer first");
    world.answer(0..1).uses(0..3);
    // With a long time between them they are not missing together, but the last one is all that is left.
    let mut world = World::of(5, of(0..3));
    world.reads(6, of(1..3)).after(30).reads(7, of(2..3)).after(30).reads(8, vec![]).uses(2..3);
}

#[test]
fn critical_together_is_doubtful_and_alone_is_accepted() {
    let mut world = World::of(5, of(0..3));
    world.after(1).reads(6, vec![critical(0), endpoint(1), endpoint(2)]).uses(1..3);
    assert_eq!(world.entry.doubts, []);
    // The others follow, as when every agent fails: the first one is reconsidered and has to answer first.
    world.after(2).reads(7, vec![critical(0), critical(1), critical(2)]).uses(1..3);
    world.answer(0..3).uses(0..3);
    world.fail(3, 1..2).uses([0, 2]);
    let shown = world.entry.endpoints.iter().find(|it| it.id == "web-1").unwrap();
    assert_eq!(shown.status, CheckStatus::Critical, "the registry lists it still");
    world.after(100_000).reads(8, vec![critical(0), critical(1), critical(2)]).uses([0, 2]);
    world.after(1).answer(1..2).uses(0..3);
    // One passes again, so the registry distinguishes them now.
    world.after(1).reads(9, vec![critical(0), critical(1), endpoint(2)]).uses(2..3);
    assert_eq!(world.entry.doubts, []);
}

#[test]
fn an_instance_that_was_never_in_use_is_not_used_because_all_are_critical() {
    let mut world = World::of(5, vec![critical(0)]);
    world.uses([]);
    world.after(1).reads(6, vec![critical(0), critical(1)]).answer(0..2).uses([]);
    // It was critical long before the others.
    let mut world = World::of(5, of(0..2));
    world.reads(6, vec![critical(0), endpoint(1)]);
    world.after(3_600).reads(7, vec![critical(0), critical(1)]).answer(0..2).uses(1..2);
}

#[test]
fn an_instance_in_maintenance_is_dropped_at_once_also_when_all_are_critical() {
    let mut world = World::of(5, of(0..3));
    world.after(1).reads(6, vec![in_maintenance(0), in_maintenance(1), in_maintenance(2)]).uses([]);
    assert_eq!(world.entry.doubts, []);
    let mut world = World::of(5, of(0..3));
    world.after(1).reads(6, vec![critical(0), critical(1), critical(2)]).uses(0..3);
    world.after(1).reads(7, vec![in_maintenance(0), critical(1), critical(2)]).uses(1..3);
    // One that was in maintenance is deregistered without a doubt.
    world.after(1).reads(8, vec![]).uses(1..3);
    assert!(!world.states().contains_key("web-0"));
}

#[test]
fn a_drain_record_is_proof_whatever_the_index_does() {
    for index in [3, 5, 9] {
        let mut world = World::of(5, of(0..3));
        world.drained = [1].into();
        world.after(1).reads(index, vec![]).uses([0, 2]);
        let judged = drained(&world.entry, &|it| it.id == "web-0", Moment(world.now)).unwrap();
        assert_eq!(judged.fates, [(key(0), Fate::Drained)]);
        world.take(judged);
        world.uses(2..3);
        assert_eq!(drained(&world.entry, &|it| it.id == "web-0", Moment(world.now)), None);
    }
}

#[test]
fn an_address_that_belongs_to_another_is_proof_whatever_answers() {
    for index in [3, 5, 9] {
        let mut world = World::of(5, of(0..3));
        let other = Endpoint { id: "web-7".into(), ..endpoint(0) };
        world.after(1).reads(index, vec![other]).answer(0..3).uses([1, 2, 7]);
        let judged = reassigned(&world.entry, &key(1), "db-1 of db", Moment(world.now)).unwrap();
        world.take(judged);
        world.answer(0..3).uses([2, 7]);
    }
    // The same id at another address, at a growing index: moved.
    let mut world = World::of(5, of(0..1));
    let moved = Endpoint { port: 81, ..endpoint(0) };
    world.after(1).reads(6, vec![moved]);
    assert_eq!((world.entry.doubts.len(), world.entry.endpoints[0].port), (0, 81));
}

#[test]
fn an_outage_keeps_endpoints_doubts_and_its_beginning() {
    let mut world = World::of(5, of(0..3));
    world.after(1).reads(9, vec![]).after(1).outage();
    let since = world.entry.since;
    world.after(200).outage().uses(0..3);
    assert_eq!(world.entry.since, since);
    // Dials go on; an instance missing at a grown index that does not answer is dropped.
    world.fail(3, 0..1).uses(1..3);
    assert!(matches!(&world.entry.standing, Standing::Unreachable { reason } if reason == "refused"));
    let again = Endpoint { modify_index: Index(10), ..endpoint(0) };
    world.after(1).reads(10, [vec![again], of(1..3)].concat()).uses(0..3);
    assert_eq!(world.entry.standing, Standing::Present);
}

#[test]
fn a_dial_that_is_impossible_here_counts_neither_way() {
    let mut world = World::of(5, of(0..1));
    world.after(1).reads(3, vec![]).fail(2, 0..1);
    world.dial(0..1, &Answer::Unable("no descriptors".into())).uses(0..1);
    assert_eq!(world.entry.doubts[0].failures, 2);
    world.fail(1, 0..1).uses([]);
}

#[test]
fn an_instance_without_a_port_is_never_in_doubt() {
    let portless = Endpoint { port: 0, ..endpoint(0) };
    let mut world = World::of(5, vec![portless.clone()]);
    world.after(1).reads(3, vec![]);
    assert_eq!((world.entry.doubts.len(), world.entry.endpoints.len()), (0, 0));
    let mut world = World::of(5, vec![portless.clone()]);
    world.after(1).reads(6, vec![Endpoint { status: CheckStatus::Critical, ..portless }]);
    assert_eq!(world.entry.doubts, []);
}

#[test]
fn an_entry_of_an_older_version_is_read_and_a_new_one_keeps_its_doubts() {
    let old = r#"{"index":7,"endpoints":[],"standing":{"standing":"suspicious","reason":"r","index":9,"count":0},"since":5}"#;
    let entry: Entry = serde_json::from_str(old).unwrap();
    assert_eq!((entry.index, entry.doubts.len()), (Index(7), 0));
    let mut world = World::of(253, of(0..3));
    world.after(1).reads(61, of(3..4)).reads(60, vec![]);
    let kept: Entry = serde_json::from_slice(&serde_json::to_vec(&world.entry).unwrap()).unwrap();
    assert_eq!(kept, world.entry);
}

/// Captures of a real agent whose token loses its permissions: the content and index of each answer.
#[test]
fn captured_filtered_answers_never_drop_an_instance() {
    #[derive(serde::Deserialize)]
    struct Capture {
        about: String,
        index: u64,
        instances: usize,
    }
    let captures: Vec<Capture> = serde_json::from_str(include_str!("filtered.json")).unwrap();
    let mut world = World::of(captures[0].index, of(0..captures[0].instances));
    for capture in &captures {
        world.after(55).reads(capture.index, of(0..capture.instances)).uses(0..3);
        assert!(world.used().len() >= 3, "{}", capture.about);
    }
}

#[test]
fn an_instance_whose_host_name_has_no_address_is_noted() {
    use crate::testing::{compile, sources};
    let mut world = sources(1, 1);
    world.services = vec![crate::testing::service("web")];
    let snapshot = compile(world, &crate::board::Board::default());
    let named = Endpoint { address: "nowhere.invalid".into(), ..endpoint(1) };
    let entry = Entry { endpoints: vec![endpoint(0), named.clone()], ..Entry::default() };
    assert_eq!(notes(&entry, &snapshot, &BTreeSet::new()).count(), 0);
    let unresolved = BTreeSet::from(["nowhere.invalid".to_owned(), "else.invalid".to_owned()]);
    let noted: Vec<_> = notes(&entry, &snapshot, &unresolved).collect();
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert_eq!((&noted[0].id, noted[0].state.as_str()), (&named.id, "unused"));
    assert!(noted[0].reason.contains("\"nowhere.invalid\"") && noted[0].reason.contains("resolve"));
}

#[test]
fn a_registration_is_never_used_if_its_site_is_none_of_its_services() {
    use crate::testing::{compile, name, sources};
    let mut world = sources(2, 1);
    world.services = vec![crate::testing::service("web")];
    let snapshot = compile(world, &crate::board::Board::default());
    let known = snapshot.sites[0].name.to_string();
    let at = |site: &str| Endpoint { meta: [("site".to_owned(), site.to_owned())].into(), ..endpoint(0) };
    assert_eq!(unused(&snapshot, &at(&known)), None);
    assert_eq!(unused(&snapshot, &endpoint(0)), None);
    for site in ["atlantis", "Not A Name", ""] {
        let why = unused(&snapshot, &at(site)).unwrap();
        assert!(why.contains("there is no such Site") && why.contains(&known), "{why}");
    }
    assert_eq!(unused(&snapshot, &Endpoint { port: 0, ..endpoint(0) }).as_deref(), Some("its port is 0"));
    let stranger = Endpoint { service: "another".into(), ..at("atlantis") };
    assert_eq!(unused(&snapshot, &stranger), None);
    let mut world = sources(2, 1);
    let elsewhere = snapshot.sites[1].name.clone();
    world.services =
        vec![model::Service { sites: Some(vec![name(&known)]), ..crate::testing::service("web") }];
    let snapshot = compile(world, &crate::board::Board::default());
    assert!(
        unused(&snapshot, &at(elsewhere.as_str()))
            .unwrap()
            .contains("not among the sites of the Service web")
    );
}

#[test]
fn a_missing_service_is_dropped_after_a_minute_by_default() {
    assert_eq!(BELIEVE_AFTER, Duration::from_secs(60));
}
