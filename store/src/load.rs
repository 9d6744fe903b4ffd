//! Load: the request rate of a site's gateways, and the share of its clients that is sent elsewhere when it is too
//! high.
//!
//! Answers take effect slowly, because resolvers cache them. So a share is changed at most once in that time,
//! estimated from the load that the site would have with all of its clients, and the load at which it grows is above
//! the one at which it falls.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    board::Share,
    model::{Moment, Name},
};

/// The load of a gateway, as it reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The cluster whose services it serves.
    pub cluster: Name,
    /// Requests answered per second, recently.
    pub rate: f64,
}

/// The share of a site's clients that is sent elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    /// The share.
    pub share: Share,
    /// When it was last changed.
    pub changed: Moment,
}

/// The shares of all sites that have one, by cluster and site, as kept in the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflows {
    /// Version of the stored form.
    pub v: u32,
    /// In 65536ths.
    pub shares: BTreeMap<Name, BTreeMap<Name, u32>>,
}

impl Overflows {
    /// The version this program writes.
    pub const VERSION: u32 = 1;
}

/// Below this percentage of its capacity a site takes clients back.
const TAKES_BACK: f64 = 85.0;
/// The target between the two limits, in percent of the capacity.
const AIM: f64 = 95.0;
/// However full a site is, some clients are sent there, so that its recovery is noticed.
const MAX: f64 = 0.95;

impl Overflow {
    /// The next share of a site with `rate` and `capacity` requests per second. `settle` is the time until a change
    /// takes effect.
    #[must_use]
    pub fn step(self, rate: f64, capacity: u32, settle: Duration, now: Moment) -> Self {
        let capacity = f64::from(capacity);
        let share = f64::from(self.share.0) / f64::from(Share::ALL.0);
        let (full, room) = (rate > capacity, rate * 100.0 < capacity * TAKES_BACK);
        let idle = room && self.share == Share::default();
        let settling = self.share != Share::default() && now.since(self.changed) < settle;
        if idle || settling || !(full || room) {
            return self;
        }
        let all = rate / (1.0 - share);
        let wanted = if all > 0.0 { 1.0 - capacity * AIM / 100.0 / all } else { 0.0 };
        // Above the limit the share never falls, and below it never grows, however noisy the rate is.
        let wanted = if full { wanted.max(share) } else { wanted.min(share) }.clamp(0.0, MAX);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 2^16")]
        let share = Share((wanted * f64::from(Share::ALL.0)) as u32);
        Self { share, changed: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(20);

    /// A site that gets the clients of its share after the settling time; returns the share after each second.
    fn play(demand: impl Fn(u64) -> f64, seconds: u64) -> Vec<f64> {
        let mut overflow = Overflow::default();
        let mut shares: Vec<f64> = Vec::new();
        for second in 0..seconds {
            let late = second.checked_sub(SETTLE.as_secs()).and_then(|it| shares.get(it as usize).copied());
            let rate = demand(second) * (1.0 - late.unwrap_or(0.0));
            overflow = overflow.step(rate, 1_000, SETTLE, Moment(1 + second * 1_000));
            shares.push(f64::from(overflow.share.0) / 65_536.0);
        }
        shares
    }

    #[test]
    fn excess_load_is_sent_elsewhere_without_oscillation() {
        let shares = play(|_| 2_000.0, 600);
        let end = shares[599];
        assert!((0.5..0.55).contains(&end), "{end}");
        let changes = shares.windows(2).filter(|it| (it[0] - it[1]).abs() > 0.001).count();
        assert!(changes <= 3, "{changes} changes");
    }

    #[test]
    fn clients_come_back_when_there_is_capacity() {
        let shares = play(|second| if second < 200 { 3_000.0 } else { 400.0 }, 600);
        assert!(shares[199] > 0.6, "{}", shares[199]);
        assert!(shares[599] < 0.001, "{}", shares[599]);
        assert!(shares[200..].is_sorted_by(|a, b| a >= b), "it only falls");
    }

    #[test]
    fn a_load_below_capacity_moves_no_client() {
        assert!(play(|second| 900.0 + (second % 7) as f64 * 10.0, 300).iter().all(|it| *it == 0.0));
    }
}
