//! Logs every answer that changes (which domain, for which clients, from what to what, and why), and hold-downs.
//!
//! What is compared is what is answered: the addresses, for each family, for clients near each site and for all others.
//! Every control does this, whether or not it holds a lock, just as every node logs verdicts: the lock holder may be in
//! the very site that fails, and its lock outlives it by up to twenty seconds.
//!
//! The answers are compared at most once a second, with at most a twentieth of one core's time. Domains that change in
//! the same way are logged together, so that the failure of a data centre with a hundred thousand domains is a few
//! lines.

mod current;
mod differences;

use std::{sync::Arc, time::Duration};

use store::{board::Board, model::Moment, snapshot::Snapshot, vital};
use tokio::time::Instant;

use super::Shared;
use current::Answers;
use differences::{Differences, HoldDown, Line};

/// The shortest time between two comparisons.
const EVERY: Duration = Duration::from_secs(1);
/// A comparison is followed by a pause that is this many times as long.
const REST: u32 = 20;
/// From this many domains on, the comparison runs on a thread of its own, so that nothing waits for it.
const MANY: usize = 1_000;

/// Compares for ever. What changed before the first comparison is not logged.
pub(super) async fn log_changes(shared: Arc<Shared>) {
    let mut before: Option<Answers> = None;
    loop {
        let started = Instant::now();
        if let Some(snapshot) = shared.handle.snapshot() {
            let (board, now) = (Arc::clone(shared.handle.board()), shared.handle.now());
            let last = before.take();
            before = if snapshot.domains.len() < MANY {
                Some(compare(&snapshot, &board, now, last.as_ref()))
            } else {
                // After a defect here the comparison starts anew; only lines in the log are lost.
                let comparing =
                    tokio::task::spawn_blocking(move || compare(&snapshot, &board, now, last.as_ref()));
                vital::attempt("the log of changed answers", comparing.await)
            };
        }
        tokio::time::sleep(EVERY.max(started.elapsed().saturating_mul(REST))).await;
    }
}

/// Works out what is answered now, and logs the differences.
fn compare(snapshot: &Snapshot, board: &Board, now: Moment, before: Option<&Answers>) -> Answers {
    let after = Answers::at(snapshot, board, now);
    if let Some(before) = before {
        Differences::of(before, &after).lines().into_iter().for_each(log);
    }
    after
}

fn log(line: Line) {
    match line {
        Line::Answer { domains, clients, family, from, to, why } => {
            tracing::info!(domains, clients, family = family.as_str(), from, to, why, "answer changed");
        }
        Line::HoldDown { domains, site, what: HoldDown::Begins } => {
            tracing::info!(domains, site, "hold-down begins: the site is up again and not yet let back");
        }
        Line::HoldDown { domains, site, what: HoldDown::LetBack(how) } => {
            tracing::info!(domains, site, how = &*how, "hold-down is over");
        }
        Line::HoldDown { domains, site, what: HoldDown::Ends(why) } => {
            tracing::info!(domains, site, why = &*why, "hold-down ends, and the site was not let back");
        }
        Line::More { kinds, domains } => tracing::info!(kinds, domains, "more changes at the same time"),
    }
}

#[cfg(test)]
mod tests;
