//! DNS over a stream of octets, plain or encrypted: each message behind its length (RFC 1035 §4.2.2).
//!
//! One connection is served by two halves with a short queue between them: while replies are on their way, the next
//! queries are read and answered (RFC 7766 §6.2.1.1), in the order they came. The queue bounds a client that
//! sends queries and does not read: once it is full nothing more is read, and a reply that cannot be sent within the idle
//! limit ends the connection.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, split},
    sync::mpsc,
    time::timeout,
};

use super::{Responder, connection::ConnectionContext, end};

/// Replies that wait to be sent on one connection.
const REPLIES: usize = 8;
/// Octets read ahead on one connection.
const AHEAD: usize = 4096;

/// Why a connection ended.
#[derive(Debug)]
enum Ending {
    /// The client closed it, or this server ends.
    Orderly,
    /// No whole query came within the idle limit.
    Idle,
    /// A reply was not taken within the idle limit.
    Slow,
    /// The connection broke.
    Broken(io::Error),
}

/// Answers the queries of one connection until the client, an idle limit or the server's end ends it.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite, context: ConnectionContext<impl Responder>) {
    let (reader, writer) = split(stream);
    let (replies, queue) = mpsc::channel(REPLIES);
    let (reading, writing) = (read(reader, replies, context.clone()), send(writer, queue, context.idle));
    tokio::pin!(writing);
    let ending = tokio::select! {
        ending = reading => match writing.await {
            Ending::Orderly => ending,
            worse => worse,
        },
        // It ends first only when it fails: the other half holds its queue open.
        ending = &mut writing => ending,
    };
    let metrics = context.responder.metrics();
    match ending {
        Ending::Orderly => {}
        Ending::Idle => metrics.idle_connections.increment(),
        Ending::Slow => metrics.slow_connections.increment(),
        Ending::Broken(error) => tracing::debug!(%error, peer = %context.peer, "a connection broke"),
    }
}

/// Reads queries and puts their replies into the queue.
async fn read(
    reader: impl AsyncRead + Unpin,
    replies: mpsc::Sender<Vec<u8>>,
    mut context: ConnectionContext<impl Responder>,
) -> Ending {
    let mut reader = BufReader::with_capacity(AHEAD, reader);
    let mut query = Vec::new();
    loop {
        let read = tokio::select! {
            biased;
            () = end(&mut context.stopped) => return Ending::Orderly,
            read = timeout(context.idle, message(&mut reader, &mut query)) => read,
        };
        match read {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ending::Orderly,
            Ok(Err(error)) => return Ending::Broken(error),
            Err(_) => return Ending::Idle,
        }
        let Ok(reply) = context.reply(&query).await else { continue };
        if replies.send(reply).await.is_err() {
            return Ending::Orderly;
        }
    }
}

/// Reads one message; false where the stream ends instead. Memory is allocated as octets come, not as they are
/// announced.
async fn message(reader: &mut (impl AsyncRead + Unpin), query: &mut Vec<u8>) -> io::Result<bool> {
    query.clear();
    let length = match reader.read_u16().await {
        Ok(length) => u64::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    reader.take(length).read_to_end(query).await?;
    Ok(query.len() as u64 == length)
}

/// Sends what is in the queue, as much of it at once as there is.
async fn send(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Vec<u8>>,
    idle: Duration,
) -> Ending {
    let (mut replies, mut octets) = (Vec::with_capacity(REPLIES), Vec::new());
    while queue.recv_many(&mut replies, REPLIES).await > 0 {
        octets.clear();
        for reply in replies.drain(..) {
            // A reply is never longer than a stream's message may be.
            octets.extend_from_slice(&u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes());
            octets.extend_from_slice(&reply);
        }
        let sending = async {
            writer.write_all(&octets).await?;
            writer.flush().await
        };
        match timeout(idle, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Ending::Broken(error),
            Err(_) => return Ending::Slow,
        }
    }
    // Sends the transport's closing message where it has one (TLS close_notify), and does not wait for the client's.
    let _ = timeout(idle, writer.shutdown()).await;
    Ending::Orderly
}
