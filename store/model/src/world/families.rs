//! Warnings about families of addresses that some sites have and others lack. This is allowed, but often not intended.
//!
//! A family's answer leaves out the sites that lack it, so its clients go elsewhere than the other family's. And where an
//! operator takes out every site that has a family while others are left, that family has no answer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{World, overlays, steered::SteeredName};
use crate::{
    Addresses, Cluster, Document, DocumentId, DomainName, Family, InputError, Kind, Moment, Name, Override,
    OverrideState, Place, Placed,
};

/// Where documents were written, for warnings about the world they are in.
#[derive(Clone, Debug, Default)]
pub struct Places(HashMap<DocumentId, Place>);

impl Places {
    /// Those of some documents; warnings about others have no place.
    pub fn of<'d>(documents: impl IntoIterator<Item = &'d Placed<Document>>) -> Self {
        Self(documents.into_iter().map(|it| (it.value.id(), it.place.clone())).collect())
    }

    /// True if a document is among them.
    pub(super) fn has(&self, document: &DocumentId) -> bool {
        self.0.contains_key(document)
    }

    /// A warning in the form of an error: something is allowed, but may not be intended. It names a document, and has the
    /// place of the document and field that cause it.
    pub(super) fn warning(
        &self,
        (document, field): (String, String),
        at: (&DocumentId, &str),
        problem: String,
    ) -> InputError {
        // A document that did not come from a file has no line, and its place would be of no use in a message.
        let place = self.0.get(at.0).and_then(|place| Some((place.file(), place.line_of(at.1)?)));
        let (file, line) =
            place.map_or_else(|| ("documents".into(), None), |(file, line)| (Arc::clone(file), Some(line)));
        InputError { file, line, document, field, problem, expected: String::new() }
    }
}

/// How far an operator's order puts a site behind others; more is farther.
type Distance = u8;

impl World {
    /// Everything that is allowed and may not be intended: families of sites, and routes that were written just now. `now`
    /// decides which overrides have ended; `places` are those of the documents that were written just now.
    #[must_use]
    pub fn warnings(&self, now: Moment, places: &Places) -> Vec<InputError> {
        let mut warnings = self.family_warnings(now, places);
        warnings.extend(self.route_warnings(places));
        warnings
    }

    /// The warnings about families of sites. `now` decides which overrides have ended; `places` are those
    /// of the documents that were written just now.
    #[must_use]
    pub fn family_warnings(&self, now: Moment, places: &Places) -> Vec<InputError> {
        let mut warnings: Vec<InputError> = self.sites_without_a_family(places);
        let orders = self.orders_that_count(now);
        let uneven: Vec<&Cluster> = self.clusters().filter(|it| is_uneven(it)).collect();
        if orders.is_empty() || uneven.is_empty() {
            return warnings;
        }
        // Only an order that takes a site out can leave a family without an answer, where it is about the name.
        let far: Vec<&Override> = orders.iter().copied().filter(|it| distance(it.state) > 0).collect();
        if uneven.iter().any(|cluster| wide_orders_may_take_out(cluster, &far)) {
            warnings.extend(self.families_taken_out(self.steered_names(), &uneven, &orders, places));
        } else {
            let names = far.iter().filter_map(|it| overlays::literal(it)).collect();
            warnings.extend(self.families_taken_out(self.steered_among(&names), &uneven, &orders, places));
        }
        warnings
    }

    fn sites_without_a_family(&self, places: &Places) -> Vec<InputError> {
        let mut warnings = Vec::new();
        for cluster in self.clusters() {
            for family in Family::BOTH {
                let (with, without): (Vec<_>, Vec<_>) =
                    cluster.gateways.iter().partition(|(_, addresses)| has(addresses, family));
                if with.is_empty() {
                    continue;
                }
                let names = |sites: &[(&Name, &Addresses)]| {
                    sites.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
                };
                warnings.extend(without.iter().map(|(site, _)| {
                    let problem = format!(
                        "has no {} address, unlike {}: queries for that family are answered with the latter",
                        family.as_str(),
                        names(&with)
                    );
                    let id = DocumentId { kind: Kind::Cluster, name: cluster.name.to_string() };
                    let field = format!("gateways.{site}");
                    places.warning((id.to_string(), field.clone()), (&id, &field), problem)
                }));
            }
        }
        warnings
    }

    fn orders_that_count(&self, now: Moment) -> Vec<&Override> {
        let counts = |it: &&Override| it.state != OverrideState::Release && !overlays::ended(it, now);
        self.overrides().filter(counts).collect()
    }

