//! What a worker keeps between picks, and that it is what it would make anew.

use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;
use store::{
    Clock,
    board::Board,
    discovery::Standing,
    handle::{self, Handle},
    model::{Document, Generation, Name, Replacement, World as Documents, parse},
    snapshot::Snapshot,
};

use super::{
    super::view::tests::{World, instance},
    *,
};
use crate::{
    health::Dials,
    route::testing::request,
    testing::{name, own, snapshot, sources},
};

const BACKEND: &str = "web";

struct Worker {
    world: World,
    picker: Picker,
    excluded: Excluded,
}

impl Worker {
    fn of(instances: &[&str]) -> Self {
        let worker = Self { world: World::of(&[]), picker: Picker::default(), excluded: Excluded::default() };
        worker.discover(instances);
        worker
    }

    fn discover(&self, instances: &[&str]) {
        let endpoints = instances.iter().map(|text| instance(text)).collect();
        self.world.web().slot.store(Entry { endpoints, standing: Standing::Present, ..Entry::default() });
    }

    /// The view that is kept of the service.
    fn kept(&self) -> *const Kept {
        let mut kept = self.picker.kept.iter().flatten();
        std::ptr::from_ref(&**kept.find(|it| it.backend.name.as_str() == BACKEND).unwrap())
    }

    fn pick(&mut self) -> Result<Picked, NoPick> {
        let world = &self.world;
        let known = Known {
            table: &world.table,
            excluded: (&self.excluded, 0),
            instances: &world.instances,
            names: &world.names,
            board: world.handle.board(),
        };
        let number = (0..world.table.numbers())
            .find(|at| world.table.backend(*at).is_some_and(|it| it.name.as_str() == BACKEND))
            .unwrap();
        let context = PickContext { tried: &[], key: None, now: world.now };
        let order = |_: &[IpAddr], _| Vec::new();
        self.picker.pick(&known, number, &context, order)
    }

    fn picked(&mut self) -> String {
        self.pick().map_or_else(|it| format!("{it:?}"), |it| it.in_flight.instance().endpoint.id.clone())
    }
}

#[test]
fn a_pick_counts_the_request_in_and_a_changed_entry_changes_the_next_one() {
    let mut worker = Worker::of(&["s1 passing a"]);
    assert_eq!(worker.world.instances.in_flight(), 0);
    let picked = worker.pick().unwrap();
    assert_eq!((worker.world.instances.in_flight(), picked.in_flight.instance().in_flight()), (1, 1));
    drop(picked);
    assert_eq!(worker.world.instances.in_flight(), 0);
    worker.discover(&["s1 passing b"]);
    assert_eq!(worker.picked(), "b");
    worker.discover(&[]);
    assert_eq!(worker.picked(), "NoInstance");
}

#[test]
fn health_is_not_forgotten_when_discovery_or_the_table_changes() {
    let mut worker = Worker::of(&["s1 passing a", "s1 passing b"]);
    worker.picked();
    let number = worker.world.instance("a").number;
    for _ in 0..3 {
        worker.world.instance("a").vitals.dial_failed(Dials::default(), worker.world.now);
    }
    worker.discover(&["s1 passing a", "s1 passing b", "s1 passing c"]);
    assert!((0..50).all(|_| worker.picked() != "a"));
    let names = (&name("main"), &name("s1"));
    let table = Table::compile(snapshot(sources()), names, &[8080], &own(&worker.world.handle));
    worker.world.table = Arc::new(table);
    assert!((0..50).all(|_| worker.picked() != "a"));
    assert_eq!(worker.world.instance("a").number, number);
}

#[test]
fn a_replaced_table_is_not_kept() {
    let mut worker = Worker::of(&["s1 passing a"]);
    worker.picked();
    let before = Arc::downgrade(&worker.world.table);
    let names = (&name("main"), &name("s1"));
    let table = Table::compile(snapshot(sources()), names, &[8080], &own(&worker.world.handle));
    worker.world.table = Arc::new(table);
    worker.picked();
    assert!(before.upgrade().is_none());
}

#[test]
fn a_view_stays_over_tables_that_do_not_concern_it() {
    let mut worker = Worker::of(&["s1 passing a", "s1 passing b"]);
    worker.picked();
    let kept = worker.kept();
    let mut sources = sources();
    let mut after = |worker: &mut Worker, change: &dyn Fn(&mut store::model::Sources)| {
        change(&mut sources);
        let mut snapshot = store::testing::compile(sources.clone(), &Board::default());
        snapshot.domains = Arc::clone(&worker.world.table.snapshot.domains);
        let table = worker.world.table.after(Arc::new(snapshot), &[8080], &own(&worker.world.handle));
        worker.world.table = Arc::new(table);
        worker.picked();
        worker.kept()
    };
    assert_eq!(after(&mut worker, &|it| it.routes[1].priority = 7), kept, "another route");
    assert_eq!(
        after(&mut worker, &|it| it.services[1].consul.tags.push("t".into())),
        kept,
        "another service"
    );
    assert_eq!(after(&mut worker, &|it| drop(it.routes.remove(1))), kept, "a route is gone");
    let own_service = after(&mut worker, &|it| it.services[0].consul.tags.push("t".into()));
    assert_ne!(own_service, kept, "its own service");
    let sites = after(&mut worker, &|it| drop(it.sites.pop()));
    assert_ne!(sites, own_service, "the sites");
}

