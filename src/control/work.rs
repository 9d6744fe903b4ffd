//! Hands work out: what to dial, and what to dial at once because another vantage suspects it.
//!
//! One counter numbers everything that is news to vantages. It starts at the time of day, so that it only ever grows,
//! also across restarts; a vantage that brings another life's number is answered at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use store::{
    health::{ConfirmNow, TargetKey, Work, WorkTarget},
    model::{Moment, Name},
    snapshot::Snapshot,
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{Refusal, Refused, Shared};

/// Suspicions kept for vantages that ask late.
const MOST_SUSPICIONS: usize = 1024;
/// A suspicion is passed on for this long; later the regular interval has found out.
const URGENT_FOR: Duration = Duration::from_secs(5);
/// A target that was passed on this recently is not passed on again, whoever suspects it: all are looking.
const REPEATED_AFTER: Duration = Duration::from_secs(1);
/// The longest a vantage may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Vantages that may wait at the same time.
const MOST_WAITING: usize = 4096;

/// What there is to do.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<Tasks>,
    news: watch::Sender<u64>,
    waiting: Semaphore,
}

/// The pure part.
#[derive(Debug)]
struct Tasks {
    last: u64,
    targets: Arc<[WorkTarget]>,
    /// The number under which the targets last changed; `None` before the first configuration.
    targets_at: Option<u64>,
    suspicions: VecDeque<(Moment, ConfirmNow)>,
}

impl Tasks {
    fn starting_at(now: Moment) -> Self {
        let last = now.0.saturating_mul(1_000).max(1);
        Self { last, targets: Arc::default(), targets_at: None, suspicions: VecDeque::new() }
    }

    fn configure(&mut self, targets: Vec<WorkTarget>) {
        if self.targets_at.is_none() || *self.targets != *targets {
            self.last += 1;
            self.targets_at = Some(self.last);
            self.targets = targets.into();
        }
    }

    fn suspect(&mut self, by: &Name, target: TargetKey, now: Moment) -> bool {
        self.suspicions.retain(|(at, _)| now.since(*at) < URGENT_FOR);
        let known = |(at, it): &(Moment, ConfirmNow)| it.target == target && now.since(*at) < REPEATED_AFTER;
        if self.suspicions.iter().any(known) {
            return false;
        }
        if self.suspicions.len() >= MOST_SUSPICIONS {
            self.suspicions.pop_front();
        }
        self.last += 1;
        self.suspicions.push_back((now, ConfirmNow { number: self.last, target, by: by.clone() }));
        true
    }

    /// The work of a vantage that has seen `index`; `None` while there is nothing new.
    fn after(&self, vantage: &str, index: u64, now: Moment) -> Option<(u64, Vec<ConfirmNow>)> {
        let targets_at = self.targets_at?;
        // Numbers this life never gave are no reason to leave anything out.
        let seen = if index > self.last { 0 } else { index };
        let confirm: Vec<ConfirmNow> = self
            .suspicions
            .iter()
            .filter(|(at, it)| it.number > seen && it.by.as_str() != vantage && now.since(*at) < URGENT_FOR)
            .map(|(_, it)| it.clone())
            .collect();
        (seen < targets_at || !confirm.is_empty()).then_some((self.last, confirm))
    }

    fn work(&self, index: u64, confirm: Vec<ConfirmNow>) -> Work {
        Work { index, targets: self.targets.to_vec(), confirm }
    }
}

impl Board {
    pub(super) fn starting_at(now: Moment) -> Self {
        Self {
            state: Mutex::new(Tasks::starting_at(now)),
            news: watch::Sender::new(0),
            waiting: Semaphore::new(MOST_WAITING),
        }
    }

    /// Passes targets that a vantage suspects on to the others; how many were news.
    pub(super) fn suspect(
        &self,
        by: &Name,
        targets: impl IntoIterator<Item = TargetKey>,
        now: Moment,
    ) -> u64 {
        let raised = self
            .with(|tasks| targets.into_iter().map(|target| u64::from(tasks.suspect(by, target, now))).sum());
        if raised > 0 {
            self.news.send_modify(|news| *news += 1);
        }
        raised
    }

    /// Takes the targets from a snapshot. Also wakes vantages that are not configured any more.
    fn configure(&self, snapshot: &Snapshot) {
        let targets = snapshot.targets.values().map(|target| WorkTarget {
            key: target.key.clone(),
            address: target.address,
            site: target.site.clone(),
            check: target.check.clone(),
        });
        let targets = targets.collect();
        self.with(|tasks| tasks.configure(targets));
        self.news.send_modify(|news| *news += 1);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Tasks) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps the targets as the newest snapshot has them.
pub(super) async fn follow_snapshots(shared: Arc<Shared>) {
    let mut snapshots = shared.handle.snapshots();
    loop {
        if let Some(snapshot) = snapshots.borrow_and_update().clone() {
            shared.work.configure(&snapshot);
        }
        if snapshots.changed().await.is_err() {
            // The follower is gone; what was last configured stays.
            std::future::pending::<()>().await;
        }
    }
}

/// The long poll.
pub(super) async fn work(
    shared: &Shared,
    vantage: &str,
    index: u64,
    wait: Duration,
) -> Result<Work, Refused> {
    let board = &shared.work;
    let too_many =
        |_| Refused::new(Refusal::Unavailable, format!("{MOST_WAITING} vantages are waiting already"));
    let _place = board.waiting.try_acquire().map_err(too_many)?;
    let deadline = Instant::now() + wait.min(LONGEST_WAIT);
    let mut news = board.news.subscribe();
    loop {
        news.borrow_and_update();
        let snapshot = shared.handle.snapshot();
        if let Some(snapshot) = &snapshot
            && !snapshot.vantages.iter().any(|it| it.name.as_str() == vantage)
        {
            let text = format!("there is no Vantage {vantage} in generation {}", snapshot.generation);
            return Err(Refused::new(Refusal::NotFound, text));
        }
        let now = shared.handle.now();
        if let Some((index, confirm)) = board.with(|tasks| tasks.after(vantage, index, now)) {
            return Ok(board.with(|tasks| tasks.work(index, confirm)));
        }
        let woken = tokio::time::timeout_at(deadline, news.changed()).await;
        if woken.is_err() {
            if snapshot.is_none() {
                return Err(Refused::new(Refusal::Unavailable, "this node has no configuration yet"));
            }
            return Ok(board.with(|tasks| {
                let (index, confirm) = tasks.after(vantage, index, now).unwrap_or((tasks.last, Vec::new()));
                tasks.work(index, confirm)
            }));
        }
    }
}
