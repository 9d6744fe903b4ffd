//! An instance's response body on its way to the client: streamed without being read, and watched for an early end.

use std::{
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::{connection::ConnectionState, upstream::InUse, worker::Worker};

/// A response's body on its way to a client.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// Complete, or a response of the gateway itself.
    Whole(Bytes),
    /// Passed on as it comes in, after the pieces that were held back.
    Instance(Box<Stream>),
}

/// An instance's body that is being passed on.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) held: VecDeque<Bytes>,
    pub(crate) incoming: Incoming,
    pub(crate) in_use: InUse,
    pub(crate) worker: Rc<Worker>,
    pub(crate) client: Rc<ConnectionState>,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Instance(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Instance(stream) => stream.held.is_empty() && stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Instance(stream) => {
                let held: usize = stream.held.iter().map(Bytes::len).sum();
                let coming = stream.incoming.size_hint();
                coming.exact().map_or_else(SizeHint::default, |it| SizeHint::with_exact(it + held as u64))
            }
        }
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(held) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(held))));
        }
        loop {
            let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
            match &frame {
                Some(Ok(frame)) if frame.is_trailers() => continue,
                Some(Ok(_)) if self.incoming.is_end_stream() => self.in_use.give_back(),
                Some(Ok(_)) => {}
                None => self.in_use.give_back(),
                Some(Err(_)) => {
                    // The client must not take the part that it got for the complete body.
                    self.client.abort();
                    self.broke_off();
                }
            }
            return Poll::Ready(frame);
        }
    }

    /// The instance ended the response early.
    fn broke_off(&mut self) {
        self.worker.metrics().short_answers.increment();
        if let Some(instance) = self.in_use.instance() {
            self.worker.failed(instance);
        }
        self.in_use.close();
    }
}
