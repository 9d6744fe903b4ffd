//! What a probe dials and what it expects, kind by kind.
//!
//! Every kind with more than a few bytes is boxed: a prober holds tens of thousands of these, most of them `tcp`.
//! A field added later has a default and is left out when it has it, so that what an earlier version stored is
//! read as it was meant.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{DomainName, Name, Rcode, Span, words::words};

/// What a probe dials and what it expects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Probe {
    /// The port accepts a connection and, if the check has such a term, sends the expected text.
    Tcp(TcpProbe),
    /// The port completes a TLS handshake.
    Tls(Box<TlsProbe>),
    /// HTTP, over TLS or not, answers with an expected status.
    Http(Box<HttpProbe>),
    /// A DNS server answers a query.
    Dns(Box<DnsProbe>),
    /// A gRPC server reports that it is serving (grpc.health.v1).
    Grpc(Box<GrpcProbe>),
    /// The address answers an ICMP echo request.
    Icmp {},
    /// A program on the prober's machine reports success.
    External(Box<ExternalProbe>),
}

impl Probe {
    /// That the port accepts a connection.
    #[must_use]
    pub const fn tcp() -> Self {
        Self::Tcp(TcpProbe { send: None, expect: None })
    }

    /// Its type, as documents have it: `https` for HTTP over TLS.
    #[must_use]
    pub fn kind(&self) -> ProbeType {
        match self {
            Self::Tcp(_) => ProbeType::Tcp,
            Self::Tls(_) => ProbeType::Tls,
            Self::Http(it) if it.tls.is_some() => ProbeType::Https,
            Self::Http(_) => ProbeType::Http,
            Self::Dns(_) => ProbeType::Dns,
            Self::Grpc(_) => ProbeType::Grpc,
            Self::Icmp {} => ProbeType::Icmp,
            Self::External(_) => ProbeType::External,
        }
    }
}

words! {
    /// The `type` of a check in its document. The stored form has no `https`: there it is `http` with TLS terms.
    #[expect(missing_docs, reason = "the variants of `Probe`, documented there")]
    pub enum ProbeType {
        "http" Http,
        "https" Https,
        "tcp" Tcp,
        "tls" Tls,
        "dns" Dns,
        "grpc" Grpc,
        "icmp" Icmp,
        "external" External,
    }
}

/// A TCP connection and, if the check has them, a text to send and one to expect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TcpProbe {
    /// Sent once connected, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<Box<str>>,
    /// What must be somewhere in the first [`TcpProbe::MAX_READ`] bytes that come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Box<str>>,
}

impl TcpProbe {
    /// The longest `send` and `expect`, in bytes.
    pub const MAX: usize = 1024;
    /// No more of an answer than this is read, in bytes.
    pub const MAX_READ: usize = 16 * 1024;
}

/// How a TLS session is opened and judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tls {
    /// The requested name (SNI, RFC 6066 §3) and, if verified, what the certificate must be for. Absent: that of
    /// the Host header if there is one, otherwise the address, which SNI does not carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<DomainName>,
    /// Whether the certificate must be valid, for that name, by an authority the prober trusts.
    pub verify: bool,
    /// When the certificate ends within this time, the result mentions it and is still a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_before: Option<Span>,
}

impl Default for Tls {
    fn default() -> Self {
        Self { server_name: None, verify: true, warn_before: None }
    }
}

/// A TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TlsProbe {
    /// Its terms.
    pub tls: Tls,
}

/// One HTTP request and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpProbe {
    /// The requested path.
    pub path: String,
    /// The Host header; absent: the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Statuses that count as success.
    pub expect_status: Vec<StatusRange>,
    /// The method.
    #[serde(default, skip_serializing_if = "Method::is_get")]
    pub method: Method,
    /// The version spoken.
    #[serde(default, skip_serializing_if = "HttpVersion::is_one")]
    pub http_version: HttpVersion,
    /// Sent beside those every request has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// What must be somewhere in the first [`HttpProbe::MAX_BODY`] bytes of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_body: Option<String>,
    /// Over TLS, on these terms; absent: in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl HttpProbe {
    /// No more of a body than this is read, in bytes.
    pub const MAX_BODY: usize = 64 * 1024;
    /// Headers a check may add.
    pub const MAX_HEADERS: usize = 16;

    /// A GET over HTTP/1.1 in the clear.
    #[must_use]
    pub fn get(path: impl Into<String>, host: Option<String>, expect_status: Vec<StatusRange>) -> Self {
        Self {
            path: path.into(),
            host,
            expect_status,
            method: Method::Get,
            http_version: HttpVersion::One,
            headers: Vec::new(),
            expect_body: None,
            tls: None,
        }
    }
}

/// A header a check adds to its request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Header {
    /// In lower case.
    pub name: String,
    /// Visible characters and spaces.
    pub value: String,
}

