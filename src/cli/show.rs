//! Answers as text: aligned columns, one fact a line.

use std::fmt::Write as _;

use serde::Serialize;
use store::{
    commit::{DifferenceKind, FieldChange},
    model::{DocumentId, InputError, Kind},
};

use super::failure::{Failure, Outcome};
use crate::{
    api::{Applied, DocumentChange, DrainView, StillRegistered},
    out::{counted, out, outln},
};

/// Prints text.
pub(super) fn print(text: &str) -> Outcome {
    out!("{text}");
    Ok(())
}

/// Prints JSON on one line, for scripts.
pub(super) fn json(value: &impl Serialize) -> Outcome {
    outln!("{}", json_text(value)?);
    Ok(())
}

/// JSON on one line, without its end.
pub(super) fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(Failure::failed)
}

/// What changes, a line for each document.
fn differences(all: &[DocumentChange]) -> String {
    let mut text = String::new();
    for compared in all {
        let id = &compared.difference.id;
        let _ = match &compared.difference.kind {
            DifferenceKind::Added => writeln!(text, "+ {id}"),
            DifferenceKind::Removed => writeln!(text, "- {id}"),
            DifferenceKind::Changed { fields } => writeln!(text, "~ {id} ({})", fields.join(", ")),
        };
    }
    text
}

pub(super) fn applied(applied: &Applied) -> String {
    let warnings = warnings(&applied.warnings);
    if applied.differences.is_empty() {
        return format!("{warnings}unchanged, generation {}\n", applied.generation);
    }
    format!(
        "{warnings}{}{}generation {}\n",
        differences(&applied.differences),
        new_uuids(applied),
        applied.generation
    )
}

/// The UUIDs of the services that are new and whose documents have none.
fn new_uuids(applied: &Applied) -> String {
    let mut text = String::new();
    for (service, uuid) in &applied.uuids {
        let id = DocumentId { kind: Kind::Service, name: service.clone() };
        let is_new =
            |it: &DocumentChange| it.difference.id == id && it.difference.kind == DifferenceKind::Added;
        if applied.differences.iter().any(is_new) {
            let _ = writeln!(text, "{id} has the uuid {uuid}");
        }
    }
    text
}

/// Warnings, a line each.
pub(super) fn warnings(all: &[InputError]) -> String {
    all.iter().map(|it| format!("warning: {it}\n")).collect()
}

/// What an apply would change, with both values of each field.
pub(super) fn compared(applied: &Applied) -> String {
    let mut text = warnings(&applied.warnings);
    if applied.differences.is_empty() {
        text.push_str("no differences\n");
    }
    for change in &applied.differences {
        let sign = match change.difference.kind {
            DifferenceKind::Added => '+',
            DifferenceKind::Removed => '-',
            DifferenceKind::Changed { .. } => '~',
        };
        let _ = writeln!(text, "{sign} {}", change.difference.id);
        for FieldChange { field, before, after } in &change.values {
            let _ = match (before, after) {
                (Some(before), Some(after)) => {
                    writeln!(text, "    {field}: {} -> {}", value(before), value(after))
                }
                (Some(before), None) => writeln!(text, "  - {field}: {}", value(before)),
                (None, Some(after)) => writeln!(text, "  + {field}: {}", value(after)),
                (None, None) => Ok(()),
            };
        }
        if change.more > 0 {
            let _ = writeln!(text, "    and {}", counted(change.more, "more field"));
        }
    }
    text
}

/// A value in a line, as in a document; of a long one the beginning.
fn value(value: &serde_json::Value) -> String {
    const MAX: usize = 200;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text,
    }
}

pub(super) const DRAIN_HEADS: &[&str] =
    &["DRAIN", "INSTANCE", "PHASE", "RECEIPTS", "WAITING FOR", "UNPROVEN", "STUCK"];

/// The drained instances that are registered and refused: a line each, with what lets them in.
pub(super) fn still_registered(all: &[StillRegistered]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut text = "Drained, still registered: refused until they have ended\n".to_owned();
    for drained in all {
        let gateways = drained.refused_by.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            text,
            "  {} of {} at {} (node {}), refused by {gateways}; to let it in: {}",
            drained.instance, drained.service, drained.address, drained.node, drained.let_in
        );
    }
    text.push('\n');
    text
}

pub(super) fn drain_row(view: &DrainView) -> Vec<String> {
    let names =
        |names: &std::collections::BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    vec![
        view.drain.id.to_string(),
        match &view.drain.site {
            Some(site) => format!("{} of {} at {site}", view.drain.instance, view.drain.service),
            None => format!("{} of {}", view.drain.instance, view.drain.service),
        },
        phase(view).to_owned(),
        view.receipts.iter().map(|it| it.gateway.clone()).collect::<Vec<_>>().join(", "),
        names(&view.awaited),
        names(&view.drain.unproven),
        view.stuck.clone().unwrap_or_default(),
    ]
}

pub(super) const fn phase(view: &DrainView) -> &'static str {
    use store::drain::Phase;
    match view.drain.phase {
        Phase::Draining => "draining",
        Phase::Deregistering => "deregistering",
        Phase::Calling => "calling the hook",
        Phase::Done => "done",
        Phase::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_instance_that_is_registered_has_a_line_with_its_command() {
        assert_eq!(still_registered(&[]), "");
        let text = still_registered(&[StillRegistered {
            service: "orders".into(),
            instance: "orders-1".into(),
            node: "n1".into(),
            address: "10.1.0.7:8080".into(),
            refused_by: ["gw-2".to_owned(), "gw-1".to_owned()].into(),
            drain: "d1".into(),
            let_in: "waypost drain cancel d1".into(),
        }]);
        let line = "  orders-1 of orders at 10.1.0.7:8080 (node n1), refused by gw-1, gw-2; \
                    to let it in: waypost drain cancel d1";
        assert_eq!(text.lines().nth(1), Some(line));
    }
}
