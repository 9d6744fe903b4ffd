//! Request targets (RFC 9112 §3.2) and the authorities in them, as requests are matched and forwarded.
//!
//! A gateway and the instance behind it must understand a path alike, or a rule for `/admin` is passed by another spelling of
//! `/admin`. So paths are compared in one form (RFC 3986 §6.2.2): percent-encoded unreserved octets are decoded, the other
//! encodings are in upper case, dot segments are removed. If that changes which segments there are, the instance gets the
//! path in this form; a spelling such as `%7E` for `~`, which any instance reads alike, is forwarded as it was sent, since a
//! client may have signed it. `//` is kept: the two are different paths (RFC 3986 §3.3).
//!
//! What some servers take for a separator or a dot segment and others do not ([`Target::ambiguous`]) is refused, unless the
//! route says that its instances read it as data.
//!
//! Most paths are in this form already. One pass over a table of octets finds that out, and then nothing is copied.

use std::borrow::Cow;

use store::model::is_ambiguous_segment;

/// Why a target or an authority is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// `CONNECT`, which this gateway does not do: 501, the others 400.
    #[error("CONNECT is not supported")]
    Connect,
    /// Neither a path nor a URL with `http` or `https`.
    #[error(
        "the request target is neither a path that starts with / nor a URL that starts with http:// or https://"
    )]
    Form,
    /// `*` with another method than `OPTIONS` (RFC 9112 §3.2.4).
    #[error("the request target * is for OPTIONS only")]
    Asterisk,
    /// An octet that URIs do not have (RFC 3986 §2). A fragment counts as one: it is not sent (RFC 9112 §3.2).
    #[error("the request target has the octet 0x{0:02X}, which has to be percent-encoded")]
    Octet(u8),
    /// A `%` in the path without two hexadecimal digits.
    #[error("the path has a % without two hexadecimal digits after it")]
    Percent,
    /// An encoded separator, a NUL, or a dot segment with parameters, on a route that does not allow it.
    #[error(
        "the path has an encoded slash, a backslash, a NUL or a dot segment with parameters, which servers read in \
         different ways; a route may allow it with encoded_slashes: allow"
    )]
    Ambiguous,
    /// Not a host name or an address, perhaps with a port; user information counts as wrong (RFC 9110 §4.2.4).
    #[error("the host is not a name or an address with an optional port")]
    Authority,
}

impl Refusal {
    /// The status of the answer.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Connect => 501,
            _ => 400,
        }
    }
}

/// A request target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<'t> {
    /// The path in normal form, for matching and rewriting; `*` for `OPTIONS *`.
    pub(crate) path: Cow<'t, str>,
    /// The path as the client sent it; `/` if its URL had none.
    sent: &'t str,
    /// What follows the first `?`, as the client sent it.
    pub(crate) query: Option<&'t str>,
    /// The authority of a URL; it replaces the field `Host` (RFC 9112 §3.2.2).
    pub(crate) authority: Option<Authority<'t>>,
    /// True if the URL's scheme is `https`, `None` if the target has no scheme.
    pub(crate) https: Option<bool>,
    /// The path in normal form has other segments than the path that was sent.
    pub(crate) changed: bool,
    /// The path has what only `encoded_slashes: allow` admits. Such octets are data, never separators.
    pub(crate) ambiguous: bool,
}

impl<'t> Target<'t> {
    /// Reads the target of a request. Methods are case-sensitive (RFC 9110 §9.1).
    ///
    /// # Errors
    /// When it is not a target for this method, or has octets outside the syntax of URIs.
    pub(crate) fn read(method: &str, target: &'t [u8]) -> Result<Self, Refusal> {
        if method == "CONNECT" {
            return Err(Refusal::Connect);
        }
        match target {
            [b'/', ..] => Self::of_path(target, None, None),
            b"*" if method == "OPTIONS" => Ok(Self::asterisk(None, None)),
            b"*" => Err(Refusal::Asterisk),
            _ => Self::of_url(method, target),
        }
    }

