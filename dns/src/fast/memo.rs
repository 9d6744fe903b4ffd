//! Selections remembered for the length of one batch.
//!
//! A batch has one `now` and reads the board once per selection, so a selection holds for the whole of it; the
//! next batch decides anew, and sees every flip. Queries of one batch are mostly for few plans.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use store::{
    locality::{Located, Network},
    model::{Country, Ttl},
    snapshot::{Reach, SiteId, SteeredDomain},
    steering::{self, Family, Look},
};

use super::name::Key;
use crate::{answer::choose, lookup::Lookup};

/// What a worker keeps between packets. Belongs to one thread.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(super) name: Key,
    batch: u64,
    selections: Box<[Remembered]>,
}

#[derive(Clone, Debug, Default)]
struct Remembered {
    batch: u64,
    plan: u32,
    client: ClientKey,
    selection: Selection,
}

/// What distinguishes clients for one plan: the order of sites that they see, by where it lies, and their home; where
/// networks are distinguished, their address too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ClientKey {
    order: usize,
    home: Option<SiteId>,
    address: Option<IpAddr>,
    country: Option<Country>,
}

impl ClientKey {
    fn of(domain: &SteeredDomain, located: &Located<'_>) -> Self {
        let apart = domain.reach == Reach::Network;
        Self {
            order: located.order.as_ptr().addr(),
            home: located.home,
            address: apart.then_some(located.address),
            country: located.country.filter(|_| apart),
        }
    }

    const fn place(&self, plan: u32, network: Network) -> usize {
        let home = match self.home {
            Some(site) => site.0 as usize + 1,
            None => 0,
        };
        let network = if self.address.is_some() { network.0 as usize } else { 0 };
        (plan as usize).wrapping_mul(31).wrapping_add(home).wrapping_add(network) % PLACES
    }
}

/// Places for selections; a batch has 64 packets.
const PLACES: usize = 64;

/// The most addresses of a family that a selection holds; an answer with more would not fit its datagram.
const MAX_V4: usize = 16;
const MAX_V6: usize = 12;

/// What a steered name is answered with.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    v4: [Ipv4Addr; MAX_V4],
    v6: [Ipv6Addr; MAX_V6],
    count_v4: usize,
    count_v6: usize,
    /// More addresses than are held here.
    pub(super) too_many: bool,
    /// How long the addresses of each family may be remembered, or that there are none.
    ttls: [Ttl; 2],
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            v4: [Ipv4Addr::UNSPECIFIED; MAX_V4],
            v6: [Ipv6Addr::UNSPECIFIED; MAX_V6],
            count_v4: 0,
            count_v6: 0,
            too_many: false,
            ttls: [Ttl::MAX; 2],
        }
    }
}

impl Selection {
    fn of(domain: &SteeredDomain, located: Located<'_>, lookup: Lookup<'_>) -> Self {
        let mut selection = Self::default();
        let ranking = steering::rank(domain, &located, lookup.board, lookup.now);
        selection.ttls = Family::BOTH.map(|family| {
            let look = Look { family, region: located.region, board: lookup.board };
            choose(domain, &ranking, look, &mut |ip| selection.add(ip))
        });
        selection
    }

    /// How long an answer of this family may be remembered.
    pub(super) const fn ttl(&self, family: Family) -> Ttl {
        let [v4, v6] = self.ttls;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// Two sites may share an address; a record set holds each once (RFC 2181 §5).
    fn add(&mut self, ip: IpAddr) {
        let place = match ip {
            IpAddr::V4(ip) if self.v4().contains(&ip) => return,
            IpAddr::V6(ip) if self.v6().contains(&ip) => return,
            IpAddr::V4(ip) => self.v4.get_mut(self.count_v4).map(|place| {
                *place = ip;
                self.count_v4 += 1;
            }),
            IpAddr::V6(ip) => self.v6.get_mut(self.count_v6).map(|place| {
                *place = ip;
                self.count_v6 += 1;
            }),
        };
        self.too_many |= place.is_none();
    }

    pub(super) fn v4(&self) -> &[Ipv4Addr] {
        self.v4.get(..self.count_v4).unwrap_or_default()
    }

    pub(super) fn v6(&self) -> &[Ipv6Addr] {
        self.v6.get(..self.count_v6).unwrap_or_default()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self { name: Key::default(), batch: 1, selections: vec![Remembered::default(); PLACES].into() }
    }
}

impl Scratch {
    /// Forgets all selections. To be called whenever the table, the time or the board may have changed.
    pub(crate) const fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// Splits off the name, so that a selection can be made while it is looked at.
    pub(super) const fn parts(&mut self) -> (&mut Key, Selections<'_>) {
        (&mut self.name, Selections { batch: self.batch, places: &mut self.selections })
    }
}

/// The selections of this batch.
#[derive(Debug)]
pub(super) struct Selections<'s> {
    batch: u64,
    places: &'s mut [Remembered],
}

impl Selections<'_> {
    /// The selection for a plan and a client.
    pub(super) fn get(
        &mut self,
        plan: u32,
        domain: &SteeredDomain,
        located: Located<'_>,
        lookup: Lookup<'_>,
    ) -> Option<&Selection> {
        let client = ClientKey::of(domain, &located);
        let place = self.places.get_mut(client.place(plan, located.network))?;
        if (place.batch, place.plan, place.client) != (self.batch, plan, client) {
            let selection = Selection::of(domain, located, lookup);
            *place = Remembered { batch: self.batch, plan, client, selection };
        }
        Some(&place.selection)
    }
}
