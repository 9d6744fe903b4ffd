//! One question to another site, and what follows from its answer.

use std::{sync::Arc, time::Duration};

use store::model::Name;

use super::{PATH, copy, nodes, not_taken::NotTaken};
use crate::{
    api::{ExchangeAnswer, ExchangeQuery, SiteState, exchange::Version},
    control::{Shared, Stamps},
    sites::Peer,
};

/// The longest that a site may take for an answer, its wait for news included.
const DEADLINE: Duration = Duration::from_secs(3);
/// The largest answer: two thousand orders, ten thousand nodes and a head.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Asks a site what has changed since `last`, and takes it; returns what the site has now.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    peer: &Peer,
    site: &Name,
    last: Option<SiteState>,
) -> Result<SiteState, String> {
    let query = ExchangeQuery { v: Version, last: last.clone(), above: None };
    let answer: ExchangeAnswer = match peer.call(PATH, &query, DEADLINE, MAX_ANSWER).await {
        Ok(answer) => answer,
        Err(error) => {
            let error = error.to_string();
            shared.sites.change(site, |seen| seen.error = Some(error.clone()));
            return Err(error);
        }
    };
    let (now, state) = (shared.handle.now(), answer.state.clone());
    let count = answer.nodes.iter().flatten().count().max(answer.shares.iter().flatten().count());
    if count > nodes::MAX {
        let error = format!("it tells of {count} nodes or clusters; expected at most {}", nodes::MAX);
        shared.metrics.exchange_refused.increment();
        shared.sites.change(site, |seen| (seen.heard, seen.refused) = (Some(now), Some(error.clone())));
        return Err(error);
    }
    let ours = shared.handle.snapshot().map(|it| it.generation);
    let told_orders = answer.orders.as_ref().map(|records| {
        let stamps = records.iter().map(|record| (record.target.clone(), Stamps::of(record)));
        Arc::new(stamps.collect())
    });
    shared.sites.change(site, |seen| {
        (seen.state, seen.heard, seen.error) = (Some(state.clone()), Some(now), None);
        let is_behind = ours.is_some_and(|ours| state.generation < ours);
        seen.behind = is_behind.then(|| seen.behind.unwrap_or(now));
        if let Some(nodes) = &answer.nodes {
            seen.nodes = Arc::new(nodes.clone());
        }
        if let Some(shares) = &answer.shares {
            seen.shares = Some(Arc::new(shares.clone()));
        }
        if let Some(orders) = told_orders {
            seen.orders = orders;
        }
    });
    let taken = copy::take(shared, peer, site, answer).await.and_then(|()| goes_on(last.as_ref(), &state));
    shared.sites.change(site, |seen| seen.refused = taken.as_ref().err().map(ToString::to_string));
    match taken {
        Ok(()) => Ok(state),
        Err(error @ NotTaken::Refused(_)) => {
            shared.metrics.exchange_refused.increment();
            Err(error.to_string())
        }
        Err(error @ NotTaken::Failed(_)) => Err(error.to_string()),
    }
}

/// The generations of a site only grow. One that is older than before comes from an engine that was set back, which has to
/// be seen; that site takes the newer one from the others.
fn goes_on(last: Option<&SiteState>, now: &SiteState) -> Result<(), NotTaken> {
    match last.map(|it| it.generation) {
        Some(before) if now.generation < before => Err(NotTaken::Refused(format!(
            "generation {} is older than {before}, which this site told before: its engine was set back",
            now.generation
        ))),
        _ => Ok(()),
    }
}
