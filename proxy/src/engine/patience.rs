//! How long a body may take: a pure judge of progress, with time as an argument.
//!
//! A body waits either for its source or for room at its sink, and only the one it waits for can be to blame. Each has a
//! time within which something must move; a client has also a rate, averaged from the end of a grace, so that a few octets
//! now and then do not hold a connection for ever.

use std::time::Duration;

use tokio::time::Instant;

use super::pump::{Pump, Waits};

/// What is asked of one side of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Something moves within this time.
    pub(crate) silent: Duration,
    /// Octets per second on average; 0: any rate.
    pub(crate) rate: u64,
    /// The rate is not looked at before this has passed.
    pub(crate) grace: Duration,
}

/// The progress of one body.
#[derive(Debug)]
pub(crate) struct Patience {
    source: Demand,
    sink: Demand,
    waits: Waits,
    /// When the present wait began, or something moved last.
    moved_at: Instant,
    passed: u64,
    /// Time spent waiting for each side, and what was passed on meanwhile.
    spent: [(Duration, u64); 2],
}

impl Patience {
    pub(crate) const fn new(source: Demand, sink: Demand, now: Instant) -> Self {
        Self { source, sink, waits: Waits::Source, moved_at: now, passed: 0, spent: [(Duration::ZERO, 0); 2] }
    }

    const fn demand(&self) -> &Demand {
        match self.waits {
            Waits::Source => &self.source,
            Waits::Sink => &self.sink,
        }
    }

    /// Notes what a pump that has to wait has done.
    pub(crate) fn note(&mut self, pump: &Pump, now: Instant) {
        let moved = pump.passed - self.passed;
        if moved == 0 && pump.waits == self.waits {
            return;
        }
        let (time, octets) = &mut self.spent[self.waits as usize];
        *time += now.saturating_duration_since(self.moved_at);
        *octets += moved;
        (self.waits, self.passed, self.moved_at) = (pump.waits, pump.passed, now);
    }

    /// Something else has moved that belongs to the same exchange.
    pub(crate) const fn moved(&mut self, now: Instant) {
        self.moved_at = now;
    }

    /// When the present wait began, or something moved last.
    pub(crate) const fn moved_at(&self) -> Instant {
        self.moved_at
    }

    /// How long the source's octets have waited for the sink until now.
    pub(crate) fn waited_for_sink(&self, now: Instant) -> Duration {
        let present = now.saturating_duration_since(self.moved_at);
        let present = if self.waits == Waits::Sink { present } else { Duration::ZERO };
        self.spent[Waits::Sink as usize].0 + present
    }

    /// When patience ends if nothing moves any more.
    pub(crate) fn ends(&self) -> Instant {
        let demand = self.demand();
        let silent = self.moved_at + demand.silent;
        if demand.rate == 0 {
            return silent;
        }
        let (spent, octets) = self.spent[self.waits as usize];
        let earned = demand.grace + Duration::from_millis(octets.saturating_mul(1_000) / demand.rate);
        silent.min(self.moved_at + earned.saturating_sub(spent))
    }

    /// Patience ended although something moved: too slowly.
    pub(crate) fn is_rate(&self, now: Instant) -> bool {
        now < self.moved_at + self.demand().silent
    }

    /// The side that took too long.
    pub(crate) fn over(&self, now: Instant) -> Option<Waits> {
        (now >= self.ends()).then_some(self.waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pump::{Sink, Source};

    const DEMAND: Demand =
        Demand { silent: Duration::from_secs(30), rate: 100, grace: Duration::from_secs(10) };

    fn body() -> Pump {
        Pump::new(Vec::new(), Source::UntilClose, Sink::Plain)
    }

    /// The second at which a side that moves so many octets each second is given up.
    fn given_up(per_second: u64, waits: Waits) -> Option<u64> {
        let start = Instant::now();
        let mut patience = Patience::new(DEMAND, DEMAND, start);
        let mut pump = body();
        pump.waits = waits;
        (0..1_000).find(|second| {
            let now = start + Duration::from_secs(*second);
            pump.passed += per_second;
            patience.note(&pump, now);
            patience.over(now).is_some()
        })
    }

    #[test]
    fn silence_and_a_low_rate_end_patience_and_a_fair_rate_does_not() {
        assert_eq!(given_up(100, Waits::Source), None);
        assert_eq!(given_up(150, Waits::Sink), None);
        assert_eq!(given_up(0, Waits::Source), Some(10));
        let patience = Patience::new(DEMAND, DEMAND, Instant::now());
        let after = |seconds| patience.moved_at() + Duration::from_secs(seconds);
        assert!(patience.is_rate(after(10)) && !patience.is_rate(after(30)));
        let slow = given_up(10, Waits::Sink).unwrap();
        assert!((11..=12).contains(&slow), "{slow}");
    }

    #[test]
    fn only_the_side_that_is_waited_for_is_judged() {
        let start = Instant::now();
        let any = Demand { rate: 0, ..DEMAND };
        let mut patience = Patience::new(DEMAND, any, start);
        let mut pump = body();
        pump.waits = Waits::Sink;
        for second in 0..300 {
            pump.passed += 1;
            patience.note(&pump, start + Duration::from_secs(second));
            assert_eq!(patience.over(start + Duration::from_secs(second)), None);
        }
        assert_eq!(patience.over(start + Duration::from_secs(329)), Some(Waits::Sink), "30 s of silence");
        pump.waits = Waits::Source;
        patience.note(&pump, start + Duration::from_secs(320));
        assert_eq!(patience.over(start + Duration::from_secs(329)), None, "its own grace begins now");
        assert_eq!(patience.over(start + Duration::from_secs(331)), Some(Waits::Source));
    }
}
