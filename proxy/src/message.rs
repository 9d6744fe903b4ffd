//! Reading a request's head, and writing the heads that are forwarded.
//!
//! Heads are never passed on as they came: connection-level fields are removed (RFC 9110 §7.6.1), lengths and codings
//! are left to the serialiser, and the gateway sets its own fields.

use std::{borrow::Cow, net::IpAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{self, Entry},
    request, response,
    uri::{Authority, PathAndQuery},
};

/// The number of gateways that a request came through.
pub(crate) const HOPS: HeaderName = HeaderName::from_static("waypost-hops");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that are about one connection whether or not `Connection` lists them. `TE` and `Trailer` are among
/// them because trailers are not forwarded.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What routing and forwarding need of a request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    /// The host and port as forwarded; `None` from an HTTP/1.0 client that names none.
    pub(crate) authority: Option<Authority>,
    /// Path and query, in origin form.
    pub(crate) target: PathAndQuery,
}

/// Why a request is refused before it is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    NoHost,
    ManyHosts,
    BadHost,
    BadTarget,
    Tunnel,
    BadExpectation,
}

impl Refusal {
    pub(crate) const fn status(self) -> http::StatusCode {
        match self {
            Self::Tunnel => http::StatusCode::NOT_IMPLEMENTED,
            Self::BadExpectation => http::StatusCode::EXPECTATION_FAILED,
            _ => http::StatusCode::BAD_REQUEST,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoHost => "no Host",
            Self::ManyHosts => "more than one Host",
            Self::BadHost => "Host is not a host name with an optional port",
            Self::BadTarget => "the request target is neither a path nor an http URL",
            Self::Tunnel => "CONNECT is not served here",
            Self::BadExpectation => "the only expectation met here is 100-continue",
        }
    }
}

impl RequestHead {
    /// Reads a request's head.
    pub(crate) fn read(head: &request::Parts) -> Result<Self, Refusal> {
        if head.method == Method::CONNECT {
            return Err(Refusal::Tunnel);
        }
        let mut expectations = head.headers.get_all(header::EXPECT).iter();
        if expectations.any(|it| !it.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            return Err(Refusal::BadExpectation);
        }
        let named = host_field(head)?;
        let target = head.uri.path_and_query().cloned().ok_or(Refusal::BadTarget)?;
        let origin = target.as_str().starts_with('/');
        let asterisk = target.as_str() == "*" && head.method == Method::OPTIONS;
        let absolute = head.uri.scheme_str().is_some_and(|it| it == "http" || it == "https");
        let authority = match head.uri.authority() {
            // An absolute target overrides the Host field (RFC 9112 §3.2.2).
            Some(authority) if absolute && is_valid(authority) => Some(authority.clone()),
            Some(_) => return Err(Refusal::BadTarget),
            None => named,
        };
        if origin || asterisk { Ok(Self { authority, target }) } else { Err(Refusal::BadTarget) }
    }

    /// The host in lower case, without port and trailing dot; empty when the request has none.
    pub(crate) fn host(&self) -> Cow<'_, str> {
        let host = self.authority.as_ref().map_or("", Authority::host);
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.bytes().any(|octet| octet.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        }
    }

    /// True when the host is an address and not a name, as in the checks of load balancers.
    pub(crate) fn by_address(&self) -> bool {
        let Some(authority) = &self.authority else { return true };
        authority.host().trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.target.path()
    }
}

fn host_field(head: &request::Parts) -> Result<Option<Authority>, Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        return if head.version == Version::HTTP_10 { Ok(None) } else { Err(Refusal::NoHost) };
    };
    if hosts.next().is_some() {
        return Err(Refusal::ManyHosts);
    }
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| Refusal::BadHost)?;
    if is_valid(&authority) { Ok(Some(authority)) } else { Err(Refusal::BadHost) }
}

fn is_valid(authority: &Authority) -> bool {
    let text = authority.as_str();
    let port_fits = match text.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.is_empty() || authority.port_u16().is_some(),
        _ => true,
    };
    !authority.host().is_empty() && !text.contains('@') && port_fits
}

/// Removes the fields that are about one connection only, also those that `Connection` lists.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// How many gateways a request has come through.
pub(crate) fn hops(headers: &HeaderMap) -> u8 {
    let read = |value: &HeaderValue| value.to_str().ok().and_then(|text| text.parse().ok());
    headers.get(HOPS).map_or(0, |value| read(value).unwrap_or(u8::MAX))
}

