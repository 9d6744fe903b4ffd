//! A connection that has switched to another protocol, such as WebSocket: octets in both directions until both have
//! ended.
//!
//! Nothing is known of the protocol, so nothing is asked of those who send but that one of them sends something now and then
//! (`upgrade_idle`). Those who receive take what waits for them as fast as clients take responses (`send_timeout`,
//! `min_response_rate`): one that does not read would hold two sockets and their buffers.

use std::{
    borrow::Cow,
    future::poll_fn,
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::worker::Worker;
use super::{
    buffer::{Buffer, Buffers},
    client::Client,
    patience::{Demand, Patience},
    pump::{Broken, Pump, Sink, Source, Waits},
    stream::Stream,
    timer::Timer,
    upstream::InUse,
};
use crate::{answers::Reason, config::Limits, limit::Limit};

/// How an upgraded connection has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Both sides have ended it by themselves.
    pub(crate) is_whole: bool,
    /// Why it has not ended well.
    pub(crate) reason: Option<Reason>,
    /// What exactly happened.
    pub(crate) words: Cow<'static, str>,
    /// Octets of the client and of the instance.
    pub(crate) passed: (u64, u64),
}

/// Why one broke off.
#[derive(Debug)]
enum Why {
    Cut,
    Idle,
    Client(Broken),
    Instance(Broken),
    /// The client does not take what the instance sends; `slowly`: it takes something.
    ClientSlow {
        slowly: bool,
    },
    /// The instance does not take what the client sends.
    InstanceSlow {
        slowly: bool,
    },
}

impl Why {
    fn reason(&self, worker: &Worker) -> Option<Reason> {
        match self {
            Self::Cut => Some(worker.reason_of_cut()),
            Self::Idle => Some(Reason::UpgradeIdle),
            Self::Client(_) => Some(Reason::ClientGone),
            Self::Instance(_) => Some(Reason::AnswerCut),
            Self::ClientSlow { .. } => Some(Reason::ClientNotReading),
            Self::InstanceSlow { .. } => Some(Reason::BodyNotTaken),
        }
    }

    fn words(&self) -> Cow<'static, str> {
        match self {
            Self::Client(broken) | Self::Instance(broken) => broken.words(),
            Self::Cut | Self::Idle => "".into(),
            Self::ClientSlow { slowly } | Self::InstanceSlow { slowly } => {
                if *slowly { "it reads too slowly" } else { "it reads nothing" }.into()
            }
        }
    }

    fn count(&self, worker: &Worker) {
        match self {
            Self::Cut => worker.count_cut(),
            Self::Idle => worker.metrics().met(Limit::UpgradeIdle),
            Self::ClientSlow { slowly: true } | Self::InstanceSlow { slowly: true } => {
                worker.metrics().met(Limit::ClientRate);
            }
            Self::ClientSlow { .. } | Self::InstanceSlow { .. } => {
                worker.metrics().met(Limit::ClientTakesNothing);
            }
            Self::Client(_) | Self::Instance(_) => {}
        }
    }
}

/// One direction.
#[derive(Debug)]
struct Direction {
    pump: Pump,
    patience: Patience,
    /// All of it was passed on, and its end too.
    ended: bool,
}

impl Direction {
    fn new(text: Vec<u8>, limits: &Limits, now: Instant) -> Self {
        let grace = limits.rate_grace;
        let sends = Demand { silent: Limits::NO_LIMIT, rate: 0, grace };
        let takes = Demand { silent: limits.send_timeout, rate: limits.min_response_rate, grace };
        let pump = Pump::new(text, Source::UntilClose, Sink::Plain);
        Self { pump, patience: Patience::new(sends, takes, now), ended: false }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: (Option<&mut Stream>, &mut Option<Buffer>),
        to: &mut Stream,
        buffers: &Buffers,
    ) -> Result<(), Broken> {
        if self.ended {
            return Ok(());
        }
        match self.pump.poll(cx, from, to, buffers) {
            Poll::Ready(passed) => {
                passed?;
                match to.poll_end(cx, true) {
                    Poll::Ready(Ok(())) => self.ended = true,
                    Poll::Ready(Err(error)) => return Err(Broken::Sink(error)),
                    Poll::Pending => {}
                }
            }
            Poll::Pending => self.patience.note(&self.pump, Instant::now()),
        }
        Ok(())
    }

