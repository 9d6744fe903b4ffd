//! Discovery: the instances of the services in use, kept through every outage of the registry.
//!
//! Removing an instance needs positive proof. Every answer of the registry is judged by [`judge`], a pure function,
//! before it takes effect. A removal without proof is a [`Doubt`]: the instance stays in use while it answers dials.
//!
//! An [`Entry`] holds the instances that may be used, so readers use its endpoints and need not consider doubts. An
//! instance that is critical together with all others, and answers, is listed there with the status it had before.
//!
//! The own registry's part of an entry is the entry itself. What other sites tell of their registries is beside it, one
//! part for each site ([`Entry::away`]), and each is judged by itself ([`judge_part`]).

mod doubt;
mod judge;
mod notes;
mod part;
mod replaced;

pub use self::{
    doubt::{Cause, Doubt, Fate, InstanceKey, Recent, Sight},
    judge::{
        BELIEVE_AFTER, CRITICAL_TOGETHER, Context, Judgement, TOGETHER, dialled, drained, judge, reassigned,
    },
    notes::{InstanceNote, notes, unused},
    part::judge_part,
    replaced::Mark,
};

use self::replaced::Replaced;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Endpoint, Index},
    model::{Moment, Name},
};

/// What is known about one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The registry's index at which the endpoints were read.
    pub index: Index,
    /// The instances, including critical ones, which are not used; those in doubt as they were before the doubt.
    pub endpoints: Vec<Endpoint>,
    /// How reliable the last answer of the registry is.
    pub standing: Standing,
    /// When this standing began.
    pub since: Moment,
    /// The instances whose removal is not proven.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<Doubt>,
    /// Instances dropped recently because of the registry's answer alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<Recent>,
    /// What other sites tell of the service in their registries, by site; their own `away` is empty. Kept apart on disk.
    #[serde(skip)]
    pub away: BTreeMap<Name, Arc<Self>>,
}

impl Entry {
    /// The instances of all parts. One that is registered in two registries counts once: that of the own registry, else of
    /// the first site by name.
    pub fn all(&self) -> impl Iterator<Item = &Endpoint> {
        let mut known = HashSet::new();
        let parts = !self.away.is_empty();
        let own = self.endpoints.iter().map(|it| (true, it));
        let away = self.away.values().flat_map(|part| part.endpoints.iter().map(|it| (false, it)));
        own.chain(away).filter_map(move |(own, endpoint)| {
            // Without other parts nothing is compared: one registry may list an address twice.
            let new = !parts || known.insert((endpoint.address.as_str(), endpoint.port));
            (own || new).then_some(endpoint)
        })
    }

    /// The instances in doubt of all parts.
    pub fn all_doubts(&self) -> impl Iterator<Item = &Doubt> {
        self.doubts.iter().chain(self.away.values().flat_map(|part| &part.doubts))
    }

    /// The same with another part for a site; without one, if there is nothing in it.
    #[must_use]
    pub fn with_part(&self, site: &Name, part: Option<Self>) -> Self {
        let mut entry = self.clone();
        match part {
            Some(part) => drop(entry.away.insert(site.clone(), Arc::new(part))),
            None => drop(entry.away.remove(site)),
        }
        entry
    }
}

/// The four values of a discovery answer, and the state before the first answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "standing")]
pub enum Standing {
    /// The registry has not answered yet.
    #[default]
    Unread,
    /// The registry has instances.
    Present,
    /// There are none, by a newer index.
    Gone,
    /// The registry does not answer, or its answer is invalid for some instances: they are kept without a time limit.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The registry's answer is suspicious: the instances in doubt are kept while they answer.
    Suspicious {
        /// What is suspicious.
        reason: String,
        /// The index of that answer, to compare the next one with.
        index: Index,
        /// How many instances there are now.
        count: usize,
    },
}

/// One service's entry, read without a lock.
#[derive(Debug)]
pub struct ServiceSlot {
    entry: ArcSwap<Entry>,
    service: Arc<str>,
    replaced: Arc<Replaced>,
}

impl ServiceSlot {
    /// The present entry.
    #[must_use]
    pub fn load(&self) -> Arc<Entry> {
        self.entry.load_full()
    }

    /// Replaces the entry.
    pub fn store(&self, entry: Entry) {
        self.entry.store(Arc::new(entry));
        self.replaced.note(&self.service);
    }
}

/// The entries of all services that were used, each in a slot of its own, so that the change of one instance replaces
/// one entry.
#[derive(Debug, Default)]
pub struct DiscoveryTable {
    slots: RwLock<HashMap<String, Arc<ServiceSlot>>>,
    replaced: Arc<Replaced>,
}

impl DiscoveryTable {
    /// The slot of a service; a new one is unread. Takes a lock, so callers keep the slot.
    #[must_use]
    pub fn slot(&self, service: &str) -> Arc<ServiceSlot> {
        let known = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(service).cloned();
        known.unwrap_or_else(|| {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            let slot = || {
                let (service, replaced) = (service.into(), Arc::clone(&self.replaced));
                Arc::new(ServiceSlot { entry: ArcSwap::default(), service, replaced })
            };
            Arc::clone(slots.entry(service.to_owned()).or_insert_with(slot))
        })
    }

    /// The services whose entries were replaced since a mark, which moves to now. `None` if all may have been. The entries are
    /// loaded after this, so that none is missed.
    pub fn replaced_since(&self, mark: &mut Mark) -> Option<BTreeSet<Arc<str>>> {
        self.replaced.since(mark)
    }

    /// The slot of a service that has one. Takes a lock.
    #[must_use]
    pub fn find(&self, service: &str) -> Option<Arc<ServiceSlot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }

    /// Removes the slot of a service unless it is still held elsewhere.
    pub fn forget(&self, service: &str) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock no new holder can appear.
        if slots.get(service).is_some_and(|slot| Arc::strong_count(slot) == 1) {
            slots.remove(service);
        }
    }

    /// The entries of all services that have a slot.
    #[must_use]
    pub fn entries(&self) -> Vec<(String, Arc<Entry>)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|(name, slot)| (name.clone(), slot.load())).collect()
    }

    /// The services that have a slot.
    #[must_use]
    pub fn services(&self) -> BTreeSet<String> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

/// A doubt for tests.
#[cfg(test)]
pub(crate) fn doubtful(id: usize, cause: Cause, since: Moment) -> Doubt {
    let endpoint = tests::endpoint(id);
    Doubt { endpoint, cause, since, index: Index(9), held: true, failures: 0, dialled: String::new() }
}

#[cfg(test)]
mod tests;
