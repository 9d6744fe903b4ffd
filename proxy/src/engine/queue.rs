//! Waiting for one's turn where a service has limits: in line, for a bounded time, and only for as long as the client is
//! there.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{buffer::Buffers, client::Client, timer::Timer};
use crate::service::circuit::Full;

/// How often one who waits looks whether its instance may still be used.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why there was no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoTurn {
    /// Too many are served, and too many wait.
    Full,
    /// The time to wait is over.
    Late,
    /// The client is gone.
    ClientGone,
    /// It is not wanted any more.
    Moot,
}

/// How long it is waited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// For the turn.
    pub(crate) turn: Duration,
    /// After the client has ended its side.
    pub(crate) ended: Duration,
}

/// Waits for a turn. `waits` is called when it did not come at once; `is_moot` now and then.
pub(crate) async fn wait<T>(
    turn: impl Future<Output = Result<T, Full>>,
    client: &mut Client,
    (buffers, timer, bounds): (&Buffers, &Timer, Bounds),
    waits: impl FnOnce(),
    is_moot: impl Fn() -> bool,
) -> Result<T, NoTurn> {
    let mut turn = pin!(turn);
    let mut waits = Some(waits);
    let mut ends: Option<Instant> = None;
    let mut gone: Option<Instant> = None;
    poll_fn(|cx| {
        if let Poll::Ready(turn) = turn.as_mut().poll(cx) {
            return Poll::Ready(turn.map_err(|_| NoTurn::Full));
        }
        if let Some(waits) = waits.take() {
            waits();
        }
        if watch(client, cx, buffers).is_err() {
            return Poll::Ready(Err(NoTurn::ClientGone));
        }
        let now = Instant::now();
        if client.ended {
            gone.get_or_insert(now + bounds.ended);
        }
        let ends = *ends.get_or_insert(now + bounds.turn);
        if is_moot() {
            return Poll::Ready(Err(NoTurn::Moot));
        }
        loop {
            let now = Instant::now();
            if gone.is_some_and(|it| now >= it) {
                return Poll::Ready(Err(NoTurn::ClientGone));
            }
            if now >= ends {
                return Poll::Ready(Err(NoTurn::Late));
            }
            let next = gone.map_or(ends, |it| it.min(ends));
            timer.set(next.min(now + LOOK_EVERY));
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            if is_moot() {
                return Poll::Ready(Err(NoTurn::Moot));
            }
        }
    })
    .await
}

/// Reads ahead as far as there is room, to notice when the client is gone.
fn watch(client: &mut Client, cx: &mut Context<'_>, buffers: &Buffers) -> std::io::Result<()> {
    while !client.ended {
        match client.poll_input(cx, buffers) {
            Poll::Ready(read) => drop(read?),
            Poll::Pending => break,
        }
    }
    Ok(())
}
