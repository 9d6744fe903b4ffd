//! Where the demo's parts listen: the well-known ports if they are free, else any.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::error::DemoError;

/// Free ports are looked for here: below the range from which systems give ports to outgoing connections, so that a
/// part that was killed finds its own port free when it comes back.
const RANGE: std::ops::Range<u16> = 10_000..32_000;
const TRIES: usize = 200;

/// A port that is free on a host over TCP and UDP, and that no outgoing connection will take.
///
/// # Errors
/// When none is found.
pub fn free_port(host: IpAddr) -> std::io::Result<u16> {
    let mut last = std::io::Error::other("no port is free");
    for _ in 0..TRIES {
        let port = fastrand::u16(RANGE);
        match TcpListener::bind((host, port)).and_then(|_| UdpSocket::bind((host, port))) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A TCP address on this host with the wished port, or a free one if that is taken.
pub(super) fn prefer(host: Ipv4Addr, port: u16) -> Result<SocketAddr, DemoError> {
    match TcpListener::bind((host, port)) {
        Ok(_) => Ok(SocketAddr::new(IpAddr::V4(host), port)),
        Err(_) => free(host),
    }
}

/// One TCP port that is free on every host, the wished one if possible.
pub(super) fn common(hosts: &[Ipv4Addr], wished: u16) -> Result<u16, DemoError> {
    let fits = |port: u16| {
        let held: Result<Vec<_>, _> = hosts.iter().map(|host| TcpListener::bind((*host, port))).collect();
        held.is_ok()
    };
    if fits(wished) {
        return Ok(wished);
    }
    for _ in 0..TRIES {
        let candidate = free(hosts.first().copied().unwrap_or(Ipv4Addr::LOCALHOST))?.port();
        if fits(candidate) {
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
    let port = free_port(wished.ip()).map_err(taken)?;
    Ok(SocketAddr::new(wished.ip(), port))
}

/// The address of something at a site: 127.0.<site>.<host>.
pub(super) const fn loopback(site: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, site, host)
}

/// A free TCP address on a host.
pub(super) fn free(host: Ipv4Addr) -> Result<SocketAddr, DemoError> {
    let port = free_port(IpAddr::V4(host));
    let port = port.map_err(|error| DemoError::io(format!("finding a free port on {host}"), error))?;
    Ok(SocketAddr::new(IpAddr::V4(host), port))
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
