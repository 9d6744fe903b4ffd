//! The conditions of a route besides host and path: scheme, methods, client networks, header fields, query parameters and
//! cookies. All must hold.
//!
//! They are read from the request's own octets. Memory is allocated only for regular expressions over several lines of a
//! header field, or over a query value with escapes.

use std::{borrow::Cow, fmt, net::IpAddr};

use ipnet::IpNet;
use regex::bytes::Regex;
use store::model::{FieldMatch, RequestMethod, Route, Scheme, ValueMatch};

use super::request::Request;
use crate::cookies::{MAX_PAIRS, cookies, decoded, is_decoded, query_pairs};

/// The conditions of a route, its regular expressions compiled.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    https: Option<bool>,
    methods: Box<[RequestMethod]>,
    clients: Box<[IpNet]>,
    headers: Box<[Condition]>,
    query_params: Box<[Condition]>,
    cookies: Box<[Condition]>,
}

/// How specific the conditions of a route are: more of the former count more, as in Gateway API.
pub(super) type Specificity = [u16; 6];

/// The condition that a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmet<'c> {
    /// The scheme of the client's connection.
    Scheme,
    /// The method.
    Method,
    /// The client's address.
    Client,
    /// A header field.
    Header(&'c str),
    /// A query parameter.
    QueryParam(&'c str),
    /// A cookie.
    Cookie(&'c str),
}

impl fmt::Display for Unmet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("its scheme is another"),
            Self::Method => f.write_str("it does not have the method"),
            Self::Client => f.write_str("the client is in none of its networks"),
            Self::Header(name) => write!(f, "the header field {name} does not match"),
            Self::QueryParam(name) => write!(f, "the query parameter {name} does not match"),
            Self::Cookie(name) => write!(f, "the cookie {name} does not match"),
        }
    }
}

#[derive(Clone, Debug)]
struct Condition {
    name: Box<str>,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Exact(Box<str>),
    Matches(Regex),
    Present(bool),
    /// An expression that does not compile, which documents cannot have.
    Never,
}

impl Conditions {
    /// The conditions of a document; `None` if it has none.
    pub(super) fn compile(route: &Route) -> Option<Box<Self>> {
        let it = Self {
            https: route.scheme.map(|scheme| scheme == Scheme::Https),
            methods: route.methods.clone().into(),
            clients: route.clients.clone().into(),
            headers: route.headers.iter().map(|it| Condition::compile(it.name.as_str(), it)).collect(),
            query_params: route.query_params.iter().map(|it| Condition::compile(&it.name, it)).collect(),
            cookies: route.cookies.iter().map(|it| Condition::compile(it.name.as_str(), it)).collect(),
        };
        (it.specificity() != Specificity::default()).then(|| Box::new(it))
    }

    pub(super) fn specificity(&self) -> Specificity {
        let many = |conditions: &[Condition]| u16::try_from(conditions.len()).unwrap_or(u16::MAX);
        [
            u16::from(!self.methods.is_empty()),
            many(&self.headers),
            many(&self.query_params),
            many(&self.cookies),
            u16::from(!self.clients.is_empty()),
            u16::from(self.https.is_some()),
        ]
    }

    /// The first condition that the request does not meet.
    pub(super) fn unmet(&self, request: &impl Request) -> Option<Unmet<'_>> {
        if self.https.is_some_and(|https| https != request.is_https()) {
            return Some(Unmet::Scheme);
        }
        if !self.methods.is_empty() && !self.methods.iter().any(|it| it.as_str() == request.method()) {
            return Some(Unmet::Method);
        }
        if !self.clients.is_empty() && !is_within(&self.clients, request.client()) {
            return Some(Unmet::Client);
        }
        let wrong = |it: &&Condition| !it.value.is_met_by_lines(|| request.fields(&it.name));
        if let Some(it) = self.headers.iter().find(wrong) {
            return Some(Unmet::Header(&it.name));
        }
        let query = request.query().unwrap_or_default().as_bytes();
        if let Some(it) = self.query_params.iter().find(|it| !it.is_met_by_query(query)) {
            return Some(Unmet::QueryParam(&it.name));
        }
        let wrong = |it: &&Condition| !it.is_met_by_cookies(request);
        self.cookies.iter().find(wrong).map(|it| Unmet::Cookie(&it.name))
    }
}

/// True if an address is in one of these networks. An IPv4 address that a socket shows as IPv6 is an IPv4 address.
fn is_within(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

impl Condition {
    fn compile<N>(name: &str, of: &FieldMatch<N>) -> Self {
        let value = match &of.value {
            ValueMatch::Exact(text) => Value::Exact(text.as_str().into()),
            ValueMatch::Regex(expression) => expression.whole().map_or(Value::Never, Value::Matches),
            ValueMatch::Present(present) => Value::Present(*present),
        };
        Self { name: name.into(), value }
    }

    fn is_met_by_query(&self, query: &[u8]) -> bool {
        let named = query_pairs(query).filter(|(name, _)| is_decoded(name, self.name.as_bytes()));
        let mut values = named.map(|(_, value)| value);
        match &self.value {
            Value::Exact(text) => values.any(|value| is_decoded(value, text.as_bytes())),
            Value::Matches(regex) => values.any(|value| regex.is_match(&decode(value))),
            Value::Present(present) => *present == values.next().is_some(),
            Value::Never => false,
        }
    }

    fn is_met_by_cookies(&self, request: &impl Request) -> bool {
        let pairs = request.fields("cookie").flat_map(cookies).take(MAX_PAIRS);
        let mut values = pairs.filter(|(name, _)| *name == self.name.as_bytes()).map(|(_, value)| value);
        match &self.value {
            Value::Exact(text) => values.any(|value| value == text.as_bytes()),
            Value::Matches(regex) => values.any(|value| regex.is_match(value)),
            Value::Present(present) => *present == values.next().is_some(),
            Value::Never => false,
        }
    }
}

impl Value {
    /// Compares the lines of a header field, which are one value joined by `, ` (RFC 9110 §5.3).
    fn is_met_by_lines<'r, I: Iterator<Item = &'r [u8]>>(&self, lines: impl Fn() -> I) -> bool {
        match self {
            Self::Exact(text) => is_joined(lines(), text.as_bytes()),
            Self::Matches(regex) => joined(lines()).is_some_and(|value| regex.is_match(&value)),
            Self::Present(present) => *present == lines().next().is_some(),
            Self::Never => false,
        }
    }
}

fn is_joined<'r>(mut lines: impl Iterator<Item = &'r [u8]>, text: &[u8]) -> bool {
    let Some(mut rest) = lines.next().and_then(|first| text.strip_prefix(first)) else { return false };
    for line in lines {
        match rest.strip_prefix(b", ").and_then(|rest| rest.strip_prefix(line)) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    rest.is_empty()
}

fn joined<'r>(mut lines: impl Iterator<Item = &'r [u8]>) -> Option<Cow<'r, [u8]>> {
    let mut value = Cow::Borrowed(lines.next()?);
    for line in lines {
        let value = value.to_mut();
        value.extend_from_slice(b", ");
        value.extend_from_slice(line);
    }
    Some(value)
}

fn decode(written: &[u8]) -> Cow<'_, [u8]> {
    if written.iter().any(|octet| matches!(octet, b'%' | b'+')) {
        Cow::Owned(decoded(written).collect())
    } else {
        Cow::Borrowed(written)
    }
}
