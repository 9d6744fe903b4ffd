//! Datagrams by the batch: `recvmmsg` and `sendmmsg` over memory that is set up once.
//!
//! The only unsafe code of the project. One system call for up to 64 datagrams each way is what brings a query
//! within reach of a bare echo's cost; the numbers are in the crate's documentation. No safe wrapper that is kept up
//! covers both calls with control messages, which are needed to reply from the address that a query was sent to, where a
//! socket listens on all of them.
//!
//! All memory the kernel writes to lives in one heap allocation that is reached through one raw pointer only, so that
//! the pointers inside the message headers stay valid for as long as the batch lives. Its parts are lent out one at
//! a time, under `&mut self`, and never while a system call runs.

#![expect(unsafe_code, reason = "batched system calls; see the module's documentation")]

use std::{
    io,
    mem::{MaybeUninit, size_of, zeroed},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd as _,
    ptr::{self, NonNull, addr_of_mut},
    slice,
};

/// Datagrams taken at once. More would hold replies back for longer than it saves.
pub(crate) const BATCH: usize = 64;

/// The longest query that is taken whole, and an octet more, so that a longer one shows.
pub(crate) const MAX_QUERY: usize = crate::packet::MAX_QUERY + 1;

/// The longest reply that has a place in the batch, in octets: what passes every path, with room to spare.
pub(crate) const MAX_REPLY: usize = 1280;

/// One more cache line than a power of two, so that the first lines of all buffers do not share a cache set.
#[repr(C, align(64))]
struct Query([u8; MAX_QUERY + 64]);
#[repr(C, align(64))]
struct Reply([u8; MAX_REPLY + 64]);

/// Room for one packet information message of either family.
#[repr(C, align(8))]
struct Control([u8; 64]);

struct Memory {
    queries: [Query; BATCH],
    replies: [Reply; BATCH],
    peers: [libc::sockaddr_storage; BATCH],
    controls: [Control; BATCH],
    vectors: [libc::iovec; BATCH],
    incoming: [libc::mmsghdr; BATCH],
    reply_vectors: [libc::iovec; BATCH],
    outgoing: [libc::mmsghdr; BATCH],
}

/// Up to [`BATCH`] datagrams and the replies to them.
pub(crate) struct Batch {
    memory: NonNull<Memory>,
    /// Headers the kernel has written to; before the first system call all of them.
    received: usize,
    replies: usize,
    /// Replies that are too long for their place in `memory`, kept until the batch is sent.
    long: Vec<Vec<u8>>,
    /// Whether the address that a datagram was sent to is requested, so that the reply leaves from there.
    wildcard: bool,
}

/// Room for the reply to one datagram.
pub(crate) struct Room<'a> {
    /// The place that a reply of at most [`MAX_REPLY`] octets is sent from.
    pub(crate) place: &'a mut [u8],
    long: &'a mut Vec<u8>,
}

impl Room<'_> {
    /// Takes a reply of any length, and returns its length.
    pub(crate) fn put(self, reply: Vec<u8>) -> usize {
        let octets = reply.len();
        match self.place.get_mut(..octets) {
            Some(place) => place.copy_from_slice(&reply),
            None => *self.long = reply,
        }
        octets
    }
}

/// How the sending of a batch went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Replies the system did not take.
    pub(crate) failed: u64,
}

impl Batch {
    /// An empty batch; `wildcard` for sockets that listen on every address.
    pub(crate) fn new(wildcard: bool) -> Self {
        let memory: Box<MaybeUninit<Memory>> = Box::new_zeroed();
        // SAFETY: every part of `Memory` is integers, arrays of them or raw pointers, for which all zeroes is a value.
        let memory = unsafe { memory.assume_init() };
        let memory = NonNull::from(Box::leak(memory));
        let p = memory.as_ptr();
        for at in 0..BATCH {
            // SAFETY: `p` is valid for reads and writes, `at` is within every array, and nothing else has the memory.
            unsafe {
                (*p).vectors[at] =
                    libc::iovec { iov_base: addr_of_mut!((*p).queries[at]).cast(), iov_len: MAX_QUERY };
                let header = addr_of_mut!((*p).incoming[at].msg_hdr);
                (*header).msg_name = addr_of_mut!((*p).peers[at]).cast();
                (*header).msg_iov = addr_of_mut!((*p).vectors[at]);
                (*header).msg_iovlen = 1;
                if wildcard {
                    (*header).msg_control = addr_of_mut!((*p).controls[at]).cast();
                }
            }
        }
        // All headers have to be armed before the first of them is used.
        Self { memory, received: BATCH, replies: 0, long: Vec::new(), wildcard }
    }

