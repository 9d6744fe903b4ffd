//! Record data: in presentation form (RFC 1035 §5.1), and as octets on the wire.
//!
//! hickory-proto reads zone files too, but fewer types, and its errors name neither the word
//! nor what would be right.
//!
//! One table (`types`) lists the fields of each type's data. Text becomes wire octets by it, and octets
//! become [`RecordData`]; so a type is one line, and every error can name its word. Documents and zone files
//! both read through here.

mod assigned;
mod cursor;
pub(super) mod layout;
mod location;
mod rare;
mod read;
mod record_type;
mod service;
mod types;
mod wire;
mod words;
mod write;

use super::{DomainName, RecordData, StartOfAuthority, Ttl};
use cursor::Cursor;
pub use read::period;
pub use record_type::{NotAType, RecordType};
pub use types::{mnemonic, mnemonics, number, signs, signs_only_at_apex};
pub use words::{Entry, Malformed, Scanner, Word};
pub use write::text;

/// What ALIAS has for a number, although it is never on the wire.
pub const ALIAS: u16 = 65401;

/// What is wrong with a word, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub expected: String,
}

impl Unfit {
    /// The error that a word is not what was expected.
    pub fn new(word: &Word<'_>, expected: impl Into<String>) -> Self {
        let expected = expected.into();
        Self { problem: format!("{:?} is not {expected}", word.shown()), expected }
    }
}

/// Where record data is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which of the words; `None`: it ends too early, or the whole is wrong.
    pub word: Option<usize>,
    /// What is wrong there.
    pub what: Unfit,
}

impl Wrong {
    fn whole(problem: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { word: None, what: Unfit { problem: problem.into(), expected: expected.into() } }
    }
}

/// Makes a name of a word; `None` is the root.
pub type Names<'n> = dyn FnMut(&Word<'_>) -> Result<Option<DomainName>, Unfit> + 'n;

/// Names as a zone file has them: relative to the origin (`None`: the root) unless they end in a dot.
pub fn below(origin: Option<&DomainName>) -> impl FnMut(&Word<'_>) -> Result<Option<DomainName>, Unfit> {
    move |word| {
        // Only of an owner do quotes make one label; in data they part words, and the name is what they hold.
        DomainName::in_zone_file(origin, word.text, false)
            .map_err(|expected| Unfit::new(word, expected.to_string()))
    }
}

/// Reads the words of one record's data.
///
/// # Errors
/// The first word that is wrong.
pub fn parse(record_type: u16, words: &[Word<'_>], names: &mut Names<'_>) -> Result<RecordData, Wrong> {
    if let Some(problem) = no_record(record_type) {
        return Err(Wrong::whole(problem, "a type of record data"));
    }
    let wire = octets(record_type, words, names)?;
    if let Some((there, right)) = wire::digest(record_type, &wire).filter(|(there, right)| there != right) {
        let problem = format!("the digest has {there} octets");
        return Err(Wrong::whole(problem, format!("{right} octets for a digest of its type")));
    }
    if is_unknown_form(words) {
        // ALIAS is never on the wire; octets of its number are of some type for private use.
        if record_type == ALIAS {
            return Ok(RecordData::Other { record_type, data: wire });
        }
        if !layout::fits(record_type, &wire) {
            return Err(no_such_octets(record_type));
        }
    }
    wire::data(record_type, wire).ok_or_else(|| no_such_octets(record_type))
}

/// True for data in the form for unknown types (RFC 3597 §5).
fn is_unknown_form(words: &[Word<'_>]) -> bool {
    words.first().is_some_and(|word| word.is(r"\#"))
}

fn no_such_octets(record_type: u16) -> Wrong {
    let form = types::shape(record_type).map_or("data that fits its type", |shape| shape.form);
    Wrong::whole(format!("these octets are no {}", mnemonic(record_type)), form)
}

/// What the data of a type looks like, with an example.
#[must_use]
pub fn form(record_type: u16) -> &'static str {
    types::shape(record_type).map_or(r"\# and the data in hexadecimal: \# 2 0a0b", |shape| shape.form)
}

/// Why records of a type cannot exist: SOA is the zone's own, others occur only in messages.
fn no_record(record_type: u16) -> Option<&'static str> {
    match record_type {
        6 => Some("a SOA record is only at the zone's apex"),
        0 | 41 | 128..=255 => Some("a type for questions and messages, not for data"),
        _ => None,
    }
}

/// The data as on the wire.
fn octets(record_type: u16, words: &[Word<'_>], names: &mut Names<'_>) -> Result<Vec<u8>, Wrong> {
    let shape = types::shape(record_type);
    let texts = |fields: &[types::Field]| fields.iter().all(|it| it.is_text());
    if shape.and_then(|shape| shape.fields).is_some_and(texts) && words.iter().any(Word::holds_quotes) {
        let parted: Vec<Word<'_>> = words.iter().flat_map(Word::strings).collect();
        return written(record_type, &parted, names).map_err(|wrong| Wrong { word: None, ..wrong });
    }
    written(record_type, words, names)
}

fn written(record_type: u16, words: &[Word<'_>], names: &mut Names<'_>) -> Result<Vec<u8>, Wrong> {
    let mut cursor = Cursor::new(words, names);
    let shape = types::shape(record_type);
    match (words.first(), shape.and_then(|shape| shape.fields)) {
        (Some(first), _) if first.is(r"\#") => cursor.unknown()?,
        (_, Some(fields)) => fields.iter().try_for_each(|field| cursor.field(*field))?,
        (None, None) => return Err(Wrong::whole("the data is missing", form(record_type))),
        (Some(first), None) => {
            return Err(Wrong { word: Some(0), what: Unfit::new(first, form(record_type)) });
        }
    }
    cursor.done(form(record_type))
}

/// Reads the words of a SOA record: it, and its minimum (RFC 2308 §4). Its serial is there.
///
/// # Errors
/// The first word that is wrong.
pub fn start_of_authority(
    words: &[Word<'_>],
    names: &mut Names<'_>,
) -> Result<(StartOfAuthority, Ttl), Wrong> {
    let wire = octets(6, words, names)?;
    if !layout::fits(6, &wire) {
        return Err(no_such_octets(6));
    }
    let mut rest = wire.as_slice();
    let (Some(mname), Some(rname), Some(serial)) =
        (wire::name(&mut rest), wire::name(&mut rest), wire::u32(&mut rest))
    else {
        return Err(no_such_octets(6));
    };
    let times = [(); 4].map(|()| Ttl::of_record(wire::u32(&mut rest).unwrap_or_default()));
    let [refresh, retry, expire, minimum] = times;
    let soa = StartOfAuthority { mname, rname, serial: Some(serial), refresh, retry, expire, ttl: None };
    Ok((soa, minimum))
}

#[cfg(test)]
mod tests;
