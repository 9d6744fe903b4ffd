//! Wire octets into the model's record data.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{DomainName, RecordData};

/// Data of one type; `None` if the octets cannot be that. What the model's own variants cannot hold (the root as
/// a target, text that is not UTF-8) stays as octets, if nothing depends on its meaning.
pub(super) fn data(record_type: u16, wire: Vec<u8>) -> Option<RecordData> {
    let known = match record_type {
        1 => return Some(RecordData::A(Ipv4Addr::from(<[u8; 4]>::try_from(wire).ok()?))),
        28 => return Some(RecordData::Aaaa(Ipv6Addr::from(<[u8; 16]>::try_from(wire).ok()?))),
        2 => return only_name(&wire).map(RecordData::Ns),
        5 => return only_name(&wire).map(RecordData::Cname),
        12 => host(&wire).map(RecordData::Ptr),
        super::ALIAS => return host(&wire).map(RecordData::Alias),
        39 => return only_name(&wire).map(RecordData::Dname),
        15 => mail(&wire),
        16 => strings(&wire)?
            .into_iter()
            .map(|it| String::from_utf8(it).ok())
            .collect::<Option<_>>()
            .map(RecordData::Txt),
        33 => service(&wire),
        257 => property(&wire),
        _ => None,
    };
    Some(known.unwrap_or(RecordData::Other { record_type, data: wire }))
}

/// How many octets a digest has, and how many one of its type has where that is known: of DS and its like
/// (RFC 4509, RFC 6605), and of SSHFP (RFC 4255, RFC 6594). Resolvers refuse others as malformed.
pub(super) fn digest(record_type: u16, wire: &[u8]) -> Option<(usize, usize)> {
    let ((43 | 59 | 32_769, [_, _, _, kind, digest @ ..]) | (44, [_, kind, digest @ ..])) =
        (record_type, wire)
    else {
        return None;
    };
    let right = match (kind, record_type) {
        (1, _) => 20,
        (2, _) => 32,
        (4, 43 | 59 | 32_769) => 48,
        _ => return None,
    };
    Some((digest.len(), right))
}

pub(super) fn take<'w>(rest: &mut &'w [u8], octets: usize) -> Option<&'w [u8]> {
    let (taken, after) = rest.split_at_checked(octets)?;
    *rest = after;
    Some(taken)
}

pub(super) fn u8(rest: &mut &[u8]) -> Option<u8> {
    take(rest, 1)?.first().copied()
}

pub(super) fn u16(rest: &mut &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(take(rest, 2)?.try_into().ok()?))
}

pub(super) fn u32(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

/// A name without compression.
pub(super) fn name(rest: &mut &[u8]) -> Option<DomainName> {
    let mut labels = Vec::new();
    loop {
        match u8(rest)? {
            0 => break,
            octets => labels.push(take(rest, octets.into())?),
        }
    }
    if labels.is_empty() { Some(DomainName::root()) } else { DomainName::from_labels(labels).ok() }
}

fn only_name(mut wire: &[u8]) -> Option<DomainName> {
    name(&mut wire).filter(|_| wire.is_empty())
}

/// As [`only_name`], but not the root.
fn host(wire: &[u8]) -> Option<DomainName> {
    only_name(wire).filter(|name| !name.is_root())
}

fn mail(mut wire: &[u8]) -> Option<RecordData> {
    let (preference, exchange) = (u16(&mut wire)?, host(wire)?);
    Some(RecordData::Mx { preference, exchange })
}

fn service(mut wire: &[u8]) -> Option<RecordData> {
    let (priority, weight, port) = (u16(&mut wire)?, u16(&mut wire)?, u16(&mut wire)?);
    Some(RecordData::Srv { priority, weight, port, target: host(wire)? })
}

fn strings(mut wire: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    while !wire.is_empty() {
        let octets = u8(&mut wire)?;
        strings.push(take(&mut wire, octets.into())?.to_vec());
    }
    Some(strings).filter(|strings| !strings.is_empty())
}

fn property(mut wire: &[u8]) -> Option<RecordData> {
    let (flags, octets) = (u8(&mut wire)?, u8(&mut wire)?);
    let tag = String::from_utf8(take(&mut wire, octets.into())?.to_vec()).ok()?;
    let fits = !tag.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric());
    let value = String::from_utf8(wire.to_vec()).ok()?;
    fits.then_some(RecordData::Caa { flags, tag, value })
}
