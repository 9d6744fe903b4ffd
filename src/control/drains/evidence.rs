//! What the next step of a drain is decided from: the receipts, what gateways have seen to end, and which gateways there
//! are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use store::{
    drain::{Drain, DrainId, Gateway, Receipt, Step, across::OtherSite, advance, ending::Ended},
    engine::follower::{Follower, News, Reading, Watched},
    keys,
    model::Name,
};

use super::super::{Shared, liveness::is_silent};

/// The longest wait for a receipt to be read.
const MAX_WAIT: Duration = Duration::from_secs(45);

/// What the next step of a drain is decided from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Evidence {
    /// Every receipt there is in our engine.
    pub(in crate::control) receipts: Vec<Receipt>,
    /// Which drained instances were seen to end, and by which gateway.
    pub(in crate::control) endings: Vec<Ended>,
    /// Every gateway of our engine.
    pub(in crate::control) gateways: BTreeMap<String, Gateway>,
    /// The nodes were watched for long enough that every gateway is known.
    pub(in crate::control) settled: bool,
    /// The other sites whose gateways may pick our instances; absent until that was looked up.
    pub(in crate::control) sites: Option<BTreeMap<Name, OtherSite>>,
}

impl Evidence {
    /// For how long a gateway has been silent; `None` while it is alive or if it is not known. One of another site is named
    /// `SITE/NODE`.
    pub(in crate::control) fn silence_of(&self, gateway: &str) -> Option<Duration> {
        let silent = match gateway.split_once('/') {
            None => self.gateways.get(gateway).map(|it| it.silent),
            Some((site, _)) => {
                let (name, site) = self.site(site)?;
                let mut gateways = BTreeMap::new();
                site.add_gateways(name, &mut gateways);
                gateways.get(gateway).map(|it| it.silent)
            }
        };
        silent.filter(|silent| is_silent(*silent))
    }

    /// Another site whose gateways may pick our instances.
    pub(super) fn site(&self, name: &str) -> Option<(&Name, &OtherSite)> {
        self.sites.iter().flatten().find(|(site, _)| site.as_str() == name)
    }

    /// The other sites that matter for a drain: none for one that another site leads.
    fn sites_of(&self, drain: &Drain) -> impl Iterator<Item = (&Name, &OtherSite)> {
        self.sites.iter().flatten().filter(|_| drain.is_led_here())
    }

    /// The next step of a drain.
    pub(super) fn step(&self, drain: &Drain) -> Step {
        let none = BTreeMap::new();
        let sites = self.sites.as_ref().filter(|_| drain.is_led_here()).unwrap_or(&none);
        advance(drain, &self.receipts, &self.gateways, sites)
    }

    /// True if every gateway is known that may pick the instance of a drain, so that "all of them" means something.
    pub(super) fn is_settled(&self, drain: &Drain) -> bool {
        self.settled
            && self.sites.is_some()
            && self.sites_of(drain).all(|(_, site)| site.is_settled_for(drain))
    }

    /// The receipts for a drain, those of all sites.
    pub(super) fn receipts_of(&self, drain: &Drain) -> Vec<Receipt> {
        let here = self.receipts.iter().filter(|it| it.drain == drain.id).cloned();
        let there = self.sites_of(drain).flat_map(|(name, site)| site.receipts(name, &drain.id));
        here.chain(there).collect()
    }

    /// What gateways saw end of a drain, those of all sites.
    pub(super) fn endings_of(&self, drain: &Drain) -> Vec<Ended> {
        let here = self.endings.iter().filter(|it| it.drain == drain.id).cloned();
        let there = self.sites_of(drain).flat_map(|(name, site)| site.endings(name, &drain.id));
        here.chain(there).collect()
    }

    /// The drains whose instances a gateway of any site saw end.
    pub(super) fn seen_to_end(&self) -> BTreeSet<&DrainId> {
        let there = self.sites.iter().flat_map(BTreeMap::values).filter_map(|it| it.told.as_deref());
        let there = there.flat_map(|it| &it.endings);
        self.endings.iter().chain(there).map(|it| &it.drain).collect()
    }

    /// The gateways that matter for a drain, those of all sites.
    pub(super) fn gateways_of(&self, drain: &Drain) -> BTreeMap<String, Gateway> {
        let mut gateways = self.gateways.clone();
        self.sites_of(drain).for_each(|(name, site)| site.add_gateways(name, &mut gateways));
        gateways
    }
}

/// Takes the gateways from the view of the nodes, for ever.
pub(in crate::control) async fn watch_nodes(shared: Arc<Shared>) {
    let mut nodes = shared.nodes.subscribe();
    loop {
        let (gateways, settled) = {
            let nodes = nodes.borrow_and_update();
            (nodes.gateways(), nodes.is_settled())
        };
        update(&shared, |evidence| (evidence.gateways, evidence.settled) = (gateways, settled));
        if nodes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Follows the receipts, and what gateways have seen to end, for ever.
pub(in crate::control) async fn watch_receipts(shared: Arc<Shared>) {
    let watched = Watched::Prefix(keys::RECEIPTS.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, MAX_WAIT)
        .reporting("reading the receipts of drains", "drains wait");
    loop {
        match follower.next().await {
            News::Read(Reading { read, .. }) => {
                let entries = read.value;
                let receipts =
                    entries.iter().filter_map(|it| serde_json::from_slice(&it.value).ok()).collect();
                let endings =
                    entries.iter().filter_map(|it| serde_json::from_slice(&it.value).ok()).collect();
                update(&shared, |evidence| (evidence.receipts, evidence.endings) = (receipts, endings));
            }
            News::Failed(_) => shared.metrics.engine_failures.increment(),
        }
    }
}

pub(super) fn update(shared: &Shared, change: impl FnOnce(&mut Evidence)) {
    shared.evidence.send_if_modified(|current| {
        let mut next = Evidence::clone(current);
        change(&mut next);
        let changed = next != **current;
        *current = Arc::new(next);
        changed
    });
}
