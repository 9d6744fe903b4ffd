//! Where the parts of each site listen, and the engine of each.
//!
//! The first site has the well-known addresses on 127.0.0.1, so that commands without `--server` reach it. Every other site
//! has the same ports on an address of its own, 127.0.SITE.1, as far as they are free.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use super::{error::DemoError, layout::Options, ports};

/// The sites; the first is nearest to 127.0.0.1. Gateways and back ends are at 127.0.1.x and 127.0.2.x.
pub(super) const SITES: [&str; 2] = ["bj", "sh"];

/// The addresses of one site.
#[derive(Clone, Debug)]
pub(super) struct SiteAddresses {
    /// Its name.
    pub(super) name: &'static str,
    /// Its place among the sites, from 1; the third octet of its addresses.
    pub(super) number: u8,
    /// Where its DNS listens.
    pub(super) dns: SocketAddr,
    /// Where its control listens.
    pub(super) admin: SocketAddr,
    /// Where its engine listens; `None`: it is a Consul agent that was running already.
    pub(super) engine_http: Option<SocketAddr>,
    /// The URL of its engine.
    pub(super) engine: String,
    /// Where its gateway listens.
    pub(super) gateway: SocketAddr,
}

impl SiteAddresses {
    /// The URL of its control.
    pub(super) fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }
}

/// The host of a site's DNS, control and engine.
const fn host(number: u8) -> Ipv4Addr {
    if number == 1 { Ipv4Addr::LOCALHOST } else { ports::loopback(number, 1) }
}

/// The addresses of all sites.
///
/// # Errors
/// When a requested address is in use, or the engines are not one for each site.
pub(super) fn choose(options: &Options) -> Result<Vec<SiteAddresses>, DemoError> {
    let engines = engines(&options.consul)?;
    let numbers = || (1_u8..).take(SITES.len());
    let gateways: Vec<Ipv4Addr> = numbers().map(|number| ports::loopback(number, 1)).collect();
    let gateway_port = ports::free_on_all(&gateways, 8080)?;
    let dns = dns(options.dns)?;
    let mut sites = Vec::new();
    for (at, (name, number)) in SITES.into_iter().zip(numbers()).enumerate() {
        let (engine, engine_http) = match engines.get(at) {
            Some(url) => (url.clone(), None),
            None => {
                let http = ports::preferred_or_free(host(number), 8500)?;
                (format!("http://{http}"), Some(http))
            }
        };
        sites.push(SiteAddresses {
            name,
            number,
            dns: dns.get(at).copied().unwrap_or(options.dns),
            admin: ports::preferred_or_free(host(number), 8580)?,
            engine_http,
            engine,
            gateway: SocketAddr::new(IpAddr::V4(ports::loopback(number, 1)), gateway_port),
        });
    }
    Ok(sites)
}

/// The Consul agents of the sites; none: each site has an embedded engine.
fn engines(given: &[String]) -> Result<Vec<String>, DemoError> {
    let urls: Vec<String> = given.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
    let differ = urls.iter().enumerate().all(|(at, url)| !urls.iter().take(at).any(|it| it == url));
    match urls.len() {
        0 => Ok(urls),
        count if count == SITES.len() && differ => Ok(urls),
        count if count == SITES.len() => Err(DemoError::Usage(format!(
            "--consul: both sites have {}; expected an agent of a cluster of its own for each site, since a site that dies \
             takes its engine with it",
            urls.first().map_or("", String::as_str)
        ))),
        count => Err(DemoError::Usage(format!(
            "--consul: {count} given, and two sites need two engines: expected it twice, once for each site ({})",
            SITES.join(", then ")
        ))),
    }
}

/// Where DNS listens at each site: the wanted address, and the same port at the others.
fn dns(wanted: SocketAddr) -> Result<Vec<SocketAddr>, DemoError> {
    const TRIES: usize = 50;
    let mut last = None;
    for _ in 0..if wanted.port() == 0 { TRIES } else { 1 } {
        let first = ports::dns(wanted)?;
        let others = (2_u8..).take(SITES.len() - 1).map(|number| (IpAddr::V4(host(number)), first.port()));
        let all: Vec<SocketAddr> = [first].into_iter().chain(others.map(SocketAddr::from)).collect();
        match together(&all) {
            Ok(()) => return Ok(all),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| DemoError::Usage("--dns: there is no site".to_owned())))
}

/// Whether servers can listen on all of them at once.
fn together(all: &[SocketAddr]) -> Result<(), DemoError> {
    let mut held = Vec::new();
    for address in all {
        let bound = UdpSocket::bind(address).and_then(|udp| Ok((udp, std::net::TcpListener::bind(address)?)));
        let by = "DNS of a site, which has the port of --dns on its own address";
        held.push(bound.map_err(|error| DemoError::AddressInUse { address: *address, by, error })?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dns: &str, consul: &[&str]) -> Options {
        let consul = consul.iter().map(|it| (*it).to_owned()).collect();
        Options { json: false, dns: dns.parse().unwrap(), consul, tour: false }
    }

    #[test]
    fn two_sites_need_two_engines() {
        for (given, words) in [
            (&["http://127.0.0.1:8500"][..], "1 given, and two sites need two engines"),
            (&["http://a:1", "http://b:1", "http://c:1"], "3 given, and two sites need two engines"),
            (&["http://a:1", "http://a:1/"], "both sites have http://a:1"),
        ] {
            let error = choose(&options("127.0.0.1:0", given)).unwrap_err();
            assert!(matches!(&error, DemoError::Usage(said) if said.contains(words)), "{words}: {error}");
        }
        let sites = choose(&options("127.0.0.1:0", &["http://a:1/", "http://b:1"])).unwrap();
        let engines: Vec<_> = sites.iter().map(|it| (it.engine.as_str(), it.engine_http)).collect();
        assert_eq!(engines, [("http://a:1", None), ("http://b:1", None)]);
    }

    #[test]
    fn every_site_has_an_address_range_of_its_own_and_the_port_of_dns() {
        let sites = choose(&options("127.0.0.1:0", &[])).unwrap();
        let hosts = |of: fn(&SiteAddresses) -> SocketAddr| -> Vec<String> {
            sites.iter().map(|it| of(it).ip().to_string()).collect()
        };
        assert_eq!(hosts(|it| it.dns), ["127.0.0.1", "127.0.2.1"]);
        assert_eq!(hosts(|it| it.admin), ["127.0.0.1", "127.0.2.1"]);
        assert_eq!(hosts(|it| it.gateway), ["127.0.1.1", "127.0.2.1"]);
        assert_eq!(sites[0].dns.port(), sites[1].dns.port());
        assert_eq!(sites[0].gateway.port(), sites[1].gateway.port());
        assert!(sites.iter().all(|it| it.engine_http.is_some() && it.engine.starts_with("http://127.0.")));
    }

    #[test]
    fn an_address_of_all_interfaces_leaves_no_port_for_the_second_site() {
        let port = ports::free_port(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        let error = choose(&options(&format!("0.0.0.0:{port}"), &[])).unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.2.1:{port}")) && error.contains("port of --dns"), "{error}");
    }
}
