//! What one control knows of the other sites, for `status`, the list of orders and `apply --wait`.

use std::{collections::BTreeMap, sync::Arc};

use store::{
    model::{Moment, Name},
    orders::{OrderRecord, OrderTarget, Stamp},
};
use tokio::sync::watch;

use crate::api::{SiteNode, SiteShares, SiteState};

/// What is known of another site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenSite {
    /// What it told last.
    pub state: Option<SiteState>,
    /// When it answered last, by our clock.
    pub heard: Option<Moment>,
    /// Since when its generation has been older than ours; absent if it is not.
    pub behind: Option<Moment>,
    /// Its nodes, as it told them last.
    pub nodes: Arc<Vec<SiteNode>>,
    /// The shares of its clients that go elsewhere because its gateways are full; absent until it told them.
    pub shares: Option<Arc<SiteShares>>,
    /// The orders that it had when it told them last.
    pub orders: Arc<BTreeMap<OrderTarget, Stamps>>,
    /// Why the last call failed; absent if it succeeded.
    pub error: Option<String>,
    /// Why what it told was not taken; absent if it was.
    pub refused: Option<String>,
}

/// The highest orders of a record: of a person and of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps([Option<Stamp>; 2]);

impl Stamps {
    /// The stamps of a record.
    #[must_use]
    pub fn of(record: &OrderRecord) -> Self {
        Self([&record.human, &record.tool].map(|it| it.as_ref().map(|order| order.stamp.clone())))
    }

    /// True if nothing of another record is missing here.
    #[must_use]
    pub fn contain(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(ours, theirs)| ours >= theirs)
    }
}

/// What is known of all other sites. Clones are one.
#[derive(Clone, Debug)]
pub struct SeenSites(Arc<watch::Sender<BTreeMap<Name, SeenSite>>>);

impl Default for SeenSites {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }
}

impl SeenSites {
    /// Every other site that has been called, by name.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Name, SeenSite> {
        self.0.borrow().clone()
    }

    /// Notified whenever a site was asked.
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeMap<Name, SeenSite>> {
        self.0.subscribe()
    }

    /// Puts what is known of a site.
    #[cfg(test)]
    pub(super) fn set(&self, site: &Name, seen: SeenSite) {
        self.change(site, |it| *it = seen);
    }

    pub(super) fn change(&self, site: &Name, change: impl FnOnce(&mut SeenSite)) {
        self.0.send_modify(|sites| change(sites.entry(site.clone()).or_default()));
    }

    pub(super) fn retain(&self, keep: impl Fn(&Name) -> bool) {
        self.0.send_if_modified(|sites| {
            let before = sites.len();
            sites.retain(|site, _| keep(site));
            sites.len() != before
        });
    }
}
