//! What holds after any history of answers, dials, drains and outages.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Reads { index: u64, listed: Vec<usize>, critical: Vec<usize>, maintenance: Vec<usize>, old: Old },
    Outage,
    Dials { id: usize, answer: u8 },
    Drains(usize),
    Waits(u64),
    Sees(u8),
}

const MANY: usize = 6;

/// Rows of an earlier time in an answer, older than any index that is read: the same ids at another port, and other ids
/// at the same places, serving or not.
#[derive(Clone, Debug, Default)]
struct Old {
    elsewhere: Vec<usize>,
    serving: Vec<usize>,
    critical: Vec<usize>,
}

impl Old {
    fn rows(&self) -> Vec<Endpoint> {
        let critical = self.critical.iter().filter(|it| !self.serving.contains(it));
        let aliases = self.serving.iter().map(|it| alias(*it, CheckStatus::Passing));
        let aliases = aliases.chain(critical.map(|it| alias(*it, CheckStatus::Critical)));
        aliases.chain(self.elsewhere.iter().map(|it| elsewhere(*it))).collect()
    }
}

fn old() -> impl Strategy<Value = Old> {
    let mostly_none = || prop_oneof![2 => Just(Vec::new()), 1 => some()];
    (mostly_none(), mostly_none(), mostly_none()).prop_map(|(elsewhere, serving, critical)| Old {
        elsewhere,
        serving,
        critical,
    })
}

fn some() -> impl Strategy<Value = Vec<usize>> {
    subsequence((0..MANY).collect::<Vec<_>>(), 0..=MANY)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (4..40_u64, some(), some(), some(), any::<bool>(), old()).prop_map(|(index, listed, critical, maintenance, all, old)| {
            let critical = if all { critical } else { vec![] };
            let maintenance = if maintenance.len() > 4 { maintenance } else { vec![] };
            Step::Reads { index, listed, critical, maintenance, old }
        }),
        1 => Just(Step::Outage),
        4 => (0..MANY, 0..3_u8).prop_map(|(id, answer)| Step::Dials { id, answer }),
        1 => (0..MANY).prop_map(Step::Drains),
        1 => (0..90_u64).prop_map(Step::Waits),
        1 => (0..3_u8).prop_map(Step::Sees),
    ]
}

fn registered(listed: &[usize], failing: &[usize], maintenance: &[usize]) -> Vec<Endpoint> {
    let status = |id: usize| match () {
        () if maintenance.contains(&id) => in_maintenance(id),
        () if failing.contains(&id) => critical(id),
        () => endpoint(id),
    };
    listed.iter().map(|id| status(*id)).collect()
}

