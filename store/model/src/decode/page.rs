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
use crate::{
    arbitrary, encode,
    reference::{Row, with, without},
};

const PAGE: &str = include_str!("../../../../docs/documents.md");

/// The description of one kind in the page.
#[derive(Debug, Default)]
struct Section {
    rows: BTreeMap<String, Row>,
    examples: Vec<Node>,
}

/// Shared tables, and the fields in which what they describe is found.
const SHARED: [(&str, &[&str]); 2] =
    [("Policies", &["policy", "rules[].policy"]), ("Schedules", &["rules[].during", "recovery.window"])];

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
        } else if let (Some(kind), Some(_)) = (kind, Row::of_line(line)) {
            for prefix in &prefixes {
                let Some((field, row)) = Row::of_line(line) else { continue };
                let before = sections.entry(kind).or_default().rows.insert(format!("{prefix}{field}"), row);
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

fn value(text: &str) -> Node {
    let errors = InputErrors::new("default".into());
    let tree = yaml::parse(&format!("v: {text}"), &errors).remove(0);
    tree.entry("v").unwrap().value.clone()
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
            let supported =
                row.default.starts_with(['`', 'n', 'r']) && !row.default.contains("not supported");
            if !supported || row.default.starts_with("read where") {
                let wrong = with(&section.examples[0], field, &value("x"));
                assert!(read(&wrong).0.is_none(), "{kind}: {field} is taken: {}", row.default);
                continue;
            }
            let wrong = row.wrong_default(field, &section.examples, value, |tree| read(tree).0);
            assert_eq!(wrong, None, "{kind}: {}", row.default);
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
                    if of_field || field.ends_with('*') {
                        assert_eq!(row.unnamed(&error.expected), None, "{kind}: {field} may be this");
                    }
                }
            }
        }
    }
}
