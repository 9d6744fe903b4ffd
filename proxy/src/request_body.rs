//! A client's request body on its way to an instance: streamed without being read, and watched for an early end.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

/// How far a client's request body has come.
#[derive(Debug)]
pub(crate) struct Progress {
    /// It ended before it was complete.
    pub(crate) broke: Cell<bool>,
    /// When the last piece of it was passed on.
    pub(crate) moved: Cell<Instant>,
}

/// A client's body on its way to an instance.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// None; such a request can be sent again.
    Empty,
    /// Passed on as it comes in.
    Client(Incoming, Rc<Progress>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self::Client(incoming, progress) = self.get_mut() else { return Poll::Ready(None) };
        loop {
            let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
            progress.moved.set(Instant::now());
            match &frame {
                // Trailers were not announced to the instance.
                Some(Ok(frame)) if frame.is_trailers() => continue,
                Some(Err(_)) => progress.broke.set(true),
                _ => {}
            }
            return Poll::Ready(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(incoming, _) => incoming.size_hint(),
        }
    }
}
