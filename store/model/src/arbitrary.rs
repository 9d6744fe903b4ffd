//! Any document that decoding could have accepted, for property tests.
#![allow(clippy::unwrap_used)] // Only tests run it.

mod traffic;

use std::{collections::BTreeSet, time::Duration};

use proptest::{collection, option, prelude::*, sample};

use super::*;

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9][a-z0-9_-]{0,6}(\\.[a-z0-9]{1,3})?".prop_map(|text| text.parse().unwrap())
}

fn domain_name() -> impl Strategy<Value = DomainName> {
    "[a-z0-9_-]{1,4}(\\.[a-z0-9_-]{1,3}){0,3}".prop_map(|text| text.parse().unwrap())
}

fn distinct<T: Ord + std::fmt::Debug>(
    item: impl Strategy<Value = T>,
    least: usize,
) -> impl Strategy<Value = Vec<T>> {
    collection::btree_set(item, least..4).prop_map(|set: BTreeSet<T>| set.into_iter().collect())
}

fn line() -> impl Strategy<Value = String> {
    "[^\\p{Cc}]{1,20}"
}

fn span() -> impl Strategy<Value = Span> {
    (10u64..86_400_000).prop_map(|ms| Span(Duration::from_millis(ms)))
}

fn ttl() -> impl Strategy<Value = Ttl> {
    (1..=i32::MAX.unsigned_abs()).prop_map(|secs| Ttl::from_secs(secs).unwrap())
}

fn addresses(least: usize) -> impl Strategy<Value = Addresses> {
    (distinct(any::<std::net::Ipv4Addr>(), least), distinct(any::<std::net::Ipv6Addr>(), 0))
        .prop_map(|(a, aaaa)| Addresses { a, aaaa })
}

fn net() -> impl Strategy<Value = ipnet::IpNet> {
    (any::<std::net::IpAddr>(), 0u8..=128).prop_map(|(ip, length)| {
        // No document has a network of IPv4-mapped addresses.
        let ip = ip.to_canonical();
        let most = if ip.is_ipv4() { 32 } else { 128 };
        ipnet::IpNet::new(ip, length.min(most)).unwrap().trunc()
    })
}

fn site() -> impl Strategy<Value = Site> {
    let location = (-90.0..=90.0, -180.0..=180.0).prop_map(|(lat, lon)| Location { lat, lon });
    let reach = collection::btree_map(name(), sample::select(Reach::ALL.to_vec()), 0..3);
    (name(), option::of(location), distinct(net(), 0), option::of(name()), option::of(site_control()), reach)
        .prop_map(|(name, location, networks, region, control, reach)| Site {
            name,
            location,
            networks,
            region,
            control,
            reach,
        })
}