/// The fields about this gateway and the client in the requests that it forwards.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedHeaders {
    /// `1.1 <node>`.
    pub(crate) via: HeaderValue,
}

impl ForwardedHeaders {
    pub(crate) fn new(node: &str) -> Self {
        let via = HeaderValue::from_str(&format!("1.1 {node}"));
        Self { via: via.unwrap_or_else(|_| HeaderValue::from_static("1.1 waypost")) }
    }

    /// Rewrites a request's head for an instance.
    pub(crate) fn prepare(
        &self,
        head: &mut request::Parts,
        request_head: &RequestHead,
        client: IpAddr,
        body: BodyFraming,
    ) {
        let hops = hops(&head.headers).saturating_add(1);
        let headers = &mut head.headers;
        strip_hop_by_hop(headers);
        headers.remove(header::CONTENT_LENGTH);
        match body {
            BodyFraming::None => {}
            BodyFraming::Sized(length) => {
                headers.insert(header::CONTENT_LENGTH, length.into());
            }
            BodyFraming::Chunked => {
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        let host = request_head.authority.as_ref().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
        match host {
            Some(host) => {
                headers.insert(header::HOST, host.clone());
                headers.insert(FORWARDED_HOST, host);
            }
            None => {
                headers.insert(header::HOST, HeaderValue::from_static(""));
                headers.remove(FORWARDED_HOST);
            }
        }
        append_to_list(headers, FORWARDED_FOR, &client.to_canonical().to_string());
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        headers.append(header::VIA, self.via.clone());
        headers.insert(HOPS, HeaderValue::from(u16::from(hops)));
        head.uri = request_head.target.clone().into();
        head.version = Version::HTTP_11;
        head.extensions.clear();
    }
}

/// How a forwarded request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    /// No body, and no length was given.
    None,
    /// This many bytes.
    Sized(u64),
    /// Length unknown.
    Chunked,
}

fn append_to_list(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let earlier: Vec<&str> = headers
        .get_all(&name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .filter(|it| !it.is_empty())
        .collect();
    let list = if earlier.is_empty() { value.to_owned() } else { format!("{}, {value}", earlier.join(", ")) };
    if let Ok(list) = HeaderValue::from_str(&list) {
        match headers.entry(name) {
            Entry::Occupied(mut entry) => {
                entry.insert(list);
            }
            Entry::Vacant(entry) => {
                entry.insert(list);
            }
        }
    }
}

/// Prepares an instance's response head to be forwarded; the error is what is wrong with it.
pub(crate) fn admit_response(head: &mut response::Parts, method: &Method) -> Result<(), &'static str> {
    if head.status.is_informational() {
        return Err("switched protocols without a request for it");
    }
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() || length.is_some_and(|it| !it.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err("ambiguous Content-Length");
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(_), _) if length.is_some() => return Err("Content-Length together with Transfer-Encoding"),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        _ => return Err("a Transfer-Encoding other than one 'chunked'"),
    }
    strip_hop_by_hop(&mut head.headers);
    // With a body the serialiser writes the length. Without one, only a response to HEAD may keep it.
    if method != Method::HEAD {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    head.headers.remove(HOPS);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};

