//! The choice of an instance, as tables, with sites, conditions and time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    Clock,
    discovery::Standing,
    drain::{Drains, Phase},
    engine::{Endpoint, Index},
    handle,
    model::Sources,
};

use super::*;
use crate::{
    balance::{order_sites, settings::Policy},
    health::Dials,
    instance::Instance,
    testing::{drain, endpoint, name, own, snapshot, sources},
};

/// `site status id`, with the flags `maint`, `portless` and `w<weight>`; `-` is no site.
pub(in crate::balance) fn instance(text: &str) -> Endpoint {
    let parts: Vec<&str> = text.split(' ').collect();
    let mut instance = endpoint("web", u16::from(parts[2].as_bytes()[0]));
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
            weight => instance.weight = weight[1..].parse().unwrap(),
        }
    }
    instance
}

/// A service `web` at the sites `s0`, `s1` (home) and `s2`, and a clock.
pub(in crate::balance) struct World {
    pub(in crate::balance) table: Arc<Table>,
    pub(in crate::balance) handle: handle::Handle,
    pub(in crate::balance) instances: Arc<Instances>,
    pub(in crate::balance) names: Names,
    drains: Drains,
    pub(in crate::balance) settings: Settings,
    pub(in crate::balance) now: Moment,
    entry: Arc<Entry>,
    view: View,
    rng: Rng,
}

impl World {
    pub(in crate::balance) fn of(instances: &[&str]) -> Self {
        Self::with(instances, |_, _| {})
    }

    pub(in crate::balance) fn with(
        instances: &[&str],
        change: impl FnOnce(&mut Sources, &mut Settings),
    ) -> Self {
        let (handle, _) = handle::channel(Clock::default(), Duration::from_secs(60));
        let (mut sources, mut settings) = (sources(), Settings::default());
        change(&mut sources, &mut settings);
        let table = Table::compile(snapshot(sources), (&name("main"), &name("s1")), &[8080], &own(&handle));
        let view = View {
            settings,
            home: Group::default(),
            away: Vec::new(),
            keeps: WHOLE,
            current: None,
            order: Vec::new(),
        };
        let mut world = Self {
            table: Arc::new(table),
            handle,
            instances: Arc::default(),
            names: Names::default(),
            drains: Drains::default(),
            settings,
            now: Moment(1_000),
            entry: Arc::default(),
            view,
            rng: Rng::with_seed(7),
        };
        world.discover(instances);
        world
    }

    pub(in crate::balance) fn web(&self) -> &Backend {
        self.table.backends().find(|it| it.name == name("web")).unwrap()
    }

    /// Discovery changes.
    pub(in crate::balance) fn discover(&mut self, instances: &[&str]) {
        let endpoints = instances.iter().map(|text| instance(text)).collect();
        self.entry = Arc::new(Entry { endpoints, standing: Standing::Present, ..Entry::default() });
        self.view = self.build();
    }

    /// Another worker's view of the same instances.
    pub(in crate::balance) fn build(&self) -> View {
        let excluded = Excluded::by(&self.drains, self.now);
        let shared = (&*self.instances, &self.names);
        View::build(&self.entry, (self.web(), self.settings), &self.table, &excluded, self.now, shared)
    }

    pub(in crate::balance) fn explain(&self) -> super::super::explain::Explanation {
        let excluded = Excluded::by(&self.drains, self.now);
        let shared = (&*self.instances, &self.names);
        let away = self.away();
        let (of, place) = ((self.web(), self.settings), (&excluded, &away[..]));
        super::super::explain::explain(&self.entry, of, &self.table, place, (self.now, None), shared)
    }

    fn away(&self) -> Vec<SiteId> {
        let mut sites = Vec::new();
        let here = (&*self.table.snapshot, self.table.situation.home);
        order_sites(&mut sites, here, self.web(), self.handle.board(), self.now);
        sites
    }

    pub(in crate::balance) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    pub(in crate::balance) fn pick(
        &mut self,
        tried: &[u64],
        key: Option<u64>,
    ) -> Result<Arc<Instance>, NoPick> {
        let away = self.away();
        let context = PickContext { tried, key, now: self.now };
        let order_away = |order: &mut Vec<SiteId>| {
            order.clear();
            order.extend(&away);
        };
        let changes = self.instances.changes.count();
        let picked = self.view.pick(&context, changes, order_away, &mut self.rng);
        picked.map(|it| Arc::clone(&it.instance))
    }

