//! What rustls and webpki do not tell of a certificate: the time in which it is valid. A small reader of DER (X.690) for the
//! first fields of a certificate (RFC 5280 §4.1).

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The time in which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// From when it is valid, in seconds since 1970.
    pub(super) not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub(super) not_after: i64,
}

/// Reads the time in which a certificate is valid; `None` if it is not a certificate.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let mut certificate = Elements(certificate).expect(SEQUENCE)?;
    let mut signed = Elements(certificate.expect(SEQUENCE)?.0);
    if signed.0.first() == Some(&VERSION) {
        signed.next()?;
    }
    let _serial = signed.expect(INTEGER)?;
    let (_algorithm, _issuer) = (signed.expect(SEQUENCE)?, signed.expect(SEQUENCE)?);
    let mut validity = signed.expect(SEQUENCE)?;
    let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
    Some(Validity { not_before, not_after })
}

/// Elements one after the other.
struct Elements<'d>(&'d [u8]);

impl<'d> Elements<'d> {
    /// The tag and the content of the next.
    fn next(&mut self) -> Option<(u8, &'d [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The elements in the next, if it has this tag.
    fn expect(&mut self, tag: u8) -> Option<Self> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| Self(content))
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, as certificates have to write it (RFC 5280 §4.1.2.5).
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let digits = text.strip_suffix(b"Z").filter(|it| it.iter().all(u8::is_ascii_digit))?;
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let short = number(&digits[..2]);
            (if short < 50 { 2000 + short } else { 1900 + short }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| number(&rest[at..at + 2]);
    let (month, day) = (part(0), part(2));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * 86_400 + part(4) * 3600 + part(6) * 60 + part(8))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. The year is counted from March, so that leap days are last.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a moment, in seconds since 1970: `2026-11-27`.
pub(super) fn date(seconds: i64) -> String {
    let mut left = seconds.div_euclid(86_400);
    // Too early by some years at most.
    let mut year = 1970 + left.div_euclid(365).min(left.div_euclid(366));
    while days(year + 1, 1, 1) <= left {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= left).unwrap_or(1);
    left -= days(year, month, 1);
    format!("{year:04}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read() {
        for (tag, text, seconds) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "500101000000Z", Some(-631_152_000)),
            (GENERALIZED_TIME, "20261127190624Z", Some(1_795_806_384)),
            (GENERALIZED_TIME, "20240229120000Z", Some(1_709_208_000)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "20261127190624Z", None),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "700101000000", None),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "70010100000xZ", None),
        ] {
            assert_eq!(time((tag, text.as_bytes())), seconds, "{text}");
        }
        assert_eq!((date(0), date(1_709_208_000)), ("1970-01-01".into(), "2024-02-29".into()));
        assert_eq!((date(-1), date(253_402_300_799)), ("1969-12-31".into(), "9999-12-31".into()));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_not(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = validity(&octets);
        }

        #[test]
        fn a_date_is_that_of_its_day(year in 1600..3000_i64, month in 1..=12_i64, day in 1..=28_i64) {
            let date = date(days(year, month, day) * 86_400 + 86_399);
            prop_assert_eq!(date, format!("{year:04}-{month:02}-{day:02}"));
        }
    }
}
