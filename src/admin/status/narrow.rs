//! The part of a status that is about one domain, host name, service or site. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{admin::domain_name, api::Status};

/// The part of a status that is about a name; `None` if nothing has this name. A site comes with what is at it, a domain
/// with its sites, a service with the domains that lead to it. `sites` are the configured sites, which may be empty.
pub(super) fn to(status: Status, name: &str, sites: &[&str]) -> Option<Status> {
    let mut status = about(status, name, sites)?;
    let drains: BTreeSet<String> = status.drains.iter().map(|it| it.drain.id.to_string()).collect();
    status.drained_still_registered.retain(|it| drains.contains(&it.drain));
    Some(status)
}

fn about(status: Status, name: &str, sites: &[&str]) -> Option<Status> {
    let name = domain_name(name);
    let about = Some(name.clone());
    let is_site = sites.contains(&name.as_str())
        || status.nodes.iter().any(|it| it.site == name)
        || status.targets.iter().any(|it| it.site == name)
        || status.domains.iter().any(|it| it.sites.iter().any(|site| site.site == name));
    let service = status.services.iter().find(|it| it.name == name || it.hosts.contains(&name)).cloned();
    let is_domain = status.domains.iter().any(|it| it.name == name);
    if is_site && service.is_none() && !is_domain {
        return Some(site(Status { about, ..status }, &name));
    }
    let mut domains: BTreeSet<String> = BTreeSet::from([name]);
    if let Some(service) = &service {
        domains.extend(service.uuid_domain.iter().chain(&service.entrance).cloned());
    } else if !is_domain {
        return None;
    }
    let mut status = Status { about, ..status };
    status.domains.retain(|it| domains.contains(&it.name));
    status.switches.retain(|it| domains.contains(&it.domain));
    let sites: BTreeSet<&String> =
        status.domains.iter().flat_map(|it| &it.sites).map(|it| &it.site).collect();
    let (targets, nodes) = (&mut status.targets, &mut status.nodes);
    targets.retain(|it| sites.contains(&it.site));
    nodes.retain(|it| sites.contains(&it.site));
    match service {
        Some(service) => {
            status.drains.retain(|it| it.drain.service == service.registry);
            status.cnames_to_set.retain(|it| service.hosts.contains(&it.host));
            status.services = vec![service];
        }
        None => {
            // The gateway domain leads to every service, so it selects none of them.
            let own = |it: &Option<String>| it.as_ref().is_some_and(|it| domains.contains(it));
            status.services.retain(|it| own(&it.uuid_domain));
            let services: BTreeSet<&String> = status.services.iter().map(|it| &it.registry).collect();
            status.drains.retain(|it| services.contains(&it.drain.service));
            status.cnames_to_set.retain(|it| domains.contains(&it.target));
        }
    }
    Some(status)
}

