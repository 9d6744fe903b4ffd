use super::*;

fn question(method: &str, url: &str, headers: &[&str]) -> Question {
    Question {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers.iter().map(|it| (*it).to_owned()).collect(),
        client: None,
        cluster: None,
    }
}

fn written(method: &str, url: &str, headers: &[&str]) -> (String, bool, u16) {
    let written = asked::write(&question(method, url, headers)).unwrap();
    (String::from_utf8(written.head).unwrap(), written.https, written.port)
}

#[test]
fn a_request_is_written_as_a_client_sends_it() {
    let cases: [(&str, &[&str], &str, bool, u16); 6] = [
        ("http://a.example/x?y", &[], "GET /x?y HTTP/1.1\r\nHost: a.example\r\n\r\n", false, 80),
        (
            "HTTPS://a.example:8443",
            &["B:  c "],
            "GET / HTTP/1.1\r\nHost: a.example:8443\r\nB: c\r\n\r\n",
            true,
            8443,
        ),
        ("http://a.example?q#f", &[], "GET /?q HTTP/1.1\r\nHost: a.example\r\n\r\n", false, 80),
        ("https://[::1]/%2F", &[], "GET /%2F HTTP/1.1\r\nHost: [::1]\r\n\r\n", true, 443),
        ("http://[::1]:81/", &[], "GET / HTTP/1.1\r\nHost: [::1]:81\r\n\r\n", false, 81),
        ("/x", &["host: b.example"], "GET /x HTTP/1.1\r\nhost: b.example\r\n\r\n", false, 80),
    ];
    for (url, headers, head, https, port) in cases {
        assert_eq!(written("GET", url, headers), (head.to_owned(), https, port), "{url}");
    }
}

#[test]
fn every_mistake_is_named() {
    let mistakes =
        asked::write(&question("GE T", "ftp://a", &["a b: c", "x: 1", "no-colon", "y: a\r\nz"])).unwrap_err();
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "request: method: \"GE T\" is not a method; expected letters such as GET",
            "request: headers[0]: \"a b\" is not the name of a header field; expected `Name: value`, as in `X-Canary: yes`",
            "request: headers[2]: \"no-colon\" has no colon; expected `Name: value`, as in `X-Canary: yes`",
            "request: headers[3]: the value of y has a line break or a NUL; expected `Name: value`, as in `X-Canary: yes`",
            "request: url: \"ftp://a\" does not start with http:// or https://; expected a URL such as https://shop.example.com/cart",
        ]
    );
    for (url, wrong) in
        [("/x", "has no host"), ("http:///x", "has no host"), ("http://a/b c", "has the octet 0x20")]
    {
        let mistakes = asked::write(&question("GET", url, &[])).unwrap_err();
        assert!(mistakes.len() == 1 && mistakes[0].problem.contains(wrong), "{mistakes:?}");
    }
}
