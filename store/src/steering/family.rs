//! The answer for one address family.
//!
//! Sites are ranked once, independently of the family in the query, so that a client's IPv4 and IPv6 connections go
//! to the same site wherever that site has both. The answer for a family is that ranking without the sites that lack
//! the family: those without an address of it and, while another site has one that works, those whose addresses of it
//! are all down. Health alone never leaves a family empty: as a last resort a site that is down is used.
//!
//! An operator's override has precedence. A site that is drained or forced down is used for a family only when no
//! better site of the domain is left for either family. Otherwise the family has no answer until the override ends,
//! because clients can use the other family and the operator wants this site empty.

use std::net::IpAddr;

use super::{Outcome, Ranked, Ranking, Tier, address_health, outcome};
use crate::{
    board::Board,
    health::State,
    locality::RegionId,
    model::{Addresses, Family},
    snapshot::{SteeredAddress, SteeredDomain, SteeredSite},
};

/// The answer of a domain for one family.
#[derive(Clone, Copy, Debug)]
pub enum FamilyOutcome<'a> {
    /// These sites; at least one, each with an address of the family.
    Sites(FamilySites<'a>),
    /// No site is left and the domain has `when_none: nodata`, or no site has this family.
    Nodata,
    /// An operator excluded every site that has this family, and other sites are left.
    TakenOut,
    /// No site is left and the domain answers with its backup addresses.
    Backup(&'a Addresses),
}

/// The family, region and board by which the addresses of sites are examined.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// The family in the query.
    pub family: Family,
    /// The region of the client.
    pub region: Option<RegionId>,
    /// The verdicts.
    pub board: &'a Board,
}

impl<'a> Look<'a> {
    fn is_down(self, address: &SteeredAddress) -> bool {
        address_health(address, self.region, self.board).state == State::Down
    }

    /// True if the site has an address of the family.
    fn is_there(self, site: &SteeredSite) -> bool {
        site.addresses.iter().any(|it| self.family.holds(it.ip))
    }

    /// True if the site has an address of the family that is not down, or if all its addresses of both families are
    /// down: that is part of its rank already.
    fn works(self, site: &SteeredSite) -> bool {
        let mut others_work = false;
        for address in &site.addresses {
            match (self.family.holds(address.ip), !self.is_down(address)) {
                (true, true) => return true,
                (false, true) => others_work = true,
                (_, false) => {}
            }
        }
        !others_work && self.is_there(site)
    }

    /// The addresses of the family at a site for the answer: those that are not down if there are any, else all.
    pub fn addresses(self, site: &'a SteeredSite) -> impl Iterator<Item = IpAddr> + 'a {
        let family = move || site.addresses.iter().filter(move |it| self.family.holds(it.ip));
        let all_down = family().all(|it| self.is_down(it));
        family().filter(move |it| all_down || !self.is_down(it)).map(|it| it.ip)
    }
}

/// The sites that answer for a family, best first.
#[derive(Clone, Copy, Debug)]
pub struct FamilySites<'a> {
    domain: &'a SteeredDomain,
    look: Look<'a>,
    /// The ranking from the first of them on, with other sites between them.
    ranked: &'a [Ranked],
    /// The tier of all of them.
    tier: Tier,
    /// True if they were chosen because their addresses of the family work.
    working: bool,
}

impl<'a> FamilySites<'a> {
    /// The sites in order: the first one, and as back-ups others of its tier, `answers` in all.
    pub fn iter(self) -> impl Iterator<Item = (&'a Ranked, &'a SteeredSite)> {
        let back_ups = usize::from(self.domain.domain.answers).saturating_sub(1);
        let (first, rest) = match self.ranked.split_first() {
            Some((first, rest)) => (Some(first), rest),
            None => (None, self.ranked),
        };
        let with_site = move |it: &'a Ranked| Some((it, site(self.domain, it)?));
        let alike = rest.iter().take_while(move |it| it.tier == self.tier).filter_map(with_site);
        let alike = alike.filter(move |(_, site)| has(self.look, site, self.working));
        // The first one was examined when it was chosen.
        first.and_then(with_site).into_iter().chain(alike.take(back_ups))
    }

    /// The first of them, if all of its addresses of the family are down. Clients are sent there because nothing
    /// better is left or because an override forces it up.
    #[must_use]
    pub fn dead(self) -> Option<&'a SteeredSite> {
        let (_, first) = self.iter().next()?;
        let mut family = first.addresses.iter().filter(|it| self.look.family.holds(it.ip));
        family.all(|it| self.look.is_down(it)).then_some(first)
    }

    /// Their addresses; an address that two sites share is listed twice.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> + 'a {
        self.iter().flat_map(move |(_, site)| self.look.addresses(site))
    }
}

fn site<'a>(domain: &'a SteeredDomain, ranked: &Ranked) -> Option<&'a SteeredSite> {
    domain.sites.get(usize::from(ranked.at))
}

fn has(look: Look<'_>, site: &SteeredSite, working: bool) -> bool {
    if working { look.works(site) } else { look.is_there(site) }
}

/// The answer of a domain for one family with this ranking. `when_none` and `min_up` apply to all sites, and
/// `answers` within the family.
#[must_use]
pub fn for_family<'a>(domain: &'a SteeredDomain, ranking: &'a Ranking, look: Look<'a>) -> FamilyOutcome<'a> {
    match outcome(domain, ranking) {
        Outcome::Sites(_) => {}
        Outcome::Nodata => return FamilyOutcome::Nodata,
        Outcome::Backup(addresses) => return FamilyOutcome::Backup(addresses),
    }
    let all = ranking.all();
    let first = |working: bool, worst: Tier| {
        let fits =
            |it: &Ranked| it.tier <= worst && site(domain, it).is_some_and(|it| has(look, it, working));
        all.iter().position(fits).map(|at| (at, working))
    };
    let found = first(true, Tier::HeldDown).or_else(|| first(false, Tier::ForcedDown));
    let Some((at, working)) = found else { return FamilyOutcome::Nodata };
    let ranked = all.get(at..).unwrap_or_default();
    let tiers = (all.first().map(|it| it.tier), ranked.first().map(|it| it.tier));
    match tiers {
        (Some(best), Some(tier)) if tier >= Tier::Draining && tier > best => FamilyOutcome::TakenOut,
        (Some(_), Some(tier)) => FamilyOutcome::Sites(FamilySites { domain, look, ranked, tier, working }),
        _ => FamilyOutcome::Nodata,
    }
}

/// Why a site that is ranked before those that answer for a family is not among them, as text.
#[must_use]
pub fn lacks(site: &SteeredSite, look: Look<'_>) -> Option<String> {
    let family = look.family.as_str();
    if !look.is_there(site) {
        return Some(format!("has no {family} address"));
    }
    (!look.works(site)).then(|| format!("its {family} addresses are down"))
}