proptest! {
    /// An instance that was used stays used unless one of the proofs is there; and with a proof it goes.
    #[test]
    fn nothing_is_dropped_without_proof_and_nothing_kept_with_one(first in old(), steps in vec(step(), 1..60)) {
        // Some share their places, or are registered twice, from the beginning.
        let mut world = World::of(20, [of(0..MANY), first.rows()].concat());
        let mut failures = BTreeMap::<String, u32>::new();
        for step in steps {
            let before = world.used_at_home();
            let index = world.entry.index.0;
            let entry = world.entry.clone();
            match &step {
                Step::Reads { index, listed, critical, maintenance, old } => {
                    world.reads(*index, [registered(listed, critical, maintenance), old.rows()].concat());
                }
                Step::Outage => drop(world.outage()),
                Step::Dials { id, answer } => {
                    let name = format!("web-{id}");
                    let doubtful = entry.doubts.iter().any(|it| it.is_of(&key(*id)));
                    match answer {
                        0 => { failures.remove(&name); world.answer([*id]); }
                        1 => {
                            if doubtful { *failures.entry(name).or_default() += 1; }
                            world.fail(1, [*id]);
                        }
                        _ => { world.dial([*id], &Answer::Unable("x".into())); }
                    }
                }
                Step::Drains(id) => {
                    world.drained.insert(*id);
                    let name = format!("web-{id}");
                    if let Some(judged) = drained(&world.entry, &|it| it.id == name, Moment(world.now)) {
                        world.take(judged);
                    }
                }
                Step::Waits(seconds) => { world.after(*seconds); }
                Step::Sees(sight) => {
                    world.sight = [Sight::Unknown, Sight::Sees, Sight::Blind][usize::from(*sight)];
                }
            }
            let after = world.used_at_home();
            for gone in before.difference(&after) {
                let id: usize = gone.strip_prefix("web-").unwrap().parse().unwrap();
                let doubt = entry.doubts.iter().find(|it| it.is_of(&key(id)));
                let failed = failures.get(gone).copied().unwrap_or_default() >= 3;
                let proved = match &step {
                    Step::Drains(drained) => *drained == id && doubt.is_some_and(|it| !it.cause.is_listed()),
                    Step::Dials { id: dialled, .. } => *dialled == id && failed,
                    Step::Reads { index: new, listed, critical, maintenance, old } => {
                        let is_listed = listed.contains(&id);
                        let rows = [registered(listed, critical, maintenance), old.rows()].concat();
                        let others = rows.iter().filter(|it| serving(it)).count();
                        // Its place goes on being used under a name that was not known.
                        let renamed = rows.iter().filter(|it| serving(it) && InstanceKey::of(it).same_address(&key(id)));
                        let renamed = renamed.map(InstanceKey::of).any(|renamed_key| {
                            let known = entry.endpoints.iter().chain(entry.doubts.iter().map(|it| &it.endpoint));
                            renamed_key != key(id) && known.map(InstanceKey::of).all(|known| known != renamed_key)
                        });
                        let drained = world.drained.contains(&id) && !is_listed;
                        let maintained = is_listed && maintenance.contains(&id);
                        let stays = |row: &&Endpoint| {
                            let doubt = entry.doubts.iter().find(|it| it.is_of(&InstanceKey::of(row)));
                            doubt.is_some_and(|it| it.held && it.cause == Cause::Critical)
                        };
                        let stay = others > 0 || rows.iter().filter(|it| !serving(it)).any(|it| stays(&it));
                        let critical = is_listed && critical.contains(&id) && others > 0 && *new >= index;
                        let deregistered = !is_listed && *new > index && stay
                            && doubt.is_none_or(|it| it.cause == Cause::Critical);
                        let sees = world.sight == Sight::Sees || !rows.is_empty();
                        let accepted = !is_listed && sees && *new >= index && doubt.is_some_and(|it| {
                            it.cause == Cause::Missing && Moment(world.now).since(it.since) >= BELIEVE_AFTER
                        });
                        drained || maintained || critical || deregistered || accepted || (renamed && !is_listed)
                    }
                    Step::Outage | Step::Waits(_) | Step::Sees(_) => false,
                };
                prop_assert!(proved, "{gone} after {step:?}\nbefore {entry:#?}");
            }
            // With a proof it goes: maintenance, and dials that failed.
            for doubt in &world.entry.doubts {
                prop_assert!(!(doubt.held && doubt.failures >= 3), "{doubt:?}");
                let shut = world.drained.iter().any(|id| doubt.key() == key(*id));
                prop_assert!(doubt.cause.is_listed() || !shut);
            }
            let maintained = world.entry.endpoints.iter().filter(|it| it.maintenance && it.port == 80);
            for endpoint in maintained {
                prop_assert!(!after.contains(&endpoint.id));
            }
            // The reported standing fits the doubts.
            let nothing_left = !world.entry.endpoints.iter().any(serving);
            let in_doubt = world.entry.doubts.iter().any(|it| it.held || nothing_left);
            let reported = matches!(world.entry.standing, Standing::Suspicious { .. } | Standing::Unreachable { .. });
            prop_assert!(reported || !in_doubt);
            for doubt in &world.entry.doubts {
                if world.entry.doubts.iter().filter(|it| it.key() == doubt.key()).count() != 1 {
                    prop_assert!(false, "twice: {doubt:?}");
                }
            }
            let failing = |id: &str| world.entry.doubts.iter().any(|it| {
                it.endpoint.id == id && it.endpoint.port == 80 && it.failures > 0
            });
            failures.retain(|id, _| failing(id));
        }
    }

    /// A registry that comes back as it was ends every doubt at once.
    #[test]
    fn a_registry_that_is_well_again_ends_every_doubt(steps in vec(step(), 1..40)) {
        let mut world = World::of(20, of(0..MANY));
        for step in steps {
            match step {
                Step::Reads { index, listed, critical, maintenance, .. } => {
                    world.reads(index, registered(&listed, &critical, &maintenance));
                }
                Step::Outage => drop(world.outage()),
                Step::Dials { id, answer: 1 } => { world.fail(1, [id]); }
                Step::Waits(seconds) => { world.after(seconds); }
                _ => {}
            }
        }
        let again = |id| Endpoint { modify_index: Index(100), ..endpoint(id) };
        world.after(1).reads(100, (0..MANY).map(again).collect()).uses(0..MANY);
        prop_assert_eq!(&world.entry.standing, &Standing::Present);
        prop_assert_eq!(world.entry.doubts.len(), 0);
    }
}