    /// Undoes what the kernel noted in the headers it filled.
    fn rearm(&self) {
        let p = self.memory.as_ptr();
        for at in 0..self.received {
            // SAFETY: `p` is valid, `at` is at most `BATCH`, and no part of the memory is lent out.
            unsafe {
                let header = addr_of_mut!((*p).incoming[at].msg_hdr);
                (*header).msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                (*header).msg_controllen = if self.wildcard { size_of::<Control>() as _ } else { 0 };
                (*header).msg_flags = 0;
            }
        }
    }

    /// Waits for a datagram, and takes what else has come by then. Returns how many there are.
    ///
    /// # Errors
    /// The error of the system; `WouldBlock` when the socket's read timeout ran out.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.rearm();
        (self.received, self.replies) = (0, 0);
        // SAFETY: the headers point into `self.memory`, which outlives the call and is not lent out; their lengths are
        // those of what they point to.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                addr_of_mut!((*self.memory.as_ptr()).incoming).cast(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?.min(BATCH);
        Ok(self.received)
    }

    /// Shows each datagram to `answer`, with its sender and room for a reply; `answer` returns how many octets
    /// to send, zero for no reply.
    pub(crate) fn answer(&mut self, mut answer: impl FnMut(&[u8], SocketAddr, Room<'_>) -> usize) {
        let p = self.memory.as_ptr();
        let mut long = Vec::new();
        for at in 0..self.received {
            // SAFETY: `p` is valid and `at` below `BATCH`. The slices are of different arrays, live until `answer`
            // returns and are within their arrays. All octets are initialised: by zeroes, or by the kernel.
            let octets = unsafe {
                let length = ((*p).incoming[at].msg_len as usize).min(MAX_QUERY);
                let query = slice::from_raw_parts(addr_of_mut!((*p).queries[at]).cast(), length);
                let place = slice::from_raw_parts_mut(addr_of_mut!((*p).replies[at]).cast(), MAX_REPLY);
                match address(&(*p).peers[at]) {
                    Some(peer) => answer(query, peer, Room { place, long: &mut long }),
                    None => 0,
                }
            };
            if octets > MAX_REPLY {
                self.queue_long(at, std::mem::take(&mut long));
            } else if octets > 0 {
                // SAFETY: the reply to datagram `at` has its place in the memory, which lives as long as the batch.
                unsafe { self.queue(at, addr_of_mut!((*p).replies[at]).cast(), octets) };
            }
        }
    }

    #[cold]
    fn queue_long(&mut self, at: usize, mut reply: Vec<u8>) {
        let (start, octets) = (reply.as_mut_ptr(), reply.len());
        self.long.push(reply);
        // SAFETY: `self.long` keeps the reply until the batch was sent; that the vector moves leaves its octets in place.
        unsafe { self.queue(at, start, octets) };
    }

    /// Queues the reply to datagram `at`.
    ///
    /// # Safety
    /// The reply must have so many octets from `start` on, and must stay there until the batch was sent.
    unsafe fn queue(&mut self, at: usize, start: *mut u8, octets: usize) {
        let p = self.memory.as_ptr();
        let to = self.replies;
        // SAFETY: `p` is valid; `at` and `to` are below `BATCH`, since at most one reply is queued per datagram.
        unsafe {
            (*p).reply_vectors[to] = libc::iovec { iov_base: start.cast(), iov_len: octets };
            let mut header: libc::msghdr = zeroed();
            header.msg_name = addr_of_mut!((*p).peers[at]).cast();
            header.msg_namelen = (*p).incoming[at].msg_hdr.msg_namelen;
            header.msg_iov = addr_of_mut!((*p).reply_vectors[to]);
            header.msg_iovlen = 1;
            if self.wildcard && reply_from(addr_of_mut!((*p).incoming[at].msg_hdr)) {
                header.msg_control = (*p).incoming[at].msg_hdr.msg_control;
                header.msg_controllen = (*p).incoming[at].msg_hdr.msg_controllen;
            }
            (*p).outgoing[to].msg_hdr = header;
        }
        self.replies += 1;
    }

    /// Sends the replies. A reply that the system does not take is dropped: the client will retry.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> Sent {
        let mut sent = Sent::default();
        let mut done = 0;
        while done < self.replies {
            // SAFETY: headers `done..replies` were written by `queue` and point to what stays until they are sent, which is not lent out.
            let taken = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    addr_of_mut!((*self.memory.as_ptr()).outgoing[done]),
                    (self.replies - done) as libc::c_uint,
                    0,
                )
            };
            match usize::try_from(taken) {
                Ok(taken) if taken > 0 => done += taken,
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    sent.failed += 1;
                    done += 1;
                }
            }
        }
        self.replies = 0;
        self.long.clear();
        sent
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: the memory came from a box, and nothing else frees it.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