    pub(in crate::balance) fn instance(&self, id: &str) -> Arc<Instance> {
        self.instances.all().into_iter().find(|it| it.endpoint.id == id).unwrap()
    }

    pub(in crate::balance) fn down(&self, ids: &str) {
        for id in ids.split(' ') {
            for _ in 0..3 {
                self.instance(id).vitals.dial_failed(Dials::default(), self.now);
            }
        }
    }

    pub(in crate::balance) fn up(&self, id: &str) {
        for _ in 0..2 {
            self.instance(id).vitals.dial_answered(Dials::default(), self.now);
        }
    }

    fn eject(&self, ids: &str) {
        ids.split(' ').for_each(|id| self.instance(id).vitals.eject(self.now.after(Duration::from_secs(5))));
    }

    /// How often each instance is picked in a thousand picks.
    pub(in crate::balance) fn picks(&mut self, tried: &[&str]) -> BTreeMap<String, u32> {
        let tried: Vec<u64> = tried.iter().map(|id| self.instance(id).number).collect();
        let mut counts = BTreeMap::new();
        for _ in 0..1_000 {
            if let Ok(picked) = self.pick(&tried, None) {
                *counts.entry(picked.endpoint.id.clone()).or_default() += 1;
            }
        }
        counts
    }

    pub(in crate::balance) fn picked(&mut self, tried: &[&str]) -> String {
        self.picks(tried).into_keys().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn home_first_then_the_next_site_and_passing_before_warning() {
    let cases: [(&[&str], &str); 11] = [
        (&["s1 passing a", "s1 passing b", "s0 passing c"], "a b"),
        (&["- passing a", "s0 passing b"], "a"),
        (&["s1 warning a", "s1 passing b"], "b"),
        (&["s1 warning a", "s0 passing b"], "a"),
        (&["s1 critical a", "s2 passing b", "s0 passing c"], "c"),
        (&["s1 critical a", "s0 critical b", "s2 passing c"], "c"),
        (&["s1 critical a", "s0 critical b"], ""),
        (&["s1 passing a maint", "s1 passing b portless", "s0 passing c"], "c"),
        (&["s1 passing a maint", "s1 passing b", "s0 passing c"], "b"),
        (&["elsewhere passing a"], ""),
        (&[], ""),
    ];
    for (instances, expected) in cases {
        assert_eq!(World::of(instances).picked(&[]), expected, "{instances:?}");
    }
}

#[test]
fn a_site_whose_instances_are_all_down_is_left_at_once_and_used_again_when_one_is_up() {
    let mut world = World::of(&["s1 passing a", "s1 passing b", "s0 passing c", "s2 passing d"]);
    assert_eq!(world.picked(&[]), "a b");
    world.down("a b");
    assert_eq!(world.picked(&[]), "c");
    world.down("c");
    assert_eq!(world.picked(&[]), "d");
    world.down("d");
    assert_eq!(world.picked(&[]), "a b", "all are down: better than no attempt");
    world.up("c");
    assert_eq!(world.picked(&[]), "c");
    world.up("b");
    let picks = world.picks(&[]);
    assert!((650..=750).contains(&picks["b"]), "half of the home site: {picks:?}");
    assert_eq!(picks["b"] + picks["c"], 1_000);
    world.up("a");
    assert_eq!(world.picked(&[]), "a b");
}

#[test]
fn traffic_leaves_with_the_lost_capacity_and_within_its_limit() {
    let ten: Vec<String> = ('a'..='j').map(|id| format!("s1 passing {id}")).collect();
    let mut all: Vec<&str> = ten.iter().map(String::as_str).collect();
    all.push("s0 passing z");
    for (down, limit, expected) in [
        ("a b", 100, 0..=0),
        ("a b c d e", 100, 250..=350),
        ("a b c d e f g h i", 100, 800..=920),
        ("a b c d e f g h i", 10, 60..=140),
        ("a b c d e f g h i j", 10, 1_000..=1_000),
    ] {
        let mut world = World::with(&all, |_, settings| settings.cross_site_max = limit);
        world.down(down);
        let away = world.picks(&[]).get("z").copied().unwrap_or_default();
        assert!(expected.contains(&away), "{down} down, at most {limit} %: {away}");
    }
}

#[test]
fn weights_and_critical_instances_are_capacity() {
    let mut world = World::of(&["s1 passing a w9", "s1 critical b w1", "s0 passing c"]);
    assert_eq!(world.picked(&[]), "a");
    let mut world = World::of(&["s1 passing a w1", "s1 critical b w9", "s0 passing c"]);
    let picks = world.picks(&[]);
    assert!((100..=190).contains(&picks["a"]), "{picks:?}");
}

#[test]
fn ejections_do_not_move_traffic_between_sites() {
    let mut world = World::of(&["s1 passing a", "s1 passing b", "s1 passing c", "s0 passing d"]);
    world.eject("a");
    assert_eq!(world.picked(&[]), "b c");
    world.eject("b");
    assert_eq!(world.picked(&[]), "a b c", "less than half are fit: panic");
    world.eject("c");
    assert_eq!(world.picked(&[]), "a b c");
    assert_eq!(world.picked(&["a", "b", "c"]), "d");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.picked(&[]), "a b c", "they end by themselves");
}

#[test]
fn below_the_panic_threshold_ejections_count_only_if_configured() {
    let mut world =
        World::with(&["s1 passing a", "s1 passing b", "s1 passing c"], |_, it| it.panic_percent = 0);
    world.eject("a b");
    assert_eq!(world.picked(&[]), "c");
    world.down("c");
    assert_eq!(world.picked(&[]), "a b", "what is down is worse than what is ejected");
}

#[test]
fn a_retry_stays_at_home_while_something_there_was_not_tried() {
    let mut world = World::of(&["s1 passing a", "s1 passing b", "s1 warning c", "s0 passing d"]);
    assert_eq!(world.picked(&["a"]), "b");
    assert_eq!(world.picked(&["a", "b"]), "c");
    assert_eq!(world.picked(&["a", "b", "c"]), "d");
    let all: Vec<u64> = ["a", "b", "c", "d"].map(|id| world.instance(id).number).into();
    assert_eq!(world.pick(&all, None).unwrap_err(), NoPick::AllTried);
    assert_eq!(World::of(&[]).pick(&[], None).unwrap_err(), NoPick::NoInstance);
}

#[test]
fn an_excluded_instance_is_not_picked_even_when_nothing_else_is_left() {
    let mut world = World::of(&["s1 passing a", "s1 passing b"]);
    let record = drain("d", instance("s1 passing a"), Phase::Draining);
    world.drains.records.insert(record.id.clone(), (Index(1), record));
    world.discover(&["s1 passing a", "s1 passing b"]);
    assert_eq!(world.picked(&[]), "b");
    world.down("b");
    assert_eq!((world.picked(&[]), world.picked(&["b"])), ("b".to_owned(), String::new()));
}

#[test]
fn an_unresolved_name_is_not_picked() {
    let mut world = World::of(&["s1 passing a"]);
    let mut named = instance("s1 passing a");
    named.address = "backend.example".into();
    world.entry = Arc::new(Entry { endpoints: vec![named], ..Entry::default() });
    world.view = world.build();
    assert_eq!(world.pick(&[], None).unwrap_err(), NoPick::NoAddress);
    world.names.get("backend.example").set(crate::resolve::Family::V4, vec!["127.0.0.1".parse().unwrap()]);
    world.pass(UNRESOLVED);
    assert_eq!(world.picked(&[]), "a");
}

#[test]
fn a_new_instance_and_one_that_is_back_start_slowly() {
    let minute = Duration::from_secs(60);
    let mut world = World::with(&["s1 passing a", "s1 passing b"], |_, it| it.slow_start = minute);
    let share = |world: &mut World, id: &str| world.picks(&[]).get(id).copied().unwrap_or_default();
    assert!((450..550).contains(&share(&mut world, "a")), "all are new: nothing to compare with");
    world.pass(minute);
    world.discover(&["s1 passing a", "s1 passing b", "s1 passing c"]);
    for (seconds, expected) in [(0, 30..65), (30, 170..230), (30, 300..366)] {
        world.pass(Duration::from_secs(seconds));
        let picked = share(&mut world, "c");
        assert!(expected.contains(&picked), "after {seconds} more seconds: {picked}");
    }
    world.down("b");
    world.up("b");
    assert!((30..65).contains(&share(&mut world, "b")), "{}", share(&mut world, "b"));
    world.pass(minute);
    assert!((300..366).contains(&share(&mut world, "b")));
}

#[test]
fn weights_count_unless_the_service_ignores_them() {
    let mut world = World::of(&["- passing a w9", "- passing b w1"]);
    assert!((60..140).contains(&world.picks(&[])["b"]));
    let mut world = World::with(&["- passing a w9", "- passing b w1"], |_, it| it.registry_weights = false);
    assert!((450..550).contains(&world.picks(&[])["b"]));
}

#[test]
fn a_hashed_client_stays_at_its_instance_also_while_some_go_to_another_site() {
    let all = ["s1 passing a", "s1 passing b", "s0 passing c", "s0 passing d"];
    let hash = Policy::Hash { bounded_percent: 125 };
    let mut world = World::with(&all, |_, it| it.policy = hash);
    let id = |world: &mut World, key| world.pick(&[], Some(key)).unwrap().endpoint.id.clone();
    let before: Vec<String> = (0..500).map(|key| id(&mut world, mix(key))).collect();
    world.down("b");
    let after: Vec<String> = (0..500).map(|key| id(&mut world, mix(key))).collect();
    let again: Vec<String> = (0..500).map(|key| id(&mut world, mix(key))).collect();
    assert_eq!(after, again);
    let away = after.iter().filter(|id| ["c", "d"].contains(&id.as_str())).count();
    assert!((110..190).contains(&away), "30 %: {away}");
    let stayed = |it: &(&String, &String)| it.0 == "a" && it.1 == "a";
    let stayed = before.iter().zip(&after).filter(stayed).count();
    assert!(stayed > 140, "of those at a, 70 % stay: {stayed}");
}

#[test]
fn of_the_other_sites_one_with_lost_capacity_passes_on_its_part() {
    let all = ["s1 passing a", "s0 passing b", "s0 passing c", "s2 passing d"];
    let mut world = World::of(&all);
    world.down("a b");
    let picks = world.picks(&[]);
    assert!((640..=760).contains(&picks["c"]) && (240..=360).contains(&picks["d"]), "{picks:?}");
}

#[test]
fn an_explanation_names_the_order_and_every_reason() {
    let world = World::of(&[
        "s1 passing a w3",
        "s1 passing b",
        "s1 warning c",
        "s1 passing d",
        "s1 critical e",
        "s1 passing f maint",
        "s0 passing g",
        "s1 passing h portless",
        "elsewhere passing i",
        "s1 passing j",
        "s1 passing k",
    ]);
    world.down("d");
    world.eject("j");
    let explanation = world.explain();
    let line = |it: &super::super::explain::ExplainedInstance| {
        let reason = it.left_out.map_or_else(|| format!("{:.0} %", it.share), |it| format!("{it:?}"));
        format!("{} {reason}", it.endpoint.id)
    };
    let mut lines: Vec<String> = Vec::new();
    for site in &explanation.sites {
        lines.push(format!("site {:?} {:.0} %", site.site.map(|it| it.0), site.share));
        lines.extend(site.instances.iter().map(line));
    }
    lines.extend(explanation.out.iter().map(|(_, it, why)| format!("{} {why:?}", it.id)));
    assert_eq!(
        lines,
        [
            "site None 100 %",
            "a 60 %",
            "b 20 %",
            "k 20 %",
            "c Warning",
            "d Down { since: Moment(1000) }",
            "j Ejected { until: Moment(6000) }",
            "site Some(0) 0 %",
            "g 100 %",
            "site Some(2) 0 %",
            "e Critical(None)",
            "f Maintenance",
            "h NoPort",
            "i OtherSite",
        ]
    );
    assert!(explanation.sites.iter().all(|it| !it.panics && !it.by_gateways));
}
