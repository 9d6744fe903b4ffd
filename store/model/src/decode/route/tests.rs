use super::*;
use crate::{Document, InputError, PathMatch, PathRewrite, RetryOn, Size, Timeouts, ValueMatch, parse};

fn read(more: &str) -> Result<Route, Vec<String>> {
    match parse("w.yaml", &format!("kind: Route\nname: r\n{more}\n")).map(|mut placed| placed.remove(0).value)
    {
        Ok(Document::Route(it)) => Ok(it),
        Ok(other) => panic!("{other:?}"),
        Err(errors) => Err(errors.iter().map(InputError::to_string).collect()),
    }
}

fn route(more: &str) -> Route {
    read(more).unwrap_or_else(|errors| panic!("{more}: {errors:#?}"))
}

const TO: &str = "to: [{ service: s }]\n";

#[test]
fn a_route_needs_only_a_target() {
    let plain = route(TO);
    let to = vec![RouteTarget { service: "s".parse().unwrap(), weight: Weight(100) }];
    assert_eq!(plain, Route::new("r".parse().unwrap(), vec![], to));
    assert!(plain.hosts.is_empty() && plain.paths == [PathMatch::root()] && plain.upgrade == Upgrade::Any);
    let stored = serde_json::to_string(&plain).unwrap();
    let expected = r#"{"name":"r","paths":[{"prefix":"/"}],"to":[{"service":"s","weight":100}]}"#;
    assert_eq!(stored, expected, "what is not said is not stored");
}

#[test]
fn conditions_are_read() {
    let it = route(&format!(
        "{TO}hosts: ['*.A.example.com', b.org]\npriority: -5\nscheme: https\nmethods: [GET, M-SEARCH]\n\
         paths: [{{ exact: /a/ }}, {{ prefix: /b }}, {{ pattern: '/u/{{id}}' }}, {{ regex: '/v[0-9]+' }}]\n\
         headers: [{{ name: X-A, exact: b }}, {{ name: X-A }}]\nquery_params: [{{ name: q, regex: 'a|b' }}]\n\
         cookies: [{{ name: c, present: false }}]\nclients: [10.0.0.0/8, '2001:db8::/32']\nencoded_slashes: allow"
    ));
    assert_eq!(it.hosts[0].as_str(), "*.a.example.com");
    assert_eq!((it.priority, it.methods[1].as_str(), it.paths.len()), (-5, "M-SEARCH", 4));
    let values: Vec<&ValueMatch> = it.headers.iter().map(|it| &it.value).collect();
    assert_eq!(values, [&ValueMatch::Exact("b".into()), &ValueMatch::Present(true)]);
    assert_eq!(it.cookies[0].value, ValueMatch::Present(false));
}

#[test]
fn what_happens_to_requests_is_read() {
    let it = route(&format!(
        "{TO}timeouts: {{ request: 1s, first_byte: 0s }}\nretry: {{ attempts: 0, codes: [503] }}\nhedge: {{ after: 5ms }}\n\
         limits: {{ request_body: 10MiB }}\nupgrade: [WebSocket, foo/1.1]\n\
         url_rewrite: {{ hostname: B.org, path: {{ regex: '^/(?<rest>.*)', substitution: '/x/${{rest}}' }} }}\n\
         session_persistence: {{ type: cookie }}"
    ));
    let timeouts: Timeouts = *it.timeouts.unwrap();
    assert_eq!((timeouts.request.unwrap().to_string(), timeouts.connect), ("1s".to_owned(), None));
    assert_eq!(it.retry.unwrap().on(), RetryOn::USUAL);
    assert_eq!((it.hedge.unwrap().most, it.limits.unwrap().request_body), (1, Some(Size(10 << 20))));
    assert!(it.upgrade.admits(b"WEBSOCKET") && it.upgrade.admits(b"foo/1.1") && !it.upgrade.admits(b"foo"));
    assert!(!Upgrade::Any.admits(b"H2C") && Upgrade::Any.admits(b"x") && !Upgrade::None.admits(b"x"));
    assert!(matches!(it.url_rewrite.unwrap().path, Some(PathRewrite::Regex { .. })));
    let Some(SessionPersistence::Cookie { session_name, .. }) = it.session_persistence.map(|it| *it) else {
        panic!()
    };
    assert_eq!(session_name.as_str(), SessionPersistence::COOKIE);
}

