//! The targets to dial, from one long poll per admin address. The last list of an address stays valid while the address
//! is unreachable, and a target is dialled as long as any address requests it.

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

/// Requests for immediate confirmation that may wait. More are not needed, because one dial answers them all.
pub(crate) const CONFIRMATIONS: usize = 1024;

/// The targets that each address requests.
#[derive(Clone, Debug)]
pub(crate) struct RequestedTargets(Vec<Option<Arc<Vec<Arc<WorkTarget>>>>>);

impl RequestedTargets {
    pub(crate) fn of(addresses: usize) -> Self {
        Self(vec![None; addresses])
    }

    /// The targets that any address requests.
    pub(crate) fn targets(&self) -> BTreeMap<&TargetKey, &Arc<WorkTarget>> {
        let all = self.0.iter().flatten().flat_map(|targets| targets.iter());
        all.map(|target| (&target.key, target)).collect()
    }
}

/// Where the work of one address goes.
#[derive(Debug)]
pub(crate) struct WorkSink {
    pub(crate) number: usize,
    pub(crate) requests: Arc<watch::Sender<RequestedTargets>>,
    pub(crate) confirmations: mpsc::Sender<TargetKey>,
}

/// Polls one address until the task is ended.
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
                // Requests from before the start of this process were for other vantages.
                let newest = work.confirm.iter().map(|it| it.number).max();
                for request in &work.confirm {
                    let new = confirmed.is_some_and(|seen| request.number > seen);
                    if new && request.by != vantage {
                        // When the queue is full, a dial that is waiting answers this request as well.
                        let _ = sink.confirmations.try_send(request.target.clone());
                    }
                }
                confirmed = confirmed.max(newest).or(Some(0));
                if index == 0 {
                    // Without an index the next poll would return at once.
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
    let Some(known) = requested.0.get_mut(number) else { return false };
    if known.as_deref() == Some(&targets) {
        return false;
    }
    // An unchanged target keeps its allocation, which the driver shares.
    let by_key: HashMap<_, _> = known.iter().flat_map(|it| it.iter()).map(|it| (&it.key, it)).collect();
    for target in &mut targets {
        if let Some(same) = by_key.get(&target.key).filter(|it| **it == target) {
            *target = Arc::clone(same);
        }
    }
    *known = Some(Arc::new(targets));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tcp_target;

    #[test]
    fn an_unchanged_target_is_held_once_and_an_equal_list_is_no_change() {
        let target = |n: usize, interval| Arc::new(tcp_target(&format!("10.0.0.{n}"), interval, "800ms"));
        let mut requested = RequestedTargets::of(1);
        let first = vec![target(1, "1s"), target(2, "1s")];
        assert!(replace(&mut requested, 0, first.clone()));
        assert!(!replace(&mut requested, 0, vec![target(1, "1s"), target(2, "1s")]));
        assert!(replace(&mut requested, 0, vec![target(2, "1s"), target(1, "2s")]));
        let now = requested.targets();
        assert_eq!(now.len(), 2);
        assert!(Arc::ptr_eq(now[&first[1].key], &first[1]));
        assert!(!replace(&mut requested, 7, Vec::new()), "an unknown address");
    }
}