    /// Of these domains those with a family that overrides leave without an answer: one warning for all domains with the same
    /// sites.
    fn families_taken_out<'w>(
        &self,
        steered: impl Iterator<Item = SteeredName<'w>>,
        uneven: &[&Cluster],
        orders: &[&Override],
        places: &Places,
    ) -> Vec<InputError> {
        let mut found: BTreeMap<(Family, Vec<Name>), (String, u32, DocumentId)> = BTreeMap::new();
        for steered in steered {
            let Some(cluster) = uneven.iter().find(|it| it.name == *steered.cluster) else { continue };
            // One list of orders for each site, since both families look at all of them.
            let by_site: Vec<_> =
                steered.sites(self).map(|site| (site, order(orders, &steered.name, site))).collect();
            for family in Family::BOTH {
                if let Some(sites) = taken_out(cluster, &by_site, family) {
                    let name = steered.name.to_string();
                    // The override has changed, so the warning belongs to its place.
                    let orders = by_site.iter().filter(|(site, _)| sites.contains(site));
                    let id = |it: &Override| DocumentId { kind: Kind::Override, name: it.name.to_string() };
                    let mut ids = orders.filter_map(|(_, order)| order.map(id));
                    let written = ids.find(|id| places.0.contains_key(id));
                    let domain = DocumentId { kind: Kind::Domain, name: name.clone() };
                    let at = written.unwrap_or(domain);
                    let (_, others, _) = found.entry((family, sites)).or_insert((name, 0, at));
                    *others += 1;
                }
            }
        }
        let warning = |((family, sites), (name, count, at)): (
            (Family, Vec<Name>),
            (String, u32, DocumentId),
        )| {
            let sites: Vec<&str> = sites.iter().map(Name::as_str).collect();
            let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
            let (family, sites) = (family.as_str(), sites.join(", "));
            let problem = format!(
                "overrides take out {sites}, and no other of its sites has an {family} address: {family} has no answer \
                 (NODATA) until they end"
            );
            places.warning((format!("Domain {name}{others}"), String::new()), (&at, ""), problem)
        };
        found.into_iter().map(warning).collect()
    }
}

/// Whether some gateways of a cluster have a family that others lack. Otherwise no override can take a family out alone.
fn is_uneven(cluster: &Cluster) -> bool {
    let lacks = |family| cluster.gateways.values().any(|it| !has(it, family));
    let knows = |family| cluster.gateways.values().any(|it| has(it, family));
    Family::BOTH.into_iter().any(|family| lacks(family) && knows(family))
}

/// Whether orders that may be about several names put a site behind others that has a family which others lack. Without that no
/// name but those of the other orders can lose a family.
fn wide_orders_may_take_out(cluster: &Cluster, far: &[&Override]) -> bool {
    let wide: Vec<_> = far.iter().filter(|it| overlays::literal(it).is_none()).collect();
    let touched =
        |site: &Name| wide.iter().any(|it| it.target.site.as_ref().is_none_or(|named| named == site));
    let lacks = |family| cluster.gateways.values().any(|it| !has(it, family));
    Family::BOTH.into_iter().any(|family| {
        let mut with = cluster.gateways.iter().filter(|(_, addresses)| has(addresses, family));
        lacks(family) && with.any(|(site, _)| touched(site))
    })
}

/// The sites with this family, if orders put each of them behind one without it.
fn taken_out(cluster: &Cluster, by_site: &[(&Name, Option<&Override>)], family: Family) -> Option<Vec<Name>> {
    let far = |(_, order): &(&Name, Option<&Override>)| order.map_or(0, |it| distance(it.state));
    let with = |(site, _): &&(&Name, Option<&Override>)| {
        cluster.gateways.get(*site).is_some_and(|it| has(it, family))
    };
    let nearest = by_site.iter().filter(with).map(far).min()?;
    let best = by_site.iter().map(far).min()?;
    (nearest > best).then(|| by_site.iter().filter(with).map(|(site, _)| (*site).clone()).collect())
}

/// The operator's order that holds for a site, among those that count.
fn order<'o>(orders: &[&'o Override], name: &DomainName, site: &Name) -> Option<&'o Override> {
    let about = orders.iter().copied().filter(|order| overlays::covers(order, name, site));
    about.max_by_key(|it| (it.authority, distance(it.state)))
}

const fn distance(state: OverrideState) -> Distance {
    match state {
        OverrideState::Up | OverrideState::Release => 0,
        OverrideState::Drain => 1,
        OverrideState::Down => 2,
    }
}

