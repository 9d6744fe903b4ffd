//! A connection that has switched to another protocol, such as WebSocket: octets in both directions until both have
//! ended.

use std::{future::poll_fn, io, task::Poll};

use tokio::time::Instant;

use super::worker::Worker;
use super::{
    buffer::Buffers,
    client::Client,
    exchange::Done,
    pump::{Broken, Pump, Sink, Source},
    stream::Stream,
    timer::Timer,
    upstream::InUse,
};

/// One direction.
#[derive(Debug)]
struct Direction {
    pump: Pump,
    /// All of it was passed on, and its end too.
    ended: bool,
}

impl Direction {
    fn new(text: Vec<u8>) -> Self {
        Self { pump: Pump::new(text, Source::UntilClose, Sink::Plain), ended: false }
    }

    fn poll(
        &mut self,
        cx: &mut std::task::Context<'_>,
        from: (Option<&mut Stream>, &mut Option<super::buffer::Buffer>),
        to: &mut Stream,
        buffers: &Buffers,
    ) -> Result<(), Broken> {
        if !self.ended
            && let Poll::Ready(passed) = self.pump.poll(cx, from, to, buffers)
        {
            passed?;
            match to.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.ended = true,
                Poll::Ready(Err(error)) => return Err(Broken::Sink(error)),
                Poll::Pending => {}
            }
        }
        Ok(())
    }
}

/// Passes octets on in both directions; `text` is the head that tells the client of the switch. Returns too how many came from
/// the client and from the instance.
pub(crate) async fn run(
    worker: &Worker,
    client: &mut Client,
    in_use: &mut InUse,
    text: Vec<u8>,
    timer: &Timer,
) -> (Done, Option<Broken>, (u64, u64)) {
    let (mut up, mut down) = (Direction::new(Vec::new()), Direction::new(text));
    let idle = worker.limits().upgrade_idle;
    let (mut passed, mut moved) = (0, Instant::now());
    let buffers = &worker.buffers;
    let ended = poll_fn(|cx| {
        if in_use.is_cut() {
            return Poll::Ready(Err(Broken::Cut));
        }
        let Some(connection) = in_use.connection() else { return Poll::Ready(Err(Broken::Short)) };
        let from = (Some(&mut client.stream), &mut client.input);
        let upward = up.poll(cx, from, &mut connection.stream, buffers);
        let upward = match upward {
            // An instance that takes nothing more may have said something before.
            Err(Broken::Sink(_)) => {
                up.ended = true;
                Ok(())
            }
            upward => upward,
        };
        let from = (Some(&mut connection.stream), &mut connection.input);
        let downward = down.poll(cx, from, &mut client.stream, buffers);
        match upward.and(downward) {
            Err(broken) => return Poll::Ready(Err(broken)),
            Ok(()) if up.ended && down.ended => return Poll::Ready(Ok(())),
            Ok(()) => {}
        }
        let now = Instant::now();
        if up.pump.passed + down.pump.passed != passed {
            (passed, moved) = (up.pump.passed + down.pump.passed, now);
        }
        timer.set(moved + idle);
        match timer.poll(cx) {
            Poll::Ready(()) if now >= moved + idle => {
                Poll::Ready(Err(Broken::Source(io::ErrorKind::TimedOut.into())))
            }
            Poll::Ready(()) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    });
    let ended = ended.await;
    in_use.close();
    let passed = (up.pump.passed, down.pump.passed);
    (if ended.is_ok() { Done::Close } else { Done::Abort }, ended.err(), passed)
}
