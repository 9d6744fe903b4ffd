//! Connections to instances, and the pool of the idle ones. `upstream` decides what happens to them.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use socket2::SockRef;
use tokio::{task::unconstrained, time::Instant};

use super::{buffer::Buffer, stream::Stream};
use crate::{
    instance::Instance,
    service::{
        circuit::{Admitted, Circuit, IdlePlace},
        connections::{Connections, Identity, Keep},
    },
};

/// How late a body may come that must not be there.
const LATE_BODY: Duration = Duration::from_millis(100);

/// A connection to an instance.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    pub(crate) stream: Stream,
    /// What was read and not used.
    pub(crate) input: Option<Buffer>,
    pub(crate) address: SocketAddr,
    /// The instance that it served last, or was made for.
    pub(crate) instance: Arc<Instance>,
    /// The identity that TLS has verified; `None` without TLS.
    pub(crate) identity: Option<Identity>,
    /// Its place among the connections of its service, where these are limited.
    pub(crate) place: Option<Admitted>,
    idle: Option<IdlePlace>,
    /// How long it is kept.
    pub(crate) keep: Keep,
    /// It has told the instance of one client, and serves no other.
    pub(crate) told: bool,
    /// Requests that it has served.
    pub(crate) served: u32,
    /// How often in a row it went from one request straight to one that waited.
    pub(crate) handed: u8,
    /// It has served a request before.
    pub(crate) reused: bool,
    /// When the instance will close it while it is idle (`Keep-Alive: timeout`); `None`: it did not say.
    pub(crate) closes_after: Option<Duration>,
    /// Its last response was to HEAD and announced a body. Instances that send that body all the same must not be heard as if it
    /// were the next response, so it rests for [`LATE_BODY`].
    pub(crate) rests: bool,
    /// When its last exchange ended.
    pub(crate) idle_since: Instant,
}

impl UpstreamConnection {
    pub(crate) fn new(
        stream: Stream,
        (instance, address): (Arc<Instance>, SocketAddr),
        (terms, identity): (&Connections, Option<Identity>),
        place: Option<Admitted>,
    ) -> Self {
        Self {
            stream,
            input: None,
            address,
            instance,
            identity,
            place,
            idle: None,
            keep: terms.keep,
            told: !terms.are_shared(),
            served: 0,
            handed: 0,
            reused: false,
            closes_after: None,
            rests: false,
            idle_since: Instant::now(),
        }
    }

    /// True if nothing came in since the last exchange: neither its end nor octets of no response. Costs no system call
    /// while nothing did.
    fn is_quiet(&mut self) -> bool {
        let mut octet = [0];
        // The runtime answers a task that has done much that there is nothing, so that others have their turn.
        let read = unconstrained(poll_fn(|cx| self.stream.poll_read(cx, &mut octet)));
        pin!(read).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// The same, from the socket itself: the runtime may not have heard of the end yet.
    pub(crate) fn is_quiet_for_sure(&self) -> bool {
        let mut octet = [std::mem::MaybeUninit::uninit()];
        let peeked = SockRef::from(self.stream.socket()).peek(&mut octet);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// How long it may be idle and still be used; instances close at their own time, and a request must not meet that.
    fn usable_for(&self) -> Duration {
        let idle_for = self.keep.idle_for;
        // A second, or a fifth of a short time, is left for the way there.
        let theirs = self.closes_after.map(|it| it.saturating_sub((it / 5).min(Duration::from_secs(1))));
        theirs.map_or(idle_for, |it| it.min(idle_for))
    }
}

/// The idle connections.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: HashMap<SocketAddr, Vec<UpstreamConnection>>,
    count: u64,
}

impl Pool {
    /// The connection to an address that was used last and may be used now and on these terms, if it is still open.
    pub(crate) fn take(
        &mut self,
        (address, now): (SocketAddr, Instant),
        terms: &Connections,
        admits: impl Fn(&UpstreamConnection) -> bool,
    ) -> Option<UpstreamConnection> {
        let connections = self.idle.get_mut(&address)?;
        let rests =
            |it: &UpstreamConnection| it.rests && now.saturating_duration_since(it.idle_since) < LATE_BODY;
        // Nearly always the last one: services that speak with one address in different ways are rare.
        while let Some(at) = connections.iter().rposition(|it| !rests(it) && admits(it)) {
            let mut connection = connections.swap_remove(at);
            connection.idle = None;
            connection.keep = terms.keep;
            self.count -= 1;
            if connection.is_quiet()
                && now.saturating_duration_since(connection.idle_since) < connection.usable_for()
                && connection.keep.allows(connection.served)
            {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection, unless as many as are kept to its address are there already, or a request waits for its place; then
    /// it is returned.
    pub(crate) fn put(&mut self, mut connection: UpstreamConnection) -> Option<UpstreamConnection> {
        let connections = self.idle.entry(connection.address).or_default();
        if connections.len() >= connection.keep.most {
            return Some(connection);
        }
        if let Some(place) = &connection.place {
            connection.idle = Some(place.idle());
            if place.circuit().connections_wanted() > 0 {
                connection.idle = None;
                return Some(connection);
            }
        }
        connections.push(connection);
        self.count += 1;
        None
    }

    /// Removes the connections for which this is true.
    pub(crate) fn remove(&mut self, mut unwanted: impl FnMut(&mut UpstreamConnection) -> bool) -> usize {
        let mut removed = 0;
        self.idle.retain(|_, connections| {
            connections.retain_mut(|connection| {
                let goes = unwanted(connection);
                removed += usize::from(goes);
                !goes
            });
            !connections.is_empty()
        });
        self.count -= removed as u64;
        removed
    }

    /// Removes the connections that ended, or were idle for too long.
    pub(crate) fn sweep(&mut self) -> usize {
        self.remove(|it| it.idle_since.elapsed() >= it.usable_for() || !it.is_quiet())
    }

    /// Removes as many connections as others wait for, of this service or of every one.
    pub(crate) fn make_room(&mut self, of: Option<&Arc<Circuit>>) -> usize {
        let mut removed: Vec<(*const Circuit, u32)> = Vec::new();
        self.remove(|connection| {
            let Some(circuit) = connection.place.as_ref().map(Admitted::circuit) else { return false };
            if of.is_some_and(|it| !Arc::ptr_eq(it, circuit)) {
                return false;
            }
            let here = Arc::as_ptr(circuit);
            let at = removed.iter().position(|(it, _)| *it == here).unwrap_or_else(|| {
                removed.push((here, 0));
                removed.len() - 1
            });
            let wanted = circuit.connections_wanted() > removed[at].1;
            removed[at].1 += u32::from(wanted);
            wanted
        })
    }

    pub(crate) const fn len(&self) -> u64 {
        self.count
    }
}
