//! Whether octets are what a type's data is on the wire.
//!
//! Data in the form for unknown types (RFC 3597 §5) may be written for every type. Where the type is known, octets that
//! do not fit it would make a malformed message, so they are an error. Checked is what a reader of the
//! message depends on: lengths, names, and lists that end with the data. What a value means is not.

use super::{
    types::{self, Field},
    wire::{name, take, u8, u16, u32},
};

const SSHFP: u16 = 44;

/// True if the octets can be data of the type, or if nothing is known of it.
pub(crate) fn fits(record_type: u16, data: &[u8]) -> bool {
    // The fingerprint of SSHFP may have any length, as RFC 4255 §3.1.3 leaves it to its kind. NSD and BIND load one of
    // no octets, too.
    if record_type == SSHFP {
        return data.len() >= 2;
    }
    let Some(fields) = types::shape(record_type).and_then(|shape| shape.fields) else { return true };
    let mut rest = data;
    fields.iter().try_for_each(|field| skip(*field, &mut rest)).is_some() && rest.is_empty()
}

/// Goes past one field; `None` if it is not there.
fn skip(field: Field, rest: &mut &[u8]) -> Option<()> {
    match field {
        Field::U8 | Field::Algorithm | Field::Scheme => u8(rest).map(drop),
        Field::U16 | Field::CertKind | Field::Type => u16(rest).map(drop),
        Field::U32 | Field::Period | Field::Moment | Field::Ip4 => u32(rest).map(drop),
        Field::U64 | Field::Locator => take(rest, 8).map(drop),
        Field::Ip6 => take(rest, 16).map(drop),
        Field::Eui(octets) => take(rest, octets).map(drop),
        Field::Name => name(rest).map(drop),
        Field::Text | Field::Salt => counted(rest).map(drop),
        Field::Tag | Field::Hash => counted(rest).filter(|it| !it.is_empty()).map(drop),
        Field::Texts => some(rest, |rest| counted(rest).map(drop)),
        Field::Rest | Field::KeyOrNothing | Field::Base64OrDash => end(rest, |_| true),
        Field::Hex | Field::Base64 | Field::Nsap | Field::Atm => end(rest, |it| !it.is_empty()),
        Field::Types => types_listed(rest),
        Field::Params => params(rest),
        Field::Location => end(rest, location),
        // An address and a protocol, then a bit for each port.
        Field::Services => end(rest, |it| (5..=5 + 8_192).contains(&it.len())),
        Field::Prefixes => all(rest, prefix),
        Field::Gateway => {
            let [_, kind, _] = take(rest, 3)? else { return None };
            endpoint(*kind, rest)?;
            end(rest, |_| true)
        }
        Field::Relay => {
            let [_, kind] = take(rest, 2)? else { return None };
            // Of other kinds nothing is known.
            if kind & 0x7f > 3 { end(rest, |_| true) } else { endpoint(kind & 0x7f, rest) }
        }
        Field::HostIdentity => {
            let (tag, _, key) = (u8(rest)?, u8(rest)?, u16(rest)?);
            take(rest, tag.into()).filter(|it| !it.is_empty())?;
            take(rest, key.into()).filter(|it| !it.is_empty())?;
            all(rest, |rest| name(rest).map(drop))
        }
        Field::Prefixed => {
            let prefix = u8(rest).filter(|bits| *bits <= 128)?;
            take(rest, usize::from((128 - prefix).div_ceil(8)))?;
            if prefix > 0 { name(rest).map(drop) } else { Some(()) }
        }
        // The first bit means that the rest has another form (RFC 2535 §5.2).
        Field::OldTypes => end(rest, |it| it.len() <= 16 || it.first().is_some_and(|it| it & 0x80 != 0)),
    }
}

fn counted<'w>(rest: &mut &'w [u8]) -> Option<&'w [u8]> {
    let octets = u8(rest)?;
    take(rest, octets.into())
}

/// All that is left, if it is right.
fn end(rest: &mut &[u8], right: impl FnOnce(&[u8]) -> bool) -> Option<()> {
    right(std::mem::take(rest)).then_some(())
}

/// Items up to the end, perhaps none.
fn all(rest: &mut &[u8], mut item: impl FnMut(&mut &[u8]) -> Option<()>) -> Option<()> {
    while !rest.is_empty() {
        item(rest)?;
    }
    Some(())
}

/// Items up to the end, at least one.
fn some(rest: &mut &[u8], mut item: impl FnMut(&mut &[u8]) -> Option<()>) -> Option<()> {
    item(rest)?;
    all(rest, item)
}

