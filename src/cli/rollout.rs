//! `apply --wait`: waits until the nodes of the sites run what was applied.

use std::time::{Duration, Instant};

use serde::Serialize;
use store::model::{Generation, Span};

use super::{client::Client, failure::Failure, show};
use crate::{
    api::{Applied, Enough, Rollout, SiteRollout},
    out::counted,
};

/// The longest that one question waits at the server.
const ONE_WAIT: Duration = Duration::from_secs(5);
/// How long to wait after a question that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// What was applied, and where it runs.
#[derive(Debug, Serialize)]
pub(super) struct AppliedAndWaited {
    /// What was applied.
    #[serde(flatten)]
    pub(super) applied: Applied,
    /// Where it runs; absent if that was not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollout: Option<Waited>,
}

/// The end of a wait.
#[derive(Debug, Serialize)]
pub(super) struct Waited {
    /// How far it has come.
    #[serde(flatten)]
    rollout: Rollout,
    /// How long that took since the change was committed.
    took: Span,
}

impl AppliedAndWaited {
    /// As text.
    pub(super) fn text(&self) -> String {
        let waited = self.rollout.as_ref().map(Waited::text).unwrap_or_default();
        show::applied(&self.applied) + &waited
    }

    /// Why the wait ended before enough sites were done; `None` if they are.
    pub(super) fn failure(&self) -> Option<Failure> {
        let Waited { rollout, took } = self.rollout.as_ref().filter(|it| !it.rollout.done)?;
        let text = format!(
            "generation {} is committed, and after {took} it does not run at enough sites; `waypost status` shows which follow",
            rollout.generation
        );
        Some(Failure::Failed(text))
    }
}

impl Waited {
    fn text(&self) -> String {
        let sites: String = self.rollout.sites.iter().map(|it| format!("  {}\n", of_site(it))).collect();
        let done = if self.rollout.done { "runs" } else { "does not run everywhere yet" };
        format!("{done} after {}:\n{sites}", self.took)
    }
}

/// A site in a line, such as `sh: 3 nodes` or `gz: pending: it does not answer`.
fn of_site(site: &SiteRollout) -> String {
    let state = match (&site.pending, site.waits_for.as_slice()) {
        (Some(pending), _) => format!("pending: {pending}"),
        (None, []) => counted(site.nodes, "node"),
        (None, nodes) => format!("pending: {} of {} not yet", nodes.join(", "), counted(site.nodes, "node")),
    };
    let lost = match site.lost.as_slice() {
        [] => String::new(),
        lost => format!(" (lost, and not waited for: {})", lost.join(", ")),
    };
    format!("{}: {state}{lost}", site.site)
}

/// Waits until a generation runs where it is wanted, for at most `timeout`.
pub(super) async fn wait(
    client: &Client,
    generation: Generation,
    enough: Enough,
    timeout: Duration,
) -> Result<Waited, Failure> {
    let started = Instant::now();
    let text = generation.to_string();
    let enough = match enough {
        Enough::All => "all",
        Enough::Quorum => "quorum",
    };
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let at_most = Span(left.min(ONE_WAIT)).to_string();
        let query = [("generation", text.as_str()), ("enough", enough), ("wait", at_most.as_str())];
        let rollout: Result<Rollout, Failure> = client.get("/v1/rollout", &query).await;
        let took =
            || Span(Duration::from_millis(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)));
        match rollout {
            Ok(rollout) if rollout.done || started.elapsed() >= timeout => {
                return Ok(Waited { rollout, took: took() });
            }
            Ok(_) => {}
            Err(failure) if started.elapsed() >= timeout => return Err(failure),
            Err(_) => tokio::time::sleep(PAUSE.min(left)).await,
        }
    }
}
