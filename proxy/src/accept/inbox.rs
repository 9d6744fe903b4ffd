//! The accepted connections that a worker has not taken yet.
//!
//! A worker that is stuck in something long takes nothing. What has waited for [`PATIENCE`] is taken back, and the worker
//! gets nothing more until it has looked into its inbox again. Both sides change that state under one lock, which is held
//! for a few instructions once per connection: otherwise a worker that looked just before could be left out for ever.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

/// How long a connection waits for its worker. A worker is seldom busy for so long with one thing, and a client does not
/// notice it.
pub(super) const PATIENCE: Duration = Duration::from_millis(20);
/// The most connections in one inbox; the rest wait in the queue of the listening socket.
const MOST: usize = 1024;

/// A worker's inbox. `T` is a connection.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    /// As in the state, to be read without the lock.
    shunned: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<(Instant, T)>,
    /// Something was taken back, and the worker has not looked since.
    stalled: bool,
    /// Nothing comes any more.
    closed: bool,
    /// The worker takes nothing any more.
    gone: bool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        let state = State { waiting: VecDeque::new(), stalled: false, closed: false, gone: false };
        Self { state: Mutex::new(state), shunned: AtomicBool::new(false), waker: AtomicWaker::new() }
    }
}

impl<T> Inbox<T> {
    /// Puts a connection in and wakes the worker.
    ///
    /// # Errors
    /// The connection, if the inbox is full or its worker is gone.
    pub(super) fn put(&self, it: T, now: Instant) -> Result<(), T> {
        {
            let mut state = self.state();
            if state.gone || state.waiting.len() >= MOST {
                return Err(it);
            }
            state.waiting.push_back((now, it));
        }
        // Costs a system call only if the worker has looked since the last time.
        self.waker.wake();
        Ok(())
    }

    /// True if the worker should get nothing: it is stalled or gone.
    pub(super) fn is_shunned(&self) -> bool {
        self.shunned.load(Relaxed)
    }

    /// When the oldest connection will have waited too long; `None` if none waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.state().waiting.front().map(|(since, _)| *since + PATIENCE)
    }

    /// Takes back everything, if the oldest connection has waited too long.
    pub(super) fn take_back(&self, now: Instant) -> VecDeque<(Instant, T)> {
        let mut state = self.state();
        if state.waiting.front().is_none_or(|(since, _)| *since + PATIENCE > now) {
            return VecDeque::new();
        }
        state.stalled = true;
        self.shunned.store(true, Relaxed);
        std::mem::take(&mut state.waiting)
    }

    /// Nothing comes any more. The worker still gets what is in it.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.waker.wake();
    }

    /// The next connection; `None` once nothing comes any more. For the worker.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.state();
        if state.stalled {
            state.stalled = false;
            self.shunned.store(state.gone, Relaxed);
        }
        if let Some((_, it)) = state.waiting.pop_front() {
            return Poll::Ready(Some(it));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        // Under the lock, so that a connection that comes now finds it.
        self.waker.register(cx.waker());
        Poll::Pending
    }

    /// The worker takes nothing any more; gives what it has left.
    pub(super) fn leave(&self) -> VecDeque<(Instant, T)> {
        let mut state = self.state();
        state.gone = true;
        self.shunned.store(true, Relaxed);
        std::mem::take(&mut state.waiting)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // No operation leaves it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Waker};

    use super::*;

    fn take(inbox: &Inbox<u8>) -> Poll<Option<u8>> {
        inbox.poll_take(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn what_a_worker_does_not_take_is_taken_back_and_it_gets_no_more_until_it_looks() {
        let (inbox, now) = (Inbox::default(), Instant::now());
        inbox.put(1, now).unwrap();
        inbox.put(2, now + PATIENCE / 2).unwrap();
        assert_eq!(inbox.due(), Some(now + PATIENCE));
        assert!(inbox.take_back(now + PATIENCE / 2).is_empty() && !inbox.is_shunned());
        let back: Vec<u8> = inbox.take_back(now + PATIENCE).into_iter().map(|(_, it)| it).collect();
        assert_eq!((back, inbox.is_shunned(), inbox.due()), (vec![1, 2], true, None));
        assert_eq!(take(&inbox), Poll::Pending);
        assert!(!inbox.is_shunned());
    }

    #[test]
    fn a_full_inbox_takes_no_more() {
        let (inbox, now) = (Inbox::default(), Instant::now());
        for _ in 0..MOST {
            inbox.put(0, now).unwrap();
        }
        assert_eq!(inbox.put(1, now), Err(1));
        assert_eq!(take(&inbox), Poll::Ready(Some(0)));
        assert_eq!(inbox.put(1, now), Ok(()));
    }

    #[test]
    fn what_is_in_a_closed_inbox_is_still_taken() {
        let inbox = Inbox::default();
        inbox.put(1, Instant::now()).unwrap();
        inbox.close();
        assert_eq!((take(&inbox), take(&inbox)), (Poll::Ready(Some(1)), Poll::Ready(None)));
        assert!(inbox.leave().is_empty() && inbox.put(2, Instant::now()) == Err(2));
        let _ = take(&inbox);
        assert!(inbox.is_shunned(), "one that is gone stays so");
    }

    #[tokio::test]
    async fn a_worker_that_waits_is_woken() {
        let inbox = Arc::new(Inbox::default());
        let taking = Arc::clone(&inbox);
        let taken = tokio::spawn(async move { std::future::poll_fn(|cx| taking.poll_take(cx)).await });
        tokio::task::yield_now().await;
        inbox.put(7, Instant::now()).unwrap();
        assert_eq!(taken.await.unwrap(), Some(7));
    }
}
