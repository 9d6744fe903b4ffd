//! The status: what is wrong, and the nodes, targets and vantages from which that was concluded.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use store::{
    health::Verdict,
    model::{Generation, Moment, Span},
};
use utoipa::{IntoParams, ToSchema};

use super::{
    DomainStatus, DrainView, OrderWithoutEffect, OtherSite, PendingToken, ServiceStatus, StillRegistered,
    SwitchInForce, schema,
};

/// What to show of the status.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
pub struct StatusQuery {
    /// Only what is about this domain, host name, service or site.
    pub about: Option<String>,
}

/// Everything that one control knows, or the part of it that is about one name.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// When this was gathered, in RFC 3339.
    #[serde(default)]
    pub at: String,
    /// The domain, service or site that it is about; absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// True if there is no problem.
    #[serde(default)]
    pub well: bool,
    /// A summary in one line.
    #[serde(default)]
    pub summary: String,
    /// What is wrong, the most severe first.
    #[serde(default)]
    pub problems: Vec<Finding>,
    /// What is unusual, but intended or temporary.
    #[serde(default)]
    pub notes: Vec<Finding>,
    /// The generation that this control runs.
    #[schema(value_type = schema::Generation)]
    pub generation: Generation,
    /// Whether this control's verdicts follow what the vantages see.
    #[serde(default)]
    pub view: ViewStatus,
    /// Why the engine cannot be read at present; absent if it can.
    pub engine_error: Option<String>,
    /// Why the engine refuses this control's heartbeat at present, and since when; absent if it accepts writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_refuses: Option<String>,
    /// How long the engine has been unreadable. What nodes, vantages and drains report is as old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
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
    /// The drains, newest first.
    pub drains: Vec<DrainView>,
    /// The instances that were drained, are registered and are refused, with the command that readmits each of them.
    #[serde(default)]
    pub drained_still_registered: Vec<StillRegistered>,
    /// The clusters whose last good verdicts are kept because too many targets went down at once.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// Since when each of them has been frozen, in RFC 3339.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frozen_since: BTreeMap<String, String>,
    /// The other sites that the documents connect to this one, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<OtherSite>,
    /// The files of configurations that were replaced by one which does not contain them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// The domains whose active colour is ordered, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<SwitchInForce>,
    /// The orders that have no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_effect: Vec<OrderWithoutEffect>,
    /// The operator's token that is not in force yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<PendingToken>,
    /// The CNAME records that the owners of host names outside every zone have to set.
    pub cnames_to_set: Vec<CnameToSet>,
}

/// One thing that is not as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Its kind, for scripts: `fail_open`, `node_lost`, …
    pub kind: String,
    /// What it is about: the name of a domain, a site, a node, …
    pub about: String,
    /// A sentence for people.
    pub text: String,
}

/// Whether a node's verdicts follow what the vantages see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ViewStatus {
    /// Too few vantages report: verdicts do not change, and the failure of a site is not noticed.
    pub stale: bool,
    /// When enough of them last reported, in RFC 3339; absent while the view is not stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Which vantages do not report, and how many targets that concerns; absent while the view is not stale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<&store::health_state::Staleness> for ViewStatus {
    fn from(view: &store::health_state::Staleness) -> Self {
        let since = view.since.map(Moment::rfc3339);
        Self { stale: view.stale, since, reason: view.reason.clone() }
    }
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Its site.
    pub site: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// The generation that it runs; absent before its first.
    #[schema(value_type = Option<schema::Generation>)]
    pub generation: Option<Generation>,
    /// Whether its verdicts follow what the vantages see, as it reports itself; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewStatus>,
    /// How long its heartbeat has not changed, as seen from here. This does not grow while the engine is away.
    #[schema(value_type = String)]
    pub silent: Span,
    /// It has been silent for so long that it probably ended.
    pub lost: bool,
    /// The number of instances that it reports on and that did not fit into its heartbeat.
    #[serde(default)]
    pub more_instances: usize,
    /// How long it has run another generation than this control; absent while both run the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub lags: Option<Span>,
}

/// One target: its verdict, and what each vantage sees.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TargetStatus {
    /// Its key.
    pub key: String,
    /// Its site.
    pub site: String,
    /// Its address.
    pub address: String,
    /// Its check.
    pub check: String,
    /// The clusters that have this address.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub clusters: BTreeSet<String>,
    /// Its verdict.
    #[serde(with = "super::moments")]
    #[schema(value_type = schema::Verdict)]
    pub verdict: Verdict,
    /// What each vantage sees, by the vantage's name.
    pub observations: BTreeMap<String, SeenByVantage>,
}

/// What one vantage sees of one target.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SeenByVantage {
    /// `up`, `down` or `unknown`.
    pub state: String,
    /// Its vote counts.
    pub fresh: bool,
    /// Why, such as `connection refused`.
    pub reason: String,
    /// How long the last successful probe took.
    #[schema(value_type = Option<String>)]
    pub latency: Option<Span>,
}

/// One vantage.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VantageStatus {
    /// Its name.
    pub name: String,
    /// It reports.
    pub fresh: bool,
    /// It doubts its own network, so its votes do not count.
    pub withheld: bool,
}

/// A CNAME record that the owner of a zone outside has to set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CnameToSet {
    /// The host name.
    pub host: String,
    /// The name that it must point to.
    pub target: String,
}
