//! Tasks and threads that a process cannot run without.
//!
//! A runtime drops a task that panics without notice, and the data that it maintained becomes stale while everything
//! else looks healthy. So every long-lived task and thread runs inside [`task`] or [`thread`]: when it panics, its name
//! is noted here. A node waits for such a name with [`lost`], then ends, and fails `/readyz` until it has ended. Tasks of
//! one request or one connection do not use this: their panic costs that request, and is logged and counted.
//!
//! A panic of work that is repeated with every change, and whose last result stays in use ([`attempt`]), does not end
//! the node: after a restart the same input would end it again, although the rest of it can serve. The node fails
//! `/readyz` until an attempt succeeds.
//!
//! The names are those of the process and not of a component, as a panic hook is, because the whole node ends.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::LazyLock,
};

use futures_util::FutureExt as _;
use tokio::{sync::watch, task::JoinError};

type Names = LazyLock<watch::Sender<Vec<&'static str>>>;

static LOST: Names = LazyLock::new(|| watch::Sender::new(Vec::new()));
static STUCK: Names = LazyLock::new(|| watch::Sender::new(Vec::new()));

/// Runs a task. If it panics, `name` is noted, and the panic continues.
pub async fn task<F: Future>(name: &'static str, task: F) -> F::Output {
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(output) => output,
        Err(panic) => {
            note(name);
            resume_unwind(panic)
        }
    }
}

/// Runs the work of a thread, likewise.
pub fn thread<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        note(name);
        resume_unwind(panic)
    })
}

/// The result of one attempt's task; nothing if it panicked, which is noted until an attempt of the same name succeeds.
/// The caller keeps the result of the attempt before it.
pub fn attempt<T>(name: &'static str, joined: Result<T, JoinError>) -> Option<T> {
    match joined {
        Ok(made) => {
            STUCK.send_if_modified(|stuck| {
                let before = stuck.len();
                stuck.retain(|it| *it != name);
                stuck.len() != before
            });
            Some(made)
        }
        Err(error) => {
            if error.is_panic() {
                add(&STUCK, name);
            }
            None
        }
    }
}

fn note(name: &'static str) {
    add(&LOST, name);
}

fn add(names: &Names, name: &'static str) {
    names.send_if_modified(|names| {
        let new = !names.contains(&name);
        if new {
            names.push(name);
        }
        new
    });
}

/// The attempts whose last one panicked.
#[must_use]
pub fn names_stuck() -> Vec<&'static str> {
    STUCK.borrow().clone()
}

/// What has panicked so far.
#[must_use]
pub fn names_lost() -> Vec<&'static str> {
    LOST.borrow().clone()
}

/// Ready with the name of the first one that has panicked.
pub async fn lost() -> &'static str {
    let mut names = LOST.subscribe();
    // The sender lives as long as the process.
    match names.wait_for(|names| !names.is_empty()).await {
        Ok(names) => names.first().copied().unwrap_or_default(),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_panics_is_named_and_what_ends_is_not() {
        assert_eq!(tokio::spawn(task("a task that returns", async { 7 })).await.unwrap(), 7);
        assert!(tokio::spawn(task("a broken task", async { panic!("a test of a defect") })).await.is_err());
        assert_eq!(lost().await, "a broken task");
        let broken = std::thread::spawn(|| thread("a broken thread", || panic!("a test of a defect")));
        assert!(broken.join().is_err());
        assert_eq!(names_lost(), ["a broken task", "a broken thread"]);
    }

    #[tokio::test]
    async fn an_attempt_that_panics_is_named_until_one_succeeds() {
        const NAME: &str = "work that is tried again";
        let attempted = async |well: bool| {
            let work = tokio::spawn(async move { assert!(well, "a test of a defect") });
            attempt(NAME, work.await)
        };
        assert_eq!(attempted(false).await, None);
        assert_eq!(attempted(false).await, None);
        assert_eq!(names_stuck(), [NAME]);
        assert!(!names_lost().contains(&NAME), "the process goes on");
        assert_eq!(attempted(true).await, Some(()));
        assert!(names_stuck().is_empty());
        let aborted = tokio::spawn(std::future::pending::<()>());
        aborted.abort();
        assert_eq!(attempt(NAME, aborted.await), None);
        assert!(names_stuck().is_empty(), "one that was given up is no defect");
    }

    #[tokio::test]
    async fn a_task_that_is_dropped_is_not_lost() {
        let waiting = tokio::spawn(task("a task that waits", std::future::pending::<()>()));
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        assert!(!names_lost().contains(&"a task that waits"));
    }
}