    fn of_url(method: &str, target: &'t [u8]) -> Result<Self, Refusal> {
        let (https, rest) = without_scheme(target).ok_or(Refusal::Form)?;
        let end = rest.iter().position(|octet| matches!(octet, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let authority = Some(Authority::read(authority)?);
        match rest {
            // RFC 9112 §3.2.4.
            [] if method == "OPTIONS" => Ok(Self::asterisk(authority, Some(https))),
            [b'/', ..] => Self::of_path(rest, authority, Some(https)),
            _ => Ok(Self { query: query(rest)?, ..Self::plain("/", authority, Some(https)) }),
        }
    }

    fn of_path(
        text: &'t [u8],
        authority: Option<Authority<'t>>,
        https: Option<bool>,
    ) -> Result<Self, Refusal> {
        let (end, normal) = scan(text)?;
        let (sent, rest) = text.split_at(end);
        let query = query(rest)?;
        // It is ASCII: `scan` refuses other octets.
        let sent = str::from_utf8(sent).map_err(|_| Refusal::Octet(0x80))?;
        let plain = Self { query, ..Self::plain(sent, authority, https) };
        if normal {
            return Ok(plain);
        }
        let Normal { path, changed, ambiguous } = Normal::of(sent)?;
        let path = if path == sent { Cow::Borrowed(sent) } else { Cow::Owned(path) };
        Ok(Self { path, changed, ambiguous, ..plain })
    }

    const fn asterisk(authority: Option<Authority<'t>>, https: Option<bool>) -> Self {
        Self::plain("*", authority, https)
    }

    const fn plain(sent: &'t str, authority: Option<Authority<'t>>, https: Option<bool>) -> Self {
        let (path, query) = (Cow::Borrowed(sent), None);
        Self { path, sent, query, authority, https, changed: false, ambiguous: false }
    }

    /// The path to forward where no rewrite says another one: as sent, unless its segments differ in normal form.
    pub(crate) fn forwarded(&self) -> &str {
        if self.changed { &self.path } else { self.sent }
    }

    /// True for `OPTIONS *`, which is about the host as a whole.
    pub(crate) fn is_asterisk(&self) -> bool {
        self.path == "*"
    }

    /// The path that routes are matched with: for `OPTIONS *` that of the host as a whole.
    pub(crate) fn matched(&self) -> &str {
        if self.is_asterisk() { "/" } else { &self.path }
    }
}

/// A host with an optional port (RFC 3986 §3.2), as in `Host` and in URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority<'t> {
    /// The host in lower case, without a final dot; an IPv6 address with its brackets.
    pub(crate) host: Cow<'t, str>,
    /// The port, if one is given.
    pub(crate) port: Option<u16>,
}

impl<'t> Authority<'t> {
    /// Reads an authority. Percent-encoded host names are refused: they would be other spellings of the same host.
    ///
    /// # Errors
    /// When it is not a name or an address, has user information, or its port is not a number up to 65535.
    pub(crate) fn read(text: &'t [u8]) -> Result<Self, Refusal> {
        let text = str::from_utf8(text).map_err(|_| Refusal::Authority)?;
        let host_end = match text.strip_prefix('[') {
            Some(rest) => {
                let end = rest.find(']').ok_or(Refusal::Authority)?;
                rest[..end].parse::<std::net::Ipv6Addr>().map_err(|_| Refusal::Authority)?;
                end + 2
            }
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at(host_end);
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|it| it.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| Refusal::Authority)?)
            }
            _ => return Err(Refusal::Authority),
        };
        Ok(Self { host: host_name(host)?, port })
    }
}

fn host_name(host: &str) -> Result<Cow<'_, str>, Refusal> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let (mut upper, mut label) = (false, 0);
    if !name.starts_with('[') {
        for octet in name.bytes() {
            match octet {
                b'.' if label > 0 => label = 0,
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
                b'A'..=b'Z' => (upper, label) = (true, label + 1),
                _ => return Err(Refusal::Authority),
            }
        }
        if label == 0 {
            return Err(Refusal::Authority);
        }
    } else if name.len() != host.len() {
        return Err(Refusal::Authority);
    } else {
        upper = name.bytes().any(|octet| octet.is_ascii_uppercase());
    }
    Ok(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// What an octet means to the scan of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Part of a segment, and in normal form wherever it stands.
    Plain,
    /// A dot: special at the start of a segment.
    Dot,
    /// `%` and `\`: needs a closer look.
    Look,
    /// `?`: the path's end.
    End,
    /// Outside the syntax of URIs.
    Outside,
}

/// Square brackets are octets of URIs (RFC 3986 §2.2), and browsers send them in paths and queries.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Outside; 256];
    let mut octet = 0x21;
    while octet < 0x7f {
        classes[octet] = match octet as u8 {
            b'"' | b'#' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Outside,
            b'%' | b'\\' => Class::Look,
            b'.' => Class::Dot,
            b'?' => Class::End,
            _ => Class::Plain,
        };
        octet += 1;
    }
    classes
};

/// The length of the path at the start of `text`, and whether it is in normal form for sure.
fn scan(text: &[u8]) -> Result<(usize, bool), Refusal> {
    let (mut normal, mut before) = (true, 0);
    for (at, octet) in text.iter().copied().enumerate() {
        match CLASSES[usize::from(octet)] {
            Class::Plain => {}
            Class::Dot => normal &= before != b'/',
            Class::Look => normal = false,
            Class::End => return Ok((at, normal)),
            Class::Outside => return Err(Refusal::Octet(octet)),
        }
        before = octet;
    }
    Ok((text.len(), normal))
}

