//! The failover budget: how long clients may be sent to a dead site, by the configuration alone.

use std::time::Duration;

use super::{Snapshot, SteeredDomain};
use model::Check;

/// The time between two confirmations of a first failure.
const CONFIRM_EVERY: Duration = Duration::from_millis(100);
/// From a vantage's decision to changed answers on every node with a working network: a report, the engine's watch
/// and the next batch of queries take a few milliseconds each; the rest is for a busy machine.
const PROPAGATE: Duration = Duration::from_millis(200);

/// How long a failover takes at most, in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Until a vantage has decided, when packets are lost right after a successful probe.
    pub detect: Duration,
    /// Until every node gives the new answer.
    pub propagate: Duration,
    /// Until the last resolver has dropped the old answer from its cache.
    pub ttl: Duration,
}

impl Failover {
    fn of(domain: &SteeredDomain, check: &Check) -> Self {
        let confirmations = CONFIRM_EVERY * u32::from(check.fall.saturating_sub(1));
        let last = if check.fall > 1 { check.timeout.0 } else { Duration::ZERO };
        Self {
            detect: check.interval.0 + check.timeout.0 + confirmations + last,
            propagate: PROPAGATE,
            ttl: Duration::from_secs(domain.domain.ttl.as_secs().into()),
        }
    }

    /// The sum of the parts.
    #[must_use]
    pub fn whole(&self) -> Duration {
        self.detect + self.propagate + self.ttl
    }
}

impl Snapshot {
    /// How long a domain's failover takes at most; `None` without a check, since then a failure is not noticed.
    #[must_use]
    pub fn failover(&self, domain: &SteeredDomain) -> Option<Failover> {
        let slot = domain.sites.iter().flat_map(|site| &site.addresses).find_map(|it| it.slot)?;
        let check = domain.domain.check.as_ref()?;
        let target = self.targets.values().find(|it| it.slot == slot && it.check.name == *check);
        // Of equal checks with several names a target carries one.
        let target = target.or_else(|| self.targets.values().find(|it| it.slot == slot))?;
        Some(Failover::of(domain, &target.check))
    }

    /// The failovers of the domains that have a budget.
    pub fn failovers(&self) -> impl Iterator<Item = (&SteeredDomain, Failover)> {
        let limited = self.domains.values().filter(|it| it.domain.budget.is_some());
        limited.filter_map(|it| Some((&**it, self.failover(it)?)))
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        board::Board,
        testing::{compile, sources, span},
    };
    use std::time::Duration;

    #[test]
    fn the_parts_add_up() {
        let mut world = sources(2, 1);
        world.domains[0].budget = Some(span("10s"));
        let snapshot = compile(world, &Board::default());
        let (domain, failover) = snapshot.failovers().next().unwrap();
        assert_eq!(domain.domain.name.as_str(), "gw.example.com");
        assert_eq!(failover.detect, Duration::from_millis(1_000 + 800 + 300 + 800));
        assert_eq!(failover.whole(), Duration::from_millis(2_900 + 200 + 20_000));
    }
}
