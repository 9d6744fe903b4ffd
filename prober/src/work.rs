//! What to dial, as each address says: one long poll each. What an address said last stands while it is away, and
//! a target is dialled as long as any address asks for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use store::{
    engine::Retry,
    health::{TargetKey, WorkTarget},
    model::Name,
};
use tokio::sync::{mpsc, watch};

use crate::api::Admin;

/// Confirm-now requests that may wait; more are not needed, because a dial answers them all.
pub(crate) const CONFIRMATIONS: usize = 1024;

/// What each address asks for.
#[derive(Clone, Debug)]
pub(crate) struct RequestedTargets(Vec<Option<Arc<Vec<Arc<WorkTarget>>>>>);

impl RequestedTargets {
    pub(crate) fn of(addresses: usize) -> Self {
        Self(vec![None; addresses])
    }

    /// Everything that any address asks for.
    pub(crate) fn targets(&self) -> BTreeMap<&TargetKey, &Arc<WorkTarget>> {
        let all = self.0.iter().flatten().flat_map(|targets| targets.iter());
        all.map(|target| (&target.key, target)).collect()
    }
}

/// Where an address's work goes.
#[derive(Debug)]
pub(crate) struct WorkSink {
    pub(crate) number: usize,
    pub(crate) requests: Arc<watch::Sender<RequestedTargets>>,
    pub(crate) confirmations: mpsc::Sender<TargetKey>,
}

/// Polls one address for ever.
pub(crate) async fn follow(api: Arc<dyn Admin>, vantage: Name, sink: WorkSink) {
    let mut index = 0;
    let mut confirmed = None;
    let mut retry =
        Retry::new("asking for work").meanwhile("the last targets are dialled").subject(api.base());
    loop {
        match api.work(index).await {
            Ok(work) => {
                retry.succeeded();
                index = work.index;
                if let Some(targets) = work.targets {
                    sink.requests.send_if_modified(|requested| replace(requested, sink.number, targets));
                }
                // Requests from before our start were for somebody else.
                let newest = work.confirm.iter().map(|it| it.number).max();
                for request in &work.confirm {
                    let new = confirmed.is_some_and(|seen| request.number > seen);
                    if new && request.by != vantage {
                        // Full: a dial that is waiting answers this one as well.
                        let _ = sink.confirmations.try_send(request.target.clone());
                    }
                }
                confirmed = confirmed.max(newest).or(Some(0));
                if index == 0 {
                    // Nothing to wait on: not an answer to ask for in a circle.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Err(failed) => {
                index = 0;
                retry.wait_after(&failed).await;
            }
        }
    }
}

fn replace(requested: &mut RequestedTargets, number: usize, mut targets: Vec<Arc<WorkTarget>>) -> bool {
    let Some(place) = requested.0.get_mut(number) else { return false };
    if place.as_deref() == Some(&targets) {
        return false;
    }
    // What stays is held once, by the list and by whoever took it from the list before.
    let known: HashMap<_, _> = place.iter().flat_map(|it| it.iter()).map(|it| (&it.key, it)).collect();
    for target in &mut targets {
        if let Some(same) = known.get(&target.key).filter(|it| **it == target) {
            *target = Arc::clone(same);
        }
    }
    *place = Some(Arc::new(targets));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tcp_target;

    #[test]
    fn what_stays_is_held_once_and_the_same_again_is_no_news() {
        let target = |n: usize, interval| Arc::new(tcp_target(&format!("10.0.0.{n}"), interval, "800ms"));
        let mut requested = RequestedTargets::of(1);
        let first = vec![target(1, "1s"), target(2, "1s")];
        assert!(replace(&mut requested, 0, first.clone()));
        assert!(!replace(&mut requested, 0, vec![target(1, "1s"), target(2, "1s")]));
        assert!(replace(&mut requested, 0, vec![target(2, "1s"), target(1, "2s")]));
        let now = requested.targets();
        assert_eq!(now.len(), 2);
        assert!(Arc::ptr_eq(now[&first[1].key], &first[1]));
        assert!(!replace(&mut requested, 7, Vec::new()), "nobody's place");
    }
}
