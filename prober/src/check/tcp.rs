//! The TCP check: the port accepts a connection, and sends what the check expects.
//!
//! The connection is closed gracefully. A reset would leave no TIME_WAIT here, but the target would see a client that
//! broke off; and a source port is in use only for the address that was dialled, so every target can use all of them.

use std::{borrow::Cow, net::SocketAddr};

use store::model::TcpProbe;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use super::{Fault, Phases, fault};

/// Connects, as every check over TCP does first.
pub(super) async fn connect(address: SocketAddr, phases: &mut Phases) -> Result<TcpStream, Fault> {
    let started = Instant::now();
    let stream = TcpStream::connect(address).await.map_err(|error| fault(&error))?;
    phases.connect = Some(started.elapsed());
    Ok(stream)
}

/// Connects, sends and waits for what the check expects.
pub(super) async fn check(
    probe: &TcpProbe,
    address: SocketAddr,
    phases: &mut Phases,
) -> Result<Cow<'static, str>, Fault> {
    let started = Instant::now();
    let mut stream = connect(address, phases).await?;
    if let Some(words) = &probe.send {
        stream.write_all(words.as_bytes()).await.map_err(|error| fault(&error))?;
    }
    let Some(expected) = &probe.expect else { return Ok(Cow::Borrowed("connected")) };
    let mut heard = Vec::new();
    while !contains(&heard, expected.as_bytes()) {
        if heard.len() >= TcpProbe::MAX_READ {
            return Err(Fault::Target(format!("not what is expected in its first {} bytes", heard.len())));
        }
        let room = TcpProbe::MAX_READ - heard.len();
        let read =
            (&mut stream).take(room as u64).read_buf(&mut heard).await.map_err(|error| fault(&error))?;
        if read == 0 {
            let start = heard.get(..heard.len().min(24)).unwrap_or_default();
            let text = format!("closed without what is expected: it sent \"{}\"", start.escape_ascii());
            return Err(Fault::Target(text));
        }
        phases.first_byte.get_or_insert_with(|| started.elapsed());
    }
    Ok(Cow::Borrowed("the response contains the expected text"))
}

/// True if `text` contains `part`.
pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use store::model::Probe;

    use super::*;
    use crate::{
        check::{Outcome, Sockets, probe},
        testing::{target_of, tcp_target_at},
    };

    #[tokio::test]
    async fn an_open_port_succeeds_and_a_closed_one_is_refused() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = tcp_target_at(listener.local_addr().unwrap());
        let Outcome::Success { phases, detail } = probe(&Sockets::default(), &target).await else {
            panic!("not up")
        };
        assert_eq!(detail, "connected");
        assert!(phases.connect.unwrap() <= phases.whole);
        drop(listener);
        let refused = Outcome::Failure { reason: "connection refused".to_owned() };
        assert_eq!(probe(&Sockets::default(), &target).await, refused);
    }

    #[tokio::test]
    async fn the_response_decides_where_one_is_expected() {
        for (answer, up) in [("220 ready\r\n", true), ("500 no\r\n", false), ("", false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let tcp = TcpProbe { send: Some("HELO\r\n".into()), expect: Some("220 ".into()) };
            let target = target_of(listener.local_addr().unwrap(), Probe::Tcp(tcp));
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut sent = [0; 6];
                stream.read_exact(&mut sent).await.unwrap();
                assert_eq!(&sent, b"HELO\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let sockets = Sockets::default();
            let (outcome, ()) = tokio::join!(probe(&sockets, &target), serve);
            assert_eq!(matches!(outcome, Outcome::Success { .. }), up, "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_full_backlog_is_a_black_hole() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // No connection is accepted: after one or two of them the kernel drops further SYNs.
        let mut queued = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
            assert!(queued.len() < 16, "the backlog never filled");
        }
        let outcome = probe(&Sockets::default(), &tcp_target_at(address)).await;
        assert_eq!(outcome, Outcome::Failure { reason: "no answer within 800ms".to_owned() });
    }
}
