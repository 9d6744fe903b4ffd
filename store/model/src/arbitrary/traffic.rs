//! Services and routes. Strategies are boxed, because as values they would not fit the stack of a test.

use super::*;

/// A host, which may be a wildcard.
fn host() -> impl Strategy<Value = DomainName> {
    (domain_name(), prop::bool::weighted(0.2)).prop_map(|(name, wildcard)| match wildcard {
        true => format!("*.{name}").parse().unwrap(),
        false => name,
    })
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    "[Xx]-[A-Za-z0-9]{1,5}".prop_map(|text| text.parse().unwrap())
}

fn cookie_name() -> impl Strategy<Value = CookieName> {
    "[A-Za-z0-9_]{1,6}".prop_map(|text| text.parse().unwrap())
}

fn visible() -> impl Strategy<Value = String> {
    "[!-~]{1,8}"
}

fn expression() -> impl Strategy<Value = RegularExpression> {
    let text = prop_oneof![
        "/[a-z]{1,4}(\\.[*+?])?",
        Just("(?i)[a-z]+\\d{2,3}".to_owned()),
        Just("^/v(?<n>[0-9]+)/(.*)$".to_owned())
    ];
    text.prop_map(|text| text.parse().unwrap())
}

fn percent(range: std::ops::RangeInclusive<u16>) -> impl Strategy<Value = Percent> {
    range.prop_map(Percent)
}

pub(super) fn service() -> BoxedStrategy<Service> {
    let word = || "[A-Za-z0-9*&!@:,'{}|>-][A-Za-z0-9*&!@:,'{}|>-]{0,8}";
    let consul = (word(), distinct(word(), 0)).prop_map(|(service, tags)| ConsulService { service, tags });
    let route_by = prop_oneof![Just(RouteBy::Gateway), Just(RouteBy::Uuid)];
    let uuid = option::of(any::<u128>().prop_map(uuid::Uuid::from_u128));
    let hosts = distinct(host(), 0);
    let sites = option::of(distinct(name(), 1));
    let registered = (name(), uuid, name(), consul, hosts, sites, route_by);
    (registered, option::of((name(), option::of(health()))), instances(), connections())
        .prop_map(|((name, uuid, cluster, consul, hosts, sites, route_by), check, instances, connections)| {
            let (check, health) = check.map_or((None, None), |(check, health)| (Some(check), health));
            let (balance, slow_start, registry_weights, ejection, overprovision, cross_site_max) = instances;
            let (circuit_breaker, tls, keep_alive, proxy_protocol) = connections;
            Service {
                name,
                uuid,
                cluster,
                consul,
                hosts,
                sites,
                route_by,
                check,
                health: health.map(Box::new),
                balance,
                slow_start,
                registry_weights,
                ejection: ejection.map(Box::new),
                overprovision,
                cross_site_max,
                circuit_breaker: circuit_breaker.map(Box::new),
                tls: tls.map(Box::new),
                keep_alive: keep_alive.map(Box::new),
                proxy_protocol,
            }
        })
        .boxed()
}

fn health() -> impl Strategy<Value = Health> {
    let interval = (100..86_400_000_u64).prop_map(|ms| Span(Duration::from_millis(ms)));
    (any::<bool>(), option::of(interval)).prop_map(|(active, interval)| Health { active, interval })
}

/// How instances are picked, in the order of the fields.
fn instances() -> BoxedStrategy<(Balance, Span, bool, Option<Ejection>, Percent, Percent)> {
    let hash_on = prop_oneof![
        header_name().prop_map(HashOn::Header),
        cookie_name().prop_map(HashOn::Cookie),
        Just(HashOn::Client)
    ];
    let balance = prop_oneof![
        3 => Just(Balance::P2c {}),
        1 => Just(Balance::RoundRobin {}),
        1 => Just(Balance::LeastRequests {}),
        1 => (hash_on, percent(101..=1_000)).prop_map(|(hash_on, bounded_load)| Balance::Hash { hash_on, bounded_load }),
    ];
    let slow_start = prop_oneof![3 => Just(Span::default()), 1 => span()];
    let times = (100..86_400_000_u64, 100..86_400_000_u64, any::<bool>());
    let ejection = (option::of(1..=100_u16), times, percent(0..=100), percent(0..=100)).prop_map(
        |(consecutive, (x, y, has_base), max_percent, panic_percent)| Ejection {
            consecutive,
            base: has_base.then(|| Span(Duration::from_millis(x.min(y)))),
            at_most: Span(Duration::from_millis(x.max(y))),
            max_percent,
            panic_percent,
        },
    );
    (balance, slow_start, any::<bool>(), option::of(ejection), percent(100..=1_000), percent(0..=100)).boxed()
}

