use std::fmt::Write as _;

use super::*;
use crate::parse;

/// Two sites, a zone, a cluster and a vantage.
const BASE: &str = "\
kind: Site\nname: bj\n---\nkind: Site\nname: sh\n---\n\
kind: Zone\nname: g.example.com\nnameservers: [{ name: ns1, a: [203.0.113.53] }]\n---\n\
kind: Cluster\nname: main\nzone: g.example.com\ngateway_domain: gw.g.example.com\n\
gateways: { bj: { a: [203.0.113.10] }, sh: { a: [203.0.113.20] } }\n---\n\
kind: Vantage\nname: v1\n---\n";

const NOW: Moment = Moment(1_800_000_000_000);

fn check_with(more: &str) -> Result<World, Vec<String>> {
    let documents = parse("w.yaml", &format!("{BASE}{more}")).unwrap_or_else(|found| panic!("{found:#?}"));
    World::check(documents, NOW).map_err(|found| found.iter().map(InputError::to_string).collect())
}

fn world(more: &str) -> World {
    check_with(more).unwrap_or_else(|found| panic!("{more}: {found:#?}"))
}

/// The errors without their place.
fn errors(more: &str) -> Vec<String> {
    let without_place = |line: String| line.split_once(": ").unwrap().1.to_owned();
    check_with(more)
        .err()
        .unwrap_or_else(|| panic!("accepted: {more}"))
        .into_iter()
        .map(without_place)
        .collect()
}

#[track_caller]
fn error(more: &str, words: &str) {
    let found = errors(more);
    assert_eq!(found.len(), 1, "{more}: {found:#?}");
    assert!(found[0].contains(words), "{more}: {}", found[0]);
}

/// A zone with these records.
fn records(lines: &str) -> String {
    format!("kind: Zone\nname: z.org\nnameservers: [{{ name: ns1, a: [192.0.2.1] }}]\nrecords:\n{lines}")
}

#[test]
fn a_name_server_in_its_zone_has_an_address_from_the_server_that_answers_there() {
    let zone = |server: &str, more: &str| {
        format!("kind: Zone\nname: z.org\nnameservers: [{{ name: {server} }}]\n{more}")
    };
    for lonely in [
        zone("ns1", ""),
        zone("ns1", "records: [{ name: ns1, type: TXT, data: x }]\n"),
        zone("ns.sub", "---\nkind: Zone\nname: sub.z.org\nnameservers: [{ name: ns.x. }]\n"),
    ] {
        error(&lonely, "nameservers[0]: ");
        error(&lonely, ".z.org lies in the zone and has no address");
    }
    for fine in [
        zone("ns1", "records: [{ name: ns1, type: AAAA, data: '::1' }]\n"),
        zone("ns1", "records: [{ name: ns1, type: ALIAS, data: x.example. }]\n"),
        zone("ns.sub", "---\nkind: Zone\nname: sub.z.org\nnameservers: [{ name: ns, a: [192.0.2.1] }]\n"),
        zone(
            "ns.sub",
            "---\nkind: Zone\nname: sub.z.org\nnameservers: [{ name: ns.x. }]\n\
             records: [{ name: ns, type: A, data: 192.0.2.1 }]\n",
        ),
        zone(
            "gw",
            "---\nkind: Cluster\nname: z\nzone: z.org\ngateway_domain: gw.z.org\n\
             gateways: { bj: { a: [203.0.113.30] } }\n",
        ),
        zone("ns.g.example.com.", ""),
    ] {
        world(&fine);
    }
}

#[test]
fn the_example_needs_only_its_second_site() {
    let secret = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    let text = include_str!("../decode/example.yaml").replace('…', secret);
    let found = World::check(parse("world.yaml", &text).unwrap(), NOW).unwrap_err();
    let found: Vec<String> = found.iter().map(InputError::to_string).collect();
    assert_eq!(
        found,
        ["world.yaml:13: Cluster main: gateways.sh: there is no Site sh; expected the name of a Site"]
    );
    let world =
        World::check(parse("w", &format!("{text}---\nkind: Site\nname: sh\n")).unwrap(), NOW).unwrap();
    let names: Vec<String> = world.domains().iter().map(|it| it.domain.name.to_string()).collect();
    assert_eq!(names, ["gw.gslb.example.com", "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.gslb.example.com"]);
    let routes: Vec<(String, usize)> =
        world.routes().iter().map(|it| (it.name.to_string(), it.hosts.len())).collect();
    assert_eq!(routes, [("orders-api".to_owned(), 1), ("implied.orders".to_owned(), 1)]);
}

