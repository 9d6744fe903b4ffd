//! The elements of `Forwarded` (RFC 7239 §4): reading them in place, and writing a value.
//!
//! Read tolerantly where senders differ and nothing is ambiguous: spaces around `;`, and values that should have been
//! quoted (`host=a:8080`). Everything else that is not the grammar makes the whole line malformed, because behind an error
//! one cannot tell where the next element begins.

use crate::cookies::is_token;

/// One element, with its values as they stand between their quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) node: Option<&'a [u8]>,
    pub(super) host: Option<&'a [u8]>,
    pub(super) proto: Option<&'a [u8]>,
    by: Option<&'a [u8]>,
}

/// A line that is not a list of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Visits the elements of a line from left to right.
pub(super) fn each<'a>(line: &'a [u8], mut visit: impl FnMut(Element<'a>)) -> Result<(), Malformed> {
    let mut rest = line;
    loop {
        let mut element = Element::default();
        let mut pairs = 0_usize;
        loop {
            rest = rest.trim_ascii_start();
            match rest.first() {
                None | Some(b',') => break,
                Some(b';') => rest = &rest[1..],
                Some(_) => {
                    if pairs > 0 && !is_after_separator(line, rest) {
                        return Err(Malformed);
                    }
                    rest = pair(rest, &mut element)?;
                    pairs += 1;
                }
            }
        }
        // Empty elements of a list count for nothing (RFC 9110 §5.6.1).
        if pairs > 0 {
            visit(element);
        }
        match rest.split_first() {
            Some((_, behind)) => rest = behind,
            None => return Ok(()),
        }
    }
}

/// Whether a line is a list of elements.
pub(super) fn is_list(line: &[u8]) -> bool {
    each(line, |_| ()).is_ok()
}

/// Writes a value, quoted if it is not a token.
pub(super) fn append_value(out: &mut Vec<u8>, value: &[u8]) {
    if is_token(value) {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    for octet in value {
        if matches!(octet, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*octet);
    }
    out.push(b'"');
}

/// Whether a `;` stands before `rest`, which is the end of `line`; spaces may stand between.
fn is_after_separator(line: &[u8], rest: &[u8]) -> bool {
    let before = line.get(..line.len() - rest.len()).unwrap_or_default();
    before.trim_ascii_end().ends_with(b";")
}

/// Reads `name=value` and returns what is behind it. A parameter that comes twice is malformed (RFC 7239 §4).
fn pair<'a>(text: &'a [u8], element: &mut Element<'a>) -> Result<&'a [u8], Malformed> {
    let at = text.iter().position(|it| *it == b'=').ok_or(Malformed)?;
    let (name, behind) = (&text[..at], &text[at + 1..]);
    if !is_token(name) {
        return Err(Malformed);
    }
    let (value, rest) = match behind.first() {
        Some(b'"') => quoted(&behind[1..])?,
        _ => bare(behind)?,
    };
    let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    let place = match () {
        () if is("for") => &mut element.node,
        () if is("host") => &mut element.host,
        () if is("proto") => &mut element.proto,
        () if is("by") => &mut element.by,
        // An extension (§5.5).
        () => return Ok(rest),
    };
    if place.replace(value).is_some() { Err(Malformed) } else { Ok(rest) }
}

/// What stands before the closing quote, with its escapes: an escaped value names no address, host or scheme.
fn quoted(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut at = 0;
    loop {
        match text.get(at).ok_or(Malformed)? {
            b'"' => return Ok((&text[..at], &text[at + 1..])),
            b'\\' => at += 2,
            octet if octet.is_ascii_control() && *octet != b'\t' => return Err(Malformed),
            _ => at += 1,
        }
    }
}

fn bare(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let ends = |it: &u8| matches!(it, b';' | b',' | b' ' | b'\t');
    let end = text.iter().position(ends).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    let fits = |it: &u8| is_token(std::slice::from_ref(it)) || matches!(it, b':' | b'[' | b']' | b'/');
    if !value.is_empty() && value.iter().all(fits) { Ok((value, rest)) } else { Err(Malformed) }
}
