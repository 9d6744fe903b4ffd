//! The quick check is compared with the full one over small worlds in which nearly everything collides with something.

use proptest::{prelude::*, sample::select};

use super::*;
use crate::{DomainName, Name, Steered, parse, world::steered::SteeredName};

const NOW: Moment = Moment(1_800_000_000_000);
const SECRET: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

/// Names at which services, domains, records and gateways meet.
const NAMES: [&str; 9] = [
    "a.z.org",
    "b.z.org",
    "x.a.z.org",
    "y.x.a.z.org",
    "ns.z.org",
    "gw.z.org",
    "0f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.z.org",
    "1f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.z.org",
    "a.in.z.org",
];

fn name() -> impl Strategy<Value = &'static str> {
    select(&NAMES[..])
}

/// A host of a service or a route, which may be a wildcard.
fn host() -> impl Strategy<Value = &'static str> {
    prop_oneof![5 => name(), 1 => select(vec!["*.a.z.org", "*.z.org"])]
}

fn site() -> impl Strategy<Value = &'static str> {
    select(vec!["bj", "sh", "bj", "sh", "bj", "sh", "gz"])
}

fn sites() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(String::new()),
        2 => site().prop_map(|site| format!("sites: [{site}]\n")),
        1 => Just("sites: [bj, sh]\n".to_owned()),
    ]
}

fn cluster() -> impl Strategy<Value = &'static str> {
    select(vec!["main", "main", "main", "other", "other", "gone"])
}

fn check() -> impl Strategy<Value = &'static str> {
    select(vec!["", "", "", "check: web\n", "check: gone\n"])
}

fn service() -> impl Strategy<Value = String> {
    let uuid = select(vec!["", "", "0", "0", "1", "1", "2"]).prop_map(|digit| match digit {
        "" => String::new(),
        digit => format!("uuid: {digit}f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\n"),
    });
    let hosts = prop::collection::btree_set(host(), 1..3).prop_map(|hosts| {
        let hosts: Vec<&str> = hosts.into_iter().collect();
        format!("hosts: ['{}']\n", hosts.join("', '"))
    });
    let hosts = prop_oneof![4 => hosts, 1 => Just(String::new())];
    let route_by = select(vec!["", "route_by: uuid\n"]);
    (0..4, uuid, cluster(), hosts, sites(), route_by, check()).prop_map(
        |(n, uuid, cluster, hosts, sites, route_by, check)| {
            format!("kind: Service\nname: s{n}\ncluster: {cluster}\n{uuid}{hosts}{sites}{route_by}{check}")
        },
    )
}

fn domain() -> impl Strategy<Value = String> {
    let name = prop_oneof![3 => name(), 1 => select(&NAMES[6..8])];
    let more = select(vec![
        "",
        "",
        "",
        "min_up: 2\n",
        "policy: { type: failover, order: [bj, sh] }\n",
        "policy: { type: weighted, weights: { bj: 1 } }\n",
        "verdict: regional\n",
    ]);
    (name, cluster(), sites(), check(), more).prop_map(|(name, cluster, sites, check, more)| {
        format!("kind: Domain\nname: {name}\ncluster: {cluster}\n{sites}{check}{more}")
    })
}

fn route() -> impl Strategy<Value = String> {
    let hosts = prop::collection::btree_set(host(), 1..3);
    let paths = prop::collection::btree_set(select(vec!["/", "/api", "/x"]), 1..3);
    let more = select(vec![
        "",
        "",
        "",
        "priority: 1\n",
        "methods: [GET]\n",
        "headers: [{ name: X-A, exact: y }]\n",
        "headers: [{ name: x-a, exact: y }]\n",
        "request_mirror: { service: s3 }\n",
        "request_mirror: { service: s4 }\n",
    ]);
    let to = prop::collection::btree_set(prop_oneof![9 => 0..4, 1 => Just(4)], 1..3);
    let route = select(vec!["r0", "r1", "r2", "r0", "r1", "r2", "implied.r"]);
    let no_hosts = prop::bool::weighted(0.1);
    (route, hosts, no_hosts, paths, to, more).prop_map(|(name, hosts, no_hosts, paths, to, more)| {
        let hosts: Vec<&str> = hosts.into_iter().collect();
        let paths: Vec<String> = paths.into_iter().map(|path| format!("{{ prefix: {path} }}")).collect();
        let to: Vec<String> = to.into_iter().map(|n| format!("{{ service: s{n} }}")).collect();
        let (hosts, paths, to) = (hosts.join("', '"), paths.join(", "), to.join(", "));
        let hosts = if no_hosts { String::new() } else { format!("hosts: ['{hosts}']\n") };
        format!("kind: Route\nname: {name}\n{hosts}paths: [{paths}]\nto: [{to}]\n{more}")
    })
}

