//! The parts of a node while they run, and the order of their shutdown.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use dns::{Targets, zones_dir::Zones};
use store::{metrics::Source, vital};
use tokio::task::JoinSet;

use super::error::NodeError;
use crate::{dialer::Checks, reread::Rereads, shutdown::Shutdown};

/// How long the parts may take to end, in addition to the time of the gateway.
const GRACE: Duration = Duration::from_secs(10);

type Outcome = (&'static str, Result<(), NodeError>);

/// A node's parts while they run.
pub(super) struct Node {
    pub(super) boot: String,
    pub(super) tasks: JoinSet<Outcome>,
    pub(super) sources: Vec<Arc<dyn Source>>,
    pub(super) shutdown: Shutdown,
    pub(super) gateway: Option<(proxy::ProxyHandle, Duration)>,
    /// The zones that the DNS role serves from files.
    pub(super) zones: Arc<ArcSwap<Zones>>,
    pub(super) targets: Arc<ArcSwap<Targets>>,
    /// The files that are read again while the node runs.
    pub(super) rereads: Rereads,
    /// Used by the follower to dial doubtful instances.
    pub(super) checks: Arc<Checks>,
}

impl Node {
    /// Runs a part. If it ends, by itself or by a panic, the node ends.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), NodeError>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, vital::task(name, part).await) });
    }

    pub(super) fn start_rereading(&mut self) {
        let (rereads, ending) = (std::mem::take(&mut self.rereads), self.shutdown.begun());
        self.spawn("rereading files", async move {
            tokio::select! {
                () = ending => Ok(()),
                outcome = rereads.run() => outcome.map_err(NodeError::Signal),
            }
        });
    }

    /// Waits until the shutdown is requested or a part fails, then for all parts to end. The gateway has its own deadline.
    pub(super) async fn until_the_end(&mut self) -> Result<(), NodeError> {
        let begun = self.shutdown.begun();
        let failed = tokio::select! {
            () = begun => None,
            ended = self.tasks.join_next() => match ended {
                // A part that ends because of a shutdown can be seen before the request itself.
                Some(Ok((_, Ok(())))) if self.shutdown.has_begun() => None,
                ended => Some(outcome(ended)),
            },
            // This includes tasks that no part of this node awaits.
            name = vital::lost() => Some(Err(NodeError::Panicked(name))),
        };
        if let Some(Err(error)) = &failed {
            tracing::error!(%error, "a part failed, and the node shuts down");
        }
        if let Some((gateway, _)) = &self.gateway {
            gateway.shut_down();
        }
        self.shutdown.begin();
        let timeout = self.gateway.as_ref().map_or(Duration::ZERO, |(_, timeout)| *timeout) + GRACE;
        let mut first = failed;
        let rest = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((name, Err(error))) = ended {
                    tracing::error!(%error, "{name} failed");
                    first.get_or_insert(Err(error));
                }
            }
        };
        if tokio::time::timeout(timeout, rest).await.is_err() {
            tracing::warn!("some parts did not end in time");
        }
        self.tasks.shutdown().await;
        first.unwrap_or(Ok(()))
    }
}

fn outcome(ended: Option<Result<Outcome, tokio::task::JoinError>>) -> Result<(), NodeError> {
    match ended {
        Some(Ok((_, Err(error)))) => Err(error),
        Some(Ok((name, Ok(())))) => Err(NodeError::Ended(name)),
        Some(Err(_)) | None => {
            Err(NodeError::Panicked(vital::names_lost().first().copied().unwrap_or("a part of this node")))
        }
    }
}
