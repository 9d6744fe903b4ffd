//! What one control knows of the other sites, for `status`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use store::model::{Moment, Name};

use crate::api::SiteState;

/// What is known of another site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenSite {
    /// What it told last.
    pub state: Option<SiteState>,
    /// When it answered last, by our clock.
    pub heard: Option<Moment>,
    /// Why the last call failed; absent if it succeeded.
    pub error: Option<String>,
    /// Why what it told was not taken; absent if it was.
    pub refused: Option<String>,
}

/// What is known of all other sites. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct SeenSites(Arc<Mutex<BTreeMap<Name, SeenSite>>>);

impl SeenSites {
    /// Every other site that has been called, by name.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Name, SeenSite> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change(&self, site: &Name, change: impl FnOnce(&mut SeenSite)) {
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(sites.entry(site.clone()).or_default());
    }

    pub(super) fn retain(&self, keep: impl Fn(&Name) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|site, _| keep(site));
    }
}
