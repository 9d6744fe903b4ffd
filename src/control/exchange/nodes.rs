//! The nodes of a site in a few words, for the controls of other sites: which of them run which generation.

use store::model::sha256_hex;

use crate::{api::SiteNode, control::Liveness};

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

/// Equal for equal nodes; empty if there are none.
pub(super) fn digest(nodes: &[SiteNode]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let text = serde_json::to_string(nodes).unwrap_or_default();
    sha256_hex(text).get(..16).unwrap_or_default().to_owned()
}
