//! Receipts: when this gateway may confirm that an instance gets no more traffic from it.
//!
//! Three conditions must hold at once: every worker obeys drains that exclude the instance (so none can pick it), every
//! worker has closed its idle connections to it (a worker acknowledges only after that), and no request to it is in
//! flight. The order matters: the number in flight is read after the acknowledgements, so that it includes every pick
//! made before them.

use std::{collections::BTreeSet, sync::Arc};

use store::{
    drain::{Drain, DrainId, Drains},
    engine::Index,
    model::Moment,
};

/// The drains this gateway has proved.
#[derive(Debug, Default)]
pub(crate) struct Proved(BTreeSet<DrainId>);

impl Proved {
    /// Forgets the drains that were removed or are over.
    pub(crate) fn forget(&mut self, drains: &Drains) {
        self.0.retain(|id| drains.records.get(id).is_some_and(|(_, drain)| !drain.is_over()));
    }

    /// The drains that wait for a receipt of this gateway.
    pub(crate) fn awaited<'a>(&'a self, drains: &'a Drains) -> impl Iterator<Item = (Index, &'a Arc<Drain>)> {
        drains
            .records
            .values()
            .filter(|(_, drain)| !drain.is_over() && !self.0.contains(&drain.id))
            .map(|(index, drain)| (*index, drain))
    }

    /// A receipt for this drain was handed over.
    pub(crate) fn remember(&mut self, id: &DrainId) {
        self.0.insert(id.clone());
    }
}

/// Whether a drain is proved: `taken` is what each worker acknowledged, `in_flight` is read last.
pub(crate) fn is_proved(
    drain: &Drain,
    taken: impl IntoIterator<Item = Arc<Drains>>,
    in_flight: impl FnOnce() -> usize,
    now: Moment,
) -> bool {
    let shut = |drains: &Arc<Drains>| drains.records.get(&drain.id).is_some_and(|(_, it)| it.excludes(now));
    taken.into_iter().all(|drains| shut(&drains)) && in_flight() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{drain, endpoint};
    use store::drain::Phase;

    fn drains(phase: Phase) -> Drains {
        let record = drain("d", endpoint("web", 1), phase);
        let records = [(record.id.clone(), (Index(7), record))].into();
        Drains { index: Index(7), records, ..Drains::default() }
    }

    #[test]
    fn every_worker_must_have_taken_it_and_nothing_may_be_under_way() {
        let record = drain("d", endpoint("web", 1), Phase::Draining);
        let (none, taken) = (Arc::new(Drains::default()), Arc::new(drains(Phase::Draining)));
        let proved = |first: &Arc<Drains>, second: &Arc<Drains>, in_flight| {
            is_proved(&record, [Arc::clone(first), Arc::clone(second)], || in_flight, Moment(0))
        };
        assert!(!proved(&taken, &none, 0));
        assert!(!proved(&taken, &taken, 1));
        assert!(proved(&taken, &taken, 0));
        let cancelled = Arc::new(drains(Phase::Cancelled));
        assert!(!proved(&taken, &cancelled, 0));
    }

    #[test]
    fn a_receipt_is_sent_once_and_anew_for_a_new_drain() {
        let mut proved = Proved::default();
        let seen = drains(Phase::Draining);
        assert_eq!(proved.awaited(&seen).count(), 1);
        proved.remember(&DrainId("d".into()));
        assert_eq!(proved.awaited(&seen).count(), 0);
        proved.forget(&drains(Phase::Cancelled));
        assert_eq!(proved.awaited(&seen).count(), 1);
        assert_eq!(proved.awaited(&drains(Phase::Done)).count(), 0);
    }
}
