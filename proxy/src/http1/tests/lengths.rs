//! How long bodies are, and what `Connection` says, by section.

use super::*;

fn of_request(version: &str, fields: &str) -> Result<BodyLength, HeadError> {
    let text = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
    let (line, fields) = request(&text).unwrap().unwrap();
    request_body(line.version, &fields, text.as_bytes())
}

fn of_answer(head: bool, line: &str, fields: &str) -> Result<BodyLength, HeadError> {
    let text = format!("HTTP/{line}\r\n{fields}\r\n");
    let (line, fields) = response(&text).unwrap().unwrap();
    response_body(head, line.status, &fields, text.as_bytes())
}

// RFC 9112 §6.3, rules 6 to 8.
#[test]
fn a_request_says_how_long_its_body_is() {
    assert_eq!(of_request("1.1", ""), Ok(BodyLength::None));
    assert_eq!(of_request("1.0", ""), Ok(BodyLength::None));
    assert_eq!(of_request("1.1", "Content-Length: 0\r\n"), Ok(BodyLength::Sized(0)));
    assert_eq!(of_request("1.0", "Content-Length: 5\r\n"), Ok(BodyLength::Sized(5)));
    assert_eq!(of_request("1.1", "content-length:\t007 \r\n"), Ok(BodyLength::Sized(7)));
    let most = "Content-Length: 9223372036854775807\r\n";
    assert_eq!(of_request("1.1", most), Ok(BodyLength::Sized(u64::MAX / 2)));
    assert_eq!(of_request("1.1", "Transfer-Encoding: chunked\r\n"), Ok(BodyLength::Chunked));
    assert_eq!(of_request("1.1", "transfer-encoding:  CHUNKED\t\r\n"), Ok(BodyLength::Chunked));
}

// RFC 9112 §6.2 and §6.3 rule 5, RFC 9110 §8.6.
#[test]
fn a_length_is_one_number() {
    for value in [
        "",
        "+5",
        "-5",
        "5 5",
        "5,5",
        "5, 5",
        "5,",
        ",5",
        "0x5",
        "5h",
        "5.0",
        "1e3",
        "9223372036854775808",
        "18446744073709551616",
        "99999999999999999999999",
        "\u{665}",
        "5;a",
        "\"5\"",
        "5_0",
    ] {
        assert_eq!(
            of_request("1.1", &format!("Content-Length: {value}\r\n")),
            Err(HeadError::BadLength),
            "{value:?}"
        );
        assert_eq!(
            of_answer(false, "1.1 200 OK", &format!("Content-Length: {value}\r\n")),
            Err(HeadError::BadLength)
        );
    }
    for fields in
        ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5\r\nA: b\r\ncontent-length: 6\r\n"]
    {
        assert_eq!(of_request("1.1", fields), Err(HeadError::ManyLengths), "{fields:?}");
        assert_eq!(of_answer(false, "1.1 200 OK", fields), Err(HeadError::ManyLengths), "{fields:?}");
    }
}

// RFC 9112 §6.1 and §6.3 rule 3.
#[test]
fn a_length_beside_a_coding_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: gzip\r\nContent-Length: x\r\n",
    ] {
        for version in ["1.0", "1.1"] {
            assert_eq!(of_request(version, fields), Err(HeadError::LengthAndCoding), "{fields:?}");
        }
        assert_eq!(of_answer(false, "1.1 200 OK", fields), Err(HeadError::LengthAndCoding), "{fields:?}");
    }
}

// RFC 9112 §6.1, §6.3 rule 4 and §7.
#[test]
fn the_only_coding_is_one_chunked() {
    for fields in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: ch unked\r\n",
    ] {
        assert_eq!(of_request("1.1", fields), Err(HeadError::OtherCoding), "{fields:?}");
        assert_eq!(of_answer(false, "1.1 200 OK", fields), Err(HeadError::OtherCoding), "{fields:?}");
        assert_eq!(of_answer(false, "1.0 200 OK", fields), Err(HeadError::OtherCoding), "{fields:?}");
    }
}

// RFC 9112 §6.1: a response is processed, and its connection is not used again.
#[test]
fn http_1_0_has_no_codings_and_programs_that_answer_with_one_are_understood() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(of_request("1.0", chunked), Err(HeadError::CodingInHttp10));
    assert_eq!(of_answer(false, "1.0 200 OK", chunked), Ok(BodyLength::Chunked));
    let both = format!("{chunked}Content-Length: 5\r\n");
    assert_eq!(of_answer(false, "1.0 200 OK", &both), Err(HeadError::LengthAndCoding));
    assert!(announced_wrongly("1.0 200 OK", chunked));
}

// RFC 9112 §6.3, rules 1, 6 to 8.
#[test]
fn an_answer_says_how_long_its_body_is() {
    let (sized, chunked) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    assert_eq!(of_answer(false, "1.1 200 OK", sized), Ok(BodyLength::Sized(5)));
    assert_eq!(of_answer(false, "1.1 404 No", chunked), Ok(BodyLength::Chunked));
    assert_eq!(of_answer(false, "1.1 200 OK", ""), Ok(BodyLength::UntilClose));
    assert_eq!(of_answer(false, "1.0 200 OK", ""), Ok(BodyLength::UntilClose));
    for fields in [sized, chunked, ""] {
        assert_eq!(of_answer(true, "1.1 200 OK", fields), Ok(BodyLength::None), "an answer to HEAD");
        for status in ["100 x", "101 x", "103 x", "199 x", "204 x", "304 x"] {
            assert_eq!(of_answer(false, &format!("1.1 {status}"), fields), Ok(BodyLength::None), "{status}");
        }
    }
    for status in ["200 x", "205 x", "206 x", "303 x", "305 x", "500 x", "600 x"] {
        assert_eq!(of_answer(false, &format!("1.1 {status}"), ""), Ok(BodyLength::UntilClose), "{status}");
    }
}

