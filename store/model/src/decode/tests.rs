use super::*;
use crate::{Check, PathMatch, Policy, Probe, Quorum, RecordData, Service, Zone};

/// The outside contract's example, with the elided secret put in.
fn example() -> String {
    let secret = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    include_str!("example.yaml").replace('…', secret)
}

fn errors(text: &str) -> Vec<String> {
    parse("w.yaml", text).unwrap_err().iter().map(InputError::to_string).collect()
}

/// The one error of a text.
fn error(text: &str) -> String {
    let found = errors(text);
    assert_eq!(found.len(), 1, "{text}: {found:#?}");
    found.into_iter().next().unwrap()
}

macro_rules! read {
    ($kind:ident, $text:expr) => {
        match parse("w.yaml", $text).unwrap().remove(0).value {
            Document::$kind(it) => it,
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn the_example_is_read_letter_by_letter() {
    let documents: Vec<Document> =
        parse("world.yaml", &example()).unwrap().into_iter().map(|it| it.value).collect();
    let kinds: Vec<Kind> = documents.iter().map(|it| it.id().kind).collect();
    let mut every = Kind::ALL.to_vec();
    every.sort_by_key(|kind| kinds.iter().position(|it| it == kind));
    assert_eq!(kinds, every, "one of each kind");

    let Document::Zone(zone) = &documents[2] else { panic!() };
    assert_eq!(zone.nameservers[0].name.as_str(), "ns1.gslb.example.com");
    assert_eq!(zone.records[0].name.as_str(), "www.gslb.example.com");
    assert_eq!(zone.records[0].data, RecordData::Cname("gw.gslb.example.com".parse().unwrap()));
    let Document::Check(check) = &documents[3] else { panic!() };
    assert_eq!(check.timeout.to_string(), "800ms");
    assert_eq!(check.quorum, Quorum::Majority);
    let Document::Override(it) = &documents[8] else { panic!() };
    assert_eq!(it.expires.unwrap().to_string(), "2026-12-01T04:00:00Z");
    let Document::Vantage(it) = &documents[7] else { panic!() };
    assert_eq!(it.site, None);
}

#[test]
fn the_values_shown_are_the_defaults() {
    let documents = parse("world.yaml", &example()).unwrap();
    let shown = |kind: Kind| &documents.iter().find(|it| it.value.id().kind == kind).unwrap().value;
    let check = "kind: Check\nname: web\ntype: http\nhost: gw.gslb.example.com\n";
    assert_eq!(&parse("w", check).unwrap()[0].value, shown(Kind::Check));
    let domain = "kind: Domain\nname: gw.gslb.example.com\ncluster: main\ncheck: web\n";
    assert_eq!(&parse("w", domain).unwrap()[0].value, shown(Kind::Domain));
    let service = "kind: Service\nname: orders\nuuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\ncluster: main\n\
                   hosts: [orders.gslb.example.com, orders.example.org]\nsites: [bj, sh]\n";
    assert_eq!(&parse("w", service).unwrap()[0].value, shown(Kind::Service));
    let vantage = "kind: Vantage\nname: gz-telecom\n";
    assert_eq!(&parse("w", vantage).unwrap()[0].value, shown(Kind::Vantage));
    let route = "kind: Route\nname: r\nhosts: [a.b]\nto: [{ service: s }]\n";
    let route = read!(Route, route);
    assert_eq!((route.paths, route.to[0].weight.0), (vec![PathMatch::Prefix("/".to_owned())], 100));
    let zone = read!(Zone, "kind: Zone\nname: x.org\nnameservers: [{name: ns.y.org.}]\n");
    assert_eq!((zone.ttl.as_secs(), zone.negative_ttl.as_secs()), (3_600, 60));
}

#[test]
fn a_zone_may_be_closed_but_not_to_everyone() {
    let with = |networks: &str| {
        let text = "kind: Zone\nname: x.org\nnameservers: [{name: ns.y.org.}]\nallow_query: ";
        parse("z", &format!("{text}{networks}\n"))
    };
    let documents = with("[10.0.0.0/8, '2001:db8::/32']").unwrap();
    let Document::Zone(zone) = &documents[0].value else { panic!() };
    assert_eq!(zone.allow_query.len(), 2);
    for (networks, needle) in [("[]", "empty"), ("[10.0.0.1/8]", "10.0.0.0/8"), ("10.0.0.0/8", "a list")] {
        let errors: String = with(networks).unwrap_err().iter().map(ToString::to_string).collect();
        assert!(errors.contains("allow_query") && errors.contains(needle), "{errors}");
    }
}

#[test]
fn defaults_follow_what_was_written() {
    let check: Check = read!(Check, "kind: Check\nname: c\ntype: tcp\nport: 1\ninterval: 500ms\n");
    assert_eq!((check.probe, check.timeout.to_string()), (Probe::tcp(), "500ms".to_owned()));
    let domain = read!(Domain, "kind: Domain\nname: a.b\ncluster: c\nttl: 1s\n");
    assert_eq!((domain.min_ttl.as_secs(), &domain.policy), (1, &Policy::Nearest {}));
    let service: Service = read!(Service, "kind: Service\nname: s\ncluster: c\n");
    assert_eq!((service.consul.service.as_str(), service.uuid), ("s", None));
}

#[test]
fn every_error_of_a_file_at_once() {
    let text = "kind: Domain\nname: gw.example.com\ncluster: main\nttl: 0s\npollicy: { type: nearest }\n\
                ---\nkind: Check\nname: web\ntype: http\nport: 0\ninterval: 1s\ntimeout: 2s\nfall: 0\n\
                ---\nkind: Sevice\nname: x\n---\nkind: Site\nnetworks: [10.0.0.0/8, ten]\n";
    assert_eq!(
        errors(text),
        [
            "w.yaml:4: Domain gw.example.com: ttl: \"0s\" is not a TTL of whole seconds, from 1s up to 24855d",
            "w.yaml:5: Domain gw.example.com: pollicy: unknown key; did you mean \"policy\"?; expected one of the \
             keys kind, name, cluster, ttl, min_ttl, sites, policy, rules, check, answers, min_up, when_none, recovery, verdict, budget or https",
            "w.yaml:10: Check web: port: \"0\" is not a whole number from 1 to 65535",
            "w.yaml:12: Check web: timeout: an interval (1s) shorter than its timeout (2s); expected at most the \
             interval, 1s",
            "w.yaml:13: Check web: fall: \"0\" is not a whole number from 1 to 100",
            "w.yaml:15: Sevice x: kind: \"Sevice\" is not a kind; did you mean \"Service\"?; expected one of Site, \
             Zone, Cluster, Check, Domain, Service, Route, Vantage, Override or Token",
            "w.yaml:18: Site: name: is missing; expected a name of characters a-z, 0-9, '-', '_' or '.'",
            "w.yaml:19: Site: networks[1]: \"ten\" is not a network such as 10.1.0.0/16 or 2001:db8::/48",
        ]
    );
}

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let found = error("kind: Zone\nname: a.b\nnameservers: [{name: n, a: [1.2.3.4]}]\nfile: z\n");
    assert!(found.contains("file: a zone file is read where the document is; expected `records`"), "{found}");
}

#[test]
fn errors_of_steering_are_told_apart() {
    let domain = |field: &str| format!("kind: Domain\nname: a.b\ncluster: c\n{field}\n");
    let hours = "time_zone: UTC, from: \"02:00\", to: \"05:00\"";
    for (field, words) in [
        (
            "policy: { type: nearst }".to_owned(),
            "one of nearest, failover, weighted or blue_green; did you mean \"nearest\"?",
        ),
        ("policy: { type: weighted, weights: { a: 0 } }".to_owned(), "no site has a weight above 0"),
        (
            "policy: { type: weighted, weights: { a: 70000 } }".to_owned(),
            "weights.a: \"70000\" is not a whole number",
        ),
        (
            "policy: { type: blue_green, active: red, blue: [a], green: [b] }".to_owned(),
            "one of blue or green",
        ),
        ("policy: { type: blue_green, active: blue, blue: [a] }".to_owned(), "policy.green: is missing"),
        ("rules: [{ policy: { type: nearest } }]".to_owned(), "rules[0]: has no condition"),
        (
            "rules: [{ countries: [CN, NO, China], policy: { type: nearest } }]".to_owned(),
            "countries[2]: \"China\" is not a country of two letters as in ISO 3166-1, such as CN",
        ),
        (
            "rules: [{ networks: [10.0.0.1/8], policy: { type: nearest } }]".to_owned(),
            "the network is 10.0.0.0/8",
        ),
        (
            format!("recovery: {{ mode: window, window: {{ {} }} }}", hours.replace("UTC", "Asia/Shanghia")),
            "did you mean \"Asia/Shanghai\"?",
        ),
        (
            format!("recovery: {{ mode: window, window: {{ {} }} }}", hours.replace("05:00", "02:00")),
            "ends when it begins",
        ),
        (
            format!("recovery: {{ mode: window, window: {{ {} }} }}", hours.replace("05:00", "25:00")),
            "a time of day from",
        ),
        (
            format!("recovery: {{ mode: manual, window: {{ {hours} }} }}"),
            "recovery.window: means nothing in this mode",
        ),
        ("recovery: { mode: window }".to_owned(), "recovery.window: is missing"),
        ("verdict: local".to_owned(), "one of global or regional"),
    ] {
        let found = error(&domain(&field));
        assert!(found.contains(words), "{field}: {found}");
    }
    let cluster = "kind: Cluster\nname: m\nzone: z\ngateway_domain: g.z\ngateways: {a: {a: [192.0.2.1]}}\n";
    for (field, words) in [
        ("keep: [{ at_least: 2, of: [a] }]", "2 of 1 sites can never stay on"),
        ("guard: { percent: 0, window: 30s }", "guard.percent: \"0\" is not a whole number from 1 to 99"),
        ("capacity: { a: 0 }", "capacity.a: \"0\""),
    ] {
        let found = error(&format!("{cluster}{field}\n"));
        assert!(found.contains(words), "{field}: {found}");
    }
    let order = "kind: Override\nname: o\ntarget: { site: a }\nowner: me\nreason: why\n";
    let found = error(&format!("{order}state: down\nover: 10m\n"));
    assert!(found.contains("over: means nothing in this state"), "{found}");
}

#[test]
fn every_error_about_the_control_of_a_site_is_reported_at_once() {
    let site = |fields: &str| format!("kind: Site\nname: bj\n{fields}\n");
    let nine: Vec<String> = (1..=9).map(|n| format!("https://10.0.0.{n}")).collect();
    for (fields, all) in [
        ("control: {}", &["control.urls: is missing", "control.token_file: is missing"][..]),
        (
            "control: { urls: [], token_file: tokens/ }",
            &["control.urls: the list is empty", "control.token_file: \"tokens/\" is not the path of a file"],
        ),
        (
            "control: { urls: [http://10.1.0.1:80, 'https://10.1.0.1/v1', https://a.b, 'HTTPS://A.B:443/'], ca_file: / }",
            &[
                "control.urls[0]: \"http://10.1.0.1:80\" is not a URL that begins with https://; http:// is only",
                "control.urls[1]: \"https://10.1.0.1/v1\" is not a URL such as https://10.1.0.11:8580, without a path",
                "control.urls[3]: \"HTTPS://A.B:443/\" is a duplicate value",
                "control.ca_file: \"/\" is not the path",
                "control.token_file: is missing",
            ],
        ),
        (
            &format!("control: {{ urls: [{}], token_file: /t }}", nine.join(", ")),
            &["control.urls: 9 URLs; expected at most 8"],
        ),
        (
            "reach: { sh: directly, Gz: none }",
            &[
                "reach.sh: \"directly\" is not one of direct, by_gateway or none; did you mean \"direct\"?",
                "reach.Gz: \"Gz\" is not a name",
            ],
        ),
    ] {
        let found = parse("w.yaml", &site(fields)).unwrap_err();
        assert_eq!(found.len(), all.len(), "{fields}: {found:#?}");
        for (error, words) in found.iter().zip(all) {
            assert!(error.to_string().contains(words), "{fields}: {error}");
        }
    }
    let token = |role: &str| {
        format!(
            "kind: Token\nname: t\nrole: {role}\nscope: {{ site: bj }}\nsecret_sha256: {}\n",
            "0".repeat(64)
        )
    };
    parse("w.yaml", &token("control")).unwrap();
    for role in ["operator", "node", "reader"] {
        let found = error(&token(role));
        assert!(found.contains("scope.site: limits nothing in this role"), "{found}");
    }
}

#[test]
fn small_errors_are_told_apart() {
    for (text, words) in [
        ("[1]\n", "a list is not a map"),
        ("name: x\n", "kind: is missing; expected one of Site"),
        ("kind: site\nname: x\n", "did you mean \"Site\"?"),
        ("kind: Site\nname: x\nlocation: { lat: 91, lon: 0 }\n", "\"91\" is not a number from -90 to 90"),
        ("kind: Cluster\nname: m\nzone: z\ngateway_domain: g.z\ngateways: {}\n", "gateways: no site"),
        (
            "kind: Cluster\nname: m\nzone: z\ngateway_domain: g.z\ngateways: {a: {a: []}}\n",
            "gateways.a: no address",
        ),
        (
            "kind: Cluster\nname: m\nzone: z\ngateway_domain: g.z\ngateways: {a: {a: [300.0.0.1]}}\n",
            "an IPv4 address",
        ),
        (
            "kind: Cluster\nname: m\nzone: z\ngateway_domain: g.z\ngateways: {A: {a: [1.2.3.4]}}\n",
            "\"A\" is not a name",
        ),
        ("kind: Domain\nname: a.b\ncluster: c\nttl: 5s\nmin_ttl: 6s\n", "6s is more than the ttl"),
        ("kind: Domain\nname: a.b\ncluster: c\nanswers: 9\n", "from 1 to 8"),
        ("kind: Domain\nname: a.b\ncluster: c\nsites: []\n", "the list is empty"),
        ("kind: Domain\nname: a.b\ncluster: c\npolicy: { type: failover }\n", "policy.order: is missing"),
        ("kind: Domain\nname: a.b\ncluster: c\nwhen_none: backup\n", "{ backup: { a:"),
        ("kind: Service\nname: s\ncluster: c\nuuid: 1\n", "a UUID such as"),
        (
            "kind: Service\nname: s\ncluster: c\nhosts: [a.b, A.b.]\n",
            "hosts[1]: \"A.b.\" is a duplicate value",
        ),
        ("kind: Route\nname: r\nhosts: []\nto: [{service: s}]\n", "hosts: the list is empty"),
        ("kind: Route\nname: r\nhosts: [a.b]\nto: []\n", "no service gets a request"),
        ("kind: Route\nname: r\nhosts: [a.b]\nto: [{service: s, weight: 0}]\n", "no service gets a request"),
        ("kind: Route\nname: r\nhosts: [a.b]\nto: [{service: s}, {service: s}]\n", "is listed twice"),
        (
            "kind: Route\nname: r\nhosts: [a.b]\npaths: [{prefix: /a//}]\nto: [{service: s}]\n",
            "a path such as / or /api/v1: whole segments",
        ),
        ("kind: Check\nname: c\ntype: tcp\nport: 1\npath: /\n", "means nothing to a check of type tcp"),
        ("kind: Check\nname: c\ntype: tcp\n", "port: is missing"),
        ("kind: Check\nname: c\ntype: http\nquorum: most\n", "majority, any, all or a number"),
        ("kind: Override\nname: o\ntarget: {}\nstate: down\nowner: o\nreason: r\n", "target: names nothing"),
        (
            "kind: Override\nname: o\ntarget: {site: s}\nstate: down\nowner: o\nreason: r\nexpires: soon\n",
            "RFC 3339",
        ),
        ("kind: Token\nname: t\nrole: vantage\nsecret_sha256: hunter2\n", "has no scope"),
    ] {
        let found = errors(text).join("\n");
        assert!(found.contains(words), "{text}: {found}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_repeated() {
    let found = error("kind: Token\nname: t\nrole: reader\nsecret_sha256: hunter2\n");
    assert!(found.contains("64 hexadecimal digits") && !found.contains("hunter2"), "{found}");
}

fn zone(records: &str) -> Result<Zone, Vec<InputError>> {
    let text = format!(
        "kind: Zone\nname: example.com\nnameservers: [{{ name: ns1, a: [192.0.2.1] }}]\nrecords:\n{records}"
    );
    parse("z", &text).map(|mut documents| match documents.remove(0).value {
        Document::Zone(zone) => zone,
        other => panic!("{other:?}"),
    })
}

#[test]
fn records_in_presentation_form() {
    let name = |text: &str| text.parse::<DomainName>().unwrap();
    for (kind, data, expected) in [
        ("A", "192.0.2.7", RecordData::A([192, 0, 2, 7].into())),
        ("CNAME", "gw", RecordData::Cname(name("gw.example.com"))),
        ("CNAME", "www.example.org.", RecordData::Cname(name("www.example.org"))),
        ("CNAME", "@", RecordData::Cname(name("example.com"))),
        ("CNAME", "*.w", RecordData::Cname(DomainName::root().resolve("*.w.example.com.").unwrap())),
        ("CNAME", ".", RecordData::Cname(DomainName::root())),
        ("MX", "10 mail", RecordData::Mx { preference: 10, exchange: name("mail.example.com") }),
        ("TXT", "bare", RecordData::Txt(vec!["bare".to_owned()])),
        (
            "TXT",
            "\"v=spf1 -all\" \"b\\\"\\065\"",
            RecordData::Txt(vec!["v=spf1 -all".to_owned(), "b\"A".to_owned()]),
        ),
        (
            "SRV",
            "0 5 5060 sip",
            RecordData::Srv { priority: 0, weight: 5, port: 5060, target: name("sip.example.com") },
        ),
        ("DNAME", "x.org.", RecordData::Dname(name("x.org"))),
        ("ALIAS", "x.org.", RecordData::Alias(name("x.org"))),
        ("TLSA", "3 1 1 0A0b", RecordData::Other { record_type: 52, data: vec![3, 1, 1, 10, 11] }),
        ("TYPE65280", "\\# 2 0a0b", RecordData::Other { record_type: 65_280, data: vec![10, 11] }),
        ("MX", "0 .", RecordData::Other { record_type: 15, data: vec![0, 0, 0] }),
        ("TXT", "v=DKIM1;p=(x)", RecordData::Txt(vec!["v=DKIM1;p=(x)".to_owned()])),
        (
            "CAA",
            "0 issue \"ca.example.net\"",
            RecordData::Caa { flags: 0, tag: "issue".to_owned(), value: "ca.example.net".to_owned() },
        ),
    ] {
        let zone = zone(&format!("  - {{ name: x, type: {kind}, data: '{data}' }}\n")).unwrap();
        assert_eq!(zone.records[0].data, expected);
    }
}

#[test]
fn records_that_are_wrong_say_the_form() {
    for (record, words) in [
        ("{ name: x, type: A, data: 300.0.0.1 }", "is not an IPv4 address"),
        ("{ name: x, type: CNAME, data: a b }", "one word too many; expected one name"),
        ("{ name: x, type: TXT, data: v=spf1 -all }", "each in double quotes"),
        ("{ name: x, type: TXT, data: '\"open' }", "each in double quotes"),
        ("{ name: x, type: MX, data: mail }", "a preference and a name"),
        ("{ name: x, type: SRV, data: 1 2 99999 t }", "priority, weight, port and a name"),
        ("{ name: x, type: TSLA, data: x }", "did you mean \"TLSA\"?; expected a record type"),
        ("{ name: x, type: TLSA, data: 3 1 1 0x }", "\"0x\" is not hexadecimal digits"),
        ("{ name: x, type: SOA, data: a b 1 2 3 4 5 }", "record is only at the zone's apex"),
        ("{ name: x, type: HTTPS, data: 1 . port=x }", "\"port=x\" is not port=8443"),
        ("{ name: x.org., type: A, data: 1.2.3.4 }", "lies outside the zone example.com"),
        ("{ name: x.example.com, type: A, data: 1.2.3.4 }", "would mean x.example.com.example.com"),
        ("{ name: x, type: CNAME, data: gw.example.com }", "would mean gw.example.com.example.com"),
    ] {
        let found = zone(&format!("  - {record}\n")).unwrap_err();
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].to_string().contains(words), "{}", found[0]);
        assert_eq!(found[0].line, Some(5));
    }
}

#[test]
fn glue_is_only_for_name_servers_in_the_zone() {
    let with = |servers: &str| error(&format!("kind: Zone\nname: a.b\nnameservers: {servers}\n"));
    assert!(with("[{ name: ns1.c., a: [1.2.3.4] }]").contains("lies outside the zone"));
    assert!(with("[]").contains("the list is empty"));
    let soa = "[{ name: '*.ns', a: [1.2.3.4] }]\nsoa: { serial: 7 }\nallow_query: [10.0.0.0/8]";
    assert!(with(soa).contains("the name of a host"), "no other field is called unknown");
    assert!(with("[{ name: n.c. }, { name: n.c. }]").contains("is listed twice"));
}
