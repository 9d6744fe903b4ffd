//! Listening sockets: one per address and worker, all on the same port (`SO_REUSEPORT`).

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Error;

const BACKLOG: i32 = 4096;

/// One worker's listeners, in the order of the addresses.
pub(crate) type Listeners = Vec<std::net::TcpListener>;

/// Binds every address once per worker. Port 0 takes a free port, the same for all workers.
///
/// # Errors
/// The first address that cannot be listened on.
pub(crate) fn bind(
    addresses: &[SocketAddr],
    workers: usize,
) -> Result<(Vec<SocketAddr>, Vec<Listeners>), Error> {
    if addresses.is_empty() {
        return Err(Error::NoAddress);
    }
    let mut sets: Vec<Listeners> = (0..workers).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for &requested in addresses {
        let fail = |source| Error::Listen { address: requested, source };
        // Without this check another program of the same user with SO_REUSEPORT would silently share the port.
        if requested.port() != 0 {
            socket(requested).and_then(|it| it.bind(&requested.into())).map_err(fail)?;
        }
        let mut address = requested;
        for set in &mut sets {
            let listener = listener(address).map_err(fail)?;
            address = listener.local_addr().map_err(fail)?;
            set.push(listener);
        }
        bound.push(address);
    }
    Ok((bound, sets))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use crate::config::Error;

    #[test]
    fn workers_share_a_port() {
        let (bound, sets) = super::bind(&["127.0.0.1:0".parse().unwrap()], 3).unwrap();
        for set in &sets {
            assert_eq!(set[0].local_addr().unwrap(), bound[0]);
        }
    }

    #[test]
    fn a_taken_port_is_named_even_when_its_owner_would_share() {
        let (bound, _owner) = super::bind(&["127.0.0.1:0".parse().unwrap()], 1).unwrap();
        let error = super::bind(&bound, 1).unwrap_err().to_string();
        assert!(error.contains(&bound[0].to_string()), "{error}");
    }

    #[test]
    fn no_address_is_an_error() {
        assert!(matches!(super::bind(&[], 1), Err(Error::NoAddress)));
    }
}