fn over_ride() -> impl Strategy<Value = String> {
    let glob = prop_oneof![
        name(),
        select(vec!["*", "*.z.org", "gw.*", "?f*", "0f*", "1f*", "*.a.z.org", "*.org", "w.*"]),
    ];
    let target = prop_oneof![
        site().prop_map(|site| format!("site: {site}")),
        glob.clone().prop_map(|glob| format!("domain: '{glob}'")),
        (site(), glob).prop_map(|(site, glob)| format!("site: {site}, domain: '{glob}'")),
    ];
    let more = select(vec![
        "",
        "",
        "",
        "force: true\n",
        "expires: 2020-01-01T00:00:00Z\n",
        "expires: 2100-01-01T00:00:00Z\n",
    ]);
    let state = select(vec!["down", "down", "drain", "up", "release"]);
    (0..4, target, state, more).prop_map(|(n, target, state, more)| {
        format!(
            "kind: Override\nname: o{n}\ntarget: {{ {target} }}\nstate: {state}\nowner: o\nreason: r\n{more}"
        )
    })
}

fn token() -> impl Strategy<Value = String> {
    let scope = prop_oneof![
        select(vec!["v1", "v2"])
            .prop_map(|vantage| format!("role: vantage\nscope: {{ vantage: {vantage} }}\n")),
        site().prop_map(|site| format!("role: control\nscope: {{ site: {site} }}\n")),
    ];
    (0..2, scope).prop_map(|(n, scope)| format!("kind: Token\nname: t{n}\n{scope}secret_sha256: {SECRET}\n"))
}

fn record() -> impl Strategy<Value = String> {
    let owner = prop_oneof![name(), select(vec!["*.z.org", "*.z.org", "*.a.z.org", "z.org", "in.z.org"])];
    let data = prop_oneof![
        3 => Just("type: A, data: 192.0.2.1".to_owned()),
        8 => name().prop_map(|target| format!("type: CNAME, data: {target}.")),
        1 => Just("type: TXT, data: t".to_owned()),
        1 => Just("type: NS, data: ns.elsewhere.".to_owned()),
        1 => Just("type: DNAME, data: elsewhere.".to_owned()),
    ];
    (owner, data).prop_map(|(owner, data)| format!("  - {{ name: {owner}., {data} }}\n"))
}

/// Documents of kinds that others build on.
fn foundation() -> impl Strategy<Value = String> {
    let zone = (prop::collection::vec(record(), 0..3), any::<bool>()).prop_map(|(records, address)| {
        let address = if address { ", a: [192.0.2.53]" } else { "" };
        let records =
            if records.is_empty() { String::new() } else { format!("records:\n{}", records.concat()) };
        format!("kind: Zone\nname: z.org\nnameservers: [{{ name: ns.z.org.{address} }}]\n{records}")
    });
    let looping = name().prop_map(|target| {
        format!(
            "kind: Zone\nname: z.org\nnameservers: [{{ name: ns.x. }}]\n\
             records: [{{ name: '*.z.org.', type: CNAME, data: {target}. }}]\n"
        )
    });
    let inner = Just("kind: Zone\nname: in.z.org\nnameservers: [{ name: ns.x. }]\n".to_owned());
    let keep = select(vec![
        "",
        "keep: [{ at_least: 1, of: [bj, sh] }]\n",
        "keep: [{ at_least: 2, of: [bj, sh] }]\n",
    ]);
    let gateways =
        select(vec!["bj: { a: [203.0.113.1] }, sh: { a: [203.0.113.2] }", "bj: { a: [203.0.113.3] }"]);
    let clusters = (select(vec!["main", "other"]), name(), keep, gateways).prop_map(
        |(cluster, gateway, keep, gateways)| {
            format!(
                "kind: Cluster\nname: {cluster}\nzone: z.org\ngateway_domain: {gateway}\n\
                 gateways: {{ {gateways} }}\n{keep}"
            )
        },
    );
    let sites = site().prop_map(|site| format!("kind: Site\nname: {site}\n"));
    let others = select(vec!["kind: Check\nname: web\ntype: http\n", "kind: Vantage\nname: v1\nregion: r\n"]);
    prop_oneof![3 => zone, 1 => looping, 1 => inner, 4 => clusters, 1 => sites, 2 => others.prop_map(str::to_owned)]
}

/// Documents of kinds that are checked quickly.
fn quick() -> impl Strategy<Value = String> {
    prop_oneof![5 => service(), 3 => domain(), 3 => route(), 3 => over_ride(), 1 => token()]
}