#[test]
fn a_service_to_which_no_route_leads_any_more_is_forgotten() {
    let mut worker = Worker::of(&["s1 passing a"]);
    worker.picked();
    let instance = Arc::downgrade(&worker.world.instance("a"));
    let mut sources = sources();
    sources.routes.retain(|it| it.name == name("shop"));
    sources.services[0].hosts.clear();
    let table = worker.world.table.after(snapshot(sources), &[8080], &own(&worker.world.handle));
    let shop = (0..table.numbers()).find(|at| table.backend(*at).is_some()).unwrap();
    worker.world.table = Arc::new(table);
    let world = &worker.world;
    let known = Known {
        table: &world.table,
        excluded: (&worker.excluded, 0),
        instances: &world.instances,
        names: &world.names,
        board: world.handle.board(),
    };
    let context = PickContext { tried: &[], key: None, now: world.now };
    let picked = worker.picker.pick(&known, shop, &context, |_, _| Vec::new());
    assert_eq!(picked.map(drop), Err(NoPick::NoInstance));
    assert!(worker.picker.kept.iter().flatten().all(|it| it.backend.name.as_str() != BACKEND));
    assert!(instance.upgrade().is_none_or(|it| Arc::strong_count(&it) <= 2), "only the test holds it");
}

const FOUNDATION: &str = "kind: Site\nname: s0\n---\nkind: Site\nname: s1\n---\nkind: Site\nname: s2\n---\n\
    kind: Zone\nname: z.org\nnameservers: [{ name: ns.x. }]\n---\n\
    kind: Cluster\nname: main\nzone: z.org\ngateway_domain: gw.z.org\n\
    gateways: { s0: { a: [203.0.113.1] }, s1: { a: [203.0.113.2] }, s2: { a: [203.0.113.3] } }\n";

/// A change of a document, or of what the registry says of a service.
#[derive(Clone, Debug)]
enum Step {
    Document { text: String, removed: bool },
    Discovered { service: u8, instances: u8 },
}

fn steps() -> impl Strategy<Value = Step> {
    let service = (0_u8..2, 0_usize..6).prop_map(|(n, more)| {
        let more = [
            "",
            "hosts: [a.z.org]\n",
            "consul: { service: s1, tags: [t] }\n",
            "sites: [s0, s1]\n",
            "balance: { type: round_robin }\nhosts: [b.z.org, c.z.org]\n",
            "route_by: uuid\nhosts: [d.z.org]\n",
        ][more];
        let uuid = format!("uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f2{n}\n");
        let more =
            if more.contains("hosts") { more.replace("[", &format!("[h{n}.")) } else { more.to_owned() };
        format!("kind: Service\nname: s{n}\ncluster: main\n{more}{uuid}")
    });
    let route = (0_u8..3, 0_u8..2, 0_usize..4, 0_u8..2).prop_map(|(n, to, host, priority)| {
        let host = ["hosts: [h0.a.z.org]\n", "hosts: [h0.a.z.org, x.org]\n", "hosts: ['*.z.org']\n", ""][host];
        format!("kind: Route\nname: r{n}\n{host}priority: {priority}\npaths: [{{ prefix: / }}, {{ prefix: /p{n} }}]\nto: [{{ service: s{to} }}]\n")
    });
    let site = (0_usize..3).prop_map(|reach| {
        let reach = ["{}", "{ s2: by_gateway }", "{ s0: none }"][reach];
        format!("kind: Site\nname: s1\nreach: {reach}\n")
    });
    let removable = prop_oneof![3 => service, 3 => route].prop_map(|text| (text, true));
    let document = prop_oneof![6 => removable, 1 => site.prop_map(|text| (text, false))];
    prop_oneof![
        3 => (document, prop::bool::weighted(0.25)).prop_map(|((text, removable), removed)| {
            Step::Document { text, removed: removed && removable }
        }),
        1 => (0_u8..2, 0_u8..16).prop_map(|(service, instances)| Step::Discovered { service, instances }),
    ]
}

/// A node as it runs: every change from what was before it.
struct Running {
    documents: Documents,
    snapshot: Arc<Snapshot>,
    handle: Handle,
    publisher: handle::Publisher,
    instances: Arc<Instances>,
    names: Names,
    table: Arc<Table>,
    picker: Picker,
}

const PLACE: [&str; 2] = ["main", "s1"];

