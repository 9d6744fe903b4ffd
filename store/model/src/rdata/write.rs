//! Wire octets in presentation form, by the same table; types that the table does not describe, and octets that do not fit
//! their type, in the form for unknown types (RFC 3597 §5).

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use data_encoding::HEXLOWER;

use super::{
    Scanner, octets,
    types::{self, Field},
    wire,
};
use crate::DomainName;

/// The data of a type; names in full, with a dot at their end. Reading it gives the same octets.
#[must_use]
pub fn text(record_type: u16, data: &[u8]) -> String {
    // ALIAS never is on the wire, so octets with its number are data of another type. Written as a name, they would be
    // read as an ALIAS.
    let shape = types::shape(record_type).filter(|_| record_type != super::ALIAS);
    let fields = shape.and_then(|shape| shape.fields);
    let shown = fields.and_then(|fields| Shown::all(fields, data));
    // Some octets, such as a bitmap with empty windows, have a form that would be read as other octets.
    shown.filter(|text| again(record_type, text).as_deref() == Some(data)).unwrap_or_else(|| unknown(data))
}

fn again(record_type: u16, text: &str) -> Option<Vec<u8>> {
    let words = Scanner::data(text.as_bytes()).next()?.ok()?.words;
    let mut names = |word: &super::Word<'_>| {
        DomainName::below(None, word.text).map_err(|expected| super::Unfit::new(word, expected.to_string()))
    };
    octets(record_type, &words, &mut names).ok()
}

fn unknown(data: &[u8]) -> String {
    let space = if data.is_empty() { "" } else { " " };
    format!("\\# {}{space}{}", data.len(), hex(data))
}

fn hex(data: &[u8]) -> String {
    HEXLOWER.encode(data)
}

/// A character string in quotes, everything unusual escaped.
fn quoted(data: &[u8]) -> String {
    let mut out = String::from('"');
    for &octet in data {
        match octet {
            b'"' | b'\\' => out.extend(['\\', char::from(octet)]),
            b' '..=b'~' => out.push(char::from(octet)),
            other => {
                let _ = write!(out, "\\{other:03}");
            }
        }
    }
    out.push('"');
    out
}

/// Words written so far, and the octets that are left.
struct Shown<'w> {
    words: Vec<String>,
    rest: &'w [u8],
}

impl<'w> Shown<'w> {
    fn all(fields: &[Field], data: &'w [u8]) -> Option<String> {
        let mut shown = Self { words: Vec::new(), rest: data };
        fields.iter().try_for_each(|field| shown.field(*field))?;
        shown.rest.is_empty().then(|| shown.words.join(" "))
    }

    fn push_word(&mut self, word: impl ToString) -> Option<()> {
        self.words.push(word.to_string());
        Some(())
    }

    /// The rest of the octets as one word; at least one octet must be left.
    fn rest(&mut self, show: impl FnOnce(&[u8]) -> String) -> Option<()> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { None } else { self.push_word(show(rest)) }
    }

    fn counted(&mut self) -> Option<&'w [u8]> {
        let octets = wire::u8(&mut self.rest)?;
        wire::take(&mut self.rest, octets.into())
    }

    fn field(&mut self, field: Field) -> Option<()> {
        match field {
            Field::U8 | Field::Algorithm => {
                let number = wire::u8(&mut self.rest)?;
                self.push_word(number)
            }
            Field::U16 | Field::CertKind => {
                let number = wire::u16(&mut self.rest)?;
                self.push_word(number)
            }
            Field::U32 | Field::Period | Field::Moment => {
                let number = wire::u32(&mut self.rest)?;
                self.push_word(number)
            }
            Field::Type => {
                let number = wire::u16(&mut self.rest)?;
                self.push_word(types::mnemonic(number))
            }
            Field::Ip4 => {
                let ip: [u8; 4] = wire::take(&mut self.rest, 4)?.try_into().ok()?;
                self.push_word(Ipv4Addr::from(ip))
            }
            Field::Ip6 => {
                let ip: [u8; 16] = wire::take(&mut self.rest, 16)?.try_into().ok()?;
                self.push_word(Ipv6Addr::from(ip))
            }
            Field::Name => self.name(),
            Field::Text => {
                let text = self.counted()?;
                self.push_word(quoted(text))
            }
            Field::Texts => {
                while !self.rest.is_empty() {
                    self.field(Field::Text)?;
                }
                Some(())
            }
            Field::Tag => {
                let tag = std::str::from_utf8(self.counted()?).ok()?;
                self.push_word(tag)
            }
            Field::Rest => {
                let rest = std::mem::take(&mut self.rest);
                self.push_word(quoted(rest))
            }
            Field::Hex => self.rest(hex),
            Field::Base64 => self.rest(|rest| STANDARD.encode(rest)),
            Field::Salt => {
                let salt = self.counted()?;
                self.push_word(if salt.is_empty() { "-".to_owned() } else { hex(salt) })
            }
            Field::Types => self.types(),
            Field::Eui(octets) => {
                let octets = wire::take(&mut self.rest, octets)?;
                self.push_word(octets.iter().map(|octet| hex(&[*octet])).collect::<Vec<_>>().join("-"))
            }
            Field::Params => {
                while !self.rest.is_empty() {
                    let (key, octets) = (wire::u16(&mut self.rest)?, wire::u16(&mut self.rest)?);
                    let value = wire::take(&mut self.rest, octets.into())?;
                    self.push_word(param(key, value)?)?;
                }
                Some(())
            }
            Field::KeyOrNothing if self.rest.is_empty() => Some(()),
            Field::Base64OrDash if self.rest.is_empty() => self.push_word("-"),
            Field::KeyOrNothing | Field::Base64OrDash => self.rest(|rest| STANDARD.encode(rest)),
            Field::Nsap => self.rest(|rest| format!("0x{}", hex(rest))),
            Field::Scheme => {
                let number = wire::u8(&mut self.rest)?;
                self.push_word(number)
            }
            // These are rare, so the generic form is enough.
            Field::Hash
            | Field::Location
            | Field::Services
            | Field::Prefixes
            | Field::Atm
            | Field::Gateway
            | Field::Relay
            | Field::HostIdentity
            | Field::Prefixed
            | Field::OldTypes
            | Field::Locator
            | Field::U64 => None,
        }
    }

    fn name(&mut self) -> Option<()> {
        if let [0, rest @ ..] = self.rest {
            self.rest = rest;
            return self.push_word(".");
        }
        let name = wire::name(&mut self.rest)?;
        self.push_word(format!("{name}."))
    }

    fn types(&mut self) -> Option<()> {
        while !self.rest.is_empty() {
            let high = wire::u8(&mut self.rest)?;
            for (at, bits) in (0_u8..=31).zip(self.counted()?) {
                for bit in (0..8).filter(|bit| bits & (0x80_u8 >> bit) != 0) {
                    self.push_word(types::mnemonic(u16::from_be_bytes([high, at * 8 + bit])))?;
                }
            }
        }
        Some(())
    }
}

