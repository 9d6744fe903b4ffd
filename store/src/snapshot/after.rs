//! The snapshot after a change, from the one before it.
//!
//! A command that changes an order or a token waits until its node runs the change. Compiling a hundred thousand documents for
//! that takes seconds, so what such a change does not concern is shared with the snapshot before. What comes out is what
//! [`Snapshot::compile`] gives. Changes that may add or remove names and targets are compiled whole.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Snapshot, ZoneView, serial, steered::Shared};
use crate::{
    board::Board,
    locality::Locality,
    model::{Check, Document, Domain, DomainName, Generation, Name, Override, World, glob::matches},
};

/// The steered names that a change concerns.
#[derive(Default)]
struct Concerned<'c> {
    names: HashSet<&'c str>,
    globs: HashSet<&'c str>,
    all: bool,
}

impl<'c> Concerned<'c> {
    fn by_override(&mut self, order: &'c Override) {
        match order.target.domain.as_deref() {
            None => self.all = true,
            Some(glob) if glob.contains('*') => drop(self.globs.insert(glob)),
            Some(name) => drop(self.names.insert(name)),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.names.contains(name) || self.globs.iter().any(|glob| matches(glob, name))
    }

    /// Those that are there.
    fn among(&self, snapshot: &Snapshot) -> Vec<DomainName> {
        if self.all || !self.globs.is_empty() {
            return snapshot.domains.keys().filter(|name| self.has(name.as_str())).cloned().collect();
        }
        let there = |name: &&str| snapshot.domains.get_key_value(*name).map(|(name, _)| name.clone());
        self.names.iter().filter_map(there).collect()
    }
}

impl Snapshot {
    /// The snapshot of `world`, if this is the snapshot of `before` and they differ in tokens, overrides and in how domains
    /// are steered only; otherwise `None`. What is not compiled from documents ([`Snapshot::orders`] and the database of
    /// places) is empty, as after [`Snapshot::compile`].
    #[must_use]
    pub fn after(
        &self,
        before: &World,
        world: &World,
        generation: Generation,
        board: &Board,
    ) -> Option<Self> {
        let changes = before.changes_to(world);
        let mut concerned = Concerned::default();
        for change in &changes {
            match (change.before.as_deref(), change.after.as_deref()) {
                (Some(Document::Domain(old)), Some(Document::Domain(new))) => {
                    if !has_the_same_targets(old, new) || self.is_template(&new.name) {
                        return None;
                    }
                    concerned.names.insert(new.name.as_str());
                }
                _ => change.both().try_for_each(|document| match document {
                    Document::Token(_) => Some(()),
                    Document::Override(order) => {
                        concerned.by_override(order);
                        Some(())
                    }
                    _ => None,
                })?,
            }
        }
        let mut next = Self {
            generation,
            sites: self.sites.clone(),
            locality: Locality::compile(&self.sites),
            domains: Arc::clone(&self.domains),
            targets: Arc::clone(&self.targets),
            regional: Arc::clone(&self.regional),
            services: Arc::clone(&self.services),
            checks: self.checks.clone(),
            routes: Arc::clone(&self.routes),
            clusters: self.clusters.clone(),
            vantages: self.vantages.clone(),
            overrides: world.overrides().cloned().map(Arc::new).collect(),
            tokens: world.tokens().cloned().collect(),
            orders: super::OrdersInForce::default(),
            zones: self.zones.clone(),
            in_registry: Arc::clone(&self.in_registry),
        };
        if generation != self.generation {
            next.number_zones(generation);
        }
        next.steer_again(&concerned.among(self), world, board);
        Some(next)
    }

    /// The zones bear the serial of their generation. Those from zone files are no part of a snapshot.
    fn number_zones(&mut self, generation: Generation) {
        let serial = serial(generation);
        for view in self.zones.values_mut() {
            let (zone, names) = (Arc::clone(&view.zone), Arc::clone(&view.names));
            *view = Arc::new(ZoneView { zone, serial, names });
        }
    }

