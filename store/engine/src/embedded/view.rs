//! What readers see: the committed records, and the index of the last change of everything that can be queried.
//!
//! Indexes follow Consul's rules, also where they are coarse: the index of a missing key, and of a prefix without keys
//! that never had one, is that of the whole KV, so a watch of it wakes on every write to the KV. Programs that are
//! tested on this engine then see what they will see on Consul. Only a missing service is finer than in Consul: its
//! watch wakes when that service appears.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    changes::ChangeLog,
    lookups::{Lookups, folded},
    rows::{CheckRow, NODE_MAINTENANCE, NodeRow, Row, RowKey, SERF_HEALTH, ServiceRow, service_maintenance},
    tables::Tables,
    txn::Change,
};
use crate::{
    CheckStatus, Endpoint, Index,
    catalog::{self, Instance, Node},
};

/// Names of deleted keys and of services whose last change is remembered one by one.
const REMEMBERED: usize = 200_000;

#[derive(Debug)]
pub(crate) struct View {
    pub(crate) tables: Tables,
    pub(super) lookups: Lookups,
    deleted: ChangeLog,
    services: ChangeLog,
    kv_index: u64,
    catalog_index: u64,
    check_index: u64,
    node_index: u64,
    session_index: u64,
}

impl View {
    /// A view of records whose history is not known.
    pub(crate) fn new(tables: Tables) -> Self {
        let index = tables.index;
        Self {
            lookups: Lookups::new(&tables),
            tables,
            deleted: ChangeLog::new(index, REMEMBERED),
            services: ChangeLog::new(index, REMEMBERED),
            kv_index: index,
            catalog_index: index,
            check_index: index,
            node_index: index,
            session_index: index,
        }
    }

    /// Applies what was committed at an index.
    pub(crate) fn apply(&mut self, changes: Vec<Change>, index: u64) {
        for change in changes {
            if !change.quiet {
                self.stamp(&change, index);
            }
            let before = match &change.after {
                Some(row) => self.tables.put(row.clone()),
                None => self.tables.remove(&change.key),
            };
            if let Some(before) = before {
                self.lookups.take(&before);
            }
            if let Some(after) = change.after {
                self.lookups.add(&after);
            }
        }
        self.tables.index = self.tables.index.max(index);
    }

    fn stamp(&mut self, change: &Change, index: u64) {
        match &change.key {
            RowKey::Kv(key) => {
                self.kv_index = index;
                match change.after {
                    Some(_) => self.deleted.forget(key),
                    None => self.deleted.touch(key, index),
                }
            }
            RowKey::Node(node) => {
                self.node_index = index;
                self.touch_node(node, index);
            }
            RowKey::Service(..) => {
                self.catalog_index = index;
                for row in [&change.before, &change.after].into_iter().flatten() {
                    if let Row::Service(service) = row {
                        self.services.touch(&folded(&service.name), index);
                    }
                }
            }
            RowKey::Check(node, _) => {
                self.check_index = index;
                for row in [&change.before, &change.after].into_iter().flatten() {
                    match row {
                        Row::Check(check) if check.service_id.is_empty() => self.touch_node(node, index),
                        Row::Check(check) => self.services.touch(&folded(&check.service_name), index),
                        _ => {}
                    }
                }
            }
            RowKey::Session(_) => self.session_index = index,
        }
    }

    fn touch_node(&mut self, node: &str, index: u64) {
        let names: BTreeSet<String> = self.tables.services_on(node).map(|it| it.name.clone()).collect();
        for name in names {
            self.services.touch(&folded(&name), index);
        }
    }

    /// The index of one key: its own, or that of the whole KV while it is missing.
    pub(crate) fn key_index(&self, key: &str) -> u64 {
        self.tables.kv.get(key).map_or(self.kv_index, |entry| entry.modify_index.0).max(1)
    }

    /// The index of everything below a prefix: of its newest key or deletion, or that of the whole KV while neither is
    /// known.
    pub(crate) fn prefix_index(&self, prefix: &str) -> u64 {
        let newest = self.tables.below(prefix).map(|entry| entry.modify_index.0).max();
        match newest.max(self.deleted.below(prefix)) {
            // Deletions that are not remembered may have happened up to the floor.
            Some(index) => index.max(self.deleted.floor()).max(1),
            None => self.kv_index.max(1),
        }
    }

    /// The index of a service with its health.
    pub(crate) fn service_index(&self, service: &str) -> u64 {
        self.services.of(&folded(service)).max(1)
    }

