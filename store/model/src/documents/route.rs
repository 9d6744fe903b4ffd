//! Routes: which requests they are for, where these go, and what happens to them on the way.
//!
//! Names and meanings are those of Gateway API's HTTPRoute where it has them. What is rare is boxed, because a table of
//! fifty thousand routes has mostly plain ones. A limit or time that a route does not name is the gateway's own, from
//! `[proxy.limits]` of its configuration.

mod attempts;
mod filters;
mod path;
mod precedence;

pub use attempts::{Hedge, Retry, RetryOn, RouteLimits, Timeouts};
pub use filters::{DirectResponse, HeaderModifier, PathRewrite, RequestMirror, RequestRedirect, UrlRewrite};
pub use path::{PathError, PathMatch, PathPattern, PatternSegment, is_ambiguous_segment};
pub use precedence::Precedence;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{CookieName, HeaderName, RegularExpression, RequestMethod};
use crate::{
    DomainName, Name, Span, Weight,
    words::{tagged, words},
};

/// What requests go to which service.
///
/// Of the routes that match a request, the first by [`Precedence`] takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// The hosts it applies to, exact or with `*` as the first label, which stands for one or more labels. Empty: any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<DomainName>,
    /// Compared before everything else; the higher wins.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// The paths it applies to, one of which must match.
    pub paths: Vec<PathMatch>,
    /// The scheme of the client's connection. Absent: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The methods it applies to. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<RequestMethod>,
    /// Header fields that must all match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch<HeaderName>>,
    /// Query parameters that must all match, decoded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_params: Vec<FieldMatch<String>>,
    /// Cookies that must all match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<FieldMatch<CookieName>>,
    /// Networks of which the client must be in one. Empty: any client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<IpNet>,
    /// What becomes of encoded separators in a path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoded_slashes: EncodedSlashes,
    /// Where requests go. Empty only where the route answers by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<RouteTarget>,
    /// What keeps a client at the target of `to` that it was sent to first. Absent: each request is drawn anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<Box<SessionPersistence>>,
    /// What is changed in the header of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<Box<HeaderModifier>>,
    /// What is changed in the header of a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<Box<HeaderModifier>>,
    /// How host and path are rewritten for the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<Box<UrlRewrite>>,
    /// The answer is a redirect, and there is no `to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<Box<RequestRedirect>>,
    /// The answer is this one, and there is no `to`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<Box<DirectResponse>>,
    /// A share of the requests is sent to another service too, whose answers are thrown away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<Box<RequestMirror>>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Box<Timeouts>>,
    /// When a request is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Box<Retry>>,
    /// A second request is sent while the first has no answer yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Box<Hedge>>,
    /// How large things may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Box<RouteLimits>>,
    /// Which protocols a client may change to.
    #[serde(default, skip_serializing_if = "Upgrade::is_any")]
    pub upgrade: Upgrade,
    /// Whether names of header fields are sent on in the case they came in, instead of the one the gateway writes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub preserve_header_case: bool,
    /// Whether its requests are in the access log. Absent: as the gateway is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<bool>,
    /// Whether answers have a `Server-Timing` field.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server_timing: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Route {
    /// A route from these hosts and `/` to these targets, with nothing else.
    #[must_use]
    pub fn new(name: Name, hosts: Vec<DomainName>, to: Vec<RouteTarget>) -> Self {
        Self {
            name,
            hosts,
            priority: 0,
            paths: vec![PathMatch::root()],
            scheme: None,
            methods: Vec::new(),
            headers: Vec::new(),
            query_params: Vec::new(),
            cookies: Vec::new(),
            clients: Vec::new(),
            encoded_slashes: EncodedSlashes::default(),
            to,
            session_persistence: None,
            request_header_modifier: None,
            response_header_modifier: None,
            url_rewrite: None,
            request_redirect: None,
            direct_response: None,
            request_mirror: None,
            timeouts: None,
            retry: None,
            hedge: None,
            limits: None,
            upgrade: Upgrade::default(),
            preserve_header_case: false,
            access_log: None,
            server_timing: false,
        }
    }

    /// The services that it names, also the one that it mirrors to.
    pub fn services(&self) -> impl Iterator<Item = &Name> {
        let mirror = self.request_mirror.iter().map(|it| &it.service);
        self.to.iter().map(|it| &it.service).chain(mirror)
    }

    /// True if the gateway answers its requests without an instance.
    #[must_use]
    pub const fn answers_itself(&self) -> bool {
        self.request_redirect.is_some() || self.direct_response.is_some()
    }
}

words! {
    /// How the client's request came.
    pub enum Scheme {
        /// In the clear.
        "http" Http,
        /// Over TLS, here or at a trusted terminator in front.
        "https" Https,
    }
}

words! {
    /// What becomes of `%2F`, `%5C`, `\`, `%00`, overlong UTF-8 of one of these or of a dot, and segments that start with `.;`
    /// or `..;`, in a path ([`is_ambiguous_segment`]).
    #[derive(Default)]
    pub enum EncodedSlashes {
        /// 400.
        #[default]
        "refuse" Refuse,
        /// They are data and never separate segments.
        "allow" Allow,
    }
}

/// A condition on a named part of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FieldMatch<N> {
    /// The name.
    pub name: N,
    /// What its value must be.
    #[serde(flatten)]
    pub value: ValueMatch,
}

/// What a value must be. Of several values under one name, one has to match; header fields are compared as one value
/// joined by `, ` (RFC 9110 §5.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueMatch {
    /// This.
    Exact(String),
    /// Matches a regular expression as a whole.
    Regex(RegularExpression),
    /// There (true) or absent (false).
    Present(bool),
}

/// One destination of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTarget {
    /// The service.
    pub service: Name,
    /// Its share.
    pub weight: Weight,
}

tagged! {
    /// What keeps a client at one target of a split.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    #[serde(tag = "type")]
    pub enum SessionPersistence {
        /// The value of a header field decides; without the field the request is drawn.
        "header" Header {
            /// The header field.
            session_name: HeaderName,
        },
        /// A cookie decides, which the gateway sets if the client has none.
        "cookie" Cookie {
            /// The cookie.
            session_name: CookieName,
            /// How long it lasts. Absent: until the client ends its session.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            absolute_timeout: Option<Span>,
        },
        /// The network of the client's address decides: /24 or /56.
        "client" Client {},
    }
    /// The types of session persistence.
    pub enum SessionType;
}

impl SessionPersistence {
    /// The name of the cookie unless the document has another.
    pub const COOKIE: &str = "waypost-session";
}

/// The protocols that a client may change to by `Upgrade` (RFC 9110 §7.8). `h2c` is never among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upgrade {
    /// Whatever the instance agrees to.
    #[default]
    Any,
    /// None: the field is removed.
    None,
    /// These, in lower case.
    #[serde(untagged)]
    Only(Vec<String>),
}

impl Upgrade {
    const fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    /// True if a client may change to a protocol, named in any case.
    #[must_use]
    pub fn admits(&self, protocol: &[u8]) -> bool {
        let is = |name: &str| name.as_bytes().eq_ignore_ascii_case(protocol);
        match self {
            _ if is("h2c") => false,
            Self::Any => true,
            Self::None => false,
            Self::Only(names) => names.iter().any(|name| is(name)),
        }
    }
}
