//! Compiled schedules: whether a schedule is open now, when it opens, and when that changes.
//!
//! An answer takes a few comparisons without allocation, because steering needs it while a query waits. So the
//! offsets of the time zone are listed for decades ahead when the configuration is compiled, and the hours of the
//! week are spans of milliseconds.

use jiff::{Timestamp, tz::TimeZone};

use model::{Moment, Schedule, TimeOfDay};

const MINUTE: i64 = 60_000;
const WEEK: i64 = 7 * 24 * 60 * MINUTE;
/// Offsets listed per time zone: half a century where clocks change twice a year.
const MAX_OFFSETS: usize = 100;
/// The first moment that a calendar covers: 2025-01-01.
const BEGINNING: i64 = 1_735_689_600_000;

/// The hours of a week in a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// The start of each offset and the offset from UTC, both in milliseconds. The first one has no start.
    offsets: Vec<(i64, i64)>,
    /// Sorted spans in milliseconds since Monday's midnight, none beyond Sunday's end.
    open: Vec<(i64, i64)>,
}

impl Calendar {
    /// Compiles a schedule. A time zone that this program does not know is taken as UTC.
    #[must_use]
    pub fn compile(schedule: &Schedule) -> Self {
        let zone = TimeZone::get(&schedule.time_zone).unwrap_or(TimeZone::UTC);
        Self { offsets: offsets(&zone), open: spans(schedule) }
    }

    /// True within the hours of the schedule.
    #[must_use]
    pub fn is_open(&self, now: Moment) -> bool {
        let local = self.local(millis(now));
        self.open.iter().any(|(from, to)| (*from..*to).contains(&local))
    }

    /// The first moment from `now` on within the hours; `None` if there is none for weeks.
    #[must_use]
    pub fn next_open(&self, now: Moment) -> Option<Moment> {
        self.first(now, |calendar, at| calendar.is_open(at))
    }

    /// The first moment after `now` at which the schedule opens or closes; `None` if there is none for weeks.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        let open = self.is_open(now);
        self.first(now, |calendar, at| calendar.is_open(at) != open)
    }

    /// Examines every edge in order: the beginning and end of spans, and changes of the clocks.
    fn first(&self, now: Moment, fits: impl Fn(&Self, Moment) -> bool) -> Option<Moment> {
        // A week has two edges per day, and two more where the clocks change.
        const EDGES: usize = 2 * 16;
        let mut at = now;
        for _ in 0..EDGES {
            if fits(self, at) {
                return Some(at);
            }
            let edge = self.next_edge(millis(at));
            at = Moment(u64::try_from(edge).ok()?);
        }
        None
    }

    fn next_edge(&self, now: i64) -> i64 {
        let local = self.local(now);
        let ahead = |edge: i64| if edge > local { edge - local } else { edge + WEEK - local };
        let edges = self.open.iter().flat_map(|(from, to)| [ahead(*from), ahead(*to % WEEK)]);
        let within_week = edges.min().unwrap_or(WEEK);
        let changed = self.offsets.iter().map(|(from, _)| *from).find(|from| *from > now);
        changed.map_or(now + within_week, |changed| changed.min(now + within_week))
    }

    /// Milliseconds since Monday's midnight in local time.
    fn local(&self, now: i64) -> i64 {
        // The epoch was a Thursday.
        const EPOCH: i64 = 3 * 24 * 60 * MINUTE;
        let at = self.offsets.partition_point(|(from, _)| *from <= now).max(1);
        let offset = self.offsets.get(at - 1).map_or(0, |(_, offset)| *offset);
        (now + offset + EPOCH).rem_euclid(WEEK)
    }
}

fn millis(now: Moment) -> i64 {
    i64::try_from(now.0).unwrap_or(i64::MAX / 2)
}

fn offsets(zone: &TimeZone) -> Vec<(i64, i64)> {
    let begin = Timestamp::from_millisecond(BEGINNING).unwrap_or(Timestamp::UNIX_EPOCH);
    let offset = |offset: jiff::tz::Offset| i64::from(offset.seconds()) * 1_000;
    let later = zone.following(begin).take(MAX_OFFSETS);
    let later = later.map(|it| (it.timestamp().as_millisecond(), offset(it.offset())));
    std::iter::once((i64::MIN, offset(zone.to_offset(begin)))).chain(later).collect()
}

