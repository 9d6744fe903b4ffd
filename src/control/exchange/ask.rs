//! One question to another site, and what follows from its answer.

use std::{sync::Arc, time::Duration};

use store::model::Name;

use super::copy::{self, NotTaken};
use crate::{
    api::{ExchangeAnswer, ExchangeQuery, SiteState, exchange::Version},
    control::Shared,
    sites::Peer,
};

/// The path of the question.
const PATH: &str = "/v1/sites/exchange";
/// The longest that a site may take for an answer, its wait for news included.
const DEADLINE: Duration = Duration::from_secs(3);
/// The largest answer: two thousand orders and a head.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Asks a site what has changed since `last`, and takes it; returns what the site has now.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    peer: &Peer,
    site: &Name,
    last: Option<SiteState>,
) -> Result<SiteState, String> {
    let query = ExchangeQuery { v: Version, last: last.clone() };
    let answer: ExchangeAnswer = match peer.call(PATH, &query, DEADLINE, MAX_ANSWER).await {
        Ok(answer) => answer,
        Err(error) => {
            let error = error.to_string();
            shared.sites.change(site, |seen| seen.error = Some(error.clone()));
            return Err(error);
        }
    };
    let (now, state) = (shared.handle.now(), answer.state.clone());
    shared.sites.change(site, |seen| {
        (seen.state, seen.heard, seen.error) = (Some(state.clone()), Some(now), None);
    });
    let taken = copy::take(shared, peer, site, answer).await.and(goes_on(last.as_ref(), &state));
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
