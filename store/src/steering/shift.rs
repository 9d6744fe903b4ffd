//! Where clients would be sent if sites failed, by the same ranking as for answers.
//!
//! Clients are examined in groups: those near each site, and the others. Where a domain distinguishes networks, each
//! group is represented by a sample of networks, so the precision of shares depends on its size.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{Outcome, outcome, rank};
use crate::{
    board::{Board, Reading},
    health::State,
    locality::{Located, Network, mix},
    model::{Moment, Name},
    snapshot::{Reach, SiteId, Snapshot, SteeredDomain},
};

/// The number of sampled networks per group.
const SAMPLE: u32 = 256;

/// Where the clients of a group are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// The site nearest to them; `None`: clients in none of the sites' networks.
    pub near: Option<SiteId>,
    /// The number of sampled networks by present destination.
    pub before: BTreeMap<Destination, u32>,
    /// The same after the failure.
    pub after: BTreeMap<Destination, u32>,
}

/// Where a client is sent first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// A site.
    Site(Name),
    /// The domain's backup addresses.
    Backup,
    /// None: NODATA.
    Nowhere,
}

/// The board as it would be if sites failed: none of their targets is Up.
#[must_use]
pub fn without(snapshot: &Snapshot, board: &Board, dead: &[Name], now: Moment) -> Board {
    let imagined = board.imagine();
    let down = Reading { state: State::Down, since: now, ..Reading::default() };
    let of_dead = |site: &Name| dead.contains(site);
    for target in snapshot.targets.values().filter(|it| of_dead(&it.site)) {
        imagined.write(target.slot, down);
    }
    for regional in snapshot.regional.values() {
        if snapshot.targets.get(&regional.target).is_some_and(|it| of_dead(&it.site)) {
            imagined.write(regional.slot, down);
        }
    }
    imagined
}

/// Where each group of a domain's clients is sent on one board and on another.
#[must_use]
pub fn shifts(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    (before, after): (&Board, &Board),
    now: Moment,
) -> Vec<Shift> {
    let homes = (0..).map(SiteId).zip(&snapshot.sites).filter(|(_, site)| !site.networks.is_empty());
    let groups = homes.map(|(id, site)| (Some(id), site.networks.as_slice())).chain([(None, &[][..])]);
    let sample = if domain.reach == Reach::Network { SAMPLE } else { 1 };
    groups
        .map(|(near, networks)| {
            let mut shift = Shift { near, before: BTreeMap::new(), after: BTreeMap::new() };
            for n in 0..sample {
                let sampled_client = sampled_client(snapshot, near, networks, n);
                *shift
                    .before
                    .entry(destination(snapshot, domain, &sampled_client, before, now))
                    .or_default() += 1;
                *shift
                    .after
                    .entry(destination(snapshot, domain, &sampled_client, after, now))
                    .or_default() += 1;
            }
            shift
        })
        .collect()
}

/// The n-th network of a group.
fn sampled_client<'s>(
    snapshot: &'s Snapshot,
    near: Option<SiteId>,
    networks: &[IpNet],
    n: u32,
) -> Located<'s> {
    let nth = |net: &IpNet, n: u32| -> IpAddr {
        match net {
            IpNet::V4(net) => {
                let room = u32::MAX.checked_shr(u32::from(net.prefix_len())).unwrap_or(0);
                IpAddr::from((net.network().to_bits() | ((n << 8) & room)).to_be_bytes())
            }
            IpNet::V6(net) => {
                let room = u128::MAX.checked_shr(u32::from(net.prefix_len())).unwrap_or(0);
                IpAddr::from((net.network().to_bits() | ((u128::from(n) << 72) & room)).to_be_bytes())
            }
        }
    };
    let count = u32::try_from(networks.len()).unwrap_or(u32::MAX).max(1);
    let located = networks.get((n % count) as usize).map(|net| snapshot.locality.locate(nth(net, n / count)));
    // A part of a site's network may belong to another site.
    let at_home = located.filter(|it| it.home == near);
    at_home.unwrap_or_else(|| Located {
        network: Network(mix(u64::from(n))),
        least: 24,
        ..snapshot.locality.at_home(near)
    })
}

fn destination(
    snapshot: &Snapshot,
    domain: &SteeredDomain,
    sampled_client: &Located<'_>,
    board: &Board,
    now: Moment,
) -> Destination {
    match outcome(domain, &rank(domain, sampled_client, board, now)) {
        Outcome::Sites(sites) => {
            let site = sites.first().and_then(|it| snapshot.site(it.site));
            site.map_or(Destination::Nowhere, |site| Destination::Site(site.name.clone()))
        }
        Outcome::Backup(_) => Destination::Backup,
        Outcome::Nodata => Destination::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Policy, Weight},
        testing::{compile, name, sources},
    };

    fn up(snapshot: &Snapshot, board: &Board) {
        for target in snapshot.targets.values() {
            board.write(target.slot, Reading { state: State::Up, ..Reading::default() });
        }
    }

    fn site(text: &str) -> Destination {
        Destination::Site(name(text))
    }

    #[test]
    fn each_group_goes_to_its_next_nearest_and_the_board_stays() {
        let board = Board::default();
        let snapshot = compile(sources(3, 1), &board);
        up(&snapshot, &board);
        let imagined = without(&snapshot, &board, &[name("s1")], Moment(5));
        let domain = &snapshot.domains["gw.example.com"];
        let all = shifts(&snapshot, domain, (&board, &imagined), Moment(5));
        let moves: Vec<_> = all
            .iter()
            .map(|it| (it.before.keys().next().unwrap().clone(), it.after.keys().next().unwrap().clone()))
            .collect();
        assert_eq!(
            moves,
            [
                (site("s0"), site("s0")),
                (site("s1"), site("s0")),
                (site("s2"), site("s2")),
                (site("s0"), site("s0"))
            ]
        );
        assert!(snapshot.targets.values().all(|it| board.read(it.slot).state == State::Up));
    }

    #[test]
    fn shares_of_a_weighted_domain_are_sampled() {
        let board = Board::default();
        let mut sources = sources(3, 1);
        let weights = [("s0", 50), ("s1", 50), ("s2", 0)];
        let weights = weights.map(|(site, weight)| (name(site), Weight(weight))).into();
        sources.domains[0].policy = Policy::Weighted { weights };
        let snapshot = compile(sources, &board);
        up(&snapshot, &board);
        let imagined = without(&snapshot, &board, &[name("s0")], Moment(5));
        let domain = &snapshot.domains["gw.example.com"];
        for shift in shifts(&snapshot, domain, (&board, &imagined), Moment(5)) {
            assert!((90..170).contains(&shift.before[&site("s0")]), "{shift:?}");
            assert_eq!(shift.after, [(site("s1"), SAMPLE)].into());
        }
    }
}
