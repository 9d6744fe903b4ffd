//! The health of a registered service: its suspects, and how many of a site may be ejected.
//!
//! One lock per service, taken when a request failed there, and for answers only while there are suspects.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use store::model::{Moment, Name};

use super::{
    active::Dialled,
    suspects::{Ejection, Evidence, Judgement, Suspects, may_eject},
    vitals::{Condition, Dials},
};

/// Longer wishes of an instance to be left alone are not granted at once: it says so again.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// When instances of a service are ejected or down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// By what requests show.
    pub(crate) ejection: Ejection,
    /// By what dials show.
    pub(crate) dials: Dials,
}

/// An instance as a Service document has it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Instances with the same number here are at the same site, of which one stays.
    pub(crate) site: u16,
    /// The instance.
    pub(crate) instance: Weak<dyn Dialled>,
}

/// What gateways know of a registered service as a whole.
#[derive(Debug)]
pub(crate) struct ServiceHealth {
    /// True while there are suspects.
    suspected: AtomicBool,
    /// `fall` and `rise`.
    dials: AtomicU16,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    suspects: Suspects,
    /// The instances by the Service documents that lead to them; more than one share a registered service by tags.
    documents: BTreeMap<Name, (Ejection, Vec<Member>)>,
}

impl Default for ServiceHealth {
    fn default() -> Self {
        let Dials { fall, rise } = Dials::default();
        Self {
            suspected: AtomicBool::new(false),
            dials: AtomicU16::new(u16::from_be_bytes([fall, rise])),
            inner: Mutex::default(),
        }
    }
}

impl ServiceHealth {
    /// The instances that a document has now, and its rules.
    pub(crate) fn follow(&self, document: &Name, rules: Rules, members: Vec<Member>) {
        let dials = u16::from_be_bytes([rules.dials.fall, rules.dials.rise]);
        self.dials.store(dials, Ordering::Relaxed);
        let mut inner = self.lock();
        inner.documents.retain(|_, (_, members)| members.iter().any(|it| it.instance.strong_count() > 0));
        inner.documents.insert(document.clone(), (rules.ejection, members));
    }

    /// How many dials decide.
    pub(crate) fn dials(&self) -> Dials {
        let [fall, rise] = self.dials.load(Ordering::Relaxed).to_be_bytes();
        Dials { fall, rise }
    }

    /// True while there are suspects, so that answers are of interest.
    pub(crate) fn is_suspected(&self) -> bool {
        self.suspected.load(Ordering::Relaxed)
    }

    /// An instance answered a request well.
    pub(crate) fn answered(&self, instance: u64, target: u64, now: Moment) {
        if !self.is_suspected() {
            return;
        }
        let mut inner = self.lock();
        let rule = inner.rule();
        inner.suspects.answered(instance, target, &rule, now);
        self.suspected.store(!inner.suspects.is_empty(), Ordering::Relaxed);
    }

    /// A request failed at an instance. For how long it is ejected: if there is evidence against it and its site allows it,
    /// after failures in a row, and after one if the instance itself asks to be left alone for so long (`asks`).
    pub(crate) fn failed(
        &self,
        instance: &dyn Dialled,
        (target, evidence): (u64, Evidence),
        asks: Option<Duration>,
        now: Moment,
    ) -> Option<Duration> {
        let mut inner = self.lock();
        let number = instance.number();
        let rule = inner.rule_for(number);
        let judgement = inner.suspects.failed(number, target, evidence, &rule, now);
        self.suspected.store(!inner.suspects.is_empty(), Ordering::Relaxed);
        let asks = asks.map(|it| it.min(LONGEST_REST));
        let (rest, counts) = match judgement {
            Judgement::Open => return None,
            Judgement::Guilty => (asks?, false),
            Judgement::Eject(rest) => (rest.max(asks.unwrap_or_default()), true),
        };
        if instance.vitals().condition(now) != Condition::Fit || !inner.allows(number, now) {
            return None;
        }
        let until = now.after(rest);
        if counts {
            inner.suspects.ejected(number, until);
        }
        instance.vitals().eject(until);
        Some(rest)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn rule(&self) -> Ejection {
        self.documents.values().next().map(|(rule, _)| *rule).unwrap_or_default()
    }

    fn rule_for(&self, number: u64) -> Ejection {
        let of = |(_, members): &&(Ejection, Vec<Member>)| site_of(members, number).is_some();
        self.documents.values().find(of).map_or_else(|| self.rule(), |(rule, _)| *rule)
    }

    /// True if every document that has this instance may spare it.
    fn allows(&self, number: u64, now: Moment) -> bool {
        let mut known = false;
        let allowed = self.documents.values().all(|(rule, members)| {
            let Some(site) = site_of(members, number) else { return true };
            known = true;
            let (mut all, mut ejected) = (0, 0);
            for member in members.iter().filter(|it| it.site == site) {
                let Some(instance) = member.instance.upgrade() else { continue };
                match instance.vitals().condition(now) {
                    Condition::Down { .. } => {}
                    Condition::Fit => all += 1,
                    Condition::Ejected { .. } => (all, ejected) = (all + 1, ejected + 1),
                }
            }
            may_eject(rule, all, ejected)
        });
        allowed && known
    }
}

fn site_of(members: &[Member], number: u64) -> Option<u16> {
    let is = |it: &&Member| it.instance.upgrade().is_some_and(|it| it.number() == number);
    members.iter().find(is).map(|it| it.site)
}
