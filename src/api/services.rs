//! The services of a status, and their instances.

use serde::{Deserialize, Serialize};

/// One service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its name in the registry.
    pub registry: String,
    /// Its host names.
    pub hosts: Vec<String>,
    /// Its UUID domain.
    pub uuid_domain: Option<String>,
    /// The domain its host names lead to.
    #[serde(default)]
    pub entrance: Option<String>,
    /// Whether the registry's last answer is believed, as this node sees it: `unread` unless it follows
    /// the service itself.
    pub standing: String,
    /// Why it is not, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many instances are known, and how many of them may be used; absent where the service is not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<Known>,
    /// The instances: all of them where one service, domain or site was asked for, else those that nodes doubt or never
    /// use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceStatus>,
}

/// How many instances there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// All.
    pub all: usize,
    /// Those that requests may be sent to.
    pub usable: usize,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Its id in the registry.
    pub id: String,
    /// The registry's node it is registered on.
    pub node: String,
    /// Where it serves: `address:port`.
    pub address: String,
    /// The site it says it stands in.
    pub site: Option<String>,
    /// `passing`, `warning`, `critical`, `maintenance`, `draining`, `unusable`; or what nodes say of it: `doubtful` and
    /// `unreachable` are used while they answer, `left_out` is in doubt and not used, `unused` is not used while it
    /// is registered as it is, or while its host name cannot be resolved.
    pub state: String,
    /// Why, where it is not passing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the last dial of a node said that doubts it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dial: String,
    /// Since when a node doubts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The nodes that say so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen_by: Vec<String>,
}
