//! From `store::steering`'s decision to addresses and a TTL. Nothing is ranked here.

use std::net::IpAddr;

use store::{
    board::Board,
    model::{Moment, Policy, Ttl},
    snapshot::{SiteId, SteeredDomain},
    steering::{self, Outcome},
};

/// Asks steering. Gives `add` the addresses of the chosen sites, of both families and best site first, an address
/// that two sites share twice; says how long that may be remembered, also that there is nothing. The family that was
/// asked for plays no part: all types of a name agree on its sites.
pub(crate) fn choose(
    domain: &SteeredDomain,
    order: &[SiteId],
    board: &Board,
    now: Moment,
    add: &mut impl FnMut(IpAddr),
) -> Ttl {
    let ranking = steering::rank(domain, order, board, now);
    match steering::outcome(domain, &ranking) {
        Outcome::Sites(sites) => {
            let chosen = sites.iter().filter_map(|it| domain.sites.get(usize::from(it.at)));
            chosen.flat_map(|site| steering::addresses(site, board)).for_each(add);
        }
        Outcome::Backup(backup) => {
            backup.a.iter().copied().map(IpAddr::V4).for_each(&mut *add);
            backup.aaaa.iter().copied().map(IpAddr::V6).for_each(add);
        }
        Outcome::Nodata => {}
    }
    steering::ttl(domain, &ranking)
}

/// Whether two clients may get different answers at the same moment.
pub(crate) fn differs_by_client(domain: &SteeredDomain) -> bool {
    match domain.domain.policy {
        Policy::Nearest {} => domain.sites.len() > 1,
        Policy::Failover { .. } => false,
    }
}
