//! The layout of Waypost's part of the KV, which is everything below `waypost/`.
//!
//! Keys use `[A-Za-z0-9/_.-]` only, because newer Consul versions refuse others.

use crate::{
    drain::DrainId,
    model::{Bearer, Generation, Moment, Name},
    orders::OrderTarget,
};

/// The prefix of all keys.
pub const ROOT: &str = "waypost/";
/// The one key whose change is a commit.
pub const CONFIG_HEAD: &str = "waypost/config/head";
/// Immutable pieces of configuration.
pub const CONFIG_SHARDS: &str = "waypost/config/shards/";
/// The record of writes.
pub const AUDIT: &str = "waypost/audit/";
/// The observations of the vantages.
pub const OBSERVATIONS: &str = "waypost/observations/";
/// The heartbeats of the vantages.
pub const HEARTBEATS: &str = "waypost/heartbeats/";
/// The verdicts of one control, for readers that start.
pub const VERDICTS: &str = "waypost/verdicts/";
/// Which adoption of another site's verdicts the published verdicts contain; written after them.
pub const ADOPTION: &str = "waypost/adoption";
/// The drains.
pub const DRAINS: &str = "waypost/drains/";
/// The id of the drain that was ordered last. Every order writes it, so that two controls see each other's.
pub const LAST_DRAIN: &str = "waypost/last_drain";
/// The receipts of gateways: that an instance gets no more requests, and later that it has ended.
pub const RECEIPTS: &str = "waypost/receipts/";
/// The registrations and heartbeats of the nodes.
pub const NODES: &str = "waypost/nodes/";
/// Who wrote each heartbeat last, as noted by the listeners: see [`crate::writers`].
pub const WRITERS: &str = "waypost/writers/";
/// The decision journal.
pub const JOURNAL: &str = "waypost/journal/";
/// The records of what each commit changed.
pub const HISTORY: &str = "waypost/history/";
/// The orders: one record per target.
pub const ORDERS: &str = "waypost/orders/";
/// A key that is always below [`ORDERS`]: engines wake the readers of a prefix without keys at every write, so they read it
/// once a second only, and would notice the first order late.
pub const ORDERS_FORM: &str = "waypost/orders/form";
/// The shares of full sites' clients that are sent elsewhere.
pub const OVERFLOW: &str = "waypost/overflow";
/// Where what other sites tell of their instances is to be found, and how fresh it is: see [`crate::remote`].
pub const REMOTE_HEADS: &str = "waypost/remote/heads/";
/// What other sites tell of their instances.
pub const REMOTE_SITES: &str = "waypost/remote/sites/";
/// Locks for work that only one node may do.
pub const LOCKS: &str = "waypost/locks/";

/// One part of one version of a configuration shard.
#[must_use]
pub fn config_shard(shard: &str, generation: Generation, digest: &str, part: usize) -> String {
    format!("{}{part}", config_shard_version(shard, generation, digest))
}

/// Every part of one version of a configuration shard. The digest of its content is part of the name, so that
/// two commits that compete for one generation never overwrite each other.
#[must_use]
pub fn config_shard_version(shard: &str, generation: Generation, digest: &str) -> String {
    format!("{CONFIG_SHARDS}{shard}/{}-{}/", numbers(generation), digest.get(..16).unwrap_or(digest))
}

/// A generation without the site of its epoch: keys have no character for it, and digests keep two sites' apart.
fn numbers(generation: Generation) -> Generation {
    Generation::new(generation.epoch, generation.number)
}

/// The shard, the generation (without a site) and the version's whole prefix, of a key made by [`config_shard`].
#[must_use]
pub fn parse_config_shard(key: &str) -> Option<(&str, Generation, &str)> {
    let (shard, rest) = key.strip_prefix(CONFIG_SHARDS)?.split_once('/')?;
    let (version, part) = rest.split_once('/')?;
    let generation = version.split_once('-')?.0.parse().ok()?;
    Some((shard, generation, &key[..key.len() - part.len()]))
}

/// One entry of the record of writes; keys sort by time.
#[must_use]
pub fn audit(at: Moment, distinct: &str) -> String {
    format!("{AUDIT}{:015}-{distinct}", at.0)
}

/// One page of the decision journal; keys sort by time.
#[must_use]
pub fn journal(at: Moment, distinct: &str) -> String {
    format!("{JOURNAL}{:015}-{distinct}", at.0)
}

/// Every part of the record of what a commit changed from. Its size is part of the name, so that records are bounded
/// without reading them.
#[must_use]
pub fn history(generation: Generation, digest: &str, bytes: usize) -> String {
    format!("{HISTORY}{}-{}-{bytes}/", numbers(generation), digest.get(..16).unwrap_or(digest))
}

