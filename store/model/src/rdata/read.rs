//! Words into wire octets, field by field.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Unfit, Wrong,
    cursor::{Cursor, hex, whole},
    location, rare, service,
    types::{self, Field},
};

impl Cursor<'_, '_, '_> {
    /// One word's octets without escapes.
    fn unescaped(&mut self, expected: &str) -> Result<Vec<u8>, Wrong> {
        let octets = self.word(expected)?.octets();
        octets
            .ok_or_else(|| self.unfit("text whose backslashes have three digits up to 255, or one character"))
    }

    pub(super) fn field(&mut self, field: Field) -> Result<(), Wrong> {
        match field {
            Field::U8 => self.number(u8::MAX.into(), 1),
            Field::U16 => self.number(u16::MAX.into(), 2),
            Field::U32 => self.number(u32::MAX, 4),
            Field::Period => self.period(),
            Field::Ip4 => self.fixed("an IPv4 address", |text| Some(text.parse::<Ipv4Addr>().ok()?.octets())),
            Field::Ip6 => self.fixed("an IPv6 address", |text| Some(text.parse::<Ipv6Addr>().ok()?.octets())),
            Field::Name => self.name(),
            Field::Text => self.text(),
            Field::Texts => self.texts(),
            Field::Tag => self.tag(),
            Field::Rest => {
                let rest = self.unescaped("a text in quotes")?;
                self.out.extend(rest);
                Ok(())
            }
            Field::Hex => self.run("hexadecimal digits, two for each octet", |text| hex(&text)),
            Field::Base64 => self.run("base64", |text| STANDARD.decode(text).ok()),
            Field::Salt => self.counted("hexadecimal digits, or -", |text| {
                if text == "-" { Some(Vec::new()) } else { hex(text.as_bytes()) }
            }),
            Field::Hash => self.counted("base32hex", base32hex),
            Field::Algorithm => self.named("an algorithm's number or mnemonic", types::ALGORITHMS, 1),
            Field::CertKind => self.named("a certificate kind's number or mnemonic", types::CERT_KINDS, 2),
            Field::Type => self.fixed("a record type", |text| Some(types::number(text)?.to_be_bytes())),
            Field::Types => self.types(),
            Field::Moment => {
                self.fixed("a moment: YYYYMMDDHHmmSS, or seconds", |text| Some(moment(text)?.to_be_bytes()))
            }
            Field::Eui(octets) => {
                let expected = format!("{octets} octets in hexadecimal, parted by -");
                let read = self.by(&expected, |text| eui(text, octets))?;
                self.out.extend(read);
                Ok(())
            }
            Field::Params => self.params(),
            Field::Location => self.location(),
            Field::KeyOrNothing | Field::Base64OrDash => self.perhaps_base64(),
            Field::U64 => self.fixed("a whole number", |text| {
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                Some(digits.then(|| text.parse::<u64>().ok())??.to_be_bytes())
            }),
            Field::Scheme => self.named("NOTIFY, or a number", types::SCHEMES, 1),
            Field::Locator => {
                self.fixed("four groups of hexadecimal digits: 14:4fff:ff20:ee64", rare::locator)
            }
            Field::Nsap => self.rare("0x and hexadecimal digits", rare::nsap),
            Field::Atm => self.rare("+ and digits, or hexadecimal digits", rare::atm),
            Field::Services => self.services(),
            Field::Prefixes => self.prefixes(),
            Field::Gateway => self.gateway(),
            Field::Relay => self.relay(),
            Field::HostIdentity => self.host_identity(),
            Field::Prefixed => self.prefixed(),
            Field::OldTypes => self.old_types(),
        }
    }

    fn period(&mut self) -> Result<(), Wrong> {
        let secs = self.by("a time in seconds, or such as 1h30m", |text| period(text.as_bytes()))?;
        self.out.extend(secs.to_be_bytes());
        Ok(())
    }

    fn text(&mut self) -> Result<(), Wrong> {
        let octets = self.unescaped("a text in quotes")?;
        self.push_counted(&octets, "a string of at most 255 octets")
    }

    fn texts(&mut self) -> Result<(), Wrong> {
        self.text()?;
        while self.at < self.words.len() {
            self.text()?;
        }
        Ok(())
    }

    fn tag(&mut self) -> Result<(), Wrong> {
        let expected = "a tag of letters and digits such as issue, issuewild or iodef";
        let fits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        let tag = self.by(expected, |text| Some(text.to_owned()).filter(|text| fits(text)))?;
        self.push_counted(tag.as_bytes(), expected)
    }

    fn counted(&mut self, expected: &str, read: impl FnOnce(&str) -> Option<Vec<u8>>) -> Result<(), Wrong> {
        let octets = self.by(expected, read)?;
        self.push_counted(&octets, expected)
    }

    fn named(&mut self, expected: &str, names: &[(&str, u16)], octets: usize) -> Result<(), Wrong> {
        let most = if octets == 1 { u8::MAX.into() } else { u16::MAX.into() };
        let number = self.by(expected, |text| {
            let named = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
            named.map(|(_, number)| u32::from(*number)).or_else(|| whole(text)).filter(|n| *n <= most)
        })?;
        self.out.extend(number.to_be_bytes().iter().skip(4 - octets));
        Ok(())
    }

    fn types(&mut self) -> Result<(), Wrong> {
        let mut listed = Vec::new();
        while self.at < self.words.len() {
            listed.push(self.by("a record type", types::number)?);
        }
        self.out.extend(bitmap(listed));
        Ok(())
    }

    fn params(&mut self) -> Result<(), Wrong> {
        let mut params = service::Params::default();
        while self.at < self.words.len() {
            let word = self.word("a parameter")?;
            params.add(word).map_err(|what| Wrong { word: Some(self.at - 1), what })?;
        }
        let octets = params.octets().map_err(|what| Wrong { word: Some(self.at.saturating_sub(1)), what })?;
        self.out.extend(octets);
        Ok(())
    }

    fn location(&mut self) -> Result<(), Wrong> {
        let texts: Vec<String> = self.words.iter().map(|word| word.as_str().into_owned()).collect();
        let octets = location::octets(&texts).map_err(|(word, expected)| {
            self.at = word + 1;
            self.unfit(expected)
        })?;
        self.out.extend(octets);
        self.at = self.words.len();
        Ok(())
    }

    /// `\# LEN HEX` (RFC 3597 §5).
    pub(super) fn unknown(&mut self) -> Result<(), Wrong> {
        self.word(r"\#")?;
        let expected = "the number of octets, 0 to 65535";
        let count = self.by(expected, |text| whole(text).filter(|n| *n <= u16::MAX.into()))?;
        if count > 0 {
            self.run("hexadecimal digits, two for each octet", |text| hex(&text))?;
        }
        if self.out.len() as u64 != u64::from(count) {
            let problem = format!("{count} octets are announced, and there are {}", self.out.len());
            return Err(Wrong {
                word: Some(1),
                what: Unfit { problem, expected: "their number".to_owned() },
            });
        }
        Ok(())
    }
}

