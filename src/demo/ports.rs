//! Ports of the demo's parts: the well-known ones if they are free, otherwise any.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::error::DemoError;

/// Free ports are chosen from this range, which is below the ephemeral ports of outgoing connections, so that a part
/// that was killed finds its own port free when it is started again.
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

/// A TCP address on this host with the wanted port, or a free one if that is taken.
pub(super) fn preferred_or_free(host: Ipv4Addr, port: u16) -> Result<SocketAddr, DemoError> {
    match TcpListener::bind((host, port)) {
        Ok(_) => Ok(SocketAddr::new(IpAddr::V4(host), port)),
        Err(_) => free(host),
    }
}

/// One TCP port that is free on every host, the wanted one if possible.
pub(super) fn free_on_all(hosts: &[Ipv4Addr], wanted: u16) -> Result<u16, DemoError> {
    let fits = |port: u16| {
        let held: Result<Vec<_>, _> = hosts.iter().map(|host| TcpListener::bind((*host, port))).collect();
        held.is_ok()
    };
    if fits(wanted) {
        return Ok(wanted);
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

/// The requested DNS address, if it is free on UDP and TCP; port 0 is replaced by a free one.
pub(super) fn dns(wanted: SocketAddr) -> Result<SocketAddr, DemoError> {
    let in_use = |error| DemoError::AddressInUse { address: wanted, by: "--dns", error };
    if wanted.port() != 0 {
        UdpSocket::bind(wanted).map_err(in_use)?;
        TcpListener::bind(wanted).map_err(in_use)?;
        return Ok(wanted);
    }
    let port = free_port(wanted.ip()).map_err(in_use)?;
    Ok(SocketAddr::new(wanted.ip(), port))
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
    fn a_taken_port_is_passed_over_unless_it_was_requested() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        assert_ne!(preferred_or_free(Ipv4Addr::LOCALHOST, port).unwrap().port(), port);
        assert_ne!(free_on_all(&[Ipv4Addr::LOCALHOST, loopback(2, 1)], port).unwrap(), port);
        let error = dns(held.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains("--dns") && error.contains(&port.to_string()), "{error}");
    }
}
