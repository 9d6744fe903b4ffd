//! What a route changes in requests and answers, and the answers it gives by itself.

use serde::{Deserialize, Serialize};

use crate::{DomainName, HeaderField, HeaderName, Name, Percent, RegularExpression, RequestMethod, Scheme};

/// Changes of header fields, in this order: remove, set, add. Never those that the gateway itself writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderModifier {
    /// Take the place of what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderField>,
    /// Come to what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderField>,
    /// Are taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderName>,
}

/// How a request is rewritten for the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UrlRewrite {
    /// The `Host` it is sent with. Absent: the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<DomainName>,
    /// How its path is rewritten. Absent: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
}

/// How a path is rewritten, in its normal form. The query stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PathRewrite {
    /// The prefix that the route matched is replaced: by `/v2`, `/api/x` becomes `/v2/x`.
    Prefix {
        /// By what: a path without a slash at its end, or `/`.
        replace_prefix_match: String,
    },
    /// The whole path is replaced.
    Full {
        /// By what; `{name}` in it is a parameter, which every path of the route has.
        replace_full_path: String,
    },
    /// Every match of a regular expression is replaced.
    Regex {
        /// What is looked for, anywhere in the path.
        regex: RegularExpression,
        /// By what; `$1` or `${1}` is the first group, `${name}` a named one, and `$$` a dollar sign.
        substitution: String,
    },
}

/// A redirect. What it does not name is the request's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestRedirect {
    /// The scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<DomainName>,
    /// The port. Absent: the scheme's if there is one, else that of the request; never written if it is the scheme's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
    /// The status: 301, 302, 303, 307 or 308.
    pub status_code: u16,
}

impl RequestRedirect {
    /// The statuses a redirect may have.
    pub const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
    /// The status unless the document has another.
    pub const STATUS: u16 = 302;

    /// True if a client follows it with the method that it had, for sure: it changes to GET after a 303, unless it was that or
    /// HEAD, and may change from POST to GET after a 301 or 302 (RFC 9110 §15.4).
    #[must_use]
    pub fn keeps(&self, method: &RequestMethod) -> bool {
        match (self.status_code, method.as_str()) {
            (303, method) => matches!(method, "GET" | "HEAD"),
            (301 | 302, method) => method != "POST",
            _ => true,
        }
    }
}

/// An answer that needs no instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DirectResponse {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Its media type.
    pub content_type: String,
    /// Its body.
    pub body: String,
}

impl DirectResponse {
    /// The media type unless the document has another.
    pub const CONTENT_TYPE: &str = "text/plain; charset=utf-8";
    /// The longest body, in bytes.
    pub const MAX_BODY: usize = 64 * 1024;
}

/// Requests that are sent to another service too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RequestMirror {
    /// The service.
    pub service: Name,
    /// Which share of the requests.
    pub percent: Percent,
}
