//! The parts of a node while they run, and the order in which they end.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use dns::{Targets, zones_dir::Zones};
use store::{metrics::Source, vital};
use tokio::task::JoinSet;

use super::error::NodeError;
use crate::{dialer::Checks, reread::Rereads, shutdown::Shutdown};

/// How long the parts may take to end, beyond what the gateway was given.
const GRACE: Duration = Duration::from_secs(10);

type Outcome = (&'static str, Result<(), NodeError>);

/// A node's parts while they run.
pub(super) struct Node {
    pub(super) boot: String,
    pub(super) tasks: JoinSet<Outcome>,
    pub(super) sources: Vec<Arc<dyn Source>>,
    pub(super) shutdown: Shutdown,
    pub(super) gateway: Option<(proxy::ProxyHandle, Duration)>,
    /// What the DNS role serves from files.
    pub(super) zones: Arc<ArcSwap<Zones>>,
    pub(super) targets: Arc<ArcSwap<Targets>>,
    /// What is read again while the node runs.
    pub(super) rereads: Rereads,
    /// What the follower dials doubtful instances with.
    pub(super) checks: Arc<Checks>,
}

impl Node {
    /// Runs a part; when it ends, by itself or by a panic, so does the node.
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

    /// Waits for the end: asked for, or because a part failed. The gateway ends in its own time.
    pub(super) async fn until_the_end(&mut self) -> Result<(), NodeError> {
        let begun = self.shutdown.begun();
        let failed = tokio::select! {
            () = begun => None,
            ended = self.tasks.join_next() => match ended {
                // Once the end has begun, parts that end do so because of it; they may be seen before it is.
                Some(Ok((_, Ok(())))) if self.shutdown.has_begun() => None,
                ended => Some(outcome(ended)),
            },
            // Also those that no part of this node awaits.
            name = vital::lost() => Some(Err(NodeError::Panicked(name))),
        };
        if let Some(Err(error)) = &failed {
            tracing::error!(%error, "this node ends");
        }
        if let Some((gateway, _)) = &self.gateway {
            gateway.shut_down();
        }
        self.shutdown.begin();
        let patience = self.gateway.as_ref().map_or(Duration::ZERO, |(_, patience)| *patience) + GRACE;
        let mut first = failed;
        let rest = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((name, Err(error))) = ended {
                    tracing::error!(%error, "{name} failed");
                    first.get_or_insert(Err(error));
                }
            }
        };
        if tokio::time::timeout(patience, rest).await.is_err() {
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
