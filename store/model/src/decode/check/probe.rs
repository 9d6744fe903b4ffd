//! The part of a check that its `type` decides.
//!
//! [`KEYS`] lists which key belongs to which type. Every key is read for every type, so that a wrong type, or a key of
//! another type, is one error that names its cause.

use super::super::some;
use crate::{
    DnsProbe, DomainName, ExternalProbe, GrpcProbe, Header, HttpProbe, HttpVersion, Method, Probe, ProbeType,
    Span, StatusRange, TcpProbe, Tls, TlsProbe, rdata,
    read::{Fields, Reader},
    tree::Value,
    words::join,
};

use ProbeType::{Dns, External, Grpc, Http, Https, Icmp, Tcp, Tls as TlsOnly};

/// The keys that not every type has, with those that have them.
const KEYS: [(&str, &[ProbeType]); 20] = [
    ("port", &[Http, Https, Tcp, TlsOnly, Dns, Grpc, External]),
    ("send", &[Tcp]),
    ("expect", &[Tcp]),
    ("path", &[Http, Https]),
    ("host", &[Http, Https, Grpc]),
    ("expect_status", &[Http, Https]),
    ("method", &[Http, Https]),
    ("http_version", &[Http, Https]),
    ("headers", &[Http, Https]),
    ("expect_body", &[Http, Https]),
    ("tls", &[Http, Https, Grpc]),
    ("server_name", &[TlsOnly, Https, Http, Grpc]),
    ("verify", &[TlsOnly, Https, Http, Grpc]),
    ("warn_before", &[TlsOnly, Https, Http, Grpc]),
    ("query", &[Dns]),
    ("record_type", &[Dns]),
    ("expect_rcode", &[Dns]),
    ("expect_record", &[Dns]),
    ("service", &[Grpc]),
    ("program", &[External]),
];

/// The probe and its port.
pub(super) fn read(fields: &Fields<'_>) -> Option<(Probe, u16)> {
    let kind = fields.required_word("type");
    for (key, types) in KEYS {
        let Some(field) = fields.get(key) else { continue };
        if let Some(kind) = kind.filter(|kind| !types.contains(kind)) {
            let having = ProbeType::ALL.iter().filter(|it| types.contains(it)).map(|it| it.as_str());
            let expected = format!("this key only with type: {}", join(having));
            field.error(format!("means nothing to a check of type {kind}"), expected);
        }
    }
    match kind? {
        Tcp => Some(Probe::Tcp(tcp(fields))).zip(needed_port(fields)),
        TlsOnly => {
            let tls = terms(fields);
            Some(Probe::Tls(Box::new(TlsProbe { tls }))).zip(needed_port(fields))
        }
        Http => {
            let tls = tls_if_asked(fields);
            let usual = if tls.is_some() { 443 } else { 80 };
            Some((http(fields, tls), fields.or("port", usual, port)))
        }
        Https => {
            if let Some(field) = fields.get("tls")
                && field.boolean() == Some(false)
            {
                field.error("contradicts type: https", "type: http for a check without TLS");
            }
            Some((http(fields, Some(terms(fields))), fields.or("port", 443, port)))
        }
        Dns => dns(fields).map(|it| Probe::Dns(Box::new(it))).zip(Some(fields.or("port", 53, port))),
        Grpc => Some(grpc(fields)).zip(needed_port(fields)),
        Icmp => Some((Probe::Icmp {}, 0)),
        External => {
            let expected = "the name that the probers' configuration gives the program, in [prober.external]";
            let program = fields.required("program", expected, |field| field.parse());
            let port = fields.optional("port", port).unwrap_or(0);
            Some((Probe::External(Box::new(ExternalProbe { program: program? })), port))
        }
    }
}

fn port(field: Reader<'_>) -> Option<u16> {
    field.int(1..=u16::MAX)
}

fn needed_port(fields: &Fields<'_>) -> Option<u16> {
    fields.required("port", "a port from 1 to 65535", port)
}