type Connections = (Option<CircuitBreaker>, Option<BackendTls>, Option<KeepAlive>, Option<ProxyProtocol>);

/// How its instances are connected to.
fn connections() -> BoxedStrategy<Connections> {
    let breaker = (1..=1_000_000_u32, 0..=1_000_000_u32, 1..=1_000_000_u32)
        .prop_map(|(connections, pending, requests)| CircuitBreaker { connections, pending, requests });
    let path = || "/[a-z0-9./]{1,12}".prop_map(std::path::PathBuf::from);
    let certificate =
        option::of((path(), path()).prop_map(|(certificate, key)| ClientCertificate { certificate, key }));
    let server_name = option::of("[a-z]{1,5}\\.[a-z]{1,4}".prop_map(|it| it.parse::<DomainName>().unwrap()));
    let tls = (any::<bool>(), option::of(path()), server_name, certificate).prop_map(
        |(verify, ca_file, server_name, client_certificate)| BackendTls {
            verify,
            ca_file: ca_file.filter(|_| verify),
            server_name,
            client_certificate,
        },
    );
    let keep_alive = (option::of(span()), option::of(any::<u16>()), option::of(1..=u32::MAX))
        .prop_map(|(idle, most, requests)| KeepAlive { idle, most, requests });
    let proxy = option::of(sample::select(ProxyProtocol::ALL.to_vec()));
    (option::of(breaker), option::of(tls), option::of(keep_alive), proxy).boxed()
}

fn prefix() -> impl Strategy<Value = PathMatch> {
    "(/[a-z0-9,:*&-][a-z0-9,:*&-]{0,5}){1,3}|/".prop_map(|text| PathMatch::prefix(&text).unwrap())
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        3 => prefix(),
        1 => "(/[a-z0-9]{0,3}){1,3}".prop_map(|text| PathMatch::exact(&text).unwrap()),
        1 => "/u/\\{id\\}(/[a-z]{1,3})?".prop_map(|text| PathMatch::Pattern(text.parse().unwrap())),
        1 => expression().prop_map(PathMatch::Regex),
    ]
}

fn matches<N: Clone + std::fmt::Debug + Ord>(
    name: impl Strategy<Value = N>,
) -> impl Strategy<Value = Vec<FieldMatch<N>>> {
    let value = prop_oneof![
        visible().prop_map(ValueMatch::Exact),
        expression().prop_map(ValueMatch::Regex),
        any::<bool>().prop_map(ValueMatch::Present),
    ];
    let one = (name, value).prop_map(|(name, value)| FieldMatch { name, value });
    prop_oneof![2 => Just(Vec::new()), 1 => distinct(one, 0)]
}

/// A route with conditions and without anything else.
fn conditions() -> BoxedStrategy<Route> {
    let places = (distinct(host(), 0), prop_oneof![2 => Just(0), 1 => any::<i32>()], distinct(path(), 1));
    let method = sample::select(vec!["GET", "POST", "PUT", "M-SEARCH"]).prop_map(|it| it.parse().unwrap());
    let request = (option::of(sample::select(Scheme::ALL.to_vec())), distinct(method, 0), distinct(net(), 0));
    let fields = (matches(header_name()), matches("[a-z%é]{1,4}"), matches(cookie_name()));
    let slashes = sample::select(EncodedSlashes::ALL.to_vec());
    (name(), places, request, fields, slashes)
        .prop_map(|(name, (hosts, priority, paths), (scheme, methods, clients), fields, encoded_slashes)| {
            let (headers, query_params, cookies) = fields;
            Route {
                priority,
                paths,
                scheme,
                methods,
                headers,
                query_params,
                cookies,
                clients,
                encoded_slashes,
                ..Route::new(name, hosts, Vec::new())
            }
        })
        .boxed()
}

