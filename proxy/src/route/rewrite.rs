//! What a route changes: path and host for the instance, the target of a redirect, header fields of requests and answers.
//!
//! Everything is prepared when the route is compiled. Rewrites work on the path in normal form, and what comes out is in
//! normal form again: a substitution that would make a dot segment does not lead above the root.

use std::{borrow::Cow, fmt::Write as _};

use regex::bytes::Regex;
use store::model::{HeaderModifier, PathMatch, PathRewrite, PatternSegment, RequestRedirect, Scheme};

use crate::{
    http1::{FieldId, is_alike},
    target::{Authority, Target, normal_path},
};

/// The longest path that a substitution may make, in bytes: one of a few characters can make megabytes of a path.
const MAX_PATH: usize = 64 * 1024;

/// A substitution made a path that is too long; 414.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path is longer than {MAX_PATH} bytes after the route's rewrite")]
pub(crate) struct PathTooLong;

/// A path in two pieces, so that a changed prefix needs no copy of the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewPath<'p> {
    /// The start; it begins with `/`, or is empty.
    pub(crate) start: Cow<'p, str>,
    /// What follows.
    pub(crate) rest: &'p str,
}

impl<'p> NewPath<'p> {
    const fn whole(path: Cow<'p, str>) -> Self {
        Self { start: path, rest: "" }
    }
}

/// How a path is rewritten.
#[derive(Clone, Debug)]
pub(crate) enum PathChange {
    /// The prefix that was matched, or the whole path that was, is replaced by this; without a slash at its end.
    Prefix(Box<str>),
    /// The whole path; `{name}` in it is a parameter of the route's path.
    Whole(Box<str>),
    /// Every match of an expression.
    Matches(Regex, Box<str>),
}

impl PathChange {
    /// Prepares a rewrite; `None` if its expression does not compile, which documents cannot have.
    pub(crate) fn compile(rewrite: &PathRewrite) -> Option<Self> {
        Some(match rewrite {
            PathRewrite::Prefix { replace_prefix_match } => {
                Self::Prefix(replace_prefix_match.trim_end_matches('/').into())
            }
            PathRewrite::Full { replace_full_path } => Self::Whole(replace_full_path.as_str().into()),
            PathRewrite::Regex { regex, substitution } => {
                Self::Matches(regex.part().ok()?, substitution.as_str().into())
            }
        })
    }

    /// The new path of a request that was matched by this path of a route.
    ///
    /// # Errors
    /// When it would be longer than [`MAX_PATH`].
    pub(crate) fn apply<'p>(&'p self, by: &PathMatch, path: &'p str) -> Result<NewPath<'p>, PathTooLong> {
        match self {
            Self::Prefix(replacement) => Ok(replace_prefix(replacement, by, path)),
            Self::Whole(template) => fill(template, |name| {
                parameters(by, path).find(|(it, _)| *it == name).map(|(_, value)| value)
            }),
            Self::Matches(regex, substitution) => substitute(regex, substitution, path),
        }
    }
}

/// The parameters of a pattern by name, with their values in a path that it matches; none of another kind of condition.
pub(crate) fn parameters<'b, 'p>(
    by: &'b PathMatch,
    path: &'p str,
) -> impl Iterator<Item = (&'b str, &'p str)> {
    let pattern = match by {
        PathMatch::Pattern(pattern) => Some(pattern.segments()),
        _ => None,
    };
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    pattern.into_iter().flatten().zip(segments).filter_map(|(segment, value)| match segment {
        PatternSegment::Parameter(name) => Some((name, value)),
        PatternSegment::Literal(_) => None,
    })
}

fn replace_prefix<'p>(replacement: &'p str, matched: &PathMatch, path: &'p str) -> NewPath<'p> {
    let rest = match matched {
        PathMatch::Prefix(prefix) => path.strip_prefix(prefix.trim_end_matches('/')),
        PathMatch::Exact(_) => Some(""),
        PathMatch::Pattern(_) | PathMatch::Regex(_) => None,
    };
    match rest {
        Some("") if replacement.is_empty() => NewPath::whole(Cow::Borrowed("/")),
        Some(rest) => NewPath { start: Cow::Borrowed(replacement), rest },
        None => NewPath::whole(Cow::Borrowed(path)),
    }
}

/// Fills the parameters in; a name that is none stays as it is written.
fn fill<'p>(template: &'p str, value: impl Fn(&str) -> Option<&'p str>) -> Result<NewPath<'p>, PathTooLong> {
    if !template.contains('{') {
        return Ok(NewPath::whole(Cow::Borrowed(template)));
    }
    let (mut path, mut rest) = (String::with_capacity(template.len() + 32), template);
    while let Some((before, after)) = rest.split_once('{') {
        path.push_str(before);
        let named = after.split_once('}').and_then(|(name, after)| Some((value(name)?, after)));
        match named {
            Some((value, after)) => {
                path.push_str(value);
                rest = after;
            }
            None => {
                path.push('{');
                rest = after;
            }
        }
        if path.len() > MAX_PATH {
            return Err(PathTooLong);
        }
    }
    path.push_str(rest);
    whole(path)
}