/// A written document, or the removal of the one of its identity.
type Wish = (String, bool);

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let document = prop_oneof![8 => quick(), 1 => foundation()];
    prop::collection::vec((document, prop::bool::weighted(0.3)), 1..4)
}

fn read(text: &str) -> Option<Placed<Arc<Document>>> {
    let Placed { value, place } = parse("w.yaml", text).ok()?.pop()?;
    Some(Placed { value: Arc::new(value), place })
}

/// As many of these documents as make a world without errors.
fn without_errors(texts: &[String]) -> Vec<Arc<Document>> {
    let mut all: Vec<Arc<Document>> = Vec::new();
    for document in texts.iter().filter_map(|text| read(text)) {
        let next: Vec<_> = all.iter().cloned().chain([document.value]).collect();
        if World::check(next.iter().cloned().map(Placed::stored), NOW).is_ok() {
            all = next;
        }
    }
    all
}

/// The documents that are wished and those to remove, as a plan has them.
fn split(wishes: &[Wish], world: &World) -> (Vec<Placed<Arc<Document>>>, Vec<DocumentId>) {
    let (mut wanted, mut removed) = (Vec::new(), Vec::new());
    for (document, removal) in wishes.iter().filter_map(|(text, removal)| Some((read(text)?, *removal))) {
        let id = document.value.id();
        let before = world.get(&id);
        if !removal {
            wanted.push(document);
        } else if before.is_some() && !removed.contains(&id) && !wanted.iter().any(|it| it.value.id() == id) {
            removed.push(id);
        }
    }
    wanted.retain(|it| !removed.contains(&it.value.id()));
    (wanted, removed)
}

fn in_full(
    world: &World,
    wanted: &[Placed<Arc<Document>>],
    removed: &[DocumentId],
) -> Result<World, Vec<InputError>> {
    let touched = |id: DocumentId| removed.contains(&id) || wanted.iter().any(|it| it.value.id() == id);
    let untouched = world.documents().filter(|it| !touched(it.id())).cloned().map(Placed::stored);
    World::check(untouched.chain(wanted.iter().cloned()), NOW)
}

fn all(world: &World) -> Vec<Arc<Document>> {
    world.documents().cloned().collect()
}

/// The steered names with their clusters and sites, as checks see them.
fn borrowed(world: &World) -> Vec<(DomainName, Name, Vec<Name>)> {
    let one = |it: SteeredName<'_>| (it.name.clone(), it.cluster.clone(), it.sites(world).cloned().collect());
    world.steered_names().map(one).collect()
}

/// The same as answers have them.
fn spelled_out(world: &World) -> Vec<(DomainName, Name, Vec<Name>)> {
    let one = |it: Steered| (it.domain.name.clone(), it.domain.cluster.clone(), world.sites_of(&it.domain));
    world.domains().into_iter().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Over random worlds and random changes the result is that of the full check, with the same errors in the same
    /// order; and the full check is needed only for what is wrong and for foundations.
    #[test]
    fn a_change_is_checked_as_the_whole_world_is(
        foundations in prop::collection::vec(foundation(), 0..5),
        documents in prop::collection::vec(quick(), 0..16),
        changes in prop::collection::vec(wishes(), 1..8),
    ) {
        let fixed = ["kind: Site\nname: bj\n", "kind: Site\nname: sh\n"].map(str::to_owned);
        let zone = "kind: Zone\nname: z.org\nnameservers: [{ name: ns.z.org., a: [192.0.2.53] }]\n".to_owned();
        let main = "kind: Cluster\nname: main\nzone: z.org\ngateway_domain: gw.z.org\n\
                    gateways: { bj: { a: [203.0.113.1] }, sh: { a: [203.0.113.2] } }\n".to_owned();
        let other = main.replace("name: main", "name: other").replace("gw.", "gw-other.");
        let foundations = fixed.into_iter().chain(foundations).chain([zone, main, other]);
        let texts: Vec<String> = foundations.chain(documents).collect();
        let mut checked = Checked::of(without_errors(&texts), NOW).unwrap();
        for wishes in changes {
            let (wanted, removed) = split(&wishes, &checked.world);
            let full = in_full(&checked.world, &wanted, &removed);
            let quick = checked.check_quickly(&wanted, &removed, NOW);
            if quick.is_some() {
                prop_assert!(full.is_ok(), "{wanted:#?} {removed:#?}: {:#?}", full.err());
            }
            let ids = || removed.iter().cloned().chain(wanted.iter().map(|it| it.value.id()));
            let only_quick = ids().all(|id| change::is_quick(id.kind));
            // In doubt about the address of a name server the full check decides.
            let texts = ids().map(|id| format!("{:?}", checked.world.get(&id)));
            let servers = texts.chain([format!("{wanted:?}")]).any(|text| text.contains("ns.z.org"));
            if full.is_ok() && only_quick && !servers {
                prop_assert!(quick.is_some(), "the full check is not needed for {wanted:#?} {removed:#?}");
            }
            let both = (checked.check(wanted.clone(), &removed, NOW), full);
            match both {
                (Ok(found), Ok(full)) => {
                    prop_assert_eq!(all(&found), all(&full));
                    let replaced = |id: DocumentId| Replacement {
                        before: checked.world.get(&id).cloned(),
                        after: full.get(&id).cloned(),
                    };
                    let replacements: Vec<_> = ids().map(replaced).collect();
                    checked.advance(&replacements, NOW).unwrap();
                    prop_assert_eq!(all(&checked.world), all(&full));
                    prop_assert_eq!(&checked.index, &Index::of(&full));
                    prop_assert_eq!(borrowed(&full), spelled_out(&full));
                }
                (Err(found), Err(full)) => prop_assert_eq!(found, full),
                (found, full) => prop_assert!(false, "{:?} {:?}", found.is_ok(), full.is_ok()),
            }
        }
    }
}