words! {
    /// The method of a check's request, as on the wire.
    #[derive(Default)]
    pub enum Method {
        /// GET.
        #[default]
        "GET" Get,
        /// HEAD: no body comes back.
        "HEAD" Head,
    }
}

impl Method {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    const fn is_get(&self) -> bool {
        matches!(self, Self::Get)
    }
}

words! {
    /// The HTTP version a check speaks.
    #[derive(Default)]
    pub enum HttpVersion {
        /// HTTP/1.1.
        #[default]
        "1.1" One,
        /// HTTP/2: agreed by ALPN over TLS, known beforehand without (RFC 9113 §3).
        "2" Two,
    }
}

impl HttpVersion {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    const fn is_one(&self) -> bool {
        matches!(self, Self::One)
    }
}

/// One status or a range of them, both ends included: `200`, `200-399`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

/// What a status or range should have looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// Not a number, or out of range.
    #[error("a status from 100 to 599, or a range such as 200-399")]
    Malformed,
    /// The end comes before the beginning.
    #[error("a range whose end is not below its beginning, such as 200-399")]
    Reversed,
}

impl StatusRange {
    /// From `first` to `last`.
    ///
    /// # Errors
    /// When an end is no status, or they are reversed.
    pub fn new(first: u16, last: u16) -> Result<Self, StatusError> {
        let status = |code| (100..=599).contains(&code);
        match (status(first) && status(last), first <= last) {
            (false, _) => Err(StatusError::Malformed),
            (true, false) => Err(StatusError::Reversed),
            (true, true) => Ok(Self { first, last }),
        }
    }

    /// True for a status within.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }

    /// The status, if it is only one.
    #[must_use]
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }
}

impl std::str::FromStr for StatusRange {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(StatusError::Malformed)
        };
        Self::new(number(first)?, number(last)?)
    }
}

impl std::fmt::Display for StatusRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A number alone, as before there were ranges.
        match self.single() {
            Some(status) => serializer.serialize_u16(status),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(u16),
            Range(String),
        }
        match Form::deserialize(deserializer)? {
            Form::One(status) => Self::new(status, status).map_err(de::Error::custom),
            Form::Range(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// One DNS query over UDP, over TCP too if the answer is cut short.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DnsProbe {
    /// The queried name.
    pub query: DomainName,
    /// The queried type, by number.
    pub record_type: u16,
    /// The response code that must come back, by number (RFC 6895 §2.3).
    pub expect_rcode: u16,
    /// What must be the data of one of the records in the answer section, in presentation form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_record: Option<String>,
}

impl DnsProbe {
    /// The response codes documents may name.
    pub const RCODES: [Rcode; 6] =
        [Rcode::NoError, Rcode::FormErr, Rcode::ServFail, Rcode::NxDomain, Rcode::NotImp, Rcode::Refused];

    /// What documents call a response code.
    #[must_use]
    pub fn rcode(number: u16) -> Option<&'static str> {
        Self::RCODES.into_iter().find(|rcode| rcode.code() == number).map(Rcode::as_str)
    }
}

/// One call of `grpc.health.v1.Health/Check`, whose answer must be SERVING.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GrpcProbe {
    /// The queried service; empty: the server as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// The `:authority`; absent: the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Over TLS, on these terms; absent: in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// A program that the prober's own configuration lists; it is given the address and the port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExternalProbe {
    /// Its name in the prober's configuration. A document holds no path, because which programs run on a machine is
    /// decided by that machine's configuration.
    pub program: Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_versions_stored_is_read() {
        let tcp: Probe = serde_json::from_str(r#"{"type":"tcp"}"#).unwrap();
        assert_eq!(tcp, Probe::tcp());
        let old = r#"{"type":"http","path":"/readyz","host":"gw.a","expect_status":[200,204]}"#;
        let http: Probe = serde_json::from_str(old).unwrap();
        let status = |code| StatusRange::new(code, code).unwrap();
        let get = HttpProbe::get("/readyz", Some("gw.a".to_owned()), vec![status(200), status(204)]);
        assert_eq!(http, Probe::Http(Box::new(get)));
        assert_eq!(serde_json::to_string(&http).unwrap(), old, "and a plain check is stored as it was");
    }

    #[test]
    fn status_ranges_read_as_they_print() {
        for good in ["200", "200-399", "599", "100-100"] {
            let range: StatusRange = good.parse().unwrap();
            assert_eq!(range.to_string().parse(), Ok(range));
        }
        for bad in ["", "99", "600", "200-", "-200", "+200", "200-600", "2xx", "200-300-400"] {
            assert_eq!(bad.parse::<StatusRange>(), Err(StatusError::Malformed), "{bad}");
        }
        assert_eq!("399-200".parse::<StatusRange>(), Err(StatusError::Reversed));
        let range: StatusRange = "200-399".parse().unwrap();
        assert!(range.contains(200) && range.contains(399) && !range.contains(199) && !range.contains(400));
    }
}