#[test]
fn a_route_may_change_what_the_gateway_says_of_a_client() {
    let it = route(&format!(
        "{TO}request_header_modifier: {{ set: [{{ name: X-Forwarded-Proto, value: https }}], remove: [X-Request-Id, Forwarded] }}\n\
         response_header_modifier: {{ set: [{{ name: Date, value: x }}, {{ name: Via, value: '1.1 a' }}], remove: [X-Request-Id] }}"
    ));
    assert_eq!(it.request_header_modifier.unwrap().remove.len(), 2);
    assert_eq!(it.response_header_modifier.unwrap().set.len(), 2);
}

/// One error each, with its field and what would be right.
#[test]
fn an_error_says_where_it_is_and_what_would_be_right() {
    for (more, place, words) in [
        ("hosts: []", "hosts", "the list is empty"),
        ("hosts: ['*']", "hosts[0]", "a wildcard in a domain, such as *.apps.example.com"),
        ("hosts: ['a.*.b']", "hosts[0]", "a domain name"),
        ("priority: 3000000000", "priority", "from -2147483648 to 2147483647"),
        (
            "paths: [{ prefix: /a, regex: x }]",
            "paths[0]",
            "more than one condition; expected one of the keys exact",
        ),
        ("paths: [{}]", "paths[0]", "there is no condition"),
        ("paths: [{ exact: a }]", "paths[0].exact", "it starts with a slash"),
        ("paths: [{ exact: /%61 }]", "paths[0].exact", "encodes only what it must"),
        (
            "paths: [{ prefix: '/u/{id}' }]",
            "paths[0].prefix",
            "has a parameter; expected { pattern: \"/u/{id}\" }",
        ),
        (
            "paths: [{ prefix: /a%2Fb }]",
            "paths[0].prefix",
            "get a 400 in this route; expected encoded_slashes: allow",
        ),
        ("paths: [{ exact: '/a/.;b' }]", "paths[0].exact", "get a 400 in this route"),
        ("paths: [{ exact: '/a/..;b' }]", "paths[0].exact", "get a 400 in this route"),
        ("paths: [{ exact: /%C0%AF }]", "paths[0].exact", "get a 400 in this route"),
        ("paths: [{ pattern: '/..%3B/{id}' }]", "paths[0].pattern", "get a 400 in this route"),
        ("paths: [{ prefix: /a// }]", "paths[0].prefix", "whole segments"),
        ("paths: [{ prefix: /a }, { prefix: /a/ }]", "paths[1]", "duplicate value"),
        ("paths: [{ pattern: /u }]", "paths[0].pattern", "distinct names in braces"),
        ("paths: [{ regex: '/(a' }]", "paths[0].regex", "a regular expression: unclosed group"),
        ("paths: [{ regex: '(?=a)' }]", "paths[0].regex", "look-around"),
        ("paths: [{ regex: '(a{100}){100}' }]", "paths[0].regex", "compiled it takes more than 65536 bytes"),
        ("paths: [{ regex: 'a)(b' }]", "paths[0].regex", "unopened group"),
        ("paths: [{ prefix: /a }, { prefix: /a }]", "paths[1]", "duplicate value"),
        ("scheme: ftp", "scheme", "one of http or https"),
        ("methods: [get]", "methods[0]", "GET in capital letters"),
        ("methods: [CONNECT]", "methods[0]", "does not make tunnels"),
        ("headers: [{ name: Host, exact: a }]", "headers[0].name", "expected `hosts`"),
        ("headers: [{ name: 'a b' }]", "headers[0].name", "a header name"),
        ("headers: [{ exact: a }]", "headers[0].name", "is missing"),
        (
            "headers: [{ name: a, exact: b, present: true }]",
            "headers[0]",
            "one of the keys exact, regex or present",
        ),
        ("cookies: [{ name: a, regex: '[' }]", "cookies[0].regex", "unclosed character class"),
        ("query_params: [{ name: '' }]", "query_params[0].name", "a text"),
        ("clients: [10.0.0.1/8]", "clients[0]", "10.0.0.0/8"),
        ("encoded_slashes: deny", "encoded_slashes", "one of refuse or allow"),
        ("session_persistence: { type: header }", "session_persistence.session_name", "is missing"),
        (
            "session_persistence: { type: client, session_name: a }",
            "session_persistence.session_name",
            "header or cookie",
        ),
        (
            "session_persistence: { type: header, session_name: a, absolute_timeout: 1h }",
            "session_persistence.absolute_timeout",
            "type: cookie",
        ),
        ("request_header_modifier: {}", "request_header_modifier", "nothing is changed"),
        (
            "request_header_modifier: { set: [{ name: Host, value: a }] }",
            "request_header_modifier.set[0].name",
            "Host is the gateway's own; expected url_rewrite: { hostname: NAME }",
        ),
        (
            "request_header_modifier: { add: [{ name: content-length, value: '1' }] }",
            "request_header_modifier.add[0].name",
            "the gateway frames what it sends",
        ),
        (
            "response_header_modifier: { remove: [Connection] }",
            "response_header_modifier.remove[0]",
            "about one connection",
        ),
        (
            "response_header_modifier: { remove: [Upgrade] }",
            "response_header_modifier.remove[0]",
            "`upgrade` of the route",
        ),
        (
            "request_header_modifier: { set: [{ name: Via, value: a }] }",
            "request_header_modifier.set[0].name",
            "each gateway writes itself into it",
        ),
        (
            "request_header_modifier: { remove: [Max-Forwards] }",
            "request_header_modifier.remove[0]",
            "the gateway counts it down",
        ),
        (
            "request_header_modifier: { add: [{ name: X-Forwarded-Proto, value: https }] }",
            "request_header_modifier.add[0].name",
            "a message has one X-Forwarded-Proto; expected `set`",
        ),
        (
            "response_header_modifier: { remove: [Date] }",
            "response_header_modifier.remove[0]",
            "every answer has a date",
        ),
        (
            "request_header_modifier: { set: [{ name: a, value: b }], remove: [A] }",
            "request_header_modifier",
            "A is set or removed twice",
        ),
        (
            "request_header_modifier: { set: [{ name: a, value: \"b\\r\\nc: d\" }] }",
            "request_header_modifier.set[0].value",
            "is not a text",
        ),
        ("url_rewrite: {}", "url_rewrite", "nothing is rewritten"),
        ("url_rewrite: { path: {} }", "url_rewrite.path", "one of the keys replace_prefix_match"),
        (
            "url_rewrite: { path: { replace_prefix_match: b } }",
            "url_rewrite.path.replace_prefix_match",
            "whole segments",
        ),
        (
            "paths: [{ exact: /a }]\nurl_rewrite: { path: { replace_prefix_match: /b } }",
            "url_rewrite.path",
            "only prefixes in `paths`",
        ),
        (
            "url_rewrite: { path: { replace_prefix_match: /b// } }",
            "url_rewrite.path.replace_prefix_match",
            "whole segments",
        ),
        (
            "url_rewrite: { path: { replace_full_path: '/x/{id}' } }",
            "url_rewrite.path.replace_full_path",
            "not every path of the route has the parameter {id}; expected only { pattern: PATH } in `paths`, each with {id}",
        ),
        (
            "paths: [{ pattern: '/u/{id}' }, { pattern: '/v/{name}' }]\nurl_rewrite: { path: { replace_full_path: '/x/{id}' } }",
            "url_rewrite.path.replace_full_path",
            "the parameter {id}",
        ),
        (
            "paths: [{ pattern: '/u/{id}' }]\nurl_rewrite: { path: { replace_full_path: '/x/{id}/{idd}' } }",
            "url_rewrite.path.replace_full_path",
            "the parameter {idd}",
        ),
        (
            "paths: [{ pattern: '/u/{id}' }]\nurl_rewrite: { path: { replace_full_path: '/x/{id' } }",
            "url_rewrite.path.replace_full_path",
            "it starts with a slash",
        ),
        (
            "paths: [{ pattern: '/u/{id}' }]\nurl_rewrite: { path: { replace_full_path: '/x/%4{id}' } }",
            "url_rewrite.path.replace_full_path",
            "it starts with a slash",
        ),
        ("url_rewrite: { path: { regex: a } }", "url_rewrite.path.substitution", "is missing"),
        (
            "url_rewrite: { path: { regex: '(a)', substitution: '/$2' } }",
            "url_rewrite.path.substitution",
            "no group \"2\"",
        ),
        (
            "url_rewrite: { path: { regex: '(a)', substitution: '/$1x' } }",
            "url_rewrite.path.substitution",
            "no group \"1x\"; expected groups of the expression; ${1} where",
        ),
        (
            "url_rewrite: { path: { regex: a, substitution: '/b?c' } }",
            "url_rewrite.path.substitution",
            "without ? #",
        ),
        (
            "url_rewrite: { path: { replace_full_path: /b, substitution: c } }",
            "url_rewrite.path.substitution",
            "only with `regex`",
        ),
        ("request_mirror: { service: m, percent: 101 }", "request_mirror.percent", "1 to 100"),
        ("timeouts: { request: 1s, backend_request: 2s }", "timeouts.backend_request", "at most `request`"),
        ("timeouts: { request: 1s, backend_request: 0s }", "timeouts.backend_request", "at most `request`"),
        ("timeouts: { idle: 2d }", "timeouts.idle", "0s to 1d"),
        ("retry: { attempts: 11 }", "retry.attempts", "0 to 10"),
        ("retry: { codes: [399-500] }", "retry.codes[0]", "from 400 to 599"),
        ("retry: { codes: [200] }", "retry.codes[0]", "from 400 to 599"),
        ("retry: { on: [connect-failure] }", "retry.on[0]", "did you mean \"connect_failure\"?"),
        ("hedge: {}", "hedge.after", "is missing"),
        ("limits: { request_body: 10MB }", "limits.request_body", "a size such as"),
        ("upgrade: all", "upgrade", "one of any or none"),
        ("upgrade: [h2c]", "upgrade[0]", "never forwarded"),
        ("upgrade: ['a b']", "upgrade[0]", "a protocol such as websocket"),
        ("retries: 3", "retries", "unknown key; did you mean \"retry\"?"),
        (
            "direct_response: { status: 200 }",
            "to",
            "answers by itself, so no request gets there; expected either `to` or",
        ),
        ("request_redirect: { hostname: b.org }\nhosts: [a.org]", "to", "redirects"),
    ] {
        let errors = read(&format!("{TO}{more}")).expect_err(more);
        let [only] = errors.as_slice() else { panic!("{more}: {errors:#?}") };
        assert!(only.contains(&format!(": Route r: {place}: ")) && only.contains(words), "{more}: {only}");
    }
}

