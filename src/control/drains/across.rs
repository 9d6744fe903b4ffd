//! Drains across sites, as a control sees them: what other sites tell of drains, and which of them may pick our instances.
//!
//! Every control asks every other site by a long poll ([`ask`]) and is asked by all of them ([`answer`]). One answer has both
//! directions in it: the drains that the other site leads, which are copied to our engine ([`copy`]), and its copies of
//! ours with the receipts of its gateways, which are evidence for the next step of our drains. All controls of a
//! site know the evidence; only the holder of the lock of drains writes copies.

mod answer;
mod ask;
mod copy;
mod pass_on;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    drain::{
        Drain, DrainId,
        across::{DrainHead, OtherSite, Told},
    },
    model::{Name, Reach},
    snapshot::Snapshot,
};
use tokio::{sync::watch, time::Instant};

pub(in crate::control) use ask::follow_sites;
pub(in crate::control) use copy::copy_all;
pub use pass_on::Cancelled;

use super::super::Shared;
use crate::api::Progress;

/// The paths of questions and of orders that are passed on.
const ASK: &str = "/v1/sites/drains";
const PASS_ON: &str = "/v1/sites/drains/orders";
/// A longer time between two attempts is not counted as silence: this process was frozen.
const MAX_GAP: Duration = Duration::from_secs(10);
/// The most records in one answer.
const MAX_RECORDS: usize = 64;

/// What was heard of one site.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// Grows with every answer.
    number: u64,
    /// How long the site has not answered.
    silent: Duration,
    /// When the last attempt ended.
    at: Option<Instant>,
    /// The drains that it leads; absent before its first answer.
    heads: Option<Arc<Vec<DrainHead>>>,
    /// Records of them that our engine lacks, as copies.
    copies: Arc<Vec<Drain>>,
    /// How far they are.
    progress: Arc<BTreeMap<DrainId, Progress>>,
    /// What it tells of ours.
    told: Option<Arc<Told>>,
}

impl Heard {
    /// The attempt that ends now gave no answer.
    fn failed(&mut self, now: Instant) {
        let gap = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if gap <= MAX_GAP {
            self.silent += gap;
        }
        self.at = Some(now);
    }
}

/// What was heard of all other sites. Clones are one.
#[derive(Clone, Debug)]
pub(in crate::control) struct Across {
    heard: Arc<watch::Sender<BTreeMap<Name, Heard>>>,
}

impl Across {
    pub(in crate::control) fn new() -> Self {
        Self { heard: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }

    fn change(&self, site: &Name, change: impl FnOnce(&mut Heard)) {
        self.heard.send_modify(|all| change(all.entry(site.clone()).or_default()));
    }

    fn retain(&self, keep: impl Fn(&Name) -> bool) {
        self.heard.send_if_modified(|all| {
            let before = all.len();
            all.retain(|site, _| keep(site));
            all.len() != before
        });
    }

    /// The drains that a site leads, as it told last.
    fn heads(&self, site: &Name) -> Option<Arc<Vec<DrainHead>>> {
        self.heard.borrow().get(site)?.heads.clone()
    }

    /// How far a drain is that another site leads, as that site told last.
    pub(super) fn progress(&self, drain: &Drain) -> Option<Progress> {
        let heard = self.heard.borrow();
        heard.get(drain.site.as_ref()?)?.progress.get(&drain.id).cloned()
    }

    /// How long the site that leads a drain has not answered.
    pub(super) fn silence(&self, drain: &Drain) -> Option<Duration> {
        Some(self.heard.borrow().get(drain.site.as_ref()?)?.silent)
    }
}

/// The sites whose gateways may connect to instances of `own`: those with a control whose documents say `direct`, here or
/// there. Gateways that forward to ours instead need no record, because ours choose the instance.
fn picking(
    snapshot: Option<&Snapshot>,
    own: &Name,
    heard: &BTreeMap<Name, Heard>,
) -> BTreeMap<Name, OtherSite> {
    let sites = snapshot.map(|it| &*it.sites).unwrap_or_default();
    // Sites hear of our instances from our control alone.
    if !sites.iter().any(|it| it.name == *own && it.control.is_some()) {
        return BTreeMap::new();
    }
    let others = sites.iter().filter(|it| it.name != *own && it.control.is_some());
    let known = others.map(|site| {
        let heard = heard.get(&site.name);
        let told = heard.and_then(|it| it.told.clone());
        let direct = site.reach_to(own) == Reach::Direct || told.as_ref().is_some_and(|it| it.direct);
        let silent = heard.map(|it| it.silent).unwrap_or_default();
        (site.name.clone(), direct, OtherSite { silent, told })
    });
    known.filter(|(_, direct, _)| *direct).map(|(name, _, site)| (name, site)).collect()
}

/// Keeps in the evidence what other sites tell, for ever.
pub(in crate::control) async fn watch_sites(shared: Arc<Shared>) {
    let mut heard = shared.across.heard.subscribe();
    let mut snapshots = shared.handle.snapshots();
    loop {
        let sites = {
            let heard = heard.borrow_and_update();
            let snapshot = snapshots.borrow_and_update();
            picking(snapshot.as_deref(), &shared.config.site, &heard)
        };
        super::evidence::update(&shared, |evidence| evidence.sites = Some(sites));
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            changed = heard.changed() => if changed.is_err() { return std::future::pending().await },
            changed = snapshots.changed() => if changed.is_err() { return std::future::pending().await },
        }
    }
}

#[cfg(test)]
mod tests;
