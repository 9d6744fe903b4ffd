//! How a site with an engine of its own joins others.
//!
//! A control with `[control] join` asks the controls at those URLs as it asks those that documents name, until its own
//! documents name them. An empty engine takes everything. An engine with documents of its own takes those of the home only if
//! they are the same, or if a person has said that they may be replaced.

use std::{sync::atomic::Ordering, time::Duration};

use store::model::Generation;

use super::ask::ask;
use crate::{
    api::{JoinOrder, Joined, SiteIdentity},
    control::{ChangeError, ControlHandle},
    sites::Peer,
};

/// How long a person waits until the documents are replaced.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest that a site may take to say who it is.
const DEADLINE: Duration = Duration::from_secs(3);
const MAX_ANSWER: usize = 64 * 1024;

/// True if the engine of this site is connected to others: a site is in its generation.
fn is_connected(generation: Generation) -> bool {
    !generation.site.is_empty()
}

/// Asks the control that is to be joined until this site is connected.
pub(super) async fn follow(control: ControlHandle, peer: Peer) {
    let shared = &control.shared;
    let mut snapshots = shared.handle.snapshots();
    let mut logged = None;
    loop {
        if snapshots.borrow_and_update().as_ref().is_some_and(|it| is_connected(it.generation)) {
            // From now on the documents name the other sites.
            let _ = snapshots.changed().await;
            continue;
        }
        let identity = peer.get::<SiteIdentity>("/v1/sites/identity", DEADLINE, MAX_ANSWER).await;
        let asked = match identity {
            Ok(identity) => ask(shared, &peer, &identity.site, None).await.map(drop),
            Err(error) => Err(error.to_string()),
        };
        let problem = asked.err();
        if let Some(problem) = problem.as_ref().filter(|_| problem != logged) {
            tracing::warn!(problem, "this site has not joined others yet");
        }
        logged = problem;
        tokio::time::sleep(PAUSE).await;
    }
}

impl ControlHandle {
    /// Joins the sites that the configuration names although this one has documents of its own, which are replaced.
    ///
    /// # Errors
    /// Wrong: nothing may be replaced, or it is not configured what is joined. Conflict: this site is connected. Unavailable: it was not
    /// joined in time; the reason is in `status`.
    pub async fn join(&self, order: &JoinOrder) -> Result<Joined, ChangeError> {
        let shared = &self.shared;
        if !order.take_home {
            return Err(ChangeError::wrong(
                "take_home is false; expected true: nothing else is to be ordered",
            ));
        }
        if !shared.config.joins {
            return Err(ChangeError::wrong(
                "this node has no `[control] join`, so there is nothing to be joined",
            ));
        }
        let mut snapshots = shared.handle.snapshots();
        let generation = || shared.handle.snapshot().map(|it| it.generation).unwrap_or_default();
        if is_connected(generation()) {
            return Err(ChangeError::conflict(format!(
                "this site is connected already, with {}",
                generation()
            )));
        }
        shared.take_home.store(true, Ordering::Relaxed);
        let connected = snapshots.wait_for(|it| it.as_ref().is_some_and(|it| is_connected(it.generation)));
        let joined = tokio::time::timeout(PATIENCE, connected).await.is_ok();
        shared.take_home.store(false, Ordering::Relaxed);
        if joined {
            return Ok(Joined { generation: generation() });
        }
        let reasons: Vec<String> = shared
            .sites
            .all()
            .into_iter()
            .filter_map(|(site, seen)| Some(format!("{site}: {}", seen.refused.or(seen.error)?)))
            .collect();
        Err(ChangeError::conflict(format!(
            "not joined within {} s: {}",
            PATIENCE.as_secs(),
            reasons.join("; ")
        )))
    }
}
