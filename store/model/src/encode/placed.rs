//! Trees as a text in which every node is on its line, so that errors in it name the lines of the original file,
//! also after documents were added between them.

use super::quoted;
use crate::tree::{Node, Scalar, Value};

/// Documents as YAML. Reading it gives the same trees, lines included, as long as lines never go back.
#[must_use]
pub fn placed(trees: &[Node]) -> String {
    let mut text = Text { out: String::new(), line: 1 };
    for tree in trees {
        // A document begins on a line of its own.
        let begins = text.line + u32::from(!text.out.is_empty() && !text.out.ends_with('\n'));
        text.go_to(tree.line.max(begins));
        text.out.push_str("--- ");
        text.node(tree);
    }
    text.out.push('\n');
    text.out
}

struct Text {
    out: String,
    line: u32,
}

impl Text {
    fn go_to(&mut self, line: u32) {
        while self.line < line {
            self.out.push('\n');
            self.line += 1;
        }
    }

    fn node(&mut self, node: &Node) {
        match &node.value {
            Value::Scalar(scalar) => {
                self.go_to(node.line);
                self.scalar(scalar);
            }
            Value::List(items) => {
                self.out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.out.push_str(if at == 0 { "" } else { ", " });
                    self.go_to(item.line);
                    self.node(item);
                }
                self.out.push(']');
            }
            Value::Map(entries) => {
                self.out.push('{');
                for (at, entry) in entries.iter().enumerate() {
                    self.out.push_str(if at == 0 { "" } else { ", " });
                    self.go_to(entry.line);
                    quoted(&entry.key, &mut self.out);
                    self.out.push_str(": ");
                    self.node(&entry.value);
                }
                self.out.push('}');
            }
        }
    }

    fn scalar(&mut self, scalar: &Scalar) {
        let bare = scalar.as_bool().is_some() || scalar.as_int().is_some() || scalar.as_float().is_some();
        match scalar {
            null if null.is_null() => self.out.push_str("null"),
            bare_one if bare => self.out.push_str(&bare_one.text),
            text => quoted(&text.text, &mut self.out),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{InputErrors, arbitrary, encode::yaml, yaml as reading};

    fn trees(text: &str) -> Vec<Node> {
        let errors = InputErrors::new("x".into());
        let trees = reading::parse(text, &errors);
        assert_eq!(errors.count(), 0, "{text}");
        trees
    }

    fn lines(node: &Node, path: &str, out: &mut Vec<(String, u32)>) {
        match &node.value {
            Value::Scalar(_) => {}
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    out.push((format!("{path}[{at}]"), item.line));
                    lines(item, &format!("{path}[{at}]"), out);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    let path = format!("{path}.{}", entry.key);
                    out.push((path.clone(), entry.line));
                    lines(&entry.value, &path, out);
                }
            }
        }
    }

    fn all_lines(trees: &[Node]) -> Vec<(String, u32)> {
        let mut out = Vec::new();
        trees.iter().for_each(|tree| lines(tree, "", &mut out));
        out
    }

    #[test]
    fn every_field_keeps_its_line() {
        let text = "# one\nkind: Zone\nname: a.b\n\nrecords:\n  - { name: x,\n      ttl: 9 }\n  - name: \"1\"\n---\n\n---\nkind: null\nx: ~\n";
        let before = trees(text);
        let after = trees(&placed(&before));
        assert_eq!(all_lines(&before), all_lines(&after));
        assert_eq!(after[0].entry("records").unwrap().value.line_of("[1].name"), 8);
    }

    proptest! {
        #[test]
        fn documents_read_as_they_were(first in arbitrary::document(), second in arbitrary::document()) {
            let text = format!("{}---\n{}", yaml(&first), yaml(&second));
            let before = trees(&text);
            let printed = placed(&before);
            let read = crate::parse("x", &printed).unwrap();
            prop_assert_eq!(read.into_iter().map(|it| it.value).collect::<Vec<_>>(), vec![first, second]);
            prop_assert_eq!(all_lines(&trees(&printed)), all_lines(&before));
        }
    }
}