// RFC 9110 §8.6 and RFC 9112 §6.1: no length and no coding in 1xx and 204.
#[test]
fn a_body_that_must_not_be_there_is_noticed() {
    let forbidden = |status: &str, fields: &str| announced_wrongly(&format!("1.1 {status}"), fields);
    assert!(forbidden("204", "Content-Length: 5\r\n"));
    assert!(forbidden("204", "Transfer-Encoding: chunked\r\n"));
    assert!(forbidden("103", "Content-Length: 5\r\n"));
    assert!(!forbidden("204", "Content-Length: 0\r\n"));
    assert!(!forbidden("204", ""));
    assert!(!forbidden("304", "Content-Length: 5\r\n"), "it is the length of the answer with a body");
    assert!(!forbidden("200", "Content-Length: 5\r\n"));
    assert!(!forbidden("200", "Transfer-Encoding: chunked\r\n"));
}

fn announced_wrongly(line: &str, fields: &str) -> bool {
    let text = format!("HTTP/{line}\r\n{fields}\r\n");
    let (line, fields) = response(&text).unwrap().unwrap();
    announces_wrongly(&line, &fields, text.as_bytes())
}

// RFC 4559 §6.
#[test]
fn a_connection_that_a_user_is_known_on_is_noticed() {
    let noticed = |fields: &str| {
        let text = format!("HTTP/1.1 401 Who\r\n{fields}\r\n");
        let (_, fields) = response(&text).unwrap().unwrap();
        authenticates_connection(&fields, text.as_bytes())
    };
    assert!(noticed("WWW-Authenticate: Basic realm=a\r\nWWW-Authenticate: NTLM\r\n"));
    assert!(noticed("WWW-Authenticate: negotiate YII=\r\n") && noticed("Authorization: NTLM TlRM\r\n"));
    assert!(
        !noticed("WWW-Authenticate: Basic realm=\"NTLM\"\r\nAuthorization: Bearer NTLM\r\n") && !noticed("")
    );
}

fn options(fields: &str) -> (ConnectionOptions, Vec<String>) {
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let (_, fields) = request(&text).unwrap().unwrap();
    let bytes = text.as_bytes();
    let options = connection_options(&fields, bytes);
    let left = fields.iter().filter(|it| !options.strips(it, &fields, bytes));
    let left = left.map(|it| String::from_utf8_lossy(it.name.get(bytes)).into_owned());
    (options, left.collect())
}

// RFC 9110 §7.6.1.
#[test]
fn listed_fields_and_those_about_the_connection_are_stripped() {
    let (_, left) = options(
        "Connection: close, X-One,,\tAccept ,\r\nX-One: 1\r\nX-Two: 2\r\nx-three: 3\r\nConnection: X-THREE\r\nAccept: b\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nTE: trailers\r\nUpgrade: x\r\nProxy-Authorization: a\r\n\
         HTTP2-Settings: a\r\nTrailer: a\r\nCookie: a\r\n",
    );
    assert_eq!(left, ["Host", "X-Two", "Trailer", "Cookie"]);
}

#[test]
fn a_client_cannot_have_fields_removed_that_the_gateway_answers_for() {
    let (_, left) = options(
        "Connection: Host, Content-Length, X-Forwarded-For, Forwarded, Via, X-Request-Id, Waypost-Hops\r\nContent-Length: 5\r\n\
         X-Forwarded-For: a\r\nForwarded: for=b\r\nVia: 1.1 a\r\nX-Request-Id: b\r\nWaypost-Hops: 1\r\n",
    );
    let kept =
        ["Host", "Content-Length", "X-Forwarded-For", "Forwarded", "Via", "X-Request-Id", "Waypost-Hops"];
    assert_eq!(left, kept);
}

// RFC 9112 §9.3.
#[test]
fn whether_a_connection_persists_follows_from_version_and_options() {
    for (fields, http11, http10) in [
        ("", true, false),
        ("Connection: close\r\n", false, false),
        ("Connection: CLOSE\r\n", false, false),
        ("Connection: keep-alive\r\n", true, true),
        ("Connection: Keep-Alive\r\nConnection: close\r\n", false, false),
        ("Connection: keep-alive, close\r\n", false, false),
        ("Connection: closed\r\n", true, false),
        ("Connection: \"close\"\r\n", true, false),
        ("Proxy-Connection: keep-alive\r\n", true, false),
    ] {
        let (options, _) = options(fields);
        assert_eq!(options.persists(Version::Http11), http11, "{fields:?}");
        assert_eq!(options.persists(Version::Http10), http10, "{fields:?}");
    }
}

// RFC 9110 §7.8: `Upgrade` counts only if `Connection` lists it.
#[test]
fn an_upgrade_counts_if_connection_lists_it() {
    assert!(options("Connection: Upgrade\r\nUpgrade: websocket\r\n").0.upgrade);
    assert!(!options("Connection: Upgrade\r\n").0.upgrade);
    assert!(!options("Upgrade: websocket\r\n").0.upgrade);
}

// RFC 9110 §10.1.4.
#[test]
fn trailers_are_welcome_also_if_connection_does_not_list_te() {
    assert!(options("Connection: TE\r\nTE: gzip;q=0.5, Trailers\r\n").0.te_trailers);
    assert!(options("TE: trailers\r\n").0.te_trailers);
    assert!(!options("Connection: te\r\nTE: gzip\r\n").0.te_trailers);
}
