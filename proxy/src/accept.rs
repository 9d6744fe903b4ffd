//! How connections reach the workers.
//!
//! With one worker, the worker accepts by itself: no thread and no hand-over in between. With several, one small thread
//! accepts from all listening sockets and hands each connection to the worker with the fewest (`thread`). That keeps the
//! connections of workers within one of each other when they come together, and a worker that is stuck delays no connection:
//! what it has not taken in [`inbox::PATIENCE`] goes to another. The other ways are worse in one of the two. With a socket
//! per worker (`SO_REUSEPORT`) the system spreads by a hash, so that 64 connections over two workers are 39 and 25 or worse
//! in one case of ten, and those in the queue of a stuck worker wait for it. With one socket that every worker polls, each
//! connection wakes all of them.
//!
//! A connection takes its place among the limits (`places`) before a worker sees it. At a shutdown, the connections that
//! the system has completed already are accepted and served.

mod alone;
mod inbox;
mod places;
mod thread;

use std::{
    io::{self, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::task::AtomicWaker;
use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};

pub(crate) use self::places::{Full, Place, Places};
use self::{alone::Alone, inbox::Inbox};
use crate::{config::Error, listen::Bound, metrics::Metrics};

/// How long to wait when the process is out of file descriptors or memory. Trying again at once would spin.
const PAUSE: Duration = Duration::from_millis(50);
/// How long to wait before a listener is opened again that could not be opened.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// A client's connection that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The socket. It does not block, and has `TCP_NODELAY` and keep-alive.
    pub(crate) stream: TcpStream,
    /// The other side: the client, or a proxy before it.
    pub(crate) peer: SocketAddr,
    /// The address that it was sent to.
    pub(crate) local: SocketAddr,
    /// Which of the configuration's listeners.
    pub(crate) listener: usize,
    /// Its place among the connections; to be kept until the connection ends.
    pub(crate) place: Place,
}

/// Stops the accepting: when it is asked to, or when it is dropped.
#[derive(Debug)]
pub(crate) struct Entrance(Arc<Closing>);

#[derive(Debug)]
struct Closing {
    begun: AtomicBool,
    /// Listeners for TLS may open.
    opens: AtomicBool,
    /// Wakes a worker that accepts by itself.
    alone: AtomicWaker,
    /// Wakes the thread.
    thread: Option<OwnedFd>,
}

impl Entrance {
    /// Accepts what the system has completed already, then closes the listening sockets. Workers get the rest, and `None`
    /// from [`Arrivals::next`] after it.
    pub(crate) fn close(&self) {
        self.0.begun.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Opens the listeners that were shut because there was no certificate.
    pub(crate) fn open(&self) {
        self.0.opens.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        self.0.alone.wake();
        if let Some(thread) = &self.0.thread {
            let _ = rustix::io::write(thread, &1_u64.to_ne_bytes());
        }
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.close();
    }
}

/// Where one worker gets its connections; to be opened on its thread.
#[derive(Debug)]
pub(crate) struct Door(From);

#[derive(Debug)]
enum From {
    Sockets { bound: Vec<Bound>, closing: Arc<Closing>, places: Arc<Places> },
    Inbox(Arc<Inbox<Accepted>>),
}

/// Begins to accept for some workers, at least one. Nothing is served before the doors are opened.
///
/// # Errors
/// When the system gives no thread or no descriptor for it.
pub(crate) fn start(
    bound: Vec<Bound>,
    workers: usize,
    places: &Arc<Places>,
    metrics: &Arc<Metrics>,
) -> Result<(Entrance, Vec<Door>), Error> {
    let closing = |thread| {
        let (begun, opens) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Closing { begun, opens, alone: AtomicWaker::new(), thread })
    };
    if workers <= 1 {
        let closing = closing(None);
        let from = From::Sockets { bound, closing: Arc::clone(&closing), places: Arc::clone(places) };
        return Ok((Entrance(closing), vec![Door(from)]));
    }
    let inboxes: Vec<Arc<Inbox<Accepted>>> = (0..workers).map(|_| Arc::default()).collect();
    let closing = closing(Some(thread::waker().map_err(Error::Accept)?));
    let (places, metrics) = (Arc::clone(places), Arc::clone(metrics));
    thread::start(bound, inboxes.clone(), Arc::clone(&closing), places, metrics).map_err(Error::Accept)?;
    Ok((Entrance(closing), inboxes.into_iter().map(|inbox| Door(From::Inbox(inbox))).collect()))
}

