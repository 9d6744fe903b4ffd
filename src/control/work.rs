//! Hands out work: which targets to dial, and which to dial at once because another vantage suspects them.
//!
//! One counter numbers everything that is news to vantages. It starts from the clock, so that it only grows, also across
//! restarts. A vantage that sends a number of another process is answered at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use store::{
    health::{ConfirmNow, TargetKey, Work, WorkTarget},
    model::{Generation, Moment, Name},
    snapshot::Snapshot,
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{Refusal, Refused, Shared};

/// Suspicions kept for vantages that request them late.
const MAX_SUSPICIONS: usize = 1024;
/// A suspicion is passed on for this long. After that the regular checks have shown the state.
const URGENT_FOR: Duration = Duration::from_secs(5);
/// A target that was passed on this recently is not passed on again: all vantages are dialling it already.
const REPEATED_AFTER: Duration = Duration::from_secs(1);
/// The longest a vantage may wait.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Vantages that may wait at the same time.
const MAX_WAITING: usize = 4096;

/// The work of all vantages.
#[derive(Debug)]
pub(super) struct WorkList {
    state: Mutex<Tasks>,
    news: watch::Sender<u64>,
    waiting: Semaphore,
}

/// The part without clock and waiting.
#[derive(Debug)]
struct Tasks {
    last: u64,
    targets: Vec<Arc<WorkTarget>>,
    /// The configuration they were taken from.
    generation: Option<Generation>,
    /// The number under which the targets last changed; `None` before the first configuration.
    targets_at: Option<u64>,
    suspicions: VecDeque<(Moment, ConfirmNow)>,
}

impl Tasks {
    fn starting_at(now: Moment) -> Self {
        let last = now.0.saturating_mul(1_000).max(1);
        Self { last, targets: Vec::new(), generation: None, targets_at: None, suspicions: VecDeque::new() }
    }

    fn configure(&mut self, targets: Vec<Arc<WorkTarget>>, generation: Generation) {
        self.generation = Some(generation);
        if self.targets_at.is_none() || self.targets != targets {
            self.last += 1;
            self.targets_at = Some(self.last);
            self.targets = targets;
        }
    }

    fn suspect(&mut self, by: &Name, target: TargetKey, now: Moment) -> bool {
        self.suspicions.retain(|(at, _)| now.since(*at) < URGENT_FOR);
        let known = |(at, it): &(Moment, ConfirmNow)| it.target == target && now.since(*at) < REPEATED_AFTER;
        if self.suspicions.iter().any(known) {
            return false;
        }
        if self.suspicions.len() >= MAX_SUSPICIONS {
            self.suspicions.pop_front();
        }
        self.last += 1;
        self.suspicions.push_back((now, ConfirmNow { number: self.last, target, by: by.clone() }));
        true
    }

    /// The work of a vantage that has seen `index`; `None` while there is nothing new.
    fn after(&self, vantage: &str, index: u64, now: Moment) -> Option<Work> {
        let targets_at = self.targets_at?;
        // From a number that this process never gave out, nothing follows about what the vantage has.
        let seen = if index > self.last { 0 } else { index };
        let confirm: Vec<ConfirmNow> = self
            .suspicions
            .iter()
            .filter(|(at, it)| it.number > seen && it.by.as_str() != vantage && now.since(*at) < URGENT_FOR)
            .map(|(_, it)| it.clone())
            .collect();
        let targets = (seen < targets_at).then(|| self.targets.clone());
        let news = targets.is_some() || !confirm.is_empty();
        news.then_some(Work { index: self.last, targets, confirm })
    }
}

