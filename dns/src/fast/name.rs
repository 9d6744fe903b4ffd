//! Names as the table has them: wire form, lower case, hashed eight octets at a time.

use store::model::DomainName;

/// The longest name in wire form (RFC 1035 §2.3.4).
const MAX: usize = 255;

/// A name as it is looked up. Kept between queries, so that nothing is cleared that is overwritten anyway.
#[derive(Debug)]
pub(super) struct Key {
    octets: [u8; MAX + 1],
    len: usize,
}

impl Default for Key {
    fn default() -> Self {
        Self { octets: [0; MAX + 1], len: 0 }
    }
}

impl Key {
    /// Reads the name at the front of `wire`; `None` where it is compressed, cut off or too long.
    pub(super) fn read(&mut self, wire: &[u8]) -> Option<usize> {
        let mut end = 0;
        loop {
            match usize::from(*wire.get(end)?) {
                0 => break,
                label @ 1..=63 => end += label + 1,
                _ => return None,
            }
        }
        let len = end + 1;
        self.octets.get_mut(..len)?.copy_from_slice(wire.get(..len)?);
        if len > MAX {
            return None;
        }
        self.len = len;
        self.octets.get_mut(len..)?.iter_mut().take(7).for_each(|octet| *octet = 0);
        let (words, _) = self.octets.as_chunks_mut::<8>();
        for word in words.iter_mut().take(len.div_ceil(8)) {
            *word = lower(u64::from_le_bytes(*word)).to_le_bytes();
        }
        Some(len)
    }

    /// The name, with the root's empty label at its end.
    pub(super) fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

/// Eight octets in lower case. Octets that count a label's length are below 64 and stay as they are.
const fn lower(word: u64) -> u64 {
    const EVERY: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EVERY;
    let low = word & !HIGH;
    let from_a = low + (0x80 - b'A' as u64) * EVERY;
    let beyond_z = low + (0x7f - b'Z' as u64) * EVERY;
    let upper = !word & (from_a ^ beyond_z) & HIGH;
    word | (upper >> 2)
}

/// The hash of a name in wire form and lower case. Not keyed: everything in the table comes from configuration, and
/// clients cannot put a name into it.
pub(super) fn hash(octets: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |hash: u64, word: [u8; 8]| {
        let product = u128::from(hash ^ u64::from_le_bytes(word)) * u128::from(FACTOR);
        (product >> 64) as u64 ^ product as u64
    };
    let (words, rest) = octets.as_chunks::<8>();
    let hash = words.iter().fold(octets.len() as u64 ^ FACTOR, |hash, word| fold(hash, *word));
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    fold(hash, last)
}

/// A configured name in wire form.
pub(super) fn wire(name: &DomainName) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.as_str().len() + 2);
    for label in name.octets() {
        wire.push(label.len().to_le_bytes()[0]);
        wire.extend_from_slice(&label);
    }
    wire.push(0);
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(wire: &[u8]) -> Option<Vec<u8>> {
        let mut key = Key::default();
        key.read(wire).map(|_| key.octets().to_vec())
    }

    #[test]
    fn names_are_read_in_lower_case_and_end_at_the_root() {
        let expected = wire(&"gw.example-1.com".parse().unwrap());
        assert_eq!(expected, b"\x02gw\x09example-1\x03com\0");
        assert_eq!(read(b"\x02Gw\x09eXAMPLE-1\x03COM\0rest").as_deref(), Some(&expected[..]));
        assert_eq!(read(b"\0").as_deref(), Some(&b"\0"[..]));
    }

    #[test]
    fn what_is_compressed_cut_off_or_too_long_is_not_read() {
        let mut long = [vec![63; 64], vec![63; 64], vec![63; 64], vec![62; 63]].concat();
        long.push(0);
        assert_eq!((long.len(), read(&long).is_some()), (256, false));
        for wire in [&b""[..], b"\x02gw", b"\x02gw\xc0\x0c", b"\x40", b"\x05abc\0"] {
            assert_eq!(read(wire), None, "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn only_letters_change(octets: [u8; 8]) {
            let lowered = lower(u64::from_le_bytes(octets)).to_le_bytes();
            prop_assert_eq!(lowered.to_vec(), octets.to_ascii_lowercase());
        }

        #[test]
        fn nothing_left_over_from_a_longer_name_counts(first: Vec<u8>, second: Vec<u8>) {
            let mut key = Key::default();
            key.read(&first);
            let after = key.read(&second).map(|_| (hash(key.octets()), key.octets().to_vec()));
            prop_assert_eq!(after.clone().map(|it| it.1), read(&second));
            prop_assert_eq!(after.map(|it| it.0), read(&second).map(|name| hash(&name)));
        }
    }
}
