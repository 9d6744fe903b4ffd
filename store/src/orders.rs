//! Orders: what operators and tools want now, whatever the configuration says.
//!
//! An override, a switch of colours and the deletion of a token must be possible at any site, above all while the home and
//! every other site cannot be reached. So they are no part of the configuration, which only the home commits. Each is a
//! record of its own below `waypost/orders/` in every site's engine, and the controls exchange these records.
//!
//! ```text
//! operator ──▶ any control ──▶ record in its engine ──▶ exchange ──▶ engines of all other sites
//!                                    │
//!                    documents ──────┴──▶ what is in effect ──▶ snapshot of each node
//! ```
//!
//! There is one record for each [`OrderTarget`]. A record keeps the highest order of a person and the highest of a tool, by
//! their [`Stamp`]. Taking the higher of two is commutative, associative and idempotent, so records may arrive in any order
//! and any number of times, and sites that have exchanged them hold the same. No clock takes part; only the end of an
//! override does ([`Override::expires`]).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    engine::Index,
    model::{
        Authority, Colour, Document, DomainName, Generation, Moment, Name, Override, SiteTag, sha256_hex,
    },
};

/// The version of the stored form that this program writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// The most records. An order about a further target is refused.
pub const MAX_ORDERS: usize = 2_000;
/// The most orders that one change may contain, because they are written in one transaction.
pub const MAX_AT_ONCE: usize = 40;
/// The largest record, as it is stored, in bytes.
pub const MAX_RECORD: usize = 64 * 1024;
/// How many earlier orders a record keeps, for `explain --at`.
const MAX_PAST: usize = 8;
/// A record whose orders ended longer ago is forgotten, so that names which are not used again do not fill the list. A site
/// that was away for longer may bring an order back that was ended meanwhile.
pub const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What an order is about. Of the orders about one target only one holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderTarget {
    /// The override of this name.
    Override(Name),
    /// The active colour of this domain.
    Switch(DomainName),
    /// The token of this name.
    Token(Name),
}

impl OrderTarget {
    /// The target in the key of its record. Domains may have characters that keys may not, so it is a digest.
    #[must_use]
    pub fn digest(&self) -> String {
        let digest = sha256_hex(self.to_string());
        digest.get(..32).unwrap_or_default().to_owned()
    }
}

impl std::fmt::Display for OrderTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Override(name) => write!(f, "Override {name}"),
            Self::Switch(domain) => write!(f, "switch of {domain}"),
            Self::Token(name) => write!(f, "Token {name}"),
        }
    }
}

/// The place of an order among those about its target. The highest holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// One more than the highest that the control which took the order had seen for the target.
    pub counter: u64,
    /// The site of that control; empty if its engine is connected to no other site.
    #[serde(default, skip_serializing_if = "SiteTag::is_empty")]
    pub site: SiteTag,
    /// The first 16 hexadecimal digits of the SHA-256 of the order's content: two orders with the same id are equal.
    pub id: String,
}

/// What is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderKind {
    /// This override.
    Override(Box<Override>),
    /// This colour is active.
    Switch(Colour),
    /// The token is not valid any more.
    Deleted,
    /// Nothing: the order before it has ended.
    Released,
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its place among the orders about its target.
    pub stamp: Stamp,
    /// What is ordered.
    pub kind: OrderKind,
    /// The name of the token that gave it, or `local`.
    pub by: String,
    /// Whose order it is.
    pub authority: Authority,
    /// When, by the clock of the control that took it. For display and `explain --at`; nothing is decided by it.
    pub at: Moment,
    /// The generation of the documents that this control had. A switch holds until a later generation changes the colour,
    /// and the deletion of a token until a later generation writes the token again.
    pub under: Generation,
    /// It came by an apply of documents, so that `apply --prune` may end it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub applied: bool,
}

impl Order {
    /// An order whose stamp follows from its content.
    #[must_use]
    pub fn new(target: &OrderTarget, counter: u64, site: SiteTag, content: OrderContent) -> Self {
        let OrderContent { kind, by, authority, at, under, applied } = content;
        let stamp = Stamp { counter, site, id: String::new() };
        let mut order = Self { stamp, kind, by, authority, at, under, applied };
        order.stamp.id = order.id(target);
        order
    }

