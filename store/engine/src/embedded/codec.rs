//! Records as bytes. Keys of the KV keep their value as it is (so that it can be found in a trace of the disk);
//! everything else is JSON.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::rows::{Row, RowKey};
use crate::{Index, KvEntry, SessionId};

const DIGEST: usize = 8;

/// A record's name: its kind, the lengths of its two parts, and the parts. No name begins with another.
pub(crate) fn name(key: &RowKey) -> Vec<u8> {
    let (kind, first, second) = match key {
        RowKey::Kv(key) => (b'k', key.as_str(), ""),
        RowKey::Node(node) => (b'n', node.as_str(), ""),
        RowKey::Service(node, id) => (b's', node.as_str(), id.as_str()),
        RowKey::Check(node, id) => (b'c', node.as_str(), id.as_str()),
        RowKey::Session(id) => (b'l', id.as_str(), ""),
    };
    let mut name = vec![kind];
    for part in [first, second] {
        name.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    }
    name.extend_from_slice(first.as_bytes());
    name.extend_from_slice(second.as_bytes());
    name
}

/// A record without its name.
pub(crate) fn encode(row: &Row) -> Vec<u8> {
    match row {
        Row::Kv(entry) => encode_entry(entry),
        Row::Node(row) => json(row.as_ref()),
        Row::Service(row) => json(row.as_ref()),
        Row::Check(row) => json(row.as_ref()),
        Row::Session(row) => json(row.as_ref()),
    }
}

/// A record from its name and bytes; `None` when they are malformed.
pub(crate) fn decode(name: &[u8], body: &[u8]) -> Option<Row> {
    Some(match name.first()? {
        b'k' => Row::Kv(Arc::new(decode_entry(name.get(9..)?, body)?)),
        b'n' => Row::Node(parse(body)?),
        b's' => Row::Service(parse(body)?),
        b'c' => Row::Check(parse(body)?),
        b'l' => Row::Session(parse(body)?),
        _ => return None,
    })
}

fn json(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows have string keys only, so they are always JSON")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Option<Arc<T>> {
    serde_json::from_slice(body).map(Arc::new).ok()
}

fn encode_entry(entry: &KvEntry) -> Vec<u8> {
    let session = entry.session.as_ref().map_or("", |it| it.0.as_str());
    let mut bytes = Vec::with_capacity(33 + session.len() + entry.value.len());
    for number in [entry.flags, entry.create_index.0, entry.modify_index.0, entry.lock_index] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.push(u8::try_from(session.len()).unwrap_or(0));
    bytes.extend_from_slice(session.as_bytes());
    bytes.extend_from_slice(&entry.value);
    bytes
}

fn decode_entry(key: &[u8], body: &[u8]) -> Option<KvEntry> {
    let (numbers, rest) = body.split_first_chunk::<32>()?;
    let number = |at: usize| {
        let octets = numbers.get(at * 8..at * 8 + 8)?;
        octets.try_into().ok().map(u64::from_be_bytes)
    };
    let (length, rest) = rest.split_first()?;
    let (session, value) = rest.split_at_checked(usize::from(*length))?;
    let session = std::str::from_utf8(session).ok()?;
    Some(KvEntry {
        key: String::from_utf8(key.to_vec()).ok()?,
        value: Bytes::copy_from_slice(value),
        flags: number(0)?,
        create_index: Index(number(1)?),
        modify_index: Index(number(2)?),
        lock_index: number(3)?,
        session: (!session.is_empty()).then(|| SessionId(session.to_owned())),
    })
}

/// The first octets of a SHA-256 over a name and its content.
pub(crate) fn digest(name: &[u8], body: &[u8]) -> u64 {
    let whole = Sha256::new().chain_update((name.len() as u64).to_be_bytes()).chain_update(name);
    whole.chain_update(body).finalize().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Bytes behind their digest.
pub(crate) fn seal(name: &[u8], body: &[u8]) -> (u64, Vec<u8>) {
    let digest = digest(name, body);
    (digest, [&digest.to_be_bytes(), body].concat())
}

/// Bytes whose digest is right, with it.
pub(crate) fn unseal<'a>(name: &[u8], sealed: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let (there, body) = sealed.split_first_chunk::<DIGEST>()?;
    let there = u64::from_be_bytes(*there);
    (there == digest(name, body)).then_some((there, body))
}
