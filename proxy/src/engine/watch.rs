//! What ends an attempt that does not get on: its client is gone, or a time limit has passed.

use std::task::{Context, Poll};

use tokio::time::Instant;

use super::{
    exchange::{Exchange, Seen},
    failure::{Failure, Late},
    pump::Waits,
};
use crate::limit::Limit;

impl Exchange<'_> {
    /// Notices that the client is gone, or has ended its side. For that it reads ahead, as far as there is room.
    pub(super) fn watch_client(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let waits_for_body = !self.uploaded && !self.refused && self.held.is_none();
        if waits_for_body {
            return Ok(());
        }
        while !self.client.ended {
            match self.client.poll_input(cx, &self.worker.buffers) {
                Poll::Ready(Ok(0)) if !self.uploaded && !self.refused => return Err(Failure::ClientShort),
                Poll::Ready(Ok(0)) => self.ended = Some(Instant::now()),
                Poll::Ready(Ok(_)) => {
                    // The body comes although the client asked for a 100 first.
                    if self.held.take().is_some() {
                        cx.waker().wake_by_ref();
                        break;
                    }
                }
                Poll::Ready(Err(_)) => return Err(Failure::ClientGone),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Completes when the client is gone or the request's time is over, while its own attempt has failed and copies are under
    /// way.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        self.uploaded = true;
        if let Err(gone) = self.watch_client(cx) {
            return Poll::Ready(gone);
        }
        let gone = self.ended.map(|it| it + self.worker.limits().client_fin_timeout);
        let ends = [(gone, Failure::ClientGone), (self.times.total, Failure::Late(Late::Total))];
        for (end, failure) in ends {
            if end.is_some_and(|it| Instant::now() >= it) {
                return Poll::Ready(failure);
            }
        }
        if let Some(end) = gone.into_iter().chain(self.times.total).min() {
            self.timer.set(end);
            while self.timer.poll(cx).is_ready() {
                if Instant::now() >= end {
                    return self.poll_end(cx);
                }
                self.timer.set(end);
            }
        }
        Poll::Pending
    }

    /// Completes when a limit has passed.
    pub(super) fn poll_time(&self, cx: &mut Context<'_>) -> Poll<()> {
        let limits = self.worker.limits();
        let mut next = if self.uploaded || self.refused {
            self.asked + self.times.first_byte
        } else if let Some(since) = self.held {
            since + limits.continue_timeout
        } else {
            self.patience.ends()
        };
        if let Some(ended) = self.ended {
            next = next.min(ended + limits.client_fin_timeout);
        }
        // The time that a client takes is not the attempt's.
        let try_ends = self.try_ends.filter(|_| !self.waits_for_client());
        for end in [self.times.total, try_ends].into_iter().flatten() {
            next = next.min(end);
        }
        self.timer.set(next);
        self.timer.poll(cx)
    }

    /// What follows from the time.
    pub(super) fn judge(&mut self, now: Instant) -> Option<Result<Seen, Failure>> {
        let limits = self.worker.limits();
        if self.ended.is_some_and(|it| now >= it + limits.client_fin_timeout) {
            self.worker.metrics().met(Limit::ClientEnded);
            return Some(Err(Failure::ClientGone));
        }
        if self.times.total.is_some_and(|it| now >= it) {
            return Some(Err(Failure::Late(Late::Total)));
        }
        if self.try_ends.is_some_and(|it| now >= it) && !self.waits_for_client() {
            return Some(Err(Failure::Late(Late::Try)));
        }
        if self.uploaded || self.refused {
            return (now >= self.asked + self.times.first_byte)
                .then_some(Err(Failure::Late(Late::FirstByte)));
        }
        if let Some(since) = self.held {
            let is_over = now >= since + limits.continue_timeout;
            if is_over {
                self.worker.metrics().met(Limit::Continue);
            }
            return is_over.then_some(Ok(Seen::Unheld));
        }
        self.patience.over(now).map(|side| match side {
            Waits::Source => Err(Failure::ClientLate { slowly: self.patience.is_rate(now) }),
            Waits::Sink => Err(Failure::Late(Late::Upload)),
        })
    }
}