    fn id(&self, target: &OrderTarget) -> String {
        let stamp = Stamp { id: String::new(), ..self.stamp.clone() };
        let content = serde_json::to_string(&(target, Self { stamp, ..self.clone() }));
        let digest = sha256_hex(content.expect("texts and numbers have no failing serialiser"));
        digest.get(..16).unwrap_or_default().to_owned()
    }

    /// True if it asks for something, so that a tool may not end it when a person gave it.
    const fn asks(&self) -> bool {
        matches!(self.kind, OrderKind::Override(_) | OrderKind::Switch(_) | OrderKind::Deleted)
    }
}

/// What an order contains besides its stamp; see the fields of [`Order`].
#[derive(Clone, Debug)]
pub struct OrderContent {
    /// See [`Order::kind`].
    pub kind: OrderKind,
    /// See [`Order::by`].
    pub by: String,
    /// See [`Order::authority`].
    pub authority: Authority,
    /// See [`Order::at`].
    pub at: Moment,
    /// See [`Order::under`].
    pub under: Generation,
    /// See [`Order::applied`].
    pub applied: bool,
}

/// The orders about one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Version of the stored form.
    pub v: u32,
    /// The target.
    pub target: OrderTarget,
    /// The highest order of a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub human: Option<Order>,
    /// The highest order of a tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<Order>,
    /// Earlier ones, newest last, at most eight. Sites may keep different ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<Order>,
}

/// Why a record that came from outside is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableRecord {
    /// A newer Waypost wrote it.
    #[error(
        "the record of {target} has version {found}, and this waypost reads up to {VERSION}: update this node"
    )]
    Newer {
        /// The target.
        target: OrderTarget,
        /// The version it has.
        found: u32,
    },
    /// Its parts contradict one another.
    #[error("the record of {target} is wrong: {reason}")]
    Wrong {
        /// The target.
        target: OrderTarget,
        /// Why.
        reason: String,
    },
}

impl OrderRecord {
    /// The record of a target about which nothing was ordered.
    #[must_use]
    pub const fn empty(target: OrderTarget) -> Self {
        Self { v: VERSION, target, human: None, tool: None, past: Vec::new() }
    }

    /// The record of an override that a version without orders stored as a document. Every site makes the same of it, and
    /// any order about it is higher.
    #[must_use]
    pub fn of_document(document: &Override, changed: Generation) -> Self {
        let target = OrderTarget::Override(document.name.clone());
        let since = document.since.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        let content = OrderContent {
            kind: OrderKind::Override(Box::new(document.clone())),
            by: String::new(),
            authority: document.authority,
            at: Moment(since.unwrap_or_default()),
            under: changed,
            applied: true,
        };
        let order = Order::new(&target, 0, SiteTag::NONE, content);
        let mut record = Self::empty(target);
        record.take(order);
        record
    }

    /// The order that holds. A person's holds until a person ends it; otherwise the higher stamp decides.
    #[must_use]
    pub fn current(&self) -> Option<&Order> {
        match (&self.human, &self.tool) {
            (Some(human), _) if human.asks() => Some(human),
            (Some(human), Some(tool)) if tool.stamp > human.stamp => Some(tool),
            (Some(human), _) => Some(human),
            (None, tool) => tool.as_ref(),
        }
    }

    /// The override that holds, with its order.
    #[must_use]
    pub fn override_in_force(&self) -> Option<(&Override, &Order)> {
        match self.current() {
            Some(order @ Order { kind: OrderKind::Override(it), .. }) => Some((it, order)),
            _ => None,
        }
    }

