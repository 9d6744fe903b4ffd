//! How what other sites tell lies in the KV.
//!
//! ```text
//! waypost/remote/heads/SITE                   the head: cursor, base, newest batch, freshness
//! waypost/remote/sites/SITE/batches/SLOT      a ring of numbered batches of changes
//! waypost/remote/sites/SITE/base/ID/SHARD     the state by the hash of the service, each shard of an age of its own
//! ```
//!
//! A blocking query on a prefix returns everything below it at each change, so the heads have a prefix of their own: they
//! are small, and one long poll follows those of all sites.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    page::Cursor,
    told::{Change, Gateways, Told},
};
use crate::{
    keys,
    model::{Moment, Name},
};

/// The number of batches in the ring.
pub(super) const RING: u64 = 1024;
/// The smallest number of shards, and the first digits by which they are listed.
pub(super) const MIN_SHARDS: u32 = 16;
/// The largest number of shards: four digits of the hash.
pub(super) const MAX_SHARDS: u32 = 1 << 16;
/// The version that this program writes.
pub(super) const VERSION: u32 = 1;

/// Where what a site tells is to be found, and how fresh it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version of the stored form.
    pub v: u32,
    /// How far the site was read.
    pub cursor: Cursor,
    /// The id of the base.
    pub base: String,
    /// The number of its shards, a power of two.
    pub shards: u32,
    /// The number of the newest batch.
    pub sequence: u64,
    /// A random number that the newest batch has. After the engine was restored, other batches have the same numbers.
    pub link: u64,
    /// A reader of the base continues with this batch, and has everything.
    pub floor: u64,
    /// Grows while the site answers, also when nothing changes.
    pub beat: u64,
    /// Set while the site does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dark: Option<Dark>,
    /// Where the site's gateways listen.
    #[serde(default, skip_serializing_if = "Gateways::is_empty")]
    pub gateways: Gateways,
}

/// Why and since when a site is dark, by the clock of the control that noticed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dark {
    /// Since when.
    pub since: Moment,
    /// Why.
    pub reason: String,
}

impl Head {
    /// Reads a head; `None` if it is malformed or of a newer version.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        let head: Self = serde_json::from_slice(value).ok()?;
        let shards = head.shards.is_power_of_two() && (MIN_SHARDS..=MAX_SHARDS).contains(&head.shards);
        (head.v <= VERSION && shards).then_some(head)
    }
}

/// One batch of changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) v: u32,
    /// Its number. The slot may hold an older or newer one.
    pub(super) sequence: u64,
    /// The base that it continues.
    pub(super) base: String,
    /// The link of the batch before it.
    pub(super) after: u64,
    /// Its own link.
    pub(super) link: u64,
    pub(super) changes: Vec<Change>,
}

/// One shard of the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shard {
    pub(super) v: u32,
    /// It has every change up to this batch.
    pub(super) at: u64,
    pub(super) services: BTreeMap<String, Told>,
}

/// The shard of a service among so many.
pub(super) fn shard_of(service: &str, shards: u32) -> u32 {
    let digest = Sha256::digest(service);
    let first = digest.iter().take(2).fold(0_u32, |sum, octet| sum << 8 | u32::from(*octet));
    // The first bits, so that the shards are spread evenly over the first digits of their keys.
    first & !(MAX_SHARDS / shards - 1)
}

pub(super) fn head_key(site: &Name) -> String {
    format!("{}{site}", keys::REMOTE_HEADS)
}

/// The site of a key made by [`head_key`].
pub(super) fn parse_head_key(key: &str) -> Option<Name> {
    key.strip_prefix(keys::REMOTE_HEADS)?.parse().ok()
}

/// Everything of a site but its head.
pub(super) fn site_prefix(site: &Name) -> String {
    format!("{}{site}/", keys::REMOTE_SITES)
}

pub(super) fn batch_key(site: &Name, sequence: u64) -> String {
    format!("{}batches/{:03x}", site_prefix(site), sequence % RING)
}

pub(super) fn bases_prefix(site: &Name) -> String {
    format!("{}base/", site_prefix(site))
}

pub(super) fn base_prefix(site: &Name, base: &str) -> String {
    format!("{}{base}/", bases_prefix(site))
}

pub(super) fn shard_key(site: &Name, base: &str, shard: u32) -> String {
    format!("{}{shard:04x}", base_prefix(site, base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_divide_the_services_and_a_finer_division_keeps_them_apart() {
        let services: Vec<_> = (0..1_000).map(|it| format!("service-{it}")).collect();
        for service in &services {
            assert_eq!(shard_of(service, 16) % (MAX_SHARDS / 16), 0);
            assert_eq!(shard_of(service, 16), shard_of(service, 256) & !(MAX_SHARDS / 16 - 1));
        }
        let used: std::collections::BTreeSet<_> = services.iter().map(|it| shard_of(it, 64)).collect();
        assert_eq!(used.len(), 64);
    }

    #[test]
    fn keys_read_as_they_were_made() {
        let site: Name = "sh".parse().unwrap();
        assert_eq!(parse_head_key(&head_key(&site)), Some(site.clone()));
        assert_eq!(shard_key(&site, "b1", 0xf00), "waypost/remote/sites/sh/base/b1/0f00");
        assert_eq!(batch_key(&site, RING + 10), "waypost/remote/sites/sh/batches/00a");
    }

    #[test]
    fn a_head_of_a_newer_version_is_not_read() {
        let head = Head { v: VERSION, shards: 16, ..Head::default() };
        let read = |head: &Head| Head::read(&serde_json::to_vec(head).unwrap());
        assert_eq!(read(&head), Some(head.clone()));
        assert_eq!(read(&Head { v: VERSION + 1, ..head.clone() }), None);
        assert_eq!(read(&Head { shards: 17, ..head }), None);
        assert_eq!(Head::read(b"{"), None);
    }
}