fn substitute<'p>(regex: &Regex, substitution: &str, path: &'p str) -> Result<NewPath<'p>, PathTooLong> {
    let (mut new, mut copied) = (Vec::new(), 0);
    for captures in regex.captures_iter(path.as_bytes()) {
        let Some(found) = captures.get(0) else { break };
        new.extend_from_slice(path.as_bytes().get(copied..found.start()).unwrap_or_default());
        captures.expand(substitution.as_bytes(), &mut new);
        copied = found.end();
        if new.len() > MAX_PATH {
            return Err(PathTooLong);
        }
    }
    if copied == 0 && new.is_empty() {
        return Ok(NewPath::whole(Cow::Borrowed(path)));
    }
    new.extend_from_slice(path.as_bytes().get(copied..).unwrap_or_default());
    // The parts of an ASCII path and of a text; an expression cannot part the octets of a character of the latter.
    whole(String::from_utf8_lossy(&new).into_owned())
}

/// A path that was made, in normal form.
fn whole<'p>(path: String) -> Result<NewPath<'p>, PathTooLong> {
    let path = normal_path(&path);
    if path.len() > MAX_PATH { Err(PathTooLong) } else { Ok(NewPath::whole(Cow::Owned(path))) }
}

/// A redirect, prepared.
#[derive(Clone, Debug)]
pub(crate) struct Redirect {
    /// The status: 301, 302, 303, 307 or 308.
    pub(crate) status: u16,
    https: Option<bool>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<PathChange>,
}

impl Redirect {
    pub(super) fn compile(redirect: &RequestRedirect) -> Self {
        Self {
            status: redirect.status_code,
            https: redirect.scheme.map(|scheme| scheme == Scheme::Https),
            host: redirect.hostname.as_ref().map(|host| host.as_str().into()),
            port: redirect.port,
            path: redirect.path.as_ref().and_then(PathChange::compile),
        }
    }

    /// The URL that the client is sent to: whole, so that a path with two slashes at its start is no other host's.
    /// `asked` is the host that the client asked for and `https` how; what the redirect does not name is the request's.
    ///
    /// # Errors
    /// When the path would be too long.
    pub(crate) fn location(
        &self,
        by: &PathMatch,
        target: &Target<'_>,
        asked: &Authority<'_>,
        https: bool,
    ) -> Result<String, PathTooLong> {
        let to_https = self.https.unwrap_or(https);
        let usual = if to_https { 443 } else { 80 };
        let port = self.port.or_else(|| if self.https.is_some() { None } else { asked.port });
        let host = self.host.as_deref().unwrap_or(&asked.host);
        let mut url = format!("{}://{host}", if to_https { "https" } else { "http" });
        if let Some(port) = port.filter(|port| *port != usual) {
            let _ = write!(url, ":{port}");
        }
        match &self.path {
            Some(change) => {
                let path = change.apply(by, target.matched())?;
                url.push_str(&path.start);
                url.push_str(path.rest);
            }
            None if target.is_asterisk() => url.push('/'),
            None => url.push_str(target.forwarded()),
        }
        if let Some(query) = target.query {
            url.push('?');
            url.push_str(query);
        }
        Ok(url)
    }
}

/// Changes of header fields, prepared: what falls out, and the lines that come in.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldChanges {
    /// Names in lower case.
    out: Box<[Box<str>]>,
    /// Those of them that have a [`FieldId`], as a set.
    known: u64,
    lines: Box<[u8]>,
}

impl FieldChanges {
    pub(crate) fn compile(modifier: &HeaderModifier) -> Self {
        let out = modifier.remove.iter().map(|name| name.as_str());
        let out = out.chain(modifier.set.iter().map(|it| it.name.as_str()));
        let mut lines = String::new();
        for field in modifier.set.iter().chain(&modifier.add) {
            let _ = write!(lines, "{}: {}\r\n", field.name, field.value);
        }
        let out: Box<[Box<str>]> = out.map(|name| name.to_ascii_lowercase().into()).collect();
        let known = out.iter().fold(0, |set, name| set | FieldId::of(name.as_bytes()).bit());
        Self { out, known: known & !FieldId::Other.bit(), lines: lines.into_bytes().into() }
    }

    /// True if one of these fields falls out, as a set of [`FieldId::bit`]: a route's word about a field counts more than
    /// what the gateway would write.
    pub(crate) const fn drop_any(&self, known: u64) -> bool {
        self.known & known != 0
    }

    /// Takes the lines out that were written behind `from` and fall out of the message.
    pub(crate) fn take_out(&self, text: &mut Vec<u8>, from: usize) {
        let written = text.split_off(from.min(text.len()));
        for line in written.split_inclusive(|octet| *octet == b'\n') {
            let end = line.iter().position(|octet| *octet == b':').unwrap_or(line.len());
            if !self.drops(&line[..end]) {
                text.extend_from_slice(line);
            }
        }
    }

    /// True if fields fall out of the message. Trailers of a message are then not passed on at all: programs that take them for fields of
    /// the head would see there what was taken out.
    pub(crate) fn removes(&self) -> bool {
        !self.out.is_empty()
    }

    /// True if fields of this name fall out of the message, in any case and with underscores for hyphens.
    pub(crate) fn drops(&self, name: &[u8]) -> bool {
        self.out.iter().any(|it| is_alike(name, it.as_bytes()))
    }

    /// The fields that come in, as lines of HTTP/1.1 with their ends.
    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
