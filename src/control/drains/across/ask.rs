//! Asks every other site what is new of drains: one task for each, so that a site which does not answer holds up no other.

use std::{sync::Arc, time::Duration};

use store::{
    drain::{
        Drain, DrainId,
        across::{DrainHead, MAX_COPIES},
    },
    engine::{Backoff, Retry},
    model::Name,
};
use tokio::{task::JoinSet, time::Instant};

use super::{ASK, MAX_RECORDS};
use crate::{
    api::{DrainsAnswer, DrainsQuery, exchange::Version},
    control::{Shared, each_site::each_site},
    sites::{Peer, Peers},
};

/// The shortest and the longest time between two calls of a site that does not answer.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// The longest that a site may take for an answer, its wait for news included.
const DEADLINE: Duration = Duration::from_secs(3);
/// The largest answer.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Asks all sites that the documents name, until this future is dropped.
pub(in crate::control) async fn follow_sites(shared: Arc<Shared>, peers: Peers) {
    let known = |sites: &[Name]| shared.across.retain(|site| sites.contains(site));
    let task = |site| follow(Arc::clone(&shared), peers.clone(), site);
    each_site(&shared.handle, &peers, JoinSet::new(), known, task).await;
}

/// Asks one site for ever.
async fn follow(shared: Arc<Shared>, peers: Peers, site: Name) {
    let [shortest, longest] = BACKOFF;
    let mut retry = Retry::new("asking another site about drains")
        .meanwhile("drains that need its receipts wait, unless they were ordered otherwise")
        .subject(site.to_string())
        .backoff(Backoff::new(shortest, longest));
    shared.across.change(&site, |heard| heard.at = Some(Instant::now()));
    let mut last = None;
    loop {
        let Some(peer) = peers.of(&site) else {
            // The documents no longer name it; this task is about to be ended.
            tokio::time::sleep(longest).await;
            continue;
        };
        match ask(&shared, &peer, &site, last.clone()).await {
            Ok(state) => {
                last = Some(state);
                retry.succeeded();
            }
            Err(error) => {
                shared.metrics.exchange_failures.increment();
                shared.across.change(&site, |heard| heard.failed(Instant::now()));
                retry.wait_after(&error).await;
            }
        }
    }
}

/// Asks one site once; the state of its answer.
pub(super) async fn ask(
    shared: &Shared,
    peer: &Peer,
    site: &Name,
    last: Option<String>,
) -> Result<String, String> {
    let query = DrainsQuery { v: Version, last, wanted: Vec::new() };
    let answer: DrainsAnswer =
        peer.call(ASK, &query, DEADLINE, MAX_ANSWER).await.map_err(|error| error.to_string())?;
    check(&answer).inspect_err(|_| shared.metrics.exchange_refused.increment())?;
    let DrainsAnswer { state, heads, progress, yours, .. } = answer;
    let heads = heads.map(Arc::new);
    let known = heads.clone().or_else(|| shared.across.heads(site));
    // What the site tells of our drains is known before its own are fetched.
    let (progress, told) = (Arc::new(progress), yours.map(Arc::new));
    shared.across.change(site, |heard| {
        heard.number += 1;
        (heard.silent, heard.at) = (Duration::ZERO, Some(Instant::now()));
        (heard.progress, heard.told, heard.copies) = (progress, told, Arc::default());
        if heads.is_some() {
            heard.heads = heads;
        }
    });
    let wanted = wanted(shared, known.as_deref().map(Vec::as_slice).unwrap_or_default());
    if wanted.is_empty() {
        return Ok(state);
    }
    let query = DrainsQuery { wanted, ..DrainsQuery::default() };
    let answer: DrainsAnswer =
        peer.call(ASK, &query, DEADLINE, MAX_ANSWER).await.map_err(|error| error.to_string())?;
    let copies = copies(site, &query.wanted, answer.records)
        .inspect_err(|_| shared.metrics.exchange_refused.increment())?;
    shared.across.change(site, |heard| {
        heard.number += 1;
        heard.copies = Arc::new(copies);
    });
    Ok(state)
}

/// Checks an answer whole before anything of it is taken.
fn check(answer: &DrainsAnswer) -> Result<(), String> {
    let count = answer.heads.as_ref().map_or(0, Vec::len).max(answer.progress.len());
    if count > MAX_COPIES {
        return Err(format!("{count} drains; expected at most {MAX_COPIES}"));
    }
    answer.yours.as_ref().map_or(Ok(()), |it| it.check())
}

/// Some of the drains of which our engine lacks the present record.
fn wanted(shared: &Shared, heads: &[DrainHead]) -> Vec<DrainId> {
    let drains = Arc::clone(&shared.handle.drains().borrow());
    let known = |id: &DrainId| drains.records.get(id).map(|(_, drain)| &**drain);
    let wanted = heads.iter().filter(|head| head.is_wanted(known(&head.id)));
    wanted.map(|head| head.id.clone()).take(MAX_RECORDS).collect()
}

/// The copies of the records that a site told; all are checked before any is taken.
fn copies(site: &Name, wanted: &[DrainId], records: Vec<Drain>) -> Result<Vec<Drain>, String> {
    if let Some(other) = records.iter().find(|it| !wanted.contains(&it.id)) {
        return Err(format!("{:.64?} was not wanted", other.id.0));
    }
    records.into_iter().map(|it| it.copied(site).map_err(|error| error.to_string())).collect()
}
