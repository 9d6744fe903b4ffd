//! All addresses that a node listens on, to find those that two of its listeners cannot both have and those that the machine
//! does not have. Both are found before anything is started, because a node that cannot listen would be restarted again and
//! again.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use store::model::{InputErrors, tree::Node};

use super::settings::{Config, Store};

/// An address that a node listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listens {
    /// The key, such as `dns.tls_listen`.
    pub key: &'static str,
    /// Its index in the list, if the key has a list.
    index: Option<usize>,
    /// The address.
    pub address: SocketAddr,
    transports: Transports,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transports {
    Tcp,
    Udp,
    Both,
}

impl Listens {
    fn field(&self) -> String {
        match self.index {
            None => self.key.to_owned(),
            // Its items are maps.
            Some(index) if self.key == "proxy.listeners" => format!("{}[{index}].address", self.key),
            Some(index) => format!("{}[{index}]", self.key),
        }
    }

    /// True if both can be bound at the same time.
    fn fits_beside(&self, other: &Self) -> bool {
        use Transports::{Tcp, Udp};
        let apart = matches!((self.transports, other.transports), (Tcp, Udp) | (Udp, Tcp));
        let (one, two) = (self.address, other.address);
        // For port 0 the system chooses a free one.
        if apart || one.port() != two.port() || one.port() == 0 {
            return true;
        }
        !(one.ip() == two.ip() || self.covers(two.ip()) || other.covers(one.ip()))
    }

    /// True if it is a wildcard that includes this address.
    fn covers(&self, ip: IpAddr) -> bool {
        // `[::]` includes IPv4, except for listeners that ask for IPv6 only.
        let ipv6_only =
            self.key == "store.dns" || ["dns.", "proxy."].iter().any(|role| self.key.starts_with(role));
        match self.address.ip() {
            IpAddr::V4(own) => own.is_unspecified() && ip.is_ipv4(),
            IpAddr::V6(own) => own == Ipv6Addr::UNSPECIFIED && (ip.is_ipv6() || !ipv6_only),
        }
    }
}

/// Every address that a node listens on.
#[must_use]
pub fn listened(config: &Config) -> Vec<Listens> {
    use Transports::{Both, Tcp, Udp};
    let mut all = Vec::new();
    let one = |key, address: Option<SocketAddr>, transports| {
        address.map(|address| Listens { key, index: None, address, transports })
    };
    if let Some(Store::Embedded(it)) = &config.store {
        all.extend(one("store.http", it.http, Tcp));
        all.extend(one("store.dns", it.dns, Both));
    }
    let mut several = |key, addresses: &[SocketAddr], transports| {
        let listens = |(index, address): (usize, &SocketAddr)| Listens {
            key,
            index: Some(index),
            address: *address,
            transports,
        };
        all.extend(addresses.iter().enumerate().map(listens));
    };
    if let Some(dns) = &config.dns {
        several("dns.listen", &dns.listen, Both);
        several("dns.tls_listen", &dns.tls_listen, Tcp);
        several("dns.https_listen", &dns.https_listen, Tcp);
        several("dns.quic_listen", &dns.quic_listen, Udp);
        several("dns.h3_listen", &dns.h3_listen, Udp);
    }
    if let Some(proxy) = &config.proxy {
        several("proxy.listen", &proxy.listen, Tcp);
        several("proxy.tls_listen", &proxy.tls_listen, Tcp);
        let own: Vec<_> = proxy.listeners.iter().map(|it| it.address).collect();
        several("proxy.listeners", &own, Tcp);
    }
    all.extend(one("control.listen", config.control.as_ref().map(|it| it.listen), Tcp));
    all.extend(one("telemetry.listen", config.telemetry.listen, Tcp));
    all
}

/// Adds an error for each address that another listener of the node already has.
pub(super) fn find_clashes(config: &Config, tree: &Node, errors: &InputErrors) {
    let all = listened(config);
    for (at, second) in all.iter().enumerate() {
        let Some(first) = all.iter().take(at).find(|first| !first.fits_beside(second)) else { continue };
        let field = second.field();
        let problem = match first.address == second.address {
            true => format!("{} is already the address of {}", second.address, first.field()),
            false => format!("{} and {} of {} overlap", second.address, first.address, first.field()),
        };
        let expected = "an address and port that no other listener of this node has".to_owned();
        errors.add(tree.line_of(&field), "", &field, problem, expected);
    }
}