fn site(mut status: Status, name: &str) -> Status {
    status.domains.retain(|it| it.sites.iter().any(|site| site.site == name));
    status.targets.retain(|it| it.site == name);
    status.nodes.retain(|it| it.site == name);
    status.services.clear();
    status.cnames_to_set.clear();
    let at_site = |meta: &BTreeMap<String, String>| meta.get("site").is_some_and(|site| site == name);
    status.drains.retain(|it| at_site(&it.drain.endpoint.meta));
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DomainSite, DomainStatus, DrainView, NodeStatus, ServiceStatus, StillRegistered};

    fn world() -> Status {
        let domain = |name: &str, sites: &[&str]| DomainStatus {
            name: name.into(),
            sites: sites
                .iter()
                .map(|it| DomainSite { site: (*it).into(), ..DomainSite::default() })
                .collect(),
            ..DomainStatus::default()
        };
        let node = |name: &str, site: &str| NodeStatus {
            node: name.into(),
            site: site.into(),
            ..NodeStatus::default()
        };
        let service = |name: &str| ServiceStatus {
            name: name.into(),
            registry: format!("{name}-registry"),
            hosts: vec![format!("{name}.example.org")],
            uuid_domain: Some(format!("{name}-uuid.example.com")),
            entrance: Some("gw.example.com".into()),
            ..ServiceStatus::default()
        };
        Status {
            domains: vec![
                domain("gw.example.com", &["bj", "sh"]),
                domain("web-uuid.example.com", &["bj"]),
                domain("pay-uuid.example.com", &["sh"]),
            ],
            nodes: vec![node("gw-bj", "bj"), node("gw-sh", "sh")],
            services: vec![service("web"), service("pay")],
            ..Status::default()
        }
    }

    #[test]
    fn drained_instances_of_others_are_not_shown() {
        let held = |id: &str| StillRegistered {
            service: "web-registry".into(),
            instance: "w-1".into(),
            node: "n".into(),
            address: "192.0.2.1:80".into(),
            refused_by: ["gw-bj".to_owned()].into(),
            drain: id.into(),
            let_in: format!("waypost drain cancel {id}"),
        };
        let drain = |id: &str, service: &str, site: &str| -> DrainView {
            serde_json::from_value(serde_json::json!({
                "v": 2, "id": id, "service": service, "instance": "w-1", "by": "ops", "lease": "60s",
                "created": "2026-11-26T17:00:00Z", "since": "2026-11-26T17:00:00Z", "phase": "done",
                "endpoint": {
                    "node": "n", "node_address": "192.0.2.1", "external": false, "service": service, "id": "w-1",
                    "address": "192.0.2.1", "port": 80, "tags": [], "meta": { "site": site }, "weight": 1,
                    "status": "passing", "maintenance": false, "create_index": 1, "modify_index": 1,
                },
                "address": "192.0.2.1:80", "receipts": [], "awaited": [], "hook_state": "none",
            }))
            .unwrap()
        };
        let shown = |about: &str| {
            let status = Status {
                drains: vec![drain("d1", "web-registry", "bj"), drain("d2", "pay-registry", "sh")],
                drained_still_registered: vec![held("d1"), held("d2")],
                ..world()
            };
            let held = to(status, about, &["bj", "sh", "gz"]).unwrap().drained_still_registered;
            held.into_iter().map(|it| it.drain).collect::<Vec<_>>()
        };
        assert_eq!([shown("web"), shown("bj")], [["d1"], ["d1"]]);
        assert_eq!([shown("pay"), shown("sh")], [["d2"], ["d2"]]);
        assert!(shown("gw.example.com").is_empty());
    }

    fn shown(about: &str) -> Option<(Vec<String>, Vec<String>, Vec<String>)> {
        let status = to(world(), about, &["bj", "sh", "gz"])?;
        assert_eq!(status.about.as_deref(), Some(about.trim_end_matches('.').to_lowercase().as_str()));
        let domains = status.domains.into_iter().map(|it| it.name.replace(".example.com", ""));
        let nodes = status.nodes.into_iter().map(|it| it.node);
        let services = status.services.into_iter().map(|it| it.name);
        Some((domains.collect(), nodes.collect(), services.collect()))
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_name_is_a_domain_a_service_its_host_or_a_site() {
        let service = (words("gw web-uuid"), words("gw-bj gw-sh"), words("web"));
        assert_eq!(shown("web"), Some(service.clone()));
        assert_eq!(shown("web.example.org"), Some(service.clone()));
        assert_eq!(shown("Web.example.org."), Some(service));
        assert_eq!(shown("bj"), Some((words("gw web-uuid"), words("gw-bj"), vec![])));
        assert_eq!(shown("gw.example.com"), Some((words("gw"), words("gw-bj gw-sh"), vec![])));
        assert_eq!(shown("pay-uuid.example.com"), Some((words("pay-uuid"), words("gw-sh"), words("pay"))));
        assert_eq!(shown("gz"), Some((vec![], vec![], vec![])), "a site that has nothing yet");
        assert_eq!(shown("nothing"), None);
    }
}
