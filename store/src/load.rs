//! Load: what a site's gateways carry, and which share of its clients goes elsewhere when that is too much.
//!
//! Answers act slowly: a client that was sent elsewhere still comes for as long as resolvers remember. So a share is
//! changed at most once in that time, estimated from what the site would carry if everybody came, and there is room
//! between the load at which it grows and the load at which it falls.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    board::Share,
    model::{Moment, Name},
};

/// What a gateway carries, as it says itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The cluster whose services it serves.
    pub cluster: Name,
    /// Requests answered per second, lately.
    pub rate: f64,
}

/// A share of a site's clients that goes elsewhere, with its history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    /// The share.
    pub share: Share,
    /// When it was changed last.
    pub changed: Moment,
}

/// The shares of all sites that have some, by cluster and site: as kept in the engine.
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

/// Below this part of its capacity a site takes clients back; in percent.
const TAKES_BACK: f64 = 85.0;
/// What is aimed at between the two; in percent of the capacity.
const AIM: f64 = 95.0;
/// However full a site is, some clients come: what they get says when it is better.
const MAX: f64 = 0.95;

impl Overflow {
    /// The next share of a site that carries `rate` and is meant for `capacity` requests per second. `settle`: how long
    /// a change takes until its effect is seen.
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
        let everybody = rate / (1.0 - share);
        let wanted = if everybody > 0.0 { 1.0 - capacity * AIM / 100.0 / everybody } else { 0.0 };
        // What grows does not fall and what falls does not grow, whatever a noisy rate makes of the estimate.
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

    /// A site that gets what its share lets through, a settling time late; the share after each second.
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
    fn what_is_too_much_goes_elsewhere_without_swinging() {
        let shares = play(|_| 2_000.0, 600);
        let end = shares[599];
        assert!((0.5..0.55).contains(&end), "{end}");
        let changes = shares.windows(2).filter(|it| (it[0] - it[1]).abs() > 0.001).count();
        assert!(changes <= 3, "{changes} changes");
    }

    #[test]
    fn who_went_comes_back_when_there_is_room() {
        let shares = play(|second| if second < 200 { 3_000.0 } else { 400.0 }, 600);
        assert!(shares[199] > 0.6, "{}", shares[199]);
        assert!(shares[599] < 0.001, "{}", shares[599]);
        assert!(shares[200..].is_sorted_by(|a, b| a >= b), "it only falls");
    }

    #[test]
    fn a_load_that_fits_moves_nobody() {
        assert!(play(|second| 900.0 + (second % 7) as f64 * 10.0, 300).iter().all(|it| *it == 0.0));
    }
}
