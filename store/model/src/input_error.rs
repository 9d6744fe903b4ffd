//! What is wrong with what was written, and where.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// One error. Prints as one line: `world.yaml:12: Domain gw.example.com: ttl: "0s" is not a TTL of …`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputError {
    /// The file, or where else the document came from: `stored`, `stdin`.
    pub file: Arc<str>,
    /// The line, 1-based; absent for what did not come from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The document, as `Domain gw.example.com`; empty where none is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub document: String,
    /// The field, as `records[3].data`; empty for the document as a whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What would be right; empty where the problem includes it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expected: String,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        for part in [&self.document, &self.field, &self.problem] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        if self.expected.is_empty() || self.problem.ends_with(&self.expected) {
            return Ok(());
        }
        write!(f, "; expected {}", self.expected)
    }
}

/// The errors of one file, collected while readers go on reading.
#[derive(Debug)]
pub struct InputErrors {
    file: Arc<str>,
    list: RefCell<Vec<InputError>>,
    looked_up: Option<RefCell<LookedUpFields>>,
}

/// The fields that a reader has looked up.
#[derive(Debug, Default)]
struct LookedUpFields {
    fields: BTreeSet<String>,
    /// Places under free keys, such as `gateways.bj`, with what they are called: `gateways.*`.
    free: BTreeMap<String, String>,
}

impl LookedUpFields {
    /// A place without the keys and the numbers of this one text: `rules[].policy`, `gateways.*.a`.
    fn general(&self, place: &str) -> String {
        let below = |(from, to): (&String, &String)| {
            let rest = place
                .strip_prefix(from.as_str())
                .filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))?;
            Some((from.len(), format!("{to}{rest}")))
        };
        let found = self.free.iter().filter_map(below).max_by_key(|(length, _)| *length);
        let place = found.map_or_else(|| place.to_owned(), |(_, place)| place);
        let parts = place.split('[').enumerate().map(|(n, part)| match part.split_once(']') {
            Some((_, rest)) if n > 0 => format!("[]{rest}"),
            _ => part.to_owned(),
        });
        parts.collect()
    }
}

impl InputErrors {
    /// No more than this many are kept; more would not help a reader.
    pub const MAX: usize = 1_000;

    /// None so far.
    #[must_use]
    pub const fn new(file: Arc<str>) -> Self {
        Self { file, list: RefCell::new(Vec::new()), looked_up: None }
    }

    /// As [`InputErrors::new`], and remembers every field that readers look up, so that a page of reference can be
    /// compared with what is really read.
    #[must_use]
    pub fn recording(file: Arc<str>) -> Self {
        Self { looked_up: Some(RefCell::default()), ..Self::new(file) }
    }

    /// The fields that readers have looked up: `rules[].policy.type`, and `gateways.*.a` where keys are free.
    #[must_use]
    pub fn looked_up_fields(&self) -> Vec<String> {
        self.looked_up.iter().flat_map(|looked_up| looked_up.borrow().fields.clone()).collect()
    }

    /// Notes that a reader has looked up a field of the map at `place`.
    pub(crate) fn note(&self, place: &str, key: &str) {
        if let Some(looked_up) = &self.looked_up {
            let mut looked_up = looked_up.borrow_mut();
            let place = looked_up.general(place);
            let dot = if place.is_empty() { "" } else { "." };
            looked_up.fields.insert(format!("{place}{dot}{key}"));
        }
    }

    /// Notes that the map at `place` has free keys, of which this is one.
    pub(crate) fn note_free(&self, place: &str, key: &str) {
        self.note(place, "*");
        if let Some(looked_up) = &self.looked_up {
            let mut looked_up = looked_up.borrow_mut();
            let general = format!("{}.*", looked_up.general(place));
            looked_up.free.insert(format!("{place}.{key}"), general);
        }
    }

    /// The file they are in.
    #[must_use]
    pub const fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Adds one.
    pub fn add(&self, line: u32, document: &str, field: &str, problem: String, expected: String) {
        let mut list = self.list.borrow_mut();
        if list.len() < Self::MAX {
            let (file, document, field) = (Arc::clone(&self.file), document.to_owned(), field.to_owned());
            list.push(InputError { file, line: Some(line), document, field, problem, expected });
        }
    }

    /// How many there are: unchanged across a piece of reading, that piece was right.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.borrow().len()
    }

    /// All of them, by line.
    #[must_use]
    pub fn into_vec(self) -> Vec<InputError> {
        let mut list = self.list.into_inner();
        list.sort_by_key(|error| error.line);
        list
    }
}

/// The known word closest to `written`, if it is close enough to be meant.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const MAX: usize = 64;
    let length = written.chars().count();
    if length > MAX {
        return None;
    }
    let allowed = match length {
        0..=2 => 1,
        3..=6 => 2,
        _ => 3,
    };
    let near = |word: &&str| {
        RangeInclusive::new(length.saturating_sub(allowed), length + allowed).contains(&word.chars().count())
    };
    known
        .into_iter()
        .filter(near)
        .map(|word| (distance(written, word), word))
        .filter(|(far, word)| *far <= allowed && *far < word.chars().count())
        .min_by_key(|(far, _)| *far)
        .map(|(_, word)| word)
}

/// Edits (insert, remove, replace, swap neighbours) from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, &a) in from.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, &b) in to.iter().enumerate() {
            let replace = above[column] + usize::from(a != b);
            let mut best = replace.min(above[column + 1] + 1).min(line[column] + 1);
            let swapped = row > 0 && column > 0 && from[row - 1] == b && a == to[column - 1];
            if swapped {
                best = best.min(before[column - 1] + 1);
            }
            line.push(best);
        }
        before = std::mem::replace(&mut above, line);
    }
    above.last().copied().unwrap_or_default()
}

/// `; did you mean "x"?`, or nothing.
pub(crate) fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, known).map_or_else(String::new, |word| format!("; did you mean {word:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_suggested() {
        let known = ["policy", "ttl", "min_ttl", "answers", "site"];
        assert_eq!(nearest("pollicy", known), Some("policy"));
        assert_eq!(nearest("polciy", known), Some("policy"));
        assert_eq!(nearest("tll", known), Some("ttl"));
        assert_eq!(nearest("min-ttl", known), Some("min_ttl"));
        assert_eq!(nearest("sites", known), Some("site"));
        assert_eq!(nearest("weather", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn an_error_is_one_line() {
        let mut error = InputError {
            file: "world.yaml".into(),
            line: Some(12),
            document: "Domain gw.example.com".to_owned(),
            field: "ttl".to_owned(),
            problem: "\"0s\" is not a TTL".to_owned(),
            expected: "a TTL".to_owned(),
        };
        assert_eq!(error.to_string(), "world.yaml:12: Domain gw.example.com: ttl: \"0s\" is not a TTL");
        error.problem = "is missing".to_owned();
        error.line = None;
        assert_eq!(error.to_string(), "world.yaml: Domain gw.example.com: ttl: is missing; expected a TTL");
    }
}
