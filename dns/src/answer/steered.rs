//! From `store::steering`'s decision to addresses and a TTL. Nothing is ranked here.

use std::net::IpAddr;

use store::{
    board::Board,
    model::{Moment, Policy, Ttl},
    snapshot::{SiteId, SteeredDomain},
    steering::{self, Outcome},
};

/// What a steered name answers with; of both address families.
pub(super) struct Chosen {
    /// The chosen sites' addresses, best site first.
    pub(super) addresses: Vec<IpAddr>,
    /// How long that may be remembered, also that there is nothing.
    pub(super) ttl: Ttl,
}

/// Asks steering. The family that was asked for plays no part: all types of a name agree on its sites.
pub(super) fn choose(domain: &SteeredDomain, order: &[SiteId], board: &Board, now: Moment) -> Chosen {
    let ranking = steering::rank(domain, order, board, now);
    let mut addresses = Vec::new();
    match steering::outcome(domain, &ranking) {
        Outcome::Sites(sites) => {
            let chosen = sites.iter().filter_map(|it| domain.sites.get(usize::from(it.at)));
            for address in chosen.flat_map(|site| steering::addresses(site, board)) {
                // Two sites may share an address; a record set holds each once (RFC 2181 §5).
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Outcome::Backup(backup) => {
            addresses.extend(backup.a.iter().copied().map(IpAddr::V4));
            addresses.extend(backup.aaaa.iter().copied().map(IpAddr::V6));
        }
        Outcome::Nodata => {}
    }
    Chosen { addresses, ttl: steering::ttl(domain, &ranking) }
}

/// Whether two clients may get different answers at the same moment.
pub(super) fn differs_by_client(domain: &SteeredDomain) -> bool {
    match domain.domain.policy {
        Policy::Nearest {} => domain.sites.len() > 1,
        Policy::Failover { .. } => false,
    }
}
