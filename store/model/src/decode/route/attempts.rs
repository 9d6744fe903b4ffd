//! Time limits, repetitions and sizes.

use super::{most, up_to_a_day};
use crate::{
    Hedge, Percent, Retry, Route, RouteLimits, Size, Span, Timeouts,
    decode::check::millis,
    read::{Fields, Reader},
};

pub(super) fn read(fields: &Fields<'_>, route: &mut Route) {
    route.timeouts = fields.optional("timeouts", |field| timeouts(&field)).map(Box::new);
    route.retry = fields.optional("retry", |field| retry(&field)).map(Box::new);
    route.hedge = fields.optional("hedge", |field| hedge(&field)).map(Box::new);
    route.limits = fields.optional("limits", |field| limits(&field)).map(Box::new);
}

fn timeouts(field: &Reader<'_>) -> Option<Timeouts> {
    let fields = field.fields()?;
    let timeouts = Timeouts {
        request: fields.optional("request", up_to_a_day),
        backend_request: fields.optional("backend_request", up_to_a_day),
        connect: fields.optional("connect", up_to_a_day),
        first_byte: fields.optional("first_byte", up_to_a_day),
        idle: fields.optional("idle", up_to_a_day),
    };
    // Gateway API has the same rule; zero is no limit.
    if let (Some(all), Some(one), Some(at)) =
        (timeouts.request, timeouts.backend_request, fields.get("backend_request"))
        && all != Span::default()
        && (one > all || one == Span::default())
    {
        at.error(format!("an attempt may take longer than the request ({all})"), "at most `request`");
    }
    Some(timeouts)
}

fn retry(field: &Reader<'_>) -> Option<Retry> {
    let fields = field.fields()?;
    let codes = fields.or("codes", Vec::new(), |field| {
        most(&field, 20, |field| {
            field.distinct(|item| {
                let range: crate::StatusRange = item.parse()?;
                if (100..400).any(|status| range.contains(status)) {
                    item.wrong("a status from 400 to 599, or a range such as 502-504");
                }
                Some(range)
            })
        })
    });
    Some(Retry {
        attempts: fields.optional("attempts", |field| field.int(0..=10)),
        codes,
        on: fields.optional("on", |field| field.distinct(|item| item.one_of())),
        backoff: fields.optional("backoff", |field| field.span_within(Span::default()..=millis(60_000))),
        budget_percent: fields.optional("budget_percent", |field| field.int(0..=100).map(Percent)),
        non_idempotent: fields.or("non_idempotent", false, |field| field.boolean()),
    })
}

fn hedge(field: &Reader<'_>) -> Option<Hedge> {
    let fields = field.fields()?;
    let after = fields.required("after", "a duration such as 50ms", |field| {
        field.span_within(millis(1)..=millis(3_600_000))
    });
    let most = fields.or("most", 1, |field| field.int(1..=5));
    Some(Hedge { after: after?, most })
}

fn limits(field: &Reader<'_>) -> Option<RouteLimits> {
    let fields = field.fields()?;
    Some(RouteLimits { request_body: fields.optional("request_body", |field| field.parse::<Size>()) })
}
