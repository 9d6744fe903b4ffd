//! The country and location of addresses, from a database in the MaxMind format: for clients in none of the sites'
//! networks.
//!
//! `maxminddb` reads the file. It is walked once, into sorted tables of networks and a list of distinct places, so that a
//! lookup is one binary search that decodes nothing. The walk also checks the file: if any part cannot be read, the whole
//! file is refused, and a damaged tree, whose branches form a loop, is refused because it has too many networks.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use maxminddb::{LookupResult, MaxMindDbError, Reader, WithinOptions};
use model::{Country, Location};
use serde::Deserialize;

/// A database that was read.
pub struct Geo {
    kind: String,
    places: Vec<Whereabouts>,
    v4: Networks<u32>,
    /// Without the networks in `v4`; empty in a database of IPv4 alone.
    v6: Networks<u128>,
}

/// Where an address is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Whereabouts {
    /// The country.
    pub country: Option<Country>,
    /// The place; databases of countries have none.
    pub location: Option<Location>,
}

/// The number of a place within one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceId(u32);

/// The result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place.
    pub place: Option<PlaceId>,
    /// All addresses that share this many leading bits have the same place, or none as this one.
    pub prefix: u8,
}

impl fmt::Debug for Geo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.v4.starts.len() + self.v6.starts.len();
        write!(f, "Geo({}, {networks} networks, {} places)", self.kind, self.places.len())
    }
}

impl Geo {
    /// Reads a database into memory: 9 octets for each IPv4 network, 21 for each IPv6 network.
    ///
    /// # Errors
    /// When the file cannot be read, is not such a database, is damaged, or contains neither countries nor locations.
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::read(&std::fs::read(path).map_err(|error| error.to_string())?)
    }

    /// Reads a database from its octets.
    ///
    /// # Errors
    /// As [`Geo::open`].
    pub fn read(octets: &[u8]) -> Result<Self, String> {
        let reader = Reader::from_source(octets)
            .map_err(|error| format!("not a database in the MaxMind format: {error}"))?;
        let about = reader.metadata();
        let kind: String = about.database_type.chars().take(100).collect();
        // In a tree whose nodes each divide a network in two, there is one leaf more than there are nodes.
        let mut left = u64::from(about.node_count) + 1;
        let mut geo = Self { kind, places: Vec::new(), v4: Networks::default(), v6: Networks::default() };
        let mut places = Places::default();
        let damaged = |error: MaxMindDbError| format!("damaged: {error}");
        let every = WithinOptions::default().include_networks_without_data();
        for network in reader.networks(every).map_err(damaged)? {
            let network = network.map_err(damaged)?;
            left = left.checked_sub(1).ok_or("damaged: its tree has branches that lead back")?;
            let place = places.number(&network, &mut geo.places).map_err(damaged)?;
            let at = network.network().map_err(damaged)?;
            let in_order = match at.network() {
                IpAddr::V4(start) => geo.v4.push(start.to_bits(), at.prefix(), place),
                IpAddr::V6(start) => geo.v6.push(start.to_bits(), at.prefix(), place),
            };
            in_order.ok_or("damaged: its networks overlap")?;
        }
        if geo.places.iter().all(|it| *it == Whereabouts::default()) {
            return Err(format!("{}: contains neither country.iso_code nor location", geo.kind));
        }
        Ok(geo)
    }

    /// Finds an address.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Found {
        let found = match address {
            IpAddr::V4(ip) => self.find_v4(ip),
            IpAddr::V6(ip) => self.v6.find(ip.to_bits()).or_else(|| {
                let (ip, above) = embedded(ip)?;
                self.find_v4(ip).map(|found| Found { prefix: above + found.prefix, ..found })
            }),
        };
        found.unwrap_or(Found { place: None, prefix: 0 })
    }

    fn find_v4(&self, address: Ipv4Addr) -> Option<Found> {
        self.v4.find(address.to_bits()).or_else(|| {
            // A network wider than all of IPv4.
            let found = self.v6.find(address.to_bits().into())?;
            Some(Found { prefix: found.prefix.saturating_sub(96), ..found })
        })
    }

    /// The country and location of a place.
    #[must_use]
    pub fn whereabouts(&self, place: PlaceId) -> Whereabouts {
        self.places.get(place.0 as usize).copied().unwrap_or_default()
    }

    /// All places, by [`PlaceId`].
    #[must_use]
    pub fn places(&self) -> &[Whereabouts] {
        &self.places
    }
}

impl PlaceId {
    /// Its position in [`Geo::places`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The IPv4 address within an IPv6 address, and the bits above it: IPv4-compatible and IPv4-mapped addresses (RFC 4291
/// §2.5.5), 6to4 (RFC 3056) and Teredo (RFC 4380). Databases keep these networks as references to IPv4, which the walk
/// does not follow.
fn embedded(address: Ipv6Addr) -> Option<(Ipv4Addr, u8)> {
    let above = match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => 96,
        [0x2002, ..] => 16,
        [0x2001, 0, ..] => 32,
        _ => return None,
    };
    let bits = u32::try_from(address.to_bits() >> (96 - above) & u128::from(u32::MAX)).ok()?;
    Some((Ipv4Addr::from_bits(bits), above))
}