const SMALL: &str = "\
kind: Site\nname: bj\n---\n\
kind: Cluster\nname: main\nzone: z.org\ngateway_domain: gw.z.org\ngateways: { bj: { a: [203.0.113.1] } }\n---\n";

/// What a removal from a small world gives, checked quickly and in full.
fn removal(zone: &str, gone: &str) -> (bool, Vec<String>) {
    let documents = parse("w.yaml", &format!("{SMALL}{zone}---\n{gone}")).unwrap();
    let checked = Checked::of(documents.into_iter().map(|it| Arc::new(it.value)), NOW).unwrap();
    let removed = [read(gone).unwrap().value.id()];
    let quick = checked.check_quickly(&[], &removed, NOW).is_some();
    let errors = checked.check(Vec::new(), &removed, NOW).err().unwrap_or_default();
    (quick, errors.into_iter().map(|it| it.problem).collect())
}

#[test]
fn a_wildcard_that_answers_for_a_removed_host_must_not_loop() {
    let host = "kind: Service\nname: s\ncluster: main\nhosts: [a.z.org]\n";
    let zone = |target: &str| {
        format!(
            "kind: Zone\nname: z.org\nnameservers: [{{ name: ns.x. }}]\n\
             records: [{{ name: '*', type: CNAME, data: {target} }}]\n"
        )
    };
    let (quick, errors) = removal(&zone("a"), host);
    assert_eq!((quick, &errors[..]), (false, &["a CNAME loop: a.z.org -> a.z.org".to_owned()][..]));
    // The host also kept the wildcard away from the names below it.
    let (quick, errors) = removal(&zone("b.a"), host);
    assert_eq!((quick, &errors[..]), (false, &["a CNAME loop: b.a.z.org -> b.a.z.org".to_owned()][..]));
    assert_eq!(removal(&zone("gw"), host), (true, Vec::new()));
}

#[test]
fn a_name_server_must_not_lose_its_steered_address() {
    let domain = "kind: Domain\nname: ns.z.org\ncluster: main\n";
    let zone = |server: &str| format!("kind: Zone\nname: z.org\nnameservers: [{{ name: {server} }}]\n");
    let (quick, errors) = removal(&zone("ns"), domain);
    assert_eq!(
        (quick, &errors[..]),
        (false, &["ns.z.org lies in the zone and has no address".to_owned()][..])
    );
    assert_eq!(removal(&zone("gw"), domain), (true, Vec::new()));
}

#[test]
fn a_clock_that_goes_back_and_a_document_that_comes_twice_need_the_full_check() {
    let text = format!("{SMALL}kind: Zone\nname: z.org\nnameservers: [{{ name: ns.x. }}]\n");
    let documents = parse("w.yaml", &text).unwrap().into_iter().map(|it| Arc::new(it.value));
    let checked = Checked::of(documents, NOW).unwrap();
    let service = || vec![read("kind: Service\nname: s\ncluster: main\n").unwrap()];
    assert!(checked.check_quickly(&service(), &[], NOW).is_some());
    assert!(checked.check_quickly(&service(), &[], Moment(NOW.0 - 1)).is_none());
    assert!(checked.check(service(), &[], Moment(NOW.0 - 1)).is_ok());
    let twice = [service(), service()].concat();
    assert!(checked.check_quickly(&twice, &[], NOW).is_none());
    assert!(checked.check(twice, &[], NOW).unwrap_err()[0].problem.contains("is declared twice"));
}
