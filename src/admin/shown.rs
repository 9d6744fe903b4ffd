//! What several answers show in the same words: tiers, overrides, observations, the time a failover takes.

use std::collections::BTreeMap;

use store::{
    health::TargetKey,
    health_state::{HealthView, VantageView},
    model::{Name, Override, Span},
    snapshot::{SiteId, Snapshot, SteeredDomain},
    steering::Tier,
};

use super::Admin;
use crate::api::{FailoverTime, OverrideInForce, SeenByVantage, ViewStatus};

/// Whether the verdicts of this control follow what the vantages see.
pub(super) fn view(admin: &Admin) -> ViewStatus {
    ViewStatus::from(admin.handle.view().borrow().as_ref())
}

/// The name of a site; empty if there is none of this number.
pub(super) fn site_name(snapshot: &Snapshot, id: SiteId) -> String {
    snapshot.site(id).map_or_else(String::new, |site| site.name.to_string())
}

/// An override.
pub(super) fn forced(order: &Override) -> OverrideInForce {
    OverrideInForce {
        name: order.name.to_string(),
        state: order.state.as_str().to_owned(),
        authority: order.authority.as_str().to_owned(),
        owner: order.owner.clone(),
        reason: order.reason.clone(),
        expires: order.expires.map(|at| at.to_string()),
    }
}

/// How long a failover of a domain may take; `None` without a check.
pub(super) fn failover(snapshot: &Snapshot, domain: &SteeredDomain) -> Option<FailoverTime> {
    let failover = snapshot.failover(domain)?;
    Some(FailoverTime {
        detect: Span(failover.detect),
        propagate: Span(failover.propagate),
        ttl: Span(failover.ttl),
        whole: Span(failover.whole()),
        budget: domain.domain.budget,
    })
}

/// What each vantage sees of a target, by the vantage's name.
pub(super) fn seen(health_view: &HealthView, key: &TargetKey) -> BTreeMap<String, SeenByVantage> {
    let of = |(name, vantage): (&Name, &VantageView)| {
        let observation = vantage.observations.get(key)?;
        let seen = SeenByVantage {
            state: observation.state.as_str().to_owned(),
            fresh: vantage.fresh && !vantage.withheld,
            reason: observation.reason.clone(),
            latency: observation.latency,
        };
        Some((name.to_string(), seen))
    };
    health_view.vantages.iter().filter_map(of).collect()
}

/// A tier in words; for a site that is held down with what would let it back.
pub(super) fn tier(tier: Tier, domain: &SteeredDomain) -> String {
    if tier != Tier::HeldDown {
        return tier.as_str().to_owned();
    }
    let recovery = &domain.domain.recovery;
    let gate = recovery.gate.as_ref().map_or_else(String::new, |gate| format!(", gate {gate}"));
    format!("{} (recovered, not let back yet: {}{gate})", tier.as_str(), recovery.mode.as_str())
}
