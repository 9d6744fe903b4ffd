//! Checks.

use std::time::Duration;

use super::{name, some, supported};
use crate::model::{
    Check, Probe, Quorum, Span,
    read::{Fields, Reader},
    tree::Value,
};

pub(super) const fn millis(ms: u64) -> Span {
    Span(Duration::from_millis(ms))
}

pub(super) const DAY: Span = millis(86_400_000);

#[derive(Clone, Copy)]
enum ProbeType {
    Http,
    Tcp,
}

pub(super) fn check(fields: &Fields<'_>) -> Option<Check> {
    let name = name(fields);
    let types = [("http", ProbeType::Http), ("tcp", ProbeType::Tcp)];
    let later = ["https", "tls", "dns", "grpc", "icmp", "external"];
    let kind = fields.required("type", "one of http or tcp", |field| supported(&field, &types, &later));
    // Read whatever the type is, so that a wrong type does not make every other key unknown.
    let http = http(fields);
    let (probe, port) = match kind {
        Some(ProbeType::Tcp) => {
            for key in ["path", "host", "expect_status"] {
                if let Some(field) = fields.get(key) {
                    field.mistake("means nothing to a check of type tcp", "this key only with type: http");
                }
            }
            (Some(Probe::Tcp {}), fields.required("port", "a port from 1 to 65535", port))
        }
        Some(ProbeType::Http) => (http, Some(fields.or("port", 80, port))),
        None => (None, fields.optional("port", port)),
    };
    let interval = fields.or("interval", millis(1_000), |field| field.span_within(millis(10)..=DAY));
    let timeout = fields.optional("timeout", |field| field.span_within(millis(1)..=DAY));
    if let (Some(timeout), Some(field)) = (timeout, fields.get("timeout"))
        && timeout > interval
    {
        let problem = format!("an interval ({interval}) shorter than its timeout ({timeout})");
        field.mistake(problem, format!("at most the interval, {interval}"));
    }
    let fall = fields.or("fall", 4, |field| field.int(1..=100));
    let rise = fields.or("rise", 2, |field| field.int(1..=100));
    let quorum = fields.or("quorum", Quorum::default(), quorum);
    let timeout = timeout.unwrap_or_else(|| millis(800).min(interval));
    let damping = fields.or("damping", Check::DAMPING, |field| field.span_within(millis(0)..=DAY));
    Some(Check { name: name?, probe: probe?, port: port?, interval, timeout, fall, rise, quorum, damping })
}

fn port(field: Reader<'_>) -> Option<u16> {
    field.int(1..=u16::MAX)
}

fn http(fields: &Fields<'_>) -> Option<Probe> {
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let path = fields.or("path", "/readyz", |field| {
        let path = field.text(2_000)?;
        let fits = path.starts_with('/') && visible(path) && !path.contains('#');
        if !fits {
            field.wrong("a path that starts with / and has no spaces");
        }
        fits.then_some(path)
    });
    let host = fields.optional("host", |field| {
        let host = field.text(255)?;
        let fits = visible(host) && !host.contains(['/', '@', '?', '#']);
        if !fits {
            field.wrong("a Host header: a name or an address, with a port if need be");
        }
        fits.then(|| host.to_owned())
    });
    let statuses = |field: Reader<'_>| some(&field, |item| item.int(100..=599));
    let expect_status = fields.or("expect_status", vec![200], statuses);
    Some(Probe::Http { path: path.to_owned(), host, expect_status })
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
                field.wrong("majority, any, all or a number of vantages");
            }
            found.map(|(_, quorum)| quorum)
        }
    }
}