#[test]
fn every_missing_reference_at_once_with_close_names() {
    let found = errors(
        "kind: Domain\nname: gw.g.example.com\ncluster: mian\ncheck: webb\n---\n\
         kind: Check\nname: web\ntype: http\n---\n\
         kind: Service\nname: orders\ncluster: mian\n---\n\
         kind: Route\nname: r\nhosts: [a.b]\nto: [{ service: order }]\n---\n\
         kind: Vantage\nname: v2\nsite: sz\n---\n\
         kind: Token\nname: t\nrole: vantage\nscope: { vantage: v9 }\n\
         secret_sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\n---\n\
         kind: Override\nname: o\ntarget: { site: bjj }\nstate: drain\nowner: o\nreason: r\n",
    );
    for words in [
        "Domain gw.g.example.com: cluster: there is no Cluster mian; did you mean \"main\"?",
        "Domain gw.g.example.com: check: there is no Check webb; did you mean \"web\"?",
        "Service orders: cluster: there is no Cluster mian",
        "Route r: to[0].service: there is no Service order; did you mean \"orders\"?",
        "Vantage v2: site: there is no Site sz",
        "Token t: scope.vantage: there is no Vantage v9; did you mean \"v1\"?",
        "Override o: target.site: there is no Site bjj; did you mean \"bj\"?",
    ] {
        assert!(found.iter().any(|it| it.contains(words)), "{words}: {found:#?}");
    }
    // The gateway domain belongs to a cluster that does not exist, which is an error of its own.
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn a_name_is_there_once() {
    let found = check_with("kind: Site\nname: bj\n").unwrap_err();
    assert_eq!(
        found,
        [
            "w.yaml:21: Site bj: name: is declared twice; the first is at w.yaml:1; expected each name once within its kind"
        ]
    );
    let service = |name: &str, more: &str| format!("kind: Service\nname: {name}\ncluster: main\n{more}---\n");
    let hosts = service("a", "hosts: [x.g.example.com]\n") + &service("b", "hosts: [x.g.example.com]\n");
    let found = errors(&hosts);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0]
            .contains("Service b: hosts[0]: x.g.example.com is declared twice; first in Service a hosts[0]")
    );
    let uuid = "uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\n";
    let found = errors(&(service("a", uuid) + &service("b", uuid)));
    assert!(found[0].contains("is the UUID of the Service a too"), "{found:#?}");
    error(&service("a", "hosts: [gw.g.example.com]\n"), "there is also Cluster main gateway_domain");
    error(&service("a", "hosts: [ns1.g.example.com]\n"), "there is also Zone g.example.com nameservers[0]");
    error(&service("a", "hosts: [g.example.com]\n"), "is a zone's apex, where no CNAME is allowed");
    error(
        "kind: Cluster\nname: other\nzone: g.example.com\ngateway_domain: gw.g.example.com\n\
         gateways: { bj: { a: [203.0.113.11] } }\n",
        "Cluster other: gateway_domain: gw.g.example.com is declared twice; first in Cluster main gateway_domain",
    );
}

#[test]
fn static_records_keep_to_the_rules_of_cnames() {
    for (lines, words) in [
        ("  - { name: '@', type: CNAME, data: a }\n", "is a zone's apex"),
        (
            "  - { name: a, type: ALIAS, data: b }\n  - { name: a, type: A, data: 192.0.2.1 }\n",
            "records[0]: a.z.org is an ALIAS, and there is also Zone z.org records[1]",
        ),
        (
            "  - { name: a, type: ALIAS, data: b }\n  - { name: a, type: ALIAS, data: c }\n",
            "records[1]: a.z.org is an ALIAS",
        ),
        (
            "  - { name: a, type: ALIAS, data: b }\n  - { name: a, type: CNAME, data: c }\n",
            "records[1]: a.z.org is a CNAME",
        ),
        (
            "  - { name: a, type: CNAME, data: b }\n  - { name: a, type: TXT, data: t }\n",
            "records[0]: a.z.org is a CNAME, and there is also Zone z.org records[1]",
        ),
        (
            "  - { name: a, type: CNAME, data: b }\n  - { name: a, type: CNAME, data: c }\n",
            "records[1]: a.z.org is a CNAME",
        ),
        (
            "  - { name: a, type: A, data: 192.0.2.1 }\n  - { name: a, type: A, data: 192.0.2.1 }\n",
            "records[1]: a.z.org is declared twice",
        ),
        ("  - { name: ns1, type: CNAME, data: b }\n", "nameservers[0]"),
        ("  - { name: '@', type: NS, data: b }\n", "the zone's name servers in `nameservers`"),
        ("  - { name: a, type: CNAME, data: a }\n", "a CNAME loop: a.z.org -> a.z.org"),
        (
            "  - { name: a, type: CNAME, data: b }\n  - { name: b, type: CNAME, data: c }\n  - { name: c, type: CNAME, data: b }\n",
            "a CNAME loop: b.z.org -> c.z.org -> b.z.org",
        ),
        ("  - { name: '*', type: CNAME, data: a }\n", "a CNAME loop: a.z.org -> a.z.org"),
        (
            "  - { name: d, type: NS, data: ns.d }\n  - { name: x.d, type: TXT, data: t }\n",
            "x.d.z.org lies below d.z.org",
        ),
    ] {
        let found = errors(&records(lines));
        assert!(found.iter().any(|it| it.contains(words)), "{lines}: {found:#?}");
        assert!(found.len() <= 2, "{lines}: {found:#?}");
    }
}

