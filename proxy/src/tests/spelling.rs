//! Which route a request takes, from documents as people write them to octets as clients send them, where the two may be
//! spelt in several ways.

use std::time::Duration;

use store::{
    model::{Moment, World as Documents, parse},
    testing,
};

use super::world::{World, alone};

const DOCUMENTS: &str = "
kind: Site
name: s1
---
kind: Zone
name: example.com
nameservers: [{ name: ns.x. }]
---
kind: Cluster
name: main
zone: example.com
gateway_domain: gw.example.com
gateways: { s1: { a: [203.0.113.1] } }
---
kind: Service
name: apps
cluster: main
hosts: ['*.apps.example.com']
";

/// A route that answers with its name.
fn route(name: &str, more: &str) -> String {
    format!("---\nkind: Route\nname: {name}\n{more}\ndirect_response: {{ status: 200, body: {name} }}\n")
}

/// A gateway with these routes alone.
async fn gateway(routes: &[(&str, &str)]) -> World {
    let routes: String = routes.iter().map(|(name, more)| route(name, more)).collect();
    let documents = parse("w.yaml", &format!("{DOCUMENTS}{routes}")).unwrap_or_else(|it| panic!("{it:#?}"));
    let documents = Documents::check(documents, Moment(1)).unwrap_or_else(|it| panic!("{it:#?}"));
    let world = World::without_snapshot(alone(|_| {}), Duration::from_secs(60));
    world.publisher.publish_snapshot(testing::compile(documents.sources(), &Default::default()).into());
    world.discover("apps", &[]);
    world.ready().await;
    world
}

/// What each request is answered with: the name of the route, or the status.
async fn answers(world: &World, requests: &[(&str, &str)]) {
    for (request, expected) in requests {
        let (line, fields) = request.split_once('|').unwrap_or((request, ""));
        let fields: String =
            fields.split('|').filter(|it| !it.is_empty()).map(|it| format!("{it}\r\n")).collect();
        let text = format!("{line} HTTP/1.1\r\n{fields}\r\n");
        let answer = world.client().await.ask(&text).await;
        let seen =
            if answer.status == 200 { answer.text().trim().to_owned() } else { answer.status.to_string() };
        assert_eq!(seen, *expected, "{request}");
    }
}

#[tokio::test]
async fn hosts() {
    let world = gateway(&[
        ("exact", "hosts: [a.example.com]"),
        ("wild", "hosts: ['*.example.com']"),
        ("wilder", "hosts: ['*.com']"),
        ("own", "hosts: ['*.x.apps.example.com']"),
        ("any", "paths: [{ prefix: /any }]"),
    ])
    .await;
    answers(
        &world,
        &[
            ("GET /|Host: a.example.com", "exact"),
            ("GET /|Host: A.Example.COM", "exact"),
            ("GET /|Host: a.example.com:8080", "exact"),
            ("GET /|Host: a.example.com:", "exact"),
            ("GET /|Host: a.example.com.", "exact"),
            ("GET /|Host: A.EXAMPLE.com.:80", "exact"),
            ("GET /|host:   a.example.com  ", "exact"),
            ("GET /|Host: a.example.com..", "400"),
            ("GET /|Host: .a.example.com", "400"),
            ("GET /|Host: a..example.com", "400"),
            ("GET /|Host: a%2eexample.com", "400"),
            ("GET /|Host: u@a.example.com", "400"),
            ("GET /|Host: a.example.com, b.example.com", "400"),
            ("GET /|Host: a.example.com|Host: a.example.com", "400"),
            ("GET /", "400"),
            // A URL as target says the host, whatever the field says.
            ("GET http://a.example.com/|Host: b.org", "exact"),
            ("GET HTTP://A.example.com./|Host: b.org", "exact"),
            ("GET http://a.example.com|Host: b.org", "exact"),
            ("GET http://a.example.com?x|Host: b.org", "exact"),
            // Of wildcards the longest, over any number of labels, and never for the name itself.
            ("GET /|Host: b.example.com", "wild"),
            ("GET /|Host: b.a.example.com", "wild"),
            ("GET /|Host: example.com", "wilder"),
            ("GET /|Host: com", "404"),
            ("GET /|Host: xexample.com", "wilder"),
            ("GET /|Host: *.example.com", "400"),
            ("GET /any|Host: com", "any"),
            ("GET /any|Host: 127.0.0.1", "any"),
            ("GET /any|Host: [::1]:80", "any"),
            ("GET /any|Host: [::1", "400"),
            ("GET /any|Host:", "400"),
            // The wildcard of a service has its implied route, which leads to no instance.
            ("GET /|Host: q.apps.example.com", "503"),
            ("GET /|Host: q.r.apps.example.com", "503"),
            ("GET /|Host: apps.example.com", "wild"),
            ("GET /|Host: q.x.apps.example.com", "own"),
            ("GET /|Host: x.apps.example.com", "503"),
        ],
    )
    .await;
}

