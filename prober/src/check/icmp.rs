//! The ICMP check: one echo request (RFC 792, RFC 4443 §4).
//!
//! Over a datagram ICMP socket where the system permits that without a privilege (`net.ipv4.ping_group_range`): there
//! the kernel sets the identifier and the checksum. Otherwise over a raw socket, which needs CAP_NET_RAW: there IPv4
//! replies include their IP header, and the checksum of IPv4 requests is computed here.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, time::Instant};

use super::{Fault, Phases, fault};

/// Sends one request and waits for its reply; the caller bounds the time.
pub(super) async fn echo(address: IpAddr, phases: &mut Phases) -> Result<&'static str, Fault> {
    let socket = open(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Fault::Local("ICMP is not permitted here (net.ipv4.ping_group_range, or CAP_NET_RAW)".to_owned())
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
    let open = |kind| Socket::new(domain, kind, Some(protocol));
    let socket = match open(Type::DGRAM) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => open(Type::RAW)?,
        socket => socket?,
    };
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

fn request(address: IpAddr, secret: u64) -> [u8; 16] {
    let kind = if address.is_ipv4() { 8 } else { 128 };
    let mut packet = [0; 16];
    packet[0] = kind;
    packet[7] = 1;
    packet[8..].copy_from_slice(&secret.to_be_bytes());
    if address.is_ipv4() {
        // On a datagram socket the kernel sets it again, and that of ICMPv6 is always set by the kernel.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The checksum of RFC 1071 over octets whose checksum field is zero.
fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        rest => rest.first().map_or(0, |high| u32::from(*high) << 8),
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

fn is_reply(address: IpAddr, packet: &[u8], secret: u64) -> bool {
    let kind = if address.is_ipv4() { 0 } else { 129 };
    // A raw socket of IPv4 delivers the IP header too; an echo reply begins with 0, a header with its version.
    let header = packet.first().filter(|first| address.is_ipv4() && **first >> 4 == 4);
    let packet = packet.get(header.map_or(0, |first| usize::from(first & 15) * 4)..).unwrap_or_default();
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
            Outcome::Success { detail, .. } => assert_eq!(detail, "echo reply"),
            Outcome::Inconclusive { reason } => assert!(reason.contains("not permitted"), "{reason}"),
            Outcome::Failure { reason } => panic!("{reason}"),
        }
    }

    #[test]
    fn a_raw_sockets_reply_has_an_ip_header_and_its_request_a_checksum() {
        let (v4, v6) = (IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap());
        let packet = request(v4, 0x0102_0304_0506_0708);
        assert_eq!(checksum(&packet), 0, "a packet with its checksum sums to nothing");
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2, "RFC 1071 §3");
        let mut reply = packet;
        reply[0] = 0;
        let header = [0x45, 0, 0, 36, 0, 0, 0, 0, 64, 1, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1];
        let raw = [&header[..], &reply[..]].concat();
        assert!(is_reply(v4, &raw, 0x0102_0304_0506_0708) && is_reply(v4, &reply, 0x0102_0304_0506_0708));
        assert!(!is_reply(v4, &raw, 7) && !is_reply(v4, &raw[..20], 7) && !is_reply(v6, &raw, 7));
    }
}
