//! Which instances the gateway dials by itself, and how: by the check of their service, as its document says.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use store::{
    Handle,
    dial::{Dialer, Handshake},
    engine::Endpoint,
    model::{Check, Moment, Service},
    snapshot::Snapshot,
};

use super::{Instances, settings};
use crate::{
    health::{
        Changes, Dials,
        active::{self, Connections, Plan, Surroundings},
    },
    instance::Instance,
    service::connections::InstanceTls,
    tls,
};

/// Dials the instances in use until it is dropped. Without a dialler a TCP connection decides.
pub(crate) async fn dial_instances(
    handle: &Handle,
    instances: &Instances,
    tls: &tls::Backends,
    dialer: Option<Arc<dyn Dialer>>,
) {
    let gateway = Gateway { handle, instances, tls, snapshot: ArcSwapOption::empty() };
    active::run(&gateway, &dialer.unwrap_or_else(|| Arc::new(Connections))).await;
}

/// A gateway's instances, with the documents of a round over them.
#[derive(Debug)]
struct Gateway<'a> {
    handle: &'a Handle,
    instances: &'a Instances,
    tls: &'a tls::Backends,
    snapshot: ArcSwapOption<Snapshot>,
}

impl Surroundings for Gateway<'_> {
    type Instance = Instance;

    fn now(&self) -> Moment {
        self.handle.now()
    }

    fn changes(&self) -> &Changes {
        &self.instances.changes
    }

    fn in_use(&self, each: &mut dyn FnMut(&Arc<Instance>)) {
        self.snapshot.store(self.handle.snapshot());
        self.instances.for_each(each);
    }

    fn plan(&self, instance: &Instance) -> Option<Plan> {
        plan(&instance.endpoint, self.snapshot.load().as_deref()?)
    }

    fn tls(&self, instance: &Instance) -> Option<Arc<dyn Handshake>> {
        let snapshot = self.snapshot.load();
        let (service, _) = checked(&instance.endpoint, snapshot.as_deref()?)?;
        // The table has it, so no file is read here.
        let tls = InstanceTls::of(service, self.tls)?;
        Some(Arc::new(tls.identity(&instance.endpoint)))
    }
}

/// The services that take an instance.
fn taking<'s>(endpoint: &'s Endpoint, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s Arc<Service>> {
    let takes = |it: &&Arc<Service>| it.consul.tags.iter().all(|tag| endpoint.tags.contains(tag));
    snapshot.services_in_registry(&endpoint.service).iter().filter(takes)
}

/// The first of the services that take an instance and name a check, with that check.
fn checked<'s>(endpoint: &'s Endpoint, snapshot: &'s Snapshot) -> Option<(&'s Arc<Service>, &'s Arc<Check>)> {
    if super::stands_for_site(endpoint) {
        return None;
    }
    // A check does not begin with a PROXY header, so the instance would take none of ours.
    let mut open = taking(endpoint, snapshot).filter(|it| it.proxy_protocol.is_none());
    open.find_map(|service| Some((service, snapshot.checks.get(service.check.as_ref()?)?)))
}

/// How an instance is dialled: by the first of the services that take it and name a check.
fn plan(endpoint: &Endpoint, snapshot: &Snapshot) -> Option<Plan> {
    let usual = || Plan { check: None, dials: Dials::default() };
    if super::stands_for_site(endpoint) {
        // A gateway of another site is no instance, and the check of one says nothing about it.
        return snapshot.services_in_registry(&endpoint.service).first().map(|_| usual());
    }
    match checked(endpoint, snapshot) {
        Some((service, check)) => Some(Plan {
            check: Some((settings::dials_every(service, check), Arc::clone(check))),
            dials: Dials { fall: check.fall, rise: check.rise },
        }),
        None => taking(endpoint, snapshot).next().map(|_| usual()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use store::{
        model::{Health, ProxyProtocol, Quorum, Span},
        testing,
    };

    use super::*;
    use crate::testing::{endpoint, name, snapshot, sources};

    fn planned(change: impl FnOnce(&mut Service), endpoint: &Endpoint) -> Option<Plan> {
        let mut sources = sources();
        let check = testing::check(Quorum::Majority);
        sources.services[0].check = Some(check.name.clone());
        sources.checks.push(check);
        change(&mut sources.services[0]);
        plan(endpoint, &snapshot(sources))
    }

    fn every(plan: Option<Plan>) -> Option<Option<Duration>> {
        plan?.check.map(|(every, _)| every)
    }

    #[test]
    fn a_service_with_a_check_is_dialled_by_it() {
        let usual = testing::check(Quorum::Majority).interval.0;
        assert_eq!(every(planned(|_| {}, &endpoint("web", 1))), Some(Some(usual)));
        let often = Health { active: true, interval: Some(Span(Duration::from_secs(2))) };
        let planned_often = planned(|it| it.health = Some(Box::new(often)), &endpoint("web", 1));
        assert_eq!(every(planned_often), Some(Some(Duration::from_secs(2))));
    }

    #[test]
    fn where_active_checks_are_off_only_what_is_down_is_dialled_by_the_check() {
        let off = Health { active: false, interval: None };
        let plan = planned(|it| it.health = Some(Box::new(off)), &endpoint("web", 1));
        assert_eq!(every(plan), Some(None));
    }

    #[test]
    fn others_are_dialled_by_a_connection_or_not_at_all() {
        assert!(planned(|it| it.check = None, &endpoint("web", 1)).is_some_and(|it| it.check.is_none()));
        let proxied = planned(|it| it.proxy_protocol = Some(ProxyProtocol::V2), &endpoint("web", 1));
        assert!(proxied.is_some_and(|it| it.check.is_none()), "a check does not write PROXY headers");
        assert!(planned(|it| it.consul.tags = vec!["v2".into()], &endpoint("web", 1)).is_none());
        assert!(planned(|it| it.name = name("other"), &endpoint("unknown", 1)).is_none());
        let gateway = super::super::gateway("web", "s2", "127.0.0.1:80".parse().unwrap());
        assert!(planned(|_| {}, &gateway).is_some_and(|it| it.check.is_none()));
    }
}
