//! Indexes for lookups in the catalog: by names in any case, by address, and the checks of one instance.
//! Only the readers' view has them; writes are decided on the tables alone.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    rows::{CheckRow, NodeRow, Row, ServiceRow},
    tables::{Pair, Tables},
};
use crate::CheckStatus;

/// A name as it is used in lookups: in lower case.
pub(crate) fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|octet| octet.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lookups {
    /// By name in lower case.
    pub(super) services: BTreeMap<String, BTreeMap<Pair, Arc<ServiceRow>>>,
    /// By name in lower case, then as it was registered.
    pub(super) nodes: BTreeMap<String, BTreeSet<String>>,
    pub(super) nodes_at: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Names of services, once per instance.
    pub(super) services_at: BTreeMap<IpAddr, BTreeSet<(String, Pair)>>,
    /// By node, then by instance; those of the node itself under the empty id.
    checks: BTreeMap<String, BTreeMap<String, BTreeMap<String, Arc<CheckRow>>>>,
}

impl Lookups {
    pub(crate) fn new(tables: &Tables) -> Self {
        let mut lookups = Self::default();
        tables.nodes.values().for_each(|it| lookups.add_node(it));
        tables.services.values().for_each(|it| lookups.add_service(it));
        tables.checks.values().for_each(|it| lookups.add_check(it));
        lookups
    }

    pub(crate) fn add(&mut self, row: &Row) {
        match row {
            Row::Node(node) => self.add_node(node),
            Row::Service(service) => self.add_service(service),
            Row::Check(check) => self.add_check(check),
            Row::Kv(_) | Row::Session(_) => {}
        }
    }

    fn add_node(&mut self, node: &NodeRow) {
        self.nodes.entry(node.name.to_ascii_lowercase()).or_default().insert(node.name.clone());
        if let Ok(ip) = node.address.parse() {
            self.nodes_at.entry(ip).or_default().insert(node.name.clone());
        }
    }

    fn add_service(&mut self, service: &Arc<ServiceRow>) {
        let named = self.services.entry(service.name.to_ascii_lowercase()).or_default();
        named.insert(pair(service), Arc::clone(service));
        if let Ok(ip) = service.address.parse() {
            self.services_at.entry(ip).or_default().insert((service.name.clone(), pair(service)));
        }
    }

    fn add_check(&mut self, check: &Arc<CheckRow>) {
        let on_node = self.checks.entry(check.node.clone()).or_default();
        on_node.entry(check.service_id.clone()).or_default().insert(check.id.clone(), Arc::clone(check));
    }

    /// Removes a row that was added.
    pub(crate) fn take(&mut self, row: &Row) {
        match row {
            Row::Node(node) => {
                within(&mut self.nodes, &node.name.to_ascii_lowercase(), |names| {
                    names.remove(&node.name);
                    names.is_empty()
                });
                if let Ok(ip) = node.address.parse() {
                    within(&mut self.nodes_at, &ip, |names| {
                        names.remove(&node.name);
                        names.is_empty()
                    });
                }
            }
            Row::Service(service) => {
                within(&mut self.services, &service.name.to_ascii_lowercase(), |named| {
                    named.remove(&pair(service));
                    named.is_empty()
                });
                if let Ok(ip) = service.address.parse() {
                    within(&mut self.services_at, &ip, |names| {
                        names.remove(&(service.name.clone(), pair(service)));
                        names.is_empty()
                    });
                }
            }
            Row::Check(check) => within(&mut self.checks, &check.node, |on_node| {
                within(on_node, &check.service_id, |checks| {
                    checks.remove(&check.id);
                    checks.is_empty()
                });
                on_node.is_empty()
            }),
            Row::Kv(_) | Row::Session(_) => {}
        }
    }

    /// The worst of an instance's own checks and its node's; none is passing.
    pub(crate) fn status(&self, service: &ServiceRow) -> CheckStatus {
        let on_node = self.checks.get(&service.node);
        let of = |id: &str| on_node.and_then(|it| it.get(id)).into_iter().flat_map(BTreeMap::values);
        of("").chain(of(&service.id)).map(|it| it.status).max().unwrap_or(CheckStatus::Passing)
    }
}

fn pair(service: &ServiceRow) -> Pair {
    (service.node.clone(), service.id.clone())
}

