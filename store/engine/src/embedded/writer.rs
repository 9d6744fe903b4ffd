//! The one task that writes: it takes the waiting writes, decides them in order, writes all of them to the disk with one
//! sync, shows them to the readers, and only then answers. Timers run here too, between the writes.
//!
//! When the disk fails (most often because it is full), what was decided is undone and refused, and so is every
//! write until the store was opened again, which is tried every few seconds. Meanwhile readers see what was acknowledged,
//! what needs no disk (a check that is still passing, a session that is renewed) is done, and nothing expires.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{
    catalog,
    disk::{Broken, Disk, Failure},
    sessions,
    tables::Tables,
    txn::{Change, Head, Txn},
    view::View,
};
use crate::{Backoff, CheckStatus, EngineError, Result, vital};

/// The length of the queue of writes; callers wait while it is full.
const QUEUE: usize = 1024;
/// Writes that share one sync at most.
const GROUP: usize = 256;

/// How soon a store whose write failed is opened again, and the longest pause between such attempts.
fn backoff() -> Backoff {
    Backoff::new(Duration::from_secs(1), Duration::from_secs(8))
}

type Answer = Box<dyn FnOnce(Result<()>) + Send>;
/// Decides a write. With an error, a write that needs the disk is refused with it.
type Job = Box<dyn FnOnce(&mut Head, Instant, Option<&EngineError>) -> (Vec<Change>, u64, Answer) + Send>;

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

    /// The index of the last write that was acknowledged.
    fn index(&self) -> u64 {
        *self.index.borrow()
    }

    /// Wakes after every commit.
    pub(crate) fn committed(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }
}

/// The handle through which writes are sent.
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
    let mut head = Head::default();
    go_back(&mut head, tables);
    let writing = run(head, disk, Arc::clone(&shared), waiting);
    let task = tokio::spawn(vital::task("the engine's writer", writing));
    (shared, Writer { jobs, task: Mutex::new(Some(task)) })
}

/// Starts from these committed records. Everything that can expire has its whole time again.
fn go_back(head: &mut Head, tables: Tables) {
    head.go_back(tables);
    let checks: Vec<_> = head.tables.checks.values().cloned().collect();
    let lasting: Vec<_> = head.tables.sessions.values().cloned().collect();
    let mut txn = Txn::new(head, Instant::now());
    for check in checks {
        let before = (check.status == CheckStatus::Critical).then_some(CheckStatus::Passing);
        catalog::set_timers(&mut txn, &check, before);
    }
    for session in lasting {
        sessions::arm(&mut txn, &session);
    }
    txn.commit();
}

