//! JSON as Go's `encoding/json` decodes it into a struct: keys in the order in which they were written.
//!
//! Go matches keys without regard to case, and of two keys that match one field the later one counts. A map that
//! sorts its keys (such as that of `serde_json`) has lost which one was later, so bodies are read into this.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    /// Reads the first value of a body. What follows it is ignored, as Go's decoder does.
    ///
    /// # Errors
    /// `EOF` for a body without a value, else what is wrong with it.
    pub(super) fn first_of(body: &[u8]) -> Result<Self, String> {
        match serde_json::Deserializer::from_str(&repaired(body)).into_iter::<Self>().next() {
            None => Err("EOF".to_owned()),
            Some(read) => read.map_err(|error| error.to_string()),
        }
    }

    pub(super) const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The name of its type in Go's error messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// The same value, for readers that keep it as it is.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(it) => Value::Bool(*it),
            Self::Number(it) => Value::Number(it.clone()),
            Self::Text(it) => Value::String(it.clone()),
            Self::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Self::Object(fields) => {
                let pair = |(key, value): &(String, Self)| (key.clone(), value.to_value());
                Value::Object(fields.iter().map(pair).collect::<Map<_, _>>())
            }
        }
    }
}

/// A body in which everything that is not Unicode is replaced by U+FFFD, as in Go: octets that are not UTF-8, and escapes
/// of half a surrogate pair.
fn repaired(body: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(body);
    let unit = |at: usize| {
        let digits = text.get(at..).and_then(|it| it.strip_prefix("\\u")).and_then(|it| it.get(..4))?;
        let digits = digits.bytes().all(|it| it.is_ascii_hexdigit()).then_some(digits)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut halves, mut at) = (Vec::new(), 0);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        at += found;
        at += match (unit(at), unit(at + ESCAPE)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 2 * ESCAPE,
            (Some(0xD800..=0xDFFF), _) => {
                halves.push(at);
                ESCAPE
            }
            // Other escapes are skipped whole, because their second octet may be a backslash.
            _ => 2,
        };
    }
    if halves.is_empty() {
        return text;
    }
    let mut text = text.into_owned();
    for at in halves {
        text.replace_range(at..at + ESCAPE, "\\uFFFD");
    }
    Cow::Owned(text)
}

/// Octets of an escape such as `\ud800`.
const ESCAPE: usize = 6;

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Json::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(field) = fields.next_entry()? {
            all.push(field);
        }
        Ok(Json::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_value_counts_and_keys_keep_their_order() {
        let read = Json::first_of(br#"{"b":1,"B":[null,true,-2,1.5],"a":{"x":"y"}} and more"#).unwrap();
        let Json::Object(fields) = &read else { panic!("{read:?}") };
        assert_eq!(fields.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["b", "B", "a"]);
        assert_eq!(read.to_value(), serde_json::json!({"b": 1, "B": [null, true, -2, 1.5], "a": {"x": "y"}}));
        for (body, error) in [("", "EOF"), ("  ", "EOF"), ("{", "EOF while parsing"), ("nope", "expected")] {
            assert!(Json::first_of(body.as_bytes()).unwrap_err().contains(error), "{body}");
        }
        // As deep as serde_json goes, and not one level deeper.
        assert!(Json::first_of("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn invalid_unicode_is_replaced_as_go_does() {
        let read = |body: &[u8]| Json::first_of(body).map(|it| it.text().map(str::to_owned).unwrap());
        for (body, text) in [
            (&br#""\ud800""#[..], "\u{FFFD}"),
            (br#""\uD800\u0041x""#, "\u{FFFD}Ax"),
            (br#""\udc00z\uDFFF""#, "\u{FFFD}z\u{FFFD}"),
            (br#""\ud83d\ude00""#, "\u{1F600}"),
            (br#""\ud800\ud83d\ude00""#, "\u{FFFD}\u{1F600}"),
            (br#""\\ud800""#, "\\ud800"),
            (br#""\\\ud800""#, "\\\u{FFFD}"),
            (b"\"a\xFFb\"", "a\u{FFFD}b"),
        ] {
            assert_eq!(read(body).as_deref(), Ok(text), "{}", String::from_utf8_lossy(body));
        }
        for wrong in [&br#""\ud80""#[..], br#""\u""#, br#""\"#, b"\"\\u\xC3\xBC00\""] {
            assert!(Json::first_of(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_reads(text in "[ -~]{0,40}", number in any::<i64>()) {
            let value = serde_json::json!({ "text": text, "list": [number, { "n": number }], "no": null });
            prop_assert_eq!(Json::first_of(value.to_string().as_bytes()).unwrap().to_value(), value);
        }
    }
}
