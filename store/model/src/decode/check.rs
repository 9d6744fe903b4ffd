//! Checks.

mod probe;

use std::time::Duration;

use super::name;
use crate::{
    Check, Quorum, Span,
    read::{Fields, Reader},
    tree::Value,
    words::join,
};
pub(super) use probe::{header_value, server_name};

pub(super) const fn millis(ms: u64) -> Span {
    Span(Duration::from_millis(ms))
}

pub(super) const DAY: Span = millis(86_400_000);
pub(super) const YEAR: Span = millis(365 * 86_400_000);

pub(super) fn check(fields: &Fields<'_>) -> Option<Check> {
    let name = name(fields);
    let probe = probe::read(fields);
    let interval = fields.or("interval", millis(1_000), |field| field.span_within(millis(10)..=DAY));
    let timeout = fields.optional("timeout", |field| field.span_within(millis(1)..=DAY));
    if let (Some(timeout), Some(field)) = (timeout, fields.get("timeout"))
        && timeout > interval
    {
        let problem = format!("an interval ({interval}) shorter than its timeout ({timeout})");
        field.error(problem, format!("at most the interval, {interval}"));
    }
    let fall = fields.or("fall", 4, |field| field.int(1..=100));
    let rise = fields.or("rise", 2, |field| field.int(1..=100));
    let quorum = fields.or("quorum", Quorum::default(), quorum);
    let timeout = timeout.unwrap_or_else(|| millis(800).min(interval));
    let damping = fields.or("damping", Check::DAMPING, |field| field.span_within(millis(0)..=DAY));
    let (probe, port) = probe?;
    Some(Check { name: name?, probe, port, interval, timeout, fall, rise, quorum, damping })
}

fn quorum(field: Reader<'_>) -> Option<Quorum> {
    match &field.node().value {
        Value::Scalar(scalar) if scalar.as_int().is_some() => field.int(1..=u16::MAX).map(Quorum::Count),
        _ => {
            let words = [("majority", Quorum::Majority), ("any", Quorum::Any), ("all", Quorum::All)];
            let found = match &field.node().value {
                Value::Scalar(scalar) => words.into_iter().find(|(word, _)| *word == scalar.text),
                Value::List(_) | Value::Map(_) => None,
            };
            if found.is_none() {
                let words = words.iter().map(|(word, _)| *word);
                field.wrong(join(words.chain(["a number of vantages"])));
            }
            found.map(|(_, quorum)| quorum)
        }
    }
}
