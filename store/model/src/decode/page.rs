//! `docs/documents.md` compared with the reader.
//!
//! Which fields there are is found out from the reader itself, while it reads the examples of the page and arbitrary documents.
//! Defaults and allowed values of the page are tried out on those examples.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

use super::*;
use crate::{arbitrary, encode, tree::Value};

const PAGE: &str = include_str!("../../../../docs/documents.md");

/// A row of one of the tables.
#[derive(Debug)]
struct Row {
    default: String,
    meaning: String,
}

/// The description of one kind in the page.
#[derive(Debug, Default)]
struct Section {
    rows: BTreeMap<String, Row>,
    examples: Vec<Node>,
}

/// Shared tables, and the fields in which what they describe is found.
const SHARED: [(&str, &[&str]); 2] =
    [("Policies", &["policy", "rules[].policy"]), ("Schedules", &["rules[].during", "recovery.window"])];

/// `gateways.SITE.a` as the reader calls it: `gateways.*.a`.
fn as_asked(field: &str) -> String {
    let key = |part: &str| match part.bytes().all(|b| b.is_ascii_uppercase()) {
        true => "*".to_owned(),
        false => part.to_owned(),
    };
    field.split('.').map(key).collect::<Vec<_>>().join(".")
}

fn sections() -> BTreeMap<Kind, Section> {
    let mut sections: BTreeMap<Kind, Section> = BTreeMap::new();
    let (mut kind, mut prefixes) = (None, vec![]);
    let mut block: Option<String> = None;
    for line in PAGE.lines() {
        if let Some(text) = &mut block {
            if line == "```" {
                let errors = InputErrors::new("documents.md".into());
                let trees = yaml::parse(text, &errors);
                assert_eq!(errors.count(), 0, "{text}");
                sections.entry(kind.unwrap()).or_default().examples.extend(trees);
                block = None;
            } else {
                text.push_str(line);
                text.push('\n');
            }
        } else if let Some(title) = line.strip_prefix("## ") {
            kind = Kind::of_word(title);
            prefixes = vec![String::new()];
        } else if let Some(title) = line.strip_prefix("### ") {
            let (_, fields) = SHARED.iter().find(|(it, _)| *it == title).expect("a shared table");
            prefixes = fields.iter().map(|field| format!("{field}.")).collect();
        } else if line == "```yaml" {
            block = Some(String::new());
        } else if let (Some(kind), true) = (kind, line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [field, _, default, meaning] = cells.as_slice() else { panic!("four cells: {line}") };
            for prefix in &prefixes {
                let field = format!("{prefix}{}", as_asked(field.trim_matches('`')));
                let row = Row { default: (*default).to_owned(), meaning: (*meaning).to_owned() };
                let before = sections.entry(kind).or_default().rows.insert(field, row);
                assert!(before.is_none(), "described before: {line}");
            }
        }
    }
    sections
}

/// Reads a tree; the document and the errors as `(field, problem and expected)`.
fn read(tree: &Node) -> (Option<Document>, Vec<InputError>) {
    let errors = InputErrors::new("documents.md".into());
    let read = document(tree, &errors);
    (read, errors.into_vec())
}