fn site_control() -> impl Strategy<Value = SiteControl> {
    let url = prop_oneof![
        any::<std::net::SocketAddrV4>().prop_map(|it| format!("https://{}:{}", it.ip(), it.port().max(1))),
        (any::<std::net::Ipv6Addr>(), 1..u16::MAX).prop_map(|(ip, port)| format!("https://[{ip}]:{port}")),
        "[a-z]{1,8}\\.[a-z]{2,5}".prop_map(|host| format!("https://{host}")),
        (1..u16::MAX).prop_map(|port| format!("http://127.0.0.1:{port}")),
    ];
    let url = url.prop_map(|text| text.parse::<ControlUrl>().unwrap());
    let path = || "/?([^\\p{Cc}/]{1,9}/)?[^\\p{Cc}/]{1,9}".prop_map(std::path::PathBuf::from);
    (distinct(url, 1), option::of(path()), path()).prop_map(|(urls, ca_file, token_file)| SiteControl {
        urls,
        ca_file,
        token_file,
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let gateways = collection::btree_map(name(), addresses(1), 1..3);
    let capacity = collection::btree_map(name(), 1..=u32::MAX, 0..3);
    let keep = distinct(name(), 1)
        .prop_flat_map(|of| (1..=u8::try_from(of.len()).unwrap(), Just(of)))
        .prop_map(|(at_least, of)| Keep { at_least, of });
    let guard = (1..=99u8, 1_000..86_400_000u64)
        .prop_map(|(percent, ms)| BlastRadius { percent, window: Span(Duration::from_millis(ms)) });
    let safety = (capacity, collection::vec(keep, 0..3), option::of(guard));
    (name(), domain_name(), domain_name(), gateways, safety).prop_map(
        |(name, zone, gateway_domain, gateways, (capacity, keep, guard))| Cluster {
            name,
            zone,
            gateway_domain,
            gateways,
            capacity,
            keep,
            guard,
        },
    )
}

/// The TTL of a record, which may be zero.
fn record_ttl() -> BoxedStrategy<Ttl> {
    prop_oneof![3 => ttl(), 1 => Just(Ttl::ZERO)].boxed()
}

/// A time of a SOA, which may be any number.
fn soa_time() -> BoxedStrategy<Ttl> {
    prop_oneof![3 => ttl(), 1 => Just(Ttl::ZERO), 1 => any::<u32>().prop_map(Ttl::of_record)].boxed()
}

/// Names that are not host-like.
fn odd_labels(apex: &DomainName) -> impl Strategy<Value = DomainName> + use<> {
    let apex = apex.clone();
    collection::vec(collection::vec(any::<u8>(), 1..6), 1..3).prop_map(move |labels| {
        let octets = |name: &DomainName| name.octets().map(|it| it.into_owned()).collect::<Vec<_>>();
        DomainName::from_labels(labels.into_iter().chain(octets(&apex))).unwrap()
    })
}

fn record_data(apex: &DomainName) -> impl Strategy<Value = RecordData> + use<> {
    let apex = apex.clone();
    let target = (domain_name(), any::<bool>())
        .prop_map(move |(name, below)| if below { apex.resolve(name.as_str()).unwrap() } else { name })
        .boxed();
    let target_or_root = prop_oneof![9 => target.clone(), 1 => Just(DomainName::root())].boxed();
    let tag = sample::select(vec!["issue", "issuewild", "iodef"]).prop_map(str::to_owned);
    // What the model's own types could hold would come back as one of them.
    let others = (
        prop_oneof![300..=u16::MAX, sample::select(vec![13, 29, 52, 64, 65, 256])],
        collection::vec(any::<u8>(), 0..40),
    );
    prop_oneof![
        others.prop_map(|(record_type, data)| {
            // Octets that are not of their type are refused.
            let record_type = if rdata::layout::fits(record_type, &data) { record_type } else { 65_280 };
            RecordData::Other { record_type, data }
        }),
        any::<std::net::Ipv4Addr>().prop_map(RecordData::A),
        any::<std::net::Ipv6Addr>().prop_map(RecordData::Aaaa),
        target_or_root.clone().prop_map(RecordData::Cname),
        target_or_root.clone().prop_map(RecordData::Ns),
        target.clone().prop_map(RecordData::Ptr),
        collection::vec("[^\\p{Cc}]{0,30}|[\\x00-\\x7f]{0,9}", 1..3).prop_map(RecordData::Txt),
        (any::<u16>(), target.clone())
            .prop_map(|(preference, exchange)| RecordData::Mx { preference, exchange }),
        target_or_root.prop_map(RecordData::Dname),
        target.clone().prop_map(RecordData::Alias),
        (any::<u16>(), any::<u16>(), any::<u16>(), target)
            .prop_map(|(priority, weight, port, target)| RecordData::Srv { priority, weight, port, target }),
        (any::<u8>(), tag, "[!-~]{0,20}").prop_map(|(flags, tag, value)| RecordData::Caa {
            flags,
            tag,
            value
        }),
    ]
}

fn start_of_authority(apex: &DomainName) -> impl Strategy<Value = StartOfAuthority> + use<> {
    let apex = apex.clone();
    let rname = prop_oneof!["[a-z]{1,9}", r"[a-z]{1,5}\\\.[a-z]{1,5}"]
        .prop_map(move |relative| apex.resolve(&relative).unwrap());
    let rname = prop_oneof![9 => rname, 1 => Just(DomainName::root())].boxed();
    let mname = prop_oneof![9 => domain_name(), 1 => Just(DomainName::root())].boxed();
    let times = (soa_time(), soa_time(), soa_time());
    (mname, rname, option::of(any::<u32>()), times, option::of(record_ttl())).prop_map(
        |(mname, rname, serial, (refresh, retry, expire), ttl)| StartOfAuthority {
            mname,
            rname,
            serial,
            refresh,
            retry,
            expire,
            ttl,
        },
    )
}

/// A zone by itself; its records may contradict one another.
pub fn zone() -> impl Strategy<Value = Zone> {
    domain_name().prop_flat_map(|apex| {
        let below = apex.clone();
        let owner = prop_oneof![
            Just(apex.clone()),
            domain_name().prop_map(move |name| below.resolve(name.as_str()).unwrap()),
            odd_labels(&apex),
        ];
        let record = (owner, option::of(record_ttl()), record_data(&apex).boxed())
            .prop_map(|(name, ttl, data)| StaticRecord { name, ttl, data })
            .boxed();
        let nameserver =
            Nameserver { name: apex.resolve("ns1").unwrap(), a: vec![[192, 0, 2, 1].into()], aaaa: vec![] };
        let outside = Nameserver { name: "ns.elsewhere".parse().unwrap(), a: vec![], aaaa: vec![] };
        let nameservers = sample::subsequence(vec![nameserver, outside], 1..=2);
        let soa = option::of(start_of_authority(&apex)).boxed();
        let allow_query = distinct(net(), 0);
        (Just(apex), nameservers, soa, record_ttl(), soa_time(), collection::vec(record, 0..4), allow_query)
            .prop_map(|(name, nameservers, soa, ttl, negative_ttl, records, allow_query)| Zone {
                name,
                nameservers,
                soa,
                ttl,
                negative_ttl,
                records,
                allow_query,
            })
    })
}

fn terms() -> impl Strategy<Value = Tls> {
    (option::of("[a-z]{1,4}\\.[a-z]{1,3}"), any::<bool>(), option::of(1_000u64..86_400_000)).prop_map(
        |(name, verify, warn)| Tls {
            server_name: name.map(|name| name.parse().unwrap()),
            verify,
            warn_before: warn.map(|ms| Span(Duration::from_millis(ms))),
        },
    )
}

fn http() -> impl Strategy<Value = HttpProbe> {
    let status =
        (100u16..=599, 100u16..=599).prop_map(|(x, y)| StatusRange::new(x.min(y), x.max(y)).unwrap());
    let headers = collection::btree_map("x-[a-z0-9]{1,5}", "[!-~]{1,8}", 0..3)
        .prop_map(|map| map.into_iter().map(|(name, value)| Header { name, value }).collect::<Vec<_>>());
    let request = ("/[!\"$-~]{0,9}", option::of("[a-zA-Z0-9.:-]{1,12}"), distinct(status, 1), headers);
    let body = option::of("\\PC{1,9}|[\\x00-\\x7f]{1,9}");
    (request, any::<bool>(), any::<bool>(), body, option::of(terms())).prop_map(
        |((path, host, expect_status, headers), head, two, expect_body, tls)| HttpProbe {
            method: if head { Method::Head } else { Method::Get },
            http_version: if two { HttpVersion::Two } else { HttpVersion::One },
            headers,
            expect_body: expect_body.filter(|_| !head),
            tls,
            ..HttpProbe::get(path, host, expect_status)
        },
    )
}

/// A probe with its port.
fn probe() -> impl Strategy<Value = (Probe, u16)> {
    let words = || option::of("[\\x00-\\x7f]{1,9}").prop_map(|it| it.map(String::into_boxed_str));
    let tcp = (words(), words()).prop_map(|(send, expect)| Probe::Tcp(TcpProbe { send, expect }));
    let rcode = sample::select(DnsProbe::RCODES.map(Rcode::code).to_vec());
    let dns = (domain_name(), 1..=40u16, rcode, option::of(line())).prop_map(
        |(query, record_type, expect_rcode, expect_record)| {
            let expect_record = expect_record.filter(|_| expect_rcode == 0);
            Probe::Dns(Box::new(DnsProbe { query, record_type, expect_rcode, expect_record }))
        },
    );
    let grpc = ("[a-zA-Z.]{0,9}", option::of("[a-z.]{1,9}"), option::of(terms()))
        .prop_map(|(service, host, tls)| Probe::Grpc(Box::new(GrpcProbe { service, host, tls })));
    let with_port = prop_oneof![
        tcp,
        terms().prop_map(|tls| Probe::Tls(Box::new(TlsProbe { tls }))),
        http().prop_map(|it| Probe::Http(Box::new(it))),
        dns,
        grpc,
    ];
    let external = (name(), any::<u16>())
        .prop_map(|(program, port)| (Probe::External(Box::new(ExternalProbe { program })), port));
    prop_oneof![4 => (with_port, 1..=u16::MAX), 1 => external, 1 => Just((Probe::Icmp {}, 0))]
}

fn check() -> impl Strategy<Value = Check> {
    let quorum = prop_oneof![
        Just(Quorum::Majority),
        Just(Quorum::Any),
        Just(Quorum::All),
        (1..=u16::MAX).prop_map(Quorum::Count)
    ];
    let judging = (1..=100u8, 1..=100u8, quorum, span());
    (name(), probe(), (span(), span()), judging).prop_map(
        |(name, (probe, port), (x, y), (fall, rise, quorum, damping))| Check {
            name,
            probe,
            port,
            interval: x.max(y),
            timeout: x.min(y),
            fall,
            rise,
            quorum,
            damping,
        },
    )
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let zone = sample::select(vec!["UTC", "Asia/Shanghai", "America/New_York"]);
    let days = distinct(sample::select(Day::ALL.to_vec()), 1);
    let time = || (0..=TimeOfDay::DAY).prop_map(|minutes| TimeOfDay::from_minutes(minutes).unwrap());
    (zone, days, time(), time())
        .prop_filter("a span", |(_, _, from, to)| from != to)
        .prop_map(|(zone, days, from, to)| Schedule { time_zone: zone.to_owned(), days, from, to })
}

fn policy() -> impl Strategy<Value = Policy> {
    let weights = (collection::btree_map(name(), any::<u16>().prop_map(Weight), 0..3), name(), 1..=u16::MAX);
    let colours = sample::select(vec![Colour::Blue, Colour::Green]);
    prop_oneof![
        Just(Policy::Nearest {}),
        distinct(name(), 1).prop_map(|order| Policy::Failover { order }),
        weights.prop_map(|(mut weights, site, weight)| {
            weights.insert(site, Weight(weight));
            Policy::Weighted { weights }
        }),
        (colours, distinct(name(), 1), distinct(name(), 1)).prop_map(|(active, blue, green)| {
            Policy::BlueGreen(Box::new(BlueGreen { active, blue, green }))
        }),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let country = "[A-Z]{2}".prop_map(|it| it.parse().expect("two letters"));
    (distinct(net(), 0), distinct(country, 0), option::of(schedule()), policy())
        .prop_filter("a condition", |(networks, countries, during, _)| {
            !networks.is_empty() || !countries.is_empty() || during.is_some()
        })
        .prop_map(|(networks, countries, during, policy)| Rule { networks, countries, during, policy })
}

fn recovery() -> impl Strategy<Value = Recovery> {
    let mode = prop_oneof![
        Just(RecoveryMode::Automatic),
        Just(RecoveryMode::Manual),
        schedule().prop_map(|window| RecoveryMode::Window { window: Box::new(window) })
    ];
    (mode, span(), span(), option::of(name())).prop_map(|(mode, hold_down, ramp, gate)| Recovery {
        mode,
        hold_down,
        ramp,
        gate,
    })
}

fn domain() -> impl Strategy<Value = Domain> {
    let when_none = prop_oneof![
        Just(WhenNone::Open),
        Just(WhenNone::Nodata),
        addresses(1).prop_map(|at| WhenNone::Backup(Box::new(at)))
    ];
    let who = (domain_name(), name(), option::of(distinct(name(), 1)), option::of(name()));
    let numbers = (ttl(), ttl(), 1..=8u8, 1..=255u8);
    let protocols = distinct("[a-z][a-z0-9/.]{0,7}", 1);
    let https =
        option::of((protocols, option::of(1..=u16::MAX)).prop_map(|(alpn, port)| Https { alpn, port }));
    let steering = (policy(), collection::vec(rule(), 0..3), recovery());
    let verdict = sample::select(vec![Jurisdiction::Global, Jurisdiction::Regional]);
    let judging = (verdict, option::of(span()));
    (who, steering, numbers, when_none, judging, https).prop_map(
        |((name, cluster, sites, check), steering, (x, y, answers, min_up), when_none, judging, https)| {
            let (policy, rules, recovery) = steering;
            let (verdict, budget) = judging;
            Domain {
                name,
                cluster,
                sites,
                policy,
                rules,
                check,
                ttl: x.max(y),
                min_ttl: x.min(y),
                answers,
                min_up,
                when_none,
                recovery,
                verdict,
                budget,
                https: https.map(Box::new),
            }
        },
    )
}

fn over_ride() -> impl Strategy<Value = Override> {
    let glob = "[*]?[a-z0-9_-]{0,4}[*]?(\\.[a-z0-9-]{1,4}[*]?){1,2}";
    let target = prop_oneof![
        name().prop_map(|site| OverrideTarget { site: Some(site), domain: None }),
        glob.prop_map(|domain| OverrideTarget { site: None, domain: Some(domain) }),
        (name(), glob).prop_map(|(site, domain)| OverrideTarget { site: Some(site), domain: Some(domain) }),
    ];
    let state = prop_oneof![
        Just((OverrideState::Up, None)),
        Just((OverrideState::Down, None)),
        Just((OverrideState::Release, None)),
        option::of((1_000..86_400_000u64).prop_map(|ms| Span(Duration::from_millis(ms))))
            .prop_map(|over| (OverrideState::Drain, over)),
    ];
    let moment =
        || option::of((0..4_102_444_800i64).prop_map(|at| jiff::Timestamp::from_second(at).unwrap()));
    let authority = sample::select(vec![Authority::Human, Authority::Tool]);
    let when = (moment(), moment());
    (name(), target, state, line(), line(), when, authority, any::<bool>()).prop_map(
        |(name, target, (state, over), owner, reason, (expires, since), authority, force)| Override {
            name,
            target,
            state,
            owner,
            reason,
            expires,
            since,
            over,
            authority,
            force,
        },
    )
}

fn token() -> impl Strategy<Value = Token> {
    let plain =
        sample::select(vec![Role::Automation, Role::Node, Role::Control, Role::Reader, Role::Registrar]);
    let bearers = distinct(prop_oneof![name().prop_map(Bearer::Node), name().prop_map(Bearer::Vantage)], 0);
    let grants = prop_oneof![
        name().prop_map(|vantage| (Role::Vantage, Scope { vantage: Some(vantage), ..Scope::default() })),
        name().prop_map(|site| (Role::Control, Scope { site: Some(site), ..Scope::default() })),
        distinct(line(), 1)
            .prop_map(|services| (Role::Registrar, Scope { services: Some(services), ..Scope::default() })),
        plain.prop_map(|role| (role, Scope::default())),
    ];
    let grants = prop_oneof![
        grants.prop_map(|(role, scope)| (role, scope, Vec::new())),
        bearers.prop_map(|waits_for| (Role::Operator, Scope::default(), waits_for)),
    ];
    (name(), grants, "[0-9a-f]{64}").prop_map(|(name, (role, scope, waits_for), secret_sha256)| Token {
        name,
        role,
        scope,
        secret_sha256,
        waits_for,
    })
}

/// A document of any kind.
pub fn document() -> impl Strategy<Value = Document> {
    let vantage = (name(), option::of(name()), option::of(name())).prop_map(|(name, site, region)| Vantage {
        name,
        site,
        region,
    });
    prop_oneof![
        site().prop_map(Document::Site),
        cluster().prop_map(Document::Cluster),
        zone().prop_map(Document::Zone),
        check().prop_map(Document::Check),
        domain().prop_map(|it| Document::Domain(it.into())),
        traffic::service().prop_map(Document::Service),
        traffic::route().prop_map(Document::Route),
        vantage.prop_map(Document::Vantage),
        over_ride().prop_map(Document::Override),
        token().prop_map(Document::Token),
    ]
}
