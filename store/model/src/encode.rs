//! From documents back to YAML and JSON: what `get` and `export` print.
//!
//! What is written comes from the type of the document: its `Serialize`, which also is the stored form, gives a tree
//! (`nodes`). Only what people write in another way than it is stored is changed in that tree (`written`): names in
//! a zone are relative to it, record data is in presentation form, and the terms of TLS are keys of the check itself.
//! `parse(yaml(d))` is `d` again.

#[cfg(test)]
mod golden;
mod nodes;
mod placed;
mod written;

use std::fmt::Write as _;

use super::{
    Document,
    tree::{Entry, Node, Value},
};

pub use placed::placed;
pub use written::tree;

/// One document as YAML, without a document marker.
#[must_use]
pub fn yaml(document: &Document) -> String {
    let mut out = String::new();
    let Value::Map(entries) = tree(document).value else { return out };
    for Entry { key, value, .. } in entries {
        let _ = write!(out, "{key}:");
        match &value.value {
            Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))) => {
                for item in items {
                    out.push_str("\n  - ");
                    flow(item, &mut out);
                }
            }
            Value::Map(fields) if fields.iter().any(|field| matches!(field.value.value, Value::Map(_))) => {
                for field in fields {
                    let _ = write!(out, "\n  {}: ", field.key);
                    flow(&field.value, &mut out);
                }
            }
            _ => {
                out.push(' ');
                flow(&value, &mut out);
            }
        }
        out.push('\n');
    }
    out
}

/// One document as JSON, in the same fields; `parse` reads it as it reads YAML.
#[must_use]
pub fn json(document: &Document) -> serde_json::Value {
    value(&tree(document))
}

fn value(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Scalar(scalar) if scalar.is_null() => serde_json::Value::Null,
        Value::Scalar(scalar) => {
            let number = || scalar.as_int().map(Into::into).or_else(|| scalar.as_float().map(Into::into));
            scalar.as_bool().map(Into::into).or_else(number).unwrap_or_else(|| scalar.text.clone().into())
        }
        Value::List(items) => items.iter().map(value).collect(),
        Value::Map(entries) => entries.iter().map(|it| (it.key.clone(), value(&it.value))).collect(),
    }
}

/// Several documents as one YAML text.
#[must_use]
pub fn yaml_all<'d>(documents: impl IntoIterator<Item = &'d Document>) -> String {
    documents.into_iter().map(yaml).collect::<Vec<_>>().join("---\n")
}

fn flow(node: &Node, out: &mut String) {
    match &node.value {
        Value::Scalar(scalar) if !scalar.quoted || is_plain(&scalar.text) => out.push_str(&scalar.text),
        Value::Scalar(scalar) => quoted(&scalar.text, out),
        Value::List(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                flow(item, out);
            }
            out.push(']');
        }
        Value::Map(entries) if entries.is_empty() => out.push_str("{}"),
        Value::Map(entries) => {
            for (n, entry) in entries.iter().enumerate() {
                let _ = write!(out, "{}{}: ", if n > 0 { ", " } else { "{ " }, entry.key);
                flow(&entry.value, out);
            }
            out.push_str(" }");
        }
    }
}

/// True for a text that every YAML reader takes for itself without quotes, in a flow list too.
fn is_plain(text: &str) -> bool {
    let scalar = super::tree::Scalar { text: text.to_owned(), quoted: false };
    let otherwise = scalar.is_null() || scalar.as_bool().is_some() || scalar.as_float().is_some();
    let word = matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off" | "y" | "n");
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b':' | b'-' | b'+');
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'/');
    first && !otherwise && !word && !text.ends_with(':') && text.bytes().all(safe)
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if c.is_alphanumeric() => out.push(c),
            c if u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{arbitrary, parse};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn what_is_printed_reads_as_it_was(documents in prop::collection::vec(arbitrary::document(), 1..4)) {
            let text = yaml_all(&documents);
            let read = parse("out.yaml", &text).map_err(|errors| {
                TestCaseError::fail(format!("{text}\n{}", errors[0]))
            })?;
            let read: Vec<Document> = read.into_iter().map(|it| it.value).collect();
            prop_assert_eq!(&read, &documents, "{}", text);
            for document in documents {
                let json = serde_json::to_string(&document).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Document>(&json).unwrap(), &document, "{}", json);
                let shown = super::json(&document).to_string();
                let read = parse("out.json", &shown).map_err(|errors| {
                    TestCaseError::fail(format!("{shown}\n{}", errors[0]))
                })?;
                prop_assert_eq!(&read[0].value, &document, "{}", shown);
            }
        }

        #[test]
        fn any_text_survives_its_quotes(text in any::<String>()) {
            let mut out = String::new();
            quoted(&text, &mut out);
            let errors = crate::InputErrors::new("x".into());
            let trees = crate::yaml::parse(&format!("a: {out}\nb: [{out}]\n"), &errors);
            prop_assert_eq!(errors.count(), 0);
            prop_assert_eq!(&trees[0].entry("a").unwrap().value.found(), &Node::text(0, text).found());
        }
    }

    #[test]
    fn it_looks_like_the_example() {
        let written = "kind: Zone\n\
                       name: gslb.example.com\n\
                       nameservers:\n  - { name: ns1, a: [203.0.113.53] }\n\
                       ttl: 1h\n\
                       negative_ttl: 1m\n\
                       records:\n  - { name: www, type: CNAME, data: gw }\n  \
                       - { name: \"@\", type: TXT, data: \"\\\"v=spf1 -all\\\"\" }\n";
        let documents = parse("z", written).unwrap();
        assert_eq!(yaml(&documents[0].value), written);
    }
}