#[test]
fn what_is_fine_in_a_zone() {
    world(&records(
        "  - { name: '@', type: TXT, data: t }\n  - { name: '@', type: A, data: 192.0.2.1 }\n  \
         - { name: a, type: A, data: 192.0.2.1 }\n  - { name: a, type: A, data: 192.0.2.2 }\n  \
         - { name: '*', type: CNAME, data: a }\n  - { name: b, type: CNAME, data: gw.g.example.com. }\n  \
         - { name: d, type: NS, data: ns.d }\n  - { name: ns.d, type: A, data: 192.0.2.3 }\n  \
         - { name: c, type: CNAME, data: anything.below }\n",
    ));
    // Overlapping zones: the longest apex answers, and the upper zone may delegate to it.
    world(&format!(
        "{}---\nkind: Zone\nname: in.z.org\nnameservers: [{{ name: ns1, a: [192.0.2.9] }}]\n",
        records("  - { name: in, type: NS, data: ns1.in }\n  - { name: ns1.in, type: A, data: 192.0.2.9 }\n")
    ));
    // A steered name may have records of other types, but no addresses.
    let txt = "kind: Zone\nname: z.org\nnameservers: [{ name: ns.a. }]\nrecords: [{ name: '@', type: MX, data: 1 m }]\n---\n\
               kind: Cluster\nname: c\nzone: z.org\ngateway_domain: z.org\ngateways: { bj: { a: [203.0.113.10] } }\n";
    world(txt);
    error(&txt.replace("MX, data: 1 m", "A, data: 1.2.3.4"), "z.org is steered");
}

#[test]
fn nothing_lies_below_a_dname_and_little_beside_it() {
    let dname = "  - { name: d, type: DNAME, data: x.org. }\n";
    world(&records(&format!(
        "{dname}  - {{ name: d, type: NS, data: ns.x.org. }}\n  - {{ name: d, type: TXT, data: t }}\n  - {{ name: '@', type: A, data: 192.0.2.1 }}\n"
    )));
    for (more, words) in [
        ("  - { name: a.b.d, type: A, data: 192.0.2.1 }\n", "a.b.d.z.org lies below the DNAME of d.z.org"),
        ("  - { name: d, type: CNAME, data: t }\n", "d.z.org is a CNAME, and there is also"),
        ("  - { name: d, type: DNAME, data: y.org. }\n", "d.z.org is a DNAME, and there is also"),
        (
            "---\nkind: Service\nname: s\ncluster: main\nhosts: [s.d.z.org]\n",
            "s.d.z.org lies below the DNAME",
        ),
        (
            "---\nkind: Zone\nname: in.d.z.org\nnameservers: [{ name: ns.x. }]\n",
            "in.d.z.org lies below the DNAME",
        ),
    ] {
        error(&records(&format!("{dname}{more}")), words);
    }
}

#[test]
fn names_below_a_delegation_are_not_ours() {
    let zone = records("  - { name: d, type: NS, data: ns.elsewhere. }\n");
    let service = "---\nkind: Service\nname: a\ncluster: main\nhosts: [x.d.z.org]\n";
    error(&format!("{zone}{service}"), "x.d.z.org lies below the delegation of d.z.org");
}

fn domain(more: &str) -> String {
    format!("kind: Domain\nname: vip.g.example.com\ncluster: main\n{more}\n")
}

