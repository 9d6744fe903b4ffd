//! The section `[proxy.limits]`. Which keys there are, their defaults and what they mean is in `proxy::Limits`.
//!
//! As in a Route, a time of `0s` is no limit. Durations that limit nothing, and would make requests fail if they were zero,
//! are refused.

use std::{ops::RangeInclusive, time::Duration};

use proxy::Limits;
use store::model::{
    Span,
    read::{Fields, Reader},
};

const HOUR: Span = Span(Duration::from_secs(3600));
const WEEK: Span = Span(Duration::from_secs(7 * 24 * 3600));
const SHORTEST: Span = Span(Duration::from_millis(1));
const SECOND: Span = Span(Duration::from_secs(1));

/// Every limit of the gateway. The defaults are those of the type.
pub(super) fn limits(fields: &Fields<'_>) -> Limits {
    let usual = Limits::default();
    let time = |key, usual| fields.or(key, usual, |it| up_to(&it, HOUR));
    let span = |key, usual| fields.or(key, usual, |it| within(&it, SHORTEST..=HOUR));
    let rate = |key, usual| fields.or(key, usual, |it| it.int(0..=1_000_000_000));
    let count = |key, usual, most| fields.or(key, usual, |it| it.int(1..=most));
    let limits = Limits {
        max_connections: count("max_connections", usual.max_connections, 1_000_000),
        max_connections_per_client: count(
            "max_connections_per_client",
            usual.max_connections_per_client,
            1_000_000,
        ),
        max_requests_per_connection: fields.or(
            "max_requests_per_connection",
            usual.max_requests_per_connection,
            |it| it.int(1..=1_000_000_000),
        ),
        max_header_bytes: fields
            .or("max_header_bytes", usual.max_header_bytes, |it| it.int(8_192..=1_048_576)),
        max_headers: fields.or("max_headers", usual.max_headers, |it| it.int(16..=1_024)),
        max_target_bytes: fields.or("max_target_bytes", usual.max_target_bytes, |it| it.int(1_024..=65_536)),
        lenient_query: fields.or("lenient_query", usual.lenient_query, |it| it.boolean()),
        max_body_bytes: fields.optional("max_body_bytes", |it| it.int(1..=1_125_899_906_842_624)),
        header_timeout: time("header_timeout", usual.header_timeout),
        client_idle: time("client_idle", usual.client_idle),
        body_timeout: time("body_timeout", usual.body_timeout),
        min_request_rate: rate("min_request_rate", usual.min_request_rate),
        send_timeout: time("send_timeout", usual.send_timeout),
        min_response_rate: rate("min_response_rate", usual.min_response_rate),
        rate_grace: fields.or("rate_grace", usual.rate_grace, |it| within(&it, SECOND..=HOUR)),
        tls_handshake_timeout: time("tls_handshake_timeout", usual.tls_handshake_timeout),
        tcp_keepalive: fields
            .or("tcp_keepalive", usual.tcp_keepalive, |it| within(&it, Span(Duration::ZERO)..=HOUR)),
        connect_timeout: time("connect_timeout", usual.connect_timeout),
        response_timeout: time("response_timeout", usual.response_timeout),
        response_idle: time("response_idle", usual.response_idle),
        client_fin_timeout: time("client_fin_timeout", usual.client_fin_timeout),
        drain_deadline: time("drain_deadline", usual.drain_deadline),
        upgrade_idle: fields.or("upgrade_idle", usual.upgrade_idle, |it| up_to(&it, WEEK)),
        continue_timeout: span("continue_timeout", usual.continue_timeout),
        request_buffer: fields.or("request_buffer", usual.request_buffer, |it| it.int(0..=16_777_216)),
        mirrored: fields.or("mirrored", usual.mirrored, |it| it.int(0..=65_536)),
        retries: fields.or("retries", usual.retries, |it| it.int(0..=10)),
        retry_percent: fields.or("retry_percent", usual.retry_percent, |it| it.int(0..=100)),
        retry_floor: fields.or("retry_floor", usual.retry_floor, |it| it.int(0..=10_000)),
        small_answer: fields.or("small_answer", usual.small_answer, |it| it.int(0..=1_048_576)),
        small_answer_patience: span("small_answer_patience", usual.small_answer_patience),
        idle_per_instance: fields.or("idle_per_instance", usual.idle_per_instance, |it| it.int(0..=65_536)),
        idle_for: time("idle_for", usual.idle_for),
        eject_after: fields.or("eject_after", usual.eject_after, |it| it.int(1..=100)),
        eject_for: span("eject_for", usual.eject_for),
        eject_at_most: span("eject_at_most", usual.eject_at_most),
        max_hops: fields.or("max_hops", usual.max_hops, |it| it.int(1..=32)),
        lease_patience: span("lease_patience", usual.lease_patience),
    };
    if let Some(there) = fields.get("eject_for").or_else(|| fields.get("eject_at_most"))
        && limits.eject_for > limits.eject_at_most
    {
        let most = Span(limits.eject_at_most);
        there.error(
            format!("the first ejection is longer than the longest, {most}"),
            "eject_at_most, or less",
        );
    }
    limits
}

