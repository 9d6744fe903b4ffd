//! The TCP check: the port accepts a connection.

use std::net::SocketAddr;

use tokio::{net::TcpStream, time::Instant};

use super::{Fault, Phases, fault};

/// Connects; every check over TCP begins so.
pub(super) async fn connect(address: SocketAddr, phases: &mut Phases) -> Result<TcpStream, Fault> {
    let started = Instant::now();
    let stream = TcpStream::connect(address).await.map_err(|error| fault(&error))?;
    phases.connect = Some(started.elapsed());
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        check::{Outcome, Sockets, probe},
        testing::tcp_target_at,
    };

    #[tokio::test]
    async fn an_open_port_succeeds_and_a_closed_one_is_refused() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = tcp_target_at(listener.local_addr().unwrap());
        let Outcome::Success { phases, said } = probe(&Sockets, &target).await else { panic!("not up") };
        assert_eq!(said, "connected");
        assert!(phases.connect.unwrap() <= phases.whole);
        drop(listener);
        let refused = Outcome::Failure { reason: "connection refused".to_owned() };
        assert_eq!(probe(&Sockets, &target).await, refused);
    }

    #[tokio::test]
    async fn a_full_backlog_is_a_black_hole() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts: after one or two connections the kernel drops further SYNs without a word.
        let mut queued = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
            assert!(queued.len() < 16, "the backlog never filled");
        }
        let outcome = probe(&Sockets, &tcp_target_at(address)).await;
        assert_eq!(outcome, Outcome::Failure { reason: "no answer within 800ms".to_owned() });
    }
}
