//! The request that is asked about, as a client would send it, and every mistake in the question.

use std::sync::Arc;

use store::model::InputError;

use super::Question;
use crate::cookies::is_token;

/// A request as octets.
#[derive(Debug)]
pub(super) struct Written {
    /// The head.
    pub(super) head: Vec<u8>,
    /// The URL's scheme is `https`.
    pub(super) https: bool,
    /// The URL's port.
    pub(super) port: u16,
    /// What was changed in it.
    pub(super) notes: Vec<String>,
}

/// A mistake in a field of the question.
pub(super) fn mistake(field: &str, problem: impl Into<String>, expected: &str) -> InputError {
    InputError {
        file: Arc::from("request"),
        line: None,
        document: String::new(),
        field: field.to_owned(),
        problem: problem.into(),
        expected: expected.to_owned(),
    }
}

/// A URL as a client reads it.
struct Url<'u> {
    https: bool,
    /// Empty if it is a path.
    authority: &'u str,
    target: String,
    notes: Vec<String>,
}

/// Writes the request. What a client could send is not judged here: the gateway does that.
///
/// # Errors
/// Every mistake.
pub(super) fn write(question: &Question) -> Result<Written, Vec<InputError>> {
    let mut mistakes = Vec::new();
    let method = question.method.as_str();
    if !is_token(method.as_bytes()) {
        let problem = format!("{method:?} is not a method");
        mistakes.push(mistake("method", problem, "letters such as GET"));
    }
    let mut lines = Vec::new();
    let mut has_host = false;
    for (at, line) in question.headers.iter().enumerate() {
        match field(line) {
            Ok((name, value)) => {
                has_host |= name.eq_ignore_ascii_case("host");
                lines.push((name, value));
            }
            Err(problem) => {
                let place = format!("headers[{at}]");
                mistakes.push(mistake(&place, problem, "`Name: value`, as in `X-Canary: yes`"));
            }
        }
    }
    let url = match url(&question.url, has_host) {
        Ok(url) => url,
        Err((problem, expected)) => {
            mistakes.push(mistake("url", problem, expected));
            return Err(mistakes);
        }
    };
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let mut head = format!("{method} {} HTTP/1.1\r\n", url.target);
    if !has_host {
        head.push_str(&format!("Host: {}\r\n", url.authority));
    }
    for (name, value) in lines {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let digits = url.authority.rsplit_once(':').map(|it| it.1).filter(|it| !it.contains(']'));
    let usual = if url.https { 443 } else { 80 };
    let port = digits.and_then(|it| it.parse().ok()).unwrap_or(usual);
    Ok(Written { head: head.into_bytes(), https: url.https, port, notes: url.notes })
}

/// A header field of the question.
fn field(line: &str) -> Result<(&str, &str), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("{line:?} has no colon"))?;
    if !is_token(name.as_bytes()) {
        return Err(format!("{name:?} is not the name of a header field"));
    }
    if value.bytes().any(|it| matches!(it, b'\r' | b'\n' | 0)) {
        return Err(format!("the value of {name} has a line break or a NUL"));
    }
    Ok((name, value.trim_matches([' ', '\t'])))
}

fn url(text: &str, has_host: bool) -> Result<Url<'_>, (String, &'static str)> {
    const EXPECTED: &str = "a URL such as https://shop.example.com/cart";
    if let Some(octet) = text.bytes().find(|it| *it <= b' ' || *it == 0x7f) {
        return Err((
            format!("{text:?} has the octet 0x{octet:02X}"),
            "it percent-encoded, as %20 for a space",
        ));
    }
    let (https, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        None if text.starts_with('/') && has_host => (false, text),
        None if text.starts_with('/') => {
            return Err((format!("{text:?} has no host"), "a whole URL, or a header field Host"));
        }
        _ => return Err((format!("{text:?} does not start with http:// or https://"), EXPECTED)),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    if authority.is_empty() && !has_host {
        return Err((format!("{text:?} has no host"), EXPECTED));
    }
    let mut notes = Vec::new();
    let rest = rest.split_once('#').map_or(rest, |(before, fragment)| {
        notes.push(format!("clients do not send the fragment #{fragment}"));
        before
    });
    let target = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    Ok(Url { https, authority, target, notes })
}
