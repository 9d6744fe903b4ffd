//! The client of a query: its source address, or the network that a resolver names (EDNS client subnet, RFC 7871).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use store::locality::{Locality, Located};

/// A client subnet option as it came, checked (RFC 7871 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    family: u16,
    address: IpAddr,
    source: u8,
}

const IPV4: u16 = 1;
const IPV6: u16 = 2;

impl Subnet {
    /// Reads the option's data. `None` when it is malformed: an unknown family, a prefix longer than an
    /// address, too few or too many octets, bits set beyond the prefix, or a scope in a query.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (&[family_high, family_low, source, scope], octets) = data.split_first_chunk()?;
        let family = u16::from_be_bytes([family_high, family_low]);
        let address = match (family, source) {
            (IPV4, 0..=32) => IpAddr::from(Ipv4Addr::from(padded::<4>(octets)?)),
            (IPV6, 0..=128) => IpAddr::from(Ipv6Addr::from(padded::<16>(octets)?)),
            // Some clients request an untailored answer without naming a family.
            (0, 0) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            _ => return None,
        };
        let exact = octets.len() == usize::from(source.div_ceil(8)) && scope == 0;
        let trimmed = IpNet::new(address, source).is_ok_and(|net| net.network() == address);
        (exact && trimmed).then_some(Self { family, address, source })
    }

    /// The option's data for a reply: as it came, with a scope.
    #[must_use]
    pub fn echo(&self, scope: u8) -> Vec<u8> {
        let (octets, len) = self.octets(scope);
        octets.into_iter().take(len).collect()
    }

    /// [`echo`](Self::echo) without an allocation: the octets, and how many of them count.
    pub(crate) fn octets(&self, scope: u8) -> ([u8; 20], usize) {
        let [high, low] = self.family.to_be_bytes();
        let address = match self.address {
            IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let mut data = [0; 20];
        let head = [high, low, self.source, scope];
        data.iter_mut().zip(head.into_iter().chain(address.to_be_bytes())).for_each(|(to, from)| *to = from);
        (data, 4 + usize::from(self.source.div_ceil(8)))
    }
}

impl From<IpNet> for Subnet {
    fn from(net: IpNet) -> Self {
        let family = if net.addr().is_ipv4() { IPV4 } else { IPV6 };
        Self { family, address: net.network(), source: net.prefix_len() }
    }
}

fn padded<const N: usize>(octets: &[u8]) -> Option<[u8; N]> {
    let mut padded = [0; N];
    padded.get_mut(..octets.len())?.copy_from_slice(octets);
    Some(padded)
}

/// The client of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where the packet came from: a resolver, mostly.
    pub source: IpAddr,
    /// The network that the resolver names.
    pub subnet: Option<Subnet>,
}

impl Client {
    /// A client known by its address alone.
    #[must_use]
    pub const fn at(source: IpAddr) -> Self {
        Self { source, subnet: None }
    }

    /// Finds the client: by its subnet if the resolver sent one, else by the resolver's own address. A prefix of
    /// length zero requests an untailored answer (RFC 7871 §7.1.2): it gets the default order, for all clients.
    #[must_use]
    pub fn locate<'a>(&self, locality: &'a Locality) -> Located<'a> {
        let untailored = |scope| Located { scope, least: scope, ..locality.at_home(None) };
        let Some(subnet) = self.subnet else { return locality.locate(self.source) };
        match subnet.address {
            _ if subnet.source == 0 => untailored(0),
            // No client's network: only this very address would be steered as the IPv4 address in it.
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => untailored(128),
            IpAddr::V6(ip) => {
                let located = locality.locate(subnet.address);
                let shared = (ip.to_bits() ^ MAPPED).leading_zeros();
                let widened = |scope: u8| {
                    if scope > 0 && shared >= u32::from(scope) { scope.max(96) } else { scope }
                };
                Located { scope: widened(located.scope), least: widened(located.least), ..located }
            }
            IpAddr::V4(_) => locality.locate(subnet.address),
        }
    }
}

/// The first address of `::ffff:0:0/96`.
const MAPPED: u128 = 0xffff_0000_0000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_read_as_they_are_echoed() {
        for (net, octets) in [("192.0.2.0/24", 3), ("10.0.0.0/8", 1), ("2001:db8::/33", 5), ("0.0.0.0/0", 0)]
        {
            let subnet = Subnet::from(net.parse::<IpNet>().unwrap());
            let data = subnet.echo(0);
            assert_eq!(data.len(), 4 + octets, "{net}");
            assert_eq!(Subnet::parse(&data), Some(subnet), "{net}");
        }
        assert_eq!(Subnet::parse(&[0, 0, 0, 0]).unwrap().echo(0), [0, 0, 0, 0]);
    }

    /// RFC 7871 §6: too few or too many octets, or bits beyond the prefix, have to be refused.
    #[test]
    fn malformed_options_are_refused() {
        let malformed: [&[u8]; 10] = [
            &[],
            &[0, 1, 24],
            &[0, 1, 24, 0, 192, 0],
            &[0, 1, 24, 0, 192, 0, 2, 0],
            &[0, 1, 20, 0, 192, 0, 0xff],
            &[0, 1, 33, 0, 192, 0, 2, 1, 0],
            &[0, 1, 24, 24, 192, 0, 2],
            &[0, 3, 8, 0, 1],
            &[0, 0, 8, 0, 1],
            &[0, 2, 129, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        ];
        for data in malformed {
            assert_eq!(Subnet::parse(data), None, "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn no_option_is_too_strange(data in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Some(subnet) = Subnet::parse(&data) {
                prop_assert_eq!(subnet.echo(0), data);
            }
        }
    }
}
