//! The differences between two documents, field by field with both values, for `diff`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use model::{Document, encode};

/// Changes of one document that are listed; further ones are counted.
pub const MAX_CHANGES: usize = 100;
/// What is shown instead of a secret's digest.
const HIDDEN: &str = "(hidden)";
/// Fields that are never shown.
const SECRET: &[&str] = &["secret_sha256"];

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field, as `policy.type` or `gateways.bj.a[1]`.
    pub field: String,
    /// Its stored value; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// Its wanted value; absent if it would have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// The fields in which a document differs from what is stored, at most [`MAX_CHANGES`], and how many more there are.
/// Values are as in the document's text; digests of secrets are hidden.
#[must_use]
pub fn changes_of(before: Option<&Document>, after: Option<&Document>) -> (Vec<FieldChange>, usize) {
    let (before, after) = (before.map(fields), after.map(fields));
    let mut all = Vec::new();
    compare(String::new(), before.as_ref(), after.as_ref(), &mut all);
    let more = all.len().saturating_sub(MAX_CHANGES);
    all.truncate(MAX_CHANGES);
    (all, more)
}

/// A document's fields as JSON, without what identifies it.
fn fields(document: &Document) -> Value {
    let mut value = encode::json(document);
    if let Value::Object(map) = &mut value {
        map.retain(|key, _| key != "kind" && key != "name");
    }
    value
}

fn compare(path: String, before: Option<&Value>, after: Option<&Value>, all: &mut Vec<FieldChange>) {
    if before == after {
        return;
    }
    if let (true, true) = (is_branch(before), is_branch(after)) {
        let map = |it: Option<&Value>| it.and_then(Value::as_object).cloned().unwrap_or_default();
        let (before, after) = (map(before), map(after));
        let gone = before.keys().filter(|key| !after.contains_key(*key));
        for key in after.keys().chain(gone) {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(path, before.get(key), after.get(key), all);
        }
    } else if let (Some(Value::Array(before)), Some(Value::Array(after))) = (before, after) {
        lists(&path, before, after, all);
    } else if !path.is_empty() {
        all.push(change(path, before.cloned(), after.cloned()));
    }
}

/// True for values that are listed field by field. An absent value may be.
fn is_branch(value: Option<&Value>) -> bool {
    value.is_none_or(|it| it.as_object().is_some_and(|map| !map.is_empty()))
}

/// Compares elements by position in lists of equal length. Otherwise lists removed and added ones, since a new first
/// element would make all others differ.
fn lists(path: &str, before: &[Value], after: &[Value], all: &mut Vec<FieldChange>) {
    if before.len() == after.len() {
        for (n, (before, after)) in before.iter().zip(after).enumerate() {
            compare(format!("{path}[{n}]"), Some(before), Some(after), all);
        }
        return;
    }
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    before.iter().for_each(|it| *counts.entry(it.to_string()).or_default() -= 1);
    after.iter().for_each(|it| *counts.entry(it.to_string()).or_default() += 1);
    let mut left = |value: &Value, sign: i64| {
        let count = counts.get_mut(&value.to_string());
        count.filter(|it| it.signum() == sign).map(|it| *it -= sign).is_some()
    };
    for (n, value) in before.iter().enumerate().filter(|(_, it)| left(it, -1)).collect::<Vec<_>>() {
        all.push(change(format!("{path}[{n}]"), Some(value.clone()), None));
    }
    for (n, value) in after.iter().enumerate().filter(|(_, it)| left(it, 1)).collect::<Vec<_>>() {
        all.push(change(format!("{path}[{n}]"), None, Some(value.clone())));
    }
}

fn change(field: String, before: Option<Value>, after: Option<Value>) -> FieldChange {
    let secret = SECRET.iter().any(|it| field == *it || field.ends_with(&format!(".{it}")));
    let shown = |value: Option<Value>| if secret { value.map(|_| HIDDEN.into()) } else { value };
    FieldChange { before: shown(before), after: shown(after), field }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::parse;

    fn document(text: &str) -> Document {
        parse("t.yaml", text).unwrap().remove(0).value
    }

    fn listed(before: Option<&str>, after: Option<&str>) -> Vec<String> {
        let (before, after) = (before.map(document), after.map(document));
        let (changes, more) = changes_of(before.as_ref(), after.as_ref());
        assert_eq!(more, 0);
        let text = |it: Option<Value>| it.map_or_else(|| "-".to_owned(), |it| it.to_string());
        changes.into_iter().map(|it| format!("{} {} {}", it.field, text(it.before), text(it.after))).collect()
    }

    const DOMAIN: &str = "kind: Domain\nname: gw.example.com\ncluster: main\npolicy: { type: failover, order: [bj, sh] }\nttl: 20s\n";

    #[test]
    fn each_field_is_listed_with_both_values() {
        let other = DOMAIN.replace("20s", "1m").replace("[bj, sh]", "[sh, bj]");
        assert_eq!(
            listed(Some(DOMAIN), Some(&other)),
            [r#"policy.order[0] "bj" "sh""#, r#"policy.order[1] "sh" "bj""#, r#"ttl "20s" "1m""#]
        );
        let longer = DOMAIN.replace("[bj, sh]", "[gz, bj, sh]");
        assert_eq!(listed(Some(DOMAIN), Some(&longer)), [r#"policy.order[0] - "gz""#]);
        assert_eq!(listed(Some(DOMAIN), Some(DOMAIN)), [""; 0]);
    }

    #[test]
    fn new_and_removed_documents_are_listed_completely() {
        let site = "kind: Site\nname: gz\nlocation: { lat: 23.13, lon: 113.26 }\n";
        assert_eq!(listed(None, Some(site)), ["location.lat - 23.13", "location.lon - 113.26"]);
        assert_eq!(listed(Some(site), None), ["location.lat 23.13 -", "location.lon 113.26 -"]);
    }

    #[test]
    fn digests_of_secrets_are_hidden() {
        let token = |digit: &str| {
            let digest = digit.repeat(64);
            format!("kind: Token\nname: ops\nrole: operator\nsecret_sha256: \"{digest}\"\n")
        };
        let listed = listed(Some(&token("1")), Some(&token("2")));
        assert_eq!(listed, [r#"secret_sha256 "(hidden)" "(hidden)""#]);
    }

    #[test]
    fn very_many_changes_are_counted() {
        let zone = |n: usize| {
            let record = |n| format!("  - {{ name: h{n}, type: A, data: 192.0.2.1 }}\n");
            let records: String = (0..n).map(record).collect();
            document(&format!(
                "kind: Zone\nname: example.com\nnameservers: [{{ name: ns1, a: [192.0.2.53] }}]\nrecords:\n{records}"
            ))
        };
        let (changes, more) = changes_of(Some(&zone(1)), Some(&zone(500)));
        assert_eq!((changes.len(), more), (MAX_CHANGES, 399));
    }
}