    fn steer_again(&mut self, names: &[DomainName], world: &World, board: &Board) {
        let checks: HashMap<Name, Check> =
            self.checks.iter().map(|(name, check)| (name.clone(), (**check).clone())).collect();
        let mut shared = Shared::of(&self.overrides);
        for name in names {
            let Some(old) = self.domains.get(name) else { continue };
            // A domain without a document is as its cluster has it, which does not change here.
            let domain = world.shared_domain(name).unwrap_or_else(|| old.domain.clone());
            let steered = Arc::new(self.steer(domain, &checks, board, &mut shared));
            if let Some(zone) = self.zone_of(name.as_str()).map(|it| it.zone.name.clone())
                && let Some(view) = self.zones.get_mut(&zone)
            {
                let view = Arc::make_mut(view);
                if let Some(owner) = Arc::make_mut(&mut view.names).get_mut(name) {
                    owner.steered = Some(Arc::clone(&steered));
                }
            }
            Arc::make_mut(&mut self.domains).insert(name.clone(), steered);
        }
    }

    /// True if UUID domains are steered as this domain is.
    fn is_template(&self, name: &DomainName) -> bool {
        self.clusters.values().any(|cluster| cluster.gateway_domain == *name)
    }
}

/// True if two documents of a domain differ only in what decides about the order of its sites and the form of answers.
fn has_the_same_targets(old: &Domain, new: &Domain) -> bool {
    let of = |it: &Domain| {
        let with_names = it.https.is_some();
        (
            it.cluster.clone(),
            it.sites.clone(),
            it.check.clone(),
            it.recovery.gate.clone(),
            it.verdict,
            with_names,
        )
    };
    of(old) == of(new) && old.https.is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Replacement, parse};

    const FOUNDATION: &str = "kind: Site\nname: s0\nregion: r0\n---\nkind: Site\nname: s1\nregion: r1\n---\n\
        kind: Site\nname: s2\n---\n\
        kind: Zone\nname: z.org\nnameservers: [{ name: ns, a: [192.0.2.53] }]\nrecords: [{ name: w, type: A, data: 192.0.2.9 }]\n---\n\
        kind: Zone\nname: in.z.org\nnameservers: [{ name: ns.x. }]\n---\n\
        kind: Check\nname: c\ntype: tcp\nport: 80\n---\n\
        kind: Cluster\nname: main\nzone: z.org\ngateway_domain: gw.z.org\ncapacity: { s0: 100 }\n\
        gateways: { s0: { a: [203.0.113.1] }, s1: { a: [203.0.113.2] }, s2: { aaaa: ['2001:db8::3'] } }\n---\n\
        kind: Service\nname: u\ncluster: main\nroute_by: uuid\nuuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10\nhosts: [u.z.org]\n---\n\
        kind: Service\nname: g\ncluster: main\nuuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f11\nsites: [s0, s1]\n";

    /// A document of a kind; some changes of a domain concern more than how it is steered.
    fn document(kind: u8, n: u8, more: u8) -> String {
        match kind {
            0 => {
                let name = ["d0.z.org", "d1.in.z.org", "gw.z.org"][usize::from(n)];
                let policy = [
                    "nearest",
                    "failover, order: [s1, s0, s2]",
                    "weighted, weights: { s0: 3, s1: 1, s2: 1 }",
                ];
                let check = if more == 3 { "" } else { "check: c\nverdict: regional\n" };
                let policy = policy[usize::from(more % 3)];
                format!(
                    "kind: Domain\nname: {name}\ncluster: main\npolicy: {{ type: {policy} }}\nttl: {}s\n{check}",
                    5 + more
                )
            }
            1 => {
                let digest = format!("{:064x}", u32::from(more) + 7);
                format!("kind: Token\nname: t{n}\nrole: reader\nsecret_sha256: '{digest}'\n")
            }
            2 => format!(
                "kind: Service\nname: s{n}\ncluster: main\nhosts: [h{more}.z.org]\nuuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f2{n}\n"
            ),
            _ => {
                let target = match more {
                    0 => "site: s0".to_owned(),
                    1 => "site: s1, domain: '*.z.org'".to_owned(),
                    2 => format!("domain: d{n}.z.org"),
                    _ => "site: s2, domain: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f10.gw.z.org".to_owned(),
                };
                let over = if n == 0 { "over: 10m\nsince: '2026-01-01T00:00:00Z'\n" } else { "" };
                format!(
                    "kind: Override\nname: o{n}\ntarget: {{ {target} }}\nstate: drain\nowner: o\nreason: r{more}\n{over}"
                )
            }
        }
    }

