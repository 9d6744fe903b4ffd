//! The instances that drains exclude from new requests, by service.
//!
//! Every request needs them several times and most services have none, so a query costs one look-up, however
//! many drains there are.

use std::collections::HashMap;

use store::{
    drain::{Drains, Phase},
    engine::Endpoint,
    model::Moment,
};

/// The drains in force at one moment.
#[derive(Debug, Default)]
pub(crate) struct Excluded {
    by_service: HashMap<String, Drains>,
    /// When the first of them ends by itself.
    pub(crate) until: Option<Moment>,
}

impl Excluded {
    /// From the drains that are in force now.
    pub(crate) fn by(drains: &Drains, now: Moment) -> Self {
        let mut excluded = Self::default();
        for (id, (index, drain)) in &drains.records {
            if !drains.excludes(drain, now) {
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

    /// True when no drain is in force.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_service.is_empty()
    }

    /// True when a drain excludes this instance from new requests.
    pub(crate) fn contains(&self, endpoint: &Endpoint, now: Moment) -> bool {
        !self.by_service.is_empty()
            && self.by_service.get(&endpoint.service).is_some_and(|it| it.excluding(endpoint, now).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use store::{drain::Drain, engine::Index, model::Span};

    use super::*;
    use crate::testing::{drain, endpoint};

    #[test]
    fn drains_of_other_services_and_drains_that_are_over_do_not_count() {
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
