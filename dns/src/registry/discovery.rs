//! The names of services inside: what a node follows of a registry, answered by its DNS role to the networks that may
//! query them.
//!
//! A name that is queried is put into use, and the follower keeps it fresh from then on; how many are in use, and
//! how fast new ones come, is bounded. Nothing here queries the registry: a query finds an entry, or [`Discovery::wait`]s
//! for it apart from the others and for a moment, or gets SERVFAIL. While the registry is away the last
//! instances are answered.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use store::{
    Handle,
    discovery::{Entry, Standing},
    engine::catalog::{Instance, Node, View},
    model::{DomainName, Moment, Ttl},
};
use tokio::sync::Semaphore;

use super::{
    Draw, Names, answer,
    in_use::{Admission, ServicesInUse},
    packet,
    query::{self, Query},
};
use crate::{
    answer::Answer,
    extended::ExtendedError,
    packet::{Dropped, Response, Transport},
    question::{Question, unanswerable},
    record::Rcode,
    request::Request,
};

/// Which names are answered, to which clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the names end in, as `consul`. For these clients it goes before a zone of the same name.
    pub domain: DomainName,
    /// The registry's data centre, if it is known: names may have it as a label.
    pub datacenter: String,
    /// The networks that are answered; for others the domain is one this server does not have.
    pub clients: Vec<IpNet>,
    /// How long answers may be remembered.
    pub ttl: Ttl,
}

impl Offer {
    /// Loopback and the private networks of RFC 1918 and RFC 4193.
    #[must_use]
    pub fn inside() -> Vec<IpNet> {
        let v4 = |octets: [u8; 4], length| IpNet::new_assert(octets.into(), length);
        vec![
            v4([127, 0, 0, 0], 8),
            v4([10, 0, 0, 0], 8),
            v4([172, 16, 0, 0], 12),
            v4([192, 168, 0, 0], 16),
            IpNet::new_assert(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 128),
            IpNet::new_assert(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0]), 8),
        ]
    }
}

/// Answers what an [`Offer`] promises.
#[derive(Debug)]
pub(crate) struct Discovery {
    names: Names,
    /// The domain as it ends names on the wire, in lower case.
    ending: Vec<u8>,
    clients: Vec<IpNet>,
    handle: Handle,
    in_use: Mutex<ServicesInUse>,
    turn: AtomicUsize,
    waiting: Arc<Semaphore>,
}

impl Discovery {
    pub(crate) fn new(offer: Offer, handle: Handle) -> Self {
        let mut ending = Vec::new();
        for label in offer.domain.labels() {
            // A label has at most 63 octets.
            ending.push(u8::try_from(label.len()).unwrap_or_default());
            ending.extend_from_slice(label.as_bytes());
        }
        ending.push(0);
        Self {
            names: Names::new(offer.domain, &offer.datacenter, offer.ttl),
            ending,
            clients: offer.clients,
            in_use: Mutex::new(ServicesInUse::new(handle.clone())),
            handle,
            turn: AtomicUsize::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// The reply to a packet, if it is about one of our names and from a client that may query them. Cheap enough for every
    /// packet: the name is read in place. A datagram has room for so many octets at any address of a client: these are the
    /// clients that the operator calls inside.
    pub(crate) fn respond(
        &self,
        packet: &[u8],
        peer: SocketAddr,
        carrier: (Transport, u16),
    ) -> Option<Result<Response, Dropped>> {
        let about_us = ends_in(packet, &self.ending);
        if !about_us || !self.serves(peer.ip()) {
            return None;
        }
        Some(packet::respond(packet, peer.ip(), carrier, |question| self.answer(question)))
    }

    /// What a packet's answer has to wait for: the first reading of a service, for at most [`PATIENCE`]. A bounded
    /// number waits at a time; further ones are answered at once.
    pub(crate) fn wait(&self, packet: &[u8], peer: SocketAddr) -> Option<BoxFuture<'static, ()>> {
        if !ends_in(packet, &self.ending) || !self.serves(peer.ip()) {
            return None;
        }
        let question = Request::parse(packet).ok().filter(|it| it.refusal.is_none())?.question?;
        let Query::Service { name, .. } = query::read(question.name.key(), &self.names) else { return None };
        let Admission::InUse(slot) = self.admit(name, self.handle.now()) else { return None };
        if unanswerable(&question).is_some() || slot.load().standing != Standing::Unread {
            return None;
        }
        let place = Arc::clone(&self.waiting).try_acquire_owned().ok()?;
        let mut discovered = self.handle.discovered();
        Some(Box::pin(async move {
            let read = async {
                while slot.load().standing == Standing::Unread && discovered.changed().await.is_ok() {}
            };
            // A client that waited in vain gets SERVFAIL.
            let _ = tokio::time::timeout(PATIENCE, read).await;
            drop(place);
        }))
    }

    fn serves(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.clients.iter().any(|network| network.contains(&client))
    }

    fn answer(&self, question: &Question) -> Answer {
        let now = self.handle.now();
        let draw = Draw { turn: self.turn.fetch_add(1, Ordering::Relaxed), now };
        let from = |view: &dyn View| answer(view, &self.names, question, draw);
        let Query::Service { name, .. } = query::read(question.name.key(), &self.names) else {
            return from(&Followed::default());
        };
        if unanswerable(question).is_some() {
            return from(&Followed::default());
        }
        match self.entry(name, now) {
            Known::Nothing => {
                Answer::failed(Rcode::ServFail, ExtendedError::other("the service was not read yet"))
            }
            Known::Fresh(entry) => from(&Followed::of(name, &entry)),
            Known::Stale(entry) => stale(from(&Followed::of(name, &entry))),
        }
    }

    fn entry(&self, name: &str, now: Moment) -> Known {
        match self.admit(name, now) {
            Admission::InUse(slot) => Known::judge(slot.load()),
            Admission::Refused => Known::Nothing,
        }
    }

    fn admit(&self, name: &str, now: Moment) -> Admission {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).admit(name, now)
    }
}