/// Changes what is under a key, and removes it when nothing is left.
fn within<K: Ord, V>(map: &mut BTreeMap<K, V>, key: &K, change: impl FnOnce(&mut V) -> bool) {
    if map.get_mut(key).is_some_and(change) {
        map.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        catalog,
        embedded::{rows::RowKey, txn::Change, view::View},
    };

    fn node(name: &str, address: &str) -> Row {
        let (name, address) = (name.to_owned(), address.to_owned());
        Row::Node(Arc::new(NodeRow { name, address, ..NodeRow::default() }))
    }

    fn service(node: &str, id: &str, name: &str, address: &str) -> Row {
        Row::Service(Arc::new(ServiceRow {
            node: node.to_owned(),
            id: id.to_owned(),
            name: name.to_owned(),
            tags: vec![],
            address: address.to_owned(),
            port: 80,
            tagged_addresses: BTreeMap::new(),
            meta: BTreeMap::new(),
            weight_passing: 10,
            weight_warning: 2,
            enable_tag_override: false,
            create: 1,
            modify: 1,
        }))
    }

    fn check(node: &str, id: &str, service: &str, status: CheckStatus) -> Row {
        let row = CheckRow::of_node(node.to_owned(), id.to_owned(), status);
        Row::Check(Arc::new(CheckRow { service_id: service.to_owned(), ..row }))
    }

    fn put(row: Row) -> Change {
        Change { key: row.key(), before: None, after: Some(row), quiet: false }
    }

    fn remove(key: RowKey) -> Change {
        Change { key, before: None, after: None, quiet: false }
    }

    fn view(changes: Vec<Change>) -> View {
        let mut view = View::new(Tables::default());
        view.apply(changes, 1);
        view
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let nodes = || prop::sample::select(vec!["n1", "N1", "n2"]);
        let names = || prop::sample::select(vec!["web", "WEB", "db"]);
        let addresses = || prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "host.example", ""]);
        let status = prop::sample::select(vec![CheckStatus::Passing, CheckStatus::Critical]);
        let change = prop_oneof![
            (nodes(), addresses()).prop_map(|(name, address)| put(node(name, address))),
            (nodes(), names(), names(), addresses())
                .prop_map(|(on, id, name, address)| put(service(on, id, name, address))),
            (nodes(), names(), prop::sample::select(vec!["", "web", "db"]), status)
                .prop_map(|(on, id, of, status)| put(check(on, id, of, status))),
            nodes().prop_map(|name| remove(RowKey::Node(name.into()))),
            (nodes(), names()).prop_map(|(on, id)| remove(RowKey::Service(on.into(), id.into()))),
            (nodes(), names()).prop_map(|(on, id)| remove(RowKey::Check(on.into(), id.into()))),
        ];
        prop::collection::vec(change, 0..40)
    }

    proptest! {
        #[test]
        fn updated_lookups_equal_those_built_anew(changes in changes()) {
            let view = view(changes);
            prop_assert_eq!(&view.lookups, &Lookups::new(&view.tables));
            for row in view.tables.services.values() {
                let slow = View::worst(view.tables.checks_of(row).map(AsRef::as_ref));
                prop_assert_eq!(view.lookups.status(row), slow);
            }
        }
    }

    #[test]
    fn names_are_found_in_any_case_and_addresses_by_their_value() {
        use catalog::View as _;
        let view = view(vec![
            put(node("Db-1", "2001:DB8::1")),
            put(service("Db-1", "a", "WEB", "10.0.0.1")),
            put(service("Db-1", "b", "web", "")),
            put(check("Db-1", "c", "b", CheckStatus::Warning)),
        ]);
        let found: Vec<_> = view.instances("web").iter().map(|it| (it.address, it.weight)).collect();
        assert_eq!(found, [(Some("10.0.0.1"), 10), (None, 2)]);
        assert_eq!(view.node("db-1").unwrap().name, "Db-1");
        assert_eq!(view.node_at("2001:db8::1".parse().unwrap()).unwrap().name, "Db-1");
        assert_eq!(view.service_at([10, 0, 0, 1].into()), Some("WEB"));
        assert_eq!(view.service_at([10, 0, 0, 2].into()), None);
    }
}
