//! The time limits of a worker's connections: one wheel for all of them.
//!
//! A request has several time limits, and nearly all of them are replaced before they pass. A runtime's timer costs a
//! lock and a search for each. Here setting a limit is a store into a cell: a timer stays in the bucket that it was put
//! into, and only when that bucket is due its limit is looked at, and the timer fires or moves on. So a busy connection
//! touches the wheel once per limit's length and not once per request. The price is precision: limits pass up to
//! [`TICK`] late.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// The precision of limits.
pub(crate) const TICK: Duration = Duration::from_millis(5);
/// Buckets of the wheel: limits further away wait in the last one, and are looked at again.
const BUCKETS: usize = 1_024;
const MILLIS_PER_TICK: u64 = 5;
const TICKS_PER_SECOND: u64 = 200;
const NEVER: u64 = u64::MAX;

/// The wheel of one worker.
#[derive(Debug)]
pub(crate) struct Wheel {
    start: Instant,
    /// The tick up to which every bucket was looked at.
    done: Cell<u64>,
    buckets: RefCell<Box<[Vec<Rc<Slot>>]>>,
    /// How many timers the buckets hold.
    held: Cell<usize>,
    /// The tick at which the driver wakes.
    wakes: Cell<u64>,
    earlier: Notify,
}

#[derive(Debug)]
struct Slot {
    /// The tick at which it fires.
    due: Cell<u64>,
    /// The tick of the bucket that holds it; [`NEVER`] when none does.
    at: Cell<u64>,
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One time limit after the other; it is unset when made. Dropping it unsets it.
#[derive(Debug)]
pub(crate) struct Timer {
    wheel: Rc<Wheel>,
    slot: Rc<Slot>,
}

impl Wheel {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            start: Instant::now(),
            done: Cell::new(0),
            buckets: RefCell::new((0..BUCKETS).map(|_| Vec::new()).collect()),
            held: Cell::new(0),
            wakes: Cell::new(NEVER),
            earlier: Notify::new(),
        })
    }

    /// A timer of this wheel.
    pub(crate) fn timer(self: &Rc<Self>) -> Timer {
        let slot = Slot {
            due: Cell::new(NEVER),
            at: Cell::new(NEVER),
            fired: Cell::new(false),
            waker: RefCell::new(None),
        };
        Timer { wheel: Rc::clone(self), slot: Rc::new(slot) }
    }

    /// The first tick that begins at this moment or later.
    fn tick(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        // Not by 128-bit numbers: this is done for every request.
        since.as_secs() * TICKS_PER_SECOND + u64::from(since.subsec_nanos().div_ceil(TICK.subsec_nanos()))
    }

    fn insert(&self, slot: Rc<Slot>, due: u64) {
        let first = self.done.get() + 1;
        let at = due.clamp(first, first + BUCKETS as u64 - 2);
        slot.at.set(at);
        self.buckets.borrow_mut()[(at % BUCKETS as u64) as usize].push(slot);
        self.held.set(self.held.get() + 1);
        if at < self.wakes.get() {
            self.wakes.set(at);
            self.earlier.notify_one();
        }
    }

    /// Fires the timers of this worker; never completes.
    pub(crate) async fn drive(&self) {
        loop {
            let next = self.next();
            self.wakes.set(next);
            if next == NEVER {
                self.earlier.notified().await;
            } else {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(self.start + Duration::from_millis(next * MILLIS_PER_TICK)) => {}
                    () = self.earlier.notified() => {}
                }
            }
            self.advance(Instant::now());
        }
    }

    /// Wakes every task that waits for a limit, so that all connections look at what has changed. No limit has passed by this.
    pub(crate) fn wake_all(&self) {
        for bucket in self.buckets.borrow().iter() {
            for slot in bucket.iter().filter(|slot| slot.due.get() != NEVER) {
                if let Some(waker) = slot.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
        }
    }

    /// The next tick whose bucket is not empty.
    fn next(&self) -> u64 {
        if self.held.get() == 0 {
            return NEVER;
        }
        let buckets = self.buckets.borrow();
        let first = self.done.get() + 1;
        let filled = |tick: &u64| !buckets[(*tick % BUCKETS as u64) as usize].is_empty();
        (first..first + BUCKETS as u64).find(filled).unwrap_or(NEVER)
    }

    /// Looks at every bucket up to now.
    fn advance(&self, now: Instant) {
        let since = now.saturating_duration_since(self.start);
        let now = since.as_secs() * TICKS_PER_SECOND + u64::from(since.subsec_nanos() / TICK.subsec_nanos());
        let from = self.done.get() + 1;
        // After a long stall every bucket is looked at once.
        for tick in from..=now.min(from + BUCKETS as u64 - 1) {
            let bucket = std::mem::take(&mut self.buckets.borrow_mut()[(tick % BUCKETS as u64) as usize]);
            self.held.set(self.held.get() - bucket.len());
            self.done.set(tick);
            for slot in bucket {
                self.look_at(slot, tick, now);
            }
        }
        self.done.set(self.done.get().max(now));
    }

    fn look_at(&self, slot: Rc<Slot>, tick: u64, now: u64) {
        // It was put into an earlier bucket meanwhile, and that has been looked at.
        if slot.at.get() != tick {
            return;
        }
        slot.at.set(NEVER);
        let due = slot.due.get();
        if due <= now {
            slot.due.set(NEVER);
            slot.fired.set(true);
            if let Some(waker) = slot.waker.borrow_mut().take() {
                waker.wake();
            }
        } else if due != NEVER {
            self.insert(slot, due);
        }
    }
}