    /// When the side that receives has had its time.
    fn ends(&self) -> Option<Instant> {
        (!self.ended).then(|| self.patience.ends())
    }

    /// The side that receives has had its time; whether it took something in it.
    fn is_over(&self, now: Instant) -> Option<bool> {
        let over = !self.ended && self.patience.over(now) == Some(Waits::Sink);
        over.then(|| self.patience.is_rate(now))
    }
}

/// An upgraded connection.
struct Tunnel<'a> {
    worker: &'a Worker,
    up: Direction,
    down: Direction,
    /// Octets passed on until something moved last, and when that was.
    moved: (u64, Instant),
}

impl Tunnel<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client,
        in_use: &mut InUse,
        timer: &Timer,
    ) -> Poll<Result<(), Why>> {
        if in_use.is_cut() {
            return Poll::Ready(Err(Why::Cut));
        }
        let Some(connection) = in_use.connection() else {
            return Poll::Ready(Err(Why::Instance(Broken::Short)));
        };
        let buffers = &self.worker.buffers;
        let from = (Some(&mut client.stream), &mut client.input);
        let upward = match self.up.poll(cx, from, &mut connection.stream, buffers) {
            // An instance that takes nothing more may have said something before.
            Err(Broken::Sink(_)) => {
                self.up.ended = true;
                Ok(())
            }
            upward => upward.map_err(Why::Client),
        };
        let from = (Some(&mut connection.stream), &mut connection.input);
        let downward = self.down.poll(cx, from, &mut client.stream, buffers).map_err(|broken| match broken {
            Broken::Sink(_) => Why::Client(broken),
            broken => Why::Instance(broken),
        });
        match upward.and(downward) {
            Err(why) => return Poll::Ready(Err(why)),
            Ok(()) if self.up.ended && self.down.ended => return Poll::Ready(Ok(())),
            Ok(()) => {}
        }
        self.poll_time(cx, timer).map(Err)
    }

    /// Completes when a limit has passed.
    fn poll_time(&mut self, cx: &mut Context<'_>, timer: &Timer) -> Poll<Why> {
        let passed = self.up.pump.passed + self.down.pump.passed;
        if passed != self.moved.0 {
            self.moved = (passed, Instant::now());
        }
        let idle = self.moved.1 + self.worker.limits().upgrade_idle;
        let ends = [self.up.ends(), self.down.ends()].into_iter().flatten().fold(idle, Instant::min);
        loop {
            timer.set(ends);
            if timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if let Some(slowly) = self.down.is_over(now) {
                return Poll::Ready(Why::ClientSlow { slowly });
            }
            if let Some(slowly) = self.up.is_over(now) {
                return Poll::Ready(Why::InstanceSlow { slowly });
            }
            if now >= idle {
                return Poll::Ready(Why::Idle);
            }
        }
    }
}

/// Passes octets on in both directions; `text` is the head that tells the client of the switch.
pub(crate) async fn run(
    worker: &Worker,
    client: &mut Client,
    in_use: &mut InUse,
    text: Vec<u8>,
    timer: &Timer,
) -> Ended {
    let (limits, now) = (worker.limits(), Instant::now());
    let (up, down) = (Direction::new(Vec::new(), limits, now), Direction::new(text, limits, now));
    let mut tunnel = Tunnel { worker, up, down, moved: (0, now) };
    let ended = poll_fn(|cx| tunnel.poll(cx, client, in_use, timer)).await;
    in_use.close();
    let passed = (tunnel.up.pump.passed, tunnel.down.pump.passed);
    match ended {
        Ok(()) => Ended { is_whole: true, reason: None, words: "".into(), passed },
        Err(why) => {
            why.count(worker);
            Ended { is_whole: false, reason: why.reason(worker), words: why.words(), passed }
        }
    }
}
