//! The head of a request and of a response: the first line, then the fields (RFC 9112 §3 to §5).
//!
//! A head that is whole in the buffer, as nearly every one is, is read in one pass. One that comes in pieces is read again only
//! when its end may have come, so that it costs its length twice and not its square.

use super::{
    error::HeadError,
    fields::{FieldId, Fields, Span},
    octets::{target_end, text_end, token_end},
    section::{Ending, line_end, read_section},
};

/// The empty lines that are skipped before a request (RFC 9112 §2.2). Old clients send one after a body.
const MAX_EMPTY_LINES: usize = 8;
/// The most options of a connection, and protocols to change to, in one head.
const MAX_OPTIONS: usize = 64;
/// The longest registered method has 17 octets.
const MAX_METHOD: usize = 32;

/// The version a message is treated as. A higher minor version is treated as 1.1 (RFC 9110 §2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http10,
    Http11,
}

/// A method that is treated in its own way somewhere; `Other` for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
    Other,
}

impl Method {
    /// Methods are case-sensitive (RFC 9110 §9.1).
    pub(crate) fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// Whether it may be repeated without a question (RFC 9110 §9.2.2).
    pub(crate) const fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace => true,
            Self::Post | Self::Patch | Self::Other => false,
        }
    }
}

/// The form of a request target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A path and an optional query; starts with `/`.
    Origin,
    /// An `http` or `https` URI. Its authority stands above `Host` and is checked where that is, in `target`; each part may
    /// be empty.
    Absolute { authority: Span, path: Span },
    /// `*`, which only OPTIONS has.
    Asterisk,
}

/// The first line of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLine {
    pub(crate) method: Span,
    pub(crate) known: Method,
    pub(crate) target: Span,
    pub(crate) form: Form,
    pub(crate) version: Version,
    /// Octets of the head with its last empty line and with the empty lines that were skipped before it.
    pub(crate) length: usize,
}

/// The first line of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusLine {
    pub(crate) version: Version,
    /// 100 to 999.
    pub(crate) status: u16,
    /// May be empty.
    pub(crate) reason: Span,
    /// Octets of the head with its last empty line.
    pub(crate) length: usize,
}

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Octets of the whole head; below 4 GiB.
    pub(crate) bytes: usize,
    /// Fields.
    pub(crate) fields: usize,
    /// Octets of the request target.
    pub(crate) line: usize,
    /// The query of a target may have visible octets that URIs do not have.
    pub(crate) lenient_query: bool,
}

/// Reads the head of a request from the start of `bytes`; `None` while it is not complete.
///
/// `scanned` says up to where the end was looked for in earlier calls. It is 0 before the first call, and is 0 again when the
/// head was read.
pub(crate) fn read_request(
    bytes: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
    fields: &mut Fields,
) -> Result<Option<RequestLine>, HeadError> {
    read(bytes, scanned, limits, fields, request)
}

/// Reads the head of a response from the start of `bytes`, as [`read_request`] does. Its lines may end in LF alone.
pub(crate) fn read_response(
    bytes: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
    fields: &mut Fields,
) -> Result<Option<StatusLine>, HeadError> {
    let read = read(bytes, scanned, limits, fields, response);
    // There is no target in it that could be too long.
    read.map_err(|error| if error == HeadError::LongTarget { HeadError::TooLarge } else { error })
}

/// What [`request`] and [`response`] have in common: the limit of octets, and pieces.
fn read<Line>(
    bytes: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
    fields: &mut Fields,
    parse: impl FnOnce(&[u8], &HeadLimits, &mut Fields) -> Result<Option<Line>, HeadError>,
) -> Result<Option<Line>, HeadError> {
    let full = bytes.len() >= limits.bytes;
    let bytes = if full { &bytes[..limits.bytes] } else { bytes };
    if *scanned > 0 && !full && !may_have_ended(bytes, *scanned) {
        *scanned = bytes.len();
        return Ok(None);
    }
    fields.clear();
    match parse(bytes, limits, fields)? {
        Some(line) => {
            *scanned = 0;
            Ok(Some(line))
        }
        None if full => Err(too_large(bytes)),
        None => {
            *scanned = bytes.len();
            Ok(None)
        }
    }
}