/// The first address that this machine does not have, if any. It is tried out with a free port, which is released at once.
#[must_use]
pub fn absent(all: &[Listens]) -> Option<&Listens> {
    all.iter().find(|listens| {
        let mut any_port = listens.address;
        any_port.set_port(0);
        let bound = std::net::UdpSocket::bind(any_port);
        bound.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrNotAvailable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "node = \"n\"\nsite = \"s\"\ndata_dir = \"/d\"\n";

    fn said(sections: &str) -> String {
        let found = Config::parse("node.toml", &format!("{HEAD}{sections}")).err().unwrap_or_default();
        found.iter().map(|it| format!("{it}\n")).collect()
    }

    #[test]
    fn two_listeners_with_one_address_are_an_error_with_its_line() {
        let said = said(
            "[store]\nengine = \"embedded\"\n[control]\nlisten = \"127.0.0.1:9000\"\n[telemetry]\nlisten = \"127.0.0.1:9000\"\n",
        );
        let expected =
            "node.toml:9: telemetry.listen: 127.0.0.1:9000 is already the address of control.listen";
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }

    #[test]
    fn overlapping_addresses_are_reported() {
        for (store, dns, proxy, telemetry, clash) in [
            ("http = \"127.0.0.1:80\"", "127.0.0.1:53", "127.0.0.1:80", "127.0.0.1:81", "proxy.listen[0]"),
            ("dns = \"127.0.0.1:53\"", "0.0.0.0:53", "127.0.0.1:80", "127.0.0.1:81", "dns.listen[0]"),
            ("http = \"127.0.0.1:1\"", "127.0.0.1:53", "0.0.0.0:80", "[::]:80", "telemetry.listen"),
            // The default of [control].
            ("http = \"127.0.0.1:8580\"", "127.0.0.1:53", "0.0.0.0:80", "127.0.0.1:81", "control.listen"),
            ("http = \"127.0.0.1:1\"", "127.0.0.1:53", "127.0.0.1:80", "127.0.0.2:80", ""),
            ("http = \"127.0.0.1:1\"", "0.0.0.0:53\", \"[::]:53", "127.0.0.1:0", "127.0.0.1:0", ""),
            (
                "http = \"127.0.0.1:1\"",
                "127.0.0.1:53",
                "0.0.0.0:80\", \"127.0.0.1:80",
                "127.0.0.1:81",
                "proxy.listen[1]",
            ),
        ] {
            let said = said(&format!(
                "[store]\nengine = \"embedded\"\n{store}\n[dns]\nlisten = [\"{dns}\"]\n[proxy]\ncluster = \"c\"\n\
                 listen = [\"{proxy}\"]\n[control]\n[telemetry]\nlisten = \"{telemetry}\"\n"
            ));
            assert_eq!(said.lines().count(), usize::from(!clash.is_empty()), "{clash}: {said}");
            assert!(said.contains(clash), "{clash}: {said}");
        }
    }

    #[test]
    fn the_gateways_listeners_are_compared_with_each_other() {
        let proxy = |listeners: &str| {
            let said =
                said(&format!("[store]\nengine = \"embedded\"\n[proxy]\ncluster = \"c\"\n{listeners}"));
            said.lines()
                .filter(|it| !it.contains("certificate"))
                .map(|it| format!("{it}\n"))
                .collect::<String>()
        };
        let clash = proxy("listen = [\"127.0.0.1:80\"]\n[[proxy.listeners]]\naddress = \"127.0.0.1:80\"\n");
        let expected = "node.toml:10: proxy.listeners[0].address: 127.0.0.1:80 is already the address of proxy.listen[0]";
        assert!(clash.starts_with(expected), "{clash}");
        assert_eq!(proxy("listen = [\"0.0.0.0:80\"]\n[[proxy.listeners]]\naddress = \"[::]:80\"\n"), "");
    }

    #[test]
    fn datagrams_and_connections_have_ports_of_their_own() {
        let dns = "[store]\nengine = \"embedded\"\n[dns]\nlisten = [\"127.0.0.1:5300\"]\n\
                   tls = { certificate = \"/c\", key = \"/k\" }\nquic_listen = [\"127.0.0.1:853\"]\n";
        assert_eq!(said(&format!("{dns}tls_listen = [\"127.0.0.1:853\"]\n")), "");
        assert!(said(&format!("{dns}h3_listen = [\"127.0.0.1:853\"]\n")).contains("dns.h3_listen[0]"));
    }

    #[test]
    fn an_address_of_another_machine_is_found() {
        let listens = |address: &str| Listens {
            key: "k",
            index: None,
            address: address.parse().unwrap(),
            transports: Transports::Tcp,
        };
        let here = [listens("127.0.0.1:1"), listens("0.0.0.0:1")];
        assert_eq!(absent(&here), None);
        let there = [listens("127.0.0.1:1"), listens("192.0.2.1:80")];
        assert_eq!(absent(&there), Some(&there[1]));
    }
}
