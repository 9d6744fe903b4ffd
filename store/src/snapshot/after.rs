//! The snapshot after a change, from the one before it.
//!
//! A command that changes an order or a token waits until its node runs the change. Compiling a hundred thousand documents for
//! that takes seconds, so what such a change does not concern is shared with the snapshot before. So it is with routes and
//! services, which change all day in a large installation. What comes out is what [`Snapshot::compile`] gives. Changes that may
//! add or remove targets are compiled whole.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Snapshot, ZoneView, serial, steered::Shared, traffic::Traffic};
use crate::{
    board::Board,
    locality::Locality,
    model::{
        Check, Document, Domain, DomainName, Generation, Name, Override, SharedDomain, World, glob::matches,
    },
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
    /// The snapshot of `world`, if this is the snapshot of `before` and they differ in routes, services, tokens, overrides and
    /// in how domains are steered only, without other targets; otherwise `None`. What is not compiled from documents ([`Snapshot::orders`] and the database of
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
        let mut traffic = Traffic::default();
        for change in &changes {
            match (change.before.as_deref(), change.after.as_deref()) {
                (Some(Document::Domain(old)), Some(Document::Domain(new))) => {
                    if !has_the_same_targets(old, new) || self.is_template(&new.name) {
                        return None;
                    }
                    concerned.names.insert(new.name.as_str());
                }
                (Some(Document::Route(old)), Some(Document::Route(new))) => {
                    traffic.routes.push((Some(old), Some(new)))
                }
                (Some(Document::Route(old)), None) => traffic.routes.push((Some(old), None)),
                (None, Some(Document::Route(new))) => traffic.routes.push((None, Some(new))),
                (Some(Document::Service(old)), Some(Document::Service(new))) => {
                    traffic.services.push((Some(old), Some(new)));
                }
                (Some(Document::Service(old)), None) => traffic.services.push((Some(old), None)),
                (None, Some(Document::Service(new))) => traffic.services.push((None, Some(new))),
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
        if !self.follows(&traffic) {
            return None;
        }
        let mut next = Self {
            generation,
            sites: self.sites.clone(),
            locality: Locality::compile(&self.sites),
            domains: Arc::clone(&self.domains),
            targets: Arc::clone(&self.targets),
            regional: Arc::clone(&self.regional),
            services: self.services.clone(),
            checks: self.checks.clone(),
            routes: self.routes.clone(),
            clusters: self.clusters.clone(),
            vantages: self.vantages.clone(),
            overrides: world.overrides().cloned().map(Arc::new).collect(),
            tokens: world.tokens().cloned().collect(),
            orders: super::OrdersInForce::default(),
            zones: self.zones.clone(),
            in_registry: self.in_registry.clone(),
            hosts: self.hosts.clone(),
        };
        if generation != self.generation {
            next.number_zones(generation);
        }
        let implied = next.take_traffic(&traffic, world);
        let mut again = concerned.among(&next);
        again.retain(|name| implied.iter().all(|it| it.name != *name));
        next.steer_again(&again, implied, world, board);
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

    /// Steers domains that are there again, and those that are implied now.
    fn steer_again(
        &mut self,
        names: &[DomainName],
        implied: Vec<SharedDomain>,
        world: &World,
        board: &Board,
    ) {
        // A domain without a document is as its cluster has it, which does not change here.
        let there = |name: &DomainName| {
            world.shared_domain(name).or_else(|| Some(self.domains.get(name)?.domain.clone()))
        };
        let domains: Vec<SharedDomain> = names.iter().filter_map(there).chain(implied).collect();
        if domains.is_empty() {
            return;
        }
        let checks: HashMap<Name, Check> =
            self.checks.iter().map(|(name, check)| (name.clone(), (**check).clone())).collect();
        let mut shared = Shared::of(&self.overrides);
        for domain in domains {
            let name = domain.name.clone();
            let steered = Arc::new(self.steer(domain, &checks, board, &mut shared));
            self.at(&name, |owner| owner.steered = Some(Arc::clone(&steered)));
            Arc::make_mut(&mut self.domains).insert(name, steered);
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
            2 => {
                // Some change only what the gateway does, some have a name below that of another, one is in the inner zone.
                let hosts = [
                    format!("h{n}.z.org"),
                    format!("h{n}.z.org, a.b.h{n}.z.org"),
                    format!("'*.h{n}.in.z.org', in-{n}.z.org"),
                    format!("h{n}.z.org, elsewhere-{n}.example"),
                ];
                let more_fields = [
                    "consul: { service: one }\n",
                    "route_by: uuid\nconsul: { service: one }\n",
                    "sites: [s0, s2]\nconsul: { service: two, tags: [t] }\n",
                    "consul: { service: two }\n",
                ];
                let (hosts, fields) = (&hosts[usize::from(more)], more_fields[usize::from((more + n) % 4)]);
                format!(
                    "kind: Service\nname: s{n}\ncluster: main\nhosts: [{hosts}]\n{fields}uuid: 6f0c1f6e-5c1e-4c53-9a52-0d5b6f7a9f2{n}\n"
                )
            }
            5 => {
                let hosts = ["h0.z.org, h1.z.org", "h1.z.org", "'*.h0.in.z.org'", "u.z.org, h2.z.org"];
                format!(
                    "kind: Route\nname: r{n}\nhosts: [{}]\npaths: [{{ prefix: /p{n} }}]\nto: [{{ service: s{} }}]\n",
                    hosts[usize::from(more)],
                    (n + more) % 3
                )
            }
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
        all.extend(snapshot.in_registry.values().map(|it| format!("registry {it:?}")));
        all.extend(snapshot.hosts.values().map(|it| format!("host {it:?}")));
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
                (any::<bool>(), prop::collection::vec((0_u8..8, 0_u8..3, 0_u8..4, prop::bool::weighted(0.25)), 1..4)),
                1..10,
            )
        ) {
            let board = Board::default();
            let mut world = World::assemble(documents(FOUNDATION));
            let mut snapshot = Snapshot::compile(world.sources(), generation(1), &board);
            for (number, (commit, wishes)) in (2..).zip(rounds) {
                let mut next = world.clone();
                for (kind, n, more, removal) in wishes {
                    let kind = match kind { 6 => 2, 7 => 5, other => other };
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
    }

    #[test]
    fn services_and_routes_do_not_need_all_documents() {
        let board = Board::default();
        let mut world = World::assemble(documents(FOUNDATION));
        let mut snapshot = Snapshot::compile(world.sources(), generation(1), &board);
        let mut changed = |kind: u8, more: u8, removal: bool| {
            let document = documents(&document(kind, 0, more)).remove(0);
            let before = world.get(&document.id()).cloned();
            let mut next = world.clone();
            next.replace(&[Replacement { before, after: (!removal).then_some(document) }]);
            snapshot = snapshot.after(&world, &next, generation(2), &board).unwrap();
            world = next;
            let alias = |host: &str| Some(snapshot.zone_of(host)?.get(host)?.alias.clone()?.to_string());
            let implied = snapshot.routes.get("implied.s0").map(|it| it.hosts.len());
            (alias("h0.z.org").is_some(), alias("a.b.h0.z.org").is_some(), implied)
        };
        assert_eq!(changed(2, 0, false), (true, false, Some(1)));
        assert_eq!(changed(2, 1, false), (true, true, Some(2)));
        assert_eq!(changed(5, 0, false), (true, true, Some(1)), "a route takes a host from the implied one");
        assert_eq!(changed(5, 1, false), (true, true, Some(2)), "and gives it back");
        assert_eq!(changed(5, 1, true), (true, true, Some(2)));
        assert_eq!(changed(2, 0, true), (false, false, None));
        let zone = snapshot.zone_of("b.h0.z.org").unwrap();
        assert!(zone.get("b.h0.z.org").is_none() && zone.get("h0.z.org").is_none(), "no empty names stay");
    }

    #[test]
    fn a_change_shares_what_it_does_not_concern() {
        let board = Board::default();
        let many =
            |n: usize| format!("---\nkind: Route\nname: m{n}\nhosts: [m{n}.z.org]\nto: [{{ service: g }}]\n");
        let text = FOUNDATION.to_owned() + &(0..2_000).map(many).collect::<String>();
        let world = World::assemble(documents(&text));
        let snapshot = Snapshot::compile(world.sources(), generation(1), &board);
        let mut next = world.clone();
        next.add(
            documents(&many(7).replacen("m7.z.org", "other.z.org", 1).replacen("---\n", "", 1)).remove(0),
        );
        let after = snapshot.after(&world, &next, generation(2), &board).unwrap();
        let same = |before: &Arc<model::Route>| {
            after.routes.get(before.name.as_str()).is_some_and(|it| Arc::ptr_eq(it, before))
        };
        assert_eq!(snapshot.routes.iter().filter(|it| !same(it)).count(), 1);
        assert!(snapshot.services.shares_all_with(&after.services));
        assert!(
            Arc::ptr_eq(&snapshot.domains, &after.domains) && Arc::ptr_eq(&snapshot.targets, &after.targets)
        );
    }
}
