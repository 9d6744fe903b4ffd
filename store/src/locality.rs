//! Locality: which sites are near to a client, in order.
//!
//! A client's network is found by longest prefix among the sites' networks. The site of that network comes first, and
//! the others follow by distance from it. A client in none of the networks gets the order of the site nearest to its
//! place in a GeoIP database, if there is one. Orders are interned: one per site, and the default.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    geo::Geo,
    model::{Country, Location, Name, Site},
};

/// The networks of all sites and the order of sites seen from each.
#[derive(Debug, Default)]
pub struct Locality {
    v4: Trie,
    v6: Trie,
    orders: Vec<Vec<SiteId>>,
    default: Vec<SiteId>,
    regions: Vec<Name>,
    regions_of: Vec<Option<RegionId>>,
    places: Vec<Option<Location>>,
    geo: Option<Arc<Geo>>,
    /// The nearest site of each place of the database.
    nearest: Vec<Option<SiteId>>,
}

/// The number of a site within one snapshot, in name order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub u16);

/// The number of a region within one snapshot, in name order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u16);

/// The network by whose hash a client is assigned: its /24 (IPv4) or /56 (IPv6), mixed so that every part of the
/// range of numbers has its share of networks. The same on every node and in every version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Network(pub u64);

impl Network {
    /// The network of a client.
    #[must_use]
    pub const fn of(client: IpAddr) -> Self {
        let bits = match client.to_canonical() {
            IpAddr::V4(ip) => (ip.to_bits() >> 8) as u64,
            // No IPv4 network is above 2^24.
            IpAddr::V6(ip) => (ip.to_bits() >> 72) as u64 | 1 << 63,
        };
        Self(mix(bits))
    }
}

/// Spreads neighbouring numbers over the whole range: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
#[must_use]
pub const fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// What steering needs to know about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located<'a> {
    /// Every site, nearest first.
    pub order: &'a [SiteId],
    /// The site whose network contains the client; `None`: the default order.
    pub home: Option<SiteId>,
    /// The site nearest to it: its home, or the one nearest to its place in the GeoIP database.
    pub near: Option<SiteId>,
    /// Every address that shares this many leading bits gets the same order (RFC 7871 §7.2.1); zero only
    /// where no network of that family is configured at all, otherwise at least 24 or 56.
    pub scope: u8,
    /// The client, or the client subnet of the query.
    pub address: IpAddr,
    /// Every address that shares this many leading bits has the same [`Network`]; zero for a client that must not be
    /// distinguished.
    pub least: u8,
    /// The network by whose hash it is assigned.
    pub network: Network,
    /// Its country, if known.
    pub country: Option<Country>,
    /// The region of its home site.
    pub region: Option<RegionId>,
}

impl Locality {
    /// Compiles the networks and distances of sites, given in [`SiteId`] order.
    #[must_use]
    pub fn compile(sites: &[Arc<Site>]) -> Self {
        let ids = || (0..sites.len()).filter_map(|at| u16::try_from(at).ok()).map(SiteId);
        let mut locality = Self { default: ids().collect(), ..Self::default() };
        locality.regions = sites.iter().filter_map(|site| site.region.clone()).collect();
        locality.places = sites.iter().map(|site| site.location).collect();
        locality.regions.sort();
        locality.regions.dedup();
        locality.regions_of =
            sites.iter().map(|site| site.region.as_ref().and_then(|it| locality.region(it))).collect();
        for (id, site) in ids().zip(sites) {
            for network in &site.networks {
                match network {
                    IpNet::V4(net) => {
                        locality.v4.insert(u128::from(net.network().to_bits()) << 96, net.prefix_len(), id)
                    }
                    IpNet::V6(net) => locality.v6.insert(net.network().to_bits(), net.prefix_len(), id),
                }
            }
            let mut order: Vec<SiteId> = ids().collect();
            let distance = |other: &SiteId| {
                let there = sites.get(usize::from(other.0)).and_then(|site| site.location);
                match (*other == id, site.location, there) {
                    (true, _, _) => -1,
                    (false, Some(here), Some(there)) => metres(here, there),
                    (false, _, _) => i64::MAX,
                }
            };
            order.sort_by_key(distance);
            locality.orders.push(order);
        }
        locality
    }

