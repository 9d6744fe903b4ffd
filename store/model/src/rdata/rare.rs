//! Record data of types that are seldom seen, each with a form of its own: services, prefixes, gateways, relays,
//! host identities and addresses of other networks.
//!
//! They are apart from `read`, so that what nearly every zone holds can be read there without them.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Wrong, assigned,
    cursor::{Cursor, hex, whole},
    types,
};

/// Four groups of up to four hexadecimal digits (RFC 6742 §2.1.1); no `::`.
pub(super) fn locator(text: &str) -> Option<[u8; 8]> {
    let mut out = Vec::with_capacity(8);
    for group in text.split(':') {
        let digits = group.bytes().all(|b| b.is_ascii_hexdigit()) && (1..=4).contains(&group.len());
        out.extend(digits.then(|| u16::from_str_radix(group, 16).ok())??.to_be_bytes());
    }
    out.try_into().ok()
}

/// `0x` and hexadecimal digits with dots anywhere (RFC 1706 §5).
pub(super) fn nsap(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?.replace('.', "");
    hex(digits.as_bytes()).filter(|it| !it.is_empty())
}

/// An ATM address: format 1 with digits behind a `+`, or format 0 in hexadecimal.
pub(super) fn atm(text: &str) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix('+') {
        let digits = digits.replace('.', "");
        let fits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        return fits.then(|| [&[1], digits.as_bytes()].concat());
    }
    let octets = hex(text.replace('.', "").as_bytes()).filter(|it| !it.is_empty())?;
    Some([&[0], &*octets].concat())
}

/// One prefix (RFC 3123 §4): family, length, negation and the address without its trailing zeros.
fn prefix(text: &str) -> Option<Vec<u8>> {
    let (negated, text) = text.strip_prefix('!').map_or((0, text), |rest| (0x80, rest));
    let (family, rest) = text.split_once(':')?;
    let (address, length) = rest.split_once('/')?;
    let (family, length) = (whole(family)?, u8::try_from(whole(length)?).ok()?);
    let (mut octets, most) = match family {
        1 => (address.parse::<Ipv4Addr>().ok()?.octets().to_vec(), 32),
        2 => (address.parse::<Ipv6Addr>().ok()?.octets().to_vec(), 128),
        _ => return None,
    };
    while octets.pop_if(|last| *last == 0).is_some() {}
    let count = u8::try_from(octets.len()).ok().filter(|_| length <= most)?;
    let family = u16::try_from(family).ok()?.to_be_bytes();
    Some([&family[..], &[length, negated | count], &octets].concat())
}

/// A number, by its name or as it is.
fn known(named: Option<u16>, text: &str) -> Option<u16> {
    named.or_else(|| u16::try_from(whole(text)?).ok())
}

