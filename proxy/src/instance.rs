//! Instances as all workers share them, with the number of requests in flight to each.
//!
//! Balancing compares this number and a receipt proves that it is zero, so there is one per instance for the whole
//! gateway. It rises when an instance is picked and falls when its connection is idle again or closed.

use std::{
    collections::HashMap,
    hash::{Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use rustc_hash::FxHasher;
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

    /// Its place in lists.
    fn listed(&self) -> (&str, &str, u64) {
        (&self.endpoint.service, &self.endpoint.id, self.number)
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
///
/// The services are in parts with a lock each, so that a worker that makes a view waits at most for those who go through one
/// part. With a hundred thousand instances that is a hundredth of the time that it takes to go through all.
#[derive(Debug)]
pub(crate) struct Instances {
    known: [Mutex<Known>; PARTS],
    /// Counts the changes of their health.
    pub(crate) changes: Changes,
    numbers: AtomicU64,
    metrics: Arc<Metrics>,
    watched: AtomicBool,
    settled: Notify,
}

/// How many parts there are.
const PARTS: usize = 128;

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

impl Default for Instances {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Instances {
    /// No instances yet; requests in flight are counted in `metrics`.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            known: std::array::from_fn(|_| Mutex::default()),
            changes: Changes::default(),
            numbers: AtomicU64::new(0),
            metrics,
            watched: AtomicBool::new(false),
            settled: Notify::new(),
        }
    }

    /// The part that has a service.
    fn part(&self, service: &str) -> MutexGuard<'_, Known> {
        let mut hasher = FxHasher::default();
        service.hash(&mut hasher);
        // The upper bits of this hash are the better ones.
        let at = (hasher.finish() >> 57) as usize % PARTS;
        self.known[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance of an endpoint; the same for every worker as long as one of them holds it.
    pub(crate) fn get(&self, endpoint: &Endpoint) -> Arc<Instance> {
        let mut known = self.part(&endpoint.service);
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
        let mut all = Vec::new();
        self.for_each(|it| all.push(Arc::clone(it)));
        all.sort_by(|a, b| a.listed().cmp(&b.listed()));
        all
    }

    /// Calls `each` for every instance that is in use, in no order.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<Instance>)) {
        for part in &self.known {
            // Gathered first: dropping the last holder of an instance under the lock would be a surprise.
            let known = part.lock().unwrap_or_else(PoisonError::into_inner);
            let all: Vec<_> = known.instances.values().filter_map(Weak::upgrade).collect();
            drop(known);
            all.iter().for_each(&mut each);
        }
    }

    /// Calls `each` for every instance of a service that is in use, in no order.
    fn for_each_of(&self, service: &str, mut each: impl FnMut(&Arc<Instance>)) {
        let known = self.part(service);
        let of = known.instances.iter().filter(|(key, _)| key.service == service);
        let all: Vec<_> = of.filter_map(|(_, instance)| instance.upgrade()).collect();
        drop(known);
        all.iter().for_each(&mut each);
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

    /// The instances that a drain excludes, by id and by address: they are of its service.
    fn excluded_by(&self, drain: &Arc<Drain>, now: Moment) -> Vec<Arc<Instance>> {
        let mut alone = Drains::default();
        alone.records.insert(drain.id.clone(), (alone.index, Arc::clone(drain)));
        let mut excluded = Vec::new();
        self.for_each_of(&drain.service, |it| {
            if alone.excluding(&it.endpoint, now).is_some() {
                excluded.push(Arc::clone(it));
            }
        });
        excluded
    }

    /// Requests in flight to the instances that a drain excludes.
    pub(crate) fn in_flight_for(&self, drain: &Arc<Drain>, now: Moment) -> usize {
        self.excluded_by(drain, now).iter().map(|it| it.in_flight()).sum()
    }

    /// Cuts the requests in flight to the instances that a drain excludes.
    pub(crate) fn cut_for(&self, drain: &Arc<Drain>, now: Moment) {
        self.excluded_by(drain, now).iter().for_each(|it| it.cut(now));
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
        let known: usize = instances.known.iter().map(|it| it.lock().unwrap().instances.len()).sum();
        assert!(known < 1_000);
        assert!(instances.all().is_empty());
    }
}