/// A time limit; zero is none.
fn up_to(at: &Reader<'_>, most: Span) -> Option<Duration> {
    let span = at.span_within(Span(Duration::ZERO)..=most)?.0;
    Some(if span.is_zero() { Limits::NO_LIMIT } else { span })
}

fn within(at: &Reader<'_>, range: RangeInclusive<Span>) -> Option<Duration> {
    at.span_within(range).map(|it| it.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::Config, *};

    fn read(limits: &str) -> Result<Limits, String> {
        let text = format!(
            "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n[store]\nengine = \"embedded\"\n\
             [proxy]\ncluster = \"c\"\n[proxy.limits]\n{limits}\n"
        );
        match Config::parse("node.toml", &text) {
            Ok(config) => Ok(config.proxy.unwrap().limits),
            Err(errors) => Err(errors.iter().map(|it| format!("{it}\n")).collect()),
        }
    }

    /// The fields of limits, each with its value as text.
    fn fields(limits: &Limits) -> BTreeSet<String> {
        let text = format!("{limits:#?}").replace("Some(\n        ", "Some(").replace(",\n    )", ")");
        text.lines()
            .filter_map(|line| Some(line.strip_prefix("    ")?.strip_suffix(',')?.to_owned()))
            .collect()
    }

    /// Every key, with a value that is no default.
    const KEYS: [(&str, &str, &str); 38] = [
        ("max_connections", "101", "101"),
        ("max_connections_per_client", "102", "102"),
        ("max_requests_per_connection", "103", "103"),
        ("max_header_bytes", "10004", "10004"),
        ("max_headers", "105", "105"),
        ("max_target_bytes", "10006", "10006"),
        ("lenient_query", "true", "true"),
        ("max_body_bytes", "107", "Some(107)"),
        ("header_timeout", "\"108s\"", "108s"),
        ("client_idle", "\"109s\"", "109s"),
        ("body_timeout", "\"110s\"", "110s"),
        ("min_request_rate", "111", "111"),
        ("send_timeout", "\"112s\"", "112s"),
        ("min_response_rate", "113", "113"),
        ("rate_grace", "\"114s\"", "114s"),
        ("tls_handshake_timeout", "\"115s\"", "115s"),
        ("tcp_keepalive", "\"116s\"", "116s"),
        ("connect_timeout", "\"117s\"", "117s"),
        ("response_timeout", "\"118s\"", "118s"),
        ("response_idle", "\"119s\"", "119s"),
        ("client_fin_timeout", "\"120s\"", "120s"),
        ("drain_deadline", "\"121s\"", "121s"),
        ("upgrade_idle", "\"122s\"", "122s"),
        ("continue_timeout", "\"123s\"", "123s"),
        ("request_buffer", "124", "124"),
        ("mirrored", "125", "125"),
        ("retries", "6", "6"),
        ("retry_percent", "87", "87"),
        ("retry_floor", "128", "128"),
        ("small_answer", "129", "129"),
        ("small_answer_patience", "\"130s\"", "130s"),
        ("idle_per_instance", "131", "131"),
        ("idle_for", "\"132s\"", "132s"),
        ("eject_after", "93", "93"),
        ("eject_for", "\"34s\"", "34s"),
        ("eject_at_most", "\"135s\"", "135s"),
        ("max_hops", "16", "16"),
        ("lease_patience", "\"137s\"", "137s"),
    ];

    #[test]
    fn every_key_is_read_into_its_own_field_and_no_other() {
        let usual = fields(&Limits::default());
        for (key, value, expected) in KEYS {
            let read = fields(&read(&format!("{key} = {value}")).unwrap());
            let changed: Vec<_> = read.difference(&usual).collect();
            assert_eq!(changed, [&format!("{key}: {expected}")]);
            assert_eq!(usual.difference(&read).count(), 1, "{key}");
        }
        let all: String = KEYS.iter().map(|(key, value, _)| format!("{key} = {value}\n")).collect();
        let expected: BTreeSet<_> = KEYS.iter().map(|(key, _, value)| format!("{key}: {value}")).collect();
        assert_eq!(fields(&read(&all).unwrap()), expected, "every field has its key");
    }

    #[test]
    fn a_time_of_zero_is_no_limit_or_is_refused() {
        for (key, value, _) in KEYS.iter().filter(|(_, value, _)| value.starts_with('"')) {
            let zero = format!("{key} = \"0s\"");
            let field =
                |limits: &Limits| fields(limits).into_iter().find(|it| it.starts_with(&format!("{key}:")));
            match (*key, read(&zero)) {
                // Zero is its way to say never.
                ("tcp_keepalive", Ok(limits)) => assert_eq!(limits.tcp_keepalive, Duration::ZERO),
                (_, Ok(limits)) => {
                    assert_eq!(
                        field(&limits),
                        Some(format!("{key}: {:?}", Limits::NO_LIMIT)),
                        "{key} {value}"
                    );
                }
                (
                    "rate_grace"
                    | "continue_timeout"
                    | "small_answer_patience"
                    | "eject_for"
                    | "eject_at_most"
                    | "lease_patience",
                    Err(said),
                ) => assert!(said.contains("a duration from 1"), "{said}"),
                (_, Err(said)) => panic!("{said}"),
            }
        }
    }

    #[test]
    fn the_page_of_limits_names_every_limit_and_every_key_that_is_counted() {
        let page = include_str!("../../docs/limits.md");
        for key in KEYS.iter().map(|(key, ..)| *key).chain(proxy::LIMITS) {
            let row = page.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{key}`")));
            let row = row.unwrap_or_else(|| panic!("docs/limits.md has no row of {key}"));
            let counted = row.split('|').nth(2).unwrap().contains("`limits`");
            assert!(counted || !proxy::LIMITS.contains(&key), "{row}");
        }
    }

    #[test]
    fn an_ejection_is_not_longer_than_the_longest() {
        let said = read("eject_for = \"2m\"").unwrap_err();
        assert!(
            said.starts_with("node.toml:9: proxy.limits.eject_for: the first ejection is longer"),
            "{said}"
        );
        assert!(read("eject_for = \"2m\"\neject_at_most = \"2m\"").is_ok());
        assert!(read("eject_at_most = \"1s\"").unwrap_err().contains("eject_at_most: the first"));
    }

    #[test]
    fn two_clients_cannot_take_every_place() {
        let usual = Limits::default();
        assert!(usual.max_connections_per_client * 3 < usual.max_connections);
        // As many idle connections of one load generator, or of the browsers behind one NAT, are usual.
        assert!(usual.max_connections_per_client > 10_000);
    }
}
