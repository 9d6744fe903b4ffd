//! Headers that we write, towards instances.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use super::{Addresses, SIGNATURE};

/// Writes a header of version 1. A line has one family: where one address is IPv4 and the other IPv6, both are written
/// as IPv6.
pub(crate) fn write_v1(addresses: Option<Addresses>, into: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    let _ = match addresses.map(of_one_family) {
        None => into.write_all(b"PROXY UNKNOWN\r\n"),
        Some(Addresses { source, destination }) => {
            let family = if source.is_ipv4() { 4 } else { 6 };
            let (from, to) = (source.ip(), destination.ip());
            write!(into, "PROXY TCP{family} {from} {to} {} {}\r\n", source.port(), destination.port())
        }
    };
}

/// Writes a header of version 2 for a client's connection.
pub(crate) fn write_v2(addresses: Option<Addresses>, into: &mut Vec<u8>) {
    let Some(Addresses { source, destination }) = addresses.map(of_one_family) else {
        start_v2(0x00, 0, into);
        return;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            start_v2(0x11, 12, into);
            into.extend([source.octets(), destination.octets()].concat());
        }
        (source, destination) => {
            start_v2(0x21, 36, into);
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            into.extend([octets(source), octets(destination)].concat());
        }
    }
    into.extend(source.port().to_be_bytes());
    into.extend(destination.port().to_be_bytes());
}

fn start_v2(family: u8, length: u16, into: &mut Vec<u8>) {
    into.extend(SIGNATURE);
    // Version 2, for a connection that is passed on.
    into.extend([0x21, family]);
    into.extend(length.to_be_bytes());
}

/// Both as IPv4 or both as IPv6.
fn of_one_family(addresses: Addresses) -> Addresses {
    let Addresses { source, destination } = addresses;
    if source.is_ipv4() == destination.is_ipv4() {
        return Addresses { source: plain(source), destination: plain(destination) };
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => plain(address),
    };
    Addresses { source: mapped(source), destination: mapped(destination) }
}

/// Without a flow and a scope, which no header tells.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}
