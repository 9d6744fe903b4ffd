//! The time of a worker, which is read once for whatever one event leads to.
//!
//! A worker serves one connection for some microseconds and then another. A request asked for the time sixteen times, for 25 to
//! 40 ns each, and nearly always for the same. What a drain depends on asks the clock itself: this process may have been
//! stopped just before.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use store::{handle::Clock, model::Moment};
use tokio::time::Instant;

/// The time as it was read last.
#[derive(Debug)]
pub(crate) struct CachedTime {
    read: Cell<Instant>,
    clock: Clock,
}

impl CachedTime {
    /// The present time.
    pub(crate) fn new(clock: Clock) -> Self {
        Self { read: Cell::new(Instant::now()), clock }
    }

    /// When it was read.
    pub(crate) fn now(&self) -> Instant {
        self.read.get()
    }

    /// The same by the node's clock.
    pub(crate) fn moment(&self) -> Moment {
        self.clock.at(self.read.get())
    }

    /// The time is read whenever this future is woken.
    pub(crate) fn of<F: Future>(self: &Rc<Self>, future: F) -> Timed<F> {
        Timed { time: Rc::clone(self), future }
    }
}

pin_project! {
    /// A future for which the time is read. A type of its own, because an `async` block would hold the future twice.
    pub(crate) struct Timed<F> {
        time: Rc<CachedTime>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let it = self.project();
        it.time.read.set(Instant::now());
        it.future.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_read_when_a_future_is_woken_and_stays_until_the_next_time() {
        let start = Instant::now();
        let time = Rc::new(CachedTime::new(Clock::starting_at(Moment(1_000))));
        assert_eq!((time.now(), time.moment()), (start, Moment(1_000)));
        let woken = time.of(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            time.now()
        });
        assert_eq!(woken.await.duration_since(start), Duration::from_millis(20));
        tokio::time::advance(Duration::from_millis(5)).await;
        assert_eq!(time.moment(), Moment(1_020));
    }
}