fn spans(schedule: &Schedule) -> Vec<(i64, i64)> {
    let minutes = |time: TimeOfDay| i64::from(time.minutes());
    let day = i64::from(TimeOfDay::DAY);
    let (from, to) = (minutes(schedule.from), minutes(schedule.to));
    let to = if to > from { to } else { to + day };
    let mut spans = Vec::new();
    for begins in &schedule.days {
        let midnight = *begins as i64 * day;
        let (from, to) = ((midnight + from) * MINUTE, (midnight + to) * MINUTE);
        if from < WEEK {
            spans.push((from, to.min(WEEK)));
        }
        if to > WEEK {
            spans.push(((from - WEEK).max(0), to - WEEK));
        }
    }
    spans.sort_unstable();
    spans
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use model::Day;

    fn schedule(zone: &str, days: &[Day], from: &str, to: &str) -> Schedule {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        Schedule { time_zone: zone.to_owned(), days: days.to_vec(), from, to }
    }

    fn at(text: &str) -> Moment {
        let at: Timestamp = text.parse().unwrap();
        Moment(u64::try_from(at.as_millisecond()).unwrap())
    }

    #[test]
    fn hours_are_those_of_the_place() {
        let nights = Calendar::compile(&schedule("Asia/Shanghai", &[Day::Mon, Day::Tue], "02:00", "05:00"));
        // 2026-11-23 is a Monday; Shanghai is eight hours ahead.
        assert!(!nights.is_open(at("2026-11-22T17:59:59Z")));
        assert!(nights.is_open(at("2026-11-22T18:00:00Z")));
        assert!(nights.is_open(at("2026-11-22T20:59:59Z")));
        assert!(!nights.is_open(at("2026-11-22T21:00:00Z")));
        assert_eq!(nights.next_open(at("2026-11-22T21:00:00Z")), Some(at("2026-11-23T18:00:00Z")));
        assert_eq!(nights.next_open(at("2026-11-23T21:00:00Z")), Some(at("2026-11-29T18:00:00Z")));
        assert_eq!(nights.next_change(at("2026-11-22T18:00:00Z")), Some(at("2026-11-22T21:00:00Z")));
    }

    #[test]
    fn a_night_belongs_to_the_day_it_begins_on() {
        let nights = Calendar::compile(&schedule("UTC", &[Day::Sun], "22:00", "06:00"));
        assert!(nights.is_open(at("2026-11-22T22:00:00Z")));
        assert!(nights.is_open(at("2026-11-23T05:59:00Z")), "Monday's morning, past the end of the week");
        assert!(!nights.is_open(at("2026-11-23T22:30:00Z")));
        assert_eq!(nights.next_change(at("2026-11-22T23:00:00Z")), Some(at("2026-11-23T06:00:00Z")));
    }

    #[test]
    fn an_hour_that_the_clocks_leave_out_opens_when_they_have_jumped() {
        let nights = Calendar::compile(&schedule("America/New_York", &[Day::Sun], "02:30", "03:30"));
        // 2027-03-14, 02:00 becomes 03:00 at 07:00 UTC.
        assert_eq!(nights.next_open(at("2027-03-14T06:00:00Z")), Some(at("2027-03-14T07:00:00Z")));
        assert!(!nights.is_open(at("2027-03-14T07:30:00Z")));
    }

    #[test]
    fn always_never_changes() {
        let days: Vec<Day> = Day::ALL.to_vec();
        let always = Calendar::compile(&schedule("Europe/Berlin", &days, "00:00", "24:00"));
        assert!(always.is_open(at("2026-11-23T12:00:00Z")));
        assert_eq!(always.next_change(at("2026-11-23T12:00:00Z")), None);
    }

    proptest! {
        /// The edge found is the first: nothing between is different, seen minute by minute.
        #[test]
        fn the_next_change_is_the_first_one(
            zone in prop::sample::select(vec!["UTC", "Asia/Shanghai", "America/New_York", "Australia/Lord_Howe"]),
            days in prop::sample::subsequence(Day::ALL.to_vec(), 1..=7),
            (from, to) in (0..=1440u16, 0..=1440u16).prop_filter("a span", |(from, to)| from != to),
            start in 1_790_000_000u64..1_830_000_000,
        ) {
            let time = |minutes| TimeOfDay::from_minutes(minutes).unwrap();
            let calendar = Calendar::compile(&Schedule {
                time_zone: zone.to_owned(), days, from: time(from), to: time(to),
            });
            let start = Moment(start * 1_000);
            let open = calendar.is_open(start);
            let change = calendar.next_change(start);
            let until = change.map_or(start.0 + 8 * 86_400_000, |it| it.0);
            for minute in (start.0..until).step_by(60_000) {
                prop_assert_eq!(calendar.is_open(Moment(minute)), open);
            }
            if let Some(change) = change {
                prop_assert_ne!(calendar.is_open(change), open);
            }
            let opens = calendar.next_open(start);
            prop_assert_eq!(opens, if open { Some(start) } else { change });
        }
    }
}
