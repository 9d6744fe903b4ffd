//! Conditions on paths.
//!
//! What documents say of paths is in the normal form in which requests are compared: no dot segments, and percent-encoded
//! only what has to be (RFC 3986 §6.2.2).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::RegularExpression;

/// What a path in a document should have looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// For a prefix.
    #[error("a path such as / or /api/v1: whole segments")]
    Prefix,
    /// For a whole path.
    #[error(
        "a path such as /api/v1: it starts with a slash, has no dot segments and encodes only what it must, as %2B"
    )]
    Whole,
    /// For a path with parameters.
    #[error(
        "a path such as /u/{{id}}: whole segments, and distinct names in braces for at least one of them"
    )]
    Pattern,
}

/// A path condition. A path is compared in its normal form (RFC 3986 §6.2.2), without the query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// This path and no other: `/api` does not match `/api/`.
    Exact(String),
    /// Whole segments: `/api` matches `/api` and `/api/x`, not `/apis`.
    Prefix(String),
    /// A whole path in which parameters stand for one segment each, which is not empty.
    Pattern(PathPattern),
    /// A whole path that matches a regular expression.
    Regex(RegularExpression),
}

impl PathMatch {
    /// This path and no other.
    ///
    /// # Errors
    /// When it is no path in normal form.
    pub fn exact(text: &str) -> Result<Self, PathError> {
        whole(text).map(|path| Self::Exact(path.to_owned()))
    }

    /// This path and those below it. A slash at its end says nothing and is left out, as Gateway API has it.
    ///
    /// # Errors
    /// When it is no path in normal form, or has empty segments.
    pub fn prefix(text: &str) -> Result<Self, PathError> {
        prefix(text).map(|path| Self::Prefix(path.to_owned()))
    }

    /// True for a path in normal form that it matches, one condition at a time: what routers must agree with. An expression is
    /// compiled for it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => text == path,
            Self::Prefix(text) => path
                .strip_prefix(text.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Pattern(pattern) => pattern.matches(path),
            Self::Regex(expression) => expression.whole().is_ok_and(|it| it.is_match(path.as_bytes())),
        }
    }

    /// Every path.
    #[must_use]
    pub fn root() -> Self {
        Self::Prefix("/".to_owned())
    }

    /// True if servers read the paths it is about in different ways, so that requests for them get a 400 unless the route
    /// allows them. What an expression matches is not known here.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        let text = match self {
            Self::Exact(text) | Self::Prefix(text) => text,
            Self::Pattern(pattern) => pattern.as_str(),
            Self::Regex(_) => return false,
        };
        text.split('/').any(is_ambiguous_segment)
    }
}

/// Spellings in which some servers see `/`, `\`, NUL or `.`: encoded once, or in UTF-8 of more octets than the character
/// needs (RFC 3629 §10).
const HIDDEN: [&str; 15] = [
    "%2F",
    "%5C",
    "%00",
    "%C0%80",
    "%C0%AE",
    "%C0%AF",
    "%C1%9C",
    "%E0%80%80",
    "%E0%80%AE",
    "%E0%80%AF",
    "%E0%81%9C",
    "%F0%80%80%80",
    "%F0%80%80%AE",
    "%F0%80%80%AF",
    "%F0%80%81%9C",
];

/// True if servers read a segment, in normal form, in different ways: what [`EncodedSlashes`](super::EncodedSlashes) is about.
#[must_use]
pub fn is_ambiguous_segment(segment: &str) -> bool {
    // `..;x` is a dot segment with parameters to servlet containers, and a name to others.
    let name = segment.strip_prefix("..").or_else(|| segment.strip_prefix('.'));
    if name.is_some_and(|rest| rest.starts_with(';') || rest.starts_with("%3B")) {
        return true;
    }
    let hidden = |at: usize| HIDDEN.iter().any(|it| segment[at..].starts_with(it));
    segment.bytes().enumerate().any(|(at, octet)| octet == b'\\' || octet == b'%' && hidden(at))
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) | Self::Prefix(text) => f.write_str(text),
            Self::Pattern(text) => text.fmt(f),
            Self::Regex(text) => text.fmt(f),
        }
    }
}

