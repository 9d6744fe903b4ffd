//! Datagrams: a thread per worker with a socket of its own, a batch at a time.
//!
//! The kernel spreads clients over the sockets (`SO_REUSEPORT`), so workers share nothing they write to: each has its
//! own memory and its own tally, which is added to the counters once per batch. What answers a batch is a type
//! parameter, because a call through a table for each query would cost the fast path.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use store::vital;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use super::{Responder, batch::Batch};
use crate::{
    metrics::{Metrics, Tally},
    packet::Transport,
};

/// Answers the datagrams of one worker, which owns it.
pub(crate) trait DatagramResponder: Send + 'static {
    /// Answers every datagram of a batch, and counts them.
    fn answer(&mut self, batch: &mut Batch, late: &LateReplies, tally: &mut Tally);

    /// The counters of its socket.
    fn metrics(&self) -> &Arc<Metrics>;
}

/// How long to wait after the system failed us, so that a lasting error does not spin.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a worker may sleep before it checks whether it has to end.
const LOOK: Duration = Duration::from_millis(100);

/// The threads, and their end.
pub(crate) struct Workers {
    name: &'static str,
    stop: Arc<AtomicBool>,
    /// Nothing is ever sent: a thread has ended when its sender is gone.
    alive: Option<mpsc::Sender<()>>,
    ended: mpsc::Receiver<()>,
    broken: watch::Sender<bool>,
    threads: usize,
}

impl Workers {
    /// No threads yet; those that are started have this name and a number.
    pub(crate) fn new(name: &'static str) -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self {
            name,
            stop: Arc::default(),
            alive: Some(alive),
            ended,
            broken: watch::Sender::new(false),
            threads: 0,
        }
    }

    /// Starts a thread that answers what comes to a socket.
    pub(crate) fn spawn(&mut self, socket: UdpSocket, responder: impl DatagramResponder) -> io::Result<()> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(LOOK))?;
        let wildcard = socket.local_addr().is_ok_and(|address| address.ip().is_unspecified());
        let mut worker = Worker {
            late: LateReplies { socket: Arc::new(socket), runtime: Handle::current() },
            wildcard,
            responder,
            stop: Arc::clone(&self.stop),
            broken: self.broken.clone(),
            _alive: self.alive.clone(),
        };
        std::thread::Builder::new()
            .name(format!("{}-{}", self.name, self.threads))
            .spawn(move || vital::thread("a thread of DNS over UDP", || worker.serve()))?;
        self.threads += 1;
        Ok(())
    }

    /// Ready when a thread ended by itself.
    pub(crate) async fn ended(&self) {
        // The sender is `self`'s own, so this does not end by its loss.
        let _ = self.broken.subscribe().wait_for(|broken| *broken).await;
    }

    /// Ends the threads, and waits until they have ended.
    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.alive = None;
        while self.ended.recv().await.is_some() {}
    }
}

/// Replies that are not there when their batch is sent, because they have to wait for something.
pub(crate) struct LateReplies {
    socket: Arc<UdpSocket>,
    runtime: Handle,
}

impl LateReplies {
    /// Whether the reply to a packet has to wait. It is then sent later, from a task of its own.
    pub(crate) fn take(&self, responder: &impl Responder, packet: &[u8], peer: SocketAddr) -> bool {
        let Some(wait) = responder.wait(packet, peer) else { return false };
        let (socket, responder, packet) = (Arc::clone(&self.socket), responder.clone(), packet.to_vec());
        self.runtime.spawn(async move {
            wait.await;
            let Ok(reply) = responder.reply(&packet, peer, Transport::Udp) else { return };
            if let Err(error) = socket.send_to(&reply.bytes, peer) {
                tracing::debug!(%error, %peer, "sending a reply failed");
                responder.metrics().socket_errors.increment();
            }
        });
        true
    }
}

/// Answers each datagram by itself, as the packets of connections are answered: for servers without a fast path.
pub(crate) struct OneByOne<R>(pub(crate) R);

impl<R: Responder> DatagramResponder for OneByOne<R> {
    fn answer(&mut self, batch: &mut Batch, late: &LateReplies, _: &mut Tally) {
        let Self(responder) = self;
        batch.answer(|packet, peer, room| {
            if late.take(responder, packet, peer) {
                return 0;
            }
            responder.reply(packet, peer, Transport::Udp).map_or(0, |reply| room.put(reply.bytes))
        });
    }

    fn metrics(&self) -> &Arc<Metrics> {
        self.0.metrics()
    }
}

/// One thread's share of the work.
struct Worker<R> {
    late: LateReplies,
    /// It listens on every address, so the batch has to choose the address that a reply leaves from.
    wildcard: bool,
    responder: R,
    stop: Arc<AtomicBool>,
    broken: watch::Sender<bool>,
    _alive: Option<mpsc::Sender<()>>,
}

impl<R: DatagramResponder> Worker<R> {
    fn serve(&mut self) {
        let mut batch = Batch::new(self.wildcard);
        let mut tally = Tally::default();
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(error) = batch.receive(&self.late.socket) {
                self.failed(&error);
                continue;
            }
            self.responder.answer(&mut batch, &self.late, &mut tally);
            tally.socket_errors += batch.send(&self.late.socket).failed;
            self.responder.metrics().add(Transport::Udp, &mut tally);
        }
    }

    fn failed(&self, error: &io::Error) {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        if matches!(error.kind(), Interrupted | TimedOut | WouldBlock) {
            return;
        }
        tracing::debug!(%error, "receiving datagrams failed");
        self.responder.metrics().socket_errors.increment();
        std::thread::sleep(PAUSE);
    }
}

impl<R> Drop for Worker<R> {
    fn drop(&mut self) {
        if !self.stop.load(Ordering::Relaxed) {
            self.broken.send_replace(true);
        }
    }
}
