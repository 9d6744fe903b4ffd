//! What was written, before it is read as a document: a tree with line numbers.
//!
//! Both sources end here: documents from YAML (and so from JSON), node configuration from TOML. A scalar keeps its
//! text and whether it was quoted, nothing more, because only the reader has the type of each field. So
//! `version: 1.10` can still become the text `1.10` and `name: 9` the name `9`.

use std::{fmt, sync::Arc};

/// A value with the line it starts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// 1-based, within its file.
    pub line: u32,
    /// The value.
    pub value: Value,
}

/// The three shapes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text, number, truth value or nothing.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// Keys with their values, in the order written; keys are distinct.
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The key's line, 1-based.
    pub line: u32,
    /// Its value.
    pub value: Node,
}

/// A scalar as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// Its text, without quotes and with escapes resolved.
    pub text: String,
    /// A quoted scalar is always a text.
    pub quoted: bool,
}

impl Scalar {
    /// True for an unquoted `null`, `~` or nothing at all.
    #[must_use]
    pub fn is_null(&self) -> bool {
        !self.quoted && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The truth value, if it is an unquoted one (YAML 1.2 core schema: `yes` and `on` are texts).
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.text.as_str() {
            _ if self.quoted => None,
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        }
    }

    /// The whole number, if it is an unquoted decimal one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        let digits = self.text.strip_prefix('-').unwrap_or(&self.text);
        let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        (!self.quoted && decimal).then(|| self.text.parse().ok()).flatten()
    }

    /// The number, if it is an unquoted finite one.
    #[must_use]
    pub fn as_float(&self) -> Option<f64> {
        let numeric =
            self.text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
        (!self.quoted && numeric).then(|| self.text.parse().ok()).flatten().filter(|n: &f64| n.is_finite())
    }
}

impl Node {
    /// A text that was quoted (YAML), or any string (TOML).
    #[must_use]
    pub fn text(line: u32, text: impl Into<String>) -> Self {
        Self { line, value: Value::Scalar(Scalar { text: text.into(), quoted: true }) }
    }

    /// A scalar without quotes: a number, a truth value, `null`, or in YAML a plain text.
    #[must_use]
    pub fn plain(line: u32, text: impl Into<String>) -> Self {
        Self { line, value: Value::Scalar(Scalar { text: text.into(), quoted: false }) }
    }

    /// A list.
    #[must_use]
    pub const fn list(line: u32, items: Vec<Self>) -> Self {
        Self { line, value: Value::List(items) }
    }

    /// A map. Keys must be unique; a source that allows duplicates reports them itself.
    #[must_use]
    pub const fn map(line: u32, entries: Vec<Entry>) -> Self {
        Self { line, value: Value::Map(entries) }
    }

    /// The entry of a key, if this is a map that has it.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// The value in a few words, for messages: `"20s"`, `a list`, `nothing`.
    #[must_use]
    pub fn found(&self) -> String {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) => quote(&scalar.text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    /// The line of a field such as `records[3].data`, or of the closest thing around it that was written.
    #[must_use]
    pub fn line_of(&self, field: &str) -> u32 {
        let mut here = self;
        let mut line = self.line;
        for step in field.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
            let (at, next) = match &here.value {
                Value::Scalar(_) => return line,
                Value::List(items) => match step.parse().ok().and_then(|n: usize| items.get(n)) {
                    Some(item) => (item.line, item),
                    None => return line,
                },
                Value::Map(_) => match here.entry(step) {
                    Some(entry) => (entry.line, &entry.value),
                    None => return line,
                },
            };
            (line, here) = (at, next);
        }
        line
    }
}

/// A text in quotes for messages: one line, at most some 80 characters.
pub(crate) fn quote(text: &str) -> String {
    const MAX: usize = 80;
    let end = text.char_indices().nth(MAX).map(|(at, _)| at);
    end.map_or_else(|| format!("{text:?}"), |end| format!("{:?}…", &text[..end]))
}

/// Where a document was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: Arc<str>,
    node: Option<Arc<Node>>,
}

impl Place {
    /// In a file.
    #[must_use]
    pub const fn written(file: Arc<str>, node: Arc<Node>) -> Self {
        Self { file, node: Some(node) }
    }

    /// In no file: a document that is already in the engine (`stored`), or came some other way.
    #[must_use]
    pub fn elsewhere(called: &str) -> Self {
        Self { file: called.into(), node: None }
    }

    /// The file's name, or where else the document came from.
    #[must_use]
    pub const fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// The line of a field of the document; the document's own for an empty or an absent one.
    #[must_use]
    pub fn line_of(&self, field: &str) -> Option<u32> {
        self.node.as_ref().map(|node| node.line_of(field))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{}:{}", self.file, node.line),
            None => f.write_str(&self.file),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub place: Place,
}

impl<T> Placed<T> {
    /// A value that is already in the engine.
    pub fn stored(value: T) -> Self {
        Self { value, place: Place::elsewhere("stored") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.to_owned(), quoted: false }
    }

    #[test]
    fn a_scalar_is_what_the_field_wants() {
        assert_eq!(plain("42").as_int(), Some(42));
        assert_eq!(plain("-7").as_int(), Some(-7));
        for text in ["+7", "", "-", "0x10", "1.0", "99999999999999999999"] {
            assert_eq!(plain(text).as_int(), None, "{text:?}");
        }
        assert_eq!(plain("39.90").as_float(), Some(39.9));
        for text in ["inf", "nan", "1e999", "", "1.2.3"] {
            assert_eq!(plain(text).as_float(), None, "{text:?}");
        }
        assert_eq!(plain("true").as_bool(), Some(true));
        assert_eq!(plain("yes").as_bool(), None);
        assert!(plain("").is_null() && plain("~").is_null() && plain("null").is_null());
    }

    #[test]
    fn quotes_make_a_text() {
        let scalar = |text: &str| Scalar { text: text.to_owned(), quoted: true };
        assert_eq!(scalar("42").as_int(), None);
        assert_eq!(scalar("4.2").as_float(), None);
        assert_eq!(scalar("true").as_bool(), None);
        assert!(!scalar("null").is_null() && !scalar("").is_null());
    }

    #[test]
    fn a_field_knows_its_line() {
        let record = Node::map(5, vec![Entry { key: "data".to_owned(), line: 6, value: Node::text(7, "x") }]);
        let records = Entry { key: "records".to_owned(), line: 4, value: Node::list(5, vec![record]) };
        let document = Node::map(2, vec![records]);
        assert_eq!(document.line_of("records[0].data"), 6);
        assert_eq!(document.line_of("records[0].type"), 5);
        assert_eq!(document.line_of("records[9]"), 4);
        assert_eq!(document.line_of("ttl"), 2);
        assert_eq!(document.line_of(""), 2);
    }
}
