//! Words of HTTP in documents: names of header fields, methods, regular expressions, fields that are set.
//!
//! A document holds no type of an HTTP library, because what it says is the same for every version of the protocol.
//! Decoding accepts only what is right; the stored form is trusted, so reading fifty thousand stored routes compiles nothing.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use regex_syntax::{
    ParserBuilder,
    hir::{Hir, HirKind, Look},
};
use serde::{Deserialize, Serialize};

/// Declares a text that is checked when it is parsed and trusted when it is stored.
macro_rules! text {
    ($(#[$meta:meta])* pub struct $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

/// What a word of HTTP should have looked like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpWordError {
    /// For the name of a header field.
    #[error("a header name of 1 to 100 letters, digits and '-' (RFC 9110 section 5.1)")]
    Header,
    /// For a method.
    #[error("a method such as GET: 1 to 32 capital letters, digits and '-' (RFC 9110 section 9.1)")]
    Method,
    /// For the name of a cookie.
    #[error("a cookie name of 1 to 100 letters, digits and '-' or '_' (RFC 6265 section 4.1)")]
    Cookie,
    /// For a regular expression.
    #[error("a regular expression: {0}")]
    Expression(String),
}

/// A token (RFC 9110 §5.6.2) of at most `most` bytes.
fn is_token(text: &str, most: usize) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=most).contains(&text.len()) && text.bytes().all(token)
}

text! {
    /// The name of a header field, as it was written; the case of its letters means nothing.
    pub struct HeaderName
}

impl HeaderName {
    /// True if this is the name, in any case.
    #[must_use]
    pub fn is(&self, name: &[u8]) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(name)
    }
}

impl FromStr for HeaderName {
    type Err = HttpWordError;

    fn from_str(text: &str) -> Result<Self, HttpWordError> {
        if is_token(text, 100) { Ok(Self(text.into())) } else { Err(HttpWordError::Header) }
    }
}

text! {
    /// The name of a cookie; the case of its letters counts.
    pub struct CookieName
}

impl FromStr for CookieName {
    type Err = HttpWordError;

    fn from_str(text: &str) -> Result<Self, HttpWordError> {
        if is_token(text, 100) { Ok(Self(text.into())) } else { Err(HttpWordError::Cookie) }
    }
}

text! {
    /// A method, in capital letters as all registered ones; the case of letters counts (RFC 9110 §9.1).
    pub struct RequestMethod
}

impl RequestMethod {
    /// True for methods that may be repeated: GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 §9.2.2).
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }
}

impl FromStr for RequestMethod {
    type Err = HttpWordError;

    fn from_str(text: &str) -> Result<Self, HttpWordError> {
        let capital = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(capital);
        if fits { Ok(Self(text.into())) } else { Err(HttpWordError::Method) }
    }
}

text! {
    /// A regular expression in the syntax of the `regex` crate, over octets: classes such as `\w` and the flag `i` mean
    /// ASCII. It takes time linear in the text, whatever the expression.
    pub struct RegularExpression
}

impl RegularExpression {
    /// The longest one, in bytes.
    pub const MAX: usize = 1_000;
    /// The most memory of a compiled one, in bytes.
    pub const MAX_COMPILED: usize = 64 * 1024;

    /// Compiled to match a text as a whole, which is what conditions do.
    ///
    /// # Errors
    /// Only for a text that decoding has not accepted.
    pub fn whole(&self) -> Result<regex::bytes::Regex, HttpWordError> {
        compile(&format!("^(?:{})$", self.0))
    }

    /// Compiled to be found anywhere in a text, which is what rewrites do.
    ///
    /// # Errors
    /// Only for a text that decoding has not accepted.
    pub fn part(&self) -> Result<regex::bytes::Regex, HttpWordError> {
        compile(&self.0)
    }

    /// The whole segments that every path which it matches as a whole starts with, as far as that is plain to see: `/api` for
    /// `/api/v[0-9]+`. A slash follows them in the path.
    #[must_use]
    pub fn literal_start(&self) -> String {
        let mut parser = ParserBuilder::new().utf8(false).unicode(false).build();
        let parsed = parser.parse(&self.0).map(Hir::into_kind);
        let parts = match parsed {
            Ok(HirKind::Concat(parts)) => parts.into_iter().map(Hir::into_kind).collect(),
            Ok(kind) => vec![kind],
            Err(_) => return String::new(),
        };
        let first = parts.into_iter().find(|part| !matches!(part, HirKind::Look(Look::Start)));
        let literal = match &first {
            Some(HirKind::Literal(literal)) => str::from_utf8(&literal.0).unwrap_or_default(),
            _ => "",
        };
        let segments = literal.rfind('/').map_or("", |end| &literal[..end]);
        if segments.starts_with('/') { segments.to_owned() } else { String::new() }
    }
}

impl FromStr for RegularExpression {
    type Err = HttpWordError;

    fn from_str(text: &str) -> Result<Self, HttpWordError> {
        if !(1..=Self::MAX).contains(&text.len()) {
            return Err(HttpWordError::Expression(format!("1 to {} bytes", Self::MAX)));
        }
        // By itself first, so that `a)(b` is not one because of the group around it.
        compile(text)?;
        let expression = Self(text.into());
        expression.whole()?;
        Ok(expression)
    }
}

fn compile(text: &str) -> Result<regex::bytes::Regex, HttpWordError> {
    let mut builder = regex::bytes::RegexBuilder::new(text);
    builder.unicode(false).size_limit(RegularExpression::MAX_COMPILED).dfa_size_limit(256 * 1024);
    builder.build().map_err(|error| HttpWordError::Expression(reason(&error)))
}

/// The reason of an error in one line: those of syntax point at the place in a drawing of several lines.
fn reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => format!("compiled it takes more than {limit} bytes"),
        other => {
            let text = other.to_string();
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            last.trim().trim_start_matches("error: ").to_owned()
        }
    }
}

/// A header field with its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderField {
    /// Its name, as it is sent.
    pub name: HeaderName,
    /// Its value: visible ASCII characters, with spaces only between them.
    pub value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_start_of_an_expression_is_whole_segments() {
        for (expression, start) in [
            ("/api/v[12]/.*", "/api"),
            ("/api/.*", "/api"),
            ("/api.*", ""),
            ("/a/b", "/a"),
            ("^/a/b$", "/a"),
            ("/a/b/?x", "/a"),
            ("/a/(b|c)/d", "/a"),
            ("/a/x|/b/y", ""),
            ("(?i)/a/b", ""),
            ("/a/(?i)b/c", "/a"),
            ("/a\\.b/c/(?P<id>[0-9]+)", "/a.b/c"),
            (".*/a/b", ""),
            ("a/b/c", ""),
            ("(/a/b){2}", ""),
        ] {
            let parsed: RegularExpression = expression.parse().unwrap();
            assert_eq!(parsed.literal_start(), start, "{expression}");
        }
    }
}