impl Running {
    fn new() -> Self {
        let documents = Documents::assemble(read(FOUNDATION));
        let (handle, publisher) = handle::channel(Clock::default(), Duration::from_secs(60));
        let snapshot = Snapshot::compile(documents.sources(), Generation::default(), handle.board());
        let snapshot = Arc::new(snapshot);
        let [cluster, site] = PLACE.map(name);
        let table = Table::compile(Arc::clone(&snapshot), (&cluster, &site), &[8080], &own(&handle));
        Self {
            documents,
            snapshot,
            publisher,
            instances: Arc::default(),
            names: Names::default(),
            table: Arc::new(table),
            picker: Picker::default(),
            handle,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Document { text, removed } => {
                let document = read(&text).remove(0);
                let before = self.documents.get(&document.id()).cloned();
                let mut next = self.documents.clone();
                next.replace(&[Replacement { before, after: (!removed).then_some(document) }]);
                let generation = Generation::default();
                let after = self.snapshot.after(&self.documents, &next, generation, self.handle.board());
                let whole = || Snapshot::compile(next.sources(), generation, self.handle.board());
                self.snapshot = Arc::new(after.unwrap_or_else(whole));
                self.documents = next;
                self.table =
                    Arc::new(self.table.after(Arc::clone(&self.snapshot), &[8080], &own(&self.handle)));
            }
            Step::Discovered { service, instances } => {
                let texts = ["s1 passing a", "- warning b", "s2 passing c w3", "s0 critical d"];
                let there = |at: &usize| instances >> at & 1 == 1;
                let endpoints = (0..4).filter(there).map(|at| {
                    let tags = if at == 0 { vec!["t".to_owned()] } else { Vec::new() };
                    store::engine::Endpoint { tags, ..instance(texts[at]) }
                });
                let entry =
                    Entry { endpoints: endpoints.collect(), standing: Standing::Present, ..Entry::default() };
                self.publisher.discovery().slot(&format!("s{service}")).store(entry);
            }
        }
    }

    /// The view of a service that the worker has kept, after a pick.
    fn view(&mut self, service: &Name) -> Option<String> {
        let number = (0..self.table.numbers())
            .find(|at| self.table.backend(*at).is_some_and(|it| it.name == *service))?;
        let excluded = Excluded::default();
        let known = Known {
            table: &self.table,
            excluded: (&excluded, 0),
            instances: &self.instances,
            names: &self.names,
            board: self.handle.board(),
        };
        let context = PickContext { tried: &[], key: None, now: Moment(1_000) };
        let _ = self.picker.pick(&known, number, &context, |_, _| Vec::new());
        Some(self.picker.kept[number].as_ref().unwrap().view.described())
    }

    /// The same, made of the documents alone.
    fn view_made_anew(&self, table: &Table, service: &Name) -> Option<String> {
        let backend = table.backends().find(|it| it.name == *service)?;
        let shared = (&*self.instances, &self.names);
        let (excluded, now) = (Excluded::default(), Moment(1_000));
        let entry = backend.slot.load();
        Some(View::build(&entry, (backend, backend.settings), table, &excluded, now, shared).described())
    }
}

fn read(text: &str) -> Vec<Arc<Document>> {
    let read = parse("t.yaml", text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    read.into_iter().map(|it| Arc::new(it.value)).collect()
}

/// Where requests go: the route, and the service that it leads to.
fn routed(table: &Table) -> Vec<String> {
    let mut all = Vec::new();
    for host in ["h0.a.z.org", "h1.b.z.org", "h1.a.z.org", "x.org", "h0.d.z.org", "other"] {
        for path in ["/", "/p0", "/p1/x"] {
            let request = request("GET", host, path);
            let found = table.find(&request).map(|it| {
                let backend = it.route.split.draw(|_| 0).and_then(|number| table.backend(number));
                format!("{} {:?}", it.route.name(), backend.map(|it| &it.document))
            });
            all.push(format!("{host}{path} {found:?}"));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// From the changed document to the view of a worker.
    #[test]
    fn after_any_changes_everything_is_what_the_documents_make_of_it(
        rounds in prop::collection::vec(prop::collection::vec(steps(), 1..3), 1..12),
    ) {
        let mut running = Running::new();
        let services = ["s0", "s1"].map(name);
        for steps in rounds {
            steps.into_iter().for_each(|step| running.take(step));
            let whole =
                Snapshot::compile(running.documents.sources(), Generation::default(), running.handle.board());
            let [cluster, site] = PLACE.map(name);
            let anew = Table::compile(Arc::new(whole), (&cluster, &site), &[8080], &own(&running.handle));
            prop_assert_eq!(routed(&running.table), routed(&anew));
            for service in &services {
                let kept = running.view(service);
                prop_assert_eq!(kept, running.view_made_anew(&anew, service), "{}", service);
            }
        }
    }
}
