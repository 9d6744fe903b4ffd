//! Instances as all workers share them, with the number of requests in flight to each.
//!
//! Balancing compares this number and a receipt proves that it is zero, so there is one per instance for the whole
//! gateway. It rises when an instance is picked and falls when its connection is idle again or closed.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use store::{
    drain::{Drain, Drains},
    engine::Endpoint,
    model::Moment,
};
use tokio::sync::Notify;

use crate::{
    health::{Changes, ServiceHealth, Vitals, active::Dialled},
    metrics::Metrics,
};

/// One instance of a service: a registration at an address.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Never reused for another instance.
    pub(crate) number: u64,
    /// Its registration. The health in it may be older than that in discovery.
    pub(crate) endpoint: Endpoint,
    in_flight: AtomicUsize,
    /// What this gateway has seen of its health.
    pub(crate) vitals: Vitals,
    /// What it has seen of its service's.
    pub(crate) service: Arc<ServiceHealth>,
    /// Requests that began before this moment are cut: milliseconds, as in [`Moment`].
    cut_before: AtomicU64,
}

impl Instance {
    /// Its site; empty for the gateway's own.
    pub(crate) fn site(&self) -> &str {
        self.endpoint.meta.get("site").map_or("", String::as_str)
    }

    /// Cuts the requests in flight that began before this moment.
    pub(crate) fn cut(&self, before: Moment) {
        self.cut_before.fetch_max(before.0, Ordering::Relaxed);
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }
}

impl Dialled for Instance {
    fn number(&self) -> u64 {
        self.number
    }

    fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    fn place(&self) -> (&str, u16) {
        (&self.endpoint.address, self.endpoint.port)
    }

    fn called(&self) -> (&str, &str) {
        (&self.endpoint.service, &self.endpoint.id)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    service: String,
    node: String,
    id: String,
    address: String,
    port: u16,
}

impl Key {
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            service: endpoint.service.clone(),
            node: endpoint.node.clone(),
            id: endpoint.id.clone(),
            address: endpoint.address.clone(),
            port: endpoint.port,
        }
    }
}

/// Every instance that is in use.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    known: Mutex<Known>,
    /// Counts the changes of their health.
    pub(crate) changes: Changes,
    numbers: AtomicU64,
    metrics: Arc<Metrics>,
    watched: AtomicBool,
    settled: Notify,
}

#[derive(Debug, Default)]
struct Known {
    instances: HashMap<Key, Weak<Instance>>,
    services: HashMap<String, Weak<ServiceHealth>>,
}

impl Known {
    fn service(&mut self, name: &str) -> Arc<ServiceHealth> {
        if let Some(service) = self.services.get(name).and_then(Weak::upgrade) {
            return service;
        }
        if self.services.len() >= 64 && self.services.len() == self.services.capacity() {
            self.services.retain(|_, service| service.strong_count() > 0);
        }
        let service = Arc::<ServiceHealth>::default();
        self.services.insert(name.to_owned(), Arc::downgrade(&service));
        service
    }
}

