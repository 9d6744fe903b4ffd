//! Datagrams: a thread per worker with a socket of its own, a batch at a time.
//!
//! The kernel spreads clients over the sockets (`SO_REUSEPORT`), so workers share nothing they write to: each has its
//! own memory and its own tally, which is added to the counters once per batch. A batch is answered against one
//! served world, one reading of the clock and the board as it is then; what a worker cannot answer on the fast
//! path it answers on the general one, at once and in the same batch.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::Cache;
use store::vital;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use super::{Answers as _, Exchange};
use crate::{
    fast::Scratch,
    gate::Guard,
    listeners::batch::{Batch, MAX_REPLY},
    metrics::Tally,
    packet::{Dropped, MAX_DATAGRAM, PAYLOAD, Response, Transport},
    respond::respond,
    served::Served,
    targets::Targets,
};

/// How long to wait after the system failed us, so that a lasting error does not spin.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a worker may sleep before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// The threads, and their end.
pub(super) struct Workers {
    stop: Arc<AtomicBool>,
    /// Nothing is ever sent: the last word of a thread is that its sender is gone.
    alive: Option<mpsc::Sender<()>>,
    ended: mpsc::Receiver<()>,
    broken: watch::Sender<bool>,
    threads: usize,
}

impl Default for Workers {
    fn default() -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self {
            stop: Arc::default(),
            alive: Some(alive),
            ended,
            broken: watch::Sender::new(false),
            threads: 0,
        }
    }
}

impl Workers {
    /// Starts a thread that answers what comes to a socket.
    pub(super) fn spawn(&mut self, socket: UdpSocket, exchange: Exchange) -> io::Result<()> {
        socket.set_read_timeout(Some(LOOK))?;
        let wildcard = socket.local_addr().is_ok_and(|address| address.ip().is_unspecified());
        let worker = Worker {
            socket: Arc::new(socket),
            wildcard,
            runtime: Handle::current(),
            exchange,
            stop: Arc::clone(&self.stop),
            broken: self.broken.clone(),
            _alive: self.alive.clone(),
        };
        std::thread::Builder::new()
            .name(format!("dns-udp-{}", self.threads))
            .spawn(move || vital::thread("a thread of DNS over UDP", || worker.serve()))?;
        self.threads += 1;
        Ok(())
    }

    /// Ready when a thread ended that was not told to.
    pub(super) async fn ended(&self) {
        // The sender is `self`'s own, so this does not end by its loss.
        let _ = self.broken.subscribe().wait_for(|broken| *broken).await;
    }

    /// Ends the threads, and waits until they have.
    pub(super) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.alive = None;
        while self.ended.recv().await.is_some() {}
    }
}

/// One thread's share of the work.
struct Worker {
    socket: Arc<UdpSocket>,
    /// It listens on every address. Replies then have to leave from the one that was asked, which only the batch sees
    /// to, and its places hold no more than [`MAX_REPLY`].
    wildcard: bool,
    /// For the rare query that has to wait.
    runtime: Handle,
    exchange: Exchange,
    stop: Arc<AtomicBool>,
    broken: watch::Sender<bool>,
    _alive: Option<mpsc::Sender<()>>,
}

