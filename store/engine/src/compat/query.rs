//! Parameters of requests, and those that all reads have: blocking, consistency, data centre.

use std::{str::FromStr, time::Duration};

use percent_encoding::percent_decode_str;

use super::{Call, reply::Reply};
use crate::{Index, Wait};

/// Parameters kept at most; a request has few.
const MAX: usize = 64;
/// Consul's wait when none is given.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);

/// The parameters, in order.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|it| !it.is_empty()).take(MAX);
        let decode = |it: &str| decoded(&it.replace('+', " ")).unwrap_or_default();
        let pair = |text: &str| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (decode(name), decode(value))
        };
        Self(pairs.map(pair).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// A flag: true without a value, or with one that is true.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Reply> {
        match self.get(name) {
            None => Ok(false),
            Some("") => Ok(true),
            Some(text) => boolean(text).ok_or_else(|| Reply::text(400, format!("Invalid value for ?{name}"))),
        }
    }

    /// A number, or Go's error message.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Reply> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = |_| Reply::text(500, format!("strconv.ParseUint: parsing {text:?}: invalid syntax"));
        text.parse().map(Some).map_err(wrong)
    }
}

impl Call<'_> {
    /// Checks the parameters that every read has. A read with an index waits for the next one.
    pub(super) fn wait(&self) -> Result<Option<Wait>, Reply> {
        let query = &self.query;
        if query.has("stale") && query.has("consistent") {
            return Err(Reply::text(400, "Cannot specify ?stale with ?consistent, conflicting semantics."));
        }
        self.check_datacenter()?;
        if query.has("filter") {
            return Err(Reply::text(
                500,
                "Failed to create boolean expression evaluator: ?filter is not supported here",
            ));
        }
        let index = match query.get("index") {
            None | Some("") => 0,
            Some(text) => text.parse().map_err(|_| Reply::text(400, "Invalid index"))?,
        };
        let wait = match query.get("wait") {
            None | Some("") => DEFAULT_WAIT,
            Some(text) => duration(text).ok_or_else(|| Reply::text(400, "Invalid wait time"))?,
        };
        let wait = if wait.is_zero() { DEFAULT_WAIT } else { wait };
        Ok((index > 0).then_some(Wait { after: Index(index), at_most: wait }))
    }

    /// Refuses namespaces, and every data centre but ours.
    pub(super) fn check_datacenter(&self) -> Result<(), Reply> {
        if self.query.has("ns") {
            let text =
                "Bad request: Invalid query parameter: \"ns\" - Namespaces are a Consul Enterprise feature";
            return Err(Reply::text(400, text));
        }
        self.datacenter(self.query.get("dc"))
    }

    /// Refuses every data centre but ours.
    pub(super) fn datacenter(&self, named: Option<&str>) -> Result<(), Reply> {
        match named {
            None | Some("") => Ok(()),
            Some(name) if name == self.engine.options().datacenter => Ok(()),
            Some(_) => Err(Reply::text(500, "No path to datacenter")),
        }
    }

    /// The reply to a read of the catalog, with its index and the header that names its consistency.
    pub(super) fn catalog_reply(&self, index: u64, value: serde_json::Value) -> Reply {
        let consistency = match &self.query {
            query if query.has("stale") => "stale",
            query if query.has("consistent") => "consistent",
            _ => "leader",
        };
        Reply::json(value).with("X-Consul-Effective-Consistency", consistency).indexed(index)
    }
}

/// True or false as Go reads it (`strconv.ParseBool`).
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `300ms`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text.strip_prefix('+').unwrap_or(text), 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|it: char| !it.is_ascii_digit() && it != '.').filter(|at| *at > 0)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|it: char| it.is_ascii_digit() || it == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    (!text.is_empty() && text != "+").then(|| Duration::try_from_secs_f64(total).ok()).flatten()
}

/// A duration as Go shows it, in whole milliseconds or more.
pub(super) fn shown(duration: Duration) -> String {
    let (seconds, ms) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 && ms > 0 {
        return format!("{ms}ms");
    }
    let fraction = format!("{ms:03}");
    let tail = match fraction.trim_end_matches('0') {
        "" => format!("{}s", seconds % 60),
        fraction => format!("{}.{fraction}s", seconds % 60),
    };
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => tail,
        (0, minutes) => format!("{minutes}m{tail}"),
        (hours, minutes) => format!("{hours}h{minutes}m{tail}"),
    }
}

/// A part of a path, with its percent-encoding decoded.
pub(super) fn decoded(text: &str) -> Result<String, Reply> {
    let wrong = || Reply::text(400, format!("malformed percent-encoding in {text:?}"));
    // The crate keeps a malformed escape as it is; Consul answers 400.
    let escaped = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|it| it.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(escaped) {
        return Err(wrong());
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| wrong())?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_in_go() {
        for (text, ms) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("300ms", 300),
            ("0", 0),
            ("2h", 7_200_000),
            ("+2s", 2_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "1", "s", "1x", "-1s", "1s2", "..s", "+", "++1s"] {
            assert_eq!(duration(text), None, "{text}");
        }
        for (ms, text) in
            [(15_000, "15s"), (90_000, "1m30s"), (1_500, "1.5s"), (7_200_000, "2h0m0s"), (300, "300ms")]
        {
            assert_eq!(shown(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("tag=a%20b&tag=c&passing&x=1");
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a b", "c"]);
        assert!(query.flag("passing").unwrap() && !query.flag("stale").unwrap());
        assert!(query.flag("tag").is_err());
        assert!(decoded("%zz").is_err() && decoded("%f").is_err() && decoded("%ff").is_err());
        assert!(decoded("%%41").is_err() && decoded("%4%41").is_err() && decoded("a%").is_err());
        assert_eq!(decoded("%c3%A9%25").unwrap(), "é%");
    }
}
