//! The services, their instances, and what is known of each instance.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use store::{
    discovery::{Entry, InstanceNote, Standing},
    engine::{CheckStatus, Endpoint},
    model::{Moment, Service},
    snapshot::Snapshot,
};

use crate::{
    admin::Admin,
    api::{InstanceCount, InstanceStatus, ServiceStatus, Status},
};

/// How long the registry may take to name a service's instances.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn services(admin: &Admin, snapshot: &Snapshot) -> Vec<ServiceStatus> {
    let notes = admin.control.nodes().instances();
    let with_notes = |service: &Arc<Service>| {
        let noted = notes.get(&service.consul.service).map_or_else(Vec::new, |notes| noted(notes));
        one(admin, snapshot, service, noted)
    };
    snapshot.services.iter().map(with_notes).collect()
}

fn one(
    admin: &Admin,
    snapshot: &Snapshot,
    service: &Arc<Service>,
    noted: Vec<InstanceStatus>,
) -> ServiceStatus {
    let entry = admin.handle.service(&service.consul.service).load();
    let zone = snapshot.clusters.get(&service.cluster).map(|cluster| cluster.zone.clone());
    let uuid = service.uuid.zip(zone).map(|(uuid, zone)| format!("{uuid}.{zone}"));
    let known = (entry.standing != Standing::Unread).then(|| count(admin, snapshot, entry.all(), &noted));
    let (standing, reason) = standing(&entry);
    ServiceStatus {
        name: service.name.to_string(),
        registry: service.consul.service.clone(),
        hosts: service.hosts.iter().map(ToString::to_string).collect(),
        uuid_domain: uuid,
        entrance: snapshot.entrance(service).map(|it| it.to_string()),
        standing: standing.to_owned(),
        reason,
        known,
        instances: noted,
    }
}

fn standing(entry: &Entry) -> (&'static str, Option<String>) {
    match &entry.standing {
        Standing::Unread => ("unread", None),
        Standing::Present => ("present", None),
        Standing::Gone => ("gone", None),
        Standing::Unreachable { reason } => ("unreachable", Some(reason.clone())),
        Standing::Suspicious { reason, .. } => ("suspicious", Some(reason.clone())),
    }
}

/// Counts instances; `noted` is what nodes report of them.
fn count<'a>(
    admin: &Admin,
    snapshot: &Snapshot,
    endpoints: impl Iterator<Item = &'a Endpoint>,
    noted: &[InstanceStatus],
) -> InstanceCount {
    let mut count = InstanceCount { all: 0, usable: 0 };
    for endpoint in endpoints {
        count.all += 1;
        count.usable += usize::from(is_usable(&instance(admin, snapshot, endpoint), noted));
    }
    count
}

/// True if requests may be sent to the instance, according to the registry and to what nodes report.
fn is_usable(instance: &InstanceStatus, noted: &[InstanceStatus]) -> bool {
    let unused = |note: &InstanceStatus| {
        note.state == "unused" && (&note.id, &note.node) == (&instance.id, &instance.node)
    };
    matches!(instance.state.as_str(), "passing" | "warning") && !noted.iter().any(unused)
}

/// Lists the instances of the services that are shown. Services that this node does not follow are read from the registry.
pub(super) async fn list(admin: &Admin, snapshot: &Snapshot, status: &mut Status) {
    for service in &mut status.services {
        let entry = admin.handle.service(&service.registry).load();
        let mut endpoints: Vec<Endpoint> = entry.all().cloned().collect();
        if entry.standing == Standing::Unread {
            let read = tokio::time::timeout(REGISTRY_PATIENCE, admin.engine.health(&service.registry, None));
            match read.await {
                Ok(Ok(read)) => {
                    let away = Entry { endpoints: read.value, ..entry.as_ref().clone() };
                    endpoints = away.all().cloned().collect();
                }
                Ok(Err(error)) => service.reason = Some(format!("the registry cannot be read: {error}")),
                Err(_) => service.reason = Some("the registry does not answer".to_owned()),
            }
            if service.reason.is_none() {
                service.known = Some(count(admin, snapshot, endpoints.iter(), &service.instances));
            }
        }
        let noted = std::mem::take(&mut service.instances);
        service.instances = endpoints.iter().map(|it| instance(admin, snapshot, it)).collect();
        for note in noted {
            let same = |it: &&mut InstanceStatus| (&it.id, &it.node) == (&note.id, &note.node);
            match service.instances.iter_mut().find(same) {
                Some(known) => *known = InstanceStatus { site: known.site.take(), ..note },
                None => service.instances.push(note),
            }
        }
        service.instances.sort_by(|a, b| (&a.site, &a.id, &a.node).cmp(&(&b.site, &b.id, &b.node)));
    }
}