/// A path with parameters: `/u/{id}`. A parameter is a whole segment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathPattern(Box<str>);

/// A segment of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternSegment<'p> {
    /// This segment.
    Literal(&'p str),
    /// Any segment that is not empty; the name of the parameter.
    Parameter(&'p str),
}

impl PathPattern {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments after the leading slash.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = PatternSegment<'_>> {
        self.0.strip_prefix('/').unwrap_or(&self.0).split('/').map(|segment| {
            let parameter = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            parameter.map_or(PatternSegment::Literal(segment), PatternSegment::Parameter)
        })
    }
}

impl PathPattern {
    fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut segments = path.split('/');
        let fits = self.segments().all(|segment| match (segment, segments.next()) {
            (PatternSegment::Literal(text), Some(segment)) => text == segment,
            (PatternSegment::Parameter(_), Some(segment)) => !segment.is_empty(),
            (_, None) => false,
        });
        fits && segments.next().is_none()
    }

    /// The pattern with parameters that have no names: what it matches.
    pub(crate) fn nameless(&self) -> Self {
        let text = |segment| match segment {
            PatternSegment::Literal(text) => text,
            PatternSegment::Parameter(_) => "{}",
        };
        let text: String = self.segments().flat_map(|segment| ["/", text(segment)]).collect();
        Self(text.into())
    }
}

impl FromStr for PathPattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let pattern = Self(text.into());
        let mut seen = Vec::new();
        let fits = pattern.segments().all(|segment| match segment {
            PatternSegment::Literal(text) => is_whole_segment(text),
            PatternSegment::Parameter(name) => {
                let new = !seen.contains(&name);
                seen.push(name);
                new && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            }
        });
        let fits = fits && text.starts_with('/') && !seen.is_empty();
        if fits { Ok(pattern) } else { Err(PathError::Pattern) }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text without a slash at its end, if it is a prefix.
fn prefix(text: &str) -> Result<&str, PathError> {
    let below = text.strip_prefix('/').ok_or(PathError::Prefix)?;
    if below.is_empty() {
        return Ok(text);
    }
    let segments = below.strip_suffix('/').unwrap_or(below);
    let fits = segments.split('/').all(is_whole_segment);
    if fits { Ok(&text[..=segments.len()]) } else { Err(PathError::Prefix) }
}

/// The text, if it is a whole path; that may have empty segments.
fn whole(text: &str) -> Result<&str, PathError> {
    let below = text.strip_prefix('/').ok_or(PathError::Whole)?;
    let fits = below.split('/').all(|segment| segment.is_empty() || is_whole_segment(segment));
    if fits { Ok(text) } else { Err(PathError::Whole) }
}

fn is_whole_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && is_normal(segment.as_bytes())
}

/// True for octets that a request can have there in normal form. Some that RFC 3986 excludes are among them, because
/// documents of earlier versions may have them.
fn is_normal(mut text: &[u8]) -> bool {
    while let [first, after @ ..] = text {
        text = match (first, after) {
            (b'%', [high, low, after @ ..]) if is_normal_escape(*high, *low) => after,
            (b'%' | b'?' | b'#' | b'\\' | b'{' | b'}', _) => return false,
            (plain, after) if plain.is_ascii_graphic() => after,
            _ => return false,
        };
    }
    true
}

