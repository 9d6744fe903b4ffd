//! The one task that writes: it takes what waits, decides it in order, puts all of it on the disk with one sync,
//! shows it to the readers, and only then answers. Timers ring here too, between the writes.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    catalog,
    disk::Disk,
    sessions,
    tables::Tables,
    txn::{Change, Head, Txn},
    view::View,
};
use crate::{
    engine::{CheckStatus, EngineError, Result},
    vital,
};

/// Writes that may wait at a time; more wait before they are taken.
const QUEUE: usize = 1024;
/// Writes that share one sync at most.
const GROUP: usize = 256;

type Answer = Box<dyn FnOnce(Result<()>) + Send>;
type Job = Box<dyn FnOnce(&mut Head, Instant) -> (Vec<Change>, u64, Answer) + Send>;

/// What readers and writers share.
#[derive(Debug)]
pub(crate) struct Shared {
    view: RwLock<View>,
    index: watch::Sender<u64>,
}

impl Shared {
    /// Looks at the committed state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes after every commit.
    pub(crate) fn committed(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }
}

/// Where writes are handed in.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Starts the writer on records read before.
pub(crate) fn start(tables: Tables, disk: Option<Disk>) -> (Arc<Shared>, Writer) {
    let shared = Arc::new(Shared {
        index: watch::Sender::new(tables.index),
        view: RwLock::new(View::new(tables.clone())),
    });
    let (jobs, waiting) = mpsc::channel(QUEUE);
    let head = armed(tables);
    let writing = run(head, disk, Arc::clone(&shared), waiting);
    let task = tokio::spawn(vital::task("the engine's writer", writing));
    (shared, Writer { jobs, task: Mutex::new(Some(task)) })
}

/// After a start, what can lapse has its whole time again.
fn armed(tables: Tables) -> Head {
    let mut head = Head::default();
    head.tables = tables;
    let checks: Vec<_> = head.tables.checks.values().cloned().collect();
    let lasting: Vec<_> = head.tables.sessions.values().cloned().collect();
    let mut txn = Txn::new(&mut head, Instant::now());
    for check in checks {
        let before = (check.status == CheckStatus::Critical).then_some(CheckStatus::Passing);
        catalog::watch_over(&mut txn, &check, before);
    }
    for session in lasting {
        sessions::arm(&mut txn, &session);
    }
    txn.commit();
    head
}

impl Writer {
    /// Decides a write and waits until it is durable. An error of the decision undoes it.
    ///
    /// # Errors
    /// [`EngineError::Storage`] when the disk failed now or before, or the engine was closed.
    pub(crate) async fn write<T, E>(
        &self,
        decide: impl FnOnce(&mut Txn<'_>) -> std::result::Result<T, E> + Send + 'static,
    ) -> Result<std::result::Result<T, E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |head, now| {
            let mut txn = Txn::new(head, now);
            let decided = decide(&mut txn);
            let (changes, index) = if decided.is_ok() {
                txn.commit()
            } else {
                txn.roll_back();
                (Vec::new(), head.tables.index)
            };
            // Nobody may wait any more; the write stands all the same.
            (changes, index, Box::new(move |durable| drop(answer.send(durable.map(|()| decided)))))
        });
        let closed = || EngineError::Storage("the engine was closed".to_owned());
        self.jobs.send(job).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Stops taking writes and lets go of the disk.
    pub(crate) async fn close(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // It ended, in whichever way.
            let _ = task.await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

async fn run(mut head: Head, mut disk: Option<Disk>, shared: Arc<Shared>, mut waiting: mpsc::Receiver<Job>) {
    let mut broken: Option<EngineError> = None;
    let mut jobs = Vec::with_capacity(GROUP);
    loop {
        let next = head.timers.next();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            taken = waiting.recv_many(&mut jobs, GROUP) => if taken == 0 { return },
            () = due => {}
        }
        let (commits, answers) = decide(&mut head, jobs.drain(..));
        if broken.is_none() && commits.iter().any(|(changes, _)| changes.iter().any(|it| !it.quiet)) {
            (disk, broken) = store(disk, &commits).await;
        }
        if broken.is_none() {
            publish(&shared, commits);
        }
        for answer in answers {
            answer(broken.clone().map_or(Ok(()), Err));
        }
    }
}

type Commits = Arc<Vec<(Vec<Change>, u64)>>;

fn decide(head: &mut Head, jobs: impl Iterator<Item = Job>) -> (Commits, Vec<Answer>) {
    let now = Instant::now();
    let (mut commits, mut answers) = (Vec::new(), Vec::new());
    while let Some(timer) = head.timers.take_due(now) {
        let mut txn = Txn::new(head, now);
        catalog::ring(&mut txn, &timer);
        commits.push(txn.commit());
    }
    for job in jobs {
        let (changes, index, answer) = job(head, now);
        commits.push((changes, index));
        answers.push(answer);
    }
    commits.retain(|(changes, _)| !changes.is_empty());
    (Arc::new(commits), answers)
}

/// Puts commits on the disk, if there is one. An error is final: what the disk holds is not known any more.
async fn store(disk: Option<Disk>, commits: &Commits) -> (Option<Disk>, Option<EngineError>) {
    let Some(mut disk) = disk else { return (None, None) };
    let commits = Arc::clone(commits);
    let written = tokio::task::spawn_blocking(move || {
        let index = commits.last().map_or(0, |(_, index)| *index);
        let loud = commits.iter().flat_map(|(changes, _)| changes).filter(|change| !change.quiet);
        let outcome = disk.write(loud, index);
        (disk, outcome)
    });
    match written.await {
        Ok((disk, Ok(()))) => (Some(disk), None),
        Ok((disk, Err(error))) => {
            tracing::error!(%error, "the engine stops taking writes");
            (Some(disk), Some(error))
        }
        Err(error) => (None, Some(EngineError::Storage(error.to_string()))),
    }
}

fn publish(shared: &Shared, commits: Commits) {
    let commits = Arc::unwrap_or_clone(commits);
    let Some(index) = commits.last().map(|(_, index)| *index) else { return };
    {
        let mut view = shared.view.write().unwrap_or_else(PoisonError::into_inner);
        for (changes, index) in commits {
            view.apply(changes, index);
        }
    }
    shared.index.send_if_modified(|current| std::mem::replace(current, index) != index);
}
