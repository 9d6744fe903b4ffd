//! Connections: framed and timed by `hickory-server`, accepted and counted here.
//!
//! The library's own accept loop opens as many connections as there are clients, ends for good when a client
//! gives up during the handshake, and spins while the process is out of file descriptors.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use hickory_proto::op::SerialMessage;
use hickory_server::{
    net::{DnsStreamHandle as _, runtime::iocompat::AsyncIoTokioAsStd, tcp::TcpStream as Framed},
    server::TimeoutStream,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{Answers, end};
use crate::{metrics::OpenConnection, respond::Transport};

/// What one listener allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    pub(crate) idle: Duration,
}

/// How long to wait when the process is out of file descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Replies that wait to be sent on one connection; one is written before the next query is read.
const REPLIES: usize = 4;

pub(crate) async fn serve(
    listener: TcpListener,
    limits: Limits,
    exchange: impl Answers,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = end(&mut stopped) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(_) if connections.len() >= limits.connections => {
                exchange.metrics().refused_connections.increment();
            }
            Ok((stream, peer)) => {
                let open = OpenConnection::new(exchange.metrics());
                let talk = converse(stream, peer, limits.idle, exchange.clone(), stopped.clone());
                connections.spawn(async move {
                    talk.await;
                    drop(open);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection failed");
                exchange.metrics().socket_errors.increment();
                if !is_the_clients(&error) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Errors of the one connection that was to be accepted (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Answers the queries of one connection in their order (RFC 7766 §6.2.1.1), until the client or the idle limit
/// ends it.
async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    idle: Duration,
    exchange: impl Answers,
    mut stopped: watch::Receiver<bool>,
) {
    let metrics = Arc::clone(exchange.metrics());
    let (framed, mut replies) =
        Framed::from_stream_with_buffer_size(AsyncIoTokioAsStd(stream), peer, REPLIES);
    let mut framed = TimeoutStream::new(framed, idle);
    loop {
        // The stream first: polling it is also what sends the reply before.
        let message = tokio::select! {
            biased;
            message = framed.next() => message,
            () = end(&mut stopped) => return,
        };
        match message {
            Some(Ok(message)) => {
                if let Some(wait) = exchange.wait(message.bytes(), peer) {
                    wait.await;
                }
                let Some(reply) = exchange.reply(message.bytes(), peer, Transport::Tcp) else { continue };
                if replies.send(SerialMessage::new(reply, peer)).is_err() {
                    return metrics.socket_errors.increment();
                }
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                return metrics.idle_connections.increment();
            }
            Some(Err(error)) => return tracing::debug!(%error, %peer, "a connection broke"),
            None => return,
        }
    }
}
