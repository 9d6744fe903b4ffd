//! What a worker does not pick: the drains that keep an instance out now, by service.
//!
//! Most services have none, and a request asks this several times; so a question costs one look-up whatever the number
//! of drains.

use std::collections::HashMap;

use store::{
    drain::{Drains, Phase},
    engine::Endpoint,
    model::Moment,
};

/// The drains that hold, as they were at one moment.
#[derive(Debug, Default)]
pub(crate) struct Excluded {
    by_service: HashMap<String, Drains>,
    /// When one of them lets its instance in by itself.
    pub(crate) until: Option<Moment>,
}

impl Excluded {
    /// Those of these drains that hold now.
    pub(crate) fn by(drains: &Drains, now: Moment) -> Self {
        let mut excluded = Self::default();
        for (id, (index, drain)) in &drains.records {
            if !drains.holds(drain, now) {
                continue;
            }
            let of = excluded.by_service.entry(drain.service.clone()).or_default();
            of.records.insert(id.clone(), (*index, drain.clone()));
            if drains.witnessed.contains(id) {
                of.witnessed.insert(id.clone());
            }
            let ends = drain.lingers_until().filter(|_| drain.phase == Phase::Done);
            excluded.until = [excluded.until, ends].into_iter().flatten().min();
        }
        excluded
    }

    /// True when a drain keeps this instance from getting requests.
    pub(crate) fn contains(&self, endpoint: &Endpoint, now: Moment) -> bool {
        !self.by_service.is_empty()
            && self.by_service.get(&endpoint.service).is_some_and(|it| it.shutting(endpoint, now).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use store::{drain::Drain, engine::Index, model::Span};

    use super::*;
    use crate::testing::{drain, endpoint};

    #[test]
    fn drains_of_other_services_and_drains_that_hold_no_more_do_not_count() {
        let done = |id: &str, number: u16, linger: u64| {
            let linger = Some(Span(Duration::from_secs(linger)));
            Arc::new(Drain { linger, ..Drain::clone(&drain(id, endpoint("web", number), Phase::Done)) })
        };
        let records = [drain("a", endpoint("web", 1), Phase::Draining), done("b", 2, 60), done("c", 3, 20)];
        let records = records.into_iter().map(|it| (it.id.clone(), (Index(1), it)));
        let drains = Drains { records: records.collect(), ..Drains::default() };
        let excluded = Excluded::by(&drains, Moment(30_000));
        let contains = |service: &str, number| excluded.contains(&endpoint(service, number), Moment(30_000));
        assert!(contains("web", 1) && contains("web", 2));
        assert!(!contains("web", 3) && !contains("shop", 1));
        assert_eq!(excluded.until, Some(Moment(60_000)));
    }
}
