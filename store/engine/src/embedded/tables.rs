//! The records themselves, in memory, with the few indexes that writes need: which keys a session holds,
//! which instances a service has. No history and no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use super::rows::{CheckRow, NodeRow, Row, RowKey, ServiceRow, SessionRow};
use crate::KvEntry;

/// Node and id: how instances and checks are named.
pub(crate) type Pair = (String, String);

#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    /// Of the newest change.
    pub(crate) index: u64,
    pub(crate) kv: BTreeMap<String, Arc<KvEntry>>,
    pub(crate) nodes: BTreeMap<String, Arc<NodeRow>>,
    pub(crate) services: BTreeMap<Pair, Arc<ServiceRow>>,
    pub(crate) checks: BTreeMap<Pair, Arc<CheckRow>>,
    pub(crate) sessions: BTreeMap<String, Arc<SessionRow>>,
    held: BTreeMap<String, BTreeSet<String>>,
    instances: BTreeMap<String, BTreeSet<Pair>>,
}

impl Tables {
    /// Writes a record and returns the one that it replaces.
    pub(crate) fn put(&mut self, row: Row) -> Option<Row> {
        let before = self.remove(&row.key());
        match row {
            Row::Kv(entry) => {
                if let Some(session) = &entry.session {
                    self.held.entry(session.0.clone()).or_default().insert(entry.key.clone());
                }
                self.kv.insert(entry.key.clone(), entry);
            }
            Row::Node(node) => drop(self.nodes.insert(node.name.clone(), node)),
            Row::Service(service) => {
                let pair = (service.node.clone(), service.id.clone());
                self.instances.entry(service.name.clone()).or_default().insert(pair.clone());
                self.services.insert(pair, service);
            }
            Row::Check(check) => drop(self.checks.insert((check.node.clone(), check.id.clone()), check)),
            Row::Session(session) => drop(self.sessions.insert(session.id.clone(), session)),
        }
        before
    }

    /// Removes a record and returns it.
    pub(crate) fn remove(&mut self, key: &RowKey) -> Option<Row> {
        match key {
            RowKey::Kv(key) => self.kv.remove(key).map(|entry| {
                if let Some(session) = &entry.session {
                    take_out(&mut self.held, &session.0, &entry.key);
                }
                Row::Kv(entry)
            }),
            RowKey::Node(name) => self.nodes.remove(name).map(Row::Node),
            RowKey::Service(node, id) => {
                let pair = (node.clone(), id.clone());
                self.services.remove(&pair).map(|service| {
                    take_out(&mut self.instances, &service.name, &pair);
                    Row::Service(service)
                })
            }
            RowKey::Check(node, id) => self.checks.remove(&(node.clone(), id.clone())).map(Row::Check),
            RowKey::Session(id) => self.sessions.remove(id).map(Row::Session),
        }
    }

    /// The keys of a prefix, in order.
    pub(crate) fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<KvEntry>> {
        self.kv
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry)
    }

    /// The keys a session holds.
    pub(crate) fn held_by(&self, session: &str) -> Vec<String> {
        self.held.get(session).into_iter().flatten().cloned().collect()
    }

    /// The instances of a service, by node and id.
    pub(crate) fn instances_of<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a Arc<ServiceRow>> {
        self.instances.get(service).into_iter().flatten().filter_map(|pair| self.services.get(pair))
    }

    /// The names of all services.
    pub(crate) fn service_names(&self) -> impl Iterator<Item = &str> {
        self.instances.keys().map(String::as_str)
    }

    /// The instances on a node.
    pub(crate) fn services_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<ServiceRow>> {
        on_node(&self.services, node)
    }

    /// The checks of a node and of its instances.
    pub(crate) fn checks_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<CheckRow>> {
        on_node(&self.checks, node)
    }

    /// What counts for an instance's health: its own checks and those of its node.
    pub(crate) fn checks_of<'a>(
        &'a self,
        service: &'a ServiceRow,
    ) -> impl Iterator<Item = &'a Arc<CheckRow>> {
        self.checks_on(&service.node)
            .filter(|check| check.service_id.is_empty() || check.service_id == service.id)
    }

    /// A service by its pair.
    pub(crate) fn service(&self, node: &str, id: &str) -> Option<&Arc<ServiceRow>> {
        self.services.get(&(node.to_owned(), id.to_owned()))
    }

    /// A check by its pair.
    pub(crate) fn check(&self, node: &str, id: &str) -> Option<&Arc<CheckRow>> {
        self.checks.get(&(node.to_owned(), id.to_owned()))
    }
}

fn on_node<'a, T>(table: &'a BTreeMap<Pair, T>, node: &'a str) -> impl Iterator<Item = &'a T> {
    table
        .range((node.to_owned(), String::new())..)
        .take_while(move |((on, _), _)| on == node)
        .map(|(_, row)| row)
}

fn take_out<T: Ord>(index: &mut BTreeMap<String, BTreeSet<T>>, name: &str, member: &T) {
    if let Some(members) = index.get_mut(name) {
        members.remove(member);
        if members.is_empty() {
            index.remove(name);
        }
    }
}
