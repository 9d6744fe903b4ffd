//! TOML as the tree that documents are read from, with the line of each value.

use store::model::{
    InputErrors,
    tree::{Entry, Node},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Parses a text. Syntax errors are added to `errors`, and the tree has what could be parsed.
pub(super) fn parse(text: &str, errors: &InputErrors) -> Node {
    let lines = Lines::of(text);
    let (tree, syntax_errors) = DeTable::parse_recoverable(text);
    for error in syntax_errors {
        let line = error.span().map_or(1, |span| lines.at(span.start));
        errors.add(line, "", "", error.message().to_owned(), String::new());
    }
    table(tree.get_ref(), 1, &lines)
}

/// The offset at which each line begins.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(ends).collect())
    }

    /// The line of an offset, 1-based.
    fn at(&self, offset: usize) -> u32 {
        u32::try_from(self.0.partition_point(|start| *start <= offset)).unwrap_or(u32::MAX)
    }
}

fn table(table: &DeTable<'_>, line: u32, lines: &Lines) -> Node {
    let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| Entry {
        key: key.get_ref().to_string(),
        line: lines.at(key.span().start),
        value: node(value, lines),
    };
    let mut entries: Vec<Entry> = table.iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.line);
    Node::map(line, entries)
}

fn node(value: &Spanned<DeValue<'_>>, lines: &Lines) -> Node {
    let line = lines.at(value.span().start);
    match value.get_ref() {
        DeValue::String(text) => Node::text(line, text.to_string()),
        DeValue::Integer(number) => {
            let whole = i64::from_str_radix(number.as_str(), number.radix());
            Node::plain(line, whole.map_or_else(|_| number.as_str().to_owned(), |it| it.to_string()))
        }
        DeValue::Float(number) => Node::plain(line, number.as_str()),
        DeValue::Boolean(truth) => Node::plain(line, truth.to_string()),
        DeValue::Datetime(moment) => Node::text(line, moment.to_string()),
        DeValue::Array(items) => Node::list(line, items.iter().map(|item| node(item, lines)).collect()),
        DeValue::Table(inner) => table(inner, line, lines),
    }
}