/// Whether an empty line, or a line that does not end in CR LF, ends at or after `from`.
fn may_have_ended(bytes: &[u8], from: usize) -> bool {
    memchr::memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()).any(|at| {
        let before = &bytes[..from + at];
        !before.ends_with(b"\r") || before.ends_with(b"\n\r")
    })
}

#[cold]
fn too_large(bytes: &[u8]) -> HeadError {
    let start = bytes.iter().position(|octet| !matches!(octet, b'\r' | b'\n')).unwrap_or(bytes.len());
    if bytes[start..].contains(&b'\n') { HeadError::TooLarge } else { HeadError::LongTarget }
}

fn request(bytes: &[u8], limits: &HeadLimits, fields: &mut Fields) -> Result<Option<RequestLine>, HeadError> {
    let Some(start) = skip_empty_lines(bytes)? else { return Ok(None) };
    let Some(method) = method(bytes, start)? else { return Ok(None) };
    let Some(target) = target(bytes, method.end as usize + 1, limits)? else { return Ok(None) };
    let Some((version, next)) = request_version(bytes, target.end as usize + 1)? else { return Ok(None) };
    let known = Method::of(method.get(bytes));
    let form = form(bytes, method, known, target)?;
    let Some(length) = read_section(bytes, Ending::CrLf, next, limits.fields, fields)? else {
        return Ok(None);
    };
    check_host(bytes, version, fields)?;
    check_lists(bytes, fields)?;
    Ok(Some(RequestLine { method, known, target, form, version, length }))
}

fn skip_empty_lines(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
    let mut at = 0;
    while let Some(b'\r' | b'\n') = bytes.get(at) {
        let Some(next) = line_end(bytes, at, Ending::CrLf)? else { return Ok(None) };
        at = next;
        if at > 2 * MAX_EMPTY_LINES {
            return Err(HeadError::EmptyLines);
        }
    }
    Ok(Some(at))
}

fn method(bytes: &[u8], start: usize) -> Result<Option<Span>, HeadError> {
    let end = token_end(bytes, start);
    if end - start > MAX_METHOD {
        return Err(HeadError::LongMethod);
    }
    match bytes.get(end) {
        None => Ok(None),
        Some(b' ') if end > start => Ok(Some(Span::new(start, end))),
        Some(_) => Err(HeadError::BadMethod),
    }
}

fn target(bytes: &[u8], start: usize, limits: &HeadLimits) -> Result<Option<Span>, HeadError> {
    let end = target_end(bytes, start, limits.lenient_query);
    if end - start > limits.line {
        return Err(HeadError::LongTarget);
    }
    match bytes.get(end) {
        None => Ok(None),
        Some(b' ') if end > start => Ok(Some(Span::new(start, end))),
        Some(b'%') if bytes.len() < end + 3 && bytes[end + 1..].iter().all(u8::is_ascii_hexdigit) => Ok(None),
        Some(b'%') => Err(HeadError::BadEscape),
        Some(b'#') => Err(HeadError::Fragment),
        Some(b' ' | b'\r' | b'\n') => Err(HeadError::BadRequestLine),
        Some(_) => Err(HeadError::BadTarget),
    }
}

/// The version of a request and the end of its line.
fn request_version(bytes: &[u8], at: usize) -> Result<Option<(Version, usize)>, HeadError> {
    let rest = &bytes[at..];
    if rest.starts_with(b"HTTP/1.1\r\n") {
        return Ok(Some((Version::Http11, at + 10)));
    }
    let Some(text) = rest.first_chunk::<8>() else {
        return if rest.contains(&b'\n') { Err(HeadError::BadVersion) } else { Ok(None) };
    };
    let version = version(text).ok_or(HeadError::BadVersion)?;
    match line_end(bytes, at + 8, Ending::CrLf) {
        Ok(None) => Ok(None),
        Ok(Some(next)) => Ok(Some((version?, next))),
        Err(HeadError::BadValue) => Err(HeadError::BadRequestLine),
        Err(error) => Err(error),
    }
}

