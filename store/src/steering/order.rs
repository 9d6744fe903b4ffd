//! The order of a domain's sites for one client, without health: which rule decides, and the order of its policy.
//!
//! Where clients are divided by shares, a client network is a number spread evenly by [`Network`], the same on every
//! node, so that all nodes move the same networks at the same time without keeping any state.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::Query;
use crate::{
    locality::{Located, Network, mix},
    model::{MAX_SITES, Moment},
    snapshot::{Order, Reach, SiteId, SteeredDomain, SteeredRule, SteeredSite},
};

/// The order that decides for a client.
pub(super) struct Chosen<'d> {
    pub(super) order: &'d Order,
    /// The time until the hours of a rule begin or end.
    pub(super) left: Duration,
}

/// The order of the first rule that matches, else of the domain's own policy.
pub(super) fn choose<'d>(domain: &'d SteeredDomain, located: &Located<'_>, now: Moment) -> Chosen<'d> {
    let Some(steering) = &domain.steering else {
        return Chosen { order: &Order::Nearest, left: Duration::MAX };
    };
    let mut left = Duration::MAX;
    for rule in steering.rules.iter().filter(|rule| is_about(rule, located)) {
        let Some(hours) = &rule.during else { return Chosen { order: &rule.order, left } };
        left = left.min(hours.next_change(now).map_or(Duration::MAX, |at| at.since(now)));
        if hours.is_open(now) {
            return Chosen { order: &rule.order, left };
        }
    }
    Chosen { order: &steering.order, left }
}

/// The index of the rule that decides for a client now.
#[must_use]
pub fn rule_for(domain: &SteeredDomain, located: &Located<'_>, now: Moment) -> Option<usize> {
    let rules = domain.steering.as_ref()?.rules.iter();
    let open = |rule: &SteeredRule| rule.during.as_ref().is_none_or(|hours| hours.is_open(now));
    rules.enumerate().find(|(_, rule)| is_about(rule, located) && open(rule)).map(|(at, _)| at)
}

fn is_about(rule: &SteeredRule, located: &Located<'_>) -> bool {
    let network = rule.networks.is_empty() || rule.networks.iter().any(|it| it.contains(&located.address));
    let country =
        || rule.countries.is_empty() || located.country.is_some_and(|it| rule.countries.contains(&it));
    network && country()
}

/// Visits the sites in this order, each with its index.
pub(super) fn walk<'d>(
    domain: &'d SteeredDomain,
    order: &Order,
    located: &Located<'_>,
    mut visit: impl FnMut(u16, &'d SteeredSite),
) {
    let sites = &domain.sites;
    let mut by_place = |at: u16| sites.get(usize::from(at)).into_iter().for_each(|site| visit(at, site));
    match order {
        Order::Nearest => near(sites, located).for_each(by_place),
        Order::Written(order) => order.iter().copied().for_each(by_place),
        Order::Weighted(weights) => {
            let (drawn, count) = draw(domain, weights, located.network);
            drawn[..count].iter().for_each(|(_, at)| by_place(*at));
        }
        Order::Coloured(in_use) => {
            let coloured = |wanted: bool| {
                near(sites, located).filter(move |at| in_use.get(usize::from(*at)) == Some(&wanted))
            };
            coloured(true).for_each(&mut by_place);
            coloured(false).for_each(by_place);
        }
    }
}

fn near<'a>(sites: &'a [SteeredSite], located: &'a Located<'_>) -> impl Iterator<Item = u16> + 'a {
    let at = |near: &SiteId| sites.binary_search_by_key(near, |site| site.site).ok();
    located.order.iter().filter_map(at).filter_map(|at| u16::try_from(at).ok())
}

/// Weighted rendezvous (Thaler, Ravishankar 1998; Schindelhauer, Schomaker 2005): each site gets a number for
/// the network, scaled by its weight, and the highest comes first. A change of one weight moves only the networks that
/// gain or lose that site, and each site's share is its weight's.
fn draw(domain: &SteeredDomain, weights: &[u16], network: Network) -> ([(f64, u16); MAX_SITES], usize) {
    let salt = salt(domain);
    let mut drawn = [(0.0, 0); MAX_SITES];
    let mut count = 0;
    for (at, site) in (0..).zip(domain.sites.iter()).take(MAX_SITES) {
        let weight = weights.get(usize::from(at)).copied().unwrap_or(0);
        let chance = mix(network.0 ^ salt ^ mix(u64::from(site.site.0)));
        // Sites with weight 0 come after all others, in the order of their numbers.
        let score = if weight == 0 { -1.0 - unit(chance) } else { f64::from(weight) / -ln(unit(chance)) };
        let mut place = count;
        while place > 0 && drawn[place - 1].0 < score {
            drawn[place] = drawn[place - 1];
            place -= 1;
        }
        drawn[place] = (score, at);
        count += 1;
    }
    (drawn, count)
}

/// A number between 0 and 1, exclusive.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit(chance: u64) -> f64 {
    ((chance >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// The natural logarithm as the series of the inverse hyperbolic tangent, by multiplications and additions alone:
/// these give the same bits on every machine, which library functions do not guarantee.
fn ln(x: f64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    let mut term = s;
    for n in 0..12 {
        sum += term / f64::from(2 * n + 1);
        term *= square;
    }
    2.0 * sum + f64::from(exponent) * LN_2
}

/// Whether a client's network is among those that move in the first `passed` of `whole`. Once it is, it stays so.
pub(super) fn is_among_first(query: Query<'_>, passed: Duration, whole: Duration) -> bool {
    let place = u128::from(mix(query.located.network.0 ^ salt(query.domain)));
    place * whole.as_millis() < passed.as_millis() << 64
}

/// Whether a site is full and the client among those that go elsewhere.
pub(super) fn overflows(query: Query<'_>, site: &SteeredSite) -> bool {
    let Some(slot) = site.overflow else { return false };
    let share = query.board.share(slot);
    // Another number than for the ramp, so that the clients that come back first are not those that are sent away
    // first.
    let number = query.located.network.0 ^ salt(query.domain).rotate_left(32) ^ mix(u64::from(site.site.0));
    mix(number) >> 48 < u64::from(share.0)
}

fn salt(domain: &SteeredDomain) -> u64 {
    domain.steering.as_ref().map_or(0, |it| it.salt)
}

/// The scope of an answer: every client that shares this many leading bits gets the same one at the same moment (RFC
/// 7871 §7.2.1).
#[must_use]
pub fn scope(domain: &SteeredDomain, located: &Located<'_>) -> u8 {
    match domain.reach {
        Reach::Everyone => 0,
        Reach::Locality => located.scope,
        Reach::Network if located.least == 0 => 0,
        Reach::Network => {
            let rules = domain.steering.iter().flat_map(|it| it.rules.iter());
            let bits =
                rules.flat_map(|rule| rule.networks.iter()).map(|net| decided_by(net, located.address));
            bits.max().unwrap_or(0).max(located.scope).max(located.least)
        }
    }
}

/// How many leading bits of a client address decide whether it is in a network.
fn decided_by(network: &IpNet, client: IpAddr) -> u8 {
    let shared = match (network, client) {
        (IpNet::V4(net), IpAddr::V4(ip)) => (net.network().to_bits() ^ ip.to_bits()).leading_zeros(),
        (IpNet::V6(net), IpAddr::V6(ip)) => (net.network().to_bits() ^ ip.to_bits()).leading_zeros(),
        // An address of the other family is never in it.
        (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => return 0,
    };
    u8::try_from(shared + 1).unwrap_or(u8::MAX).min(network.prefix_len())
}
