//! What serving one connection needs, whatever its transport: below the protocols, which need nothing else of the
//! accept loop.

use std::{net::SocketAddr, time::Duration};

use tokio::sync::watch;

use super::Responder;
use crate::{
    options,
    packet::{Dropped, Transport},
};

/// One connection: its client, its transport, what answers it and how long it may be idle.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionContext<R> {
    pub(crate) responder: R,
    pub(crate) peer: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) idle: Duration,
    pub(crate) stopped: watch::Receiver<bool>,
}

impl<R: Responder> ConnectionContext<R> {
    /// The reply to a packet, or why it gets none.
    pub(crate) async fn reply(&self, packet: &[u8]) -> Result<Vec<u8>, Dropped> {
        if let Some(wait) = self.responder.wait(packet, self.peer) {
            wait.await;
        }
        let reply = self.responder.reply(packet, self.peer, self.transport)?;
        Ok(options::dress(packet, reply, self.transport, self.idle))
    }
}