impl Cursor<'_, '_, '_> {
    /// One word by a function of its text that gives any number of octets.
    pub(super) fn rare(&mut self, expected: &str, read: fn(&str) -> Option<Vec<u8>>) -> Result<(), Wrong> {
        let octets = self.by(expected, read)?;
        self.out.extend(octets);
        Ok(())
    }

    const fn is_at_end(&self) -> bool {
        self.at >= self.words.len()
    }

    /// All of the words that are left as base64, or nothing, which may be written `-`.
    pub(super) fn perhaps_base64(&mut self) -> Result<(), Wrong> {
        if self.is_at_end() {
            return Ok(());
        }
        if self.words.get(self.at).is_some_and(|word| word.is("-")) {
            self.at += 1;
            return Ok(());
        }
        self.run("base64", |text| STANDARD.decode(text).ok())
    }

    pub(super) fn services(&mut self) -> Result<(), Wrong> {
        self.fixed("an IPv4 address", |text| Some(text.parse::<Ipv4Addr>().ok()?.octets()))?;
        let protocol = self.by("a protocol: TCP, UDP or a number up to 255", |text| {
            u8::try_from(known(assigned::protocol(text), text)?).ok()
        })?;
        self.out.push(protocol);
        let mut bits = Vec::new();
        while !self.is_at_end() {
            let port =
                self.by("a port, or the name of a service", |text| known(assigned::service(text), text))?;
            let (octet, bit) = (usize::from(port >> 3), 0x80 >> (port & 7));
            if bits.len() <= octet {
                bits.resize(octet + 1, 0);
            }
            if let Some(place) = bits.get_mut(octet) {
                *place |= bit;
            }
        }
        self.out.extend(bits);
        Ok(())
    }

    pub(super) fn prefixes(&mut self) -> Result<(), Wrong> {
        while !self.is_at_end() {
            self.rare("a prefix: 1:192.0.2.0/24, 2:2001:db8::/32, or with a ! before it", prefix)?;
        }
        Ok(())
    }

    /// A gateway or a relay of one of four types: nothing, an address of either family, or a name.
    fn endpoint(&mut self, kind: u8) -> Result<(), Wrong> {
        match kind {
            0 => self.by(". where there is none", |text| (text == ".").then_some(())),
            1 => self.fixed("an IPv4 address", |text| Some(text.parse::<Ipv4Addr>().ok()?.octets())),
            2 => self.fixed("an IPv6 address", |text| Some(text.parse::<Ipv6Addr>().ok()?.octets())),
            _ => self.name(),
        }
    }

    pub(super) fn gateway(&mut self) -> Result<(), Wrong> {
        self.number(u8::MAX.into(), 1)?;
        self.number(3, 1)?;
        let kind = self.out.last().copied().unwrap_or_default();
        self.number(u8::MAX.into(), 1)?;
        self.endpoint(kind)?;
        self.perhaps_base64()
    }

    pub(super) fn relay(&mut self) -> Result<(), Wrong> {
        self.number(u8::MAX.into(), 1)?;
        let discovery = self.by("0 or 1", |text| whole(text).filter(|bit| *bit < 2))?;
        let kind = self.by("a relay's type from 0 to 3", |text| whole(text).filter(|kind| *kind < 4))?;
        let kind = kind.to_be_bytes()[3];
        self.out.push(if discovery == 1 { 0x80 | kind } else { kind });
        if kind == 0 && self.is_at_end() {
            return Ok(());
        }
        self.endpoint(kind)
    }

    pub(super) fn host_identity(&mut self) -> Result<(), Wrong> {
        let algorithm = self.by("a whole number from 0 to 255", |text| u8::try_from(whole(text)?).ok())?;
        let fits = |octets: &Vec<u8>| (1..=255).contains(&octets.len());
        let tag = self.by("an identity tag in hexadecimal", |text| hex(text.as_bytes()).filter(fits))?;
        let key =
            self.by("a key in base64", |text| STANDARD.decode(text).ok().filter(|it| !it.is_empty()))?;
        // A tag has at most 255 octets, and words are shorter than 2^16 where the data fits a record.
        self.out.extend([u8::try_from(tag.len()).unwrap_or(u8::MAX), algorithm]);
        self.out.extend(u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.out.extend(tag);
        self.out.extend(key);
        while !self.is_at_end() {
            self.name()?;
        }
        Ok(())
    }

    pub(super) fn prefixed(&mut self) -> Result<(), Wrong> {
        self.number(128, 1)?;
        let length = usize::from(self.out.last().copied().unwrap_or_default());
        if length < 128 {
            let address = self.by("an IPv6 address", |text| text.parse::<Ipv6Addr>().ok())?;
            let mut octets = address.octets();
            // The bits of the prefix are the other name's.
            let first = length / 8;
            octets[first] &= 0xff >> (length % 8);
            self.out.extend(octets.iter().skip(first));
        }
        if length > 0 { self.name() } else { Ok(()) }
    }

    pub(super) fn old_types(&mut self) -> Result<(), Wrong> {
        let mut bits = [0_u8; 16];
        let mut used = 0;
        while !self.is_at_end() {
            let number =
                self.by("a record type below 128", |text| types::number(text).filter(|it| *it < 128))?;
            let octet = usize::from(number >> 3);
            if let Some(place) = bits.get_mut(octet) {
                *place |= 0x80 >> (number & 7);
            }
            used = used.max(octet + 1);
        }
        self.out.extend(bits.iter().take(used));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_lose_their_trailing_zeros() {
        assert_eq!(prefix("1:192.168.32.0/21").unwrap(), [0, 1, 21, 3, 192, 168, 32]);
        assert_eq!(prefix("!1:192.168.38.0/28").unwrap(), [0, 1, 28, 0x83, 192, 168, 38]);
        assert_eq!(prefix("2:FF00::/8").unwrap(), [0, 2, 8, 1, 0xff]);
        assert_eq!(prefix("1:0.0.0.0/0").unwrap(), [0, 1, 0, 0]);
        for bad in ["", "1:192.0.2.0", "1:192.0.2.0/33", "3:AB/8", "1:2001:db8::/32", "x:192.0.2.0/24"] {
            assert_eq!(prefix(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_of_other_networks() {
        assert_eq!(nsap("0x47.0005").unwrap(), [0x47, 0, 5]);
        assert_eq!(nsap("47"), None);
        assert_eq!(nsap("0x"), None);
        assert_eq!(atm("+61.2").unwrap(), b"\x01612");
        assert_eq!(atm("39.0a").unwrap(), [0, 0x39, 0x0a]);
        assert_eq!(atm("+"), None);
        assert_eq!(locator("14:4fff:ff20:ee64").unwrap(), [0, 0x14, 0x4f, 0xff, 0xff, 0x20, 0xee, 0x64]);
        for bad in ["2001:db8::1", "1:2:3", "1:2:3:4:5", "12345:1:1:1", "+1:1:1:1"] {
            assert_eq!(locator(bad), None, "{bad}");
        }
    }
}
