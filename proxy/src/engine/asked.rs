//! A request's head while it is decided what is done with it, and what is needed of it for a response of the gateway.

use std::cell::Cell;

use super::{client::Client, logged::Logged, worker::Worker};
use crate::{
    answers::Form,
    forwarded::{Hop, Origin},
    http1::{BodyLength, ConnectionOptions, Fields, Method, RequestLine, Version},
    request_id::{RequestId, RequestIds},
    shared::Shared,
};

/// What a response of the gateway depends on.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// The client's version.
    pub(crate) version: Version,
    /// The request's body, as far as it is to come.
    pub(crate) body: BodyLength,
    /// The client's connection may serve another request.
    pub(crate) keep_alive: bool,
    /// What the client likes to read.
    pub(crate) form: Form,
    pub(crate) id: RequestId,
    /// What the access log tells of it, if there is one.
    pub(crate) logged: Option<Box<Logged>>,
}

impl Asked {
    /// Of a request whose head could not be read.
    pub(crate) fn unread(worker: &Worker, client: &Client) -> Self {
        Self {
            method: Method::Other,
            version: Version::Http11,
            body: BodyLength::None,
            keep_alive: false,
            form: Form::wanted(std::iter::empty()),
            id: worker.next_id(),
            logged: worker.log.borrow().is_some().then(|| Logged::unread(worker, client)),
        }
    }
}

/// Where a request has come in.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) shared: &'a Shared,
    /// Which of the configuration's listeners.
    pub(crate) listener: usize,
    pub(crate) hop: &'a Hop,
    /// The worker that serves it; `None` if it is only explained.
    pub(crate) worker: Option<&'a Worker>,
}

impl Place<'_> {
    pub(super) fn next_id(&self) -> RequestId {
        self.worker.map_or_else(|| RequestIds::default().next(self.shared.handle.now()), Worker::next_id)
    }

    pub(super) fn text(&self) -> Vec<u8> {
        self.worker.map_or_else(Vec::new, |it| it.buffers.text())
    }
}

/// A request's head with what was found out about it so far.
pub(super) struct Request<'a> {
    pub(super) octets: &'a [u8],
    pub(super) line: &'a RequestLine,
    pub(super) fields: &'a Fields,
    pub(super) body: BodyLength,
    pub(super) options: ConnectionOptions,
    pub(super) expects: bool,
    pub(super) origin: Origin<'a>,
    /// The peer's claims about the client are believed.
    pub(super) trusted: bool,
    pub(super) id: RequestId,
    /// The worker, if it writes an access log.
    pub(super) logs: Option<&'a Worker>,
    /// Whether its route has a word about the access log.
    pub(super) access_log: Cell<Option<bool>>,
}

impl Request<'_> {
    /// True for HTTP/1.1.
    pub(super) fn is_modern(&self) -> bool {
        self.line.version == Version::Http11
    }
}
