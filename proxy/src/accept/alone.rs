//! A single worker, which accepts by itself.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::{Accepted, Closing, PAUSE, Places, accept, is_of_one_connection};
use crate::listen::Bound;

/// A bound listener, as the runtime watches it.
#[derive(Debug)]
struct Watched(Bound);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.socket.as_raw_fd()
    }
}

#[derive(Debug)]
pub(super) struct Alone {
    listeners: Vec<AsyncFd<Watched>>,
    /// The listener that is asked first, so that a busy one does not hold off the others.
    turn: usize,
    closing: Arc<Closing>,
    places: Arc<Places>,
}

impl Alone {
    #[expect(deprecated, reason = "what replaces it is unsafe; the descriptor of a `Watched` never changes")]
    pub(super) fn new(bound: Vec<Bound>, closing: Arc<Closing>, places: Arc<Places>) -> io::Result<Self> {
        let listeners: io::Result<_> = bound.into_iter().map(|it| AsyncFd::new(Watched(it))).collect();
        Ok(Self { listeners: listeners?, turn: 0, closing, places })
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
