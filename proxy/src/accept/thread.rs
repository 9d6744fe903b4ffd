//! The thread that accepts for several workers.
//!
//! Its decisions are in [`Hand`]: which worker gets a connection, and what happens to connections that were not taken. The
//! loop around it waits for listening sockets and for the moment when a connection has waited too long.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};
use store::vital;
use tokio::time::Instant;

use super::{
    Accepted, Closing, Inbox, OPEN_AGAIN, PAUSE, Places, accept, inbox::PATIENCE, is_of_one_connection,
};
use crate::{
    listen::{Bound, open_shut},
    metrics::Metrics,
};

/// Connections accepted from one socket before the others are looked at.
const ROUND: usize = 64;
/// How often a connection is offered again that no inbox had room for.
const OFFER_AGAIN: Duration = Duration::from_millis(5);
/// How long at most the workers may take for what is in their inboxes when the thread ends.
const LAST: Duration = Duration::from_secs(1);

/// What wakes the thread.
pub(super) fn waker() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Starts the thread; it ends after the closing has begun.
pub(super) fn start(
    bound: Vec<Bound>,
    inboxes: Vec<Arc<Inbox<Accepted>>>,
    closing: Arc<Closing>,
    places: Arc<Places>,
    metrics: Arc<Metrics>,
) -> io::Result<()> {
    let hand = Hand { inboxes, places, metrics, turn: 0, left: VecDeque::new() };
    let run = move || vital::thread("the gateway's accepting", || run(bound, hand, &closing));
    std::thread::Builder::new().name("proxy-accept".to_owned()).spawn(run).map(drop)
}

fn run(bound: Vec<Bound>, mut hand: Hand, closing: &Closing) {
    let (mut shut, mut bound): (Vec<_>, Vec<_>) = bound.into_iter().partition(|it| it.shut);
    let (mut pause, mut opens) = (None, None);
    while !closing.begun.load(Ordering::SeqCst) {
        let now = Instant::now();
        if !shut.is_empty() && closing.opens.load(Ordering::SeqCst) && opens.is_none_or(|at| at <= now) {
            bound.extend(open_shut(&mut shut));
            opens = (!shut.is_empty()).then(|| now + OPEN_AGAIN);
        }
        pause = pause.filter(|until| *until > now);
        // While a connection found no room, further ones wait in the queues of the sockets.
        let accepting = pause.is_none() && hand.left.is_empty();
        let ready =
            wait(&bound, accepting, closing, hand.due(now).into_iter().chain(pause).chain(opens).min(), now);
        hand.offer_left();
        hand.pass_on(Instant::now());
        for bound in ready {
            if let Err(error) = hand.accept_from(bound) {
                tracing::error!(%error, "cannot accept connections");
                pause = Some(Instant::now() + PAUSE);
            }
        }
    }
    for bound in &bound {
        hand.accept_all(bound);
    }
    drop(bound);
    hand.finish();
}

/// Waits until a socket has a connection, for as long as `until`; gives the sockets that have.
fn wait<'b>(
    bound: &'b [Bound],
    accepting: bool,
    closing: &Closing,
    until: Option<Instant>,
    now: Instant,
) -> Vec<&'b Bound> {
    let sockets = if accepting { bound } else { &[] };
    let mut fds: Vec<_> = sockets.iter().map(|it| PollFd::new(&it.socket, PollFlags::IN)).collect();
    fds.extend(closing.thread.as_ref().map(|it| PollFd::new(it, PollFlags::IN)));
    let timeout = until.and_then(|until| Timespec::try_from(until.duration_since(now)).ok());
    // An error, as a signal that came, is as if nothing had.
    let _ = poll(&mut fds, timeout.as_ref());
    if let Some(thread) = &closing.thread {
        let _ = rustix::io::read(thread, &mut [0_u8; 8]);
    }
    let ready = sockets.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
    ready.map(|(bound, _)| bound).collect()
}

