//! The places of addresses, from a database in the MaxMind format (MMDB 2.0, as published), for clients in none of the
//! sites' networks.
//!
//! Read once into a tree of numbers and a list of distinct places, so that a lookup walks at most 128 nodes and
//! decodes nothing. The format is read here because the library for it trusts a database once it has opened: a torn
//! download makes it panic or fill the memory. Here a database is read whole and within bounds or not taken at all.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    net::IpAddr,
    path::Path,
};

use model::{Country, Location};

mod data;

use data::{Cursor, Data};

/// A database in memory.
pub struct Geo {
    kind: String,
    /// Below the number of nodes: a node. Equal: no place. Above: a place.
    nodes: Vec<[u32; 2]>,
    places: Vec<Whereabouts>,
    /// The node at which IPv4 begins; `None` in a database of IPv4 alone.
    v4: Option<u32>,
}

/// The place of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Whereabouts {
    /// The country.
    pub country: Option<Country>,
    /// The location; databases of countries have none.
    pub location: Option<Location>,
}

/// The number of a place within one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceId(u32);

/// The result for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place.
    pub place: Option<PlaceId>,
    /// Addresses that share this many leading bits have the same result, also when there is none.
    pub prefix: u8,
}

impl fmt::Debug for Geo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, places) = (self.nodes.len(), self.places.len());
        write!(f, "Geo({}, {nodes} nodes, {places} places)", self.kind)
    }
}

impl Geo {
    /// Reads a database into memory: eight octets per node of its tree.
    ///
    /// # Errors
    /// When the file cannot be read, is no such database, is damaged, or has neither country.iso_code nor location of any address countries nor locations.
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::read(&std::fs::read(path).map_err(|error| error.to_string())?)
    }

    /// Reads a database out of its octets.
    ///
    /// # Errors
    /// As [`Geo::open`].
    pub fn read(octets: &[u8]) -> Result<Self, String> {
        let about = data::metadata(octets).ok_or("not a database in the MaxMind format")?;
        let width = usize::from(about.record_bits) / 4;
        if !matches!(about.record_bits, 24 | 28 | 32) || !matches!(about.ip_version, 4 | 6) {
            return Err(format!("records of {} bits, IP version {}", about.record_bits, about.ip_version));
        }
        let count = about.node_count;
        let tree = (count as usize).checked_mul(width).and_then(|size| octets.get(..size));
        let tree = tree.filter(|_| count > 0).ok_or("damaged: shorter than its tree")?;
        // Tree and data are separated by sixteen zeros.
        let data = Data(octets.get(tree.len() + 16..).ok_or("damaged: without data")?);
        let mut places =
            Places { data, count, known: HashMap::new(), distinct: HashMap::new(), list: Vec::new() };
        let nodes: Vec<_> = tree
            .chunks_exact(width)
            .map(|node| {
                let [left, right] = records(node);
                Some([places.number(left)?, places.number(right)?])
            })
            .collect::<Option<_>>()
            .ok_or("damaged: a record that cannot be read")?;
        let places = places.list;
        if places.iter().all(|it| *it == Whereabouts::default()) {
            return Err(format!("{}: has neither country.iso_code nor location of any address", about.kind));
        }
        let mut geo = Self { kind: about.kind, nodes, places, v4: None };
        if about.ip_version == 6 {
            geo.v4 = Some(geo.walk(0, 0, 96).0);
        }
        Ok(geo)
    }

    /// Finds an address.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Found {
        let (end, prefix) = match (address, self.v4) {
            (IpAddr::V4(ip), root) => self.walk(root.unwrap_or(0), u128::from(ip.to_bits()) << 96, 32),
            (IpAddr::V6(ip), Some(_)) => self.walk(0, ip.to_bits(), 128),
            (IpAddr::V6(_), None) => return Found { place: None, prefix: 0 },
        };
        let place = (end as usize).checked_sub(self.nodes.len() + 1);
        Found { place: place.and_then(|at| u32::try_from(at).ok()).map(PlaceId), prefix }
    }

    /// The data of a place.
    #[must_use]
    pub fn whereabouts(&self, place: PlaceId) -> Whereabouts {
        self.places.get(place.0 as usize).copied().unwrap_or_default()
    }

    /// All places, by [`PlaceId`].
    #[must_use]
    pub fn places(&self) -> &[Whereabouts] {
        &self.places
    }

    /// Follows the bits of an address through the nodes; returns the last record and the number of bits.
    fn walk(&self, root: u32, bits: u128, width: u8) -> (u32, u8) {
        let mut at = root;
        for depth in 0..width {
            let Some(node) = self.nodes.get(at as usize) else { return (at, depth) };
            at = node[(bits >> (127 - depth) & 1) as usize];
        }
        (at, width)
    }
}

