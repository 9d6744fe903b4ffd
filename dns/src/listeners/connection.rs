//! What serving one connection needs over any transport: below the protocols, which need nothing else of the accept
//! loop.

use std::{net::SocketAddr, time::Duration};

use tokio::sync::watch;

use super::{Responder, limits::Limits};
use crate::{
    options,
    packet::{Dropped, Response, Transport},
};

/// What all listeners of a server share.
#[derive(Clone, Debug)]
pub(crate) struct ListenerContext<R> {
    /// Answers the packets of connections.
    pub(crate) responder: R,
    /// How many connections there may be, and for how long they may be idle.
    pub(crate) limits: Limits,
    /// True from the shutdown on.
    pub(crate) stopped: watch::Receiver<bool>,
}

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
    /// The reply to a packet as it is sent, or why it gets none.
    pub(crate) async fn reply(&self, packet: &[u8]) -> Result<Vec<u8>, Dropped> {
        self.respond(packet).await.map(|response| self.dress(response))
    }

    /// The reply to a packet, or why it gets none.
    pub(crate) async fn respond(&self, packet: &[u8]) -> Result<Response, Dropped> {
        if let Some(wait) = self.responder.wait(packet, self.peer) {
            wait.await;
        }
        self.responder.reply(packet, self.peer, self.transport)
    }

    /// A reply as it is sent over this connection.
    pub(crate) fn dress(&self, response: Response) -> Vec<u8> {
        options::dress(response, self.transport, self.idle)
    }
}
