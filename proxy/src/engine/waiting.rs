//! Requests of one worker that wait for a connection to an instance, because its service has as many as it may have: those
//! that get the connection of another request when that is over. The places for new connections are the service's own
//! line, over all workers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::pool::UpstreamConnection;
use crate::service::{circuit::Circuit, connections::Identity};

/// How often in a row a connection goes straight to a request of the same worker and instance; then its place goes to the
/// first in the service's line.
pub(crate) const HANDED_IN_A_ROW: u8 = 16;

/// Those who wait, by the number of the instance.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    lines: HashMap<u64, VecDeque<Waiter>>,
    tickets: u64,
}

/// One who waits, to be named when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    instance: u64,
    number: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    identity: Option<Identity>,
    circuit: Arc<Circuit>,
    sender: oneshot::Sender<UpstreamConnection>,
}

impl Waiting {
    /// Waits for a connection to an instance with this identity, behind those who do already. One who stops waiting must
    /// [`leave`](Self::leave).
    pub(crate) fn enlist(
        &mut self,
        (instance, identity): (u64, Option<Identity>),
        circuit: &Arc<Circuit>,
    ) -> (Ticket, oneshot::Receiver<UpstreamConnection>) {
        let (sender, receiver) = oneshot::channel();
        self.tickets += 1;
        let number = self.tickets;
        let waiter = Waiter { number, identity, circuit: Arc::clone(circuit), sender };
        self.lines.entry(instance).or_default().push_back(waiter);
        (Ticket { instance, number }, receiver)
    }

    /// Waits no more.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        let Some(line) = self.lines.get_mut(&ticket.instance) else { return };
        line.retain(|it| it.number != ticket.number);
        if line.is_empty() {
            self.lines.remove(&ticket.instance);
        }
    }

    /// The first who can use this connection.
    pub(crate) fn next(
        &mut self,
        connection: &UpstreamConnection,
        circuit: &Arc<Circuit>,
    ) -> Option<oneshot::Sender<UpstreamConnection>> {
        let line = self.lines.get_mut(&connection.instance.number)?;
        let fits = |it: &Waiter| Arc::ptr_eq(&it.circuit, circuit) && it.identity == connection.identity;
        let at = line.iter().position(fits)?;
        line.remove(at).map(|it| it.sender)
    }
}
