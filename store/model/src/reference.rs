//! Pages of reference compared with a reader: the rows of their tables, and examples with one field changed. For tests.
//!
//! `docs/documents.md` and `docs/configuration.md` have the same form, and both kinds of files are read from the same trees.
#![allow(clippy::missing_panics_doc, reason = "only tests run it")]

use std::collections::BTreeSet;

use crate::tree::{Entry, Node, Value};

/// A row of a table: a field, its type, its default and its meaning.
#[derive(Debug)]
pub struct Row {
    /// The default: a value in backticks, `required`, or words.
    pub default: String,
    /// The meaning, with the allowed words and the range.
    pub meaning: String,
}

impl Row {
    /// Reads a line of a page, if it is a row of such a table. The field is called as readers call it.
    #[must_use]
    pub fn of_line(line: &str) -> Option<(String, Self)> {
        if !line.starts_with("| `") {
            return None;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [field, _, default, meaning] = cells.as_slice() else { panic!("four cells: {line}") };
        let row = Self { default: (*default).to_owned(), meaning: (*meaning).to_owned() };
        Some((as_looked_up(field.trim_matches('`')), row))
    }

    /// What is wrong with the default, tried out on examples that have the field. `value` reads a default that is given in
    /// backticks, `read` gives the document of a tree that is accepted.
    pub fn wrong_default<T: PartialEq>(
        &self,
        field: &str,
        examples: &[Node],
        value: impl Fn(&str) -> Node,
        read: impl Fn(&Node) -> Option<T>,
    ) -> Option<String> {
        let removed: Vec<_> = examples.iter().filter_map(|it| Some((it, without(it, field)?))).collect();
        let is_accepted = |(_, tree): &(&Node, Node)| read(tree).is_some();
        let problem = if removed.is_empty() {
            "is in no example"
        } else if self.default == "required" {
            if removed.iter().any(is_accepted) { "is described as required" } else { return None }
        } else if self.default.starts_with("required") {
            if removed.iter().all(is_accepted) { "is described as required" } else { return None }
        } else if self.default.starts_with('`') {
            let default = value(self.default.trim_matches('`'));
            let same = |(whole, rest): &(&Node, Node)| {
                let absent = read(rest);
                absent.is_some() && absent == read(&with(whole, field, &default))
            };
            if removed.iter().any(same) { return None } else { "has another default" }
        } else {
            // The last entry of a map may be one too few.
            if field.ends_with('*') || removed.iter().any(is_accepted) {
                return None;
            }
            "is described as optional"
        };
        Some(format!("{field} {problem}"))
    }

    /// What an error expects (`one of a or b`, `a number from 1 to 9`) and the meaning does not name.
    #[must_use]
    pub fn unnamed(&self, expected: &str) -> Option<String> {
        let expected = expected.replace("up to", "to");
        if let Some(words) = expected.strip_prefix("one of ").filter(|it| !it.starts_with("the keys")) {
            let words = words.replace(" or ", ", ");
            let named = quoted(&self.meaning);
            return words.split(", ").find(|word| !named.contains(word)).map(str::to_owned);
        }
        let (_, range) = expected.split_once(" from ")?;
        let range = range.replace('"', "");
        let is_range = range.contains(" to ") && !range.contains('(');
        let is_named = self.meaning.replace(['`', '"'], "").contains(&range);
        (is_range && !is_named).then_some(range)
    }
}

/// `gateways.SITE.a` as readers call it: `gateways.*.a`.
fn as_looked_up(field: &str) -> String {
    let key = |part: &str| match part.bytes().all(|b| b.is_ascii_uppercase()) {
        true => "*".to_owned(),
        false => part.to_owned(),
    };
    field.split('.').map(key).collect::<Vec<_>>().join(".")
}

/// The parts of a text in backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The maps in which a field such as `rules[].policy.type` or `gateways.*.a` can be, to be changed in place.
fn change(tree: &mut Node, field: &str, how: &mut dyn FnMut(&mut Vec<Entry>, &str)) {
    let Value::Map(entries) = &mut tree.value else { return };
    let Some((first, rest)) = field.split_once('.') else { return how(entries, field) };
    let (key, in_list) = first.strip_suffix("[]").map_or((first, false), |key| (key, true));
    for entry in entries.iter_mut().filter(|entry| key == "*" || entry.key == key) {
        match &mut entry.value.value {
            Value::List(items) if in_list => items.iter_mut().for_each(|item| change(item, rest, how)),
            _ => change(&mut entry.value, rest, how),
        }
    }
}

/// The tree without a field, if it has it. Of a list or a map with free keys, every place loses it.
#[must_use]
pub fn without(tree: &Node, field: &str) -> Option<Node> {
    let (mut tree, mut had) = (tree.clone(), false);
    change(&mut tree, field, &mut |entries, key| {
        let before = entries.len();
        entries.retain(|entry| key != "*" && entry.key != key);
        had |= entries.len() < before;
    });
    had.then_some(tree)
}

/// The tree with another value of a field wherever it has that field's map.
#[must_use]
pub fn with(tree: &Node, field: &str, value: &Node) -> Node {
    let mut tree = tree.clone();
    change(&mut tree, field, &mut |entries, key| {
        let line = entries.first().map_or(0, |entry| entry.line);
        if key == "*" {
            entries.iter_mut().for_each(|entry| entry.value = value.clone());
        } else {
            entries.retain(|entry| entry.key != key);
            entries.push(Entry { key: key.to_owned(), line, value: value.clone() });
        }
    });
    tree
}
