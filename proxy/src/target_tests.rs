//! Targets and hosts in their normal form.

use proptest::prelude::*;

use super::*;

fn read(target: &str) -> Result<Target<'_>, Refusal> {
    Target::read("GET", target.as_bytes())
}

#[test]
fn spellings_of_a_path_are_matched_alike_and_forwarded_as_the_segments_say() {
    // Sent, matched, forwarded.
    let cases = [
        ("/", "/", "/"),
        ("/api", "/api", "/api"),
        ("/api/", "/api/", "/api/"),
        ("/api/../admin", "/admin", "/admin"),
        ("/api/%2e%2e/admin", "/admin", "/admin"),
        ("/api/.%2E/admin", "/admin", "/admin"),
        ("/api/%2E./admin", "/admin", "/admin"),
        ("/%61pi", "/api", "/%61pi"),
        ("/%7Euser/%2D%5f", "/~user/-_", "/%7Euser/%2D%5f"),
        ("/a/./b", "/a/b", "/a/b"),
        ("/a/%2e/b%7e", "/a/b~", "/a/b~"),
        ("/a/b/.", "/a/b/", "/a/b/"),
        ("/a/b/..", "/a/", "/a/"),
        ("/a/b/../", "/a/", "/a/"),
        ("/..", "/", "/"),
        ("/../../../etc", "/etc", "/etc"),
        ("/a/../../b", "/b", "/b"),
        ("/.", "/", "/"),
        ("//", "//", "//"),
        ("//a//b/", "//a//b/", "//a//b/"),
        ("/a//../b", "/a/b", "/a/b"),
        ("/a/..//b", "//b", "//b"),
        ("/...", "/...", "/..."),
        ("/.a/..b/c..", "/.a/..b/c..", "/.a/..b/c.."),
        ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
        ("/a;v=1/b;..", "/a;v=1/b;..", "/a;v=1/b;.."),
        ("/%252e%252e/admin", "/%252e%252e/admin", "/%252e%252e/admin"),
        ("/%252F", "/%252F", "/%252F"),
        ("/caf%c3%a9", "/caf%C3%A9", "/caf%c3%a9"),
        ("/%c0", "/%C0", "/%c0"),
        ("/a[0]", "/a[0]", "/a[0]"),
        ("/a:b@c,d!$&'()*+=", "/a:b@c,d!$&'()*+=", "/a:b@c,d!$&'()*+="),
        ("/%3Fa%23", "/%3Fa%23", "/%3Fa%23"),
    ];
    for (sent, matched, forwarded) in cases {
        let target = read(sent).unwrap();
        assert_eq!((&*target.path, target.forwarded()), (matched, forwarded), "{sent}");
        assert!(!target.ambiguous, "{sent}");
        assert_eq!(target.changed, sent != forwarded, "{sent}");
    }
}

#[test]
fn what_servers_read_in_different_ways_is_found_and_is_data() {
    let cases = [
        ("/api%2Fadmin", "/api%2Fadmin"),
        ("/api%2fadmin", "/api%2Fadmin"),
        ("/api/%2e%2e%2fadmin", "/api/..%2Fadmin"),
        ("/api/..%2f../x", "/api/..%2F../x"),
        ("/a%5cb", "/a%5Cb"),
        ("/a\\b", "/a\\b"),
        ("/..\\b", "/..\\b"),
        ("/a%00", "/a%00"),
        ("/a/..;/b", "/a/..;/b"),
        ("/a/%2e%2e;x=1/b", "/a/..;x=1/b"),
        ("/a/..%3b/b", "/a/..%3B/b"),
        ("/..;", "/..;"),
        ("/.;/b", "/.;/b"),
        ("/%c0%ae%c0%ae/b", "/%C0%AE%C0%AE/b"),
        ("/a%c0%afb", "/a%C0%AFb"),
        ("/a%e0%80%afb", "/a%E0%80%AFb"),
        ("/a%f0%80%81%9cb", "/a%F0%80%81%9Cb"),
    ];
    for (sent, matched) in cases {
        let target = read(sent).unwrap();
        assert!(target.ambiguous, "{sent}");
        assert_eq!(target.path, matched, "{sent}");
    }
    for clear in ["/a..;b", "/...;", "/a;b", "/%c3%80", "/a%e0%a0%80"] {
        assert!(!read(clear).unwrap().ambiguous, "{clear}");
    }
}

