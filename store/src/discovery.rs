//! Discovery: the instances of the services in use, kept through every outage of the registry.
//!
//! Removal needs positive proof, for each instance. What the registry says is judged by [`judge`], a pure function,
//! before it is believed. What has no proof is a [`Doubt`]: the instance stays in use while it answers dials.
//!
//! An [`Entry`] holds what may be used: readers look at its endpoints and need not know of doubts. An instance that is
//! critical together with all others, and answers, stands there with the status it had before.

mod doubt;
mod judge;
mod notes;

pub use self::{
    doubt::{Cause, Doubt, Fate, InstanceKey, Recent, Sight},
    judge::{
        BELIEVE_AFTER, CRITICAL_TOGETHER, Context, Judgement, TOGETHER, dialled, drained, judge, reassigned,
    },
    notes::{InstanceNote, notes, unused},
};

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Endpoint, Index},
    model::Moment,
};

/// What is known of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where in the registry's history the endpoints were read.
    pub index: Index,
    /// The instances that may be used, also the critical ones that may not; those in doubt as they were last trusted.
    pub endpoints: Vec<Endpoint>,
    /// How far they can be trusted.
    pub standing: Standing,
    /// When this standing began.
    pub since: Moment,
    /// The instances whose removal is not proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<Doubt>,
    /// Instances dropped a moment ago on the registry's word alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<Recent>,
}

/// The four values of a discovery answer, and their absence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "standing")]
pub enum Standing {
    /// Never answered.
    #[default]
    Unread,
    /// The registry has instances.
    Present,
    /// A newer index says that there are none.
    Gone,
    /// The registry cannot be asked, or cannot be believed about some instances: they stay, without an end.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The registry's answer is hard to believe: the instances in doubt stay while they answer.
    Suspicious {
        /// What is strange.
        reason: String,
        /// The answer in doubt, to compare the next with.
        index: Index,
        /// How many instances there are now.
        count: usize,
    },
}

/// One service's entry, read without a lock.
#[derive(Debug, Default)]
pub struct ServiceSlot {
    entry: ArcSwap<Entry>,
}

impl ServiceSlot {
    /// What is known of the service.
    #[must_use]
    pub fn load(&self) -> Arc<Entry> {
        self.entry.load_full()
    }

    /// Replaces what is known of the service.
    pub fn store(&self, entry: Entry) {
        self.entry.store(Arc::new(entry));
    }
}

/// The entries of all services ever used, each in a slot of its own, so that one instance's change costs
/// one entry.
#[derive(Debug, Default)]
pub struct DiscoveryTable {
    slots: RwLock<HashMap<String, Arc<ServiceSlot>>>,
}

impl DiscoveryTable {
    /// The slot of a service, an unread one if it is new. Takes a lock: keep the slot.
    #[must_use]
    pub fn slot(&self, service: &str) -> Arc<ServiceSlot> {
        let known = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(service).cloned();
        known.unwrap_or_else(|| {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(service.to_owned()).or_default())
        })
    }

    /// The slot of a service that has one. Takes a lock.
    #[must_use]
    pub fn find(&self, service: &str) -> Option<Arc<ServiceSlot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }

    /// Removes the slot of a service unless somebody keeps it.
    pub fn forget(&self, service: &str) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock nobody can come to have it who does not have it.
        if slots.get(service).is_some_and(|slot| Arc::strong_count(slot) == 1) {
            slots.remove(service);
        }
    }

    /// What is known of every service that has a slot.
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
