//! When which doubtful instance is dialled next. Pure: time is an argument.
//!
//! Each is dialled every second, counted from the start of its last dial. Many at once are spread over the second.
//! One that is left out is dialled less and less often, since nothing is sent to it meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::discovery::{Cause, Doubt, InstanceKey};

/// From the start of one dial to the next.
const EVERY: Duration = Duration::from_secs(1);
/// The same for instances that are left out: first, and at the longest.
const LEFT_OUT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// More than so many at a time are not all dialled first in the same instant.
const AT_ONCE: usize = 64;

/// An instance of a service.
pub(super) type Key = (String, InstanceKey);

#[derive(Debug)]
struct Turn {
    /// When it is due; `None` while it is being dialled.
    due: Option<Instant>,
    /// It is left out, and dialled after this long.
    resting: Option<Duration>,
}

/// The instances to dial.
#[derive(Debug, Default)]
pub(super) struct Dials {
    turns: HashMap<String, HashMap<InstanceKey, Turn>>,
    due: BTreeSet<(Instant, Key)>,
}

impl Dials {
    /// Dials exactly these of a service from now on. `spread` gives a number below one.
    pub(super) fn follow(
        &mut self,
        service: &str,
        doubts: &[Doubt],
        now: Instant,
        mut spread: impl FnMut() -> f64,
    ) {
        let mut before = self.turns.remove(service).unwrap_or_default();
        let mut after = HashMap::new();
        for doubt in doubts {
            let key = doubt.key();
            let resting = !doubt.held && doubt.failures > 0 && doubt.cause != Cause::Newcomer;
            let mut turn = before.remove(&key).unwrap_or_else(|| {
                let crowd = self.due.len() >= AT_ONCE;
                let due = if crowd { now + EVERY.mul_f64(spread()) } else { now };
                self.due.insert((due, (service.to_owned(), key.clone())));
                Turn { due: Some(due), resting: None }
            });
            turn.resting = resting.then(|| turn.resting.unwrap_or(LEFT_OUT.0));
            after.insert(key, turn);
        }
        for (key, turn) in before {
            if let Some(due) = turn.due {
                self.due.remove(&(due, (service.to_owned(), key)));
            }
        }
        if !after.is_empty() {
            self.turns.insert(service.to_owned(), after);
        }
    }

    /// When the next dial is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// An instance that is due; it counts as being dialled until [`Dials::done`].
    pub(super) fn pop(&mut self, now: Instant) -> Option<Key> {
        self.next_due().filter(|due| *due <= now)?;
        let (_, key) = self.due.pop_first()?;
        if let Some(turn) = self.turn(&key) {
            turn.due = None;
        }
        Some(key)
    }

    /// Ends a dial that began at `started`, after [`Dials::follow`] was told what came of it.
    pub(super) fn done(&mut self, key: Key, started: Instant, now: Instant) {
        let Some(turn) = self.turn(&key) else { return };
        if turn.due.is_some() {
            return;
        }
        let pause = turn.resting.unwrap_or(EVERY);
        turn.resting = turn.resting.map(|pause| (pause * 2).min(LEFT_OUT.1));
        let due = (started + pause).max(now);
        turn.due = Some(due);
        self.due.insert((due, key));
    }

    fn turn(&mut self, (service, key): &Key) -> Option<&mut Turn> {
        self.turns.get_mut(service)?.get_mut(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{discovery::doubtful, model::Moment};

    fn doubts(range: std::ops::Range<usize>) -> Vec<Doubt> {
        range.map(|id| doubtful(id, Cause::Missing, Moment(1))).collect()
    }

    fn drain(dials: &mut Dials, now: Instant) -> Vec<Key> {
        std::iter::from_fn(|| dials.pop(now)).collect()
    }

    #[test]
    fn few_are_dialled_at_once_and_then_every_second() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        dials.follow("web", &doubts(0..3), now, || 0.5);
        let first = drain(&mut dials, now);
        assert_eq!(first.len(), 3);
        assert_eq!(dials.next_due(), None, "none twice at a time");
        dials.follow("web", &doubts(0..3), now, || 0.5);
        for key in first {
            dials.done(key, now, now + Duration::from_millis(300));
        }
        assert_eq!(dials.next_due(), Some(now + EVERY));
        dials.follow("web", &doubts(1..2), now, || 0.5);
        assert_eq!(drain(&mut dials, now + EVERY).len(), 1, "the others are no longer in doubt");
        dials.follow("web", &[], now, || 0.5);
        assert_eq!(dials.next_due(), None);
    }

    #[test]
    fn thousands_are_spread_over_the_second() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        let mut n = 0_u32;
        dials.follow("web", &doubts(0..5_000), now, || {
            n += 1;
            f64::from(n % 1_000) / 1_000.0
        });
        assert_eq!(drain(&mut dials, now).len(), AT_ONCE + 4);
        let half = drain(&mut dials, now + EVERY / 2).len();
        assert!((2_000..3_000).contains(&half), "{half}");
        assert_eq!(drain(&mut dials, now + EVERY).len(), 5_000 - AT_ONCE - 4 - half);
    }

    #[test]
    fn the_left_out_are_dialled_ever_more_seldom() {
        let (mut dials, mut now) = (Dials::default(), Instant::now());
        let out: Vec<_> =
            doubts(0..1).into_iter().map(|it| Doubt { held: false, failures: 3, ..it }).collect();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            dials.follow("web", &out, now, || 0.0);
            let key = dials.pop(now).unwrap();
            dials.done(key, now, now);
            let next = dials.next_due().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
    }
}
