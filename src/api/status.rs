//! The status: what is wrong, and the nodes, targets and vantages it was found with.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use store::{
    health::Verdict,
    model::{Generation, Moment, Span},
};

use super::{DomainStatus, DrainView, Pending, ServiceStatus, StillRegistered};

/// The whole picture of one control, or the part of it that is about one name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// When it was drawn, in RFC 3339.
    #[serde(default)]
    pub at: String,
    /// The domain, service or site it is about; absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// There is no problem.
    #[serde(default)]
    pub well: bool,
    /// The whole in one line.
    #[serde(default)]
    pub summary: String,
    /// What is wrong, the gravest first.
    #[serde(default)]
    pub problems: Vec<Finding>,
    /// What is not as usual, but meant or passing.
    #[serde(default)]
    pub notes: Vec<Finding>,
    /// The generation this control runs.
    pub generation: Generation,
    /// Whether this control's verdicts follow what the vantages see.
    #[serde(default)]
    pub view: ViewStatus,
    /// Why the engine cannot be read at present; absent when it can.
    pub engine_error: Option<String>,
    /// Why the engine takes no writes at present, by this control's own heartbeat, and since when; absent when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_refuses: Option<String>,
    /// For how long it could not be read. What nodes, vantages and drains report is as old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_away: Option<Span>,
    /// The nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// The steered domains, by name.
    pub domains: Vec<DomainStatus>,
    /// The targets, by site and address.
    pub targets: Vec<TargetStatus>,
    /// The vantages, by name.
    pub vantages: Vec<VantageStatus>,
    /// The services, by name.
    pub services: Vec<ServiceStatus>,
    /// Drains, newest first.
    pub drains: Vec<DrainView>,
    /// Instances that were drained, are registered and are refused, with the command that lets each in.
    #[serde(default)]
    pub drained_still_registered: Vec<StillRegistered>,
    /// The clusters whose last good verdicts are kept because too much went down at once.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// Since when each of them has been frozen, in RFC 3339.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frozen_since: BTreeMap<String, String>,
    /// The operator's token that is not in force yet, and for whom it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Pending>,
    /// Host names outside every zone: their owners must set these CNAMEs.
    pub cnames_to_set: Vec<CnameToSet>,
}

/// One thing that is not as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing, for scripts: `fail_open`, `node_lost`, …
    pub kind: String,
    /// What it is about: the name of a domain, a site, a node, …
    pub about: String,
    /// The whole of it, for people.
    pub text: String,
}

/// Whether a node's verdicts follow what the vantages see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewStatus {
    /// Too few vantages are heard: verdicts stay as they are, and no death of a site is noticed.
    pub stale: bool,
    /// When enough of them were last heard, as RFC 3339; absent while the view is not stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Which vantages are not heard, and how many targets that concerns; absent while the view is not stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&store::beliefs::View> for ViewStatus {
    fn from(view: &store::beliefs::View) -> Self {
        let since = view.since.map(Moment::rfc3339);
        Self { stale: view.stale, since, reason: view.reason.clone() }
    }
}

/// One node, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// The generation it runs; absent before its first.
    pub generation: Option<Generation>,
    /// Whether its verdicts follow what the vantages see, as it said itself; absent where it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewStatus>,
    /// How long its heartbeat has not moved, as seen from here. While the engine is away this does not grow.
    pub silent: Span,
    /// Silent for so long that it is probably gone.
    pub lost: bool,
    /// Instances it says something of that did not fit into its heartbeat.
    #[serde(default)]
    pub more_instances: usize,
    /// How long it has run another generation than the control that shows this; absent while it runs the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lags: Option<Span>,
}

/// One target with its verdict and what each vantage sees.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its key.
    pub key: String,
    /// Its site.
    pub site: String,
    /// Its address.
    pub address: String,
    /// Its check.
    pub check: String,
    /// The clusters it is an address of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub clusters: BTreeSet<String>,
    /// What is believed of it.
    #[serde(with = "crate::api::moments")]
    pub verdict: Verdict,
    /// What each vantage sees.
    pub observations: BTreeMap<String, Seen>,
}

/// What one vantage sees of one target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The state.
    pub state: String,
    /// Its vote counts.
    pub fresh: bool,
    /// Why.
    pub reason: String,
    /// How fast.
    pub latency: Option<Span>,
}

/// One vantage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VantageStatus {
    /// Its name.
    pub name: String,
    /// Its heartbeat moves.
    pub fresh: bool,
    /// It doubts itself.
    pub withheld: bool,
}

/// A CNAME that somebody else has to set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CnameToSet {
    /// The host name.
    pub host: String,
    /// Where it must point.
    pub target: String,
}
