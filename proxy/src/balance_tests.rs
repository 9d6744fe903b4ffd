//! The choice of an instance, as tables.

use std::collections::BTreeMap;

use store::{
    Clock,
    discovery::Standing,
    drain::{Drains, Phase},
    engine::Index,
    handle,
    model::{Override, OverrideState, OverrideTarget, Sources},
};

use super::*;
use crate::testing::{drain, endpoint, name, snapshot, sources};

/// `site status id`, with the flags `maint`, `portless`, `tag` and `heavy`.
fn instance(number: u16, text: &str) -> Endpoint {
    let parts: Vec<&str> = text.split(' ').collect();
    let mut instance = endpoint("web", number + 1);
    if parts[0] != "-" {
        instance.meta.insert("site".into(), parts[0].into());
    }
    instance.status = match parts[1] {
        "passing" => CheckStatus::Passing,
        "warning" => CheckStatus::Warning,
        _ => CheckStatus::Critical,
    };
    instance.id = parts[2].into();
    for flag in &parts[3..] {
        match *flag {
            "maint" => instance.maintenance = true,
            "portless" => instance.port = 0,
            "tag" => instance.tags.push("v2".into()),
            _ => instance.weight = 9,
        }
    }
    instance
}

struct World {
    table: Table,
    handle: handle::Handle,
    instances: Instances,
    drains: Drains,
}

impl World {
    fn new(change: impl FnOnce(&mut Sources)) -> Self {
        let (handle, _) = handle::channel(Clock::default(), std::time::Duration::from_secs(60));
        let mut sources = sources();
        change(&mut sources);
        let table = Table::compile(
            snapshot(sources),
            (&name("main"), &name("s1")),
            &[8080],
            &crate::testing::own(&handle),
        );
        Self { table, handle, instances: Instances::default(), drains: Drains::default() }
    }

    fn web(&self) -> &Backend {
        self.table.backends().find(|it| it.name == name("web")).unwrap()
    }

    fn candidates(&self, instances: &[&str]) -> Candidates {
        let endpoints = (0..).zip(instances).map(|(number, text)| instance(number, text)).collect();
        let entry = Entry { endpoints, standing: Standing::Present, ..Entry::default() };
        let shared = (&self.instances, &Names::default());
        let excluded = Excluded::by(&self.drains, Moment(0));
        Candidates::build(&entry, self.web(), &self.table, &excluded, Moment(0), shared)
    }

    /// How often each instance is picked in many picks; `ejected` and `tried` name instances.
    fn picks(&self, instances: &[&str], ejected: &[&str], tried: &[&str]) -> BTreeMap<String, u32> {
        let candidates = self.candidates(instances);
        let mut counts = BTreeMap::new();
        let eligibility = |it: &Candidate| match it.instance.endpoint.id.as_str() {
            id if tried.contains(&id) => Eligibility::Out,
            id if ejected.contains(&id) => Eligibility::Ejected,
            _ => Eligibility::Fit,
        };
        let away = || {
            failover_order(&self.table.snapshot, self.web(), self.table.home, self.handle.board(), Moment(0))
        };
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..1_000 {
            if let Some(picked) = candidates.pick(eligibility, away, |below| random.u32(..below)) {
                *counts.entry(picked.instance.endpoint.id.clone()).or_default() += 1;
            }
        }
        counts
    }