/// The version in these octets; `None` if there is none.
fn version(text: &[u8; 8]) -> Option<Result<Version, HeadError>> {
    match text {
        b"HTTP/1.0" => Some(Ok(Version::Http10)),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Some(Ok(Version::Http11)),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Some(Err(HeadError::OtherVersion)),
        _ => None,
    }
}

fn form(bytes: &[u8], method: Span, known: Method, target: Span) -> Result<Form, HeadError> {
    let text = target.get(bytes);
    match text {
        _ if known == Method::Other && method.get(bytes) == b"CONNECT" => Err(HeadError::Tunnel),
        [b'/', ..] => Ok(Form::Origin),
        b"*" if known == Method::Options => Ok(Form::Asterisk),
        _ => {
            let scheme = [b"http://".as_slice(), b"https://"].into_iter().find(|scheme| {
                text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            });
            let scheme = scheme.ok_or(HeadError::BadForm)?;
            let start = target.start as usize + scheme.len();
            let rest = &text[scheme.len()..];
            let length = rest.iter().position(|octet| matches!(octet, b'/' | b'?')).unwrap_or(rest.len());
            let path = Span::new(start + length, target.end as usize);
            Ok(Form::Absolute { authority: Span::new(start, start + length), path })
        }
    }
}

/// What is in the field is looked at where it is used (`target`).
fn check_host(bytes: &[u8], version: Version, fields: &Fields) -> Result<(), HeadError> {
    match fields.value(FieldId::Host, bytes) {
        None if version == Version::Http10 => Ok(()),
        None => Err(HeadError::NoHost),
        Some(_) if fields.has_several(FieldId::Host) => Err(HeadError::ManyHosts),
        Some(_) => Ok(()),
    }
}

/// Bounds the lists that are gone through again for other fields.
fn check_lists(bytes: &[u8], fields: &Fields) -> Result<(), HeadError> {
    for id in [FieldId::Connection, FieldId::Upgrade] {
        if fields.has(id) && fields.elements(id, bytes).nth(MAX_OPTIONS).is_some() {
            return Err(HeadError::TooManyOptions);
        }
    }
    Ok(())
}

fn response(bytes: &[u8], limits: &HeadLimits, fields: &mut Fields) -> Result<Option<StatusLine>, HeadError> {
    let Some((version, status)) = version_and_status(bytes)? else { return Ok(None) };
    let start = match bytes.get(12) {
        None => return Ok(None),
        Some(b' ') => 13,
        Some(b'\r' | b'\n') => 12,
        Some(_) => return Err(HeadError::BadStatusLine),
    };
    let end = text_end(bytes, start);
    let ending = Ending::CrLfOrLf;
    let Some(next) = line_end(bytes, end, ending)? else { return Ok(None) };
    let Some(length) = read_section(bytes, ending, next, limits.fields, fields)? else { return Ok(None) };
    check_lists(bytes, fields)?;
    Ok(Some(StatusLine { version, status, reason: Span::new(start, end), length }))
}

/// `HTTP/1.1 200`.
fn version_and_status(bytes: &[u8]) -> Result<Option<(Version, u16)>, HeadError> {
    let Some(text) = bytes.first_chunk::<8>() else {
        return if b"HTTP/".starts_with(&bytes[..bytes.len().min(5)]) && !bytes.contains(&b'\n') {
            Ok(None)
        } else {
            Err(HeadError::BadStatusLine)
        };
    };
    let version = version(text).ok_or(HeadError::BadStatusLine)??;
    match bytes.get(8..12) {
        Some(&[b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']) => {
            let digit = |octet: u8| u16::from(octet - b'0');
            Ok(Some((version, digit(a) * 100 + digit(b) * 10 + digit(c))))
        }
        Some(_) => Err(HeadError::BadStatusLine),
        None if bytes.contains(&b'\n') => Err(HeadError::BadStatusLine),
        None => Ok(None),
    }
}
