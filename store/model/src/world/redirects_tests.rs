//! Which redirects may lead back to their own route, with the routes beside them.

use super::super::routes::tests::warnings;

/// A route with a redirect.
fn from(more: &str) -> String {
    format!("kind: Route\nname: from\n{more}\n---\n")
}

/// A route that takes requests.
fn to(name: &str, more: &str) -> String {
    format!("kind: Route\nname: {name}\nto: [{{ service: t }}]\n{more}\n---\n")
}

/// The warnings about redirects.
fn circles(routes: &str) -> Vec<String> {
    warnings(routes).into_iter().filter(|it| it.contains("come back to this route")).collect()
}

const TO_UI: &str = "hosts: [x.org]\nrequest_redirect: { path: { replace_full_path: /ui } }";
const TO_WWW: &str = "hosts: ['*.x.org']\nrequest_redirect: { hostname: www.x.org }";
const TO_V2: &str = "hosts: [x.org]\nrequest_redirect: { path: { replace_prefix_match: /v2 } }";

#[test]
fn a_redirect_that_may_lead_back_is_a_warning() {
    let found = warnings(&from(TO_UI));
    let words = "w.yaml:26: Route from: request_redirect: requests for x.org/ui come back to this route, again and again: no \
                 other one comes first for all of them";
    assert_eq!(found, [words]);
    let found = warnings(&from("paths: [{ prefix: /p }]\nrequest_redirect: { hostname: example.org }"));
    let words = "w.yaml:26: Route from: request_redirect: if example.org leads to these gateways, requests for example.org/p \
                 come back to this route, again and again: no other one comes first for all of them";
    assert_eq!(found, [words]);
    for (redirect, place) in [
        (TO_WWW, "if www.x.org leads to these gateways, requests for www.x.org/ come"),
        (TO_V2, "requests for x.org/v2 come"),
        ("request_redirect: { path: { replace_full_path: /a } }", "requests for every host with /a come"),
        (
            "hosts: [x.org]\npaths: [{ regex: '/a.*' }]\nrequest_redirect: { path: { replace_full_path: /ab } }",
            "requests for x.org/ab come",
        ),
        (
            "hosts: [x.org]\npaths: [{ pattern: '/{a}/{b}' }]\nrequest_redirect: { path: { replace_full_path: '/x/{a}' } }",
            "requests for x.org/x/{a} come",
        ),
        (
            "hosts: [a.x.org, b.x.org]\nrequest_redirect: { hostname: a.x.org, path: { replace_full_path: /a } }",
            "requests for a.x.org/a come",
        ),
    ] {
        let found = warnings(&from(redirect));
        assert!(found.len() == 1 && found[0].contains(place), "{redirect}: {found:?}");
    }
}

#[test]
fn a_route_that_comes_first_for_the_target_ends_the_circle() {
    for (redirect, beside) in [
        (TO_UI, to("ui", "hosts: [x.org]\npaths: [{ exact: /ui }]")),
        (TO_UI, to("ui", "hosts: [x.org]\npaths: [{ exact: /ui }]\nmethods: [GET]")),
        (TO_UI, to("ui", "hosts: [x.org]\npaths: [{ prefix: /ui }]")),
        (TO_UI, to("ui", "priority: 1")),
        (TO_WWW, to("www", "hosts: [www.x.org]")),
        (TO_WWW, to("www", "hosts: ['*.www.x.org', www.x.org]\npaths: [{ prefix: / }, { exact: /a }]")),
        // Each has a scheme.
        (
            TO_WWW,
            to("www", "hosts: [www.x.org]\nscheme: https")
                + "kind: Route\nname: up\nhosts: [www.x.org]\nscheme: http\nrequest_redirect: { scheme: https }\n---\n",
        ),
        // The implied route of a service.
        ("hosts: ['*.z.org']\nrequest_redirect: { hostname: a.z.org }", String::new()),
        ("request_redirect: { hostname: x.w.z.org }", String::new()),
        (TO_V2, to("v2", "hosts: [x.org]\npaths: [{ prefix: /v2 }]")),
        (
            "hosts: [x.org]\ncookies: [{ name: s, present: false }]\nrequest_redirect: { path: { replace_full_path: /in } }",
            to("in", "hosts: [x.org]\npaths: [{ exact: /in }]"),
        ),
        // It is another request.
        ("methods: [POST]\nrequest_redirect: { hostname: example.org, status_code: 303 }", String::new()),
        ("scheme: http\nrequest_redirect: { scheme: https, hostname: example.org }", String::new()),
        ("request_redirect: { hostname: example.org, port: 8443 }", String::new()),
        ("hosts: [x.org]\nrequest_redirect: { hostname: example.org }", String::new()),
        ("hosts: [x.org]\nrequest_redirect: { path: { regex: '^/a', substitution: /b } }", String::new()),
    ] {
        assert_eq!(circles(&(from(redirect) + &beside)), [""; 0], "{redirect} {beside}");
    }
}

#[test]
fn a_route_that_comes_later_or_takes_only_a_part_does_not() {
    for (redirect, beside) in [
        (TO_UI, to("ui", "paths: [{ exact: /ui }]")),
        (TO_UI, to("ui", "hosts: [x.org]\npaths: [{ exact: /ui }]\npriority: -1")),
        (TO_UI, to("ui", "hosts: [x.org]\npaths: [{ exact: /ui }]\nheaders: [{ name: X-A }]")),
        (TO_UI, to("ui", "hosts: [x.org]\npaths: [{ exact: /ui }]\nmethods: [PUT]")),
        (TO_UI, to("ui", "hosts: [x.org]\npaths: [{ exact: /ui }]\nscheme: https")),
        (TO_UI, to("ui", "hosts: [y.org]\npaths: [{ exact: /ui }]")),
        (TO_V2, to("v2", "hosts: [x.org]\npaths: [{ prefix: /v2/a }]")),
        (TO_WWW, to("www", "hosts: [www.x.org]\npaths: [{ prefix: /a }]")),
        ("priority: 1\npaths: [{ prefix: /q }]\nrequest_redirect: { hostname: a.z.org }", String::new()),
    ] {
        assert_eq!(circles(&(from(redirect) + &beside)).len(), 1, "{redirect} {beside}");
    }
}