    fn documents(text: &str) -> Vec<Arc<Document>> {
        parse("t.yaml", text).unwrap().into_iter().map(|it| Arc::new(it.value)).collect()
    }

    /// Everything in a snapshot, as text.
    fn everything(snapshot: &Snapshot) -> Vec<String> {
        let mut all: Vec<String> =
            snapshot.domains.iter().map(|(name, it)| format!("domain {name} {it:?}")).collect();
        for (apex, view) in &snapshot.zones {
            all.push(format!("zone {apex} {:?} {}", view.zone, view.serial));
            all.extend(view.names().map(|(name, owner)| format!("name {name} of {apex}: {owner:?}")));
        }
        all.extend(snapshot.in_registry.iter().map(|it| format!("registry {it:?}")));
        all.sort();
        let Snapshot { generation, sites, targets, regional, services, checks, routes, .. } = snapshot;
        all.push(format!(
            "{generation} {sites:?} {targets:?} {regional:?} {services:?} {checks:?} {routes:?}"
        ));
        let Snapshot { clusters, vantages, overrides, tokens, locality, .. } = snapshot;
        all.push(format!("{clusters:?} {vantages:?} {overrides:?} {tokens:?} {locality:?}"));
        all
    }

    fn generation(number: u64) -> Generation {
        Generation { number, ..Generation::default() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn it_is_the_snapshot_that_all_documents_give(
            rounds in prop::collection::vec(
                (any::<bool>(), prop::collection::vec((0_u8..5, 0_u8..3, 0_u8..4, prop::bool::weighted(0.25)), 1..4)),
                1..10,
            )
        ) {
            let board = Board::default();
            let mut world = World::assemble(documents(FOUNDATION));
            let mut snapshot = Snapshot::compile(world.sources(), generation(1), &board);
            for (number, (commit, wishes)) in (2..).zip(rounds) {
                let mut next = world.clone();
                for (kind, n, more, removal) in wishes {
                    let document = documents(&document(kind, n, more)).remove(0);
                    let before = next.get(&document.id()).cloned();
                    next.replace(&[Replacement { before, after: (!removal).then_some(document) }]);
                }
                let number = if commit { generation(number) } else { snapshot.generation };
                let whole = Snapshot::compile(next.sources(), number, &board);
                if let Some(quick) = snapshot.after(&world, &next, number, &board) {
                    prop_assert_eq!(everything(&quick), everything(&whole));
                    snapshot = quick;
                } else {
                    snapshot = whole;
                }
                world = next;
            }
        }
    }

    #[test]
    fn orders_tokens_and_policies_do_not_need_all_documents() {
        let board = Board::default();
        let world = World::assemble(documents(&(FOUNDATION.to_owned() + "---\n" + &document(0, 0, 0))));
        let snapshot = Snapshot::compile(world.sources(), generation(1), &board);
        let quick = |text: &str| {
            let mut next = world.clone();
            documents(text).into_iter().for_each(|it| next.add(it));
            snapshot.after(&world, &next, generation(2), &board).is_some()
        };
        assert!(quick(&document(0, 0, 1)), "the policy of a domain");
        assert!(quick(&document(1, 0, 0)) && quick(&document(3, 1, 0)) && quick(&document(3, 1, 2)));
        assert!(!quick(&document(0, 0, 3)), "its targets");
        assert!(!quick(&document(0, 1, 0)), "a new name");
        assert!(!quick(&document(0, 2, 0)), "the domain that UUID domains are like");
        assert!(!quick(&document(2, 0, 0)), "a service");
    }
}
