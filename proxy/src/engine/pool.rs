//! Connections to instances, and the pool of the idle ones. `upstream` decides what happens to them.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use socket2::SockRef;
use tokio::time::Instant;

use super::{buffer::Buffer, stream::Stream};
use crate::instance::Instance;

/// A connection to an instance.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    pub(crate) stream: Stream,
    /// What was read and not used.
    pub(crate) input: Option<Buffer>,
    pub(crate) address: SocketAddr,
    /// The instance that it served last, or was made for.
    pub(crate) instance: Arc<Instance>,
    /// It has served a request before.
    pub(crate) reused: bool,
    /// When the instance will close it while it is idle (`Keep-Alive: timeout`); `None`: it did not say.
    pub(crate) closes_after: Option<Duration>,
    /// When its last exchange ended.
    pub(crate) idle_since: Instant,
}

impl UpstreamConnection {
    pub(crate) fn new(stream: Stream, instance: Arc<Instance>, address: SocketAddr) -> Self {
        Self {
            stream,
            input: None,
            address,
            instance,
            reused: false,
            closes_after: None,
            idle_since: Instant::now(),
        }
    }

    /// True if nothing came in since the last exchange: neither its end nor octets nobody asked for. Costs no system
    /// call while nothing did.
    fn is_quiet(&mut self) -> bool {
        let mut octet = [0];
        self.stream.poll_read(&mut Context::from_waker(Waker::noop()), &mut octet).is_pending()
    }

    /// The same, from the socket itself: the runtime may not have heard of the end yet.
    pub(crate) fn is_quiet_for_sure(&self) -> bool {
        let mut octet = [std::mem::MaybeUninit::uninit()];
        let peeked = SockRef::from(self.stream.socket()).peek(&mut octet);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// How long it may be idle and still be used; instances close at their own time, and a request must not meet that.
    fn usable_for(&self, idle_for: Duration) -> Duration {
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
    /// The connection to an address that was used last, if it is still open.
    pub(crate) fn take(&mut self, address: SocketAddr, idle_for: Duration) -> Option<UpstreamConnection> {
        let connections = self.idle.get_mut(&address)?;
        while let Some(mut connection) = connections.pop() {
            self.count -= 1;
            if connection.is_quiet() && connection.idle_since.elapsed() < connection.usable_for(idle_for) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection, unless `most` to its address are there already; then it is returned.
    pub(crate) fn put(&mut self, connection: UpstreamConnection, most: usize) -> Option<UpstreamConnection> {
        let connections = self.idle.entry(connection.address).or_default();
        if connections.len() >= most {
            return Some(connection);
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
    pub(crate) fn sweep(&mut self, idle_for: Duration) -> usize {
        self.remove(|it| it.idle_since.elapsed() >= it.usable_for(idle_for) || !it.is_quiet())
    }

    pub(crate) const fn len(&self) -> u64 {
        self.count
    }
}
