//! One task for each other site that the documents name, for everything that asks all of them.

use std::{collections::BTreeMap, future::Future};

use store::{handle::Handle, model::Name};
use tokio::task::JoinSet;

use crate::sites::Peers;

/// Keeps one task for each site that has a control, so that a site which does not answer holds up no other; until this future
/// is dropped. `known` is called with all sites before tasks are started for the new ones. What is in `tasks` already runs
/// beside them.
pub(super) async fn each_site<F>(
    handle: &Handle,
    peers: &Peers,
    mut tasks: JoinSet<()>,
    known: impl Fn(&[Name]),
    task: impl Fn(Name) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut snapshots = handle.snapshots();
    let mut following: BTreeMap<Name, tokio::task::AbortHandle> = BTreeMap::new();
    loop {
        let sites: Vec<Name> = peers.all().iter().filter_map(|it| it.site().cloned()).collect();
        following.retain(|site, task| {
            let stays = sites.contains(site);
            if !stays {
                task.abort();
            }
            stays
        });
        known(&sites);
        for site in sites {
            following.entry(site.clone()).or_insert_with(|| tasks.spawn(task(site)));
        }
        tokio::select! {
            // In a fixed order, so that a simulation can repeat itself.
            biased;
            changed = snapshots.changed() => if changed.is_err() {
                // The node ends.
                return std::future::pending().await;
            },
            Some(ended) = tasks.join_next() => if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            },
        }
    }
}