/// An instance in one state, and the earliest moment since which one of the nodes reports it.
type Noted = (InstanceStatus, Option<Moment>);

/// What nodes report of a service's instances, combined by instance and state.
fn noted(notes: &[(String, InstanceNote)]) -> Vec<InstanceStatus> {
    let mut all: BTreeMap<(&str, &str, &str, &str), Noted> = BTreeMap::new();
    for (node, note) in notes {
        let key = (note.id.as_str(), note.node.as_str(), note.address.as_str(), note.state.as_str());
        let (status, since) = all.entry(key).or_insert_with(|| {
            let status = InstanceStatus {
                id: note.id.clone(),
                node: note.node.clone(),
                address: note.address.clone(),
                state: note.state.clone(),
                reason: Some(note.reason.clone()),
                dial: note.dial.clone(),
                ..InstanceStatus::default()
            };
            (status, note.since)
        });
        status.seen_by.push(node.clone());
        *since = since.iter().chain(&note.since).min().copied();
    }
    let shown = |(status, since): Noted| InstanceStatus { since: since.map(Moment::rfc3339), ..status };
    all.into_values().map(shown).collect()
}

fn instance(admin: &Admin, snapshot: &Snapshot, endpoint: &Endpoint) -> InstanceStatus {
    let site = endpoint.meta.get("site").cloned();
    let lost = site.as_ref().filter(|name| !snapshot.sites.iter().any(|it| it.name.as_str() == **name));
    let drains = admin.handle.drains();
    let shut = drains.borrow().excluding(endpoint, admin.handle.now()).map(|drain| drain.id.to_string());
    let (state, reason) = if let Some(drain) = shut {
        ("draining", Some(format!("drain {drain} keeps gateways from it")))
    } else if endpoint.maintenance {
        ("maintenance", Some("it or its node is in maintenance".to_owned()))
    } else if let Some(site) = lost {
        ("unusable", Some(format!("its Meta.site is {site}, and there is no such Site: it is never used")))
    } else if endpoint.port == 0 {
        ("unusable", Some("it is registered without a port: it is never used".to_owned()))
    } else {
        match endpoint.status {
            CheckStatus::Passing => ("passing", None),
            CheckStatus::Warning => ("warning", Some("a check of it or of its node warns".to_owned())),
            CheckStatus::Critical => ("critical", Some("a check of it or of its node fails".to_owned())),
        }
    };
    let address = match endpoint.address.contains(':') {
        true => format!("[{}]:{}", endpoint.address, endpoint.port),
        false => format!("{}:{}", endpoint.address, endpoint.port),
    };
    InstanceStatus {
        id: endpoint.id.clone(),
        node: endpoint.node.clone(),
        address,
        site,
        state: state.to_owned(),
        reason,
        ..InstanceStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_nodes_do_not_use_is_not_usable() {
        let at = |id: &str, state: &str| InstanceStatus {
            id: id.to_owned(),
            node: "n1".to_owned(),
            state: state.to_owned(),
            ..InstanceStatus::default()
        };
        let noted = [at("h/2", "unused"), at("h/3", "doubtful")];
        assert!(!is_usable(&at("h/2", "passing"), &noted));
        assert!(is_usable(&at("h/3", "passing"), &noted), "it is used while it answers");
        assert!(is_usable(&at("h/1", "warning"), &noted));
        assert!(!is_usable(&at("h/1", "critical"), &noted));
        let elsewhere = InstanceStatus { node: "n2".to_owned(), ..at("h/2", "passing") };
        assert!(is_usable(&elsewhere, &noted), "another instance of the same id");
    }
}