fn targets() -> impl Strategy<Value = Vec<RouteTarget>> {
    distinct(name(), 1).prop_flat_map(|services| {
        let weights = collection::vec(1..=u16::MAX, services.len());
        weights.prop_map(move |weights| {
            let pairs = services.iter().cloned().zip(weights);
            pairs.map(|(service, weight)| RouteTarget { service, weight: Weight(weight) }).collect()
        })
    })
}

fn modifier() -> BoxedStrategy<Option<Box<HeaderModifier>>> {
    let field = || (header_name(), visible()).prop_map(|(name, value)| HeaderField { name, value });
    let names = collection::btree_map("[a-z]{1,6}", any::<bool>(), 1..4);
    let of = (names, collection::vec(field(), 0..3), visible()).prop_map(|(names, add, value)| {
        // Each name once in `set` and `remove`.
        let name = |text: &String| format!("Y-{text}").parse::<HeaderName>().unwrap();
        let set = names.iter().filter(|(_, set)| **set);
        Box::new(HeaderModifier {
            set: set.map(|(text, _)| HeaderField { name: name(text), value: value.clone() }).collect(),
            add,
            remove: names.iter().filter(|(_, set)| !**set).map(|(text, _)| name(text)).collect(),
        })
    });
    option::of(of).boxed()
}

/// Rewriting a path, by its prefix only where `prefixes`.
fn path_rewrite(prefixes: bool) -> impl Strategy<Value = PathRewrite> {
    let substitution = sample::select(vec!["/w$1/${n}", "", "/x$$"]).prop_map(str::to_owned);
    let full =
        "(/[a-z0-9]{1,4}){1,2}/?".prop_map(|replace_full_path| PathRewrite::Full { replace_full_path });
    let prefix =
        "(/[a-z0-9]{1,4}){1,2}".prop_map(|replace_prefix_match| PathRewrite::Prefix { replace_prefix_match });
    let regex = substitution.prop_map(|substitution| PathRewrite::Regex {
        regex: "^/v(?<n>[0-9]+)".parse().unwrap(),
        substitution,
    });
    prop_oneof![full, regex, prefix]
        .prop_filter("prefixes", move |it| prefixes || !matches!(it, PathRewrite::Prefix { .. }))
}

/// A route with `to`, and what may be beside that.
fn forwarding() -> BoxedStrategy<Route> {
    let session = prop_oneof![
        header_name().prop_map(|session_name| SessionPersistence::Header { session_name }),
        (cookie_name(), option::of(1_000..86_400_000_u64)).prop_map(|(session_name, ms)| {
            let absolute_timeout = ms.map(|ms| Span(Duration::from_millis(ms)));
            SessionPersistence::Cookie { session_name, absolute_timeout }
        }),
        Just(SessionPersistence::Client {}),
    ];
    let mirror = (name(), percent(1..=100)).prop_map(|(service, percent)| RequestMirror { service, percent });
    let upgrade = prop_oneof![
        Just(Upgrade::Any),
        Just(Upgrade::None),
        distinct("[a-z]{1,5}(/[0-9]\\.[0-9])?", 1).prop_map(Upgrade::Only)
    ];
    let filters = (modifier(), option::of(session), option::of(mirror), upgrade);
    (conditions(), targets(), filters, attempts())
        .prop_flat_map(|(route, to, filters, attempts)| {
            let prefixes = route.paths.iter().all(|it| matches!(it, PathMatch::Prefix(_)));
            let rewrite = (option::of(domain_name()), option::of(path_rewrite(prefixes)));
            (Just(route), Just(to), Just(filters), Just(attempts), rewrite)
        })
        .prop_map(|(route, to, (modifier, session, mirror, upgrade), (timeouts, retry, hedge), rewrite)| {
            let (hostname, path) = rewrite;
            let rewrites = hostname.is_some() || path.is_some();
            Route {
                to,
                session_persistence: session.map(Box::new),
                request_header_modifier: modifier,
                url_rewrite: rewrites.then(|| Box::new(UrlRewrite { hostname, path })),
                request_mirror: mirror.map(Box::new),
                timeouts: timeouts.map(Box::new),
                retry: retry.map(Box::new),
                hedge: hedge.map(Box::new),
                upgrade,
                ..route
            }
        })
        .boxed()
}

