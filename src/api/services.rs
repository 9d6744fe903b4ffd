//! The services of a status, and their instances.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One service.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its name in the registry.
    pub registry: String,
    /// Its host names.
    pub hosts: Vec<String>,
    /// Its UUID domain.
    pub uuid_domain: Option<String>,
    /// The domain that its host names lead to.
    #[serde(default)]
    pub entrance: Option<String>,
    /// Whether this node accepts the registry's last answer: `present`, `gone`, `unreachable` or `suspicious`; `unread`
    /// if it does not follow the service.
    pub standing: String,
    /// Why the answer is not accepted; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of its instances; absent if this node does not follow the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<InstanceCount>,
    /// Its instances: all of them in the status of one service, domain or site, otherwise those that nodes doubt or do
    /// not use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceStatus>,
}

/// A number of instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceCount {
    /// All of them.
    pub all: usize,
    /// Those that requests may be sent to.
    pub usable: usize,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceStatus {
    /// Its id in the registry.
    pub id: String,
    /// The registry's node that it is registered on.
    pub node: String,
    /// Where it serves: `address:port`.
    pub address: String,
    /// The site that it was registered with.
    pub site: Option<String>,
    /// `passing`, `warning`, `critical`, `maintenance`, `draining` or `unusable`; or what nodes report of it: `doubtful`
    /// and `unreachable` are used while they answer, `left_out` is in doubt and not used, `unused` is not used while it
    /// is registered as it is, or while its host name cannot be resolved.
    pub state: String,
    /// Why, if it is not passing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The result of the last dial of a node that doubts it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dial: String,
    /// Since when a node has doubted it, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The nodes that report this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen_by: Vec<String>,
}
