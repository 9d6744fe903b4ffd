//! Tests of the codec. `heads`, `lengths` and `chunks` go through the rules of RFC 9112 section by section; `properties` compares
//! what is read with `httparse`, with other splits of the same input, and with what is written; `musts` checks the list of
//! requirements.

mod chunks;
mod heads;
mod lengths;
mod musts;
mod properties;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 8192, fields: 32, line: 2048, lenient_query: false };

/// Reads the head of a request that is there in one piece, and the length of its body.
fn request(text: impl AsRef<[u8]>) -> Result<Option<(RequestLine, Fields)>, HeadError> {
    let mut fields = Fields::default();
    let line = read_request(text.as_ref(), &mut 0, &LIMITS, &mut fields)?;
    Ok(line.map(|line| (line, fields)))
}

fn response(text: impl AsRef<[u8]>) -> Result<Option<(StatusLine, Fields)>, HeadError> {
    let mut fields = Fields::default();
    let line = read_response(text.as_ref(), &mut 0, &LIMITS, &mut fields)?;
    Ok(line.map(|line| (line, fields)))
}

/// Names and values as text.
fn pairs(fields: &Fields, bytes: &[u8]) -> Vec<(String, String)> {
    let text = |span: Span| String::from_utf8_lossy(span.get(bytes)).into_owned();
    fields.iter().map(|it| (text(it.name), text(it.value))).collect()
}