/// Any text, line ends and all; empty ones are refused because they would match anything.
fn words(field: &Reader<'_>, most: usize) -> Option<String> {
    let expected = format!("a text of 1 to {most} bytes");
    match &field.node().value {
        Value::Scalar(scalar) if !field.is_null() && (1..=most).contains(&scalar.text.len()) => {
            Some(scalar.text.clone())
        }
        _ => {
            field.wrong(expected);
            None
        }
    }
}

fn tcp(fields: &Fields<'_>) -> TcpProbe {
    let read = |field: Reader<'_>| words(&field, TcpProbe::MAX).map(String::into_boxed_str);
    TcpProbe { send: fields.optional("send", read), expect: fields.optional("expect", read) }
}

fn tls_if_asked(fields: &Fields<'_>) -> Option<Tls> {
    if fields.or("tls", false, |field| field.boolean()) {
        return Some(terms(fields));
    }
    for key in ["server_name", "verify", "warn_before"] {
        if let Some(field) = fields.get(key) {
            field.error("means nothing to a check without TLS", "this key only with tls: true");
        }
    }
    None
}

fn terms(fields: &Fields<'_>) -> Tls {
    const MAX_WARNING: Span = super::millis(86_400_000 * 3_650);
    Tls {
        server_name: fields.optional("server_name", server_name),
        verify: fields.or("verify", true, |field| field.boolean()),
        warn_before: fields
            .optional("warn_before", |field| field.span_within(super::millis(1_000)..=MAX_WARNING)),
    }
}

/// A name that SNI can carry: no address, no wildcard (RFC 6066 §3).
pub(in crate::decode) fn server_name(field: Reader<'_>) -> Option<DomainName> {
    let name: DomainName = field.parse()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let address = name.as_str().parse::<std::net::IpAddr>().is_ok();
    if address || !name.as_str().bytes().all(plain) {
        field.wrong("a host name such as gw.example.com (an address is never sent as server name)");
        return None;
    }
    Some(name)
}

fn visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn host(field: Reader<'_>) -> Option<String> {
    let host = field.text(255)?;
    let fits = visible(host) && !host.contains(['/', '@', '?', '#']);
    if !fits {
        field.wrong("a Host header: a name or an address, with a port if need be");
    }
    fits.then(|| host.to_owned())
}

fn path(field: Reader<'_>) -> Option<&str> {
    let path = field.text(2_000)?;
    let fits = path.starts_with('/') && visible(path) && !path.contains('#');
    if !fits {
        field.wrong("a path that starts with / and has no spaces");
    }
    fits.then_some(path)
}

fn http(fields: &Fields<'_>, tls: Option<Tls>) -> Probe {
    let ok = StatusRange::new(200, 200).into_iter().collect();
    let method = fields.or("method", Method::default(), |field| field.one_of());
    let expect_body = fields.optional("expect_body", |field| words(&field, TcpProbe::MAX));
    if let (Some(field), Method::Head) = (fields.get("expect_body"), method) {
        field.error("an answer to HEAD has no body", "method: GET");
    }
    Probe::Http(Box::new(HttpProbe {
        path: fields.or("path", "/readyz", path).to_owned(),
        host: fields.optional("host", host),
        expect_status: fields.or("expect_status", ok, |field| some(&field, |item| item.parse())),
        method,
        http_version: fields.or("http_version", HttpVersion::default(), |field| field.one_of()),
        headers: fields.or("headers", Vec::new(), headers),
        expect_body,
        tls,
    }))
}

/// What the checker sets itself, or what would change where the answer ends.
const TAKEN: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
];

