//! The exchange between sites: what a control tells the controls of other sites.
//!
//! Every control asks every other site what has changed ([`pull`]) and is asked by all of them. An answer is about what is
//! in the engine of the site, and a control that asks writes what it takes to the engine of its own site, so it does
//! not matter which of several controls of a site asks or answers. What is taken only ever grows: generations upwards,
//! orders by their stamps. So a message may be lost, repeated or late, and no leader is needed.
//!
//! ```text
//! engine of bj ◀── control of bj ── "what has changed since …?" ──▶ control of sh ──▶ engine of sh
//! ```

mod ask;
mod copy;
mod instances;
mod join;
pub(super) mod lost;
mod promote;
mod pull;
mod seen;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use store::{
    commit::{
        self,
        copy::{HeadCopy, ShardRef, read_shards_for_copy},
    },
    orders::Orders,
    snapshot::Snapshot,
};

pub use seen::{SeenSite, SeenSites};

use super::{ControlHandle, Refusal, Refused};
use crate::api::{ExchangeAnswer, ExchangeQuery, ShardsAnswer, ShardsQuery, SiteState, exchange::Version};

/// The longest that an answer without news waits. It shows that the site is there, so it is much shorter than that of
/// other long polls.
const WAIT: Duration = Duration::from_secs(1);
/// The longest that one call of the engine may take.
const ENGINE: Duration = Duration::from_secs(3);
/// The most octets of shards in one answer.
pub(super) const MAX_SHARDS: usize = 8 * 1024 * 1024;

/// What a node's documents and orders are.
fn state_of(snapshot: &Snapshot) -> SiteState {
    SiteState { generation: snapshot.generation, orders: snapshot.orders.digest.clone() }
}

impl ControlHandle {
    /// What has changed at this site since the state of the question. Waits for up to a second for news.
    ///
    /// # Errors
    /// Unavailable: the engine is away, or there is no configuration.
    pub async fn exchange(&self, query: ExchangeQuery) -> Result<ExchangeAnswer, Refused> {
        let mut snapshots = self.shared.handle.snapshots();
        let is_news = |snapshot: &Option<Arc<Snapshot>>| {
            snapshot.as_ref().is_some_and(|it| query.last.as_ref() != Some(&state_of(it)))
        };
        // An error means that the time is over, or that the node ends: the present state is the answer to both.
        let is_news = matches!(tokio::time::timeout(WAIT, snapshots.wait_for(is_news)).await, Ok(Ok(_)));
        let last = match query.last {
            Some(last) if !is_news => {
                return Ok(ExchangeAnswer { v: Version, state: last, head: None, orders: None });
            }
            last => last,
        };
        let (head, orders) = self.stored_state().await?;
        let state = SiteState { generation: head.generation(), orders: orders.digest() };
        let last = last.unwrap_or_default();
        Ok(ExchangeAnswer {
            v: Version,
            head: Some(head).filter(|head| head.generation() != last.generation),
            orders: (state.orders != last.orders).then(|| orders.records().cloned().collect()),
            state,
        })
    }

    async fn stored_state(&self) -> Result<(HeadCopy, Orders), Refused> {
        let engine = self.shared.engine.as_ref();
        let read = async {
            let head = commit::copy::read_head(engine).await?;
            Ok::<_, commit::ReadError>((head, commit::read_orders(engine).await?))
        };
        match tokio::time::timeout(ENGINE, read).await {
            Ok(Ok((Some(head), orders))) => Ok((head, orders)),
            Ok(Ok((None, _))) => Err(Refused::new(Refusal::Unavailable, "there is no configuration here")),
            Ok(Err(error)) => Err(Refused::new(Refusal::Unavailable, error.to_string())),
            Err(_) => Err(Refused::new(Refusal::Unavailable, "the engine does not answer")),
        }
    }

    /// Shards of this site's configuration.
    ///
    /// # Errors
    /// Wrong: too many are wanted at once. Unavailable: the engine is away.
    pub async fn shards(&self, query: ShardsQuery) -> Result<ShardsAnswer, Refused> {
        let size = query.wanted.iter().map(ShardRef::max_size).fold(0, usize::saturating_add);
        if size > MAX_SHARDS && query.wanted.len() > 1 {
            let text = format!("these shards may have {size} octets together; expected at most {MAX_SHARDS}");
            return Err(Refused::new(Refusal::Wrong, text));
        }
        let read = read_shards_for_copy(self.shared.engine.as_ref(), &query.wanted);
        match tokio::time::timeout(ENGINE, read).await {
            Ok(Ok(shards)) => Ok(ShardsAnswer { v: Version, shards }),
            Ok(Err(error)) => Err(Refused::new(Refusal::Unavailable, error.to_string())),
            Err(_) => Err(Refused::new(Refusal::Unavailable, "the engine does not answer")),
        }
    }

    /// The files of configurations that were replaced by one which does not contain them.
    #[must_use]
    pub fn lost(&self) -> Vec<String> {
        let files = self.shared.config.lost.as_deref().map(lost::list).unwrap_or_default();
        files.into_iter().map(|file| file.display().to_string()).collect()
    }

    /// What is known of the other sites.
    #[must_use]
    pub fn other_sites(&self) -> SeenSites {
        self.shared.sites.clone()
    }
}