#[test]
fn a_route_goes_somewhere_or_answers_by_itself() {
    let found = read("hosts: [a.org]").unwrap_err();
    assert!(found.len() == 1 && found[0].contains("to: is missing"), "{found:?}");
    for (more, words) in [
        ("to: []", "no service gets a request"),
        ("to: [{ service: a, weight: 0 }, { service: b, weight: 0 }]", "a weight above 0"),
        ("to: [{ service: a }, { service: a }]", "is listed twice"),
        ("direct_response: { status: 199 }", "200 to 599"),
        ("direct_response: { status: 204, body: a }", "has no body"),
        ("direct_response: { status: 205, body: a }", "has no body"),
        (
            "direct_response: { status: 200 }\nrequest_redirect: { hostname: b.org }\nhosts: [a.org]",
            "either of the two",
        ),
        ("direct_response: { status: 200 }\nretry: { attempts: 1 }", "only in a route with `to`"),
        ("direct_response: { status: 200 }\nlimits: { request_body: 1KiB }", "only in a route with `to`"),
        ("direct_response: { status: 200 }\npreserve_header_case: true", "only in a route with `to`"),
        ("direct_response: { status: 200 }\nserver_timing: true", "only in a route with `to`"),
        ("hosts: [a.org]\nrequest_redirect: { hostname: '*.org' }", "a wildcard is not one name"),
        (
            "hosts: [a.org]\nrequest_redirect: { hostname: b.org, status_code: 200 }",
            "one of 301, 302, 303, 307 or 308",
        ),
    ] {
        let found = read(more).expect_err(more);
        assert!(found.len() == 1 && found[0].contains(words), "{more}: {found:?}");
    }
    assert!(route("direct_response: { status: 200 }").to.is_empty());
    route("direct_response: { status: 304, body: '' }");
}

