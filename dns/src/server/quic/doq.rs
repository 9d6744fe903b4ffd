//! DNS over QUIC (RFC 9250): every query on a stream of its own, behind its length.

use quinn::{Connection, ReadToEndError, RecvStream, SendStream, VarInt};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{Answers, Line, code, end};
use crate::options;

/// RFC 9250 §8.4: the connection ends, and nothing is wrong.
pub(super) const NO_ERROR: VarInt = code(0);
/// The other side broke the protocol.
const PROTOCOL_ERROR: VarInt = code(2);
/// What is no longer waited for.
const REQUEST_CANCELLED: VarInt = code(3);
/// More than this server gives one client.
pub(super) const EXCESSIVE_LOAD: VarInt = code(4);

/// Octets of the length in front of a message.
const PREFIX: usize = 2;
/// The longest message with its length.
const LONGEST: usize = PREFIX + 65_535;

/// What ends the connection, because the client broke the protocol (RFC 9250 §4.3.3, §5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Violation(&'static str);

/// Answers the queries of one connection until the client, the idle limit or the server's end ends it.
pub(super) async fn serve(connection: Connection, mut line: Line<impl Answers>) {
    let mut streams = JoinSet::new();
    let mut deadline = Instant::now() + line.idle;
    loop {
        tokio::select! {
            biased;
            () = end(&mut line.stopped) => break,
            Some(ended) = streams.join_next() => {
                if let Ok(Err(Violation(what))) = ended {
                    tracing::debug!(what, peer = %line.peer, "a client broke DNS over QUIC");
                    return connection.close(PROTOCOL_ERROR, what.as_bytes());
                }
                deadline = Instant::now() + line.idle;
            }
            stream = connection.accept_bi() => match stream {
                Ok((reply, query)) => drop(streams.spawn(exchange(reply, query, line.clone()))),
                Err(error) => {
                    tracing::debug!(%error, peer = %line.peer, "a QUIC connection ended");
                    return;
                }
            },
            () = sleep_until(deadline), if streams.is_empty() => {
                line.exchange.metrics().idle_connections.increment();
                break;
            }
        }
    }
    // Every stream has a limit of its own.
    while streams.join_next().await.is_some() {}
    connection.close(NO_ERROR, b"");
}

/// Reads one query and sends its reply.
async fn exchange(
    mut reply: SendStream,
    mut query: RecvStream,
    line: Line<impl Answers>,
) -> Result<(), Violation> {
    let octets = match timeout(line.idle, query.read_to_end(LONGEST)).await {
        Ok(Ok(octets)) => octets,
        Ok(Err(ReadToEndError::TooLong)) => return Err(Violation("more than one message on a stream")),
        // The client gave the query up, or the connection is gone.
        Ok(Err(ReadToEndError::Read(_))) => return Ok(()),
        Err(_) => {
            let _ = query.stop(REQUEST_CANCELLED);
            let _ = reply.reset(REQUEST_CANCELLED);
            return Ok(());
        }
    };
    let message = message(&octets)?;
    let Some(answer) = line.reply(message).await else {
        return Err(Violation("a message that is no query"));
    };
    // A reply is never longer than a stream's message may be.
    let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
    let mut framed = Vec::with_capacity(PREFIX + answer.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&answer);
    match timeout(line.idle, reply.write_all(&framed)).await {
        Ok(Ok(())) => drop(reply.finish()),
        // The client does not want it any more.
        Ok(Err(_)) => {}
        Err(_) => {
            line.exchange.metrics().slow_connections.increment();
            let _ = reply.reset(REQUEST_CANCELLED);
        }
    }
    Ok(())
}

/// The one message of a stream.
fn message(octets: &[u8]) -> Result<&[u8], Violation> {
    let Some((length, message)) = octets.split_first_chunk::<PREFIX>() else {
        return Err(Violation("a stream that ended before its message"));
    };
    match message.len().cmp(&usize::from(u16::from_be_bytes(*length))) {
        std::cmp::Ordering::Less => return Err(Violation("a stream that ended before its message")),
        std::cmp::Ordering::Greater => return Err(Violation("more than one message on a stream")),
        std::cmp::Ordering::Equal => {}
    }
    if message.get(..2).is_some_and(|id| id != [0, 0]) {
        return Err(Violation("a message ID that is not zero"));
    }
    if options::asks_keepalive(message) {
        return Err(Violation("the option edns-tcp-keepalive"));
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
