//! DNS over QUIC (RFC 9250): every query on a stream of its own, behind its length.

use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{ConnectionContext, Responder, code, end};
use crate::packet::Dropped;

/// RFC 9250 §8.4: the connection ends, and nothing is wrong.
pub(super) const NO_ERROR: VarInt = code(0);
/// A defect of ours.
const INTERNAL_ERROR: VarInt = code(1);
/// The other side broke the protocol.
const PROTOCOL_ERROR: VarInt = code(2);
/// What is no longer waited for.
const REQUEST_CANCELLED: VarInt = code(3);
/// More than this server gives one client.
pub(super) const EXCESSIVE_LOAD: VarInt = code(4);

/// Octets of the length in front of a message.
const PREFIX: usize = 2;
/// The longest message with its length.
const MAX: usize = PREFIX + 65_535;

/// What ends the connection, because the client broke the protocol (RFC 9250 §4.3.3, §5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Violation(&'static str);

/// Answers the queries of one connection until the client, the idle limit or the server's end ends it.
pub(super) async fn serve(connection: Connection, mut context: ConnectionContext<impl Responder>) {
    let mut streams = JoinSet::new();
    let mut deadline = Instant::now() + context.idle;
    loop {
        tokio::select! {
            biased;
            () = end(&mut context.stopped) => break,
            Some(ended) = streams.join_next() => {
                if let Ok(Err(Violation(what))) = ended {
                    tracing::debug!(what, peer = %context.peer, "a client broke DNS over QUIC");
                    return connection.close(PROTOCOL_ERROR, what.as_bytes());
                }
                deadline = Instant::now() + context.idle;
            }
            stream = connection.accept_bi() => match stream {
                Ok((reply, query)) => drop(streams.spawn(exchange(reply, query, context.clone()))),
                Err(error) => {
                    tracing::debug!(%error, peer = %context.peer, "a QUIC connection ended");
                    return;
                }
            },
            () = sleep_until(deadline), if streams.is_empty() => {
                context.responder.metrics().idle_connections.increment();
                break;
            }
        }
    }
    // Every stream has a limit of its own.
    while streams.join_next().await.is_some() {}
    connection.close(NO_ERROR, b"");
}

/// Why a query gets no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unanswered {
    Violation(Violation),
    /// The client cancelled the query, or the connection is gone.
    GivenUp,
    /// The query did not come within the idle limit.
    Late,
    /// Answering it failed.
    Defect,
}

impl From<Violation> for Unanswered {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Reads one query and sends its reply, or resets the stream: a stream that ended without a reply would be a protocol
/// error of ours.
async fn exchange(
    mut reply: SendStream,
    mut query: RecvStream,
    context: ConnectionContext<impl Responder>,
) -> Result<(), Violation> {
    let unanswered = match answer(&mut query, &context).await {
        Ok(framed) => {
            send(&mut reply, &framed, &context).await;
            return Ok(());
        }
        Err(unanswered) => unanswered,
    };
    // These fail only where the stream ended already.
    let _ = query.stop(REQUEST_CANCELLED);
    let _ = reply.reset(match unanswered {
        Unanswered::Violation(_) => PROTOCOL_ERROR,
        // RFC 9250 §4.3.1: a query that is cancelled is answered with a reset.
        Unanswered::GivenUp | Unanswered::Late => REQUEST_CANCELLED,
        Unanswered::Defect => INTERNAL_ERROR,
    });
    match unanswered {
        Unanswered::Violation(violation) => Err(violation),
        Unanswered::GivenUp | Unanswered::Late | Unanswered::Defect => Ok(()),
    }
}

/// Reads a query, and gives the reply behind its length.
async fn answer(
    query: &mut RecvStream,
    context: &ConnectionContext<impl Responder>,
) -> Result<Vec<u8>, Unanswered> {
    let mut octets = Vec::new();
    match timeout(context.idle, read(query, &mut octets)).await {
        Ok(read) => read?,
        // A whole query, but the client did not end the stream.
        Err(_) if missing(&octets) == Some(0) => return Err(Violation("a stream without an end").into()),
        Err(_) => return Err(Unanswered::Late),
    }
    let reply = match context.respond(message(&octets)?).await {
        Ok(response) if response.requested.keepalive => {
            return Err(Violation("the option edns-tcp-keepalive").into());
        }
        Ok(response) => context.dress(response),
        Err(Dropped::Defect) => return Err(Unanswered::Defect),
        Err(_) => return Err(Violation("a message that is no query").into()),
    };
    // A reply is never longer than a stream's message may be.
    let length = u16::try_from(reply.len()).unwrap_or(u16::MAX);
    Ok([&length.to_be_bytes()[..], &reply].concat())
}

/// Reads a stream to its end, unless more comes than its first message.
async fn read(query: &mut RecvStream, octets: &mut Vec<u8>) -> Result<(), Unanswered> {
    loop {
        match query.read_chunk(MAX, true).await {
            Ok(Some(chunk)) => octets.extend_from_slice(&chunk.bytes),
            Ok(None) => return Ok(()),
            Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => return Err(Unanswered::GivenUp),
            // Not of ours: streams are read in order, without early data and only by this task.
            Err(_) => return Err(Unanswered::Defect),
        }
        if missing(octets).is_some_and(|missing| missing < 0) {
            return Err(Violation("more than one message on a stream").into());
        }
    }
}

async fn send(reply: &mut SendStream, framed: &[u8], context: &ConnectionContext<impl Responder>) {
    match timeout(context.idle, reply.write_all(framed)).await {
        Ok(Ok(())) => drop(reply.finish()),
        // The client does not want it any more.
        Ok(Err(_)) => {}
        Err(_) => {
            context.responder.metrics().slow_connections.increment();
            let _ = reply.reset(REQUEST_CANCELLED);
        }
    }
}

/// How many octets are missing from a stream's message (less than none: there are more than it has); `None` without a
/// whole length.
fn missing(octets: &[u8]) -> Option<i64> {
    let (length, message) = octets.split_first_chunk::<PREFIX>()?;
    let there = i64::try_from(message.len()).unwrap_or(i64::MAX);
    Some(i64::from(u16::from_be_bytes(*length)) - there)
}

/// The one message of a stream.
fn message(octets: &[u8]) -> Result<&[u8], Violation> {
    match missing(octets) {
        None | Some(1..) => return Err(Violation("a stream that ended before its message")),
        Some(..0) => return Err(Violation("more than one message on a stream")),
        Some(0) => {}
    }
    let message = octets.get(PREFIX..).unwrap_or_default();
    if message.get(..2).is_some_and(|id| id != [0, 0]) {
        return Err(Violation("a message ID that is not zero"));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_carries_one_message_with_the_id_zero() {
        let framed = |length: u16, message: &[u8]| [&length.to_be_bytes()[..], message].concat();
        assert_eq!(message(&framed(3, &[0, 0, 7])), Ok(&[0, 0, 7][..]));
        let short = Violation("a stream that ended before its message");
        for octets in [vec![], vec![0], framed(4, &[0, 0, 7])] {
            assert_eq!(message(&octets), Err(short), "{octets:?}");
        }
        let second = framed(2, &[0, 0, 7]);
        assert_eq!(message(&second), Err(Violation("more than one message on a stream")));
        assert_eq!(message(&framed(3, &[0, 1, 7])), Err(Violation("a message ID that is not zero")));
    }
}
