//! Discovery: the instances of the services in use, kept through every outage of the registry.
//!
//! Removal needs positive proof. What the registry says is judged by [`judge`], a pure function, before it is
//! believed: an answer may be *present*, *gone*, *unreachable* or *suspicious*, and only the first two change
//! what the gateway may pick.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Endpoint, Index, Indexed, Reading},
    model::Moment,
};

/// What is known of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where in the registry's history the endpoints were read.
    pub index: Index,
    /// The instances, also the critical ones; the last that were believed.
    pub endpoints: Vec<Endpoint>,
    /// How far they can be trusted.
    pub standing: Standing,
    /// When this standing began.
    pub since: Moment,
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
    /// The registry cannot be asked: the last endpoints stand.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The registry's answer is hard to believe: the last endpoints stand until it is confirmed.
    Suspicious {
        /// What is strange.
        reason: String,
        /// The answer in doubt, to compare the next with.
        index: Index,
        /// How many instances it had.
        count: usize,
    },
}

/// How long an answer in doubt must stand before it is believed, if the index went forwards.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(2);
/// The same after the index went backwards (a registry that was restarted or restored fills up again).
pub const SETTLE_AFTER: Duration = Duration::from_secs(60);

/// What [`judge`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The entry from now on.
    pub entry: Entry,
    /// Read the service again after this long, to confirm an answer in doubt.
    pub verify_after: Option<Duration>,
}

/// Judges a reading of a service against what is known of it.
#[must_use]
pub fn judge(previous: &Entry, reading: Reading, now: Moment) -> Judgement {
    match reading {
        Reading::Unreachable(reason) => {
            Judgement { entry: unreachable(previous, reason, now), verify_after: None }
        }
        Reading::Answered(answer) => match doubt(previous, &answer) {
            None => believe(answer, now),
            Some(doubt) => hold_or_believe(previous, answer, doubt, now),
        },
    }
}

fn unreachable(previous: &Entry, reason: String, now: Moment) -> Entry {
    let known = matches!(previous.standing, Standing::Unreachable { .. });
    let since = if known { previous.since } else { now };
    Entry { standing: Standing::Unreachable { reason }, since, ..previous.clone() }
}

fn believe(answer: Indexed<Vec<Endpoint>>, now: Moment) -> Judgement {
    let standing = if answer.value.is_empty() { Standing::Gone } else { Standing::Present };
    let entry = Entry { index: answer.index, endpoints: answer.value, standing, since: now };
    Judgement { entry, verify_after: None }
}

struct Doubt {
    reason: String,
    settle: Duration,
}

/// What is strange about an answer: fewer instances than a registry loses by honest means.
fn doubt(previous: &Entry, answer: &Indexed<Vec<Endpoint>>) -> Option<Doubt> {
    let (before, after) = (previous.endpoints.len(), answer.value.len());
    let backwards = answer.index < previous.index;
    if after >= before {
        return None;
    }
    if backwards {
        let reason = format!(
            "index went back from {} to {}, {before} instances to {after}",
            previous.index, answer.index
        );
        return Some(Doubt { reason, settle: SETTLE_AFTER });
    }
    let shrunk = after == 0 || (before >= 4 && after * 2 < before);
    shrunk.then(|| Doubt {
        reason: format!("{before} instances dropped to {after} at once"),
        settle: CONFIRM_AFTER,
    })
}

fn hold_or_believe(previous: &Entry, answer: Indexed<Vec<Endpoint>>, doubt: Doubt, now: Moment) -> Judgement {
    let stands_since = match &previous.standing {
        Standing::Suspicious { count, .. } if *count == answer.value.len() => previous.since,
        _ => now,
    };
    let stood = now.since(stands_since);
    if stands_since < now && stood >= doubt.settle {
        return believe(answer, now);
    }
    let standing =
        Standing::Suspicious { reason: doubt.reason, index: answer.index, count: answer.value.len() };
    let entry = Entry { standing, since: stands_since, ..previous.clone() };
    Judgement { entry, verify_after: Some(doubt.settle.saturating_sub(stood)) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::CheckStatus;

    fn endpoint(id: usize) -> Endpoint {
        Endpoint {
            node: "n1".into(),
            node_address: "127.0.0.1".into(),
            external: false,
            service: "web".into(),
            id: format!("web-{id}"),
            address: "127.0.0.1".into(),
            port: 80,
            tags: vec![],
            meta: [].into(),
            weight: 1,
            status: CheckStatus::Passing,
            maintenance: false,
            create_index: Index(1),
            modify_index: Index(1),
        }
    }

    fn answer(index: u64, count: usize) -> Reading {
        Reading::Answered(Indexed { index: Index(index), value: (0..count).map(endpoint).collect() })
    }

    fn present(index: u64, count: usize) -> Entry {
        judge(&Entry::default(), answer(index, count), Moment(0)).entry
    }

    #[test]
    fn honest_changes_are_believed_at_once() {
        for (before, after) in [(0, 3), (3, 5), (3, 2), (4, 2), (6, 3)] {
            let judged = judge(&present(5, before), answer(9, after), Moment(1));
            assert_eq!(judged.entry.endpoints.len(), after, "{before} -> {after}");
            assert_eq!(judged.verify_after, None);
        }
    }

    #[test]
    fn an_outage_keeps_the_endpoints_and_its_beginning() {
        let down = judge(&present(5, 3), Reading::Unreachable("refused".into()), Moment(7)).entry;
        assert_eq!(down.endpoints.len(), 3);
        let later = judge(&down, Reading::Unreachable("timeout".into()), Moment(9)).entry;
        assert_eq!(later.since, Moment(7));
        assert_eq!(judge(&later, answer(6, 3), Moment(10)).entry.standing, Standing::Present);
    }

    #[test]
    fn a_drop_to_zero_is_held_until_it_was_confirmed() {
        let held = judge(&present(5, 3), answer(9, 0), Moment(1_000));
        assert_eq!((held.entry.endpoints.len(), held.verify_after), (3, Some(CONFIRM_AFTER)));
        let early = judge(&held.entry, answer(9, 0), Moment(1_500));
        assert_eq!((early.entry.endpoints.len(), early.entry.since), (3, Moment(1_000)));
        let confirmed = judge(&early.entry, answer(9, 0), Moment(3_000));
        assert_eq!((confirmed.entry.endpoints.len(), confirmed.entry.standing), (0, Standing::Gone));
    }

    #[test]
    fn a_registry_that_lost_its_memory_is_not_believed_soon() {
        let held = judge(&present(500, 3), answer(9, 0), Moment(1_000)).entry;
        let still = judge(&held, answer(12, 0), Moment(31_000)).entry;
        assert_eq!(still.endpoints.len(), 3);
        let back = judge(&still, answer(15, 3), Moment(32_000)).entry;
        assert_eq!((back.standing, back.index), (Standing::Present, Index(15)));
        assert_eq!(judge(&still, answer(15, 0), Moment(61_000)).entry.standing, Standing::Gone);
    }

    #[test]
    fn a_service_that_was_never_there_is_gone_not_suspicious() {
        assert_eq!(judge(&Entry::default(), answer(9, 0), Moment(1)).entry.standing, Standing::Gone);
    }
}
