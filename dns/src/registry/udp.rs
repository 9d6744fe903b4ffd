//! Datagrams of the registry's server: each is answered before the next is taken, so nothing can pile up here. Replies
//! leave from the address that was asked, also where the server listens on every address.

use std::{sync::Arc, time::Duration};

use tokio::{io::Interest, net::UdpSocket, sync::watch};

use crate::{
    listeners::{
        Answers,
        batch::{receive_one, send_one},
        end,
    },
    packet::Transport,
};

/// Queries are far shorter; what is cut off here cannot be read and is answered so.
const MAX: usize = 4096;

/// How long to wait after the system failed us, so that a lasting error does not spin.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn serve(socket: Arc<UdpSocket>, answers: impl Answers, mut stopped: watch::Receiver<bool>) {
    let mut buffer = [0; MAX];
    loop {
        let received = tokio::select! {
            biased;
            () = end(&mut stopped) => return,
            received = socket.async_io(Interest::READABLE, || receive_one(&socket, &mut buffer)) => received,
        };
        let (octets, peer, asked) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receiving a datagram failed");
                answers.metrics().socket_errors.increment();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let packet = buffer.get(..octets).unwrap_or_default();
        let Ok(reply) = answers.reply(packet, peer, Transport::Udp) else { continue };
        let sent = socket.async_io(Interest::WRITABLE, || send_one(&socket, &reply, peer, &asked)).await;
        if let Err(error) = sent {
            tracing::debug!(%error, %peer, "sending a reply failed");
            answers.metrics().socket_errors.increment();
        }
    }
}
