//! What is in effect: the documents with the orders that lie over them.
//!
//! A pure function of the documents, the orders and the time, so that every node of every site which has the same documents
//! and orders runs the same. Time decides only which overrides have ended.

use std::{collections::HashMap, sync::Arc};

use super::{Kept, Stored, difference::replacements};
use crate::{
    model::{Colour, Document, DocumentId, Domain, Generation, Kind, Moment, Override, Policy, World},
    orders::{Order, OrderKind, OrderTarget, Orders, Switched, WithoutEffect},
};

/// The documents that count, and the overrides that do not. A switch that a later commit has ended is not among them: that is
/// how switches end.
#[derive(Clone, Debug, Default)]
pub struct InEffect {
    /// The documents with the orders over them.
    pub world: World,
    /// The switches that lie over the colours of documents.
    pub switches: Vec<Switched>,
    /// The overrides without effect.
    pub without: Vec<WithoutEffect>,
    /// When an override ends that keeps another from having an effect: then this has to be made again.
    pub until: Option<Moment>,
}

/// A configuration with its documents as a world, so that what is in effect of the next one costs in proportion to what has
/// changed.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    stored: Stored,
    /// The documents without overrides and without what orders lay over them.
    documents: World,
}

impl Configuration {
    /// Of a configuration.
    #[must_use]
    pub fn of(stored: Stored) -> Self {
        let kept = stored.committed().filter(|kept| !stored.is_replaced(kept));
        let documents = kept.map(|kept| &kept.document).filter(|it| it.kind() != Kind::Override).cloned();
        let documents = World::assemble(documents.collect::<Vec<_>>());
        Self { documents, stored }
    }

    /// The configuration.
    #[must_use]
    pub const fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Another configuration, from this one.
    #[must_use]
    pub fn next(&self, stored: Stored) -> Self {
        let changes = replacements(&self.stored, &stored).into_iter();
        let changes = changes.filter(|it| it.both().any(|document| document.kind() != Kind::Override));
        let mut documents = self.documents.clone();
        documents.replace(&changes.collect::<Vec<_>>());
        Self { stored, documents }
    }

    /// What is in effect at a moment.
    #[must_use]
    pub fn in_effect(&self, now: Moment) -> InEffect {
        let unordered: Vec<_> = self.stored.unordered().collect();
        let coloured = |id: &DocumentId| self.stored.get(id).map(|kept| kept.coloured);
        if unordered.is_empty() {
            return lay_over(self.documents.clone(), coloured, &self.stored.orders, now);
        }
        let mut orders = self.stored.orders.clone();
        orders.merge(&unordered);
        lay_over(self.documents.clone(), coloured, &orders, now)
    }
}

impl Stored {
    /// What is in effect at a moment.
    #[must_use]
    pub fn in_effect(&self, now: Moment) -> InEffect {
        Configuration::of(self.clone()).in_effect(now)
    }
}

impl Stored {
    /// The active colour of a domain, switches included; `None` if it has no colours.
    #[must_use]
    pub fn colour_of(&self, id: &DocumentId) -> Option<Colour> {
        let kept = self.get(id)?;
        let Document::Domain(domain) = &*kept.document else { return None };
        let order = self.orders.current(&OrderTarget::Switch(domain.name.clone()));
        let switched = order.and_then(|order| switched(domain, order, kept.coloured));
        switched.map(|(_, to)| to).or_else(|| active(domain))
    }

    /// Every document, domains with the colours that are in force: what an engine without orders needs to give the same
    /// answers.
    #[must_use]
    pub fn with_colours(&self, now: Moment) -> Vec<Arc<Document>> {
        let in_force = self.in_effect(now).world;
        let colour = |document: Arc<Document>| match &*document {
            Document::Domain(domain) if active(domain).is_some() => {
                in_force.get(&document.id()).cloned().unwrap_or(document)
            }
            _ => document,
        };
        self.documents().map(colour).collect()
    }
}

/// What is in effect of these documents (which are no overrides, each with the generation that last changed its colour) and
/// these orders.
#[must_use]
pub fn in_effect(
    documents: impl Iterator<Item = (Arc<Document>, Generation)>,
    orders: &Orders,
    now: Moment,
) -> InEffect {
    let documents: Vec<_> = documents.collect();
    let changed: HashMap<DocumentId, Generation> =
        documents.iter().map(|(document, coloured)| (document.id(), *coloured)).collect();
    let world = World::assemble(documents.into_iter().map(|(document, _)| document));
    lay_over(world, |id| changed.get(id).copied(), orders, now)
}