#[test]
fn a_slash_at_the_end_of_a_prefix_says_nothing() {
    let it = route(&format!("{TO}paths: [{{ prefix: /match/ }}, {{ exact: /a/ }}]"));
    assert_eq!(it.paths, [PathMatch::Prefix("/match".into()), PathMatch::Exact("/a/".into())]);
    for (written, read) in [("/xyz/", "/xyz"), ("''", "/"), ("/", "/"), ("/a/b", "/a/b")] {
        let it = route(&format!("{TO}url_rewrite: {{ path: {{ replace_prefix_match: {written} }} }}"));
        let expected = PathRewrite::Prefix { replace_prefix_match: read.to_owned() };
        assert_eq!(it.url_rewrite.unwrap().path, Some(expected), "{written}");
    }
}

#[test]
fn what_only_looks_like_a_dot_segment_needs_no_leave() {
    let it = route(&format!("{TO}paths: [{{ exact: '/a..;b' }}, {{ prefix: '/a.;b' }}]"));
    assert_eq!(it.paths.len(), 2);
    route(&format!("{TO}paths: [{{ exact: '/a/..;b' }}, {{ exact: /%C0%AF }}]\nencoded_slashes: allow"));
}

#[test]
fn a_whole_path_takes_parameters_that_every_path_has() {
    let path = "{ path: { replace_full_path: '/users/{id}/x-{id}' } }";
    let expected = Some(PathRewrite::Full { replace_full_path: "/users/{id}/x-{id}".to_owned() });
    let paths = "paths: [{ pattern: '/u/{id}' }, { pattern: '/v/{name}/{id}' }]";
    assert_eq!(route(&format!("{TO}{paths}\nurl_rewrite: {path}")).url_rewrite.unwrap().path, expected);
    assert_eq!(route(&format!("{paths}\nrequest_redirect: {path}")).request_redirect.unwrap().path, expected);
}