#[test]
fn domains_fit_their_cluster() {
    world(&domain("policy: { type: failover, order: [sh, bj] }"));
    error(&domain("policy: { type: failover, order: [sh] }"), "policy.order: the site bj is missing");
    error(
        &domain("policy: { type: failover, order: [sh, bj, sz] }"),
        "policy.order[2]: sz is no site of the domain",
    );
    error(&domain("sites: [sz]"), "the cluster main has no gateway at sz");
    error(&domain("min_up: 3"), "3 is more than the domain has sites; expected at most 2");
    error(&domain("").replace("vip.g.", "vip."), "lies outside the zone of its cluster main");
    error(
        "kind: Service\nname: a\ncluster: main\nsites: [bj, sz]\n",
        "sites[1]: the cluster main has no gateway at sz",
    );
    error(
        "kind: Cluster\nname: c\nzone: g.example.com\ngateway_domain: gw.example.org\ngateways: { bj: { a: [203.0.113.11] } }\n",
        "gw.example.org lies outside the cluster's zone",
    );
}

#[test]
fn order_with_a_site_twice() {
    let Document::Domain(mut it) = parse("d", &domain("")).unwrap().remove(0).value else { panic!() };
    let site = |name: &str| name.parse::<Name>().unwrap();
    it.policy = Policy::Failover { order: vec![site("bj"), site("sh"), site("bj")] };
    let documents = parse("b", BASE).unwrap().into_iter().chain([Placed::stored(Document::Domain(it))]);
    let found = World::check(documents, NOW).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "stored: Domain vip.g.example.com: policy.order[2]: bj is a duplicate value; expected every site of the domain, each once"
    );
}

#[test]
fn a_control_is_at_one_site_and_a_site_reaches_others() {
    let control = |site: &str, url: &str| {
        format!("kind: Site\nname: {site}\ncontrol: {{ urls: [{url}], token_file: /t }}\n---\n")
    };
    let both = |one: &str, two: &str| format!("{}{}", control("a", one), control("b", two));
    world(&both("https://10.0.0.1:1", "https://10.0.0.1:2"));
    error(
        &both("https://h.org:443", "'https://H.org/'"),
        "Site b: control.urls[0]: https://h.org is a control of the Site a too; expected each URL once, at one site",
    );
    world("kind: Site\nname: a\nreach: { bj: none, sh: by_gateway }\n");
    error("kind: Site\nname: a\nreach: { a: direct }\n", "Site a: reach.a: a is this site itself");
    error(
        "kind: Site\nname: a\nreach: { bk: none }\n",
        "reach.bk: there is no Site bk; did you mean \"bj\"?",
    );
    let token = |site: &str| {
        format!(
            "kind: Token\nname: t\nrole: control\nscope: {{ site: {site} }}\nsecret_sha256: {}\n",
            "0".repeat(64)
        )
    };
    world(&token("bj"));
    error(&token("nowhere"), "Token t: scope.site: there is no Site nowhere");
}

#[test]
fn sites_checks_and_routes() {
    error(
        "kind: Site\nname: a\nnetworks: [10.0.0.0/8]\n---\nkind: Site\nname: b\nnetworks: [10.0.0.0/8]\n",
        "Site b: networks[0]: 10.0.0.0/8 is claimed by the Site a too",
    );
    world("kind: Site\nname: a\nnetworks: [10.0.0.0/8]\n---\nkind: Site\nname: b\nnetworks: [10.1.0.0/16]\n");
    error("kind: Check\nname: c\ntype: http\nquorum: 2\n", "2 vantages can never agree: 1 are configured");
    let service = "kind: Service\nname: s\ncluster: main\n---\n";
    let route = |name: &str, path: &str| {
        format!(
            "kind: Route\nname: {name}\nhosts: [h.org]\npaths: [{{ prefix: {path} }}]\nto: [{{ service: s }}]\n---\n"
        )
    };
    world(&format!("{service}{}{}", route("a", "/"), route("b", "/api")));
    error(
        &format!("{service}{}{}", route("a", "/api"), route("b", "/api")),
        "Route b: hosts[0]: h.org/api is taken by the Route a already",
    );
    error(&format!("{service}{}", route("implied.s", "/")), "kept for the routes that services imply");
    let many = (0..63).fold(String::new(), |mut text, n| {
        let _ = write!(text, "kind: Site\nname: s{n}\n---\n");
        text
    });
    error(&many, "one site too many");
}

fn order(name: &str, target: &str, more: &str) -> String {
    format!("kind: Override\nname: {name}\ntarget: {target}\nstate: down\nowner: o\nreason: r\n{more}---\n")
}

#[test]
fn overrides_are_about_something() {
    world(&order("o", "{ domain: 'gw.*' }", "force: true\n"));
    error(&order("o", "{ domain: 'wg.*' }", ""), "target.domain: wg.* matches no domain");
    error(&order("o", "{ domain: 'gw.g.example.con' }", ""), "did you mean \"gw.g.example.com\"?");
    error(
        &format!("kind: Site\nname: idle\n---\n{}", order("o", "{ site: idle }", "")),
        "no domain has this site",
    );
    let only_bj = domain("sites: [bj]");
    error(
        &format!("{only_bj}---\n{}", order("o", "{ site: sh, domain: 'vip.*' }", "")),
        "no domain that matches vip.* has this site",
    );
}

