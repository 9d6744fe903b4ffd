//! What serving one connection needs, whatever its transport: below the protocols, which need nothing else of the
//! accept loop.

use std::{net::SocketAddr, time::Duration};

use tokio::sync::watch;

use super::Answers;
use crate::{
    options,
    packet::{Dropped, Transport},
};

/// One connection: its client, its transport, what answers it and how long it may be idle.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionContext<A> {
    pub(crate) exchange: A,
    pub(crate) peer: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) idle: Duration,
    pub(crate) stopped: watch::Receiver<bool>,
}

impl<A: Answers> ConnectionContext<A> {
    /// The reply to a packet, or why it gets none.
    pub(crate) async fn reply(&self, packet: &[u8]) -> Result<Vec<u8>, Dropped> {
        if let Some(wait) = self.exchange.wait(packet, self.peer) {
            wait.await;
        }
        let reply = self.exchange.reply(packet, self.peer, self.transport)?;
        Ok(options::dress(packet, reply, self.transport, self.idle))
    }
}