#[test]
fn a_redirect_to_itself_is_refused() {
    for (looping, instead) in [
        ("request_redirect: { scheme: https }", "`scheme: http` in the route"),
        ("scheme: https\nrequest_redirect: { scheme: https }", "`scheme: http` in the route"),
        ("request_redirect: {}", "a target that the route itself does not match"),
        ("hosts: [a.org]\nrequest_redirect: { hostname: a.org }", "does not match"),
        ("hosts: [a.org, b.org]\nrequest_redirect: { hostname: b.org }", "does not match"),
        (
            "paths: [{ prefix: /a }]\nrequest_redirect: { path: { replace_prefix_match: /a/ } }",
            "does not match",
        ),
        (
            "paths: [{ exact: /a }, { exact: /b }]\nrequest_redirect: { path: { replace_full_path: /a } }",
            "does not match",
        ),
        ("methods: [POST, HEAD]\nrequest_redirect: { status_code: 303 }", "does not match"),
        ("methods: [POST]\nrequest_redirect: { status_code: 307 }", "does not match"),
        ("methods: [PUT]\nrequest_redirect: { status_code: 301 }", "does not match"),
    ] {
        let found = read(looping).expect_err(looping);
        let words = "request_redirect: it leads back to this route, again and again";
        assert!(
            found.len() == 1 && found[0].contains(words) && found[0].contains(instead),
            "{looping}: {found:?}"
        );
    }
    for ends in [
        "scheme: http\nrequest_redirect: { scheme: https }",
        "hosts: [a.org]\nrequest_redirect: { hostname: b.org }",
        "hosts: ['*.org']\nrequest_redirect: { hostname: org }",
        "paths: [{ prefix: /a }]\nrequest_redirect: { path: { replace_prefix_match: /b } }",
        "paths: [{ exact: /a }]\nrequest_redirect: { path: { replace_full_path: /a/ } }",
        "request_redirect: { port: 8443 }",
        "methods: [POST, PUT]\nrequest_redirect: { status_code: 303 }",
        "methods: [POST]\nrequest_redirect: {}",
        // Whether these lead back depends on the other routes.
        "hosts: ['*.org']\nrequest_redirect: { hostname: b.org }",
        "request_redirect: { hostname: b.org }",
        "hosts: [a.org]\nrequest_redirect: { path: { replace_prefix_match: /v2 } }",
        "paths: [{ prefix: /a }]\nrequest_redirect: { path: { replace_full_path: /a/b } }",
        "paths: [{ regex: '/a.*' }]\nrequest_redirect: { path: { replace_full_path: /ab } }",
    ] {
        route(ends);
    }
}