#[test]
fn forcing_everything_down_takes_force() {
    let (bj, sh) = (order("a", "{ site: bj }", ""), order("b", "{ site: sh }", ""));
    world(&bj);
    error(&format!("{bj}{sh}"), "Override b: state: forces down every site of gw.g.example.com (bj, sh)");
    error(&order("all", "{ domain: 'gw.*' }", ""), "or force: true (--force)");
    world(&format!("{bj}{}", order("b", "{ site: sh }", "force: true\n")));
    // What has ended forces nothing down any more.
    world(&format!("{bj}{}", order("b", "{ site: sh }", "expires: 2020-01-01T00:00:00Z\n")));
    error(&format!("{bj}{}", order("b", "{ site: sh }", "expires: 2100-01-01T00:00:00Z\n")), "forces down");
    // A service that lives at one site only keeps that site up once clients are sent to its UUID domain.
    let service =
        "kind: Service\nname: s\ncluster: main\nsites: [bj]\nuuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\n";
    world(&format!("{service}---\n{bj}"));
    error(&format!("{service}route_by: uuid\n---\n{bj}"), "forces down every site of 6f0c1f6e");
}

#[test]
fn implied_domains_follow_the_gateway_domain() {
    let service = "kind: Service\nname: s\ncluster: main\nsites: [bj]\nuuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\n---\n";
    let plain = world(service).domains();
    assert_eq!(plain[0].origin, Origin::Gateway("main".parse().unwrap()));
    assert_eq!((plain[0].domain.check.as_ref(), plain[0].domain.ttl.as_secs()), (None, 20));

    let declared = "kind: Check\nname: web\ntype: http\n---\n\
                    kind: Domain\nname: gw.g.example.com\ncluster: main\ncheck: web\nttl: 7s\nmin_up: 2\n\
                    policy: { type: failover, order: [sh, bj] }\n";
    let world = world(&format!("{service}{declared}"));
    let domains = world.domains();
    assert_eq!(domains.len(), 2);
    let uuid = &domains[1];
    assert_eq!(uuid.origin, Origin::Uuid("s".parse().unwrap()));
    assert_eq!(uuid.domain.name.as_str(), "6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.g.example.com");
    assert_eq!(uuid.domain.policy, Policy::Failover { order: vec!["bj".parse().unwrap()] });
    assert_eq!((uuid.domain.ttl.as_secs(), uuid.domain.min_up), (7, 1));
    assert_eq!(uuid.domain.check.as_ref().map(Name::as_str), Some("web"));
    assert_eq!(world.sources().domains.len(), 2);
}

#[test]
fn a_long_service_name_still_has_its_implied_route() {
    let names = [format!("{}a", "x".repeat(62)), format!("{}b", "x".repeat(62))];
    let routes = names.map(|name| implied_route(&name.parse().unwrap()));
    assert_ne!(routes[0], routes[1]);
    assert!(routes.iter().all(|route| route.as_str().starts_with(IMPLIED)));
    assert_eq!(
        implied_route(&format!("{}.{}", "x".repeat(43), "y".repeat(9)).parse().unwrap()).as_str().len(),
        61
    );
    let dotted: Name = format!("{}.{}", "x".repeat(43), "y".repeat(19)).parse().unwrap();
    assert!(implied_route(&dotted).as_str().starts_with(IMPLIED));
}

#[test]
fn ten_thousand_services_and_domains_are_quick() {
    let mut text = String::new();
    for n in 0..10_000 {
        let _ = write!(
            text,
            "kind: Service\nname: s{n}\nuuid: 6f0c1f6e-5c1e-4c53-9a52-{n:012}\ncluster: main\nhosts: [s{n}.g.example.com]\n---\n\
             kind: Domain\nname: d{n}.g.example.com\ncluster: main\n---\n"
        );
    }
    text.push_str(&order("o", "{ site: bj }", ""));
    let documents = parse("w.yaml", &format!("{BASE}{text}")).unwrap();
    let started = std::time::Instant::now();
    let world = World::check(documents, NOW).unwrap();
    assert_eq!((world.domains().len(), world.routes().len()), (20_001, 10_000));
    let took = started.elapsed();
    // Unoptimised and on a busy machine; optimised it is a tenth of this.
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    println!("checked in {took:?}");
}
