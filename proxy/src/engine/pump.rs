//! Passing a body on from one connection to another, framed anew.
//!
//! A pump writes a head and then the body behind it. Data goes from the buffer that it was read into straight to the
//! other socket, in one write with the framing around it; nothing is read while data waits to be written, so a slow
//! reader slows the writer down (back-pressure) and a body of any size needs one buffer. Chunks are not passed on as they
//! came: the data of all chunks at hand becomes one chunk of ours.

use std::{
    borrow::Cow,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use super::{
    buffer::{Buffer, Buffers, LARGE, SMALL},
    failure::Late,
    stream::Stream,
};
use crate::{
    forwarded::is_replaced,
    http1::{ChunkError, ChunkedDecoder, LAST_CHUNK, chunk_head, write_trailers},
};

/// Octets after which the other connections of the worker have their turn. A body whose both ends keep up could otherwise go
/// on for megabytes, and with a few hundred of them everything else waits for seconds.
const TURN: u64 = LARGE as u64;

/// How the end of a body is found where it comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// After this many octets more.
    Sized(u64),
    /// At the last chunk.
    Chunked(Box<ChunkedDecoder>),
    /// When the connection ends.
    UntilClose,
}

/// How a body is framed where it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sink {
    /// By its length or by the end of the connection: the octets alone.
    Plain,
    /// In chunks. `trailers`: fields behind the body are passed on too.
    Chunked {
        /// Whether trailers are passed on.
        trailers: bool,
    },
}

/// Why a body could not be passed on.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It ended before it was complete.
    Short,
    /// Its source's connection failed.
    Source(io::Error),
    /// A chunk is malformed.
    Chunk(ChunkError),
    /// More octets than are allowed.
    Large,
    /// The other connection failed.
    Sink(io::Error),
    /// A drain of the instance has waited long enough.
    Cut,
    /// The time of the request as a whole, or of this attempt, is over.
    Over(Late),
}

impl Broken {
    /// What exactly happened, for the log.
    pub(crate) fn words(&self) -> Cow<'static, str> {
        match self {
            Self::Short => "the connection ended before the body was complete".into(),
            Self::Source(error) | Self::Sink(error) => error.to_string().into(),
            Self::Chunk(error) => error.as_str().into(),
            Self::Large => "the body is larger than allowed".into(),
            Self::Cut => "the instance is drained".into(),
            Self::Over(Late::Try) => "the attempt took longer than it may".into(),
            Self::Over(_) => "the request took longer than it may".into(),
        }
    }
}

/// What a pump waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// More of the body.
    Source,
    /// Room to write it.
    Sink,
}

/// A head and a body on their way.
#[derive(Debug)]
pub(crate) struct Pump {
    /// The head. What was written behind it is appended while it is kept for another attempt.
    text: Vec<u8>,
    written: usize,
    /// How often something was written to this connection.
    writes: u32,
    /// Octets of `text` up to which it is kept.
    keep: usize,
    /// Part of the body was written and not kept.
    lost: bool,
    line: [u8; 20],
    line_range: (u8, u8),
    /// Octets at the front of the buffer that are data to be written.
    data: usize,
    /// Octets of framing behind them, which are dropped with them.
    gap: usize,
    back: Vec<u8>,
    back_written: usize,
    source: Source,
    sink: Sink,
    /// The source's last octet is in the buffer.
    complete: bool,
    /// Our side of the connection ends behind the body.
    last: bool,
    /// The last read filled its buffer, so there is more than fits into a small one.
    plenty: bool,
    /// Octets of the body that may still come.
    allowed: u64,
    /// Octets of the body that were written.
    pub(crate) passed: u64,
    /// What it waited for when it was polled last.
    pub(crate) waits: Waits,
}

impl Pump {
    /// Writes `text` and then the body of `source`.
    pub(crate) fn new(text: Vec<u8>, source: Source, sink: Sink) -> Self {
        Self {
            text,
            written: 0,
            writes: 0,
            keep: 0,
            lost: false,
            line: [0; 20],
            line_range: (0, 0),
            data: 0,
            gap: 0,
            back: Vec::new(),
            back_written: 0,
            complete: matches!(source, Source::Sized(0)),
            last: false,
            source,
            sink,
            plenty: false,
            allowed: u64::MAX,
            passed: 0,
            waits: Waits::Source,
        }
    }

    /// Refuses bodies of more than this many octets.
    pub(crate) const fn allow(mut self, octets: u64) -> Self {
        self.allowed = octets;
        self
    }

    /// Whether our side of the connection ends at once when the body is written.
    pub(crate) const fn last(mut self, last: bool) -> Self {
        self.last = last;
        self
    }

    /// Keeps what is written, as long as it is at most `octets`, so that it can be written again.
    pub(crate) const fn keep(mut self, octets: usize) -> Self {
        self.keep = octets;
        self
    }

    /// True when everything up to now can be written to another connection.
    pub(crate) const fn replayable(&self) -> bool {
        !self.lost
    }

