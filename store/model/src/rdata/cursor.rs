//! A position in the words of record data, with the readers that every field shares.
//!
//! `read` and `rare` add the readers of single fields. Both use this module, which uses neither of them, so the three form
//! no circle.

use super::{Names, Unfit, Word, Wrong};
use crate::DomainName;
use data_encoding::HEXLOWER_PERMISSIVE;

/// Reads the words one after the other and writes their octets.
pub(super) struct Cursor<'c, 'w, 'n> {
    pub(super) words: &'c [Word<'w>],
    pub(super) at: usize,
    pub(super) out: Vec<u8>,
    names: &'c mut Names<'n>,
}

impl<'c, 'w, 'n> Cursor<'c, 'w, 'n> {
    pub(super) fn new(words: &'c [Word<'w>], names: &'c mut Names<'n>) -> Self {
        Self { words, at: 0, out: Vec::new(), names }
    }

    /// The octets, if every word was read and they are not too many.
    pub(super) fn done(self, form: &str) -> Result<Vec<u8>, Wrong> {
        if let Some(word) = self.words.get(self.at) {
            let problem = format!("{:?} is one word too many", word.shown());
            return Err(Wrong { word: Some(self.at), what: Unfit { problem, expected: form.to_owned() } });
        }
        if self.out.len() > usize::from(u16::MAX) {
            return Err(Wrong::whole("the data is too long", "at most 65535 octets"));
        }
        Ok(self.out)
    }

    pub(super) fn word(&mut self, expected: &str) -> Result<&'c Word<'w>, Wrong> {
        let word = self.words.get(self.at);
        self.at += 1;
        word.ok_or_else(|| Wrong::whole("the data ends too early", expected))
    }

    /// The error for the word that was read last.
    pub(super) fn unfit(&self, expected: impl Into<String>) -> Wrong {
        let at = self.at.saturating_sub(1);
        match self.words.get(at) {
            Some(word) => Wrong { word: Some(at), what: Unfit::new(word, expected) },
            None => Wrong::whole("the data ends too early", expected),
        }
    }

    /// Reads one word by a function of its text.
    pub(super) fn by<T>(&mut self, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, Wrong> {
        let word = self.word(expected)?;
        let text = std::str::from_utf8(word.text).ok();
        text.and_then(read).ok_or_else(|| self.unfit(expected))
    }

    pub(super) fn fixed<const N: usize>(
        &mut self,
        expected: &str,
        read: impl FnOnce(&str) -> Option<[u8; N]>,
    ) -> Result<(), Wrong> {
        let octets = self.by(expected, read)?;
        self.out.extend(octets);
        Ok(())
    }

    pub(super) fn number(&mut self, most: u32, octets: usize) -> Result<(), Wrong> {
        let expected = format!("a whole number from 0 to {most}");
        let number = self.by(&expected, |text| whole(text).filter(|n| *n <= most))?;
        self.out.extend(number.to_be_bytes().iter().skip(4 - octets));
        Ok(())
    }

    pub(super) fn name(&mut self) -> Result<(), Wrong> {
        let word = self.word("a name")?;
        let name = (self.names)(word).map_err(|what| Wrong { word: Some(self.at - 1), what })?;
        push_name(&mut self.out, name.as_ref());
        Ok(())
    }

    pub(super) fn push_counted(&mut self, octets: &[u8], expected: &str) -> Result<(), Wrong> {
        let count = u8::try_from(octets.len()).map_err(|_| self.unfit(expected))?;
        self.out.push(count);
        self.out.extend_from_slice(octets);
        Ok(())
    }

    /// All of the words that are left, as one.
    pub(super) fn run(
        &mut self,
        expected: &str,
        read: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
    ) -> Result<(), Wrong> {
        self.word(expected)?;
        let text = self.words.get(self.at - 1..).unwrap_or_default().iter().flat_map(|word| word.text);
        let octets = read(text.copied().collect());
        let octets = octets.filter(|it| !it.is_empty()).ok_or_else(|| self.unfit(expected))?;
        self.out.extend(octets);
        self.at = self.words.len();
        Ok(())
    }
}

pub(super) fn push_name(out: &mut Vec<u8>, name: Option<&DomainName>) {
    for label in name.into_iter().flat_map(DomainName::octets) {
        // A label has at most 63 octets.
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(&label);
    }
    out.push(0);
}

pub(super) fn whole(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

pub(super) fn hex(text: &[u8]) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text).ok()
}
