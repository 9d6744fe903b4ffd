//! What every domain answers at a moment. Pure.
//!
//! There may be a hundred thousand domains, most of them alike. What is the same for many is computed and kept once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use store::{
    board::Board,
    health::State,
    model::{Domain, DomainName, Family, Moment, OverrideState},
    snapshot::{SiteId, Snapshot, SteeredDomain, SteeredSite},
    steering::{self, FamilyOutcome, Look, Ranking, Tier},
};

/// A text that many domains share.
pub(super) type Text = Arc<str>;

/// Clients near no site.
pub(super) const OTHERS: &str = "all others";
/// The answer without an address.
pub(super) const NOTHING: &str = "nothing (NODATA)";
/// Domains with the same sites that are kept apart while others are compared with them.
const MAX_VARIANTS: usize = 8;

/// What all domains answer at a moment.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) generation: String,
    pub(super) domains: HashMap<DomainName, SharedAnswers>,
}

/// What one domain answers. Shared by all that are alike.
pub(super) type SharedAnswers = Arc<DomainAnswers>;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DomainAnswers {
    /// The answers for clients near a site; the last ones are for all others.
    pub(super) answers: Vec<(Text, Family, Answer)>,
    /// The state of the sites for all others.
    pub(super) sites: Vec<AtSite>,
}

/// One answer in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Answer {
    /// Its sites, best first, each with its addresses; or what is answered instead.
    pub(super) full: Text,
    /// The same without addresses.
    pub(super) brief: Text,
}

/// The state of a domain's site.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AtSite {
    pub(super) site: Text,
    /// How usable the site is.
    pub(super) tier: Tier,
    /// The order in force there, in brackets; empty without one.
    pub(super) order: Text,
    /// The verdict of each address, also of those that regions judge for themselves; `None` without a check.
    pub(super) addresses: Vec<(Text, Option<State>)>,
}

impl DomainAnswers {
    /// The answer for clients near a site, or for all others. Clients near a site without an answer of its own are among
    /// the others.
    pub(super) fn answer(&self, clients: &str, family: Family) -> Option<&Answer> {
        let of =
            |clients: &str| self.answers.iter().find(|(who, which, _)| **who == *clients && *which == family);
        of(clients).or_else(|| of(OTHERS)).map(|(.., answer)| answer)
    }
}

impl Answers {
    /// What the domains answer now.
    pub(super) fn at(snapshot: &Snapshot, board: &Board, now: Moment) -> Self {
        let homes = (0..).map(SiteId).zip(&snapshot.sites).filter(|(_, site)| !site.networks.is_empty());
        let homes = homes.map(|(id, site)| (Some(id), site.name.as_str())).chain([(None, OTHERS)]).collect();
        let view = View { snapshot, board, now, homes };
        let mut interner = Interner::default();
        let domains =
            snapshot.domains.iter().map(|(name, domain)| (name.clone(), interner.answers(&view, domain)));
        Self { generation: snapshot.generation.to_string(), domains: domains.collect() }
    }
}

/// What the answers are computed from.
struct View<'s> {
    snapshot: &'s Snapshot,
    board: &'s Board,
    now: Moment,
    homes: Vec<(Option<SiteId>, &'s str)>,
}

/// What domains share while all of them are computed.
#[derive(Default)]
struct Interner<'s> {
    texts: BTreeSet<Text>,
    alike: HashMap<SharedAnswers, ()>,
    /// By their sites, usual domains with their answers.
    usual: HashMap<*const SteeredSite, Vec<(&'s Domain, SharedAnswers)>>,
}

impl<'s> Interner<'s> {
    fn text(&mut self, text: &str) -> Text {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let new: Text = text.into();
        self.texts.insert(Arc::clone(&new));
        new
    }

    fn share(&mut self, answers: DomainAnswers) -> SharedAnswers {
        if let Some((known, ())) = self.alike.get_key_value(&answers) {
            return Arc::clone(known);
        }
        let new = Arc::new(answers);
        self.alike.insert(Arc::clone(&new), ());
        new
    }

    fn answers(&mut self, view: &View<'s>, domain: &'s SteeredDomain) -> SharedAnswers {
        if domain.steering.is_some() {
            return self.compute(view, domain);
        }
        let sites = domain.sites.as_ptr();
        let known = self.usual.get(&sites).map_or(&[][..], Vec::as_slice);
        if let Some((_, seen)) = known.iter().find(|(other, _)| answers_as(&domain.domain, other)) {
            return Arc::clone(seen);
        }
        let seen = self.compute(view, domain);
        let variants = self.usual.entry(sites).or_default();
        if variants.len() < MAX_VARIANTS {
            variants.push((&domain.domain, Arc::clone(&seen)));
        }
        seen
    }