/// Requests the address that each datagram was sent to, by the option of the socket's family.
///
/// # Errors
/// The error of the system.
pub(crate) fn request_addresses(
    socket: &impl std::os::fd::AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an `int` that lives until the call returns, as these options want it.
    let done = unsafe {
        let value = ptr::from_ref(&on).cast();
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value,
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The sender, as the kernel wrote it.
fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let storage = ptr::from_ref(storage);
    // SAFETY: `sockaddr_storage` is as large as, and aligned for, every address; its family is that of the address.
    match unsafe { i32::from((*storage).ss_family) } {
        libc::AF_INET => {
            let v4 = unsafe { &*storage.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let v6 = unsafe { &*storage.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Changes the packet information of a datagram into that of its reply: from the address that it was sent to, by the
/// interface that the routes select. False if there is none.
///
/// # Safety
/// `header` must have been filled by `recvmmsg`, and its control messages must be where it points.
unsafe fn reply_from(header: *mut libc::msghdr) -> bool {
    // SAFETY: as promised by the caller; the data of these two messages is of their types, and is read and
    // written without regard to its alignment.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        if message.is_null() {
            return false;
        }
        let data = libc::CMSG_DATA(message);
        match ((*message).cmsg_level, (*message).cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let data = data.cast::<libc::in_pktinfo>();
                let mut info = data.read_unaligned();
                info.ipi_spec_dst = info.ipi_addr;
                info.ipi_ifindex = 0;
                data.write_unaligned(info);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let data = data.cast::<libc::in6_pktinfo>();
                let mut info = data.read_unaligned();
                // A link-local address means nothing without its interface.
                if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
                    info.ipi6_ifindex = 0;
                }
                data.write_unaligned(info);
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn a_batch_is_received_and_replied_to() {
        let (server, address) = socket();
        let (client, client_address) = socket();
        let mut batch = Batch::new(false);
        for round in 0..3_u8 {
            for number in 0..100_u8 {
                client.send_to(&vec![number; 1 + usize::from(number)], address).unwrap();
            }
            let mut seen = 0;
            while seen < 100 {
                seen += batch.receive(&server).unwrap();
                batch.answer(|query, peer, room| {
                    assert_eq!(peer, client_address);
                    room.place[..query.len()].copy_from_slice(query);
                    room.place[query.len()] = round;
                    // Every third is not replied to.
                    if query[0] % 3 == 0 { 0 } else { query.len() + 1 }
                });
                assert_eq!(batch.send(&server), Sent::default());
            }
            let mut buffer = [0; 2048];
            for number in (0..100_u8).filter(|number| number % 3 != 0) {
                let (length, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((length, from), (usize::from(number) + 2, address));
                assert_eq!((buffer[0], buffer[length - 1]), (number, round));
            }
        }
    }

    #[test]
    fn replies_of_any_length_leave_in_one_batch() {
        let (server, address) = socket();
        let (client, client_address) = socket();
        let mut batch = Batch::new(false);
        let lengths = [1, MAX_REPLY, MAX_REPLY + 1, 9000, 65_507, 2];
        for _ in 0..2 {
            for (number, _) in (0_u8..).zip(lengths) {
                client.send_to(&[number], address).unwrap();
            }
            let mut seen = 0;
            while seen < lengths.len() {
                seen += batch.receive(&server).unwrap();
                batch.answer(|query, peer, room| {
                    assert_eq!(peer, client_address);
                    room.put(vec![query[0]; lengths[usize::from(query[0])]])
                });
                assert_eq!(batch.send(&server), Sent::default());
                assert!(batch.long.is_empty(), "nothing is kept of what was sent");
            }
            let mut buffer = vec![0; 70_000];
            for (number, length) in (0_u8..).zip(lengths) {
                let (octets, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((octets, from), (length, address));
                assert!(buffer[..octets].iter().all(|octet| *octet == number));
            }
        }
    }

    #[test]
    fn a_long_datagram_is_cut_off_without_harm() {
        let (server, address) = socket();
        let (client, _) = socket();
        client.send_to(&[7; 9000], address).unwrap();
        let mut batch = Batch::new(true);
        assert_eq!(batch.receive(&server).unwrap(), 1);
        batch.answer(|query, _, _| {
            assert_eq!(query, [7; MAX_QUERY]);
            0
        });
        assert_eq!(batch.send(&server), Sent::default());
    }
}