    /// Locates a client.
    #[must_use]
    pub fn locate(&self, client: IpAddr) -> Located<'_> {
        let address = client.to_canonical();
        let (home, scope) = match address {
            IpAddr::V4(ip) => {
                let (home, depth) = self.v4.find(u128::from(ip.to_bits()) << 96, 32);
                (home, if self.v4.is_empty() { 0 } else { depth.max(24) })
            }
            IpAddr::V6(ip) => {
                let (home, depth) = self.v6.find(ip.to_bits(), 128);
                (home, if self.v6.is_empty() { 0 } else { depth.max(56) })
            }
        };
        let least = if address.is_ipv4() { 24 } else { 56 };
        let located = Located { scope, address, least, network: Network::of(address), ..self.at_home(home) };
        let Some(geo) = &self.geo else { return located };
        let found = geo.find(address);
        let scope = scope.max(found.prefix).max(least);
        let country = found.place.and_then(|it| geo.whereabouts(it).country);
        let near = found.place.and_then(|it| *self.nearest.get(it.index())?);
        let Located { order, region, near, .. } = self.at_home(home.or(near));
        Located { scope, order, region, near, country, ..located }
    }

    /// Adds a GeoIP database: clients in none of the sites' networks then get the order of the nearest site, and a
    /// country.
    #[must_use]
    pub fn with_geo(mut self, geo: Option<Arc<Geo>>) -> Self {
        let sites: Vec<_> = (0..).map(SiteId).zip(&self.places).collect();
        let sites: Vec<_> = sites.into_iter().filter_map(|(id, at)| Some((id, direction((*at)?)))).collect();
        let places = geo.iter().flat_map(|geo| geo.places());
        self.nearest = places.map(|there| nearest(&sites, there.location?)).collect();
        Self { geo, ..self }
    }

    /// The GeoIP database.
    #[must_use]
    pub fn geo(&self) -> Option<Arc<Geo>> {
        self.geo.clone()
    }

    /// Whether the countries of clients are known.
    #[must_use]
    pub const fn knows_countries(&self) -> bool {
        self.geo.is_some()
    }

    /// A client of which at most the home site is known: a gateway, or a client that must not be distinguished.
    #[must_use]
    pub fn at_home(&self, home: Option<SiteId>) -> Located<'_> {
        Located {
            order: self.order(home),
            home,
            near: home,
            scope: 0,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            least: 0,
            network: Network::default(),
            country: None,
            region: home.and_then(|site| *self.regions_of.get(usize::from(site.0))?),
        }
    }

    /// The number of a region that has a site.
    #[must_use]
    pub fn region(&self, name: &Name) -> Option<RegionId> {
        u16::try_from(self.regions.binary_search(name).ok()?).ok().map(RegionId)
    }

    /// Every region that has a site, by [`RegionId`].
    #[must_use]
    pub fn regions(&self) -> &[Name] {
        &self.regions
    }

    /// The order of sites seen from one of them, or the default order.
    #[must_use]
    pub fn order(&self, home: Option<SiteId>) -> &[SiteId] {
        home.and_then(|site| self.orders.get(usize::from(site.0))).unwrap_or(&self.default)
    }
}

/// A binary trie over the leading bits of an address; node 0 is the root.
#[derive(Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    children: [u32; 2],
    site: Option<SiteId>,
}

impl Trie {
    const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn insert(&mut self, bits: u128, length: u8, site: SiteId) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for depth in 0..length {
            let next = self.nodes.len();
            let child = &mut self.nodes[at].children[bit(bits, depth)];
            if *child == 0 {
                *child = u32::try_from(next).expect("documents are bounded far below 2^32 networks");
                self.nodes.push(Node::default());
            }
            at = self.nodes[at].children[bit(bits, depth)] as usize;
        }
        self.nodes[at].site = Some(site);
    }

    /// The longest match, and the number of leading bits that decide it.
    fn find(&self, bits: u128, width: u8) -> (Option<SiteId>, u8) {
        let Some(mut node) = self.nodes.first() else { return (None, 0) };
        let mut found = node.site;
        for depth in 0..width {
            match node.children[bit(bits, depth)] {
                0 if node.children == [0, 0] => return (found, depth),
                0 => return (found, depth + 1),
                child => node = &self.nodes[child as usize],
            }
            found = node.site.or(found);
        }
        (found, width)
    }
}

const fn bit(bits: u128, depth: u8) -> usize {
    (bits >> (127 - depth) & 1) as usize
}

/// The site nearest to a place; the first one of several.
fn nearest(sites: &[(SiteId, [f64; 3])], place: Location) -> Option<SiteId> {
    let here = direction(place);
    // The smaller the angle between two directions, the larger their product.
    let product = |there: &[f64; 3]| here.iter().zip(there).map(|(a, b)| a * b).sum::<f64>();
    let farness = sites.iter().map(|(id, there)| (-product(there), *id));
    farness.min_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, id)| id)
}

/// The unit vector from the centre of the Earth. A database has a hundred thousand places, and the nearest site of
/// each is computed with every snapshot; comparing vectors costs a tenth of computing distances.
fn direction(place: Location) -> [f64; 3] {
    let (lat, lon) = (place.lat.to_radians(), place.lon.to_radians());
    [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()]
}

