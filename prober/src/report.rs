//! One reporter per address: numbered batches of what changed, a heartbeat when nothing did, everything when the
//! other end does not know where we are.

use std::{sync::Arc, time::Duration};

use store::{
    engine::{Backoff, Retry},
    health::{Batch, BatchReply, HEARTBEAT_EVERY},
    model::Name,
};
use tokio::time::Instant;

use crate::{
    Metrics,
    api::{Admin, Failed},
    outbox::{Changes, Outbox},
};

/// Observations in a batch that is not full. What one batch changes control writes before it acknowledges, and while
/// it does, no heartbeat of ours is seen.
const MAX: usize = 5_000;
/// The longest wait after failures in a row: shorter than a vantage stays fresh.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// The wait before everything is sent again, at the latest after the first failure, and when it was asked for.
const AGAIN: Duration = Duration::from_millis(100);

/// Who reports.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    pub(crate) vantage: Name,
    pub(crate) boot: String,
}

/// What one address has been sent and has acknowledged.
#[derive(Debug)]
struct DeliveryState {
    number: u64,
    heartbeat: u64,
    /// What the other end has, or may have.
    had: u64,
    full: bool,
}

impl DeliveryState {
    const fn new() -> Self {
        Self { number: 0, heartbeat: 0, had: 0, full: true }
    }

    /// The next batch: its number moves only if it carries something.
    fn batch(&mut self, who: &Reporter, news: Changes) -> Batch {
        self.heartbeat += 1;
        if self.full || !news.observations.is_empty() {
            self.number += 1;
        }
        Batch {
            vantage: who.vantage.clone(),
            boot: who.boot.clone(),
            number: self.number,
            heartbeat: self.heartbeat,
            withheld: news.withheld,
            full: self.full,
            observations: news.observations,
        }
    }

    fn answered(&mut self, reply: BatchReply, version: u64) {
        match reply {
            BatchReply::Accepted => {
                self.full = false;
                self.had = version;
            }
            BatchReply::Resend => self.full = true,
        }
    }
}

/// Reports for ever.
pub(crate) async fn report(
    api: Arc<dyn Admin>,
    number: usize,
    who: Reporter,
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
) {
    let mut changed = outbox.changed();
    let mut delivery = DeliveryState::new();
    let mut retry = Retry::new("reporting").subject(api.base()).backoff(Backoff::new(AGAIN, MAX_PAUSE));
    loop {
        changed.borrow_and_update();
        let (after, at_most) = if delivery.full { (0, usize::MAX) } else { (delivery.had, MAX) };
        let news = outbox.since(after, at_most);
        let (version, more, sent) = (news.version, news.more, Instant::now());
        let batch = delivery.batch(&who, news);
        match api.report(&batch).await {
            Ok(reply) => {
                retry.succeeded();
                metrics.reported(number, true);
                let again = reply == BatchReply::Resend;
                delivery.answered(reply, version);
                if again {
                    // The other end does not know us: at once, but never in a tight circle.
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                if more {
                    continue;
                }
                let heartbeat = tokio::time::sleep_until(sent + HEARTBEAT_EVERY);
                tokio::select! {
                    biased;
                    _ = changed.changed() => {}
                    () = heartbeat => {}
                }
            }
            Err(failed) => {
                metrics.reported(number, false);
                // It may have been taken or not: everything once more settles it.
                delivery.full = true;
                let pause = retry.failed(&failed);
                let refused = matches!(failed, Failed::Refused(_));
                tokio::time::sleep(if refused { MAX_PAUSE } else { pause }).await;
            }
        }
    }
}