impl Door {
    /// Opens it on this thread's runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch a socket.
    pub(crate) fn open(self) -> io::Result<Arrivals> {
        Ok(Arrivals(match self.0 {
            From::Sockets { bound, closing, places } => Way::Alone(Alone::new(bound, closing, places)?),
            From::Inbox(inbox) => Way::Inbox(inbox),
        }))
    }
}

/// The connections of one worker.
#[derive(Debug)]
pub(crate) struct Arrivals(Way);

#[derive(Debug)]
enum Way {
    Alone(Alone),
    Inbox(Arc<Inbox<Accepted>>),
}

impl Arrivals {
    /// The next connection; `None` once the entrance is closed and every connection was given. May be dropped and called
    /// again.
    pub(crate) async fn next(&mut self) -> Option<Accepted> {
        match &mut self.0 {
            Way::Alone(alone) => alone.next().await,
            Way::Inbox(inbox) => std::future::poll_fn(|cx| inbox.poll_take(cx)).await,
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        if let Way::Inbox(inbox) = &self.0 {
            inbox.leave();
        }
    }
}

/// Accepts a connection of a listener, if there is one, and gives it a place with `worker`. `None`: it was over a limit,
/// was answered so and is closed.
fn accept(bound: &Bound, worker: usize, places: &Arc<Places>) -> Result<Option<Accepted>, Errno> {
    let (socket, peer) = acceptfrom_with(&bound.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let stream = TcpStream::from(socket);
    let peer = peer.and_then(|it| SocketAddr::try_from(it).ok());
    let Some(peer) = peer else { return Ok(None) };
    // One system call less where the listener's address is that of its connections.
    let local = match bound.address.ip().is_unspecified() {
        true => stream.local_addr().unwrap_or(bound.address),
        false => bound.address,
    };
    let client = (!bound.trusted.contain(peer.ip())).then_some(peer.ip());
    match places.take(worker, client) {
        Ok(place) => Ok(Some(Accepted { stream, peer, local, listener: bound.number, place })),
        Err(full) => {
            let answered = refuse(&stream, full, bound.tls);
            places.note_refused(full, peer, answered);
            Ok(None)
        }
    }
}

/// Answers a connection over a limit, as far as that is possible without waiting; true if it was.
fn refuse(mut stream: &TcpStream, full: Full, tls: bool) -> bool {
    let answered = !tls && stream.write(&refusal(full)).is_ok();
    let _ = stream.shutdown(Shutdown::Write);
    answered
}

/// The answer to a connection over a limit.
pub(crate) fn refusal(full: Full) -> Vec<u8> {
    let (reason, phrase) = match full {
        Full::All => (full.reason(), "Service Unavailable"),
        Full::Client => (full.reason(), "Too Many Requests"),
    };
    let (status, text) = (reason.status(), reason.sentence());
    let length = text.len() + 1;
    let again = reason.retry_after().unwrap_or(1);
    format!(
        "HTTP/1.1 {status} {phrase}\r\nconnection: close\r\nretry-after: {again}\r\n\
         content-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{text}\n"
    )
    .into_bytes()
}

/// True for errors of the one connection that would have been accepted (accept(2)); others concern the process.
const fn is_of_one_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::INTR
            | Errno::PERM
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
    )
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