/// The generation (without a site), the size and the record's whole prefix, of a key below one made by [`history`].
#[must_use]
pub fn parse_history(key: &str) -> Option<(Generation, u64, &str)> {
    let (record, part) = key.strip_prefix(HISTORY)?.split_once('/')?;
    let mut words = record.split('-');
    let generation = words.next()?.parse().ok()?;
    let bytes = words.nth(1)?.parse().ok()?;
    Some((generation, bytes, &key[..key.len() - part.len()]))
}

/// One shard of a vantage's observations.
#[must_use]
pub fn observations(vantage: &Name, shard: &str) -> String {
    format!("{OBSERVATIONS}{vantage}/{shard}")
}

/// The vantage and shard of a key made by [`observations`].
#[must_use]
pub fn parse_observations(key: &str) -> Option<(Name, &str)> {
    let (vantage, shard) = key.strip_prefix(OBSERVATIONS)?.split_once('/')?;
    Some((vantage.parse().ok()?, shard))
}

/// A vantage's heartbeat.
#[must_use]
pub fn heartbeat(vantage: &Name) -> String {
    format!("{HEARTBEATS}{vantage}")
}

/// The vantage of a key made by [`heartbeat`].
#[must_use]
pub fn parse_heartbeat(key: &str) -> Option<Name> {
    key.strip_prefix(HEARTBEATS)?.parse().ok()
}

/// One shard of published verdicts.
#[must_use]
pub fn verdicts(shard: &str) -> String {
    format!("{VERDICTS}{shard}")
}

/// A drain's record.
#[must_use]
pub fn drain(id: &DrainId) -> String {
    format!("{DRAINS}{id}")
}

/// A gateway's receipt for a drain.
#[must_use]
pub fn receipt(drain: &DrainId, node: &str) -> String {
    format!("{}{node}", receipts(drain))
}

/// Every receipt for a drain.
#[must_use]
pub fn receipts(drain: &DrainId) -> String {
    format!("{RECEIPTS}{drain}/")
}

/// The observation of a gateway that the instance of a drain ended. Below the receipts, with which it is removed.
#[must_use]
pub fn ended(drain: &DrainId, node: &str) -> String {
    format!("{}/ended", receipt(drain, node))
}

/// A node's registration and heartbeat.
#[must_use]
pub fn node(name: &str) -> String {
    format!("{NODES}{name}")
}

/// The node of a key made by [`node`].
#[must_use]
pub fn parse_node(key: &str) -> Option<Name> {
    key.strip_prefix(NODES)?.parse().ok()
}

/// Who wrote a node's or a vantage's heartbeat last.
#[must_use]
pub fn writer(bearer: &Bearer) -> String {
    format!("{WRITERS}{bearer}")
}

/// Whose heartbeat a key made by [`writer`] is about.
#[must_use]
pub fn parse_writer(key: &str) -> Option<Bearer> {
    key.strip_prefix(WRITERS)?.parse().ok()
}

/// The record of the orders about a target.
#[must_use]
pub fn order(target: &OrderTarget) -> String {
    format!("{ORDERS}{}", target.digest())
}

/// A lock.
#[must_use]
pub fn lock(name: &str) -> String {
    format!("{LOCKS}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_they_were_made() {
        let vantage: Name = "gz-telecom".parse().unwrap();
        assert_eq!(parse_observations(&observations(&vantage, "7f")), Some((vantage.clone(), "7f")));
        assert_eq!(parse_heartbeat(&heartbeat(&vantage)), Some(vantage));
        assert_eq!(parse_observations("waypost/observations/only"), None);
        let bearer: Bearer = "node/gw".parse().unwrap();
        assert_eq!(parse_writer(&writer(&bearer)), Some(bearer));
        assert_eq!(parse_node(&node("gw")), Some("gw".parse().unwrap()));
    }

    #[test]
    fn shard_keys_read_as_they_were_made() {
        let generation = Generation::new(2, 17);
        let key = config_shard("0f", generation, "0123456789abcdef0123", 12);
        assert_eq!(key, "waypost/config/shards/0f/2.17-0123456789abcdef/12");
        let version = config_shard_version("0f", generation, "0123456789abcdef0123");
        assert_eq!(parse_config_shard(&key), Some(("0f", generation, version.as_str())));
        for other in ["waypost/config/head", "waypost/config/shards/0f/x/1", "waypost/config/shards/0f"] {
            assert_eq!(parse_config_shard(other), None, "{other}");
        }
    }

    #[test]
    fn audit_keys_sort_by_time() {
        assert!(audit(Moment(999), "b") < audit(Moment(1_000), "a"));
    }
}
