//! The `Date` of responses that have none (RFC 9110 §6.6.1), written once per second.

use store::model::Moment;

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The present second as an IMF-fixdate (RFC 9110 §5.6.7).
#[derive(Clone, Debug)]
pub(crate) struct DateCache {
    second: u64,
    text: [u8; 29],
}

impl Default for DateCache {
    fn default() -> Self {
        Self { second: 0, text: written(0) }
    }
}

impl DateCache {
    /// The date at this moment; cheap if it was asked for in the same second before.
    pub(crate) fn at(&mut self, now: Moment) -> &[u8; 29] {
        let second = now.0 / 1000;
        if second != self.second {
            self.second = second;
            self.text = written(second);
        }
        &self.text
    }
}

#[allow(clippy::cast_possible_truncation, reason = "each is below the number of its days, hours or months")]
fn written(second: u64) -> [u8; 29] {
    let (days, rest) = (second / 86_400, second % 86_400);
    let (year, month, day) = date(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    two(&mut text, 5, day);
    text[8..11].copy_from_slice(MONTHS[month as usize]);
    two(&mut text, 12, year / 100);
    two(&mut text, 14, year % 100);
    two(&mut text, 17, rest / 3600);
    two(&mut text, 20, rest / 60 % 60);
    two(&mut text, 23, rest % 60);
    text
}

fn two(text: &mut [u8; 29], at: usize, number: u64) {
    let digit = |number: u64| b'0' + (number % 10).to_le_bytes()[0];
    text[at] = digit(number / 10);
    text[at + 1] = digit(number);
}

/// Year, month from 0 and day from 1 of a day since 1970, by counting from the 1st of March of year 0, so that the leap day is
/// the last of a year.
const fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12;
    let year = year_of_era + era * 400 + if month < 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_rfc_9110() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (1_767_225_599, "Wed, 31 Dec 2025 23:59:59 GMT"),
        ] {
            let mut cache = DateCache::default();
            assert_eq!(cache.at(Moment(second * 1000 + 999)).as_slice(), text.as_bytes());
            assert_eq!(cache.at(Moment(second * 1000)).as_slice(), text.as_bytes());
        }
    }
}
