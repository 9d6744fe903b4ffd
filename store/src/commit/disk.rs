//! The configuration on a node's disk, in the pieces in which it is stored, so that keeping a change costs in proportion to it.
//!
//! Every shard has a name of its own with its digest in it, and the head names the shards. All pieces of a change are written
//! at once, so the head on the disk always finds its shards.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Head, ShardId, ShardVersion, Stored};
use crate::{
    disk::{Changes, LastGood},
    engine::Index,
    orders::Orders,
};

/// The name of the head.
const HEAD: &str = "configuration";
/// Where the names of shards begin.
const SHARDS: &str = "configuration/";
/// The whole configuration as one value, as earlier versions kept it.
const WHOLE: &str = "config";

/// The head as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    head: Head,
    head_index: Index,
    #[serde(default, skip_serializing_if = "Orders::is_empty")]
    orders: Orders,
}

fn name(id: &ShardId, version: &ShardVersion) -> String {
    format!("{SHARDS}{}/{}", id.0, version.digest)
}

/// Writes a configuration to the disk and syncs it. `before` is what is kept there; `None` if that is not known. Blocks.
///
/// # Errors
/// When the disk fails: for people.
pub(crate) fn keep(memory: &LastGood, stored: &Stored, before: Option<&Stored>) -> Result<(), String> {
    let mut changes = Changes::default();
    let json = |error: serde_json::Error| error.to_string();
    let of = |stored: &Stored| -> BTreeSet<String> {
        stored.head.shards.iter().map(|(id, version)| name(id, version)).collect()
    };
    let there = before.map_or_else(|| memory.names(SHARDS).into_iter().collect(), of);
    let wanted = of(stored);
    for (id, version) in &stored.head.shards {
        let known = before.is_some_and(|it| it.head.shards.get(id) == Some(version));
        if let Some(shard) = stored.shards.get(id).filter(|_| !known) {
            changes.put(name(id, version), shard).map_err(json)?;
        }
    }
    let head =
        Kept { head: stored.head.clone(), head_index: stored.head_index, orders: stored.orders.clone() };
    changes.put(HEAD, &head).map_err(json)?;
    there.difference(&wanted).for_each(|it| changes.remove(it.clone()));
    if before.is_none() {
        changes.remove(WHOLE);
    }
    memory.change(changes).and_then(|()| memory.flush()).map_err(|error| error.to_string())
}

/// The configuration that is kept; `None` if there is none, or a part of it is missing.
#[must_use]
pub(crate) fn kept(memory: &LastGood) -> Option<Stored> {
    let Some(Kept { head, head_index, orders }) = memory.get(HEAD) else { return memory.get(WHOLE) };
    let shard = |(id, version)| Some((ShardId::clone(id), memory.get(&name(id, version))?));
    let shards = head.shards.iter().map(shard).collect::<Option<_>>()?;
    Some(Stored { head, head_index, shards, ..Stored::default() }.with_orders(orders))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commit::{AuditEntry, Change, Planned, commit, plan, read},
        engine::embedded::{Embedded, Options},
        model::{Moment, parse},
    };

    async fn stored(engine: &Embedded, text: &str) -> Stored {
        let changes = parse("t.yaml", text).unwrap().into_iter().map(Change::Put).collect();
        let before = read(engine, None).await.unwrap();
        let Planned::Changed(planned) = plan(&before, changes, Moment(1), crate::testing::author()).unwrap()
        else {
            panic!("a change")
        };
        let entry = AuditEntry { at: Moment(1), who: "t".into(), what: "t".into(), generation: None };
        commit(engine, *planned, entry).await.unwrap();
        read(engine, None).await.unwrap()
    }

    fn site(name: &str, more: &str) -> String {
        format!("kind: Site\nname: {name}\n{more}")
    }

    #[tokio::test]
    async fn what_is_kept_is_read_again_and_only_what_changed_is_written() {
        let engine = Embedded::in_memory(Options::default()).await;
        let memory = LastGood::in_memory();
        assert_eq!(kept(&memory), None);
        let first = stored(&engine, &(site("bj", "") + "---\n" + &site("sh", ""))).await;
        memory.put(WHOLE, &first).unwrap();
        assert_eq!(kept(&memory).as_ref(), Some(&first), "what an earlier version kept");
        keep(&memory, &first, None).unwrap();
        assert_eq!(kept(&memory).as_ref(), Some(&first));
        assert!(memory.get::<serde_json::Value>(WHOLE).is_none());
        let names = memory.names(SHARDS);
        let order = "---\nkind: Override\nname: o\ntarget: { site: sh }\nstate: up\nowner: o\nreason: r\n";
        let text = "kind: Zone\nname: z.org\nnameservers: [{ name: ns.x. }]\n---\nkind: Cluster\nname: main\nzone: z.org\n\
            gateway_domain: gw.z.org\ngateways: { sh: { a: [203.0.113.2] } }\n---\n";
        let second = stored(&engine, &(text.to_owned() + &site("bj", "region: north\n") + order)).await;
        keep(&memory, &second, Some(&first)).unwrap();
        assert_eq!(kept(&memory).as_ref(), Some(&second));
        let after = memory.names(SHARDS);
        assert_eq!(
            names.iter().filter(|it| after.contains(it)).count(),
            1,
            "that of sh stays, that of bj goes"
        );
        // Where it is not known what is there, nothing old stays either.
        keep(&memory, &first, None).unwrap();
        assert_eq!((kept(&memory).as_ref(), memory.names(SHARDS)), (Some(&first), names.clone()));
        memory.remove(&names[0]).unwrap();
        assert_eq!(kept(&memory), None, "a configuration is whole or not there");
    }
}
