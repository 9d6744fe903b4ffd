//! A single worker, which accepts by itself.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::{Accepted, Closing, OPEN_AGAIN, PAUSE, Places, accept, is_of_one_connection};
use crate::listen::{Bound, open_shut};

/// A bound listener, as the runtime watches it.
#[derive(Debug)]
struct Watched(Bound);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.socket.as_raw_fd()
    }
}

#[expect(deprecated, reason = "what replaces it is unsafe; the descriptor of a `Watched` never changes")]
fn watched(bound: Bound) -> io::Result<AsyncFd<Watched>> {
    AsyncFd::new(Watched(bound))
}

#[derive(Debug)]
pub(super) struct Alone {
    listeners: Vec<AsyncFd<Watched>>,
    /// Those that are not open yet.
    shut: Vec<Bound>,
    /// The listener that is asked first, so that a busy one does not hold off the others.
    turn: usize,
    closing: Arc<Closing>,
    places: Arc<Places>,
}

impl Alone {
    pub(super) fn new(bound: Vec<Bound>, closing: Arc<Closing>, places: Arc<Places>) -> io::Result<Self> {
        let (shut, bound): (Vec<_>, Vec<_>) = bound.into_iter().partition(|it| it.shut);
        let listeners: io::Result<_> = bound.into_iter().map(watched).collect();
        Ok(Self { listeners: listeners?, shut, turn: 0, closing, places })
    }

    /// Opens those that were shut, once there is a certificate.
    fn open(&mut self, cx: &mut Context<'_>) {
        if self.shut.is_empty() || !self.closing.opens.load(Ordering::SeqCst) {
            return;
        }
        for bound in open_shut(&mut self.shut) {
            let address = bound.address;
            match watched(bound) {
                Ok(watched) => self.listeners.push(watched),
                Err(error) => tracing::error!(%address, %error, "cannot watch the listener for TLS"),
            }
        }
        if !self.shut.is_empty() {
            let waker = cx.waker().clone();
            drop(tokio::spawn(async move {
                tokio::time::sleep(OPEN_AGAIN).await;
                waker.wake();
            }));
        }
    }

    pub(super) async fn next(&mut self) -> Option<Accepted> {
        loop {
            match std::future::poll_fn(|cx| self.poll_accept(cx)).await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Accepted>, Errno>> {
        self.closing.alone.register(cx.waker());
        if self.closing.begun.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(self.last()));
        }
        self.open(cx);
        let listeners = self.listeners.len();
        for turn in self.turn..self.turn + listeners {
            let Some(listener) = self.listeners.get(turn % listeners) else { continue };
            while let Poll::Ready(ready) = listener.poll_read_ready(cx) {
                let Ok(mut ready) = ready else { break };
                match accept(&listener.get_ref().0, 0, &self.places) {
                    Ok(Some(accepted)) => {
                        self.turn = turn % listeners + 1;
                        return Poll::Ready(Ok(Some(accepted)));
                    }
                    Ok(None) => {}
                    Err(Errno::AGAIN) => ready.clear_ready(),
                    Err(error) if is_of_one_connection(error) => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        Poll::Pending
    }

    /// A connection that the system has completed already. When none is left, the sockets are closed.
    fn last(&mut self) -> Option<Accepted> {
        while let Some(listener) = self.listeners.last() {
            match accept(&listener.get_ref().0, 0, &self.places) {
                Ok(Some(accepted)) => return Some(accepted),
                Ok(None) => {}
                Err(error) if is_of_one_connection(error) => {}
                Err(_) => drop(self.listeners.pop()),
            }
        }
        None
    }
}