#[tokio::test]
async fn paths() {
    let world = gateway(&[
        ("root", "hosts: [h.org]\npaths: [{ exact: / }]"),
        ("a", "hosts: [h.org]\npaths: [{ prefix: /a }]"),
        ("exact", "hosts: [h.org]\npaths: [{ exact: /a/b }]"),
        ("user", "hosts: [h.org]\npaths: [{ pattern: '/u/{id}' }]"),
        ("post", "hosts: [h.org]\npaths: [{ pattern: '/u/{id}/p/{post}' }]"),
        ("me", "hosts: [h.org]\npaths: [{ exact: /u/me }]"),
        ("number", "hosts: [h.org]\npaths: [{ regex: '/n/[0-9]+|/m' }]"),
        ("data", "hosts: [h.org]\npaths: [{ pattern: '/f/{name}' }]\nencoded_slashes: allow"),
        ("space", "hosts: [h.org]\npaths: [{ exact: /s%20s }]"),
    ])
    .await;
    let all = [
        ("/", "root"),
        ("//", "404"),
        ("/?x", "root"),
        ("/.", "root"),
        ("/a/..", "root"),
        ("/../../", "root"),
        ("/%2e%2e/", "root"),
        ("/a", "a"),
        ("/a/", "a"),
        ("/a?b", "a"),
        ("/ab", "404"),
        ("/a%62", "404"),
        ("/A", "404"),
        ("//a", "404"),
        ("/a//b", "a"),
        ("/a/b", "exact"),
        ("/a/b/", "a"),
        ("/a/b?c", "exact"),
        ("/a/./b", "exact"),
        ("/%61/%62", "exact"),
        ("/a/c/../b", "exact"),
        ("/a;x/b", "404"),
        ("/a%2Fb", "400"),
        ("/a%2fb", "400"),
        ("/a%5cb", "400"),
        ("/a\\b", "400"),
        ("/a%00", "400"),
        ("/..;/a", "400"),
        ("/a%zz", "400"),
        ("/a%", "400"),
        ("/u/5", "user"),
        ("/u/5?x=/p/1", "user"),
        ("/u/a%20b", "user"),
        ("/u/%7E", "user"),
        ("/u/", "404"),
        ("/u//p/1", "404"),
        ("/u/5/", "404"),
        ("/u/me", "me"),
        ("/u/%6De", "me"),
        ("/u/ME", "user"),
        ("/u/5/p/7", "post"),
        ("/u/5/p/", "404"),
        ("/u/a%2Fb", "400"),
        ("/n/12", "number"),
        ("/n/12x", "404"),
        ("/x/n/12", "404"),
        ("/n/12/", "404"),
        ("/n/12%0A", "404"),
        ("/m", "number"),
        ("/mm", "404"),
        ("/f/a%2Fb", "data"),
        ("/f/a/b", "404"),
        ("/f/%2e%2e%2fu%2f5", "data"),
        ("/s%20s", "space"),
        ("/s+s", "404"),
    ];
    let requests: Vec<(String, &str)> =
        all.iter().map(|(path, expected)| (format!("GET {path}|Host: h.org"), *expected)).collect();
    answers(&world, &requests.iter().map(|(it, expected)| (it.as_str(), *expected)).collect::<Vec<_>>())
        .await;
}

