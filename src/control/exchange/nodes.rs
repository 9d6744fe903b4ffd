//! The nodes of a site in a few words, for the controls of other sites: which of them run which generation, and which share of
//! the site's clients goes elsewhere because its gateways are full.
//!
//! Only the control of a site decides about that share, because the gateways report their load to the engine of their own
//! site. The others take what it decided, so the name servers of all sites send the same clients to the same place.

use store::{
    handle::Handle,
    model::{Name, sha256_hex},
};

use crate::{
    api::{SiteNode, SiteShares},
    control::Liveness,
};

/// The most nodes in one answer, as many as one engine is made for.
pub(super) const MAX: usize = 10_000;

/// The registered nodes, by name.
pub(in crate::control) fn of(liveness: &Liveness) -> Vec<SiteNode> {
    let told = liveness.registered().take(MAX).map(|node| SiteNode {
        node: node.heartbeat.node.clone(),
        roles: node.heartbeat.roles.iter().cloned().collect(),
        generation: node.heartbeat.generation,
        lost: !node.is_alive(),
    });
    told.collect()
}

/// The shares of a site's clients that go elsewhere, as this node knows them.
pub(super) fn shares(handle: &Handle, site: &Name) -> SiteShares {
    let Some(snapshot) = handle.snapshot() else { return SiteShares::new() };
    let of = |cluster| handle.overflow_share(cluster, site).map_or(0, |it| it.0);
    let all = snapshot.clusters.values().map(|cluster| (cluster.name.clone(), of(cluster)));
    all.filter(|(_, share)| *share > 0).collect()
}

/// Equal for equal nodes and shares; empty if there are none.
pub(super) fn digest(nodes: &[SiteNode], shares: &SiteShares) -> String {
    if nodes.is_empty() && shares.is_empty() {
        return String::new();
    }
    let text = match shares.is_empty() {
        // As it was before there were shares.
        true => serde_json::to_string(nodes),
        false => serde_json::to_string(&(nodes, shares)),
    };
    sha256_hex(text.unwrap_or_default()).get(..16).unwrap_or_default().to_owned()
}