/// Great-circle distance (haversine, mean Earth radius).
fn metres(from: Location, to: Location) -> i64 {
    const RADIUS: f64 = 6_371_000.0;
    let (lat1, lat2) = (from.lat.to_radians(), to.lat.to_radians());
    let half_lat = ((lat2 - lat1) / 2.0).sin();
    let half_lon = ((to.lon - from.lon).to_radians() / 2.0).sin();
    let h = half_lat * half_lat + lat1.cos() * lat2.cos() * half_lon * half_lon;
    #[expect(clippy::cast_possible_truncation, reason = "at most half of Earth's circumference")]
    let metres = (2.0 * RADIUS * h.sqrt().min(1.0).asin()) as i64;
    metres
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_client_outside_all_networks_gets_the_order_of_the_nearest_site() {
        let sites = [
            site("bj", 39.9, 116.4, &["10.1.0.0/16", "203.0.113.0/25"]),
            site("fr", 50.1, 8.7, &[]),
            site("sh", 31.2, 121.5, &[]),
        ];
        let plain = Locality::compile(&sites);
        let locality = Locality::compile(&sites).with_geo(Some(Arc::new(crate::geo::tests::small())));
        let located = |locality: &Locality, client: &str| {
            let located = locality.locate(client.parse().unwrap());
            (located.order[0].0, located.country.map(|it| it.to_string()), located.scope)
        };
        assert_eq!(located(&plain, "203.0.113.200"), (0, None, 25), "the default order");
        assert_eq!(located(&locality, "203.0.113.200"), (2, Some("CN".into()), 25));
        assert_eq!(located(&locality, "203.0.113.9"), (0, Some("CN".into()), 25), "networks take precedence");
        assert_eq!(located(&locality, "198.51.100.9"), (2, Some("JP".into()), 26));
        assert_eq!(
            located(&locality, "198.51.100.130"),
            (0, Some("DE".into()), 28),
            "a country without a place"
        );
    }

    fn site(name: &str, lat: f64, lon: f64, networks: &[&str]) -> Arc<Site> {
        Arc::new(Site {
            name: name.parse().unwrap(),
            location: Some(Location { lat, lon }),
            networks: networks.iter().map(|net| net.parse().unwrap()).collect(),
            region: None,
            control: None,
            reach: [].into(),
        })
    }

    fn china() -> Locality {
        Locality::compile(&[
            site("bj", 39.90, 116.40, &["10.1.0.0/16", "2001:db8:1::/48"]),
            site("gz", 23.13, 113.26, &["10.2.0.0/16"]),
            site("sh", 31.23, 121.47, &["10.0.0.0/8"]),
        ])
    }

    #[test]
    fn the_longest_prefix_wins_and_distance_orders_the_rest() {
        let locality = china();
        let order =
            |ip: &str| locality.locate(ip.parse().unwrap()).order.iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(order("10.1.2.3"), [0, 2, 1]);
        assert_eq!(order("10.2.2.3"), [1, 2, 0]);
        assert_eq!(order("10.9.2.3"), [2, 0, 1]);
        assert_eq!(order("192.0.2.1"), [0, 1, 2]);
        assert_eq!(order("2001:db8:1::9"), [0, 2, 1]);
        assert_eq!(order("::ffff:10.2.0.1"), [1, 2, 0]);
    }

    #[test]
    fn a_well_known_distance() {
        let km = metres(Location { lat: 39.90, lon: 116.40 }, Location { lat: 31.23, lon: 121.47 }) / 1000;
        assert!((1060..1080).contains(&km), "{km}");
    }

    #[test]
    fn without_networks_the_scope_is_global() {
        let locality = Locality::compile(&[site("bj", 0.0, 0.0, &[])]);
        assert_eq!(locality.locate("192.0.2.1".parse().unwrap()).scope, 0);
    }

    proptest! {
        #[test]
        fn everyone_inside_the_scope_is_located_alike(
            networks in prop::collection::vec((any::<u32>(), 0u8..=32, 0usize..3), 0..40),
            client in any::<u32>(),
            other in any::<u32>(),
        ) {
            let mut sites = [site("a", 0.0, 0.0, &[]), site("b", 1.0, 1.0, &[]), site("c", 2.0, 2.0, &[])];
            for (bits, length, at) in networks {
                let net = ipnet::Ipv4Net::new(bits.into(), length).unwrap().trunc();
                Arc::make_mut(&mut sites[at]).networks.push(net.into());
            }
            let locality = Locality::compile(&sites);
            let found = locality.locate(IpAddr::V4(client.into()));
            let mask = u32::MAX.checked_shl(32 - u32::from(found.scope)).unwrap_or(0);
            let neighbour = (client & mask) | (other & !mask);
            let also = locality.locate(IpAddr::V4(neighbour.into()));
            prop_assert_eq!(found.home, also.home);
        }
    }
}
