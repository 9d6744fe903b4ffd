//! How the authoritative server answers a batch of datagrams.
//!
//! A batch is answered against one served configuration, one reading of the clock and the board as it is then. What the
//! fast path does not answer, the general path does, at once and in the same batch.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, Cache};

use super::Exchange;
use crate::{
    fast::Scratch,
    gate::Guard,
    listeners::{
        batch::{Batch, Room},
        udp::{DatagramResponder, LateReplies},
    },
    metrics::{Metrics, Tally},
    packet::{Dropped, MAX_DATAGRAM, Response, Transport},
    respond::respond,
    served::Served,
    targets::Targets,
};

/// Answers the datagrams of one worker.
pub(super) struct Datagrams {
    exchange: Exchange,
    served: Cache<Arc<ArcSwap<Served>>, Arc<Served>>,
    targets: Cache<Arc<ArcSwap<Targets>>, Arc<Targets>>,
    scratch: Scratch,
}

impl Datagrams {
    pub(super) fn new(exchange: Exchange) -> Self {
        let served = Cache::new(Arc::clone(&exchange.served));
        let targets = Cache::new(Arc::clone(&exchange.targets));
        Self { exchange, served, targets, scratch: Scratch::default() }
    }
}

impl DatagramResponder for Datagrams {
    fn answer(&mut self, batch: &mut Batch, late: &LateReplies, tally: &mut Tally) {
        self.scratch.next_batch();
        let (exchange, scratch) = (&self.exchange, &mut self.scratch);
        let now = exchange.store.now();
        // The guard loads the secrets of cookies, which may change. Doing so for each query cost 50 of 1,810
        // instructions (callgrind).
        let guard = exchange.gate.at(now);
        let answering = Answering {
            served: self.served.load(),
            targets: self.targets.load(),
            exchange,
            late,
            guard,
            now,
        };
        batch.answer(|packet, peer, room| answering.reply(packet, peer, scratch, tally, room));
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.exchange.metrics
    }
}

/// What a batch is answered with.
struct Answering<'a> {
    served: &'a Served,
    targets: &'a Targets,
    exchange: &'a Exchange,
    late: &'a LateReplies,
    guard: Guard<'a>,
    now: store::model::Moment,
}

impl Answering<'_> {
    /// Writes the reply to a packet and returns its length; zero where there is none.
    fn reply(
        &self,
        packet: &[u8],
        peer: SocketAddr,
        scratch: &mut Scratch,
        tally: &mut Tally,
        room: Room<'_>,
    ) -> usize {
        if peer.port() == 0 {
            tally.record(&Err(Dropped::NoReturn));
            return 0;
        }
        if let Some(discovery) = &self.exchange.discovery {
            // The first question about a name waits for the first reading of it.
            if self.late.take(self.exchange, packet, peer) {
                return 0;
            }
            if let Some(outcome) = discovery.respond(packet, peer, (Transport::Udp, MAX_DATAGRAM)) {
                return put(outcome, tally, room);
            }
        }
        let lookup = self.served.lookup(self.targets, self.exchange.store.board(), self.now);
        let guard = self.guard;
        if let Some(fast) = self.served.table.reply(packet, peer.ip(), (lookup, guard), scratch, room.place) {
            tally.fast(fast);
            return fast.octets;
        }
        put(respond(packet, peer.ip(), Transport::Udp, Some(lookup), guard), tally, room)
    }
}

/// Counts what became of a packet, and hands on its reply; returns the length of the reply.
fn put(outcome: Result<Response, Dropped>, tally: &mut Tally, room: Room<'_>) -> usize {
    tally.record(&outcome);
    outcome.map_or(0, |response| room.put(response.bytes))
}
