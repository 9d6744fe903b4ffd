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

mod above;
mod ask;
mod copy;
mod instances;
mod join;
pub(super) mod lost;
mod nodes;
mod not_taken;
mod promote;
mod pull;
#[cfg(test)]
mod tests;

use std::time::Duration;

use store::{
    commit::{
        self,
        copy::{HeadCopy, ShardRef, read_shards_for_copy},
    },
    model::Name,
    orders::Orders,
    snapshot::Snapshot,
};

use tokio::time::Instant;

use super::{ControlHandle, Refusal, Refused, SeenSites};
use crate::api::{
    ExchangeAnswer, ExchangeQuery, ShardsAnswer, ShardsQuery, SiteNode, SiteShares, SiteState,
    exchange::Version,
};
pub(super) use above::Founded;
pub(super) use nodes::of as nodes_of;

/// The path of the question what has changed.
const PATH: &str = "/v1/sites/exchange";
/// The longest that an answer without news waits. It shows that the site is there, so it is much shorter than that of
/// other long polls.
const WAIT: Duration = Duration::from_secs(1);
/// The longest that one call of the engine may take.
const ENGINE: Duration = Duration::from_secs(3);
/// The most octets of shards in one answer.
pub(super) const MAX_SHARDS: usize = 8 * 1024 * 1024;

/// What a node's documents and orders are, and the nodes of its site with the shares of its clients that go elsewhere.
fn state_of(snapshot: &Snapshot, nodes: &[SiteNode], shares: &SiteShares) -> SiteState {
    let nodes = nodes::digest(nodes, shares);
    SiteState { generation: snapshot.generation, orders: snapshot.orders.digest.clone(), nodes }
}

impl ControlHandle {
    /// What has changed at this site since the state of the question of another site. Waits for up to a second for news.
    ///
    /// # Errors
    /// Unavailable: the engine is away, or there is no configuration. Conflict: it is asked for an epoch that it does not
    /// found.
    pub async fn exchange(&self, caller: &Name, query: ExchangeQuery) -> Result<ExchangeAnswer, Refused> {
        if let Some(asked) = query.above {
            self.found_above(caller, asked).await?;
        }
        let deadline = Instant::now() + WAIT;
        let mut shown = None;
        loop {
            if let Some(last) = &query.last {
                match tokio::time::timeout_at(deadline, self.news(last, shown.as_ref())).await {
                    Ok(news) => shown = Some(news),
                    // The time is over: what was told last is still so.
                    Err(_) => return Ok(ExchangeAnswer::unchanged(last.clone())),
                }
            }
            let (head, orders) = self.stored_state().await?;
            let nodes = nodes::of(&self.shared.nodes.borrow());
            let shares = self.shares();
            let state = SiteState {
                generation: head.generation(),
                orders: orders.digest(),
                nodes: nodes::digest(&nodes, &shares),
            };
            // This node may run something else than the engine has, until it has followed.
            if query.last.as_ref() == Some(&state) {
                continue;
            }
            let last = query.last.unwrap_or_default();
            return Ok(ExchangeAnswer {
                v: Version,
                head: Some(head).filter(|head| head.generation() != last.generation),
                orders: (state.orders != last.orders).then(|| orders.records().cloned().collect()),
                shares: (state.nodes != last.nodes).then_some(shares),
                nodes: (state.nodes != last.nodes).then_some(nodes),
                state,
            });
        }
    }

    /// Waits until this node and the heartbeats show something else than what was told last, and than what they showed before.
    async fn news(&self, last: &SiteState, before: Option<&SiteState>) -> SiteState {
        let mut snapshots = self.shared.handle.snapshots();
        let mut nodes = self.shared.nodes.subscribe();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let told = nodes::of(&nodes.borrow_and_update());
            // Shares are looked at with every heartbeat that arrives: they change a few times in a minute.
            let state = snapshot.map(|snapshot| state_of(&snapshot, &told, &self.shares()));
            if let Some(state) = state.filter(|state| state != last && Some(state) != before) {
                return state;
            }
            tokio::select! {
                // In a fixed order, so that a simulation can repeat itself.
                biased;
                Ok(()) = snapshots.changed() => {}
                Ok(()) = nodes.changed() => {}
                // The node ends; what it told last stays.
                else => return std::future::pending().await,
            }
        }
    }

    /// The shares of this site's clients that go elsewhere.
    fn shares(&self) -> SiteShares {
        nodes::shares(&self.shared.handle, &self.shared.config.site)
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