/// The query after a `?`. It is forwarded as it is, so that an odd `%` in it is the instance's business.
fn query(text: &[u8]) -> Result<Option<&str>, Refusal> {
    let query = match text {
        [] => return Ok(None),
        [b'?', query @ ..] => query,
        [octet, ..] => return Err(Refusal::Octet(*octet)),
    };
    let outside = |octet: &&u8| **octet == b'\\' || CLASSES[usize::from(**octet)] == Class::Outside;
    match query.iter().find(outside) {
        Some(octet) => Err(Refusal::Octet(*octet)),
        None => str::from_utf8(query).map(Some).map_err(|_| Refusal::Octet(0x80)),
    }
}

/// A target whose query has no octets outside the syntax of URIs any more: they are percent-encoded, as browsers do with some
/// of them (WHATWG URL, "query percent-encode set") and every reader of a query undoes.
pub(crate) fn encode_query(target: &[u8]) -> Cow<'_, [u8]> {
    let outside = |octet: u8| octet == b'\\' || CLASSES[usize::from(octet)] == Class::Outside;
    let start = target.iter().position(|octet| *octet == b'?').unwrap_or(target.len());
    if !target[start..].iter().any(|octet| outside(*octet)) {
        return Cow::Borrowed(target);
    }
    let mut encoded = String::with_capacity(target.len() + 32);
    for octet in &target[start..] {
        if outside(*octet) { push_encoded(&mut encoded, *octet) } else { encoded.push(char::from(*octet)) }
    }
    Cow::Owned([&target[..start], encoded.as_bytes()].concat())
}

/// Whether the scheme is `https`, and what follows `http://` or `https://`.
fn without_scheme(target: &[u8]) -> Option<(bool, &[u8])> {
    let after = |scheme: &str| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
    };
    after("http://").map(|rest| (false, rest)).or_else(|| Some((true, after("https://")?)))
}

/// A path in normal form, and what was found on the way.
struct Normal {
    path: String,
    changed: bool,
    ambiguous: bool,
}

impl Normal {
    /// Normalises a path that starts with `/`. Dot segments above the root are dropped (RFC 3986 §5.2.4).
    fn of(sent: &str) -> Result<Self, Refusal> {
        let mut it = Self { path: String::with_capacity(sent.len()), changed: false, ambiguous: false };
        let mut segments = sent.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            let start = it.path.len();
            it.path.push('/');
            it.decode(segment)?;
            let up = match &it.path[start + 1..] {
                "." => false,
                ".." => true,
                _ => continue,
            };
            it.changed = true;
            it.path.truncate(start);
            if up {
                it.path.truncate(it.path.rfind('/').unwrap_or(0));
            }
            if segments.peek().is_none() {
                it.path.push('/');
            }
        }
        Ok(it)
    }

    /// Appends a segment, with its unreserved octets decoded and the digits of other encodings in upper case.
    fn decode(&mut self, segment: &str) -> Result<(), Refusal> {
        let start = self.path.len();
        let mut rest = segment;
        while let Some(at) = rest.find('%') {
            self.path.push_str(&rest[..at]);
            let digits = rest.get(at + 1..at + 3).ok_or(Refusal::Percent)?;
            let octet = decode_pair(digits.as_bytes()).ok_or(Refusal::Percent)?;
            match octet {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.path.push(char::from(octet));
                }
                _ => push_encoded(&mut self.path, octet),
            }
            rest = &rest[at + 3..];
        }
        self.path.push_str(rest);
        self.ambiguous |= is_ambiguous_segment(&self.path[start..]);
        Ok(())
    }
}

fn decode_pair(digits: &[u8]) -> Option<u8> {
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let &[high, low] = digits else { return None };
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Appends `%` and two digits in upper case.
pub(crate) fn push_encoded(path: &mut String, octet: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    path.push('%');
    path.push(char::from(DIGITS[usize::from(octet >> 4)]));
    path.push(char::from(DIGITS[usize::from(octet & 15)]));
}

/// The normal form of a path in a document, in which octets outside the syntax of URIs may stand as they are.
pub(crate) fn normal_path(text: &str) -> String {
    let mut path = String::with_capacity(text.len() + 1);
    if !text.starts_with('/') {
        path.push('/');
    }
    for (at, octet) in text.bytes().enumerate() {
        let lone = octet == b'%' && text.as_bytes().get(at + 1..at + 3).and_then(decode_pair).is_none();
        match CLASSES[usize::from(octet)] {
            Class::End | Class::Outside => push_encoded(&mut path, octet),
            _ if lone => push_encoded(&mut path, octet),
            _ => path.push(char::from(octet)),
        }
    }
    Normal::of(&path).map_or(path, |it| it.path)
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
