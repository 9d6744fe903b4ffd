//! Units as types, so that a number can never be read in the wrong unit.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A DNS time to live in whole seconds.
///
/// Not a `Duration`: it is what goes on the wire, and fractions of it do not exist there. What steers traffic has a
/// TTL of 1 to 2^31-1 seconds (RFC 2181 §8): with zero, resolvers would ask for every request of every client. The
/// records of a zone may have any TTL that a zone file may give them, zero included; see [`Ttl::of_record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

impl Ttl {
    /// The longest TTL there is (RFC 2181 §8).
    pub const MAX: Self = Self(i32::MAX as u32);
    /// Not to be remembered: what a registry's names are answered with, and what a record of a zone may have.
    pub const ZERO: Self = Self(0);

    /// The TTL of a record in a zone, or a time of its SOA: any number that fits the wire.
    #[must_use]
    pub const fn of_record(secs: u32) -> Self {
        Self(secs)
    }

    /// Whole seconds; `None` for zero and for more than [`Ttl::MAX`].
    #[must_use]
    pub const fn from_secs(secs: u32) -> Option<Self> {
        if secs == 0 || secs > Self::MAX.0 { None } else { Some(Self(secs)) }
    }

    /// Seconds, as on the wire.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(Duration::from_secs(self.0.into())).fmt(f)
    }
}

impl Serialize for Ttl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ttl {
    /// The stored form: also what only records may have.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let span = Span::deserialize(deserializer)?;
        Self::of_soa_in(span).map_err(de::Error::custom)
    }
}

impl Ttl {
    /// The TTL of a record in a zone from a document: zero is allowed.
    ///
    /// # Errors
    /// When it is not of whole seconds, or above [`Ttl::MAX`].
    pub fn of_record_in(span: Span) -> Result<Self, SpanError> {
        Self::of_soa_in(span).ok().filter(|ttl| *ttl <= Self::MAX).ok_or(SpanError::NotARecordTtl)
    }

    /// A time of a SOA from a document: any number that fits the wire.
    ///
    /// # Errors
    /// When it is not of whole seconds, or more than 2^32-1 of them.
    pub fn of_soa_in(span: Span) -> Result<Self, SpanError> {
        let secs = u32::try_from(span.0.as_secs()).ok().filter(|_| span.0.subsec_nanos() == 0);
        secs.map(Self).ok_or(SpanError::NotATime)
    }
}

impl TryFrom<Span> for Ttl {
    type Error = SpanError;

    fn try_from(span: Span) -> Result<Self, SpanError> {
        let whole = span.0.subsec_nanos() == 0;
        let secs = u32::try_from(span.0.as_secs()).ok().and_then(Self::from_secs);
        secs.filter(|_| whole).ok_or(SpanError::NotATtl)
    }
}

/// A duration in its text form: `800ms`, `20s`, `1m30s`, `1h`, `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// Why a text is not a duration, or not a TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// Not of the form `1m30s`.
    #[error("a duration such as 800ms, 20s, 1m30s, 1h or 7d")]
    Malformed,
    /// Longer than can be counted.
    #[error("a duration below 10000 days")]
    TooLong,
    /// A TTL outside 1 s to 2^31-1 s, or not of whole seconds.
    #[error("a TTL of whole seconds, from 1s up to 24855d")]
    NotATtl,
    /// Not of whole seconds, or more than 2^31-1 s.
    #[error("whole seconds, from 0s up to 24855d")]
    NotARecordTtl,
    /// Not of whole seconds, or more than 2^32-1 s.
    #[error("whole seconds, from 0s up to 49710d")]
    NotATime,
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const MAX_MS: u64 = 86_400_000 * 49_711;

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let mut rest = text;
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(SpanError::Malformed);
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_len);
            let number: u64 = number.parse().map_err(|_| SpanError::Malformed)?;
            let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SpanError::Malformed)?;
            total =
                number.checked_mul(*scale).and_then(|n| n.checked_add(total)).ok_or(SpanError::TooLong)?;
            rest = after;
        }
        if total > MAX_MS { Err(SpanError::TooLong) } else { Ok(Self(Duration::from_millis(total))) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (name, scale) in UNITS {
            if left >= scale {
                write!(f, "{}{name}", left / scale)?;
                left %= scale;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|expected| de::Error::custom(format!("{text:?} is not {expected}")))
    }
}

/// A share of traffic relative to its siblings; zero gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Weight(pub u16);

/// A share in percent. Where it is relative to something else it may exceed 100, as in overprovisioning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Percent(pub u16);

impl Percent {
    /// As a factor: 140 percent are 1.4.
    #[must_use]
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// A number of bytes in its text form: `500B`, `64KiB`, `10MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// What a size should have looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a size such as 500B, 64KiB, 10MiB or 1GiB")]
pub struct NotASize;

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let (_, scale) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or(NotASize)?;
        let number: u64 = number.parse().map_err(|_| NotASize)?;
        number.checked_mul(*scale).map(Self).ok_or(NotASize)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, scale): &&(&str, u64)| self.0 >= *scale && self.0.is_multiple_of(*scale);
        let (unit, scale) = SIZE_UNITS.iter().find(whole).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|expected| de::Error::custom(format!("{text:?} is not {expected}")))
    }
}

/// A moment by this node's steady clock: milliseconds since the Unix epoch as the wall clock was when
/// the process started, advanced by the monotonic clock since. It never steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Time since `earlier`; zero if that lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment this much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// As RFC 3339, for messages and logs.
    #[must_use]
    pub fn rfc3339(self) -> String {
        i64::try_from(self.0)
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
            .map_or_else(|| "beyond time".to_owned(), |at| at.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_they_print() {
        for text in ["800ms", "20s", "1m30s", "1h", "7d", "0s", "1d2h3m4s5ms"] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string(), text);
        }
        assert_eq!("90s".parse::<Span>().unwrap().to_string(), "1m30s");
    }

    #[test]
    fn bad_spans_are_refused() {
        for text in ["", "s", "20", "20 s", "-1s", "1.5s", "20sec", "1s1", "99999999999999999999s", "400000d"]
        {
            assert!(text.parse::<Span>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn sizes_read_as_they_print() {
        for text in ["0B", "500B", "1025B", "64KiB", "10MiB", "1GiB", "3TiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("2048KiB".parse::<Size>().unwrap().to_string(), "2MiB");
        for text in ["", "B", "10", "10MB", "-1B", "1.5KiB", "1 KiB", "99999999999999999999B", "20000000TiB"]
        {
            assert!(text.parse::<Size>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_ttl_is_whole_and_positive() {
        let ttl = |text: &str| text.parse::<Span>().and_then(Ttl::try_from);
        assert_eq!(ttl("1h").unwrap().as_secs(), 3600);
        assert_eq!(ttl("0s"), Err(SpanError::NotATtl));
        assert_eq!(ttl("1500ms"), Err(SpanError::NotATtl));
    }
}