/// Hands connections to workers.
struct Hand {
    inboxes: Vec<Arc<Inbox<Accepted>>>,
    places: Arc<Places>,
    metrics: Arc<Metrics>,
    /// The worker that is preferred where several have the fewest.
    turn: usize,
    /// Connections that no inbox had room for.
    left: VecDeque<Accepted>,
}

impl Hand {
    /// Accepts some connections of a socket.
    fn accept_from(&mut self, bound: &Bound) -> Result<(), Errno> {
        for _ in 0..ROUND {
            match accept(bound, self.choose(), &self.places) {
                Ok(Some(accepted)) => {
                    self.hand(accepted);
                    if !self.left.is_empty() {
                        return Ok(());
                    }
                }
                Ok(None) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) if is_of_one_connection(error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Accepts every connection of a socket that is about to be closed.
    fn accept_all(&mut self, bound: &Bound) {
        loop {
            match accept(bound, self.choose(), &self.places) {
                Ok(Some(accepted)) => self.hand(accepted),
                Ok(None) => {}
                Err(error) if is_of_one_connection(error) => {}
                Err(_) => return,
            }
        }
    }

    /// The worker with the fewest connections, among those that are not stalled if there are any.
    fn choose(&mut self) -> usize {
        let workers = self.inboxes.len();
        self.turn = (self.turn + 1) % workers;
        let load = |worker: &usize| {
            let shunned = self.inboxes.get(*worker).is_none_or(|it| it.is_shunned());
            (shunned, self.places.of(*worker))
        };
        let in_turn = (self.turn..self.turn + workers).map(|it| it % workers);
        in_turn.min_by_key(load).unwrap_or(0)
    }

    /// Gives a connection to the worker that it is counted for, or to any other that takes it.
    fn hand(&mut self, accepted: Accepted) {
        let (now, workers) = (Instant::now(), self.inboxes.len());
        let first = accepted.place.worker();
        let mut left = Some(accepted);
        for worker in (first..first + workers).map(|it| it % workers) {
            let (Some(mut accepted), Some(inbox)) = (left.take(), self.inboxes.get(worker)) else { return };
            accepted.place.move_to(worker);
            left = inbox.put(accepted, now).err();
        }
        self.left.extend(left);
    }

    /// Offers again what found no room.
    fn offer_left(&mut self) {
        for accepted in std::mem::take(&mut self.left) {
            self.hand(accepted);
        }
    }

    /// Takes from workers what they have not taken in time, and gives it to others.
    fn pass_on(&mut self, now: Instant) {
        if !self.another_is_well() {
            return;
        }
        for inbox in self.inboxes.clone() {
            for (_, mut accepted) in inbox.take_back(now) {
                self.metrics.connections_moved.increment();
                accepted.place.move_to(self.choose());
                self.hand(accepted);
            }
        }
    }

    /// True if some worker has nothing that waits too long. Else moving connections around gains nothing.
    fn another_is_well(&self) -> bool {
        let now = Instant::now();
        self.inboxes.iter().any(|it| !it.is_shunned() && it.due().is_none_or(|due| due > now))
    }

    /// When to look next.
    fn due(&self, now: Instant) -> Option<Instant> {
        if !self.left.is_empty() {
            return Some(now + OFFER_AGAIN);
        }
        let due = self.inboxes.iter().filter_map(|it| it.due()).min()?;
        // What is due already could not be passed on.
        Some(if due <= now { now + PATIENCE / 4 } else { due })
    }

    /// Waits until the workers have taken everything, then tells them that nothing comes any more.
    fn finish(&mut self) {
        let (begin, mut now) = (Instant::now(), Instant::now());
        while let Some(due) = self.due(now).filter(|_| now < begin + LAST) {
            std::thread::sleep((due - now).min(Duration::from_millis(1)));
            now = Instant::now();
            self.offer_left();
            self.pass_on(now);
        }
        self.inboxes.iter().for_each(|it| it.close());
    }
}