impl Writer {
    /// Decides a write and waits until it is durable. It is undone if `decide` returns an error.
    ///
    /// # Errors
    /// [`EngineError::Storage`] when the disk fails and the write needs it, or the engine was closed.
    pub(crate) async fn write<T, E>(
        &self,
        decide: impl FnOnce(&mut Txn<'_>) -> std::result::Result<T, E> + Send + 'static,
    ) -> Result<std::result::Result<T, E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |head, now, broken| {
            let mut txn = Txn::new(head, now);
            let decided = decide(&mut txn);
            let refused = broken.filter(|_| decided.is_ok() && txn.needs_disk()).cloned();
            let (changes, index) = if decided.is_ok() && refused.is_none() {
                txn.commit()
            } else {
                txn.roll_back();
                (Vec::new(), head.tables.index)
            };
            if let Some(error) = refused {
                return (changes, index, Box::new(move |_| drop(answer.send(Err(error)))) as Answer);
            }
            // The write is valid even if its caller no longer waits.
            (changes, index, Box::new(move |durable| drop(answer.send(durable.map(|()| decided)))))
        });
        let closed = || EngineError::Storage("the engine was closed".to_owned());
        self.jobs.send(job).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Stops taking writes and releases the disk.
    pub(crate) async fn close(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // It was aborted or has ended before.
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

async fn run(mut head: Head, disk: Option<Disk>, shared: Arc<Shared>, mut waiting: mpsc::Receiver<Job>) {
    let mut store = disk.map_or(Store::Memory, Store::Open);
    let mut jobs = Vec::with_capacity(GROUP);
    loop {
        let next = match &store {
            // No timer: an expiry would have to be written, too.
            Store::Broken(broken) => broken.next_try,
            Store::Memory | Store::Open(_) => head.timers.next(),
        };
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
        store = store.reopened_if_due().await;
        let broken = store.error();
        let (commits, answers) = decide(&mut head, jobs.drain(..), broken.as_ref());
        let failed;
        (store, failed) = store.write(&commits, shared.index()).await;
        if failed.is_some() {
            go_back(&mut head, shared.read(|view| view.tables.clone()));
        } else {
            publish(&shared, commits);
        }
        for answer in answers {
            answer(failed.clone().map_or(Ok(()), Err));
        }
    }
}

type Commits = Arc<Vec<(Vec<Change>, u64)>>;

fn decide(
    head: &mut Head,
    jobs: impl Iterator<Item = Job>,
    broken: Option<&EngineError>,
) -> (Commits, Vec<Answer>) {
    let now = Instant::now();
    let (mut commits, mut answers) = (Vec::new(), Vec::new());
    while broken.is_none()
        && let Some(timer) = head.timers.take_due(now)
    {
        let mut txn = Txn::new(head, now);
        catalog::run_timer(&mut txn, &timer);
        commits.push(txn.commit());
    }
    for job in jobs {
        let (changes, index, answer) = job(head, now, broken);
        commits.push((changes, index));
        answers.push(answer);
    }
    commits.retain(|(changes, _)| !changes.is_empty());
    (Arc::new(commits), answers)
}

/// Where commits go.
enum Store {
    Memory,
    Open(Disk),
    /// Its last write failed.
    Broken(Waiting),
}

/// A store that is to be opened again.
struct Waiting {
    error: EngineError,
    broken: Arc<Broken>,
    /// Absent if it is not tried again, because the content of the disk is not known.
    next_try: Option<Instant>,
    backoff: Backoff,
}

impl Store {
    /// Why it takes no writes at present.
    fn error(&self) -> Option<EngineError> {
        match self {
            Self::Broken(waiting) => Some(waiting.error.clone()),
            Self::Memory | Self::Open(_) => None,
        }
    }

    /// Writes commits to the disk, if there is one and they need it. With an error none of them counts. `acknowledged` is
    /// the index of the last write before them.
    async fn write(self, commits: &Commits, acknowledged: u64) -> (Self, Option<EngineError>) {
        let needs_disk = commits.iter().any(|(changes, _)| changes.iter().any(|it| !it.quiet));
        let mut disk = match self {
            Self::Open(disk) if needs_disk => disk,
            other => return (other, None),
        };
        let commits = Arc::clone(commits);
        propagate_panic(
            tokio::task::spawn_blocking(move || {
                let index = commits.last().map_or(0, |(_, index)| *index);
                let changes = || commits.iter().flat_map(|(changes, _)| changes);
                match disk.write(changes().filter(|change| !change.quiet), index) {
                    Ok(()) => (Self::Open(disk), None),
                    Err(failure) => {
                        let broken = disk.give_up(changes(), (acknowledged, index));
                        let error = failure.error.clone();
                        (Self::Broken(Waiting::begin(broken, failure)), Some(error))
                    }
                }
            })
            .await,
        )
    }

    /// Opens it again, if the next attempt is due.
    async fn reopened_if_due(self) -> Self {
        let waiting = match self {
            Self::Broken(waiting) if waiting.next_try.is_some_and(|at| at <= Instant::now()) => waiting,
            other => return other,
        };
        let broken = Arc::clone(&waiting.broken);
        match propagate_panic(tokio::task::spawn_blocking(move || broken.recover()).await) {
            Ok(disk) => {
                tracing::info!("the engine accepts writes again");
                Self::Open(disk)
            }
            Err(failure) => Self::Broken(waiting.retried(failure)),
        }
    }
}

/// What a task returned. If it panicked, the writer panics, too.
fn propagate_panic<T>(joined: std::result::Result<T, tokio::task::JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Waiting {
    fn begin(broken: Broken, failure: Failure) -> Self {
        let Failure { error, unsynced } = failure;
        match unsynced {
            false => tracing::error!(%error, "the engine refuses writes until the disk accepts them again"),
            true => {
                tracing::error!(%error, "the engine stops taking writes; restart it once the disk is well")
            }
        }
        let mut backoff = backoff();
        let next_try = (!unsynced).then(|| Instant::now() + backoff.next_random());
        Self { error, broken: Arc::new(broken), next_try, backoff }
    }

    /// After another attempt that failed.
    fn retried(self, failure: Failure) -> Self {
        let Failure { error, unsynced } = failure;
        if unsynced {
            tracing::error!(%error, "the engine stops taking writes; restart it once the disk is well");
        } else if error.to_string() != self.error.to_string() {
            tracing::warn!(%error, "the engine still refuses writes");
        }
        let mut backoff = self.backoff;
        let next_try = (!unsynced).then(|| Instant::now() + backoff.next_random());
        Self { error, next_try, backoff, broken: self.broken }
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
