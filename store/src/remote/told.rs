//! What a site tells of its services, and the changes of it. Pure, and bounded: a message from outside cannot make a
//! reader keep more than the limits here allow.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    discovery::{Entry, InstanceKey, Standing},
    drain::{Listening, NodeHeartbeat},
    engine::{CheckStatus, Endpoint, Index},
    model::Name,
};

/// The maximum number of services of a site.
pub(super) const MAX_SERVICES: usize = 20_000;
/// The maximum size of what is sent of a service, in bytes of JSON; about 1,000 instances.
pub(super) const MAX_SERVICE: usize = 128 * 1024;
/// The maximum length of an instance's node, id and address, and of a service's name.
const MAX_WORD: usize = 512;
/// The maximum size of an instance's metadata, and of its tags, in bytes.
const MAX_LABELS: usize = 1024;
/// The maximum length of a reason.
const MAX_REASON: usize = 256;
/// The maximum number of clusters with gateways, and of ports of each.
const MAX_GATEWAYS: usize = 64;

/// The ports at which a site's gateways listen, by cluster.
pub type Gateways = BTreeMap<Name, Vec<u16>>;

/// How a site itself judges what its registry says about a service; see [`Standing`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Value {
    /// It has not read the service yet. What is known of the service's instances stays.
    #[default]
    Unread,
    /// There are instances.
    Present,
    /// There are none.
    Gone,
    /// Its registry does not answer.
    Unreachable,
    /// Its registry's answer is suspicious.
    Suspicious,
}

/// One instance, as a site tells of it. The site is that which tells, whatever the metadata says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its node in that site's registry.
    pub node: String,
    /// Its id on that node.
    pub id: String,
    /// IP address or host name.
    pub address: String,
    /// The port.
    pub port: u16,
    /// Its health.
    #[serde(default = "passing", skip_serializing_if = "is_passing")]
    pub status: CheckStatus,
    /// Its weight.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// Metadata, as much of it as is sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Tags, as many as are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// In maintenance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance: bool,
}

const fn passing() -> CheckStatus {
    CheckStatus::Passing
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_passing(status: &CheckStatus) -> bool {
    *status == CheckStatus::Passing
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_one(weight: &u32) -> bool {
    *weight == 1
}

/// What identifies an instance, in the order in which lists are kept.
type Order<'a> = (&'a str, &'a str, &'a str, u16);

const fn order(instance: &Instance) -> Order<'_> {
    (instance.node.as_str(), instance.id.as_str(), instance.address.as_str(), instance.port)
}

const fn order_of(key: &InstanceKey) -> Order<'_> {
    (key.node.as_str(), key.id.as_str(), key.address.as_str(), key.port)
}

/// What a limit of this module left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Instances that are not told.
    pub(super) instances: u64,
    /// Instances that are sent without some of their metadata or tags.
    pub(super) labels: u64,
}