/// Seconds of a time such as `3600`, `1h30m` or `2W`; `None` if it is none, or above 2^32-1.
#[must_use]
pub fn period(text: &[u8]) -> Option<u32> {
    let (mut total, mut number, mut unit_last) = (0_u32, None, false);
    for octet in text {
        let scale = match octet.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                let before = number.unwrap_or(0_u32).checked_mul(10)?;
                number = Some(before.checked_add(u32::from(digit - b'0'))?);
                unit_last = false;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total = number.take()?.checked_mul(scale)?.checked_add(total)?;
        unit_last = true;
    }
    match number {
        Some(seconds) => total.checked_add(seconds),
        None => Some(total).filter(|_| unit_last),
    }
}

fn eui(text: &str, octets: usize) -> Option<Vec<u8>> {
    // As BIND and NSD, each part of one digit or two.
    let part = |part: &str| {
        let digits = matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(part, 16).ok())?
    };
    let read: Vec<u8> = text.split('-').map(part).collect::<Option<_>>()?;
    Some(read).filter(|read| read.len() == octets)
}

fn base32hex(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for c in text.chars() {
        held = (held << 5 | c.to_digit(32)?) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    Some(out).filter(|out| !out.is_empty())
}

/// Seconds since 1970, in 32 bits that wrap (RFC 4034 §3.1.5).
fn moment(text: &str) -> Option<u32> {
    if text.len() != 14 {
        return whole(text);
    }
    let part = |from: usize, to: usize| text.get(from..to).and_then(whole);
    let small = |from: usize| i8::try_from(part(from, from + 2)?).ok();
    let year = i16::try_from(part(0, 4)?).ok()?;
    let at =
        jiff::civil::DateTime::new(year, small(4)?, small(6)?, small(8)?, small(10)?, small(12)?, 0).ok()?;
    let seconds = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    u32::try_from(seconds.rem_euclid(1 << 32)).ok()
}

/// The types' windows (RFC 4034 §4.1.2).
fn bitmap(mut types: Vec<u16>) -> Vec<u8> {
    types.sort_unstable();
    let mut out = Vec::new();
    for window in types.chunk_by(|a, b| a >> 8 == b >> 8) {
        let mut bits = [0_u8; 32];
        let mut used = 0_u8;
        for number in window {
            let [_, low] = number.to_be_bytes();
            if let Some(octet) = bits.get_mut(usize::from(low >> 3)) {
                *octet |= 0x80 >> (low & 7);
            }
            used = (low >> 3) + 1;
        }
        let high = window.first().map_or(0, |number| number.to_be_bytes()[0]);
        out.extend([high, used]);
        out.extend(bits.iter().take(used.into()));
    }
    out
}