impl PlaceId {
    /// Its index in [`Geo::places`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The places of the records read so far, each distinct one once: a database of cities has many records for one place.
struct Places<'a> {
    data: Data<'a>,
    count: u32,
    known: HashMap<u32, u32>,
    distinct: HashMap<(Option<Country>, Option<[u64; 2]>), u32>,
    list: Vec<Whereabouts>,
}

impl Places<'_> {
    /// The number of a record in this tree. `None`: it cannot be read.
    fn number(&mut self, record: u32) -> Option<u32> {
        if record <= self.count {
            return Some(record);
        }
        let unknown = match self.known.entry(record) {
            Entry::Occupied(known) => return Some(*known.get()),
            Entry::Vacant(unknown) => unknown,
        };
        let offset = (record - self.count).checked_sub(16)?;
        let there = whereabouts(self.data.at(offset))?;
        let what = (there.country, there.location.map(|it| [it.lat.to_bits(), it.lon.to_bits()]));
        let list = &mut self.list;
        let at = *self.distinct.entry(what).or_insert_with(|| {
            list.push(there);
            u32::try_from(list.len() - 1).unwrap_or(u32::MAX)
        });
        Some(*unknown.insert(self.count.checked_add(1)?.checked_add(at)?))
    }
}

/// The fields of a record that are used, with the names of MaxMind's databases.
fn whereabouts(record: Cursor<'_>) -> Option<Whereabouts> {
    let mut there = Whereabouts::default();
    let (mut lat, mut lon) = (None, None);
    record.fields(&mut |field, value| match field {
        b"country" => value.fields(&mut |field, value| {
            if field == b"iso_code" {
                there.country = value.text()?.parse().ok();
            }
            Some(())
        }),
        b"location" => value.fields(&mut |field, value| {
            match field {
                b"latitude" => lat = value.number(),
                b"longitude" => lon = value.number(),
                _ => {}
            }
            Some(())
        }),
        _ => Some(()),
    })?;
    there.location = lat.zip(lon).map(|(lat, lon)| Location { lat, lon });
    there.location = there.location.filter(|it| it.lat.abs() <= 90.0 && it.lon.abs() <= 180.0);
    Some(there)
}

/// Both records of a node of 6, 7 or 8 octets.
fn records(node: &[u8]) -> [u32; 2] {
    let number = |octets: &[u8]| octets.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet));
    match node {
        // The middle octet holds the highest four bits of both.
        [left @ .., middle, a, b, c] if node.len() == 7 => {
            let high = u32::from(*middle);
            [high >> 4 << 24 | number(left), (high & 15) << 24 | number(&[*a, *b, *c])]
        }
        _ => {
            let (left, right) = node.split_at(node.len() / 2);
            [number(left), number(right)]
        }
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
        assert_eq!(find("198.51.100.64"), (None, false, 26), "an unknown prefix has a length too");
        assert_eq!(find("198.51.100.129"), (Some("DE".into()), false, 28));
        assert_eq!(find("2001:db8:77:1::9"), (Some("CN".into()), true, 48));
        assert_eq!(find("2001:db8:78::9").0, None);
    }

    #[test]
    fn nodes_of_all_widths_are_read() {
        assert_eq!(records(&[0, 0, 1, 0, 1, 2]), [1, 0x102]);
        assert_eq!(records(&[1, 2, 3, 0xab, 4, 5, 6]), [0xa01_0203, 0xb04_0506]);
        assert_eq!(records(&[1, 0, 0, 2, 0, 0, 0, 3]), [0x0100_0002, 3]);
    }

    #[test]
    fn other_files_are_refused() {
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

    #[test]
    fn a_damaged_database_that_opens_can_be_used() {
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
        assert!((1_000..19_999).contains(&opened), "{opened}");
    }
}
