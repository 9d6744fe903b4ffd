//! What is in effect: the documents with the orders that lie over them.
//!
//! A pure function of the documents, the orders and the time, so that every node of every site which has the same documents
//! and orders runs the same. Time decides only which overrides have ended.

use std::{collections::HashMap, sync::Arc};

use super::{Kept, Stored};
use crate::{
    model::{Colour, Document, DocumentId, Domain, Generation, Moment, Override, Policy, World},
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

impl Stored {
    /// What is in effect at a moment.
    #[must_use]
    pub fn in_effect(&self, now: Moment) -> InEffect {
        let kept = self.committed().filter(|kept| !self.is_replaced(kept));
        let unordered: Vec<_> = self.unordered().collect();
        let documents = kept
            .filter(|kept| !matches!(&*kept.document, Document::Override(_)))
            .map(|kept| (Arc::clone(&kept.document), kept.coloured));
        if unordered.is_empty() {
            return in_effect(documents, &self.orders, now);
        }
        let mut orders = self.orders.clone();
        orders.merge(&unordered);
        in_effect(documents, &orders, now)
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
    let switches = switches(orders);
    let mut laid = Vec::new();
    let laid_over = documents.map(|(document, coloured)| {
        let Document::Domain(domain) = &*document else { return document };
        let Some(order) = switches.get(domain.name.as_str()) else { return document };
        let Some((switched, to)) = switched(domain, order, coloured) else { return document };
        let (by, at) = (order.by.clone(), order.at);
        laid.push(Switched { domain: domain.name.clone(), to, by, at });
        Arc::new(switched)
    });
    let mut world = World::assemble(laid_over.collect::<Vec<_>>());
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
