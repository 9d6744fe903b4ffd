//! What the next step of a drain is decided from: the receipts, what gateways have seen to end, and which gateways there
//! are.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    drain::{Gateway, Receipt, ending::Ended},
    engine::follower::{Follower, News, Reading, Watched},
    keys,
};

use super::super::{Shared, liveness::is_silent};

/// The longest wait for a receipt to be read.
const MAX_WAIT: Duration = Duration::from_secs(45);

/// What the next step of a drain is decided from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::control) struct Evidence {
    /// Every receipt there is.
    pub(in crate::control) receipts: Vec<Receipt>,
    /// Which drained instances were seen to end, and by which gateway.
    pub(in crate::control) endings: Vec<Ended>,
    /// Every gateway.
    pub(in crate::control) gateways: BTreeMap<String, Gateway>,
    /// The nodes were watched for long enough that every gateway is known.
    pub(in crate::control) settled: bool,
}

impl Evidence {
    /// For how long a gateway has been silent; `None` while it is alive or if it is not known.
    pub(in crate::control) fn silence_of(&self, gateway: &str) -> Option<Duration> {
        self.gateways.get(gateway).map(|it| it.silent).filter(|silent| is_silent(*silent))
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

fn update(shared: &Shared, change: impl FnOnce(&mut Evidence)) {
    shared.evidence.send_if_modified(|current| {
        let mut next = Evidence::clone(current);
        change(&mut next);
        let changed = next != **current;
        *current = Arc::new(next);
        changed
    });
}
