//! The ICMP check: one echo request (RFC 792, RFC 4443 §4) over a datagram ICMP socket, which needs no privilege
//! where the system permits it (`net.ipv4.ping_group_range`). The kernel chooses the identifier and the checksum.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, time::Instant};

use super::{Fault, Phases, fault};

/// Sends one request and waits for its reply; the caller bounds the time.
pub(super) async fn echo(address: IpAddr, phases: &mut Phases) -> Result<&'static str, Fault> {
    let socket = open(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Fault::Local("ICMP is not permitted here (net.ipv4.ping_group_range)".to_owned())
        }
        _ => Fault::Local(format!("no ICMP socket: {error}")),
    })?;
    let started = Instant::now();
    let secret: u64 = fastrand::u64(..);
    let request = request(address, secret);
    socket.connect(SocketAddr::new(address, 0)).await.map_err(|error| fault(&error))?;
    socket.send(&request).await.map_err(|error| fault(&error))?;
    let mut buffer = [0; 256];
    loop {
        let read = socket.recv(&mut buffer).await.map_err(|error| fault(&error))?;
        if is_reply(address, buffer.get(..read).unwrap_or_default(), secret) {
            phases.first_byte = Some(started.elapsed());
            return Ok("echo reply");
        }
    }
}

fn open(address: IpAddr) -> std::io::Result<UdpSocket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

fn request(address: IpAddr, secret: u64) -> [u8; 16] {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let mut packet = [0; 16];
    packet[0] = kind;
    packet[7] = 1;
    packet[8..].copy_from_slice(&secret.to_be_bytes());
    packet
}

fn is_reply(address: IpAddr, packet: &[u8], secret: u64) -> bool {
    let kind = if address.is_ipv4() { 0 } else { 129 };
    packet.first() == Some(&kind) && packet.get(8..16) == Some(secret.to_be_bytes().as_slice())
}

#[cfg(test)]
mod tests {
    use store::model::Probe;

    use super::*;
    use crate::{
        check::{Outcome, Sockets, probe},
        testing::target_of,
    };

    #[test]
    fn only_the_reply_to_the_request_counts() {
        let v4: IpAddr = [192, 0, 2, 1].into();
        let mut reply = request(v4, 7);
        assert!(!is_reply(v4, &reply, 7), "the request itself");
        reply[0] = 0;
        assert!(is_reply(v4, &reply, 7) && !is_reply(v4, &reply, 8) && !is_reply(v4, &reply[..12], 7));
    }

    #[tokio::test]
    async fn loopback_answers_or_it_is_not_permitted() {
        let target = target_of("127.0.0.1:0".parse().unwrap(), Probe::Icmp {});
        match probe(&Sockets::default(), &target).await {
            Outcome::Success { said, .. } => assert_eq!(said, "echo reply"),
            Outcome::Inconclusive { reason } => assert!(reason.contains("not permitted"), "{reason}"),
            Outcome::Failure { reason } => panic!("{reason}"),
        }
    }
}