    /// The index of all registrations.
    pub(crate) fn catalog_index(&self) -> u64 {
        self.catalog_index.max(1)
    }

    /// The index of nodes with their instances and checks.
    pub(crate) fn nodes_index(&self) -> u64 {
        self.node_index.max(1)
    }

    /// The index of every check.
    pub(crate) fn checks_index(&self) -> u64 {
        self.check_index.max(self.catalog_index).max(self.node_index).max(1)
    }

    /// The index of every session.
    pub(crate) fn sessions_index(&self) -> u64 {
        self.session_index.max(1)
    }

    /// The services that changed after an index, in lower case; `None` when that is no longer known.
    pub(crate) fn services_after(&self, index: u64) -> Option<Vec<String>> {
        self.services.after(index).map(|names| names.map(str::to_owned).collect())
    }

    /// The services and the tags in use.
    pub(crate) fn services(&self) -> BTreeMap<String, Vec<String>> {
        let tags = |name: &str| {
            let all: BTreeSet<&String> = self.tables.instances_of(name).flat_map(|it| &it.tags).collect();
            all.into_iter().cloned().collect()
        };
        self.tables.service_names().map(|name| (name.to_owned(), tags(name))).collect()
    }

    /// The instances of a service as the engine's trait has them.
    pub(crate) fn endpoints(&self, service: &str) -> Vec<Endpoint> {
        self.instances_of(service).map(|row| self.endpoint(row)).collect()
    }

    fn endpoint(&self, row: &ServiceRow) -> Endpoint {
        let node = self.tables.nodes.get(&row.node);
        let node_address = node.map(|node| node.address.clone()).unwrap_or_default();
        let mut meta = node.map(|node| node.meta.clone()).unwrap_or_default();
        meta.extend(row.meta.clone());
        let maintenance = service_maintenance(&row.id);
        let has = |id: &str| self.tables.check(&row.node, id).is_some();
        let address = if row.address.is_empty() { node_address.clone() } else { row.address.clone() };
        Endpoint {
            node: row.node.clone(),
            node_address,
            external: !has(SERF_HEALTH),
            service: row.name.clone(),
            id: row.id.clone(),
            address,
            port: row.port,
            tags: row.tags.clone(),
            meta,
            weight: row.weight_passing,
            status: self.lookups.status(row),
            maintenance: has(&maintenance) || has(NODE_MAINTENANCE),
            create_index: Index(row.create),
            modify_index: Index(row.modify),
        }
    }

    /// The worst status of some checks; none is passing.
    pub(crate) fn worst<'a>(checks: impl Iterator<Item = &'a CheckRow>) -> CheckStatus {
        checks.map(|check| check.status).max().unwrap_or(CheckStatus::Passing)
    }
}

impl View {
    /// The instances of a service in any case, by node and id: Consul's catalog does not distinguish `Web` and `web`.
    pub(crate) fn instances_of(&self, service: &str) -> impl Iterator<Item = &Arc<ServiceRow>> {
        self.lookups.services.get(&*folded(service)).into_iter().flat_map(BTreeMap::values)
    }

    fn instance<'a>(&'a self, row: &'a ServiceRow) -> Instance<'a> {
        let status = self.lookups.status(row);
        let nameless = Node { name: &row.node, address: "", meta: None };
        Instance {
            node: self.tables.nodes.get(&row.node).map_or(nameless, |it| shown(it)),
            address: Some(row.address.as_str()).filter(|it| !it.is_empty()),
            port: row.port,
            tags: &row.tags,
            weight: if status == CheckStatus::Warning { row.weight_warning } else { row.weight_passing },
            status,
        }
    }
}

fn shown(node: &NodeRow) -> Node<'_> {
    Node { name: &node.name, address: &node.address, meta: Some(&node.meta) }
}

impl catalog::View for View {
    fn instances<'a>(&'a self, service: &str) -> Vec<Instance<'a>> {
        self.instances_of(service).map(|row| self.instance(row)).collect()
    }

    fn node<'a>(&'a self, name: &str) -> Option<Node<'a>> {
        let spelled = self.lookups.nodes.get(name)?.first()?;
        self.tables.nodes.get(spelled).map(|it| shown(it))
    }

    fn node_at<'a>(&'a self, address: IpAddr) -> Option<Node<'a>> {
        let name = self.lookups.nodes_at.get(&address)?.first()?;
        self.tables.nodes.get(name).map(|it| shown(it))
    }

    fn service_at(&self, address: IpAddr) -> Option<&str> {
        self.lookups.services_at.get(&address)?.first().map(|(name, _)| name.as_str())
    }
}
