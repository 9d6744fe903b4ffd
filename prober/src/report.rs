//! One reporter per admin address: numbered batches of changes, a heartbeat when nothing changed, and all observations
//! when the other end asks for them or may have missed some.

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

/// Observations in a batch that is not full. Control writes a batch before it acknowledges it, and meanwhile sees no
/// heartbeat of this prober.
const MAX: usize = 5_000;
/// The longest wait after failures in a row: shorter than a vantage stays fresh.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// The wait before everything is sent again, at the latest after the first failure, and when control requested it.
const AGAIN: Duration = Duration::from_millis(100);

/// The sender of a report.
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
    /// The newest version that the other end acknowledged.
    acknowledged: u64,
    full: bool,
}

impl DeliveryState {
    const fn new() -> Self {
        Self { number: 0, heartbeat: 0, acknowledged: 0, full: true }
    }

    /// The next batch. Its number grows only when it carries observations.
    fn batch(&mut self, who: &Reporter, changes: Changes) -> Batch {
        self.heartbeat += 1;
        if self.full || !changes.observations.is_empty() {
            self.number += 1;
        }
        Batch {
            vantage: who.vantage.clone(),
            boot: who.boot.clone(),
            number: self.number,
            heartbeat: self.heartbeat,
            // What is still to come was seen earlier than this was taken.
            taken: if changes.more { 0 } else { changes.taken },
            withheld: changes.withheld,
            full: self.full,
            observations: changes.observations,
        }
    }

    fn answered(&mut self, reply: BatchReply, version: u64) {
        match reply {
            BatchReply::Accepted => {
                self.full = false;
                self.acknowledged = version;
            }
            BatchReply::Resend => self.full = true,
        }
    }
}

/// Reports until the task is ended.
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
        let (after, at_most) = if delivery.full { (0, usize::MAX) } else { (delivery.acknowledged, MAX) };
        let changes = outbox.since(after, at_most);
        let (version, more, sent) = (changes.version, changes.more, Instant::now());
        let batch = delivery.batch(&who, changes);
        match api.report(&batch).await {
            Ok(reply) => {
                retry.succeeded();
                metrics.reported(number, true);
                let again = reply == BatchReply::Resend;
                delivery.answered(reply, version);
                if again {
                    // This process is new to the other end: everything is sent at once, but never in a busy loop.
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
                // It is unknown whether the report was accepted, so everything is sent again.
                delivery.full = true;
                let pause = retry.failed(&failed);
                let refused = matches!(failed, Failed::Refused(_));
                tokio::time::sleep(if refused { MAX_PAUSE } else { pause }).await;
            }
        }
    }
}
