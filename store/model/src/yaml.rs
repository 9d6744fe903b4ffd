//! YAML (and therefore JSON) into trees, with bounds against hostile text.
//!
//! The text is cut at its document markers first, and every document is parsed by itself: a syntax error in one
//! hides no error in the others, and an oversized one is refused before anything parses it. Anchors, aliases and
//! tags are refused: they make small texts large, and our documents need none of them.
//!
//! Only the events of saphyr-parser are used. Crates that read YAML into types stop at the first error and lose the line
//! of every field, and both are needed here.

use std::collections::HashSet;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::{
    input_error::InputErrors,
    tree::{Entry, Node, Value},
};

/// The largest document: also what Consul takes as one value.
pub const MAX_DOCUMENT: usize = 512 * 1024;
/// The deepest nesting of maps and lists; real documents need five levels.
const MAX_DEPTH: usize = 32;

/// Every document of a text that is well-formed; errors for the others. Empty documents are skipped.
#[must_use]
pub fn parse(text: &str, errors: &InputErrors) -> Vec<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut trees = Vec::new();
    for (first_line, document) in documents(text) {
        if document.len() > MAX_DOCUMENT {
            let problem = format!("the document has {} bytes, more than 512 KiB", document.len());
            errors.add(first_line, "", "", problem, format!("at most {MAX_DOCUMENT} bytes"));
            continue;
        }
        Builder { errors, first_line, stack: Vec::new() }.read(document, &mut trees);
    }
    trees
}

/// Cuts a text at its `---` lines; each piece with the number of its first line. A line that starts so is a marker
/// wherever it is, also inside a block scalar (YAML 1.2 §9.1.2).
fn documents(text: &str) -> Vec<(u32, &str)> {
    let marker = |line: &str| {
        line.strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut pieces = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if marker(line) && at > start {
            pieces.push((start_line, &text[start..at]));
            (start, start_line) = (at, number);
        }
        at += line.len();
    }
    pieces.push((start_line, &text[start..]));
    pieces
}

/// A collection whose end has not come yet.
enum Open {
    List { line: u32, items: Vec<Node> },
    Map { line: u32, entries: Vec<Entry>, keys: HashSet<String>, key: Option<(String, u32)> },
}

struct Builder<'m> {
    errors: &'m InputErrors,
    first_line: u32,
    stack: Vec<Open>,
}