    fn picked(&self, instances: &[&str], ejected: &[&str], tried: &[&str]) -> String {
        self.picks(instances, ejected, tried).into_keys().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn home_first_then_the_next_site_and_passing_before_warning() {
    let world = World::new(|_| {});
    let cases: [(&[&str], &str); 10] = [
        (&["s1 passing a", "s1 passing b", "s0 passing c"], "a b"),
        (&["- passing a", "s0 passing b"], "a"),
        (&["s1 warning a", "s1 passing b"], "b"),
        (&["s1 warning a", "s0 passing b"], "a"),
        (&["s1 critical a", "s2 passing b", "s0 passing c"], "c"),
        (&["s1 critical a", "s0 critical b", "s2 passing c"], "c"),
        (&["s1 critical a", "s0 critical b"], ""),
        (&["s1 passing a maint", "s1 passing b portless", "s0 passing c"], "c"),
        (&["elsewhere passing a"], ""),
        (&[], ""),
    ];
    for (instances, expected) in cases {
        assert_eq!(world.picked(instances, &[], &[]), expected, "{instances:?}");
    }
}

#[test]
fn ejected_instances_are_skipped_until_no_other_is_left() {
    let world = World::new(|_| {});
    let both = ["s1 passing a", "s1 passing b", "s0 passing c"];
    assert_eq!(world.picked(&both, &["a"], &[]), "b");
    assert_eq!(world.picked(&both, &["a", "b"], &[]), "c");
    assert_eq!(world.picked(&both, &["a", "b", "c"], &[]), "a b");
    assert_eq!(world.picked(&both, &["a", "b", "c"], &["a", "b"]), "c");
    assert_eq!(world.picked(&both, &[], &["a", "b", "c"]), "");
}

#[test]
fn a_service_keeps_to_its_sites_and_tags() {
    let world = World::new(|sources| {
        sources.services[0].sites = Some(vec![name("s1"), name("s2")]);
        sources.services[0].consul.tags = vec!["v2".into()];
    });
    let all = ["s1 passing a", "s0 passing b tag", "s2 passing c tag"];
    assert_eq!(world.picked(&all, &[], &[]), "c");
}

#[test]
fn the_next_site_is_the_one_steering_ranks_next() {
    let all = ["s0 passing a", "s2 passing c"];
    assert_eq!(World::new(|_| {}).picked(&all, &[], &[]), "a");
    let world = World::new(|sources| {
        sources.overrides.push(Override {
            name: name("off"),
            target: OverrideTarget { site: Some(name("s0")), domain: None },
            state: OverrideState::Down,
            owner: "ops".into(),
            reason: "test".into(),
            expires: None,
            since: None,
            over: None,
            authority: store::model::Authority::Human,
            force: false,
        });
    });
    assert_eq!(world.picked(&all, &[], &[]), "c");
    assert_eq!(world.picked(&["s0 passing a"], &[], &[]), "a", "better than none");
}

#[test]
fn an_excluded_instance_is_not_picked_even_in_panic_mode() {
    let mut world = World::new(|_| {});
    let record = drain("d", instance(0, "s1 passing a"), Phase::Draining);
    world.drains.records.insert(record.id.clone(), (Index(1), record));
    assert_eq!(world.picked(&["s1 passing a", "s1 passing b"], &["b"], &[]), "b");
    assert_eq!(world.picked(&["s1 passing a"], &[], &[]), "");
}

#[test]
fn load_is_spread_by_weight_and_requests_under_way() {
    let world = World::new(|_| {});
    let even = world.picks(&["- passing a", "- passing b", "- passing c", "- passing d"], &[], &[]);
    assert!(even.values().all(|count| (180..320).contains(count)), "{even:?}");
    let heavy = world.picks(&["- passing a", "- passing b heavy"], &[], &[]);
    assert!((60..160).contains(&heavy["a"]), "idle: nine to one: {heavy:?}");

    let names = ["- passing a", "- passing b", "- passing c"];
    let candidates = world.candidates(&names);
    let busy = Arc::clone(&candidates.home.passing[0].instance);
    let counting = Arc::new(Instances::default());
    let _flights: Vec<_> = (0..5).map(|_| counting.begin(&busy, Moment(0))).collect();
    let picks = world.picks(&names, &[], &[]);
    assert_eq!(picks.get("a"), None, "both others are always less loaded");
}

#[test]
fn an_unresolved_name_is_not_picked() {
    let world = World::new(|_| {});
    let mut named = instance(0, "- passing a");
    named.address = "backend.example".into();
    let entry = Entry { endpoints: vec![named], ..Entry::default() };
    let shared = (&world.instances, &Names::default());
    let candidates =
        Candidates::build(&entry, world.web(), &world.table, &Excluded::default(), Moment(0), shared);
    assert!(candidates.pick(|_| Eligibility::Fit, Vec::new, |_| 0).is_none());
}
