//! Whether the place of a missing instance, its address and port, was given to another.
//!
//! A registration counts as such a claim if it is newer than the last answer that listed the missing one: two
//! services that have shared a port all along prove nothing about each other. A claim becomes proof when the service is
//! read some seconds later and still misses the instance, since an agent brings its services back one by one.

use std::collections::{HashMap, HashSet};

use tokio::time::{Duration, Instant};

use super::dials::Key;
use crate::{
    discovery::{Doubt, InstanceKey},
    engine::{Endpoint, Index},
};

/// Services that are not in use are looked at again so often.
const STRANGERS_EVERY: Duration = Duration::from_secs(30);

/// A claim this old, with the instance still missing, is proof.
const SETTLED: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Missing {
    key: Key,
    seen: Index,
    /// Who has the place now, and when that was found.
    claimed: Option<(String, Instant)>,
}

/// The places of the missing.
#[derive(Debug, Default)]
pub(super) struct Places {
    missing: HashMap<(String, u16), Vec<Missing>>,
    of: HashMap<String, HashSet<InstanceKey>>,
    new: bool,
    strangers_at: Option<Instant>,
}

impl Places {
    /// Looks after the missing among a service's doubts, and after no others of it.
    pub(super) fn follow(&mut self, service: &str, doubts: &[Doubt]) {
        let missing: HashMap<InstanceKey, Index> =
            doubts.iter().filter(|it| !it.cause.is_listed()).map(|it| (it.key(), it.seen)).collect();
        let before = self.of.remove(service).unwrap_or_default();
        for key in before.iter().filter(|key| !missing.contains_key(*key)) {
            let place = (key.address.clone(), key.port);
            if let Some(at) = self.missing.get_mut(&place) {
                at.retain(|it| it.key.0 != service || it.key.1 != *key);
                if at.is_empty() {
                    self.missing.remove(&place);
                }
            }
        }
        for (key, seen) in missing.iter().filter(|(key, _)| !before.contains(*key)) {
            self.new = true;
            let at = self.missing.entry((key.address.clone(), key.port)).or_default();
            at.push(Missing { key: (service.to_owned(), key.clone()), seen: *seen, claimed: None });
        }
        if !missing.is_empty() {
            self.of.insert(service.to_owned(), missing.into_keys().collect());
        }
    }

    pub(super) fn any(&self) -> bool {
        !self.missing.is_empty()
    }

    /// True once after there came new ones.
    pub(super) fn is_new(&mut self) -> bool {
        std::mem::take(&mut self.new)
    }

    /// The services with missing instances.
    pub(super) fn services(&self) -> Vec<String> {
        self.of.keys().cloned().collect()
    }

    /// Takes in what is registered.
    pub(super) fn claim(&mut self, registered: &[Endpoint]) {
        if self.missing.is_empty() {
            return;
        }
        for endpoint in registered {
            let place = (endpoint.address.clone(), endpoint.port);
            for missing in self.missing.get_mut(&place).into_iter().flatten() {
                let another = missing.key.0 != endpoint.service || missing.key.1 != InstanceKey::of(endpoint);
                if another && endpoint.create_index > missing.seen && missing.claimed.is_none() {
                    let who = format!("{} of {} (node {})", endpoint.id, endpoint.service, endpoint.node);
                    missing.claimed = Some((who, Instant::now()));
                }
            }
        }
    }

    /// The instances of a service whose places others have, found long enough before a read of it that began at
    /// `started`.
    pub(super) fn proved(&self, service: &str, started: Instant) -> Vec<(InstanceKey, String)> {
        let of = self.of.get(service).into_iter().flatten();
        let found = of.filter_map(|key| {
            let at = self.missing.get(&(key.address.clone(), key.port))?;
            let missing = at.iter().find(|it| it.key.0 == service && it.key.1 == *key)?;
            let (who, when) = missing.claimed.as_ref()?;
            let settled = started.saturating_duration_since(*when) >= SETTLED;
            settled.then(|| (key.clone(), who.clone()))
        });
        found.collect()
    }

    /// Which of the catalog's names are worth a look: those that are new in it, and now and then all.
    pub(super) fn strangers(&mut self, names: &[String], known: &[String], now: Instant) -> Vec<String> {
        let all = self.strangers_at.is_none_or(|at| now >= at);
        if all {
            self.strangers_at = Some(now + STRANGERS_EVERY);
        }
        names.iter().filter(|it| all || known.binary_search(it).is_err()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        discovery::{Cause, doubtful},
        model::Moment,
    };

    fn registered(id: &str, like: &Doubt, created: u64) -> Endpoint {
        Endpoint {
            id: id.into(),
            service: "db".into(),
            create_index: Index(created),
            ..like.endpoint.clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_registration_elsewhere_is_proof_after_one_more_read() {
        let doubt = Doubt { seen: Index(50), ..doubtful(1, Cause::Missing, Moment(1)) };
        let mut places = Places::default();
        places.follow("web", std::slice::from_ref(&doubt));
        assert!(places.is_new() && !places.is_new());
        let read = |places: &Places| places.proved("web", Instant::now());
        places.claim(&[registered("shared-all-along", &doubt, 40)]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(read(&places), []);
        let before = Instant::now();
        places.claim(&[Endpoint { port: 9, ..registered("elsewhere", &doubt, 60) }]);
        places.claim(&[registered("db-1", &doubt, 60)]);
        assert_eq!(places.proved("web", before), [], "the read may be older");
        tokio::time::advance(SETTLED).await;
        assert_eq!(read(&places), [(doubt.key(), "db-1 of db (node n1)".to_owned())]);
        places.follow("web", &[]);
        assert!(!places.any() && read(&places).is_empty());
    }
}