impl Builder<'_> {
    fn read(mut self, text: &str, trees: &mut Vec<Node>) {
        for event in Parser::new_from_str(text) {
            let (event, span) = match event {
                Ok(read) => read,
                Err(error) => {
                    let line = self.line(error.marker().line());
                    let problem = format!("not YAML: {}", error.info());
                    self.errors.add(line, "", "", problem, String::new());
                    return;
                }
            };
            let line = self.line(span.start.line());
            let finished = match event {
                Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd => {
                    continue;
                }
                Event::Nothing => continue,
                event => self.event(event, line),
            };
            match finished {
                Ok(Some(root)) if root.found() == "nothing" => {}
                Ok(Some(root)) => trees.push(root),
                Ok(None) => {}
                Err((problem, expected)) => {
                    self.errors.add(line, "", "", problem, expected.to_owned());
                    return;
                }
            }
        }
    }

    fn line(&self, within: usize) -> u32 {
        u32::try_from(within.max(1) - 1).unwrap_or(u32::MAX).saturating_add(self.first_line)
    }

    /// Takes one event; gives the root when it is complete. An error ends the document.
    fn event(&mut self, event: Event<'_>, line: u32) -> Result<Option<Node>, (String, &'static str)> {
        let plain = "no anchors, aliases and tags: write it out";
        match event {
            Event::Alias(_) => Err(("an alias".to_owned(), plain)),
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _)
                if anchor > 0 =>
            {
                Err(("an anchor".to_owned(), plain))
            }
            Event::Scalar(_, _, _, Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag)) => Err((format!("the tag {tag}"), plain)),
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                let text = text.into_owned();
                self.place(if plain { Node::plain(line, text) } else { Node::text(line, text) })
            }
            Event::SequenceStart(..) => self.open(Open::List { line, items: Vec::new() }),
            Event::MappingStart(..) => {
                self.open(Open::Map { line, entries: Vec::new(), keys: HashSet::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List { line, items }) => self.place(Node::list(line, items)),
                Some(Open::Map { line, entries, .. }) => self.place(Node::map(line, entries)),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn open(&mut self, open: Open) -> Result<Option<Node>, (String, &'static str)> {
        if self.stack.len() >= MAX_DEPTH {
            return Err((format!("nested deeper than {MAX_DEPTH} levels"), "a flatter document"));
        }
        self.stack.push(open);
        Ok(None)
    }

    /// Puts a complete node where it belongs; gives it back when it is the root.
    fn place(&mut self, node: Node) -> Result<Option<Node>, (String, &'static str)> {
        match self.stack.last_mut() {
            None => return Ok(Some(node)),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, keys, key, .. }) => match key.take() {
                Some((key, line)) if keys.contains(&key) => {
                    let expected = "each key once".to_owned();
                    self.errors.add(line, "", &key, "duplicate key".to_owned(), expected);
                }
                Some((text, line)) => {
                    keys.insert(text.clone());
                    entries.push(Entry { key: text, line, value: node });
                }
                None => match node.value {
                    Value::Scalar(scalar) => *key = Some((scalar.text, node.line)),
                    Value::List(_) | Value::Map(_) => {
                        return Err(("a list or a map as a key".to_owned(), "a text"));
                    }
                },
            },
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::InputError;

    fn both(text: &str) -> (Vec<Node>, Vec<String>) {
        let errors = InputErrors::new("w.yaml".into());
        let trees = parse(text, &errors);
        (trees, errors.into_vec().iter().map(InputError::to_string).collect())
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let (trees, errors) = both(
            "# a comment\n\nkind: Site\nname: bj\n---\nkind: Zone # more\nrecords:\n  - { name: www,\n      data: gw }\n",
        );
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(trees.len(), 2);
        assert_eq!(trees[0].line, 3);
        assert_eq!(trees[0].line_of("name"), 4);
        assert_eq!(trees[1].line_of("records"), 7);
        assert_eq!(trees[1].line_of("records[0]"), 8);
        assert_eq!(trees[1].line_of("records[0].data"), 9);
    }

    #[test]
    fn an_error_in_one_document_hides_no_other() {
        let (trees, errors) = both("a: [1\n---\nb: 1\nb: 2\n---\nc: 3\n");
        assert_eq!(trees.len(), 2, "the duplicate is reported, the rest of its document is read");
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].contains("not YAML"), "{errors:?}");
        assert_eq!(errors[1], "w.yaml:4: b: duplicate key; expected each key once");
    }

    #[test]
    fn json_is_read_too() {
        let (trees, errors) =
            both("{\"kind\":\"Site\",\"n\":[1,2.5,true,null,\"4\"],\"m\":{},\n\t\"o\":\"a\\u0041\\n\"}");
        assert_eq!(errors, Vec::<String>::new());
        let list = &trees[0].entry("n").unwrap().value;
        let Value::List(items) = &list.value else { panic!("{list:?}") };
        assert_eq!(items[0], Node::plain(1, "1"));
        assert_eq!(items[4], Node::text(1, "4"));
        assert_eq!(trees[0].entry("o").unwrap().value, Node::text(2, "aA\n"));
    }

    #[test]
    fn empty_documents_are_skipped() {
        for text in ["", "\n# nothing\n", "---\n", "---\n---\n...\n", "\u{feff}"] {
            assert_eq!(both(text), (vec![], vec![]), "{text:?}");
        }
        assert_eq!(both("\u{feff}a: 1\r\n---\r\nb: 2\r\n").0.len(), 2);
    }

    #[test]
    fn anchors_aliases_and_tags_are_refused() {
        let laughs = "a: &a [x, x]\nb: &b [*a, *a]\n";
        for (text, word) in [
            (laughs, "an anchor"),
            ("a: *b\n", ""),
            ("a: !!str 5\n", "the tag"),
            ("? [a]\n: b\n", "as a key"),
        ] {
            let (trees, errors) = both(text);
            assert!(trees.is_empty() && errors.len() == 1 && errors[0].contains(word), "{errors:?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        for deep in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
            let (trees, errors) = both(&deep);
            assert!(trees.is_empty());
            assert_eq!(errors.len(), 1);
        }
        let nested = (0..40).fold(String::new(), |mut text, n| {
            let _ = writeln!(text, "{}a:", " ".repeat(n));
            text
        });
        assert!(both(&nested).1[0].contains("nested deeper than 32 levels"));
    }

    #[test]
    fn an_oversized_document_is_named_with_its_line() {
        let text = format!("a: 1\n---\nb: {}\n---\nc: 3\n", "x".repeat(MAX_DOCUMENT));
        let (trees, errors) = both(&text);
        assert_eq!(trees.len(), 2);
        let size = MAX_DOCUMENT + "---\nb: \n".len();
        assert_eq!(
            errors,
            [format!(
                "w.yaml:2: the document has {size} bytes, more than 512 KiB; expected at most 524288 bytes"
            )]
        );
    }
}