impl Instance {
    /// Of an endpoint; `None` if its identity is too long to be told.
    fn of(endpoint: &Endpoint, cut: &mut Cut) -> Option<Self> {
        if [&endpoint.node, &endpoint.id, &endpoint.address].iter().any(|it| it.len() > MAX_WORD) {
            cut.instances += 1;
            return None;
        }
        let (meta, tags) = (meta_of(endpoint), tags_of(endpoint));
        let site = usize::from(endpoint.meta.contains_key(SITE));
        if meta.len() + site < endpoint.meta.len() || tags.len() < endpoint.tags.len() {
            cut.labels += 1;
        }
        Some(Self {
            node: endpoint.node.clone(),
            id: endpoint.id.clone(),
            address: endpoint.address.clone(),
            port: endpoint.port,
            status: endpoint.status,
            weight: endpoint.weight,
            meta,
            tags,
            maintenance: endpoint.maintenance,
        })
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> InstanceKey {
        InstanceKey {
            node: self.node.clone(),
            id: self.id.clone(),
            address: self.address.clone(),
            port: self.port,
        }
    }

    fn endpoint(&self, service: &str, site: &Name) -> Endpoint {
        let mut meta = self.meta.clone();
        meta.insert(SITE.to_owned(), site.to_string());
        Endpoint {
            node: self.node.clone(),
            node_address: self.address.clone(),
            external: false,
            service: service.to_owned(),
            id: self.id.clone(),
            address: self.address.clone(),
            port: self.port,
            tags: self.tags.clone(),
            meta,
            weight: self.weight,
            status: self.status,
            maintenance: self.maintenance,
            create_index: Index(0),
            modify_index: Index(0),
        }
    }

    fn fits(&self) -> bool {
        let labels = |texts: &mut dyn Iterator<Item = usize>| texts.sum::<usize>() <= MAX_LABELS;
        [&self.node, &self.id, &self.address].iter().all(|it| it.len() <= MAX_WORD)
            && labels(&mut self.meta.iter().map(|(name, value)| name.len() + value.len()))
            && labels(&mut self.tags.iter().map(String::len))
    }
}

/// The key of the metadata that names the site of an instance.
const SITE: &str = "site";
/// The key of the metadata by which drains recognise a new process.
const BOOT: &str = "boot";

/// As much of the metadata as is sent, `boot` first.
fn meta_of(endpoint: &Endpoint) -> BTreeMap<String, String> {
    let boot = endpoint.meta.get_key_value(BOOT);
    let others = endpoint.meta.iter().filter(|(name, _)| !matches!(name.as_str(), BOOT | SITE));
    let mut room = MAX_LABELS;
    let fitting =
        boot.into_iter().chain(others).filter(|(name, value)| take(&mut room, name.len() + value.len()));
    fitting.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn tags_of(endpoint: &Endpoint) -> Vec<String> {
    let mut room = MAX_LABELS;
    endpoint.tags.iter().filter(|tag| take(&mut room, tag.len())).cloned().collect()
}

const fn take(room: &mut usize, size: usize) -> bool {
    let fits = size <= *room;
    if fits {
        *room -= size;
    }
    fits
}

/// What a site tells of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// How the site judges its registry's answer.
    pub value: Value,
    /// Why, where the value is a bad one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The instances, in the order of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
}

impl Told {
    /// What a site tells of an entry of its own registry.
    pub(crate) fn of(entry: &Entry) -> (Self, Cut) {
        let (value, reason) = match &entry.standing {
            Standing::Unread => (Value::Unread, ""),
            Standing::Present => (Value::Present, ""),
            Standing::Gone => (Value::Gone, ""),
            Standing::Unreachable { reason } => (Value::Unreachable, reason.as_str()),
            Standing::Suspicious { reason, .. } => (Value::Suspicious, reason.as_str()),
        };
        let mut cut = Cut::default();
        let mut instances = Vec::new();
        if value != Value::Unread {
            instances.extend(entry.endpoints.iter().filter_map(|it| Instance::of(it, &mut cut)));
        }
        instances.sort_by(|a, b| order(a).cmp(&order(b)));
        instances.dedup_by(|a, b| order(a) == order(b));
        // Room for the name, the value and the reason is left.
        let mut room = MAX_SERVICE - 4 * 1024;
        let all = instances.len();
        instances.retain(|it| take(&mut room, size(it) + 1));
        cut.instances += (all - instances.len()) as u64;
        (Self { value, reason: shortened(reason), instances }, cut)
    }

    /// The same as a discovery entry of the site that tells, whose name all instances get as theirs.
    #[must_use]
    pub fn entry(&self, service: &str, site: &Name) -> Entry {
        let reason = self.reason.clone();
        let count = self.instances.len();
        let standing = match self.value {
            Value::Unread => Standing::Unreachable { reason: "its site has not read it yet".to_owned() },
            Value::Present => Standing::Present,
            Value::Gone => Standing::Gone,
            Value::Unreachable => Standing::Unreachable { reason },
            Value::Suspicious => Standing::Suspicious { reason, index: Index(0), count },
        };
        let endpoints = self.instances.iter().map(|it| it.endpoint(service, site)).collect();
        Entry { endpoints, standing, ..Entry::default() }
    }

    fn position(&self, wanted: Order<'_>) -> Result<usize, usize> {
        self.instances.binary_search_by(|it| order(it).cmp(&wanted))
    }
}

fn shortened(reason: &str) -> String {
    reason.chars().take(MAX_REASON / 4).collect()
}

/// The size of a value as JSON.
pub(super) fn size(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |it| it.len())
}

/// A change of what a site tells of one service. Its content is absolute: applied twice, it has the effect of once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The service, by its name in the registry.
    pub service: String,
    /// The new value and its reason; absent: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<(Value, String)>,
    /// `set` holds all instances: others are gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// New and changed instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Instance>,
    /// Instances that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<InstanceKey>,
    /// The site tells of this service no longer: no document names it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

impl Change {
    /// What changed between two states of a service; `None` if nothing did.
    #[must_use]
    pub fn between(service: &str, previous: Option<&Told>, next: Option<&Told>) -> Option<Self> {
        let change = Self { service: service.to_owned(), ..Self::default() };
        let Some(next) = next else {
            return previous.map(|_| Self { dropped: true, ..change });
        };
        let moved = previous.is_none_or(|it| (it.value, &it.reason) != (next.value, &next.reason));
        let value = moved.then(|| (next.value, next.reason.clone()));
        let known = previous.filter(|it| it.value != Value::Unread);
        let change = match known {
            _ if next.value == Value::Unread => Self { value, ..change },
            // Readers may have instances from an earlier time, so these are all.
            None => Self { value, all: true, set: next.instances.clone(), ..change },
            Some(previous) => {
                let same = |it: &&Instance| {
                    previous.position(order(it)).is_ok_and(|at| previous.instances.get(at) == Some(*it))
                };
                let set = next.instances.iter().filter(|it| !same(it)).cloned().collect();
                let gone = previous.instances.iter().filter(|it| next.position(order(it)).is_err());
                Self { value, set, gone: gone.map(Instance::key).collect(), ..change }
            }
        };
        (change.value.is_some() || change.all || !change.set.is_empty() || !change.gone.is_empty())
            .then_some(change)
    }

