//! One worker's views of all services, and the pick of an instance for a request with the request counted in.

use std::sync::Arc;

use fastrand::Rng;
use store::{board::Board, discovery::Entry, model::Moment, snapshot::SiteId};

use super::{
    Backend, Candidate, Excluded, Instances, Names, Table, order_sites,
    view::{NoPick, PickContext, View},
};
use crate::{happy_eyeballs::DialAddresses, instance::InFlight, route::Situation};

/// What a worker knows when it picks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    /// The routing table.
    pub(crate) table: &'a Arc<Table>,
    /// The drains that this worker obeys, and their version.
    pub(crate) excluded: (&'a Excluded, u64),
    /// The instances of the gateway.
    pub(crate) instances: &'a Arc<Instances>,
    /// The host names in use.
    pub(crate) names: &'a Names,
    /// The verdicts on sites.
    pub(crate) board: &'a Board,
}

/// The instance that gets a request, with the request counted in.
#[derive(Debug)]
pub(crate) struct Picked {
    /// Where it is dialled.
    pub(crate) addresses: DialAddresses,
    /// The request, counted until this is dropped.
    pub(crate) in_flight: InFlight,
}

/// A view, and what it was built of. It stays in use over tables as long as these are the same, so that a changed route or
/// another service costs it nothing. It holds no table, so a replaced one is freed, and stays until its successor is built, so
/// that its instances are found again and what is known of their health is not forgotten.
#[derive(Debug)]
struct Kept {
    backend: Arc<Backend>,
    situation: Arc<Situation>,
    entry: Arc<Entry>,
    drains: u64,
    view: View,
}

/// The views of one worker.
#[derive(Debug, Default)]
pub(crate) struct Picker {
    table: Option<Arc<Table>>,
    /// By the number of the backend.
    kept: Vec<Option<Box<Kept>>>,
    rng: Rng,
}

impl Picker {
    /// Picks an instance of a backend that this request has not tried and that the newest drains do not exclude, and
    /// counts the request in. `order` sorts the addresses of a host name into the order in which they are dialled.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn pick(
        &mut self,
        known: &Known<'_>,
        backend: usize,
        context: &PickContext<'_>,
        order: impl FnOnce(&[std::net::IpAddr], u16) -> Vec<std::net::SocketAddr>,
    ) -> Result<Picked, NoPick> {
        let (now, table) = (context.now, known.table);
        if !self.table.as_ref().is_some_and(|before| Arc::ptr_eq(before, table)) {
            let changed = !self.table.as_ref().is_some_and(|before| before.has_backends_of(table));
            self.table = Some(Arc::clone(table));
            if changed {
                self.forget(table);
            }
        }
        let of = table.backend(backend).ok_or(NoPick::NoInstance)?;
        let kept = self.kept.get_mut(backend).ok_or(NoPick::NoInstance)?;
        let view = view(kept, known, of, now);
        let away = |sites: &mut Vec<SiteId>| {
            order_sites(sites, (&table.snapshot, table.situation.home), of, known.board, now);
        };
        let changes = known.instances.changes.count();
        let candidate: &Candidate = view.pick(context, changes, away, &mut self.rng)?;
        let addresses = candidate.dial_addresses(order).ok_or(NoPick::NoAddress)?;
        Ok(Picked { addresses, in_flight: known.instances.begin(&candidate.instance, now) })
    }

    /// Forgets the services that are gone, so that their instances are not in use any more.
    fn forget(&mut self, table: &Table) {
        self.kept.resize_with(table.numbers(), || None);
        for (number, kept) in self.kept.iter_mut().enumerate() {
            if kept.is_some() && table.backend(number).is_none() {
                *kept = None;
            }
        }
    }
}

/// The view of a backend, built anew if that, the sites, discovery or drains have changed.
fn view<'a>(
    kept: &'a mut Option<Box<Kept>>,
    known: &Known<'_>,
    backend: &Arc<Backend>,
    now: Moment,
) -> &'a mut View {
    let entry = backend.slot.load();
    let (excluded, drains) = known.excluded;
    let situation = &known.table.situation;
    let current = |it: &Kept| {
        Arc::ptr_eq(&it.backend, backend)
            && Arc::ptr_eq(&it.situation, situation)
            && Arc::ptr_eq(&it.entry, &entry)
            && it.drains == drains
    };
    let build = || {
        let shared = (&**known.instances, known.names);
        let view = View::build(&entry, (backend, backend.settings), known.table, excluded, now, shared);
        let (backend, situation) = (Arc::clone(backend), Arc::clone(situation));
        Box::new(Kept { backend, situation, entry: Arc::clone(&entry), drains, view })
    };
    if kept.as_deref().is_some_and(current) {
        &mut kept.get_or_insert_with(build).view
    } else {
        &mut kept.insert(build()).view
    }
}

#[cfg(test)]
#[path = "picker_tests.rs"]
mod tests;