#[test]
fn lists_and_texts_are_bounded() {
    let list = |n: usize, item: &dyn Fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(", ");
    for (more, words) in [
        (
            format!("hosts: [{}]", list(1_001, &|n| format!("h{n}.org"))),
            "a list of 1001 is too long; expected at most 1000",
        ),
        (format!("paths: [{}]", list(1_001, &|n| format!("{{ exact: /{n} }}"))), "at most 1000"),
        (
            format!(
                "hosts: [{}]\npaths: [{}]",
                list(101, &|n| format!("h{n}.org")),
                list(100, &|n| format!("{{ exact: /{n} }}"))
            ),
            "101 hosts with 100 paths each are too many",
        ),
        (format!("headers: [{}]", list(17, &|n| format!("{{ name: x{n} }}"))), "at most 16"),
        (
            format!("clients: [{}]", list(1_001, &|n| format!("10.{}.{}.0/24", n / 256, n % 256))),
            "at most 1000",
        ),
        (
            format!("request_header_modifier: {{ remove: [{}] }}", list(65, &|n| format!("x{n}"))),
            "at most 64",
        ),
        (format!("paths: [{{ regex: {} }}]", "a".repeat(1_001)), "1 to 1000 bytes"),
        (format!("paths: [{{ prefix: /{} }}]", "a".repeat(1_000)), "1 to 1000 bytes"),
    ] {
        let found = read(&format!("{TO}{more}")).unwrap_err();
        assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
    }
    let targets = list(101, &|n| format!("{{ service: s{n} }}"));
    assert!(read(&format!("to: [{targets}]")).unwrap_err()[0].contains("at most 100"));
}

#[test]
fn all_errors_of_a_route_at_once() {
    let more = "hosts: [a b]\npaths: [{ regex: '[' }, { prefix: x }]\nmethods: [get]\nto: [{ weight: 70000 }]\nscheme: x\n\
                timeouts: { connect: x }\nretry: { attempts: 99 }\nupgrade: x";
    let found = read(more).unwrap_err();
    assert_eq!(found.len(), 10, "{found:#?}");
    for (line, error) in [3, 4, 4, 5, 6, 6, 7, 8, 9, 10].into_iter().zip(&found) {
        assert!(error.starts_with(&format!("w.yaml:{line}: ")), "{error}");
    }
}