    /// The whole of a service.
    pub(super) fn whole(service: &str, told: &Told) -> Self {
        let value = Some((told.value, told.reason.clone()));
        let all = told.value != Value::Unread;
        let set = if all { told.instances.clone() } else { Vec::new() };
        Self { service: service.to_owned(), value, all, set, ..Self::default() }
    }

    /// What is wrong with a change from outside.
    pub(super) fn fault(&self) -> Option<String> {
        let short = |text: &str| text.len() <= MAX_REASON;
        let key = |it: &InstanceKey| [&it.node, &it.id, &it.address].iter().all(|it| it.len() <= MAX_WORD);
        if self.service.is_empty() || self.service.len() > MAX_WORD {
            return Some(format!("a service has a name of {} bytes", self.service.len()));
        }
        let fits = self.set.iter().all(Instance::fits)
            && self.gone.iter().all(key)
            && self.value.as_ref().is_none_or(|(_, reason)| short(reason))
            && size(self) <= MAX_SERVICE + 16 * 1024;
        (!fits).then(|| format!("what was sent of the service {:?} is too long", self.service))
    }
}

/// What a site tells of all its services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    services: BTreeMap<String, Arc<Told>>,
}

impl State {
    /// What is sent of a service.
    #[must_use]
    pub fn get(&self, service: &str) -> Option<&Arc<Told>> {
        self.services.get(service)
    }

    /// Every service with what was sent of it.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Told>)> {
        self.services.iter()
    }

    /// The services after one, in order.
    pub(super) fn after(&self, service: Option<&str>) -> impl Iterator<Item = (&String, &Arc<Told>)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.services.range::<str, _>((service.map_or(Unbounded, Excluded), Unbounded))
    }

    /// The number of services.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Replaces what was sent of a service.
    pub(super) fn put(&mut self, service: String, told: Arc<Told>) {
        self.services.insert(service, told);
    }

    /// Applies a change; false if a limit left out some of it.
    pub fn apply(&mut self, change: &Change) -> bool {
        if change.dropped {
            self.services.remove(&change.service);
            return true;
        }
        if !self.services.contains_key(&change.service) {
            if self.services.len() >= MAX_SERVICES {
                return false;
            }
            self.services.insert(change.service.clone(), Arc::default());
        }
        let Some(told) = self.services.get_mut(&change.service) else { return false };
        let told = Arc::make_mut(told);
        if let Some((value, reason)) = &change.value {
            (told.value, told.reason) = (*value, reason.clone());
        }
        if change.all {
            told.instances.clear();
        }
        for key in &change.gone {
            if let Ok(at) = told.position(order_of(key)) {
                told.instances.remove(at);
            }
        }
        for instance in &change.set {
            match told.position(order(instance)) {
                Ok(at) => told.instances[at] = instance.clone(),
                Err(at) => told.instances.insert(at, instance.clone()),
            }
        }
        true
    }
}

impl FromIterator<(String, Arc<Told>)> for State {
    fn from_iter<T: IntoIterator<Item = (String, Arc<Told>)>>(services: T) -> Self {
        Self { services: services.into_iter().take(MAX_SERVICES).collect() }
    }
}

/// Where the gateways of a site listen, as the heartbeats of its nodes say.
#[must_use]
pub fn gateways_of<'a>(heartbeats: impl IntoIterator<Item = &'a NodeHeartbeat>, site: &str) -> Gateways {
    let mut gateways = Gateways::new();
    let ours = heartbeats.into_iter().filter(|it| it.site == site);
    for Listening { cluster, ports } in ours.filter_map(|it| it.listening.as_ref()) {
        if gateways.len() >= MAX_GATEWAYS && !gateways.contains_key(cluster) {
            continue;
        }
        let known: &mut Vec<u16> = gateways.entry(cluster.clone()).or_default();
        for port in ports.iter().take(Listening::MAX_PORTS) {
            if known.len() < MAX_GATEWAYS && !known.contains(port) {
                known.push(*port);
            }
        }
    }
    gateways
}

/// What is wrong with gateways from outside.
pub(super) fn fault_of_gateways(gateways: &Gateways) -> Option<String> {
    let many = gateways.len() > MAX_GATEWAYS || gateways.values().any(|ports| ports.len() > MAX_GATEWAYS);
    many.then(|| format!("gateways of {} clusters: expected at most {MAX_GATEWAYS}", gateways.len()))
}