    /// The highest counter that was seen for this target.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.human.iter().chain(&self.tool).map(|it| it.stamp.counter).max().unwrap_or(0)
    }

    /// Takes an order, unless one that is higher is there; true if something changed.
    pub fn take(&mut self, order: Order) -> bool {
        let slot = match order.authority {
            Authority::Human => &mut self.human,
            Authority::Tool => &mut self.tool,
        };
        if slot.as_ref().is_some_and(|had| had.stamp >= order.stamp) {
            return false;
        }
        let had = slot.replace(order);
        self.remember(had);
        true
    }

    fn remember(&mut self, past: impl IntoIterator<Item = Order>) {
        for order in past {
            let current = [&self.human, &self.tool].into_iter().flatten().any(|it| it.stamp == order.stamp);
            if !current && !self.past.iter().any(|it| it.stamp == order.stamp) {
                self.past.push(order);
            }
        }
        self.past.sort_by(|a, b| a.stamp.cmp(&b.stamp));
        let excess = self.past.len().saturating_sub(MAX_PAST);
        self.past.drain(..excess);
    }

    /// Takes everything of another record of the same target; true if an order that may hold changed.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for order in other.human.iter().chain(&other.tool) {
            changed |= self.take(order.clone());
        }
        if changed {
            self.remember(other.past.iter().cloned());
        }
        changed
    }

    /// The record without the orders that were given after a moment.
    fn as_of(&self, moment: Moment) -> Self {
        let mut then = Self::empty(self.target.clone());
        let all = self.past.iter().chain(&self.human).chain(&self.tool);
        for order in all.filter(|it| it.at <= moment) {
            then.take(order.clone());
        }
        then
    }

    /// Its stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self).expect("orders have text keys and no failing serialiser").into()
    }

    /// True if everything in it has ended long ago, by our clock. The record of a switch is needed for as long as the switch
    /// may lie over its domain.
    #[must_use]
    pub fn is_outdated(&self, now: Moment) -> bool {
        let long_ago = |at: Moment| at.after(REMEMBERED) < now;
        let has_ended = |order: &Order| match &order.kind {
            OrderKind::Released | OrderKind::Deleted => true,
            OrderKind::Override(it) => {
                let end = it.expires.and_then(|it| u64::try_from(it.as_millisecond()).ok());
                end.is_some_and(|end| long_ago(Moment(end)))
            }
            OrderKind::Switch(_) => false,
        };
        self.current().is_none_or(has_ended)
            && self.human.iter().chain(&self.tool).all(|order| long_ago(order.at))
    }

    /// Checks a record that came from outside.
    ///
    /// # Errors
    /// It is of a newer version, or its parts contradict one another.
    pub fn check(&self) -> Result<(), UnusableRecord> {
        let target = || self.target.clone();
        if self.v > VERSION {
            return Err(UnusableRecord::Newer { target: target(), found: self.v });
        }
        let wrong = |reason: &str| Err(UnusableRecord::Wrong { target: target(), reason: reason.to_owned() });
        if self.past.len() > MAX_PAST {
            return wrong("it has more earlier orders than a record keeps");
        }
        let slots = [(&self.human, Authority::Human), (&self.tool, Authority::Tool)];
        for (slot, authority) in slots {
            if slot.as_ref().is_some_and(|order| order.authority != authority) {
                return wrong("an order is in the place of another authority");
            }
        }
        for order in self.human.iter().chain(&self.tool).chain(&self.past) {
            if order.stamp.id != order.id(&self.target) {
                return wrong("the id of an order does not follow from its content");
            }
            if order.stamp.counter == u64::MAX {
                return wrong("the counter of an order is the highest possible, so no order could follow it");
            }
            let fits = match (&self.target, &order.kind) {
                (OrderTarget::Override(name), OrderKind::Override(it)) => it.name == *name,
                (OrderTarget::Switch(_), OrderKind::Switch(_))
                | (OrderTarget::Token(_), OrderKind::Deleted) => true,
                (_, OrderKind::Released) => true,
                _ => false,
            };
            if !fits {
                return wrong("an order is about something else than its record");
            }
        }
        Ok(())
    }
}

/// A domain whose active colour is ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// The domain.
    pub domain: DomainName,
    /// The colour in use, which is not the one of its document.
    pub to: Colour,
    /// The name of the token that ordered it, or `local`.
    pub by: String,
    /// When, by the clock of the control that took the order.
    pub at: Moment,
}

/// An order that is in force and has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithoutEffect {
    /// The target of the order.
    pub target: OrderTarget,
    /// Why.
    pub reason: String,
}

/// Every record of an engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(OrderRecord, Index)>", into = "Vec<(OrderRecord, Index)>")]
pub struct Orders {
    records: BTreeMap<OrderTarget, Held>,
    /// The digests of the targets of records that cannot be read.
    damaged: BTreeMap<String, Index>,
}

/// A record, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    record: OrderRecord,
    /// The modify index of its key, with which the next write compares; zero if it is not stored.
    index: Index,
    /// The override that holds, as a document.
    document: Option<Arc<Document>>,
}

impl Held {
    fn new(record: OrderRecord, index: Index) -> Self {
        let document = record.override_in_force().map(|(it, _)| Document::Override(it.clone()).into());
        Self { record, index, document }
    }
}