#[test]
fn octets_outside_uris_are_refused() {
    for octet in (0..=0x20_u8).chain(0x7f..=0xff).chain(*b"\"#<>^`{|}") {
        for at in ["/a", "/a?b"] {
            let target = [at.as_bytes(), &[octet], b"c"].concat();
            assert_eq!(Target::read("GET", &target), Err(Refusal::Octet(octet)), "{at} {octet:#x}");
        }
    }
    assert_eq!(read("/a?b\\"), Err(Refusal::Octet(b'\\')));
    for target in ["/%", "/%a", "/%zz", "/%4/", "/%%41", "/a%2", "/%+1"] {
        assert_eq!(read(target), Err(Refusal::Percent), "{target}");
    }
}

#[test]
fn a_query_is_left_alone() {
    for (target, path, query) in [
        ("/a?", "/a", Some("")),
        ("/a?x=/../%2e%2F..;&y[]=100%", "/a", Some("x=/../%2e%2F..;&y[]=100%")),
        ("/a/../b?/../c", "/b", Some("/../c")),
        ("/a?b?c", "/a", Some("b?c")),
        ("/a", "/a", None),
    ] {
        let read = read(target).unwrap();
        assert_eq!((&*read.path, read.query, read.ambiguous), (path, query, false), "{target}");
    }
}

#[test]
fn the_four_forms() {
    let read = |method, target: &'static str| Target::read(method, target.as_bytes());
    let host = |target: &Target<'_>| target.authority.as_ref().map(|it| it.host.to_string());
    assert_eq!(read("CONNECT", "a.example:443"), Err(Refusal::Connect));
    assert_eq!(read("CONNECT", "/"), Err(Refusal::Connect));
    assert_eq!((Refusal::Connect.status(), Refusal::Form.status()), (501, 400));
    assert_eq!(read("GET", "*"), Err(Refusal::Asterisk));
    let all = read("OPTIONS", "*").unwrap();
    assert!(all.is_asterisk() && all.matched() == "/" && all.forwarded() == "*" && all.https.is_none());
    for wrong in ["", "a.example:443", "a", "**", "*?", "ftp://a/", "http:/a", "http:a", "HTTP//a", "?a", "#"]
    {
        assert_eq!(read("OPTIONS", wrong), Err(Refusal::Form), "{wrong}");
    }
    let url = read("GET", "HTTP://A.example:81/x/../y?z").unwrap();
    assert_eq!((host(&url).as_deref(), url.forwarded(), url.query), (Some("a.example"), "/y", Some("z")));
    assert_eq!((url.authority.unwrap().port, url.https), (Some(81), Some(false)));
    let url = read("GET", "https://a.example?z").unwrap();
    assert_eq!((url.forwarded(), url.query, url.https), ("/", Some("z"), Some(true)));
    assert_eq!(read("GET", "http://a.example").unwrap().forwarded(), "/");
    assert!(read("OPTIONS", "http://a.example").unwrap().is_asterisk());
    assert!(!read("OPTIONS", "http://a.example/").unwrap().is_asterisk());
    for wrong in [
        "http://",
        "http:///x",
        "http://u@a/",
        "http://a:b/",
        "http://a:65536/",
        "http://a b/",
        "http://a\\b/",
        "http://%61/",
        "http://u:p@a/",
    ] {
        assert_eq!(read("GET", wrong), Err(Refusal::Authority), "{wrong}");
    }
    assert_eq!(read("GET", "http://a#b"), Err(Refusal::Octet(b'#')));
}