/// A parameter of a service binding.
fn param(key: u16, value: &[u8]) -> Option<String> {
    let list = |size: usize, show: fn(&[u8]) -> Option<String>| {
        let items: Option<Vec<String>> = value.chunks(size).map(show).collect();
        items.map(|items| items.join(","))
    };
    let name = super::service::name(key);
    let shown = match key {
        _ if value.is_empty() => return Some(name),
        0 => list(2, |pair| Some(super::service::name(u16::from_be_bytes(pair.try_into().ok()?))))?,
        1 => quoted(&protocols(value)?),
        3 => u16::from_be_bytes(value.try_into().ok()?).to_string(),
        4 => list(4, |ip| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?).to_string()))?,
        5 => STANDARD.encode(value),
        6 => list(16, |ip| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?).to_string()))?,
        _ => quoted(value),
    };
    Some(format!("{name}={shown}"))
}

/// Protocols parted by commas; commas and backslashes in them escaped (RFC 9460 appendix A.1).
fn protocols(mut value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !value.is_empty() {
        if !out.is_empty() {
            out.push(b',');
        }
        let octets = wire::u8(&mut value)?;
        for &octet in wire::take(&mut value, octets.into())? {
            if matches!(octet, b',' | b'\\') {
                out.push(b'\\');
            }
            out.push(octet);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_read_prints_as_it_was() {
        let cases = [
            ("HINFO", r#""x86" "a\"b\255""#),
            ("TLSA", "3 1 1 0a0b"),
            ("DS", "12345 13 2 aabb"),
            ("CERT", "1 1 0 AQID"),
            ("CSYNC", "66 3 A NS AAAA TYPE1234"),
            ("NAPTR", r#"100 10 "u" "E2U+sip" "!^.*$!x!" ."#),
            ("URI", r#"10 1 "ftp://a""#),
            ("EUI48", "00-00-5e-00-53-2a"),
            ("NSEC3PARAM", "1 0 12 -"),
            ("RRSIG", "A 13 2 300 1767225600 1 7 x.org. AQID"),
            ("MX", "0 ."),
            ("TXT", r#""\255" """#),
            ("RP", r"a\046b.x.org. ."),
            (
                "HTTPS",
                r#"1 . mandatory=alpn,port alpn="f\\\\oo\\,bar,h2" no-default-alpn port=53 ipv4hint=192.0.2.1,192.0.2.2 ech=AQID ipv6hint=2001:db8::1 key667="a b""#,
            ),
            ("LOC", r"\# 16 0033161389172dd070be15f000988d20"),
            ("TLSA", r"\# 2 0301"),
            ("TYPE65280", r"\# 0"),
            ("TYPE65280", r"\# 2 0a0b"),
        ];
        for (kind, written) in cases {
            let number = types::number(kind).unwrap();
            let data = again(number, written).unwrap_or_else(|| panic!("{kind} {written}"));
            assert_eq!(text(number, &data), written, "{kind}");
        }
    }

    proptest! {
        #[test]
        fn any_octets_read_as_they_print(kind in 0..types::SHAPES.len(), data in proptest::collection::vec(any::<u8>(), 0..40)) {
            let number = types::SHAPES[kind].number;
            prop_assert_eq!(again(number, &text(number, &data)), Some(data));
        }
    }
}
