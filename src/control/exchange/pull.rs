//! Asks every other site what has changed, and takes it.
//!
//! There is one task for each site that the documents name, so that a site which does not answer holds up no other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    commit::copy::read_head,
    engine::{Backoff, Retry},
    model::{Generation, Name},
    orders::{OrderTarget, Orders},
};
use tokio::task::JoinSet;

use super::{ENGINE, ask::ask, instances, join};
use crate::{
    api::SiteState,
    control::{ControlHandle, Shared, Stamps, drains, each_site::each_site},
    sites::{Peer, Peers},
};

/// The shortest and the longest time between two calls of a site that does not answer.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

impl ControlHandle {
    /// Takes part in the exchange between sites until this future is dropped. A site that is new asks the control that it
    /// `joins`.
    pub async fn follow_sites(self, peers: Peers, joins: Option<Peer>) {
        self.shared.bearers.connect(peers.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(adopt_verdicts(self.clone(), peers.clone()));
        tasks.spawn(instances::tell(Arc::clone(&self.shared), peers.clone()));
        tasks.spawn(instances::write(Arc::clone(&self.shared), peers.clone()));
        tasks.spawn(drains::follow_sites(Arc::clone(&self.shared), peers.clone()));
        if let Some(peer) = joins {
            tasks.spawn(join::follow(self.clone(), peer));
        }
        let shared = &self.shared;
        let known = |sites: &[Name]| shared.sites.retain(|site| sites.contains(site));
        let task = |site| follow(Arc::clone(shared), peers.clone(), site);
        each_site(&shared.handle, &peers, tasks, known, task).await;
    }
}

/// Asks one site for ever.
async fn follow(shared: Arc<Shared>, peers: Peers, site: Name) {
    let [shortest, longest] = BACKOFF;
    let mut retry = Retry::new("asking the control of another site")
        .meanwhile("what it told last stays")
        .subject(site.to_string())
        .backoff(Backoff::new(shortest, longest));
    let mut last: Option<SiteState> = None;
    let mut lacking = Lacking::default();
    loop {
        let Some(peer) = peers.of(&site) else {
            // The documents no longer name it; this task is about to be ended.
            tokio::time::sleep(longest).await;
            continue;
        };
        if let Some(last) = &mut last
            && lacking.look(&shared, &site, last)
        {
            last.orders = String::new();
        }
        match ask(&shared, &peer, &site, current(&shared, last.clone()).await).await {
            Ok(state) => {
                last = Some(state);
                retry.succeeded();
            }
            Err(error) => {
                shared.metrics.exchange_failures.increment();
                retry.wait_after(&error).await;
            }
        }
    }
}

/// Whether orders that a site has told are missing here: the engine was put back to a state before they were taken, and no node
/// had seen them.
#[derive(Debug, Default)]
struct Lacking {
    /// At how many questions in a row something was missing.
    questions: u32,
    /// The digests of their orders and ours for which they were asked for again. What is missing then is not taken: it
    /// ended long ago.
    asked: Option<(String, String)>,
}

impl Lacking {
    /// True if the orders of the site have to be asked for again. What was just taken is obeyed by the next question, so
    /// one question with something missing shows nothing.
    fn look(&mut self, shared: &Shared, site: &Name, last: &SiteState) -> bool {
        let theirs = shared.sites.all().remove(site).unwrap_or_default().orders;
        let ours = shared.handle.snapshot().map(|it| it.orders.clone()).unwrap_or_default();
        self.is_due(&theirs, &ours.all, (last.orders.clone(), ours.digest))
    }

    fn is_due(
        &mut self,
        theirs: &BTreeMap<OrderTarget, Stamps>,
        ours: &Orders,
        digests: (String, String),
    ) -> bool {
        let has = |target: &OrderTarget| ours.get(target).map(Stamps::of).unwrap_or_default();
        let lacks = theirs.iter().any(|(target, stamps)| !has(target).contain(stamps));
        if !lacks {
            *self = Self::default();
            return false;
        }
        self.questions += 1;
        let is_due = self.questions >= 2 && self.asked.as_ref() != Some(&digests);
        if is_due {
            (self.asked, self.questions) = (Some(digests), 0);
        }
        is_due
    }
}

/// What a site told last, as far as this site's engine still has it. An engine whose data were put back to an earlier state
/// has an older configuration, so it is asked for again.
async fn current(shared: &Shared, last: Option<SiteState>) -> Option<SiteState> {
    let last = last?;
    let head = tokio::time::timeout(ENGINE, read_head(shared.engine.as_ref())).await;
    let has = match head {
        Ok(Ok(head)) => head.map_or_else(Generation::default, |head| head.generation()),
        // An engine that is away has lost nothing yet.
        _ => last.generation,
    };
    let generation = if has < last.generation { Generation::default() } else { last.generation };
    Some(SiteState { generation, ..last })
}

/// Fetches the verdicts of the other sites whenever this control wants them.
async fn adopt_verdicts(control: ControlHandle, peers: Peers) {
    const PATH: &str = "/v1/sites/verdicts";
    const DEADLINE: Duration = Duration::from_secs(2);
    const MAX: usize = 64 * 1024 * 1024;
    const PAUSE: Duration = Duration::from_millis(500);
    loop {
        control.wants_verdicts().await;
        let mut calls = JoinSet::new();
        for peer in peers.all() {
            calls.spawn(async move { peer.get(PATH, DEADLINE, MAX).await.ok() });
        }
        let answers = calls.join_all().await.into_iter().flatten().collect();
        if let Some(site) = control.adopt(answers) {
            tracing::info!(%site, "adopting the verdicts of the site that has heard most");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use store::{
        model::{Authority, Moment, SiteTag},
        orders::{Order, OrderContent, OrderKind, OrderRecord},
    };

    use super::*;

    #[test]
    fn orders_that_are_missing_here_are_asked_for_again_once() {
        let target = OrderTarget::Override("work".parse().unwrap());
        let content = OrderContent {
            kind: OrderKind::Released,
            by: "t".into(),
            authority: Authority::Tool,
            at: Moment(1),
            under: Generation::default(),
            applied: false,
        };
        let mut record = OrderRecord::empty(target.clone());
        record.take(Order::new(&target, 1, SiteTag::NONE, content));
        let theirs = [(target, Stamps::of(&record))].into();
        let mut ours = Orders::default();
        let digests = |ours: &Orders| ("theirs".to_owned(), ours.digest());
        let mut lacking = Lacking::default();
        let mut look = |ours: &Orders| lacking.is_due(&theirs, ours, digests(ours));
        assert_eq!([look(&ours), look(&ours), look(&ours), look(&ours)], [false, true, false, false]);
        ours.put(record, store::engine::Index::default());
        assert_eq!([look(&ours), look(&ours)], [false, false]);
        let empty = Orders::default();
        assert_eq!([look(&empty), look(&empty)], [false, true], "the engine was put back once more");
    }
}