/// The maps in which a field such as `rules[].policy.type` or `gateways.*.a` can be, to be changed in place.
fn change(tree: &mut Node, field: &str, how: &mut dyn FnMut(&mut Vec<crate::tree::Entry>, &str)) {
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
fn without(tree: &Node, field: &str) -> Option<Node> {
    let (mut tree, mut had) = (tree.clone(), false);
    change(&mut tree, field, &mut |entries, key| {
        let before = entries.len();
        entries.retain(|entry| key != "*" && entry.key != key);
        had |= entries.len() < before;
    });
    had.then_some(tree)
}

/// The tree with another value of a field wherever it has that field's map.
fn with(tree: &Node, field: &str, value: &Node) -> Node {
    let mut tree = tree.clone();
    change(&mut tree, field, &mut |entries, key| {
        let line = entries.first().map_or(0, |entry| entry.line);
        if key == "*" {
            entries.iter_mut().for_each(|entry| entry.value = value.clone());
        } else {
            entries.retain(|entry| entry.key != key);
            entries.push(crate::tree::Entry { key: key.to_owned(), line, value: value.clone() });
        }
    });
    tree
}

fn value(text: &str) -> Node {
    let errors = InputErrors::new("default".into());
    let tree = yaml::parse(&format!("v: {text}"), &errors).remove(0);
    tree.entry("v").unwrap().value.clone()
}

/// The parts of a text in backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The fields that the reader looks up, by kind: from the examples of the page and from arbitrary documents.
fn fields_of_the_reader() -> BTreeMap<Kind, BTreeSet<String>> {
    let mut trees: Vec<Node> = sections().into_values().flat_map(|it| it.examples).collect();
    let mut runner = TestRunner::deterministic();
    let any = arbitrary::document();
    trees.extend((0..1_000).map(|_| encode::tree(&any.new_tree(&mut runner).unwrap().current())));
    let mut fields: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    for tree in trees {
        let errors = InputErrors::recording("documents.md".into());
        let kind = document(&tree, &errors).unwrap_or_else(|| panic!("{errors:?}")).kind();
        let of_every_kind = |field: &String| matches!(field.as_str(), "kind" | "name");
        fields
            .entry(kind)
            .or_default()
            .extend(errors.looked_up_fields().into_iter().filter(|it| !of_every_kind(it)));
    }
    fields
}

#[test]
fn the_page_describes_every_field_and_no_other() {
    let (sections, read) = (sections(), fields_of_the_reader());
    for kind in Kind::ALL {
        let described: BTreeSet<String> = sections[&kind].rows.keys().cloned().collect();
        let missing: Vec<_> = read[&kind].difference(&described).collect();
        let unknown: Vec<_> = described.difference(&read[&kind]).collect();
        assert!(missing.is_empty(), "docs/documents.md does not describe {missing:?} of {kind}");
        assert!(
            unknown.is_empty(),
            "docs/documents.md describes {unknown:?} of {kind}, which the reader does not know"
        );
    }
}

#[test]
fn every_example_of_the_page_is_read() {
    for (kind, section) in sections() {
        assert!(!section.examples.is_empty(), "{kind} has no example");
        for example in &section.examples {
            let (read, errors) = read(example);
            assert_eq!(read.map(|it| it.kind()), Some(kind), "{errors:?}");
        }
    }
}

#[test]
fn the_defaults_of_the_page_are_those_of_the_reader() {
    for (kind, section) in sections() {
        for (field, row) in &section.rows {
            let examples = section.examples.iter();
            let removed: Vec<_> = examples.filter_map(|it| Some((it, without(it, field)?))).collect();
            let supported =
                row.default.starts_with(['`', 'n', 'r']) && !row.default.contains("not supported");
            if !supported || row.default.starts_with("read where") {
                let wrong = with(&section.examples[0], field, &value("x"));
                assert!(read(&wrong).0.is_none(), "{kind}: {field} is taken: {}", row.default);
                continue;
            }
            assert!(!removed.is_empty(), "{kind}: no example of the page has {field}");
            let accepted = |tree: &Node| read(tree).0.is_some();
            if row.default.starts_with("required") {
                let all = row.default == "required";
                let refused = |(_, tree): &(&Node, Node)| !accepted(tree);
                let fits = if all { removed.iter().all(refused) } else { removed.iter().any(refused) };
                assert!(fits, "{kind}: {field} is described as required");
            } else if row.default.starts_with('`') {
                let default = value(row.default.trim_matches('`'));
                let same = |(whole, rest): &(&Node, Node)| {
                    let (absent, _) = read(rest);
                    absent.is_some() && absent == read(&with(whole, field, &default)).0
                };
                assert!(removed.iter().any(same), "{kind}: the default of {field} is not {}", row.default);
            } else {
                // The last site of a map may be one too few.
                let optional = field.ends_with('*') || removed.iter().any(|(_, tree)| accepted(tree));
                assert!(optional, "{kind}: {field} is described as optional");
            }
        }
    }
}

#[test]
fn the_page_names_the_words_and_ranges_that_the_reader_takes() {
    for (kind, section) in sections() {
        for (field, row) in &section.rows {
            for probe in ["\"?\"", "49711d", "99999999999", "-1000"] {
                let Some(example) = section.examples.iter().find(|it| without(it, field).is_some()) else {
                    continue;
                };
                for error in read(&with(example, field, &value(probe))).1 {
                    let of_field = error.field.ends_with(field.rsplit('.').next().unwrap_or(field));
                    let expected = error.expected.replace("up to", "to");
                    let unknown_key = expected.starts_with("one of the keys");
                    if unknown_key || !of_field && !field.ends_with('*') {
                        continue;
                    }
                    if let Some(words) = expected.strip_prefix("one of ") {
                        let words = words.replace(" or ", ", ");
                        let named = quoted(&row.meaning);
                        for word in words.split(", ") {
                            assert!(named.contains(word), "{kind}: {field} may be {word}");
                        }
                    } else if let Some((_, range)) = expected.split_once(" from ")
                        && range.contains(" to ")
                        && !range.contains('(')
                    {
                        let plain = row.meaning.replace(['`', '"'], "");
                        assert!(plain.contains(&range.replace('"', "")), "{kind}: {field} is {range}");
                    }
                }
            }
        }
    }
}