/// How long the first question about a service waits for it to be read.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions that wait at a time.
const MAX_WAITING: usize = 256;

/// Marks an answer as one that may be out of date (RFC 8914 §4.4).
fn stale(answer: Answer) -> Answer {
    Answer { extended: Some(ExtendedError::STALE), ..answer }
}

/// How far an entry can be answered from.
enum Known {
    Nothing,
    Fresh(Arc<Entry>),
    Stale(Arc<Entry>),
}

impl Known {
    fn judge(entry: Arc<Entry>) -> Self {
        match &entry.standing {
            Standing::Present | Standing::Gone => Self::Fresh(entry),
            // Without instances, an absent service cannot be distinguished from one that was never read.
            Standing::Unread | Standing::Unreachable { .. } | Standing::Suspicious { .. }
                if entry.endpoints.is_empty() =>
            {
                Self::Nothing
            }
            Standing::Unread | Standing::Unreachable { .. } | Standing::Suspicious { .. } => {
                Self::Stale(entry)
            }
        }
    }
}

/// One service as a catalog of its own.
#[derive(Default)]
struct Followed<'e> {
    service: &'e str,
    entry: Option<&'e Entry>,
}

impl<'e> Followed<'e> {
    const fn of(service: &'e str, entry: &'e Entry) -> Self {
        Self { service, entry: Some(entry) }
    }
}

impl View for Followed<'_> {
    fn instances<'a>(&'a self, service: &str) -> Vec<Instance<'a>> {
        let entry = self.entry.filter(|_| self.service == service);
        entry.into_iter().flat_map(|it| &it.endpoints).map(Instance::from).collect()
    }

    fn node<'a>(&'a self, _: &str) -> Option<Node<'a>> {
        None
    }

    fn node_at<'a>(&'a self, _: IpAddr) -> Option<Node<'a>> {
        None
    }

    fn service_at(&self, _: IpAddr) -> Option<&str> {
        None
    }
}

/// Whether the name of a packet's question ends in `ending` (lower case, as on the wire), at a label.
fn ends_in(packet: &[u8], ending: &[u8]) -> bool {
    let Some(mut rest) = packet.get(HEADER..) else { return false };
    loop {
        if rest.get(..ending.len()).is_some_and(|it| it.eq_ignore_ascii_case(ending)) {
            return true;
        }
        match rest.split_first() {
            // Zero ends a name; pointers have nothing to point at in a first question.
            Some((&length @ 1..=63, after)) => match after.get(usize::from(length)..) {
                Some(next) => rest = next,
                None => return false,
            },
            _ => return false,
        }
    }
}

/// The octets before the first question (RFC 1035 §4.1.1).
const HEADER: usize = 12;

#[cfg(test)]
mod tests;