    /// Octets written to this connection; fewer than there were if not everything [can be written again](Self::replayable).
    pub(crate) const fn written(&self) -> usize {
        self.written
    }

    /// How often something was written to this connection.
    pub(crate) const fn writes(&self) -> u32 {
        self.writes
    }

    /// True when nothing was written to this connection yet.
    pub(crate) const fn is_unsent(&self) -> bool {
        self.written == 0
    }

    /// Looks at what has been read of the body, before anything is written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn look_ahead(&mut self, input: &mut Option<Buffer>) -> Result<(), Broken> {
        if let Source::Sized(left) = self.source
            && left > self.allowed
        {
            return Err(Broken::Large);
        }
        if self.complete { Ok(()) } else { self.take(input) }
    }

    /// Drops what was read of the body and not written. True if that was the rest of it: what follows in the buffer is the next
    /// request. Otherwise it is not known where that begins.
    pub(crate) fn discard(&mut self, input: &mut Option<Buffer>, buffers: &Buffers) -> bool {
        if let Some(buffer) = input {
            buffer.consume(std::mem::take(&mut self.data) + std::mem::take(&mut self.gap));
            if buffer.is_empty() {
                release(input, buffers);
            }
        }
        self.complete
    }

    /// Everything is written to another connection.
    pub(crate) const fn restart(&mut self) {
        (self.written, self.writes) = (0, 0);
    }

    /// The head, and what was kept of the body.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The text, to be used again.
    pub(crate) fn into_text(self) -> Vec<u8> {
        self.text
    }

    const fn is_writing(&self) -> bool {
        self.written < self.text.len() || self.is_writing_body()
    }

    const fn is_writing_body(&self) -> bool {
        self.line_range.0 < self.line_range.1 || self.data > 0 || self.back_written < self.back.len()
    }

    /// Writes the head alone.
    pub(crate) fn poll_text(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<Result<(), Broken>> {
        self.waits = Waits::Sink;
        while self.written < self.text.len() {
            let slice = [IoSlice::new(&self.text[self.written..])];
            match ready!(to.poll_write(cx, &slice)) {
                Ok(0) => return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero.into()))),
                Ok(octets) => {
                    self.written += octets;
                    self.writes += 1;
                }
                Err(error) => return Poll::Ready(Err(Broken::Sink(error))),
            }
        }
        to.poll_flush(cx).map_err(Broken::Sink)
    }

    /// Passes on what is there, or wakes the task after [`TURN`] octets. Completes when the whole body is written. Without a
    /// connection that it comes `from`, the body must be in the buffer.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, input): (Option<&mut Stream>, &mut Option<Buffer>),
        to: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Result<(), Broken>> {
        let mut from = from;
        let turn_ends = self.passed + TURN;
        loop {
            // A head goes out with the first data behind it.
            if !self.complete && !self.is_writing_body() {
                self.take(input)?;
                if input.as_ref().is_some_and(Buffer::is_empty) {
                    release(input, buffers);
                }
            }
            if self.is_writing() {
                self.waits = Waits::Sink;
                ready!(self.poll_write(cx, input, to, buffers))?;
                if self.passed >= turn_ends {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            if self.complete {
                self.waits = Waits::Sink;
                return to.poll_flush(cx).map_err(Broken::Sink);
            }
            self.waits = Waits::Source;
            let from = from.as_deref_mut().ok_or(Broken::Short)?;
            ready!(self.poll_more(cx, from, input, to, buffers))?;
        }
    }

    /// Frames the data at hand.
    fn take(&mut self, input: &mut Option<Buffer>) -> Result<(), Broken> {
        let Some(buffer) = input else { return Ok(()) };
        match &mut self.source {
            Source::Sized(left) => {
                self.data = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= self.data as u64;
                self.complete = *left == 0;
            }
            Source::UntilClose => self.data = buffer.len(),
            Source::Chunked(decoder) => {
                (self.data, self.gap, self.complete) = unchunk(decoder, buffer).map_err(Broken::Chunk)?;
                if self.data == 0 {
                    buffer.consume(std::mem::take(&mut self.gap));
                }
            }
        }
        self.allowed = self.allowed.checked_sub(self.data as u64).ok_or(Broken::Large)?;
        self.frame();
        Ok(())
    }

    fn frame(&mut self) {
        let Sink::Chunked { trailers } = self.sink else { return };
        self.back.clear();
        self.back_written = 0;
        if self.data > 0 {
            let length = chunk_head(self.data, &mut self.line);
            self.line_range = (0, length as u8);
            self.back.extend_from_slice(b"\r\n");
        }
        if self.complete {
            match &self.source {
                Source::Chunked(decoder) if trailers => {
                    let (fields, octets) = decoder.trailers();
                    // Claims about the client are no more believed behind a body than before it.
                    write_trailers(&mut self.back, fields, octets, |name| is_replaced(name, false));
                }
                _ => self.back.extend_from_slice(LAST_CHUNK),
            }
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut Option<Buffer>,
        to: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Result<(), Broken>> {
        let data = input.as_ref().map_or(&[][..], |buffer| &buffer.unread()[..self.data]);
        let (from, until) = (usize::from(self.line_range.0), usize::from(self.line_range.1));
        let parts =
            [&self.text[self.written..], &self.line[from..until], data, &self.back[self.back_written..]];
        let mut slices = parts.map(IoSlice::new);
        let mut count = 0;
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            slices[count] = IoSlice::new(part);
            count += 1;
        }
        let slices = &slices[..count];
        let ends = self.last && self.complete;
        let written = if ends { to.poll_write_last(cx, slices) } else { to.poll_write(cx, slices) };
        let written = ready!(written).map_err(Broken::Sink)?;
        if written == 0 {
            return Poll::Ready(Err(Broken::Sink(io::ErrorKind::WriteZero.into())));
        }
        self.writes = self.writes.saturating_add(1);
        self.wrote(written, input, buffers);
        Poll::Ready(Ok(()))
    }

    /// Counts written octets, part by part.
    fn wrote(&mut self, mut octets: usize, input: &mut Option<Buffer>, buffers: &Buffers) {
        let mut step = |left: usize| {
            let step = octets.min(left);
            octets -= step;
            step
        };
        let text = step(self.text.len() - self.written);
        let (from, until) = self.line_range;
        let line = step(usize::from(until - from));
        let data = step(self.data);
        let back = step(self.back.len() - self.back_written);
        self.written += text;
        if !self.lost && line + data + back > 0 {
            self.remember(line, data, back, input);
        }
        self.line_range.0 += line as u8;
        self.back_written += back;
        if data > 0
            && let Some(buffer) = input
        {
            self.data -= data;
            self.passed += data as u64;
            buffer.consume(data + if self.data == 0 { std::mem::take(&mut self.gap) } else { 0 });
            if buffer.is_empty() {
                release(input, buffers);
            }
        }
    }

    /// Keeps what is being written for another attempt, if it is not too much.
    fn remember(&mut self, line: usize, data: usize, back: usize, input: &Option<Buffer>) {
        if self.text.len() + line + data + back > self.keep {
            self.lost = true;
            return;
        }
        let from = usize::from(self.line_range.0);
        self.text.extend_from_slice(&self.line[from..from + line]);
        if let Some(buffer) = input {
            self.text.extend_from_slice(&buffer.unread()[..data]);
        }
        self.text.extend_from_slice(&self.back[self.back_written..self.back_written + back]);
        self.written = self.text.len();
    }

    /// Reads more of the body.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        input: &mut Option<Buffer>,
        to: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Result<(), Broken>> {
        let large = match &self.source {
            Source::Sized(left) => *left > SMALL as u64,
            Source::Chunked(_) | Source::UntilClose => self.plenty,
        };
        let buffer = input.get_or_insert_with(|| if large { buffers.large() } else { buffers.small() });
        let room = buffer.room();
        let size = room.len();
        match from.poll_read(cx, room) {
            Poll::Pending => {
                if buffer.is_empty() {
                    release(input, buffers);
                }
                // What TLS holds back goes out before we wait.
                if let Poll::Ready(Err(error)) = to.poll_flush(cx) {
                    return Poll::Ready(Err(Broken::Sink(error)));
                }
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                release(input, buffers);
                if !matches!(self.source, Source::UntilClose) {
                    return Poll::Ready(Err(Broken::Short));
                }
                self.complete = true;
                self.frame();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(octets)) => {
                buffer.filled(octets);
                self.plenty = octets == size;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                release(input, buffers);
                Poll::Ready(Err(Broken::Source(error)))
            }
        }
    }
}

/// Gives an empty or unwanted buffer back.
pub(crate) fn release(input: &mut Option<Buffer>, buffers: &Buffers) {
    if let Some(buffer) = input.take() {
        buffers.give_back(buffer);
    }
}

/// Moves the data of all chunks at hand to the front: (octets of data, octets of framing behind them, whether the body
/// is complete).
fn unchunk(decoder: &mut ChunkedDecoder, buffer: &mut Buffer) -> Result<(usize, usize, bool), ChunkError> {
    let (mut data, mut gap) = (0, 0);
    loop {
        let octets = buffer.unread_mut();
        let rest = data + gap;
        if rest == octets.len() {
            return Ok((data, gap, false));
        }
        let decoded = decoder.decode(&octets[rest..])?;
        let length = decoded.data.len();
        if length > 0 && rest == 0 {
            // A single chunk stays where it is.
            buffer.consume(decoded.data.start);
            (data, gap) = (length, decoded.consumed - decoded.data.end);
        } else {
            let from = rest + decoded.data.start;
            octets.copy_within(from..from + length, data);
            data += length;
            gap += decoded.consumed - length;
        }
        if decoded.end || decoded.consumed == 0 {
            return Ok((data, gap, decoded.end));
        }
    }
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