fn headers(field: Reader<'_>) -> Option<Vec<Header>> {
    let mut found: Vec<Header> = Vec::new();
    for (name, value) in field.entries()? {
        let name = name.to_ascii_lowercase();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() > 100 || !name.bytes().all(token) {
            let expected = "a name of letters, digits and '-' (RFC 9110 section 5.1)";
            value.error(format!("{name:?} is not a header name"), expected);
        } else if TAKEN.contains(&name.as_str()) {
            let expected = if name == "host" { "the key `host` for it" } else { "any other header" };
            value.error(format!("the header {name} is set by the checker itself"), expected);
        } else if found.iter().any(|it| it.name == name) {
            value.error(format!("the header {name} is listed twice"), "each once, in any case");
        }
        if let Some(text) = header_value(&value) {
            found.push(Header { name, value: text });
        }
    }
    if found.len() > HttpProbe::MAX_HEADERS {
        field
            .error(format!("{} headers", found.len()), format!("at most {} of them", HttpProbe::MAX_HEADERS));
    }
    Some(found)
}

/// The value of a header field.
pub(in crate::decode) fn header_value(field: &Reader<'_>) -> Option<String> {
    let text = field.text(1_000)?;
    let fits = text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text;
    if !fits {
        field.wrong("a header's value: visible ASCII characters, with spaces only between them");
    }
    fits.then(|| text.to_owned())
}

fn dns(fields: &Fields<'_>) -> Option<DnsProbe> {
    let query =
        fields.required("query", "the name to ask for, such as www.example.com", |field| field.parse());
    let record_type = fields.or("record_type", 1, record_type);
    let expect_rcode = fields.or("expect_rcode", 0, |field| {
        field.word(&DnsProbe::RCODES.map(|rcode| (rcode.as_str(), rcode.code())))
    });
    let expect_record = fields.optional("expect_record", |field| field.text(1_000).map(str::to_owned));
    if let (Some(field), 1..) = (fields.get("expect_record"), expect_rcode) {
        field.error("no record comes with that expect_rcode", "expect_rcode: NOERROR");
    }
    Some(DnsProbe { query: query?, record_type, expect_rcode, expect_record })
}

fn record_type(field: Reader<'_>) -> Option<u16> {
    let text = field.text(16)?;
    // Transfers and the like are no questions a UDP packet answers (RFC 6895 §3.1).
    let queried = rdata::number(text).filter(|number| !matches!(number, 0 | 41 | 249..=252));
    if queried.is_none() {
        field.wrong("a record type that can be queried, such as A, AAAA, MX, SOA or TYPE65280");
    }
    queried
}

fn grpc(fields: &Fields<'_>) -> Probe {
    let service = fields.optional("service", |field| field.text(200).map(str::to_owned));
    Probe::Grpc(Box::new(GrpcProbe {
        service: service.unwrap_or_default(),
        host: fields.optional("host", host),
        tls: tls_if_asked(fields),
    }))
}

#[cfg(test)]
mod tests {
    use crate::{Check, Document, Probe, parse};

