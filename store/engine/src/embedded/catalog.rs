//! Nodes, instances and checks: registering and removing them, reporting checks.

use std::{sync::Arc, time::Duration};

use super::{
    rows::{CheckRow, NodeRow, Row, RowKey, ServiceRow},
    sessions,
    txn::{TimerKey, Txn, altered},
};
use crate::CheckStatus;

/// Consul reaps critical services no earlier than this.
const MIN_REAP: Duration = Duration::from_secs(60);

/// Registers a node or changes it.
pub(crate) fn put_node(txn: &mut Txn<'_>, mut node: NodeRow) -> Arc<NodeRow> {
    let index = txn.index();
    let there = txn.tables().nodes.get(&node.name).cloned();
    (node.create, node.modify) = there.as_ref().map_or((index, index), |it| (it.create, it.modify));
    if let Some(there) = there {
        if *there == node {
            return there;
        }
        node.modify = index;
    }
    let node = Arc::new(node);
    txn.put(Row::Node(Arc::clone(&node)));
    node
}

/// Registers an instance or changes it. Its node has to exist.
pub(crate) fn put_service(txn: &mut Txn<'_>, mut service: ServiceRow) -> Arc<ServiceRow> {
    let index = txn.index();
    let there = txn.tables().service(&service.node, &service.id).cloned();
    service.create = there.as_ref().map_or(index, |it| it.create);
    service.modify = index;
    if let Some(there) = &there {
        if service.same_as(there) {
            return Arc::clone(there);
        }
        rename_checks(txn, &service);
    }
    let service = Arc::new(service);
    txn.put(Row::Service(Arc::clone(&service)));
    service
}

/// Checks carry the name and the tags of their instance.
fn rename_checks(txn: &mut Txn<'_>, service: &ServiceRow) {
    let stale = |check: &&Arc<CheckRow>| {
        check.service_id == service.id
            && (check.service_name != service.name || check.service_tags != service.tags)
    };
    let checks: Vec<_> = txn.tables().checks_on(&service.node).filter(stale).cloned().collect();
    let index = txn.index();
    for check in checks {
        let renamed = altered(&check, |check| {
            check.service_name.clone_from(&service.name);
            check.service_tags.clone_from(&service.tags);
            check.modify = index;
        });
        txn.put(Row::Check(renamed));
    }
}

/// Registers a check or changes it; one that names an instance takes the instance's name and tags.
///
/// # Errors
/// When it names an instance that its node does not have.
pub(crate) fn put_check(txn: &mut Txn<'_>, mut check: CheckRow) -> Result<Arc<CheckRow>, String> {
    if !check.service_id.is_empty() {
        let Some(service) = txn.tables().service(&check.node, &check.service_id) else {
            return Err(format!("ServiceID {:?} does not exist", check.service_id));
        };
        check.service_name.clone_from(&service.name);
        check.service_tags.clone_from(&service.tags);
    }
    let index = txn.index();
    let there = txn.tables().check(&check.node, &check.id).cloned();
    check.create = there.as_ref().map_or(index, |it| it.create);
    check.modify = there.as_ref().map_or(index, |it| it.modify);
    set_timers(txn, &check, there.as_ref().map(|it| it.status));
    if let Some(there) = &there
        && check.same_as(there)
    {
        if check.output != there.output {
            txn.put_quietly(Row::Check(Arc::new(check)));
        }
        return Ok(Arc::clone(there));
    }
    check.modify = index;
    let check = Arc::new(check);
    txn.put(Row::Check(Arc::clone(&check)));
    if check.status == CheckStatus::Critical {
        sessions::destroy_bound_to(txn, &check.node, Some(&check.id));
    }
    Ok(check)
}

/// Starts or stops the timers that belong to a check's state.
pub(crate) fn set_timers(txn: &mut Txn<'_>, check: &CheckRow, before: Option<CheckStatus>) {
    let name = || (check.node.clone(), check.id.clone());
    let ((node, id), (reaped_node, reaped_id)) = (name(), name());
    let (ttl, reap) = (TimerKey::Ttl(node, id), TimerKey::Reap(reaped_node, reaped_id));
    match check.ttl {
        Some(after) if check.status != CheckStatus::Critical || before != Some(CheckStatus::Critical) => {
            txn.arm(ttl, after);
        }
        Some(_) => {}
        None => txn.disarm(ttl),
    }
    match check.deregister_after {
        Some(after) if check.status == CheckStatus::Critical => {
            if before != Some(CheckStatus::Critical) {
                txn.arm(reap, after.max(MIN_REAP));
            }
        }
        _ => txn.disarm(reap),
    }
}

/// Reports a TTL check; false when there is none of that name.
pub(crate) fn report(txn: &mut Txn<'_>, node: &str, id: &str, status: CheckStatus, output: &str) -> bool {
    let Some(check) = txn.tables().check(node, id).filter(|check| check.ttl.is_some()).cloned() else {
        return false;
    };
    let reported = altered(&check, |check| {
        check.status = status;
        output.clone_into(&mut check.output);
    });
    // The check exists, so its instance does.
    let _ = put_check(txn, CheckRow::clone(&reported));
    true
}

/// Removes a check if it exists.
pub(crate) fn remove_check(txn: &mut Txn<'_>, node: &str, id: &str) {
    for key in [TimerKey::Ttl, TimerKey::Reap] {
        txn.disarm(key(node.to_owned(), id.to_owned()));
    }
    txn.remove(RowKey::Check(node.to_owned(), id.to_owned()));
    sessions::destroy_bound_to(txn, node, Some(id));
}

/// Removes an instance with its checks, if it exists.
pub(crate) fn remove_service(txn: &mut Txn<'_>, node: &str, id: &str) {
    let of = |check: &&Arc<CheckRow>| !check.service_id.is_empty() && check.service_id == id;
    let checks: Vec<_> = txn.tables().checks_on(node).filter(of).map(|it| it.id.clone()).collect();
    for check in checks {
        remove_check(txn, node, &check);
    }
    txn.remove(RowKey::Service(node.to_owned(), id.to_owned()));
}

/// Removes a node with everything on it.
pub(crate) fn remove_node(txn: &mut Txn<'_>, node: &str) {
    let services: Vec<_> = txn.tables().services_on(node).map(|it| it.id.clone()).collect();
    for id in services {
        remove_service(txn, node, &id);
    }
    let checks: Vec<_> = txn.tables().checks_on(node).map(|it| it.id.clone()).collect();
    for id in checks {
        remove_check(txn, node, &id);
    }
    sessions::destroy_bound_to(txn, node, None);
    txn.remove(RowKey::Node(node.to_owned()));
}

/// Does what a timer was set for.
pub(crate) fn run_timer(txn: &mut Txn<'_>, timer: &TimerKey) {
    match timer {
        TimerKey::Ttl(node, id) => {
            report(txn, node, id, CheckStatus::Critical, "TTL expired");
        }
        TimerKey::Reap(node, id) => {
            let critical = |check: &&Arc<CheckRow>| check.status == CheckStatus::Critical;
            if let Some(check) = txn.tables().check(node, id).filter(critical).cloned() {
                tracing::info!(
                    node,
                    check = id,
                    service = check.service_id,
                    "critical for too long, deregistered"
                );
                remove_service(txn, node, &check.service_id);
            }
        }
        TimerKey::Session(id) => sessions::destroy(txn, id),
    }
}
