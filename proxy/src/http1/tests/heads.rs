//! The rules about heads, by section.

use super::*;

/// A request with one more line in its head.
fn with(line: &str) -> Result<(), HeadError> {
    request(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"))
        .map(|read| assert!(read.is_some(), "{line:?}"))
}

/// A request with this request line.
fn lined(line: &str) -> Result<(), HeadError> {
    request(format!("{line}\r\nHost: a\r\n\r\n")).map(|read| assert!(read.is_some(), "{line:?}"))
}

#[test]
fn a_request_is_read() {
    let text = "\r\nPOST /a/b?c=d HTTP/1.1\r\nHOST: example.com:80\r\nX-Empty:\r\naccept:\t a, b \t\r\nX-Empty: \r\n\r\nbody";
    let (line, fields) = request(text).unwrap().unwrap();
    let bytes = text.as_bytes();
    assert_eq!(line.method.get(bytes), b"POST");
    assert_eq!((line.known, line.version, line.form), (Method::Post, Version::Http11, Form::Origin));
    assert_eq!(line.target.get(bytes), b"/a/b?c=d");
    assert_eq!(&bytes[line.length..], b"body");
    let expected = [("HOST", "example.com:80"), ("X-Empty", ""), ("accept", "a, b"), ("X-Empty", "")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(pairs(&fields, bytes), expected);
    assert_eq!(fields.value(FieldId::Host, bytes), Some(b"example.com:80".as_slice()));
    assert_eq!(fields.find_all(bytes, b"x-empty").count(), 2);
    assert!(fields.find_all(bytes, b"x-other").next().is_none());
    assert!(
        fields.has(FieldId::Accept)
            && !fields.has(FieldId::ContentLength)
            && !fields.has_several(FieldId::Host)
    );
}

#[test]
fn an_answer_is_read() {
    for (text, status, reason, version) in [
        ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", 200, "OK", Version::Http11),
        ("HTTP/1.1 200 \r\nA: b\r\n\r\n", 200, "", Version::Http11),
        ("HTTP/1.1 200\r\nA: b\r\n\r\n", 200, "", Version::Http11),
        ("HTTP/1.0 404 Not  Found \r\nA: b\r\n\r\n", 404, "Not  Found ", Version::Http10),
        ("HTTP/1.9 999 x\r\nA: b\r\n\r\n", 999, "x", Version::Http11),
        (
            "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            103,
            "Early Hints",
            Version::Http11,
        ),
    ] {
        let (line, fields) = response(text).unwrap().unwrap();
        assert_eq!((line.status, line.version), (status, version), "{text:?}");
        assert_eq!(line.reason.get(text.as_bytes()), reason.as_bytes(), "{text:?}");
        assert_eq!(pairs(&fields, text.as_bytes()), [("A".to_owned(), "b".to_owned())]);
        assert_eq!(line.length, text.find("\r\n\r\n").unwrap() + 4);
    }
}

#[test]
fn reasons_and_values_may_have_octets_above_127() {
    let text = b"HTTP/1.1 200 Gr\xfc\xdf\r\nA: \xe4\xff\r\n\r\n";
    let (line, fields) = response(text).unwrap().unwrap();
    assert_eq!(line.reason.get(text), b"Gr\xfc\xdf");
    assert_eq!(fields.find_all(text, b"a").next().unwrap().value.get(text), b"\xe4\xff");
    assert!(request(b"GET / HTTP/1.1\r\nHost: a\r\nA: \xe4\xff\r\n\r\n").unwrap().is_some());
}

// RFC 9112 §2.2: lines end in CR LF.
#[test]
fn a_bare_line_feed_is_refused() {
    for text in [
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
    ] {
        assert_eq!(request(text), Err(HeadError::BareLineFeed), "{text:?}");
    }
}

// RFC 9112 §2.2: a recipient may take LF alone for the end of a line, which small servers write in their responses.
#[test]
fn a_line_feed_alone_ends_the_lines_of_a_response() {
    for (text, reason, read) in [
        ("HTTP/1.1 200 OK\nA: b\n\nbody\n\n", "OK", vec![("A", "b")]),
        ("HTTP/1.1 200\nA: b \nC:\n\n", "", vec![("A", "b"), ("C", "")]),
        ("HTTP/1.1 200 OK\r\nA: b\n\r\n", "OK", vec![("A", "b")]),
        ("HTTP/1.1 200 OK\n\n", "OK", vec![]),
        ("HTTP/1.1 200 OK\nA: b\r\n\n", "OK", vec![("A", "b")]),
    ] {
        let (line, fields) = response(text).unwrap().unwrap();
        let read: Vec<_> =
            read.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(
            (line.reason.get(text.as_bytes()), pairs(&fields, text.as_bytes())),
            (reason.as_bytes(), read)
        );
        let body = text.find("body").unwrap_or(text.len());
        assert_eq!(line.length, body, "{text:?}");
        // In pieces it is the same.
        let (mut scanned, mut fields) = (0, Fields::default());
        let limits = HeadLimits { bytes: 100, fields: 3, line: 90, lenient_query: false };
        let ends = (1..=text.len()).find(|end| {
            let read = read_response(&text.as_bytes()[..*end], &mut scanned, &limits, &mut fields);
            read.unwrap().is_some()
        });
        assert_eq!(ends, Some(body), "{text:?}");
    }
    assert_eq!(response("HTTP/1.1 200 OK\nA: b\n c\n\n"), Err(HeadError::FoldedLine));
    assert_eq!(response("HTTP/1.1 200 OK\nA\n\n"), Err(HeadError::BadName));
    assert_eq!(response("HTTP/1.1 200 OK\nA: b\rc\n\n"), Err(HeadError::BareCarriageReturn));
}

// RFC 9112 §2.2.
#[test]
fn a_bare_carriage_return_is_refused() {
    for text in [
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n",
    ] {
        assert_eq!(request(text), Err(HeadError::BareCarriageReturn), "{text:?}");
    }
    assert_eq!(with("A\r: b"), Err(HeadError::BadName));
    assert_eq!(response("HTTP/1.1 200 O\rK\r\nA: b\r\n\r\n"), Err(HeadError::BareCarriageReturn));
}

// RFC 9112 §2.2: at least one empty line before a request is skipped.
#[test]
fn a_few_empty_lines_before_a_request_are_skipped() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for lines in 0..=8 {
        let text = format!("{}{head}", "\r\n".repeat(lines));
        assert_eq!(request(&text).unwrap().unwrap().0.length, text.len());
    }
    assert_eq!(request(format!("{}{head}", "\r\n".repeat(9))), Err(HeadError::EmptyLines));
    assert_eq!(request("\r\n\r\n"), Ok(None));
    assert_eq!(response("\r\nHTTP/1.1 200 OK\r\n\r\n"), Err(HeadError::BadStatusLine));
}

// RFC 9112 §2.2: white space between the first line and the first field. §5.2: folded lines.
#[test]
fn a_line_that_starts_with_white_space_is_refused() {
    for line in [" A: b", "\tA: b", "A: b\r\n c", "A: b\r\n\tc", "A: b\r\n ", "A:\r\n b"] {
        assert_eq!(with(line), Err(HeadError::FoldedLine), "{line:?}");
    }
    assert_eq!(request("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), Err(HeadError::FoldedLine));
    assert_eq!(response("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"), Err(HeadError::FoldedLine));
}

// RFC 9112 §2.3 and RFC 9110 §2.5.
#[test]
fn versions_are_those_of_http_1() {
    assert_eq!(request("GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().0.version, Version::Http10);
    for minor in 1..=9 {
        let text = format!("GET / HTTP/1.{minor}\r\nHost: a\r\n\r\n");
        assert_eq!(request(text).unwrap().unwrap().0.version, Version::Http11);
    }
    for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/3.1", "HTTP/9.9"] {
        assert_eq!(lined(&format!("GET / {version}")), Err(HeadError::OtherVersion), "{version}");
    }
    assert_eq!(request("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap_err().status(), 505);
    for version in [
        "http/1.1",
        "HTTP/1,1",
        "HTTP/11",
        "HTTP/1.",
        "HTTPS/1.1",
        "HTTP /1.1",
        "H",
        "\u{c0}TTP/1.1",
        "HTTP/+1.1",
    ] {
        let error = lined(&format!("GET / {version}")).unwrap_err();
        assert!(matches!(error, HeadError::BadVersion), "{version}: {error:?}");
    }
    assert_eq!(lined("GET / HTTP/1.10"), Err(HeadError::BadRequestLine));
    assert_eq!(response("HTTP/2.0 200 OK\r\n\r\n"), Err(HeadError::OtherVersion));
}

// RFC 9112 §3: one space between the three parts of a request line.
#[test]
fn a_request_line_has_three_parts_and_two_spaces() {
    for line in [
        "GET  / HTTP/1.1",
        "GET /",
        "GET / ",
        "GET /a b HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1 x",
        "GET /  HTTP/1.1",
        "GET",
        "GET ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1\t",
        "GET\u{b}/ HTTP/1.1",
    ] {
        let error = lined(line).unwrap_err();
        assert_eq!(error.status(), 400, "{line:?}: {error:?}");
    }
    assert_eq!(lined("GET  / HTTP/1.1"), Err(HeadError::BadRequestLine));
    assert_eq!(lined("GET / HTTP/1.1 "), Err(HeadError::BadRequestLine));
}

// RFC 9112 §3.1 and RFC 9110 §9.1.
#[test]
fn a_method_is_a_token_of_a_bounded_length() {
    for method in ["GET", "get", "M-SEARCH", "X!#$%&'*+-.^_`|~9", "UPDATEREDIRECTREF"] {
        assert_eq!(lined(&format!("{method} / HTTP/1.1")), Ok(()), "{method}");
    }
    for method in ["", "GE(T", "G\u{7f}T", "G\0T", "\u{dc}BER", "GET:", "\"GET\"", "GET/"] {
        assert_eq!(lined(&format!("{method} / HTTP/1.1")), Err(HeadError::BadMethod), "{method:?}");
    }
    let long = lined(&format!("{} / HTTP/1.1", "M".repeat(33)));
    assert_eq!(long.unwrap_err().status(), 501);
    assert_eq!(Method::of(b"get"), Method::Other, "methods are case-sensitive");
}

// RFC 9112 §3.2 and RFC 3986 §2.
#[test]
fn a_target_has_octets_of_uris_only() {
    for target in [
        "/",
        "/a/b",
        "/%41%2f%00%ff",
        "/a;b=c,d",
        "/a?b=c&d[]=e?f/g",
        "/[x]",
        "//a//",
        "/a\\b",
        "/?%",
        "/?a=%zz&b=100%",
        "/~a_b-c.d!$&'()*+,;=:@",
        "/.",
        "/..",
    ] {
        assert_eq!(lined(&format!("GET {target} HTTP/1.1")), Ok(()), "{target}");
    }
    for octet in (0..=u8::MAX).filter(|octet| !octet.is_ascii_graphic()).chain(*b"\"<>^`{|}") {
        for place in ["/", "/?"] {
            let mut text = format!("GET {place}").into_bytes();
            text.push(octet);
            text.extend_from_slice(b"x HTTP/1.1\r\nHost: a\r\n\r\n");
            let error = request(&text).unwrap_err();
            let status = error.status();
            assert_eq!(status, 400, "{octet:02x} at {place}: {error:?}");
        }
    }
    for target in ["/#", "/a#b", "/?a#b"] {
        assert_eq!(lined(&format!("GET {target} HTTP/1.1")), Err(HeadError::Fragment), "{target}");
    }
    for target in ["/%", "/%4", "/%4g", "/%g4", "/%%41", "/a%?b"] {
        assert_eq!(lined(&format!("GET {target} HTTP/1.1")), Err(HeadError::BadEscape), "{target}");
    }
}

// RFC 9112 §3.2.1 to §3.2.4.
#[test]
fn a_target_has_one_of_the_forms() {
    let form = |line: &str| {
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        request(&text).map(|read| {
            let form = read.unwrap().0.form;
            let part = |span: Span| String::from_utf8_lossy(span.get(text.as_bytes())).into_owned();
            match form {
                Form::Origin => "origin".to_owned(),
                Form::Asterisk => "asterisk".to_owned(),
                Form::Absolute { authority, path } => format!("{} {}", part(authority), part(path)),
            }
        })
    };
    for (line, expected) in [
        ("GET /a", "origin"),
        ("GET //a", "origin"),
        ("OPTIONS *", "asterisk"),
        ("OPTIONS /", "origin"),
        ("GET http://b/c?d", "b /c?d"),
        ("GET HTTPS://b:443", "b:443 "),
        ("GET http://[::1]:80?q", "[::1]:80 ?q"),
    ] {
        assert_eq!(form(line).unwrap(), expected, "{line}");
    }
    for line in [
        "GET *",
        "GET a",
        "GET a/b",
        "GET ?a",
        "OPTIONS **",
        "GET ftp://b/",
        "GET http:/b",
        "GET http:b",
        "GET :80",
        "GET javascript:a",
    ] {
        assert_eq!(form(line), Err(HeadError::BadForm), "{line}");
    }
    for line in ["CONNECT a:443", "CONNECT a", "CONNECT *", "CONNECT /"] {
        assert_eq!(form(line).unwrap_err().status(), 501, "{line}");
    }
}

// RFC 9112 §3: 414. RFC 6585 §5: 431.
#[test]
fn large_heads_are_refused_by_what_is_large() {
    let limits = HeadLimits { bytes: 100, fields: 3, line: 20, lenient_query: false };
    let read = |text: &str| {
        let mut fields = Fields::default();
        read_request(text.as_bytes(), &mut 0, &limits, &mut fields).map(|it| it.map(|it| it.length))
    };
    let fitting = "GET /aaaaaaaaaaaaaaaaaaa HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(read(fitting), Ok(Some(fitting.len())));
    assert_eq!(read(&fitting.replacen('a', "ab", 1)).unwrap_err().status(), 414);
    assert_eq!(read(&format!("GET /{}", "a".repeat(99))).unwrap_err().status(), 414);
    assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\nB:\r\nC:\r\n\r\n").map(|it| it.is_some()), Ok(true));
    assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\nB:\r\nC:\r\nD:\r\n\r\n"), Err(HeadError::TooManyFields));
    let exact =
        |length: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nB: {}\r\n\r\n", "b".repeat(length - 32));
    assert_eq!(read(&exact(100)), Ok(Some(100)));
    assert_eq!(read(&exact(101)), Err(HeadError::TooLarge));
    assert_eq!(read(&exact(101)[..99]), Ok(None));
    assert_eq!(read(&exact(101)[..100]), Err(HeadError::TooLarge), "it cannot fit any more");
    let mut fields = Fields::default();
    let answer = format!("HTTP/1.1 200 OK\r\nB: {}\r\n\r\n", "b".repeat(100));
    assert_eq!(read_response(answer.as_bytes(), &mut 0, &limits, &mut fields), Err(HeadError::TooLarge));
}

// RFC 9112 §3.2, RFC 9110 §7.2.
#[test]
fn a_request_has_one_host() {
    let hosts = |fields: &str| request(format!("GET / HTTP/1.1\r\n{fields}\r\n")).map(|it| it.is_some());
    assert_eq!(hosts("Host: a.example:80\r\n"), Ok(true));
    assert_eq!(hosts(""), Err(HeadError::NoHost));
    assert_eq!(hosts("Hosts: a\r\n"), Err(HeadError::NoHost));
    for fields in ["Host: a\r\nHost: a\r\n", "Host: a\r\nB: c\r\nhost: b\r\n", "Host: a\r\nHost:\r\n"] {
        assert_eq!(hosts(fields), Err(HeadError::ManyHosts), "{fields:?}");
    }
    assert!(request("GET / HTTP/1.0\r\n\r\n").unwrap().is_some(), "HTTP/1.0 has no Host");
    assert_eq!(request("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), Err(HeadError::ManyHosts));
    assert_eq!(
        request("GET http://a/ HTTP/1.1\r\n\r\n"),
        Err(HeadError::NoHost),
        "also with the absolute form"
    );
}

// RFC 9112 §5.1.
#[test]
fn white_space_before_a_colon_is_refused() {
    for line in ["A : b", "A\t: b", "A \t : b", "Content-Length : 5"] {
        assert_eq!(with(line), Err(HeadError::SpaceBeforeColon), "{line:?}");
    }
    assert_eq!(response("HTTP/1.1 200 OK\r\nA : b\r\n\r\n"), Err(HeadError::SpaceBeforeColon));
}

// RFC 9112 §5 and RFC 9110 §5.1.
#[test]
fn a_field_name_is_a_token() {
    for line in [
        ":",
        ": b",
        "A",
        "A b",
        "A b: c",
        "A(b): c",
        "A\0: b",
        "A\u{7f}: b",
        "\u{e4}: b",
        "A/b: c",
        "\"A\": b",
        "A@: b",
    ] {
        assert_eq!(with(line), Err(HeadError::BadName), "{line:?}");
    }
    for line in ["A:b", "!#$%&'*+-.^_`|~09aZ: b", "A::", "A: :"] {
        assert_eq!(with(line), Ok(()), "{line:?}");
    }
}

// RFC 9110 §5.5.
#[test]
fn a_field_value_has_no_control_octets() {
    for octet in (0..0x20_u8).chain([0x7f]).filter(|octet| !matches!(octet, b'\t' | b'\r' | b'\n')) {
        for value in
            [vec![octet], vec![b'a', octet], vec![octet, b'a'], [&[b'a'; 20], [octet].as_slice()].concat()]
        {
            let text = [b"GET / HTTP/1.1\r\nHost: a\r\nA: ", value.as_slice(), b"\r\n\r\n"].concat();
            assert_eq!(request(&text), Err(HeadError::BadValue), "{value:?}");
            let text = [b"HTTP/1.1 200 OK\r\nA: ", value.as_slice(), b"\r\n\r\n"].concat();
            assert_eq!(response(&text), Err(HeadError::BadValue), "{value:?}");
        }
    }
    assert_eq!(with("A: b\tc d\t\te"), Ok(()));
}

// RFC 9112 §4.
#[test]
fn a_status_line_has_a_version_a_code_and_a_reason() {
    for line in [
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1 20",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 x",
        "HTTP/1.1 -12 x",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "HTTP 200 OK",
        "",
        "<html>",
        "GET / HTTP/1.1",
    ] {
        assert_eq!(response(format!("{line}\r\nA: b\r\n\r\n")), Err(HeadError::BadStatusLine), "{line:?}");
    }
    assert_eq!(response("HTTP/1.1 200 a\0b\r\n\r\n"), Err(HeadError::BadValue));
}

#[test]
fn a_head_that_is_not_complete_is_waited_for() {
    let text = "\r\nGET http://a/%41?q HTTP/1.1\r\nHost: a\r\nA: b \t\r\nC:\r\n\r\n";
    for length in 0..text.len() {
        assert_eq!(request(&text[..length]), Ok(None), "{:?}", &text[..length]);
    }
    let text = "HTTP/1.1 200 OK\r\nA: b \t\r\nC:\r\n\r\n";
    for length in 0..text.len() {
        assert_eq!(response(&text[..length]), Ok(None), "{:?}", &text[..length]);
    }
}

#[test]
fn what_comes_octet_by_octet_is_refused_as_soon_as_its_line_or_the_room_ends() {
    let limits = HeadLimits { bytes: 100, fields: 3, line: 90, lenient_query: false };
    let refused_at = |text: &str| {
        let (mut scanned, mut fields) = (0, Fields::default());
        (1..=text.len()).find_map(|length| {
            let read = read_request(&text.as_bytes()[..length], &mut scanned, &limits, &mut fields);
            read.err().map(|error| (length, error))
        })
    };
    let bare = "GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n";
    assert_eq!(refused_at(bare), Some((24, HeadError::BareLineFeed)));
    let endless = format!("GET / HTTP/1.1\r\nHost: {}", "a".repeat(200));
    assert_eq!(refused_at(&endless), Some((100, HeadError::TooLarge)));
}

#[test]
fn known_names_are_found_in_any_case() {
    for id in fields::all() {
        assert_eq!(FieldId::of(id.name().as_bytes()), id);
        assert_eq!(FieldId::of(id.name().to_uppercase().as_bytes()), id);
        assert_eq!(FieldId::of(format!("{}x", id.name()).as_bytes()), FieldId::Other);
        // Some of these are in the slot of the known name.
        for end in (b'a'..=b'z').flat_map(|a| (b'a'..=b'z').map(move |b| [a, b])) {
            assert_eq!(FieldId::of(&[id.name().as_bytes(), &end].concat()), FieldId::Other);
        }
        for at in 0..id.name().len() {
            let mut name = id.name().as_bytes().to_vec();
            name[at] = if name[at] == b'z' { b'y' } else { b'z' };
            assert_ne!(FieldId::of(&name), id);
        }
    }
    assert_eq!(FieldId::of(b""), FieldId::Other);
    assert_eq!(FieldId::of(b"ho~t"), FieldId::Other);
}
