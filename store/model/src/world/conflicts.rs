//! Overrides that have no effect, because those before them leave no room for them.
//!
//! An override is checked when it is given. While sites cannot reach one another, two controls may take orders that each
//! is allowed and that together are not. Then the later one, in an order that is the same at every site, has no effect.
//! The rules are those of the check ([`super::overlays`]), so that there is one definition of what an override may do.

use std::collections::HashMap;

use super::{
    World,
    checker::Checker,
    overlays::{Orders, ended, is_about, literal, turns_off},
    steered::SteeredName,
};
use crate::{Moment, Name, Override};

impl World {
    /// Of these overrides, those without effect and why. Each is checked together with the earlier ones that have an
    /// effect. The overrides that are documents of this world do not count.
    #[must_use]
    pub fn without_effect<'o>(
        &self,
        overrides: impl IntoIterator<Item = &'o Override>,
        now: Moment,
    ) -> Vec<(Name, String)> {
        let overrides: Vec<&Override> = overrides.into_iter().filter(|it| !ended(it, now)).collect();
        let mut without = Vec::new();
        if overrides.is_empty() {
            return without;
        }
        let steered: Vec<SteeredName<'_>> = self.names_with_clients().collect();
        let mut at: HashMap<&str, Vec<&SteeredName<'_>>> = HashMap::new();
        for it in &steered {
            at.entry(it.name.as_str()).or_default().push(it);
        }
        let mut taken = Orders::default();
        for order in overrides {
            if let Some(site) = order.target.site.as_ref().filter(|site| self.site(site.as_str()).is_none()) {
                without.push((order.name.clone(), format!("there is no Site {site}")));
                continue;
            }
            taken.add(order);
            if !turns_off(order) {
                continue;
            }
            // The earlier ones were safe together, so an error is due to this one, and is at a name that it is about.
            let concerned: Vec<&SteeredName<'_>> = match literal(order) {
                Some(name) => at.get(name).cloned().unwrap_or_default(),
                None => steered.iter().filter(|it| is_about(order, it, self)).collect(),
            };
            let mut checker = Checker::without_places(self);
            checker.safe(&concerned, &taken);
            if let Some(error) = checker.errors.into_iter().next() {
                taken.pop(order);
                without.push((order.name.clone(), error.problem));
            }
        }
        without
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Document, DomainName, parse, world::overlays::covers};

    const WORLD: &str = "kind: Site\nname: s0\n---\nkind: Site\nname: s1\n---\nkind: Site\nname: s2\n---\n\
        kind: Zone\nname: z.org\nnameservers: [{ name: ns.x. }]\n---\n\
        kind: Cluster\nname: main\nzone: z.org\ngateway_domain: gw.z.org\nkeep: [{ at_least: 1, of: [s0, s1] }]\n\
        gateways: { s0: { a: [203.0.113.1] }, s1: { a: [203.0.113.2] }, s2: { a: [203.0.113.3] } }\n---\n\
        kind: Domain\nname: d0.z.org\ncluster: main\n---\nkind: Domain\nname: d1.z.org\ncluster: main\nsites: [s0, s2]\n---\n\
        kind: Domain\nname: d2.z.org\ncluster: main\nsites: [s2]\n---\n\
        kind: Service\nname: u\ncluster: main\nroute_by: uuid\nuuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\n";

    fn overrides(drawn: &[(u8, u8, u8, bool)]) -> Vec<Override> {
        let texts = drawn.iter().enumerate().map(|(n, (domain, site, state, force))| {
            let domain = match domain {
                0..=2 => format!("domain: d{domain}.z.org"),
                3 => "domain: 'd*.z.org'".to_owned(),
                4 => "domain: gw.z.org".to_owned(),
                5 => "domain: gone.z.org".to_owned(),
                _ => String::new(),
            };
            let site = if *site > 3 { String::new() } else { format!("site: s{site}") };
            let both = [domain, site].into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(", ");
            let target = if both.is_empty() { "site: s0".to_owned() } else { both };
            let state = ["up", "drain", "down"][usize::from(*state)];
            // In another order than that of their names.
            let name = 7 * n % 101;
            format!(
                "kind: Override\nname: o{name}\ntarget: {{ {target} }}\nstate: {state}\nforce: {force}\nowner: o\nreason: r\n"
            )
        });
        let of = |text: String| match parse("t.yaml", &text).unwrap().remove(0).value {
            Document::Override(it) => it,
            _ => unreachable!(),
        };
        texts.map(of).collect()
    }

    /// As [`World::without_effect`], by checking all of them at every name again and again.
    fn by_checking_everything(world: &World, overrides: &[Override]) -> Vec<(Name, String)> {
        let steered: Vec<SteeredName<'_>> = world.names_with_clients().collect();
        let steered: Vec<&SteeredName<'_>> = steered.iter().collect();
        let mut taken: Vec<&Override> = Vec::new();
        let mut without = Vec::new();
        for order in overrides {
            if let Some(site) = order.target.site.as_ref().filter(|site| world.site(site.as_str()).is_none())
            {
                without.push((order.name.clone(), format!("there is no Site {site}")));
                continue;
            }
            taken.push(order);
            let mut checker = Checker::without_places(world);
            checker.safe(&steered, &Orders::among(taken.iter().copied(), Moment(1)));
            if let Some(error) = checker.errors.into_iter().next() {
                taken.pop();
                without.push((order.name.clone(), error.problem));
            }
        }
        without
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn only_the_names_that_an_override_is_about_have_to_be_checked(
            drawn in prop::collection::vec((0_u8..8, 0_u8..6, 0_u8..3, prop::bool::weighted(0.2)), 0..12)
        ) {
            let world = World::assemble(parse("w.yaml", WORLD).unwrap().into_iter().map(|it| it.value.into()));
            let overrides = overrides(&drawn);
            prop_assert_eq!(
                world.without_effect(&overrides, Moment(1)),
                by_checking_everything(&world, &overrides)
            );
        }

        #[test]
        fn the_first_override_about_a_name_is_the_first_of_all(
            drawn in prop::collection::vec((0_u8..8, 0_u8..6, 1_u8..3, Just(false)), 0..12)
        ) {
            let overrides = overrides(&drawn);
            let orders = Orders::among(&overrides, Moment(1));
            for name in ["d0.z.org", "d1.z.org", "gw.z.org", "other.z.org"] {
                let name: DomainName = name.parse().unwrap();
                for site in ["s0", "s1", "s2"] {
                    let site: Name = site.parse().unwrap();
                    let found = orders.off.first_about(&name, &site).map(|it| &it.name);
                    let first = overrides.iter().find(|it| covers(it, &name, &site)).map(|it| &it.name);
                    prop_assert_eq!(found, first);
                }
            }
        }
    }
}