/// Lays orders over documents. `coloured` is the generation that last changed the colour of one.
fn lay_over(
    mut world: World,
    coloured: impl Fn(&DocumentId) -> Option<Generation>,
    orders: &Orders,
    now: Moment,
) -> InEffect {
    let mut laid = Vec::new();
    for (name, order) in switches(orders) {
        let id = DocumentId { kind: Kind::Domain, name: name.to_owned() };
        let Some(Document::Domain(domain)) = world.get(&id).map(AsRef::as_ref) else { continue };
        let Some((switched, to)) = coloured(&id).and_then(|at| switched(domain, order, at)) else { continue };
        let (by, at) = (order.by.clone(), order.at);
        laid.push(Switched { domain: domain.name.clone(), to, by, at });
        world.add(Arc::new(switched));
    }
    laid.sort_by(|a, b| a.domain.cmp(&b.domain));
    let (without, until) = add_overrides(&mut world, orders, now);
    InEffect { world, switches: laid, without, until }
}

/// Adds the overrides that have an effect; returns the others, and when an override ends that may keep them from it.
fn add_overrides(world: &mut World, orders: &Orders, now: Moment) -> (Vec<WithoutEffect>, Option<Moment>) {
    let mut overrides: Vec<(&Arc<Document>, &Override, &Order)> = orders
        .overrides()
        .filter_map(|(document, order)| match &**document {
            Document::Override(it) => Some((document, it, order)),
            _ => None,
        })
        .collect();
    overrides.sort_by(|(_, _, a), (_, _, b)| a.stamp.cmp(&b.stamp));
    let refused = world.without_effect(overrides.iter().map(|(_, it, _)| *it), now);
    let ends = overrides.iter().filter_map(|(_, it, _)| {
        u64::try_from(it.expires?.as_millisecond()).ok().map(Moment).filter(|end| *end > now)
    });
    let until = if refused.is_empty() { None } else { ends.min() };
    for (document, it, _) in overrides {
        if !refused.iter().any(|(name, _)| *name == it.name) {
            world.add(Arc::clone(document));
        }
    }
    let without = refused
        .into_iter()
        .map(|(name, reason)| WithoutEffect { target: OrderTarget::Override(name), reason });
    (without.collect(), until)
}

/// The switches that are ordered, by domain.
fn switches(orders: &Orders) -> HashMap<&str, &Order> {
    orders
        .records()
        .filter_map(|record| match (&record.target, record.current()) {
            (OrderTarget::Switch(domain), Some(order)) if matches!(order.kind, OrderKind::Switch(_)) => {
                Some((domain.as_str(), order))
            }
            _ => None,
        })
        .collect()
}

/// The domain with the colour that is ordered; `None` if the order has no effect on it or changes nothing.
fn switched(domain: &Domain, order: &Order, coloured: Generation) -> Option<(Document, Colour)> {
    let OrderKind::Switch(to) = order.kind else { return None };
    if coloured > order.under || active(domain).is_none_or(|active| active == to) {
        return None;
    }
    let mut domain = domain.clone();
    if let Policy::BlueGreen(it) = &mut domain.policy {
        it.active = to;
    }
    Some((Document::Domain(domain.into()), to))
}

/// The active colour of a domain as it is written; `None` if it has no colours.
pub(super) fn active(domain: &Domain) -> Option<Colour> {
    match &domain.policy {
        Policy::BlueGreen(it) => Some(it.active),
        _ => None,
    }
}

/// The generation that last changed the active colour of a document, which is being written as `after` by `generation`.
pub(super) fn coloured(before: Option<&Kept>, after: &Document, generation: Generation) -> Generation {
    let colour = |document: &Document| match document {
        Document::Domain(domain) => active(domain),
        _ => None,
    };
    let had = before.and_then(|kept| colour(&kept.document));
    match (had, colour(after)) {
        (_, None) => Generation::default(),
        (Some(had), Some(wanted)) if had == wanted => before.map_or(generation, |kept| kept.coloured),
        _ => generation,
    }
}