/// True for two capital hexadecimal digits of an octet that is not unreserved (RFC 3986 §2.3).
fn is_normal_escape(high: u8, low: u8) -> bool {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let octet = digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low);
    octet.is_some_and(|it| !(it.is_ascii_alphanumeric() || b"-._~".contains(&it)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_in_their_normal_form() {
        for good in ["/", "/api", "/api/v1", "/caf%C3%A9", "/a%2Fb", "/a;b=c", "/a..b", "/..."] {
            assert_eq!(prefix(good), Ok(good));
            assert_eq!(whole(good), Ok(good));
        }
        for bad in [
            "", "api", "/a/../b", "/.", "/%61", "/%2f", "/%", "/%G0", "/a?b", "/a#b", "/a\\b", "/é", "/{id}",
            "/a b",
        ] {
            assert_eq!(prefix(bad), Err(PathError::Prefix), "{bad}");
            assert_eq!(whole(bad), Err(PathError::Whole), "{bad}");
        }
        for only_whole in ["//", "/a//", "/a//b", "///"] {
            assert_eq!((prefix(only_whole), whole(only_whole)), (Err(PathError::Prefix), Ok(only_whole)));
        }
        assert_eq!(
            (prefix("/a/b/"), whole("/a/b/")),
            (Ok("/a/b"), Ok("/a/b/")),
            "only of a prefix it says nothing"
        );
    }

    #[test]
    fn what_servers_read_in_different_ways_is_ambiguous() {
        let exact = |text| PathMatch::exact(text).unwrap().is_ambiguous();
        for path in [
            "/a%2Fb",
            "/%5C",
            "/%00",
            "/a/..;b",
            "/.;",
            "/a/.%3Bb",
            "/..%3B/c",
            "/%C0%AF",
            "/x%E0%80%AEy",
            "/%F0%80%81%9C",
        ] {
            assert!(exact(path), "{path}");
        }
        for path in ["/a..;b", "/a.;b", "/...;b", "/a;b=c", "/;", "/%C3%A9", "/%252F", "/%3B"] {
            assert!(!exact(path), "{path}");
        }
        assert!(PathMatch::Pattern("/..;a/{id}".parse().unwrap()).is_ambiguous());
        assert!(!PathMatch::Pattern("/a..;/{id}".parse().unwrap()).is_ambiguous());
    }

    #[test]
    fn conditions_match_paths() {
        let matched = |condition: &PathMatch, path| condition.matches(path);
        let prefix = PathMatch::prefix("/api").unwrap();
        assert!(["/api", "/api/", "/api/x"].into_iter().all(|it| matched(&prefix, it)));
        assert!(!["/apis", "/", "/x/api"].into_iter().any(|it| matched(&prefix, it)));
        assert!(["/", "/x", "//"].into_iter().all(|it| matched(&PathMatch::root(), it)));
        let exact = PathMatch::exact("/api").unwrap();
        assert!(matched(&exact, "/api") && !matched(&exact, "/api/"));
        let pattern = PathMatch::Pattern("/u/{id}".parse().unwrap());
        assert!(matched(&pattern, "/u/7"));
        assert!(!["/u", "/u/", "/u/7/", "/u/7/x", "/v/7"].into_iter().any(|it| matched(&pattern, it)));
        let regex = PathMatch::Regex("/v[0-9]+".parse().unwrap());
        assert!(matched(&regex, "/v12") && !matched(&regex, "/v12/x") && !matched(&regex, "/x/v1"));
    }

    #[test]
    fn a_pattern_has_parameters_for_whole_segments() {
        let pattern: PathPattern = "/u/{id}/x".parse().unwrap();
        let segments: Vec<_> = pattern.segments().collect();
        use PatternSegment::{Literal, Parameter};
        assert_eq!(segments, [Literal("u"), Parameter("id"), Literal("x")]);
        for bad in [
            "/u/id",
            "u/{id}",
            "/{id}/{id}",
            "/u/x{id}",
            "/{}",
            "/{a-b}",
            "/{id}/",
            "/{*rest}",
            "/{a}/%61",
            "",
        ] {
            assert_eq!(bad.parse::<PathPattern>(), Err(PathError::Pattern), "{bad}");
        }
    }
}