    fn check(text: &str) -> Result<Check, Vec<String>> {
        let text = format!("kind: Check\nname: c\n{text}\n");
        match parse("w.yaml", &text).map(|mut placed| placed.remove(0).value) {
            Ok(Document::Check(check)) => Ok(check),
            Ok(other) => panic!("{other:?}"),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn every_type_reads() {
        for (text, kind, port) in [
            ("type: tcp\nport: 25\nexpect: '220 '\nsend: \"QUIT\\r\\n\"", "tcp", 25),
            ("type: tls\nport: 443\nserver_name: a.example.com\nwarn_before: 14d", "tls", 443),
            ("type: http", "http", 80),
            ("type: http\ntls: true\nverify: false", "https", 443),
            ("type: https\nhttp_version: 2\nmethod: HEAD\nexpect_status: [200-299, 401]", "https", 443),
            ("type: https\nheaders: { X-Probe: 'yes it is' }\nexpect_body: ok", "https", 443),
            ("type: dns\nquery: a.example.com\nrecord_type: AAAA\nexpect_record: '::1'", "dns", 53),
            ("type: dns\nquery: a.example.com\nexpect_rcode: NXDOMAIN", "dns", 53),
            ("type: grpc\nport: 50051\nservice: a.B\ntls: true\nserver_name: a.b", "grpc", 50051),
            ("type: icmp", "icmp", 0),
            ("type: external\nprogram: disk\nport: 9", "external", 9),
            ("type: external\nprogram: disk", "external", 0),
        ] {
            let check = check(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
            assert_eq!((check.probe.kind().as_str(), check.port), (kind, port), "{text}");
        }
        let Probe::Http(http) = check("type: http\nheaders: { X-A: b }").unwrap().probe else { panic!() };
        assert_eq!((http.headers[0].name.as_str(), http.headers[0].value.as_str()), ("x-a", "b"));
    }

    #[test]
    fn an_error_says_where_it_is_and_what_would_be_right() {
        for (text, place, words) in [
            ("type: tcp", "port", "is missing; expected a port"),
            ("type: dns", "query", "is missing; expected the name to ask for"),
            (
                "type: external",
                "program",
                "is missing; expected the name that the probers' configuration gives",
            ),
            ("type: grpc", "port", "is missing"),
            ("type: icmp\nport: 7", "port", "means nothing to a check of type icmp"),
            ("type: tcp\nport: 1\npath: /", "path", "this key only with type: http or https"),
            ("type: http\nwarn_before: 1d", "warn_before", "means nothing to a check without TLS"),
            ("type: grpc\nport: 1\nverify: false", "verify", "this key only with tls: true"),
            ("type: tcp\nport: 1\nwarn_before: 1d", "warn_before", "https, tls or grpc"),
            ("type: https\ntls: false", "tls", "type: http for a check without TLS"),
            ("type: http\nexpect_status: [399-200]", "expect_status[0]", "not below its beginning"),
            ("type: http\nexpect_status: [2xx]", "expect_status[0]", "a range such as 200-399"),
            ("type: http\nexpect_status: []", "expect_status", "empty"),
            ("type: http\nheaders: { 'a b': c }", "headers.a b", "is not a header name"),
            ("type: http\nheaders: { HOST: c }", "headers.HOST", "the key `host`"),
            ("type: http\nheaders: { X: c, x: d }", "headers.x", "twice"),
            ("type: http\nheaders: { x: é }", "headers.x", "visible ASCII"),
            ("type: http\nmethod: POST", "method", "GET or HEAD"),
            ("type: http\nmethod: HEAD\nexpect_body: x", "expect_body", "has no body"),
            ("type: http\nhttp_version: 3", "http_version", "1.1 or 2"),
            ("type: tls\nport: 1\nserver_name: 10.0.0.1", "server_name", "a host name"),
            ("type: tls\nport: 1\nserver_name: '*.a.b'", "server_name", "a host name"),
            ("type: dns\nquery: a.b\nrecord_type: AXFR", "record_type", "can be queried"),
            ("type: dns\nquery: a.b\nexpect_rcode: OK", "expect_rcode", "NOERROR"),
            ("type: dns\nquery: a.b\nexpect_rcode: REFUSED\nexpect_record: x", "expect_record", "no record"),
            ("type: external\nprogram: /bin/sh", "program", "a name of"),
            ("type: tcp\nport: 1\nexpect: ''", "expect", "a text of 1 to 1024 bytes"),
            ("type: htpp", "type", "did you mean \"http\"?"),
        ] {
            let errors = check(text).unwrap_err();
            let [only] = errors.as_slice() else { panic!("{text}: {errors:#?}") };
            assert!(only.contains(&format!(": {place}: ")) && only.contains(words), "{text}: {only}");
        }
    }

    #[test]
    fn all_errors_of_a_check_at_once() {
        let text = "type: https\nport: 0\npath: x\nexpect_status: [600]\nwarn_before: 0s\nquery: a.b\ninterval: 1s\n\
                    timeout: 2s\nheaders: { te: a }";
        assert_eq!(check(text).unwrap_err().len(), 7);
    }
}