/// Networks in the order of their addresses, as columns, so that a search reads addresses only.
#[derive(Default)]
struct Networks<A> {
    starts: Vec<A>,
    prefixes: Vec<u8>,
    places: Vec<Option<PlaceIndex>>,
}

/// One more than a [`PlaceId`], so that an absent one needs no extra memory.
type PlaceIndex = std::num::NonZeroU32;

/// An address as a number.
trait Bits: Copy + Ord {
    /// How many leading bits two addresses share.
    fn shared(self, other: Self) -> u32;
}

impl Bits for u32 {
    fn shared(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }
}

impl Bits for u128 {
    fn shared(self, other: Self) -> u32 {
        (self ^ other).leading_zeros()
    }
}

impl<A: Bits> Networks<A> {
    /// Adds a network; `None` if it does not follow all others.
    fn push(&mut self, start: A, prefix: u8, place: Option<PlaceIndex>) -> Option<()> {
        if let Some((last, prefix)) = self.starts.last().zip(self.prefixes.last())
            && (*last >= start || last.shared(start) >= u32::from(*prefix))
        {
            return None;
        }
        self.starts.push(start);
        self.prefixes.push(prefix);
        self.places.push(place);
        Some(())
    }

    fn find(&self, address: A) -> Option<Found> {
        let at = self.starts.partition_point(|start| *start <= address).checked_sub(1)?;
        let prefix = *self.prefixes.get(at)?;
        if self.starts.get(at)?.shared(address) < u32::from(prefix) {
            return None;
        }
        let place = self.places.get(at)?.map(|it| PlaceId(it.get() - 1));
        Some(Found { place, prefix })
    }
}

/// The places found so far, each distinct one once: a database of cities has many records for one place.
#[derive(Default)]
struct Places {
    by_offset: HashMap<usize, Option<PlaceIndex>>,
    distinct: HashMap<Distinct, Option<PlaceIndex>>,
}

/// What distinguishes places: the country, and the bits of latitude and longitude.
type Distinct = (Option<Country>, Option<[u64; 2]>);

impl Places {
    /// The number of a network's place, which is added to `all` if it is new; `None` for a network without data.
    fn number(
        &mut self,
        network: &LookupResult<'_, &[u8]>,
        all: &mut Vec<Whereabouts>,
    ) -> Result<Option<PlaceIndex>, MaxMindDbError> {
        let Some(offset) = network.offset() else { return Ok(None) };
        let new = match self.by_offset.entry(offset) {
            Entry::Occupied(known) => return Ok(*known.get()),
            Entry::Vacant(new) => new,
        };
        let there = network.decode::<Record>()?.unwrap_or_default().whereabouts();
        let what = (there.country, there.location.map(|it| [it.lat.to_bits(), it.lon.to_bits()]));
        let number = *self.distinct.entry(what).or_insert_with(|| {
            all.push(there);
            u32::try_from(all.len()).ok().and_then(PlaceIndex::new)
        });
        Ok(*new.insert(number))
    }
}

/// The fields of a record that are read, which have the same names in all such databases.
#[derive(Default, Deserialize)]
struct Record {
    country: Option<CountryRecord>,
    location: Option<LocationRecord>,
}

#[derive(Deserialize)]
struct CountryRecord {
    iso_code: Option<String>,
}