#[test]
fn authorities_are_names_or_addresses() {
    for (text, host, port) in [
        ("Orders.Example.COM:8080", "orders.example.com", Some(8080)),
        ("orders.example.com.", "orders.example.com", None),
        ("a:", "a", None),
        ("a_b-c.d", "a_b-c.d", None),
        ("10.0.0.1:1", "10.0.0.1", Some(1)),
        ("[2001:DB8::1]:80", "[2001:db8::1]", Some(80)),
        ("[::1]", "[::1]", None),
        ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]", None),
        ("a:65535", "a", Some(65_535)),
        ("a:00080", "a", Some(80)),
    ] {
        let authority = Authority::read(text.as_bytes()).unwrap();
        assert_eq!((&*authority.host, authority.port), (host, port), "{text}");
    }
    let wrong = [
        "",
        ".",
        "a..b",
        ".a",
        "a..",
        ":80",
        "a:b",
        "a:+1",
        "a:-1",
        "a:99999",
        "a/b",
        "a b",
        "u@a",
        "a,b",
        "%61",
        "[::1",
        "[a]",
        "[::1].",
        "[::1]a",
        "::1",
        "a\u{e9}",
        "a*",
        "a#",
        "a?b",
        "a\\b",
        "a:65536",
        "a:8:0",
        "a: 80",
        "[]",
        "[1.2.3.4]",
        "[v1.x]",
        "[::1%25eth0]",
        "a\tb",
        "a;b",
        "a\"b\"",
        "user:pw@a",
        "a~b",
    ];
    for text in wrong {
        assert_eq!(Authority::read(text.as_bytes()), Err(Refusal::Authority), "{text}");
    }
}

#[test]
fn paths_of_documents_have_the_same_form() {
    for (text, path) in [
        ("/a/%7eb", "/a/~b"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/100%", "/100%25"),
        ("/a b?c{", "/a%20b%3Fc%7B"),
        ("/a/../b", "/b"),
        ("a", "/a"),
        ("", "/"),
    ] {
        assert_eq!(normal_path(text), path, "{text}");
        assert_eq!(normal_path(path), path);
    }
}

/// RFC 3986 §5.2.4, step by step as it is written there.
fn remove_dot_segments(path: &str) -> String {
    let (mut input, mut output) = (path.to_owned(), String::new());
    while !input.is_empty() {
        if input.starts_with("../") {
            input.drain(..3);
        } else if input.starts_with("./") || input.starts_with("/./") {
            input.drain(..2);
        } else if input == "/." {
            input = "/".to_owned();
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            output.truncate(output.rfind('/').unwrap_or(0));
        } else if input == "." || input == ".." {
            input.clear();
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.extend(input.drain(..end));
        }
    }
    output
}

/// RFC 3986 §6.2.2.1 and §6.2.2.2, octet by octet.
fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        if first != '%' {
            decoded.push(first);
            rest = &rest[1..];
            continue;
        }
        let octet = char::from(u8::from_str_radix(&rest[1..3], 16).unwrap());
        if octet.is_ascii_alphanumeric() || "-._~".contains(octet) {
            decoded.push(octet);
        } else {
            decoded.push_str(&rest[..3].to_ascii_uppercase());
        }
        rest = &rest[3..];
    }
    decoded
}

fn paths() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        ".", "..", "a", "b", "%2e", "%2E", "%61", "%2f", "%5C", "%25", "%252e", ";", "%3b", "\\", "%00",
        "%c0%ae", "", "/", "/./", "/../", "//",
    ]);
    prop::collection::vec(pieces, 0..12).prop_map(|it| format!("/{}", it.concat()))
}

proptest! {
    #[test]
    fn the_normal_form_is_that_of_the_rfc(path in paths()) {
        let target = read(&path).unwrap();
        let decoded = decode_unreserved(&path);
        let naive = remove_dot_segments(&decoded);
        prop_assert_eq!(&*target.path, &naive);
        prop_assert_eq!(target.changed, decoded != naive);
    }

    #[test]
    fn it_is_reached_at_once_and_has_no_dot_segments(path in paths()) {
        let target = read(&path).unwrap();
        let again = read(&target.path).unwrap();
        prop_assert_eq!(&again.path, &target.path);
        prop_assert!(matches!(again.path, Cow::Borrowed(_)) && !again.changed);
        prop_assert!(target.path.starts_with('/'));
        prop_assert!(target.path.split('/').all(|segment| segment != "." && segment != ".."));
        let forwarded = read(target.forwarded()).unwrap();
        prop_assert_eq!(&forwarded.path, &target.path, "the instance reads what was matched");
        prop_assert!(!forwarded.changed);
    }

    #[test]
    fn no_octets_make_it_panic(method in "GET|OPTIONS", target in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = Target::read(&method, &target);
        let _ = Authority::read(&target);
        normal_path(&String::from_utf8_lossy(&target));
    }
}
