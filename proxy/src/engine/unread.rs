//! Whether an instance that ended an idle connection has read what was sent over it at the same moment.
//!
//! It has not if its system had received none of it when it sent the end: the end tells up to where it has received, and
//! what comes later meets a connection that is closed. So a request that must not be applied twice may be sent again. How
//! much the other system has not acknowledged is asked from ours by `sock_diag(7)`, because `SIOCOUTQ` and `TCP_INFO` cannot be
//! had without unsafe code. That costs some system calls, in a case that is rare.
//!
//! A reset alone proves nothing: what it acknowledges is not looked at by our system, and it is sent too when a process has
//! read a request and died. A reset that follows an end is an answer to octets that came after it.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use socket2::SockRef;
use tokio::net::TcpStream;

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `TCP_CLOSE_WAIT` of `net/tcp_states.h`: the other side has ended, without a reset, and we have not.
const CLOSE_WAIT: u8 = 8;
const TCP: u8 = 6;
/// Octets that fit into one segment on every path of today (RFC 8200 §5 has 1280 as the least, with the headers).
const ONE_SEGMENT: usize = 1_200;
/// A `nlmsghdr` and an `inet_diag_req_v2`.
const ASKED: usize = 16 + 56;
/// Where `idiag_state` and `idiag_wqueue` are in an answer, behind a `nlmsghdr`.
const STATE: usize = 16 + 1;
const UNACKNOWLEDGED: usize = 16 + 60;

/// True if the other side of a connection, which was idle and has ended, had received none of the `sent` octets that were
/// written last, `at_once`, when it ended. False also where that cannot be known.
pub(crate) fn is_unread(stream: &TcpStream, sent: usize, at_once: bool) -> bool {
    let was_reset = || {
        let error = SockRef::from(stream).take_error().ok()??;
        // Linux has this error for a reset behind an end. The end acknowledged what had been received and read until then,
        // or there had been a reset at once; so it was these octets that met a closed connection, if they were one segment.
        Some(error.kind() == ErrorKind::BrokenPipe && sent <= ONE_SEGMENT && at_once)
    };
    if let Some(unread) = was_reset() {
        return unread;
    }
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return false };
    match ask(local, peer) {
        Some((CLOSE_WAIT, unacknowledged)) => usize::try_from(unacknowledged).is_ok_and(|it| it >= sent),
        // The reset may have come meanwhile.
        _ => was_reset().unwrap_or(false),
    }
}

/// The state of a connection of this machine, and the octets that are written and not acknowledged.
fn ask(local: SocketAddr, peer: SocketAddr) -> Option<(u8, u32)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG)).ok()?;
    send(&socket, &question(local, peer), SendFlags::empty()).ok()?;
    // Answered while it is asked.
    let mut answer = [0; 512];
    let (_, length) = recv(&socket, &mut answer[..], RecvFlags::empty()).ok()?;
    let answer = answer.get(..length)?;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != BY_FAMILY {
        return None;
    }
    let unacknowledged = answer.get(UNACKNOWLEDGED..UNACKNOWLEDGED + 4)?.try_into().ok()?;
    Some((*answer.get(STATE)?, u32::from_ne_bytes(unacknowledged)))
}

fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let mut text = Vec::with_capacity(ASKED);
    text.extend((ASKED as u32).to_ne_bytes());
    text.extend(BY_FAMILY.to_ne_bytes());
    text.extend(REQUEST.to_ne_bytes());
    text.extend([0; 8]);
    text.extend([if local.is_ipv4() { AF_INET } else { AF_INET6 }, TCP, 0, 0]);
    // In any state.
    text.extend(u32::MAX.to_ne_bytes());
    text.extend(local.port().to_be_bytes());
    text.extend(peer.port().to_be_bytes());
    for address in [local.ip(), peer.ip()] {
        match address {
            IpAddr::V4(address) => {
                text.extend(address.octets());
                text.extend([0; 12]);
            }
            IpAddr::V6(address) => text.extend(address.octets()),
        }
    }
    // At any interface, and whatever its cookie.
    text.extend([0; 4]);
    text.extend([0xff; 8]);
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A connection whose other side has ended its half, after reading what is sent before `unread` and none of that.
    async fn ended(ip: &str, unread: usize) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        ours.write_all(b"before").await.unwrap();
        theirs.read_exact(&mut [0; 6]).await.unwrap();
        // What the other side's system has room for is acknowledged although the program has not read it; the rest is not.
        if unread > 0 {
            let filler = vec![b'x'; 64 * 1024];
            while tokio::time::timeout(Duration::from_millis(300), ours.write_all(&filler)).await.is_ok() {}
        }
        theirs.shutdown().await.unwrap();
        ours.readable().await.unwrap();
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
        (ours, theirs)
    }

    #[tokio::test]
    async fn what_was_not_received_before_the_end_is_known() {
        for ip in ["127.0.0.1", "::1"] {
            let (ours, _theirs) = ended(ip, 1).await;
            assert!(is_unread(&ours, 1, true), "{ip}");
            assert!(!is_unread(&ours, 100_000_000, true), "{ip}: more than is unacknowledged");
        }
    }

    #[tokio::test]
    async fn octets_that_meet_a_closed_connection_are_not_read_and_those_that_a_dead_process_had_are() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        drop(listener.accept().await.unwrap());
        ours.readable().await.unwrap();
        ours.write_all(b"too late.").await.unwrap();
        let met = || SockRef::from(&ours).peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok();
        while !ours.ready(tokio::io::Interest::ERROR).await.unwrap().is_error() {}
        assert!(met() && is_unread(&ours, 9, true), "the end came first");

        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        ours.write_all(b"to a process that dies").await.unwrap();
        theirs.readable().await.unwrap();
        drop(theirs);
        while !ours.ready(tokio::io::Interest::ERROR).await.unwrap().is_error() {}
        assert!(!is_unread(&ours, 22, true), "there was no end");
    }

    #[tokio::test]
    async fn what_was_received_or_cannot_be_known_is_taken_for_read() {
        let (mut ours, theirs) = ended("127.0.0.1", 0).await;
        ours.write_all(b"after the end").await.unwrap();
        assert!(!is_unread(&ours, 13, true), "it was acknowledged");
        theirs.set_zero_linger().unwrap();
        drop(theirs);
        assert!(!is_unread(&ours, ONE_SEGMENT + 1, true), "the reset may answer the second half");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!is_unread(&open, 0, true), "it has not ended");
    }
}
