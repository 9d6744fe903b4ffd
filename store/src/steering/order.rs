//! The order of a domain's sites for one client, health aside: which rule decides, and what its policy says.
//!
//! Where shares are given out, a client network is a number spread evenly by [`Network`], the same on every node, so
//! that all of them move the same networks at the same time and none has to remember whom it moved.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::Asked;
use crate::{
    locality::{Located, Network, mix},
    model::{MAX_SITES, Moment},
    snapshot::{Order, Reach, SiteId, SteeredDomain, SteeredRule, SteeredSite},
};

/// The order that decides for a client.
pub(super) struct Chosen<'d> {
    pub(super) order: &'d Order,
    /// Until the hours of a rule begin or end.
    pub(super) left: Duration,
}

/// The first rule that fits, else the domain's own policy.
pub(super) fn choose<'d>(domain: &'d SteeredDomain, asker: &Located<'_>, now: Moment) -> Chosen<'d> {
    let Some(steering) = &domain.steering else {
        return Chosen { order: &Order::Nearest, left: Duration::MAX };
    };
    let mut left = Duration::MAX;
    for rule in steering.rules.iter().filter(|rule| is_about(rule, asker)) {
        let Some(hours) = &rule.during else { return Chosen { order: &rule.order, left } };
        left = left.min(hours.next_change(now).map_or(Duration::MAX, |at| at.since(now)));
        if hours.is_open(now) {
            return Chosen { order: &rule.order, left };
        }
    }
    Chosen { order: &steering.order, left }
}

/// The rule that decides for a client now, by its place.
#[must_use]
pub fn rule_for(domain: &SteeredDomain, asker: &Located<'_>, now: Moment) -> Option<usize> {
    let rules = domain.steering.as_ref()?.rules.iter();
    let open = |rule: &SteeredRule| rule.during.as_ref().is_none_or(|hours| hours.is_open(now));
    rules.enumerate().find(|(_, rule)| is_about(rule, asker) && open(rule)).map(|(at, _)| at)
}

fn is_about(rule: &SteeredRule, asker: &Located<'_>) -> bool {
    let network = rule.networks.is_empty() || rule.networks.iter().any(|it| it.contains(&asker.address));
    let country =
        || rule.countries.is_empty() || asker.country.is_some_and(|it| rule.countries.contains(&it));
    network && country()
}

/// Visits the sites in this order, each with its place.
pub(super) fn walk<'d>(
    domain: &'d SteeredDomain,
    order: &Order,
    asker: &Located<'_>,
    mut visit: impl FnMut(u16, &'d SteeredSite),
) {
    let sites = &domain.sites;
    let mut by_place = |at: u16| sites.get(usize::from(at)).into_iter().for_each(|site| visit(at, site));
    match order {
        Order::Nearest => near(sites, asker).for_each(by_place),
        Order::Written(order) => order.iter().copied().for_each(by_place),
        Order::Weighted(weights) => {
            let (drawn, count) = draw(domain, weights, asker.network);
            drawn[..count].iter().for_each(|(_, at)| by_place(*at));
        }
        Order::Coloured(in_use) => {
            let coloured = |wanted: bool| {
                near(sites, asker).filter(move |at| in_use.get(usize::from(*at)) == Some(&wanted))
            };
            coloured(true).for_each(&mut by_place);
            coloured(false).for_each(by_place);
        }
    }
}

fn near<'a>(sites: &'a [SteeredSite], asker: &'a Located<'_>) -> impl Iterator<Item = u16> + 'a {
    let at = |near: &SiteId| sites.binary_search_by_key(near, |site| site.site).ok();
    asker.order.iter().filter_map(at).filter_map(|at| u16::try_from(at).ok())
}

/// Weighted rendezvous (Thaler, Ravishankar 1998; Schindelhauer, Schomaker 2005): each site draws a number for the
/// network, stretched by its weight, and the highest comes first. A change of one weight moves only the networks that
/// gain or lose that site, and each site's share is its weight's.
fn draw(domain: &SteeredDomain, weights: &[u16], network: Network) -> ([(f64, u16); MAX_SITES], usize) {
    let salt = salt(domain);
    let mut drawn = [(0.0, 0); MAX_SITES];
    let mut count = 0;
    for (at, site) in (0..).zip(domain.sites.iter()).take(MAX_SITES) {
        let weight = weights.get(usize::from(at)).copied().unwrap_or(0);
        let chance = mix(network.0 ^ salt ^ mix(u64::from(site.site.0)));
        // Weight 0 comes after every other, in the order of its draw.
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

/// Between 0 and 1, neither of them.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit(chance: u64) -> f64 {
    ((chance >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// The natural logarithm by the sum of the inverse hyperbolic tangent, of multiplications and additions alone: these
/// give the same bits on every machine, which the library functions of different systems do not promise.
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
pub(super) fn is_among_first(asked: Asked<'_>, passed: Duration, whole: Duration) -> bool {
    let place = u128::from(mix(asked.asker.network.0 ^ salt(asked.domain)));
    place * whole.as_millis() < passed.as_millis() << 64
}

/// Whether a site is full and the client among those that go elsewhere.
pub(super) fn overflows(asked: Asked<'_>, site: &SteeredSite) -> bool {
    let Some(slot) = site.overflow else { return false };
    let share = asked.board.share(slot);
    // Not the number of the ramp: who comes back first is not who goes first.
    let number = asked.asker.network.0 ^ salt(asked.domain).rotate_left(32) ^ mix(u64::from(site.site.0));
    mix(number) >> 48 < u64::from(share.0)
}

fn salt(domain: &SteeredDomain) -> u64 {
    domain.steering.as_ref().map_or(0, |it| it.salt)
}

/// How far an answer reaches: everybody who shares this many leading bits with the client gets the same one at the same
/// moment (RFC 7871 §7.2.1).
#[must_use]
pub fn scope(domain: &SteeredDomain, asker: &Located<'_>) -> u8 {
    match domain.reach {
        Reach::Everyone => 0,
        Reach::Locality => asker.scope,
        Reach::Network if asker.least == 0 => 0,
        Reach::Network => {
            let rules = domain.steering.iter().flat_map(|it| it.rules.iter());
            let bits = rules.flat_map(|rule| rule.networks.iter()).map(|net| decided_by(net, asker.address));
            bits.max().unwrap_or(0).max(asker.scope).max(asker.least)
        }
    }
}

/// How many leading bits of a client decide whether it is in a network.
fn decided_by(network: &IpNet, client: IpAddr) -> u8 {
    let shared = match (network, client) {
        (IpNet::V4(net), IpAddr::V4(ip)) => (net.network().to_bits() ^ ip.to_bits()).leading_zeros(),
        (IpNet::V6(net), IpAddr::V6(ip)) => (net.network().to_bits() ^ ip.to_bits()).leading_zeros(),
        // Of the other family: never in it.
        (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => return 0,
    };
    u8::try_from(shared + 1).unwrap_or(u8::MAX).min(network.prefix_len())
}
