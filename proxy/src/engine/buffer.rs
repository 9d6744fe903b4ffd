//! The buffers of a worker's connections.
//!
//! A connection has a buffer only while there are octets in it: it takes one when its socket has something to read, and
//! gives it back when all of it was passed on. So an idle connection and one that waits for its instance hold none, and
//! a busy worker uses the same few buffers again and again, which stay in the processor's cache.

use std::{cell::RefCell, fmt, rc::Rc};

/// What a head and a small body fit into.
pub(crate) const SMALL: usize = 16 * 1024;
/// For bodies, of which every read passes on as much as there is.
pub(crate) const LARGE: usize = 128 * 1024;
/// Free buffers kept of each size; more are freed.
const KEPT: usize = 64;

/// The free buffers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    texts: RefCell<Vec<Vec<u8>>>,
}

/// Octets that were read and not yet used.
pub(crate) struct Buffer {
    octets: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffers {
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// An empty buffer of [`SMALL`].
    pub(crate) fn small(&self) -> Buffer {
        let octets = self.small.borrow_mut().pop();
        Buffer::over(octets.unwrap_or_else(|| vec![0; SMALL].into_boxed_slice()))
    }

    /// An empty buffer of [`LARGE`].
    pub(crate) fn large(&self) -> Buffer {
        let octets = self.large.borrow_mut().pop();
        Buffer::over(octets.unwrap_or_else(|| vec![0; LARGE].into_boxed_slice()))
    }

    /// An empty buffer that holds at least this many octets.
    pub(crate) fn holding(&self, octets: usize) -> Buffer {
        if octets <= SMALL {
            self.small()
        } else if octets <= LARGE {
            self.large()
        } else {
            Buffer::over(vec![0; octets].into_boxed_slice())
        }
    }

    /// Takes a buffer back.
    pub(crate) fn give_back(&self, buffer: Buffer) {
        let free = match buffer.octets.len() {
            SMALL => &self.small,
            LARGE => &self.large,
            _ => return,
        };
        let mut free = free.borrow_mut();
        if free.len() < KEPT {
            free.push(buffer.octets);
        }
    }

    /// An empty text to write a head into.
    pub(crate) fn text(&self) -> Vec<u8> {
        self.texts.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(2 * 1024))
    }

    /// Takes a text back.
    pub(crate) fn give_back_text(&self, mut text: Vec<u8>) {
        let mut free = self.texts.borrow_mut();
        if free.len() < KEPT && text.capacity() <= SMALL {
            text.clear();
            free.push(text);
        }
    }

    /// Replaces a full buffer by one that holds at least `octets`, with what it holds.
    pub(crate) fn grow(&self, buffer: &mut Buffer, octets: usize) {
        let mut larger = self.holding(octets.max(buffer.len()));
        larger.octets[..buffer.len()].copy_from_slice(buffer.unread());
        larger.end = buffer.len();
        self.give_back(std::mem::replace(buffer, larger));
    }
}

impl Buffer {
    const fn over(octets: Box<[u8]>) -> Self {
        Self { octets, start: 0, end: 0 }
    }

    /// What was read and not yet used.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// The same, to be moved together.
    pub(crate) fn unread_mut(&mut self) -> &mut [u8] {
        &mut self.octets[self.start..self.end]
    }

    pub(crate) const fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many octets it can hold.
    pub(crate) const fn capacity(&self) -> usize {
        self.octets.len()
    }

    /// These octets at the front were used.
    pub(crate) const fn consume(&mut self, octets: usize) {
        self.start += octets;
        if self.start >= self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// The free part behind the unread octets. When that is small, those are moved to the front first.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 && self.octets.len() - self.end < self.octets.len() / 4 {
            self.octets.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.octets[self.end..]
    }

    /// This many octets were read into the free part.
    pub(crate) fn filled(&mut self, octets: usize) {
        self.end = (self.end + octets).min(self.octets.len());
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {})", self.len(), self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_come_out_as_they_went_in() {
        let buffers = Buffers::default();
        let mut buffer = buffers.small();
        let (mut written, mut read) = (Vec::new(), Vec::new());
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..10_000u32 {
            let room = buffer.room();
            let octets = random.usize(0..=room.len().min(7_000));
            for octet in &mut room[..octets] {
                *octet = random.u8(..);
                written.push(*octet);
            }
            buffer.filled(octets);
            let used = random.usize(0..=buffer.len());
            read.extend_from_slice(&buffer.unread()[..used]);
            buffer.consume(used);
            if round % 1_000 == 999 {
                buffers.grow(&mut buffer, if round % 2_000 == 999 { LARGE } else { 200_000 });
            }
        }
        read.extend_from_slice(buffer.unread());
        assert!(written.len() > 1_000_000 && read == written);
    }

    #[test]
    fn free_buffers_are_used_again_and_few_are_kept() {
        let buffers = Buffers::default();
        let many: Vec<_> = (0..200).map(|_| buffers.small()).collect();
        for buffer in many {
            buffers.give_back(buffer);
        }
        assert_eq!(buffers.small.borrow().len(), KEPT);
        buffers.give_back(buffers.holding(1_000_000));
        let text = buffers.text();
        buffers.give_back_text(text);
        assert_eq!((buffers.large.borrow().len(), buffers.texts.borrow().len()), (0, 1));
    }
}