impl From<Vec<(OrderRecord, Index)>> for Orders {
    fn from(records: Vec<(OrderRecord, Index)>) -> Self {
        let held = |(record, index): (OrderRecord, Index)| (record.target.clone(), Held::new(record, index));
        Self { records: records.into_iter().map(held).collect(), damaged: BTreeMap::new() }
    }
}

impl From<Orders> for Vec<(OrderRecord, Index)> {
    fn from(orders: Orders) -> Self {
        orders.records.into_values().map(|it| (it.record, it.index)).collect()
    }
}

impl Orders {
    /// Every record, by target.
    pub fn records(&self) -> impl Iterator<Item = &OrderRecord> {
        self.records.values().map(|it| &it.record)
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True if nothing was ever ordered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The record of a target.
    #[must_use]
    pub fn get(&self, target: &OrderTarget) -> Option<&OrderRecord> {
        self.records.get(target).map(|it| &it.record)
    }

    /// The order about a target that holds.
    #[must_use]
    pub fn current(&self, target: &OrderTarget) -> Option<&Order> {
        self.get(target)?.current()
    }

    /// The modify index of a record's key; zero if it is not stored.
    #[must_use]
    pub fn index(&self, target: &OrderTarget) -> Index {
        let damaged = || self.damaged.get(&target.digest()).copied();
        self.records.get(target).map(|it| it.index).or_else(damaged).unwrap_or_default()
    }

    /// Every override that holds, as a document, with its order.
    pub fn overrides(&self) -> impl Iterator<Item = (&Arc<Document>, &Order)> {
        self.records.values().filter_map(|it| Some((it.document.as_ref()?, it.record.current()?)))
    }

    /// Takes a record in the place of another about the same target.
    pub fn put(&mut self, record: OrderRecord, index: Index) {
        self.records.insert(record.target.clone(), Held::new(record, index));
    }

    /// Notes that the record of the target with this digest cannot be read, so that it can be replaced.
    pub fn damaged(&mut self, digest: String, index: Index) {
        self.damaged.insert(digest, index);
    }

    /// Takes everything of these records; those that changed thereby.
    pub fn merge<'r>(&mut self, records: impl IntoIterator<Item = &'r OrderRecord>) -> Vec<OrderTarget> {
        let mut changed = Vec::new();
        for record in records {
            let target = &record.target;
            let index = self.index(target);
            let mut merged = self.get(target).cloned().unwrap_or_else(|| OrderRecord::empty(target.clone()));
            if merged.merge(record) {
                self.put(merged, index);
                changed.push(target.clone());
            }
        }
        changed
    }

    /// As [`Orders::merge`], without the records that are not here because they were forgotten.
    pub fn merge_at<'r>(
        &mut self,
        records: impl IntoIterator<Item = &'r OrderRecord>,
        now: Moment,
    ) -> Vec<OrderTarget> {
        let wanted: Vec<_> =
            records.into_iter().filter(|it| !it.is_outdated(now) || self.get(&it.target).is_some()).collect();
        self.merge(wanted)
    }

    /// The orders as they were at a moment, as far as records keep earlier ones.
    #[must_use]
    pub fn as_of(&self, moment: Moment) -> Self {
        let mut then = Self::default();
        for held in self.records.values() {
            let record = held.record.as_of(moment);
            if record.current().is_some() {
                then.put(record, Index::default());
            }
        }
        then
    }

    /// True if two engines hold the same orders. Earlier orders, which sites may remember differently, do not count.
    #[must_use]
    pub fn agree(&self, other: &Self) -> bool {
        let holding = |it: &Held| (it.record.human.clone(), it.record.tool.clone());
        self.records.len() == other.records.len()
            && self.records.iter().all(|(target, held)| {
                other.records.get(target).is_some_and(|it| holding(it) == holding(held))
            })
    }

    /// A short digest of all orders that may hold: equal wherever the orders are equal.
    #[must_use]
    pub fn digest(&self) -> String {
        if self.records.is_empty() {
            return String::new();
        }
        let ids = self.records.iter().map(|(target, held)| {
            let id = |order: &Option<Order>| order.as_ref().map(|it| it.stamp.clone());
            (target, id(&held.record.human), id(&held.record.tool))
        });
        let text = serde_json::to_string(&ids.collect::<Vec<_>>());
        let digest = sha256_hex(text.expect("texts and numbers have no failing serialiser"));
        digest.get(..16).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests;