impl WorkList {
    pub(super) fn starting_at(now: Moment) -> Self {
        Self {
            state: Mutex::new(Tasks::starting_at(now)),
            news: watch::Sender::new(0),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }

    /// Passes on targets that a vantage suspects to the others; returns how many were news.
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

    /// Takes the targets from a snapshot, unless they come from it already. Also wakes vantages that are no longer
    /// configured.
    fn configure(&self, snapshot: &Snapshot) {
        if self.with(|tasks| tasks.generation) == Some(snapshot.generation) {
            return;
        }
        let targets = snapshot.targets.values().map(|target| {
            Arc::new(WorkTarget {
                key: target.key.clone(),
                address: target.address,
                site: target.site.clone(),
                check: target.check.clone(),
            })
        });
        let targets = targets.collect();
        self.with(|tasks| tasks.configure(targets, snapshot.generation));
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
            // The follower has ended; the last targets stay.
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
    let work_list = &shared.work;
    let too_many =
        |_| Refused::new(Refusal::Unavailable, format!("{MAX_WAITING} vantages are waiting already"));
    let _place = work_list.waiting.try_acquire().map_err(too_many)?;
    let deadline = Instant::now() + wait.min(MAX_WAIT);
    let mut news = work_list.news.subscribe();
    loop {
        news.borrow_and_update();
        let snapshot = shared.handle.snapshot();
        if let Some(snapshot) = &snapshot {
            if !snapshot.vantages.iter().any(|it| it.name.as_str() == vantage) {
                let text = format!("there is no Vantage {vantage} in generation {}", snapshot.generation);
                return Err(Refused::new(Refusal::NotFound, text));
            }
            // An empty list of targets would stop the vantage, so there is no answer before they are known.
            work_list.configure(snapshot);
        }
        let now = shared.handle.now();
        if let Some(work) = work_list.with(|tasks| tasks.after(vantage, index, now)) {
            return Ok(work);
        }
        let woken = tokio::time::timeout_at(deadline, news.changed()).await;
        if woken.is_err() {
            if snapshot.is_none() {
                return Err(Refused::new(Refusal::Unavailable, "this node has no configuration yet"));
            }
            let nothing = |tasks: &mut Tasks| Work { index: tasks.last, ..Work::default() };
            return Ok(
                work_list.with(|tasks| tasks.after(vantage, index, now).unwrap_or_else(|| nothing(tasks)))
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::name;

    const START: Moment = Moment(1_000);

    fn tasks() -> Tasks {
        let mut tasks = Tasks::starting_at(START);
        tasks.configure(Vec::new(), Generation::default());
        tasks
    }

    fn numbers(tasks: &Tasks, vantage: &str, index: u64, now: Moment) -> Option<Vec<u64>> {
        tasks.after(vantage, index, now).map(|work| work.confirm.into_iter().map(|it| it.number).collect())
    }

    #[test]
    fn there_is_no_work_before_the_first_configuration() {
        assert_eq!(Tasks::starting_at(START).after("v1", 0, START), None);
        assert_eq!(numbers(&tasks(), "v1", 0, START), Some(vec![]));
    }

    #[test]
    fn numbers_only_grow_also_across_restarts() {
        let mut tasks = tasks();
        let before = tasks.last;
        assert!(tasks.suspect(&name("v1"), TargetKey::from("a"), START));
        assert!(tasks.last > before);
        assert!(Tasks::starting_at(START.after(Duration::from_millis(1))).last > tasks.last);
        tasks.configure(Vec::new(), Generation::new(1, 1));
        assert_eq!(tasks.last, before + 1, "the same targets are no news");
    }

    #[test]
    fn targets_are_sent_to_whom_they_are_news() {
        let mut tasks = tasks();
        let index = tasks.last;
        assert!(tasks.suspect(&name("v1"), TargetKey::from("a"), START));
        let sent = |index| tasks.after("v2", index, START).map(|work| work.targets.is_some());
        assert_eq!(sent(0), Some(true));
        assert_eq!(sent(index), Some(false), "it has them, and hears of the suspicion");
        assert_eq!(sent(index + 1), None);
        assert_eq!(sent(index + 2), Some(true), "of another life");
    }

    #[test]
    fn a_suspicion_is_passed_on_once_and_not_for_long() {
        let mut tasks = tasks();
        let index = tasks.last;
        assert!(tasks.suspect(&name("v1"), TargetKey::from("a"), START));
        assert!(!tasks.suspect(&name("v2"), TargetKey::from("a"), START), "all vantages dial it already");
        assert_eq!(numbers(&tasks, "v1", index, START), None);
        assert_eq!(numbers(&tasks, "v2", index, START), Some(vec![index + 1]));
        assert_eq!(numbers(&tasks, "v2", index + 1, START), None);
        assert_eq!(numbers(&tasks, "v2", index, START.after(URGENT_FOR)), None);
        assert!(tasks.suspect(&name("v2"), TargetKey::from("a"), START.after(REPEATED_AFTER)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut tasks = tasks();
        for n in 0..MAX_SUSPICIONS + 10 {
            tasks.suspect(&name("v1"), TargetKey::from(format!("t{n}").as_str()), START);
        }
        assert_eq!(tasks.suspicions.len(), MAX_SUSPICIONS);
    }
}