fn attempts() -> BoxedStrategy<(Option<Timeouts>, Option<Retry>, Option<Hedge>)> {
    let of_all = option::of((span(), span(), any::<bool>()));
    let times = (option::of(span()), option::of(span()), option::of(span()));
    let timeouts = (of_all, times).prop_map(|(of_all, (connect, first_byte, idle))| Timeouts {
        request: of_all.map(|(x, y, _)| x.max(y)),
        backend_request: of_all.and_then(|(x, y, both)| both.then(|| x.min(y))),
        connect,
        first_byte,
        idle,
    });
    let code =
        (400..=599_u16, 400..=599_u16).prop_map(|(x, y)| StatusRange::new(x.min(y), x.max(y)).unwrap());
    let on = option::of(distinct(sample::select(RetryOn::ALL.to_vec()), 0));
    let backoff = option::of((0..=60_000_u64).prop_map(|ms| Span(Duration::from_millis(ms))));
    let numbers = (option::of(0..=10_u8), option::of(percent(0..=100)), any::<bool>());
    let retry = (distinct(code, 0), on, backoff, numbers).prop_map(
        |(codes, on, backoff, (attempts, budget_percent, non_idempotent))| Retry {
            attempts,
            codes,
            on,
            backoff,
            budget_percent,
            non_idempotent,
        },
    );
    let hedge = (1..3_600_000_u64, 1..=5_u8)
        .prop_map(|(ms, most)| Hedge { after: Span(Duration::from_millis(ms)), most });
    (option::of(timeouts), option::of(retry), option::of(hedge)).boxed()
}

/// A route that answers by itself.
fn answering() -> BoxedStrategy<Route> {
    let redirect = (
        (option::of(domain_name()), option::of(any::<u16>().prop_map(|port| port.max(1)))),
        sample::select(RequestRedirect::STATUSES.to_vec()),
        option::of(path_rewrite(false)),
    );
    let direct =
        ((200..=599_u16), "[ -~]{1,9}", "\\PC{0,9}|[\\x00-\\x7f]{1,9}").prop_map(|(status, media, body)| {
            let body = if matches!(status, 204 | 205 | 304) { String::new() } else { body };
            DirectResponse { status, content_type: format!("a/{}", media.trim()), body }
        });
    let answer = prop_oneof![redirect.prop_map(Ok), direct.prop_map(Err)];
    (conditions(), answer)
        .prop_map(|(route, answer)| match answer {
            // Where the scheme changes, the redirect cannot lead to the route itself.
            Ok(((hostname, port), status_code, path)) => {
                let redirect =
                    RequestRedirect { scheme: Some(Scheme::Https), hostname, port, path, status_code };
                Route { scheme: Some(Scheme::Http), request_redirect: Some(Box::new(redirect)), ..route }
            }
            Err(direct) => Route { direct_response: Some(Box::new(direct)), ..route },
        })
        .boxed()
}

pub(super) fn route() -> BoxedStrategy<Route> {
    let limits = option::of(option::of(any::<u64>().prop_map(Size)));
    let logging = (modifier(), limits, any::<bool>(), option::of(any::<bool>()), any::<bool>());
    let route = prop_oneof![3 => forwarding(), 1 => answering()];
    (route, logging)
        .prop_map(|(route, (modifier, limits, preserve_header_case, access_log, server_timing))| {
            let route = Route { response_header_modifier: modifier, access_log, ..route };
            if route.answers_itself() {
                return route;
            }
            let limits = limits.map(|request_body| Box::new(RouteLimits { request_body }));
            Route { limits, preserve_header_case, server_timing, ..route }
        })
        .boxed()
}