#[tokio::test]
async fn conditions() {
    let world = gateway(&[
        ("plain", ""),
        ("get", "methods: [GET]\npaths: [{ prefix: /m }]"),
        ("query", "query_params: [{ name: q, exact: '1' }]\npaths: [{ prefix: /q }]"),
        ("queries", "query_params: [{ name: q, exact: '1' }, { name: r }]\npaths: [{ prefix: /q }]"),
        ("number", "query_params: [{ name: n, regex: '[0-9]+' }]\npaths: [{ prefix: /n }]"),
        ("cookie", "cookies: [{ name: c, exact: v }]\npaths: [{ prefix: /c }]"),
        ("header", "headers: [{ name: X-A, exact: 'b, c' }]\npaths: [{ prefix: /h }]"),
        ("expression", "headers: [{ name: x-b, regex: 'a|b' }]\npaths: [{ prefix: /h }]"),
        ("here", "clients: [127.0.0.0/8]\npaths: [{ prefix: /l }]"),
        ("elsewhere", "clients: [10.0.0.0/8, '2001:db8::/32']\npaths: [{ prefix: /l }]\npriority: 1"),
        ("secure", "scheme: https\npaths: [{ prefix: /t }]"),
    ])
    .await;
    answers(
        &world,
        &[
            ("GET /m|Host: h", "get"),
            ("POST /m|Host: h|Content-Length: 0", "plain"),
            ("get /m|Host: h", "plain"),
            ("GET /q?q=1|Host: h", "query"),
            ("GET /q?Q=1|Host: h", "plain"),
            ("GET /q?q=2&q=1|Host: h", "query"),
            ("GET /q?q=11|Host: h", "plain"),
            ("GET /q?%71=%31|Host: h", "query"),
            ("GET /q?q=1&r|Host: h", "queries"),
            ("GET /q?r=&q=1|Host: h", "queries"),
            ("GET /q?q=1?r|Host: h", "plain"),
            ("GET /q?xq=1|Host: h", "plain"),
            ("GET /q?q|Host: h", "plain"),
            ("GET /n?n=12|Host: h", "number"),
            ("GET /n?n=12a|Host: h", "plain"),
            ("GET /n?n=%31|Host: h", "number"),
            ("GET /n?n=1%0A|Host: h", "plain"),
            ("GET /c|Host: h|Cookie: c=v", "cookie"),
            ("GET /c|Host: h|Cookie: a=1; c=v; d=2", "cookie"),
            ("GET /c|Host: h|Cookie: a=1;c=v", "cookie"),
            ("GET /c|Host: h|Cookie: a=1|Cookie: c=v", "cookie"),
            ("GET /c|Host: h|Cookie: C=v", "plain"),
            ("GET /c|Host: h|Cookie: c=\"v\"", "plain"),
            ("GET /c|Host: h|Cookie: xc=v", "plain"),
            ("GET /c|Host: h|Cookie: c=vv", "plain"),
            ("GET /c|Host: h|Cookie: c", "plain"),
            ("GET /h|Host: h|x-a:  b, c ", "header"),
            ("GET /h|Host: h|X-A: b|x-a: c", "header"),
            ("GET /h|Host: h|X-A: c|x-a: b", "plain"),
            ("GET /h|Host: h|X-A: B, C", "plain"),
            ("GET /h|Host: h|X-B: b", "expression"),
            ("GET /h|Host: h|X-B: ab", "plain"),
            ("GET /h|Host: h|X-B: a|X-A: b, c", "expression"),
            ("GET /l|Host: h", "here"),
            ("GET /t|Host: h", "plain"),
            // A client that is not trusted says nothing of its scheme and address.
            ("GET /t|Host: h|X-Forwarded-Proto: https|Forwarded: proto=https", "plain"),
            ("GET /l|Host: h|X-Forwarded-For: 10.0.0.1|X-Real-IP: 10.0.0.1", "here"),
        ],
    )
    .await;
}
