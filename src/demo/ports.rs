//! Where the demo's parts listen: the well-known ports if they are free, else any.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::DemoError;

/// A TCP address on this host with the wished port, or a free one if that is taken.
pub(super) fn prefer(host: Ipv4Addr, port: u16) -> Result<SocketAddr, DemoError> {
    let listener = TcpListener::bind((host, port)).or_else(|_| TcpListener::bind((host, 0)));
    let address = listener.and_then(|it| it.local_addr());
    address.map_err(|error| DemoError::io(format!("finding a free port on {host}"), error))
}

/// One TCP port that is free on every host, the wished one if possible.
pub(super) fn common(hosts: &[Ipv4Addr], wished: u16) -> Result<u16, DemoError> {
    let free = |port: u16| {
        let held: Result<Vec<_>, _> = hosts.iter().map(|host| TcpListener::bind((*host, port))).collect();
        held.is_ok()
    };
    if free(wished) {
        return Ok(wished);
    }
    for _ in 0..100 {
        let candidate = prefer(hosts.first().copied().unwrap_or(Ipv4Addr::LOCALHOST), 0)?.port();
        if free(candidate) {
            return Ok(candidate);
        }
    }
    let none = std::io::Error::other("no port is free on all of them");
    Err(DemoError::io(format!("finding one port for {hosts:?}"), none))
}

/// The DNS address that was asked for, free on UDP and on TCP; port 0 becomes a free one.
pub(super) fn dns(wished: SocketAddr) -> Result<SocketAddr, DemoError> {
    let taken = |error| DemoError::Taken { address: wished, by: "--dns", error };
    if wished.port() != 0 {
        UdpSocket::bind(wished).map_err(taken)?;
        TcpListener::bind(wished).map_err(taken)?;
        return Ok(wished);
    }
    let mut last = std::io::Error::other("no port is free on UDP and TCP");
    for _ in 0..100 {
        let udp = UdpSocket::bind(wished).and_then(|it| it.local_addr()).map_err(taken)?;
        match TcpListener::bind(udp) {
            Ok(_) => return Ok(udp),
            Err(error) => last = error,
        }
    }
    Err(taken(last))
}

/// The address of something at a site: 127.0.<site>.<host>.
pub(super) const fn loopback(site: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, site, host)
}

/// A free TCP address on a host.
pub(super) fn free(host: Ipv4Addr) -> Result<SocketAddr, DemoError> {
    prefer(host, 0).map(|it| SocketAddr::new(IpAddr::V4(host), it.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over_unless_it_was_asked_for() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        assert_ne!(prefer(Ipv4Addr::LOCALHOST, port).unwrap().port(), port);
        assert_ne!(common(&[Ipv4Addr::LOCALHOST, loopback(2, 1)], port).unwrap(), port);
        let error = dns(held.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains("--dns") && error.contains(&port.to_string()), "{error}");
    }
}