    fn compute(&mut self, view: &View<'_>, domain: &SteeredDomain) -> SharedAnswers {
        let View { snapshot, board, now, .. } = *view;
        let mut seen = DomainAnswers { answers: Vec::new(), sites: Vec::new() };
        for (home, called) in &view.homes {
            let located = snapshot.locality.at_home(*home);
            let ranking = steering::rank(domain, &located, board, now);
            for family in Family::BOTH {
                let look = Look { family, region: located.region, board };
                let answer = self.answer(snapshot, domain, &ranking, look);
                seen.answers.push((self.text(called), family, answer));
            }
            if home.is_none() {
                seen.sites = self.sites(view, domain, &ranking);
            }
        }
        self.share(seen)
    }

    fn answer(
        &mut self,
        snapshot: &Snapshot,
        domain: &SteeredDomain,
        ranking: &Ranking,
        look: Look<'_>,
    ) -> Answer {
        let family = look.family.as_str();
        let mut full = String::new();
        let mut brief = String::new();
        match steering::for_family(domain, ranking, look) {
            FamilyOutcome::Sites(sites) => {
                for (at, (_, site)) in sites.iter().enumerate() {
                    let name = site_name(snapshot, site.site);
                    for text in [&mut full, &mut brief] {
                        text.push_str(if at == 0 { "" } else { ", " });
                        text.push_str(name);
                    }
                    look.addresses(site).for_each(|ip| full.push_str(&format!(" {ip}")));
                }
            }
            FamilyOutcome::Backup(backup) => {
                let v4 = backup.a.iter().map(ToString::to_string);
                let v6 = backup.aaaa.iter().map(ToString::to_string);
                let addresses: Vec<String> =
                    if look.family == Family::V4 { v4.collect() } else { v6.collect() };
                if addresses.is_empty() {
                    brief = format!("{NOTHING}: the backup addresses have no {family}");
                } else {
                    "the backup addresses".clone_into(&mut brief);
                    full = format!("{brief} {}", addresses.join(" "));
                }
            }
            FamilyOutcome::TakenOut => {
                brief = format!("{NOTHING}: overrides take out every site with {family}");
            }
            FamilyOutcome::Nodata => NOTHING.clone_into(&mut brief),
        }
        let brief = self.text(&brief);
        let full = if full.is_empty() { Arc::clone(&brief) } else { self.text(&full) };
        Answer { full, brief }
    }

    fn sites(&mut self, view: &View<'_>, domain: &SteeredDomain, ranking: &Ranking) -> Vec<AtSite> {
        let mut sites = Vec::new();
        for ranked in ranking.all() {
            let Some(site) = domain.sites.get(usize::from(ranked.at)) else { continue };
            let addresses = self.addresses(view, site);
            let order = self.text(&order(site, view.now));
            let site = self.text(site_name(view.snapshot, ranked.site));
            sites.push(AtSite { site, tier: ranked.tier, order, addresses });
        }
        sites.sort();
        sites
    }

    fn addresses(&mut self, view: &View<'_>, site: &SteeredSite) -> Vec<(Text, Option<State>)> {
        let mut addresses = Vec::new();
        let state = |slot| view.board.read(slot).state;
        for address in &site.addresses {
            addresses.push((self.text(&address.ip.to_string()), address.slot.map(state)));
            for (region, slot) in view.snapshot.locality.regions().iter().zip(&address.regions) {
                let text = format!("{} as seen from {region}", address.ip);
                addresses.push((self.text(&text), slot.map(state)));
            }
        }
        addresses
    }
}

/// True if a usual domain with the same sites answers as another does.
fn answers_as(domain: &Domain, other: &Domain) -> bool {
    domain.answers == other.answers
        && domain.min_up == other.min_up
        && domain.when_none == other.when_none
        && domain.recovery == other.recovery
}

fn site_name(snapshot: &Snapshot, site: SiteId) -> &str {
    snapshot.sites.get(usize::from(site.0)).map_or("?", |it| it.name.as_str())
}

/// The order in force at a domain's site, in words.
fn order(site: &SteeredSite, now: Moment) -> String {
    let Some(order) = steering::override_in_force(site, now) else { return String::new() };
    let state = match order.state {
        OverrideState::Up => "up",
        OverrideState::Down => "down",
        OverrideState::Drain => "drain",
        OverrideState::Release => "release",
    };
    format!(" (override {}: {state}, by {}: {})", order.name, order.owner, order.reason)
}