fn has(addresses: &Addresses, family: Family) -> bool {
    match family {
        Family::V4 => !addresses.a.is_empty(),
        Family::V6 => !addresses.aaaa.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Placed, parse};

    const WORLD: &str = "
{ kind: Site, name: bj }
---
{ kind: Site, name: gz }
---
{ kind: Zone, name: example.com, nameservers: [{ name: ns1, a: [203.0.113.53] }] }
---
kind: Cluster
name: main
zone: example.com
gateway_domain: gw.example.com
gateways:
  bj: { a: [192.0.2.1], aaaa: ['2001:db8::1'] }
  gz: { a: [192.0.2.3], aaaa: [] }
---
{ kind: Domain, name: web.example.com, cluster: main }
";

    fn warnings(more: &str) -> Vec<String> {
        let documents = parse("families.yaml", &format!("{WORLD}{more}")).unwrap();
        let places = Places::of(&documents);
        let placed = documents.into_iter().map(|it| Placed { value: Arc::new(it.value), place: it.place });
        let world = World::check(placed, Moment(1_000)).unwrap();
        let known = world.family_warnings(Moment(1_000), &Places::default());
        assert!(known.iter().all(|it| &*it.file == "documents" && it.line.is_none()), "{known:#?}");
        world.family_warnings(Moment(1_000), &places).iter().map(ToString::to_string).collect()
    }

    const LACKS: &str = "families.yaml:14: Cluster main: gateways.gz: has no IPv6 address, unlike bj: queries for \
                         that family are answered with the latter";

    fn order(site: &str, state: &str) -> String {
        format!(
            "---\n{{ kind: Override, name: {state}-{site}, target: {{ site: {site} }}, state: {state}, owner: o, reason: r }}\n"
        )
    }

    #[test]
    fn a_site_that_lacks_a_family_is_named() {
        assert_eq!(warnings(""), [LACKS]);
        assert_eq!(warnings(&order("gz", "drain")), [LACKS]);
    }

    #[test]
    fn a_warning_precedes_an_override_that_leaves_a_family_without_an_answer() {
        for state in ["drain", "down"] {
            let found = warnings(&order("bj", state));
            let [lacks, taken] = &found[..] else { panic!("{found:?}") };
            assert_eq!(lacks, LACKS);
            assert!(
                taken.starts_with("families.yaml:18: Domain ") && taken.contains("(and 1 more)"),
                "{taken}"
            );
            assert!(
                taken.contains("take out bj") && taken.contains("IPv6 has no answer (NODATA)"),
                "{taken}"
            );
        }
        let both = order("bj", "drain") + &order("gz", "drain");
        assert_eq!(warnings(&both), [LACKS], "nothing better is left of either family");
        let outranked = order("bj", "drain").replace("owner", "authority: tool, owner") + &order("bj", "up");
        assert_eq!(warnings(&outranked), [LACKS]);
        let ended = order("bj", "drain").replace("owner", "expires: 1970-01-01T00:00:00Z, owner");
        assert_eq!(warnings(&ended), [LACKS]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

        /// Names that no order concerns need not be looked at.
        #[test]
        fn only_names_that_orders_concern_lose_a_family(
            drawn in proptest::collection::vec((0_u8..6, 0_u8..3, 0_u8..3), 0..5)
        ) {
            const MORE: &str = "---\n{ kind: Domain, name: one.example.com, cluster: main, sites: [bj] }\n---\n\
                { kind: Service, name: u, cluster: main, uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10 }\n";
            let orders = drawn.iter().enumerate().map(|(n, (domain, site, state))| {
                let domain = match domain {
                    0 => ", domain: web.example.com",
                    1 => ", domain: one.example.com",
                    2 => ", domain: gw.example.com",
                    3 => ", domain: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.example.com",
                    4 => ", domain: 'w*.example.com'",
                    _ => "",
                };
                let site = ["bj", "gz", "gz"][usize::from(*site)];
                let state = ["up", "drain", "down"][usize::from(*state)];
                format!(
                    "---\n{{ kind: Override, name: o{n}, target: {{ site: {site}{domain} }}, state: {state}, force: true, \
                     owner: o, reason: r }}\n"
                )
            });
            let text = format!("{WORLD}{MORE}{}", orders.collect::<String>());
            let world = World::assemble(parse("t.yaml", &text).unwrap().into_iter().map(|it| it.value.into()));
            let (now, places) = (Moment(1_000), Places::default());
            let orders = world.orders_that_count(now);
            let uneven: Vec<&Cluster> = world.clusters().collect();
            let mut all = world.sites_without_a_family(&places);
            all.extend(world.families_taken_out(world.steered_names(), &uneven, &orders, &places));
            proptest::prop_assert_eq!(world.family_warnings(now, &places), all);
        }
    }
}
