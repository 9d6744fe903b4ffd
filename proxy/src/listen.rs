//! Listening sockets.
//!
//! [`open`] opens one per address, however many workers there are: `accept` says how connections reach them. One socket
//! is what can be handed to another process at an upgrade, and no connection is lost in the queue of a socket that closes.
//! A listener for TLS has its port from the start and is shut until there is a certificate: until then connections are
//! refused, so that a balancer in front takes another gateway. What accepted sockets need is set here once, because Linux copies it to them: `TCP_NODELAY`, without which a small
//! response waits for the client's acknowledgement of the one before, and keep-alive.
//!
//! `TCP_DEFER_ACCEPT` is not set. With it the system would hold back connections whose client has sent nothing yet, and those
//! are lost when the socket closes, although the client sees them as open.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::config::{Error, Listener};

const BACKLOG: i32 = 4096;

/// Octets that the system holds for a client beyond those under way to it. Without a bound that is up to 4 MiB for each
/// client that reads slowly, and then room for more comes so rarely that a slow reader looks like one that does not read.
const UNSENT: u32 = 256 * 1024;

/// TCP keep-alive: the time between two questions, and how many stay without an answer before a connection is given up.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_QUESTIONS: u32 = 4;

/// A listener and its socket, which does not block.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Which of the configuration's listeners.
    pub(crate) number: usize,
    /// The address, with the port that it was given.
    pub(crate) address: SocketAddr,
    /// Clients speak TLS.
    pub(crate) tls: bool,
    /// It has its port and does not listen yet.
    pub(crate) shut: bool,
    /// The peers that stand for many clients.
    pub(crate) trusted: crate::config::Networks,
    /// The socket.
    pub(crate) socket: std::net::TcpListener,
}

/// Opens every listener. Port 0 takes a free port. `keepalive` is the time without a packet after which the system asks
/// whether the client is still there; zero is never. Listeners for TLS stay shut if `tls_is_set` is false.
///
/// # Errors
/// The first address that cannot be listened on, as one whose port another program has, or that there is none.
pub(crate) fn open(
    listeners: &[Listener],
    keepalive: Duration,
    tls_is_set: bool,
) -> Result<Vec<Bound>, Error> {
    if listeners.is_empty() {
        return Err(Error::NoAddress);
    }
    let open = |(number, listener): (usize, &Listener)| {
        let fail = |source| Error::Listen { address: listener.address, source };
        let socket = shared_socket(listener.address, keepalive).map_err(fail)?;
        let address = socket.local_addr().map_err(fail)?;
        let trusted = listener.trusted_networks.clone();
        let mut bound = Bound { number, address, tls: listener.tls, shut: true, trusted, socket };
        if tls_is_set || !listener.tls {
            bound.listen().map_err(fail)?;
        }
        Ok(bound)
    };
    listeners.iter().enumerate().map(open).collect()
}

impl Bound {
    /// Begins to listen.
    ///
    /// # Errors
    /// That of the system, as when another program listens at the port by now.
    pub(crate) fn listen(&mut self) -> io::Result<()> {
        rustix::net::listen(&self.socket, BACKLOG)?;
        self.shut = false;
        Ok(())
    }
}

/// Begins to listen at sockets that were shut; those where it cannot yet, which the log names, stay in `shut`.
pub(crate) fn open_shut(shut: &mut Vec<Bound>) -> Vec<Bound> {
    let mut opened = Vec::new();
    for mut bound in std::mem::take(shut) {
        let address = bound.address;
        match bound.listen() {
            Ok(()) => {
                tracing::info!(%address, "there is a certificate: the listener for TLS is open");
                opened.push(bound);
            }
            Err(error) => {
                tracing::error!(%address, %error, "cannot open the listener for TLS, trying again");
                shut.push(bound);
            }
        }
    }
    opened
}

/// The socket that all workers share, bound. Without `SO_REUSEPORT` a port that another program has is an error, even if that one
/// would share it.
fn shared_socket(address: SocketAddr, keepalive: Duration) -> io::Result<std::net::TcpListener> {
    let socket = socket(address)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket, keepalive)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Sets TCP keep-alive for a socket: after how long without a packet the other side is asked; zero is never.
///
/// # Errors
/// That of the system.
pub(crate) fn keep_alive(socket: &Socket, after: Duration) -> io::Result<()> {
    if after.is_zero() {
        return Ok(());
    }
    let after = after.max(Duration::from_secs(1));
    let questions = TcpKeepalive::new().with_time(after).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&questions.with_retries(KEEPALIVE_QUESTIONS))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, time::Duration};

    use socket2::SockRef;

    use crate::config::{Error, Listener};

    fn here() -> Listener {
        Listener::plain("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn an_accepted_socket_has_the_options_of_its_listener() {
        let bound = super::open(&[here()], Duration::from_secs(77), false).unwrap();
        let _client = TcpStream::connect(bound[0].address).unwrap();
        bound[0].socket.set_nonblocking(false).unwrap();
        let (accepted, _) = bound[0].socket.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), super::UNSENT);
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        let without = super::open(&[here()], Duration::ZERO, false).unwrap();
        assert!(!SockRef::from(&without[0].socket).keepalive().unwrap());
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_that_names_it() {
        let taken = super::open(&[here()], Duration::ZERO, false).unwrap();
        let again = Listener::plain(taken[0].address);
        let error = super::open(std::slice::from_ref(&again), Duration::ZERO, false).unwrap_err().to_string();
        assert!(error.contains(&again.address.to_string()), "{error}");
        drop(taken);
        // Also one whose owner would share it.
        let owner = super::socket("127.0.0.1:0".parse().unwrap()).unwrap();
        owner.set_reuse_port(true).unwrap();
        owner.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        owner.listen(1).unwrap();
        let shared = owner.local_addr().unwrap().as_socket().unwrap();
        let error = super::open(&[Listener::plain(shared)], Duration::ZERO, false).unwrap_err().to_string();
        assert!(error.contains(&shared.to_string()), "{error}");
        assert!(matches!(super::open(&[], Duration::ZERO, false), Err(Error::NoAddress)));
    }

    #[test]
    fn a_listener_for_tls_is_shut_until_there_is_a_certificate() {
        let tls = Listener::tls("127.0.0.1:0".parse().unwrap());
        let mut shut = super::open(&[here(), tls.clone()], Duration::ZERO, false).unwrap();
        assert_eq!(shut.iter().map(|it| it.shut).collect::<Vec<_>>(), [false, true]);
        let address = shut[1].address;
        assert!(TcpStream::connect(shut[0].address).is_ok() && TcpStream::connect(address).is_err());
        let mut waiting = vec![shut.remove(1)];
        assert_eq!(super::open_shut(&mut waiting).len(), 1);
        assert!(waiting.is_empty(), "it is open");
        assert!(!super::open(&[tls], Duration::ZERO, true).unwrap()[0].shut);
    }

    #[test]
    fn ipv6_and_ipv4_stand_side_by_side() {
        let Ok(six) = super::open(&[Listener::plain("[::]:0".parse().unwrap())], Duration::ZERO, false)
        else {
            return; // A machine without IPv6.
        };
        let four = format!("0.0.0.0:{}", six[0].address.port()).parse().unwrap();
        assert!(super::open(&[Listener::plain(four)], Duration::ZERO, false).is_ok());
    }
}
