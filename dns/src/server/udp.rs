//! Datagrams: each is answered before the next is taken, so nothing can pile up here.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::UdpSocket, sync::watch, task::JoinSet};

use super::{Answers as _, Exchange, end};
use crate::respond::Transport;

/// Queries are far shorter; what is cut off here cannot be read and is answered so.
const LONGEST: usize = 4096;

/// How long to wait after the system failed us, so that a lasting error does not spin.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn serve(socket: Arc<UdpSocket>, exchange: Exchange, mut stopped: watch::Receiver<bool>) {
    let mut buffer = [0; LONGEST];
    let mut waiting = JoinSet::new();
    loop {
        let received = tokio::select! {
            biased;
            () = end(&mut stopped) => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (octets, peer) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receiving a datagram failed");
                exchange.metrics.socket_errors.increment();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while waiting.try_join_next().is_some() {}
        let packet = buffer.get(..octets).unwrap_or_default();
        match exchange.wait(packet, peer) {
            None => answer(&socket, &exchange, packet, peer).await,
            Some(wait) => {
                let (socket, exchange, packet) = (Arc::clone(&socket), exchange.clone(), packet.to_vec());
                waiting.spawn(async move {
                    wait.await;
                    answer(&socket, &exchange, &packet, peer).await;
                });
            }
        }
    }
}

async fn answer(socket: &UdpSocket, exchange: &Exchange, packet: &[u8], peer: SocketAddr) {
    let Some(reply) = exchange.reply(packet, peer, Transport::Udp) else { return };
    if let Err(error) = socket.send_to(&reply, peer).await {
        tracing::debug!(%error, %peer, "sending a reply failed");
        exchange.metrics.socket_errors.increment();
    }
}