/// Windows in ascending order, each of 1 to 32 octets (RFC 4034 §4.1.2).
fn types_listed(rest: &mut &[u8]) -> Option<()> {
    let mut before = None;
    all(rest, |rest| {
        let window = u8(rest).filter(|window| before.is_none_or(|before| before < *window))?;
        before = Some(window);
        counted(rest).filter(|bits| (1..=32).contains(&bits.len())).map(drop)
    })
}

/// Parameters in ascending order, each once (RFC 9460 §2.2).
fn params(rest: &mut &[u8]) -> Option<()> {
    let mut before = None;
    all(rest, |rest| {
        let key = u16(rest).filter(|key| before.is_none_or(|before| before < *key))?;
        before = Some(key);
        let octets = u16(rest)?;
        let value = take(rest, octets.into())?;
        let right = match key {
            0 => !value.is_empty() && value.len() % 2 == 0,
            1 => {
                let id = |rest: &mut &[u8]| counted(rest).filter(|id| !id.is_empty()).map(drop);
                some(&mut &*value, id).is_some()
            }
            2 => value.is_empty(),
            3 => value.len() == 2,
            4 => !value.is_empty() && value.len() % 4 == 0,
            6 => !value.is_empty() && value.len() % 16 == 0,
            _ => true,
        };
        right.then_some(())
    })
}

/// Of version 0 (RFC 1876 §2); of others nothing is known.
fn location(data: &[u8]) -> bool {
    match data {
        [0, rest @ ..] => rest.len() == 15,
        [_, ..] => true,
        [] => false,
    }
}

/// One prefix (RFC 3123 §4).
fn prefix(rest: &mut &[u8]) -> Option<()> {
    let (family, length, octets) = (u16(rest)?, u8(rest)?, u8(rest)? & 0x7f);
    let (longest, most) = match family {
        1 => (32, 4),
        2 => (128, 16),
        _ => (u8::MAX, 0x7f),
    };
    take(rest, octets.into()).filter(|_| length <= longest && octets <= most).map(drop)
}

/// A gateway or a relay: nothing, an address of either family, or a name.
fn endpoint(kind: u8, rest: &mut &[u8]) -> Option<()> {
    match kind {
        0 => Some(()),
        1 => take(rest, 4).map(drop),
        2 => take(rest, 16).map(drop),
        3 => name(rest).map(drop),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(kind: &str, hex: &str) -> bool {
        fits(
            types::number(kind).unwrap(),
            &super::super::cursor::hex(hex.replace(' ', "").as_bytes()).unwrap(),
        )
    }

    #[test]
    fn octets_of_a_known_type_are_of_its_form() {
        for (kind, good) in [
            ("MX", "000a 00"),
            ("SRV", "0000 0000 0000 0161 00"),
            ("HINFO", "00 00"),
            ("TXT", "00"),
            ("SSHFP", "0000"),
            ("HTTPS", "0001 00 0001 0003 026832 0004 0004 c0000201"),
            ("HTTPS", "0000 0161 00"),
            ("CSYNC", "00000001 0003"),
            ("CSYNC", "00000001 0003 0001 40 0101 40"),
            ("APL", ""),
            ("APL", "0001 15 03 c0a820"),
            ("IPSECKEY", "0a 00 00"),
            ("IPSECKEY", "0a 03 02 00 0102"),
            ("AMTRELAY", "0a 80"),
            ("HIP", "01 02 0001 aa bb 00"),
            ("A6", "00 20010db8000000000000000000000001"),
            ("A6", "80 00"),
            ("WKS", "c0000201 06"),
            ("KEY", "0000 00 00"),
            ("TYPE65280", "c00c"),
            ("NULL", ""),
        ] {
            assert!(fit(kind, good), "{kind} {good}");
        }
        for (kind, bad) in [
            ("A", "00"),
            ("MX", "00"),
            ("MX", "0001 c00c"),
            ("MX", "0001 00 00"),
            ("CNAME", ""),
            ("SRV", "0001 c00c"),
            ("HINFO", "00"),
            ("TXT", ""),
            ("SSHFP", "00"),
            ("TXT", "05 61"),
            ("HTTPS", "0001 00 0001 0003 0268"),
            ("HTTPS", "0001 00 0003 0001 00"),
            ("HTTPS", "0001 00 0003 0002 0035 0001 0003 026832"),
            ("CSYNC", "00000001 0003 0101 40 0001 40"),
            ("CSYNC", "00000001 0003 0000"),
            ("APL", "0001 21 00"),
            ("IPSECKEY", "0a 01 00 c000"),
            ("AMTRELAY", "0a 01"),
            ("HIP", "01 02 0001 aa"),
            ("A6", "81 00"),
            ("WKS", "c0000201"),
            ("LOC", "00"),
            ("EUI48", "00"),
            ("URI", "000a"),
            ("TLSA", "03"),
        ] {
            assert!(!fit(kind, bad), "{kind} {bad}");
        }
    }
}