impl Instances {
    /// No instances yet; requests in flight are counted in `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// The instance of an endpoint; the same for every worker as long as one of them holds it.
    pub(crate) fn get(&self, endpoint: &Endpoint) -> Arc<Instance> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Key::of(endpoint);
        if let Some(instance) = known.instances.get(&key).and_then(Weak::upgrade) {
            return instance;
        }
        if known.instances.len() >= 64 && known.instances.len() == known.instances.capacity() {
            known.instances.retain(|_, instance| instance.strong_count() > 0);
        }
        let instance = Arc::new(Instance {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            endpoint: endpoint.clone(),
            in_flight: AtomicUsize::new(0),
            vitals: Vitals::new(self.changes.clone()),
            service: known.service(&endpoint.service),
            cut_before: AtomicU64::new(0),
        });
        known.instances.insert(key, Arc::downgrade(&instance));
        instance
    }

    /// Every instance that is in use, in the order of service and id.
    pub(crate) fn all(&self) -> Vec<Arc<Instance>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known.instances.values().filter_map(Weak::upgrade).collect();
        drop(known);
        all.sort_by_key(|it| (it.endpoint.service.clone(), it.endpoint.id.clone(), it.number));
        all
    }

    /// Calls `each` for every instance that is in use, in no order.
    pub(crate) fn for_each(&self, each: impl FnMut(&Arc<Instance>)) {
        // Gathered first: dropping the last holder of an instance under the lock would be a surprise.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = known.instances.values().filter_map(Weak::upgrade).collect();
        drop(known);
        all.iter().for_each(each);
    }

    /// Counts a request in.
    pub(crate) fn begin(self: &Arc<Self>, instance: &Arc<Instance>, now: Moment) -> InFlight {
        instance.in_flight.fetch_add(1, Ordering::AcqRel);
        self.metrics.in_flight.increment();
        InFlight { instance: Arc::clone(instance), began: now, all: Arc::clone(self) }
    }

    /// Requests in flight to all instances.
    pub(crate) fn in_flight(&self) -> u64 {
        self.metrics.in_flight.get()
    }

    /// The instances that a drain excludes, by id and by address.
    fn excluded_by(&self, drain: &Arc<Drain>, now: Moment) -> impl Iterator<Item = Arc<Instance>> {
        let mut alone = Drains::default();
        alone.records.insert(drain.id.clone(), (alone.index, Arc::clone(drain)));
        self.all().into_iter().filter(move |it| alone.excluding(&it.endpoint, now).is_some())
    }

    /// Requests in flight to the instances that a drain excludes.
    pub(crate) fn in_flight_for(&self, drain: &Arc<Drain>, now: Moment) -> usize {
        self.excluded_by(drain, now).map(|it| it.in_flight()).sum()
    }

    /// Cuts the requests in flight to the instances that a drain excludes.
    pub(crate) fn cut_for(&self, drain: &Arc<Drain>, now: Moment) {
        self.excluded_by(drain, now).for_each(|it| it.cut(now));
    }

    /// Whether [`Instances::settled`] is wanted.
    pub(crate) fn watch(&self, wanted: bool) {
        self.watched.store(wanted, Ordering::SeqCst);
    }

    /// Completes when, while watched, an instance's last request in flight has ended.
    pub(crate) async fn settled(&self) {
        self.settled.notified().await;
    }
}

/// A request in flight; dropping this value counts it out.
#[derive(Debug)]
pub(crate) struct InFlight {
    instance: Arc<Instance>,
    began: Moment,
    all: Arc<Instances>,
}

impl InFlight {
    /// True when it is to be cut, because a drain of the instance has waited long enough.
    pub(crate) fn is_cut(&self) -> bool {
        self.began.0 < self.instance.cut_before.load(Ordering::Relaxed)
    }

    /// The instance it goes to.
    pub(crate) const fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.all.metrics.in_flight.decrement();
        let last = self.instance.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.all.watched.load(Ordering::SeqCst) {
            self.all.settled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{drain, endpoint};
    use store::drain::Phase;

    #[test]
    fn workers_share_one_count() {
        let instances = Arc::new(Instances::default());
        let (one, two) = (instances.get(&endpoint("web", 1)), instances.get(&endpoint("web", 1)));
        let flights = [instances.begin(&one, Moment(0)), instances.begin(&two, Moment(0))];
        assert_eq!((one.in_flight(), instances.in_flight()), (2, 2));
        drop(flights);
        assert_eq!((two.in_flight(), instances.in_flight()), (0, 0));
    }

    #[test]
    fn a_drain_counts_every_registration_at_its_address() {
        let instances = Arc::new(Instances::default());
        let record = drain("d", endpoint("web", 1), Phase::Draining);
        let again = Endpoint { id: "another".into(), ..endpoint("web", 1) };
        let moved = Endpoint { port: 9, ..endpoint("web", 1) };
        let _held: Vec<_> = [again, moved, endpoint("web", 2), endpoint("shop", 1)]
            .iter()
            .map(|endpoint| instances.begin(&instances.get(endpoint), Moment(0)))
            .collect();
        assert_eq!(instances.in_flight_for(&record, Moment(0)), 2);
    }

    #[test]
    fn instances_that_are_not_in_use_are_forgotten() {
        let instances = Instances::default();
        for number in 0..10_000 {
            drop(instances.get(&endpoint("web", number)));
        }
        assert!(instances.known.lock().unwrap().instances.len() < 1_000);
        assert!(instances.all().is_empty());
    }
}
