//! A section of fields, as in a head and in trailers (RFC 9112 §5).

use super::{
    error::HeadError,
    fields::{Field, FieldId, Fields, Span},
    octets::{text_end, token_end, white_end},
};

/// How lines have to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// In CR LF. Programs that differ on what a lone LF is can be made to see different requests.
    CrLf,
    /// In CR LF or in LF alone (RFC 9112 §2.2), as many small servers write their responses. What is forwarded has CR LF.
    CrLfOrLf,
}

/// Reads the fields from `at` to the empty line, whose end is returned; `None` while it is not there yet.
pub(super) fn read_section(
    bytes: &[u8],
    ending: Ending,
    mut at: usize,
    most: usize,
    fields: &mut Fields,
) -> Result<Option<usize>, HeadError> {
    loop {
        let name_end = token_end(bytes, at);
        match bytes.get(name_end) {
            Some(b':') if name_end > at => {}
            Some(b'\r' | b'\n') if name_end == at => return line_end(bytes, at, ending),
            Some(_) => return Err(bad_name(bytes, at, name_end)),
            None => return Ok(None),
        }
        let start = white_end(bytes, name_end + 1);
        let text_end = text_end(bytes, start);
        let Some(next) = line_end(bytes, text_end, ending)? else { return Ok(None) };
        if fields.len() >= most {
            return Err(HeadError::TooManyFields);
        }
        let mut end = text_end;
        while end > start && matches!(bytes[end - 1], b' ' | b'\t') {
            end -= 1;
        }
        fields.push(Field {
            id: FieldId::of(&bytes[at..name_end]),
            name: Span::new(at, name_end),
            value: Span::new(start, end),
        });
        at = next;
    }
}

/// The end of the line end that has to be here; `None` while it is not there yet.
pub(super) fn line_end(bytes: &[u8], at: usize, ending: Ending) -> Result<Option<usize>, HeadError> {
    match (bytes.get(at), bytes.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(Some(at + 2)),
        (None, _) | (Some(b'\r'), None) => Ok(None),
        (Some(b'\r'), Some(_)) => Err(HeadError::BareCarriageReturn),
        (Some(b'\n'), _) if ending == Ending::CrLfOrLf => Ok(Some(at + 1)),
        (Some(b'\n'), _) => Err(HeadError::BareLineFeed),
        (Some(_), _) => Err(HeadError::BadValue),
    }
}

#[cold]
fn bad_name(bytes: &[u8], start: usize, end: usize) -> HeadError {
    match bytes[end] {
        b' ' | b'\t' if end == start => HeadError::FoldedLine,
        b' ' | b'\t' if bytes.get(white_end(bytes, end)) == Some(&b':') => HeadError::SpaceBeforeColon,
        _ => HeadError::BadName,
    }
}