impl Worker {
    fn serve(&self) {
        let mut batch = Batch::new(self.wildcard);
        let mut served = Cache::new(Arc::clone(&self.exchange.served));
        let mut targets = Cache::new(Arc::clone(&self.exchange.targets));
        let mut scratch = Scratch::default();
        let mut tally = Tally::default();
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(error) = batch.receive(&self.socket) {
                self.failed(&error);
                continue;
            }
            scratch.next_batch();
            let now = self.exchange.store.now();
            // The guard loads the secrets of cookies, which may change. Doing so for each query cost 50 of 1,810
            // instructions (callgrind).
            let guard = self.exchange.gate.at(now);
            let answering =
                Answering { served: served.load(), targets: targets.load(), worker: self, guard, now };
            batch
                .answer(|packet, peer, reply| answering.reply(packet, peer, &mut scratch, &mut tally, reply));
            tally.socket_errors += batch.send(&self.socket).failed;
            self.exchange.metrics.add(Transport::Udp, &mut tally);
        }
    }

    /// Answers about names of the registry, where they are offered and asked for; the first question about a name waits
    /// for its reading, on a task of its own.
    fn inside(&self, packet: &[u8], peer: SocketAddr, tally: &mut Tally, reply: &mut [u8]) -> Option<usize> {
        let discovery = self.exchange.discovery.as_ref()?;
        if let Some(wait) = discovery.wait(packet, peer) {
            let (exchange, socket, packet) =
                (self.exchange.clone(), Arc::clone(&self.socket), packet.to_vec());
            self.runtime.spawn(async move {
                wait.await;
                let Ok(reply) = exchange.reply(&packet, peer, Transport::Udp) else { return };
                if let Err(error) = socket.send_to(&reply, peer) {
                    tracing::debug!(%error, %peer, "sending a reply failed");
                    exchange.metrics.socket_errors.increment();
                }
            });
            return Some(0);
        }
        let room = if self.wildcard { PAYLOAD } else { MAX_DATAGRAM };
        let outcome = discovery.respond(packet, peer, (Transport::Udp, room))?;
        tally.record(&outcome);
        match &outcome {
            Ok(long) if long.bytes.len() > reply.len() => {
                self.send(&long.bytes, peer);
                Some(0)
            }
            _ => Some(put(&outcome, reply)),
        }
    }

    /// Sends a reply that has no place in the batch.
    fn send(&self, reply: &[u8], peer: SocketAddr) {
        if let Err(error) = self.socket.send_to(reply, peer) {
            tracing::debug!(%error, %peer, "sending a reply failed");
            self.exchange.metrics.socket_errors.increment();
        }
    }

    fn failed(&self, error: &io::Error) {
        use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        if matches!(error.kind(), Interrupted | TimedOut | WouldBlock) {
            return;
        }
        tracing::debug!(%error, "receiving datagrams failed");
        self.exchange.metrics.socket_errors.increment();
        std::thread::sleep(PAUSE);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.stop.load(Ordering::Relaxed) {
            self.broken.send_replace(true);
        }
    }
}

/// What a batch is answered with.
struct Answering<'a> {
    served: &'a Served,
    targets: &'a Targets,
    worker: &'a Worker,
    guard: Guard<'a>,
    now: store::model::Moment,
}

impl Answering<'_> {
    /// Writes the reply to a packet and says how long it is; zero: there is none.
    fn reply(
        &self,
        packet: &[u8],
        peer: SocketAddr,
        scratch: &mut Scratch,
        tally: &mut Tally,
        reply: &mut [u8],
    ) -> usize {
        if peer.port() == 0 {
            tally.record(&Err(Dropped::NoReturn));
            return 0;
        }
        if let Some(octets) = self.worker.inside(packet, peer, tally, reply) {
            return octets;
        }
        let lookup = self.served.lookup(self.targets, self.worker.exchange.store.board(), self.now);
        let guard = self.guard;
        if let Some(fast) = self.served.table.reply(packet, peer.ip(), (lookup, guard), scratch, reply) {
            tally.fast(fast);
            return fast.octets;
        }
        let outcome = respond(packet, peer.ip(), Transport::Udp, Some(lookup), guard);
        tally.record(&outcome);
        put(&outcome, reply)
    }
}

/// Copies a reply to where it is sent from.
fn put(outcome: &Result<Response, Dropped>, reply: &mut [u8]) -> usize {
    let Ok(Response { bytes, .. }) = outcome else { return 0 };
    match reply.get_mut(..bytes.len()) {
        Some(place) => place.copy_from_slice(bytes),
        None => debug_assert!(bytes.len() <= MAX_REPLY, "the general path knows its limit"),
    }
    bytes.len()
}