#[derive(Deserialize)]
struct LocationRecord {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

impl Record {
    fn whereabouts(self) -> Whereabouts {
        let country = self.country.and_then(|it| it.iso_code?.parse().ok());
        let location = self.location.and_then(|it| Some(Location { lat: it.latitude?, lon: it.longitude? }));
        // Comparisons with NaN are false.
        let location = location.filter(|it| it.lat.abs() <= 90.0 && it.lon.abs() <= 180.0);
        Whereabouts { country, location }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Networks of documentation (RFC 5737, RFC 3849): 203.0.113.0/24 and 2001:db8:77::/48 near Shanghai,
    /// 198.51.100.0/26 in Tokyo, 198.51.100.128/28 in Germany without a place.
    pub(crate) fn small() -> Geo {
        Geo::read(include_bytes!("geo/test.mmdb")).unwrap()
    }

    fn find(address: &str) -> (Option<String>, bool, u8) {
        let geo = small();
        let found = geo.find(address.parse().unwrap());
        let there = found.place.map(|it| geo.whereabouts(it)).unwrap_or_default();
        (there.country.map(|it| it.to_string()), there.location.is_some(), found.prefix)
    }

    #[test]
    fn addresses_are_found_with_their_prefix() {
        assert_eq!(find("203.0.113.9"), (Some("CN".into()), true, 24));
        assert_eq!(find("198.51.100.63"), (Some("JP".into()), true, 26));
        assert_eq!(find("198.51.100.64"), (None, false, 26), "unknown networks have a prefix, too");
        assert_eq!(find("198.51.100.129"), (Some("DE".into()), false, 28));
        assert_eq!(find("2001:db8:77:1::9"), (Some("CN".into()), true, 48));
        assert_eq!(find("2001:db8:78::9").0, None);
    }

    /// The result is that of the library for every address: in the networks, near their borders, and elsewhere.
    #[test]
    fn every_address_is_found_as_by_the_library() {
        let octets = include_bytes!("geo/test.mmdb");
        let (geo, reader) = (small(), Reader::from_source(octets.as_slice()).unwrap());
        let mut rng = fastrand::Rng::with_seed(7);
        let known = ["203.0.113.0", "198.51.100.0", "198.51.100.128", "2001:db8:77::"];
        let known = known.map(|it| it.parse::<IpAddr>().unwrap());
        for round in 0..40_000 {
            let flipped = rng.u32(..128);
            let address = match known[round % known.len()] {
                IpAddr::V4(ip) => {
                    IpAddr::from(Ipv4Addr::from_bits(ip.to_bits() ^ 1_u32.rotate_left(flipped)))
                }
                IpAddr::V6(ip) => {
                    IpAddr::from(Ipv6Addr::from_bits(ip.to_bits() ^ 1_u128.rotate_left(flipped)))
                }
            };
            let theirs = reader.lookup(address).unwrap();
            let record = theirs.decode::<Record>().unwrap().map(Record::whereabouts);
            let found = geo.find(address);
            assert_eq!(found.place.map(|it| geo.whereabouts(it)), record, "{address}");
            assert_eq!(found.prefix, theirs.network().unwrap().prefix(), "{address}");
        }
    }

    #[test]
    fn addresses_with_an_embedded_ipv4_address_have_its_place() {
        for (address, prefix) in [
            ("::203.0.113.9", 96 + 24),
            ("::ffff:203.0.113.9", 96 + 24),
            ("2002:cb00:7109::1", 16 + 24),
            ("2001:0:cb00:7109::1", 32 + 24),
        ] {
            let (country, ..) = find(address);
            // 6to4 and Teredo are found only in databases that refer to IPv4 there.
            if let Some(country) = country {
                assert_eq!((country.as_str(), find(address).2), ("CN", prefix), "{address}");
            }
        }
        assert_eq!(
            embedded("2002:cb00:7109::1".parse().unwrap()),
            Some(("203.0.113.9".parse().unwrap(), 16))
        );
        assert_eq!(
            embedded("2001:0:cb00:7109::1".parse().unwrap()),
            Some(("203.0.113.9".parse().unwrap(), 32))
        );
        assert_eq!(
            embedded("::ffff:203.0.113.9".parse().unwrap()),
            Some(("203.0.113.9".parse().unwrap(), 96))
        );
        assert_eq!(embedded("2001:db8::1".parse().unwrap()), None);
    }

    #[test]
    fn a_file_that_is_not_a_database_is_refused() {
        let nothing = Geo::read(b"nothing of the kind").unwrap_err();
        assert!(nothing.contains("not a database in the MaxMind format"), "{nothing}");
        let missing = Geo::open(Path::new("/nowhere/country.mmdb")).unwrap_err();
        assert!(missing.contains("No such file"), "{missing}");
    }

    #[test]
    fn a_torn_database_is_refused() {
        let whole = include_bytes!("geo/test.mmdb");
        for length in 0..whole.len() {
            assert!(Geo::read(&whole[..length]).is_err(), "{length} of {} octets", whole.len());
        }
        for cut in (0..600).step_by(7) {
            let torn = [&whole[..100], &whole[100 + cut..]].concat();
            let _ = Geo::read(&torn).map(|geo| geo.find("203.0.113.9".parse().unwrap()));
        }
    }

    /// The walk ends even if every branch leads back to the root.
    #[test]
    fn a_tree_with_a_loop_is_refused() {
        let mut octets = include_bytes!("geo/test.mmdb").to_vec();
        octets[..6].fill(0);
        let error = Geo::read(&octets).unwrap_err();
        assert!(error.starts_with("damaged: "), "{error}");
    }

    #[test]
    fn a_damaged_database_that_opens_can_be_searched() {
        let whole = include_bytes!("geo/test.mmdb");
        let mut rng = fastrand::Rng::with_seed(7);
        let mut opened = 0;
        for _ in 0..20_000 {
            let mut octets = whole.to_vec();
            for _ in 0..3 {
                let at = rng.usize(..octets.len());
                octets[at] = rng.u8(..);
            }
            if let Ok(geo) = Geo::read(&octets) {
                opened += 1;
                for address in ["203.0.113.9", "198.51.100.129", "2001:db8:77::1"] {
                    let found = geo.find(address.parse().unwrap());
                    let _ = found.place.map(|it| geo.whereabouts(it));
                }
            }
        }
        assert!((300..19_999).contains(&opened), "{opened}");
    }
}