impl Timer {
    /// The timer fires at this moment, or up to [`TICK`] later; an earlier limit no longer holds. A limit that has passed
    /// fires at once, also again.
    pub(crate) fn set(&self, at: Instant) {
        let due = self.wheel.tick(at);
        if due <= self.wheel.done.get() {
            self.slot.due.set(NEVER);
            self.slot.fired.set(true);
            return;
        }
        self.slot.fired.set(false);
        self.slot.due.set(due);
        if due < self.slot.at.get() {
            self.wheel.insert(Rc::clone(&self.slot), due);
        }
    }

    /// Completes once the limit has passed, and until the next one is set.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.slot.fired.get() {
            return Poll::Ready(());
        }
        let mut waker = self.slot.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Completes once the limit has passed.
    #[cfg(test)]
    async fn passed(&self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.slot.due.set(NEVER);
        self.slot.waker.borrow_mut().take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    async fn with_wheel<F: Future<Output = ()>>(test: impl FnOnce(Rc<Wheel>) -> F) {
        let wheel = Wheel::new();
        let driven = Rc::clone(&wheel);
        let running = test(wheel);
        tokio::select! {
            () = driven.drive() => {}
            () = running => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_passes_when_it_is_due_and_not_before() {
        with_wheel(|wheel| async move {
            for millis in [0, 1, 5, 7, 400, 5_115, 5_120, 5_125, 60_000, 3_600_000] {
                let timer = wheel.timer();
                let (from, limit) = (Instant::now(), Duration::from_millis(millis));
                timer.set(from + limit);
                timer.passed().await;
                let late = from.elapsed().checked_sub(limit).expect("not before it is due");
                assert!(late <= TICK * 2, "{millis} ms passed {late:?} late");
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_moved_holds_as_it_was_set_last() {
        with_wheel(|wheel| async move {
            let timer = wheel.timer();
            let from = Instant::now();
            timer.set(from + Duration::from_secs(10));
            timer.set(from + Duration::from_secs(1));
            timer.passed().await;
            assert!(from.elapsed() < Duration::from_millis(1_020));
            timer.set(Instant::now() + Duration::from_millis(50));
            for _ in 0..1_000 {
                timer.set(Instant::now() + Duration::from_millis(50));
                tokio::time::sleep(Duration::from_millis(20)).await;
                assert!(!timer.slot.fired.get());
            }
            assert!(wheel.held.get() <= 3, "a limit that moves on stays in its bucket");
            timer.slot.due.set(NEVER);
            let unset = tokio::time::timeout(Duration::from_secs(100), timer.passed()).await;
            assert!(unset.is_err());
            assert_eq!(wheel.held.get(), 0);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_limits_each_pass_once() {
        with_wheel(|wheel| async move {
            let passed = Rc::new(Cell::new(0));
            let each = (0..500u64).map(|number| {
                let (wheel, passed) = (Rc::clone(&wheel), Rc::clone(&passed));
                async move {
                    let timer = wheel.timer();
                    for round in 0..20 {
                        let limit = Duration::from_millis(
                            fastrand::Rng::with_seed(number * 31 + round).u64(0..9_000),
                        );
                        let from = Instant::now();
                        timer.set(from + limit);
                        timer.passed().await;
                        let late = from.elapsed().checked_sub(limit).expect("not before it is due");
                        assert!(late <= TICK * 2, "{late:?} late");
                        passed.set(passed.get() + 1);
                    }
                }
            });
            futures_util::future::join_all(each).await;
            assert_eq!(passed.get(), 10_000);
        })
        .await;
    }
}