    fn head(method: &str, target: &str, version: Version, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(target).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn host(target: &str, fields: &[(&str, &str)]) -> Result<String, Refusal> {
        RequestHead::read(&head("GET", target, Version::HTTP_11, fields))
            .map(|request_head| request_head.host().into_owned())
    }

    #[test]
    fn the_host_is_one_and_well_formed() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], Result<&'static str, Refusal>);
        let cases: [Case; 14] = [
            ("/", &[("host", "Orders.Example.COM:8080")], Ok("orders.example.com")),
            ("/", &[("host", "orders.example.com.")], Ok("orders.example.com")),
            ("/", &[("host", "[2001:DB8::1]:80")], Ok("[2001:db8::1]")),
            ("/", &[("host", "10.0.0.1")], Ok("10.0.0.1")),
            ("http://a.example/x", &[("host", "b.example")], Ok("a.example")),
            ("http://a.example/x", &[], Err(Refusal::NoHost)),
            ("/", &[], Err(Refusal::NoHost)),
            ("/", &[("host", "a"), ("host", "a")], Err(Refusal::ManyHosts)),
            ("/", &[("host", "")], Err(Refusal::BadHost)),
            ("/", &[("host", "a b")], Err(Refusal::BadHost)),
            ("/", &[("host", "user@a")], Err(Refusal::BadHost)),
            ("/", &[("host", "a:b")], Err(Refusal::BadHost)),
            ("/", &[("host", "a/b")], Err(Refusal::BadHost)),
            ("a.example", &[("host", "a.example")], Err(Refusal::BadTarget)),
        ];
        for (target, fields, expected) in cases {
            assert_eq!(host(target, fields), expected.map(str::to_owned), "{target} {fields:?}");
        }
    }

    #[test]
    fn an_old_client_may_name_no_host() {
        let request_head = RequestHead::read(&head("GET", "/readyz", Version::HTTP_10, &[])).unwrap();
        assert!(request_head.by_address());
        assert_eq!(request_head.host(), "");
    }

    #[test]
    fn tunnels_and_unknown_expectations_are_refused() {
        let read = |method, target, fields: &[(&str, &str)]| {
            RequestHead::read(&head(method, target, Version::HTTP_11, fields)).unwrap_err()
        };
        assert_eq!(read("CONNECT", "a.example:443", &[("host", "a.example:443")]), Refusal::Tunnel);
        assert_eq!(read("PUT", "/", &[("host", "a"), ("expect", "pigs-fly")]), Refusal::BadExpectation);
        assert_eq!(read("GET", "*", &[("host", "a")]), Refusal::BadTarget);
    }

    #[test]
    fn a_forwarded_request_carries_what_we_wrote() {
        let mut sent = head(
            "GET",
            "http://Shop.example:8080/a?b=c",
            Version::HTTP_10,
            &[
                ("host", "shop.example"),
                ("connection", "close, X-Secret"),
                ("connection", "host"),
                ("x-secret", "1"),
                ("keep-alive", "timeout=5"),
                ("upgrade", "h2c"),
                ("te", "trailers"),
                ("content-length", "7"),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-for", "192.0.2.2"),
                ("x-forwarded-proto", "gopher"),
                ("waypost-hops", "1"),
                ("cookie", "a=b"),
            ],
        );
        let request_head = RequestHead::read(&sent).unwrap();
        let client = "::ffff:198.51.100.7".parse().unwrap();
        ForwardedHeaders::new("gw-1").prepare(&mut sent, &request_head, client, BodyFraming::None);
        let fields: Vec<_> =
            sent.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        let mut expected = [
            "host: Shop.example:8080",
            "x-forwarded-host: Shop.example:8080",
            "x-forwarded-for: 192.0.2.1, 192.0.2.2, 198.51.100.7",
            "x-forwarded-proto: http",
            "via: 1.1 gw-1",
            "waypost-hops: 2",
            "cookie: a=b",
        ];
        let mut fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        fields.sort_unstable();
        expected.sort_unstable();
        assert_eq!(fields, expected);
        assert_eq!(sent.uri.to_string(), "/a?b=c");
        assert_eq!(sent.version, Version::HTTP_11);
    }

    #[test]
    fn the_loop_guard_counts_and_takes_nonsense_for_a_loop() {
        let count =
            |value: &str| hops(&head("GET", "/", Version::HTTP_11, &[("waypost-hops", value)]).headers);
        assert_eq!((count("3"), count("-1"), count("many")), (3, u8::MAX, u8::MAX));
        assert_eq!(hops(&HeaderMap::new()), 0);
    }

    #[test]
    fn ambiguous_responses_are_not_forwarded() {
        let admit = |fields: &[(&str, &str)]| {
            let mut response = Response::builder();
            for (name, value) in fields {
                response = response.header(*name, *value);
            }
            admit_response(&mut response.body(()).unwrap().into_parts().0, &Method::GET).is_ok()
        };
        assert!(admit(&[("content-length", "5")]));
        assert!(admit(&[("transfer-encoding", "Chunked")]));
        assert!(admit(&[]));
        assert!(!admit(&[("content-length", "5"), ("content-length", "5")]));
        assert!(!admit(&[("content-length", "5, 5")]));
        assert!(!admit(&[("content-length", "5"), ("transfer-encoding", "chunked")]));
        assert!(!admit(&[("transfer-encoding", "gzip, chunked")]));
        assert!(!admit(&[("transfer-encoding", "gzip")]));
    }
}
