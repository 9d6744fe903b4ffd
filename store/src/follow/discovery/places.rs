//! Whether the place of a missing instance (its address and port) was given to another.
//!
//! Two registrations may always have shared a place: one process under two names. They prove nothing about each other,
//! and a service's own index does not show it, because the other may have been registered later. So a claim is a
//! registration that was made after the doubt began: its create index is greater than that of the whole catalog as first
//! read in the doubt, and its holder was not at that place before. A claim becomes proof when the service is read some
//! seconds later and the instance is still missing, because an agent registers its services again one by one. A claim is
//! withdrawn when its holder leaves.

use std::collections::{HashMap, HashSet};

use tokio::time::{Duration, Instant};

use super::dials::Key;
use crate::{
    discovery::{Doubt, InstanceKey},
    engine::{Endpoint, Index},
};

/// How often all services that are not in use are read.
const ALL_EVERY: Duration = Duration::from_secs(30);

/// A claim this old, with the instance still missing, is proof.
const SETTLED: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Missing {
    key: Key,
    since: Instant,
    /// No registration from before the doubt has a greater create index. `None` until the catalog was read.
    newest: Option<Index>,
    /// The registrations that were at its place before.
    shared: HashSet<Key>,
}

/// The registration that has the place of a missing instance now.
#[derive(Debug)]
struct Claim {
    by: Key,
    found: Instant,
}

/// The places of missing instances.
#[derive(Debug, Default)]
pub(super) struct Places {
    missing: HashMap<(String, u16), Vec<Missing>>,
    of: HashMap<String, HashSet<InstanceKey>>,
    claims: HashMap<Key, Claim>,
    new: bool,
    all_at: Option<Instant>,
}

impl Places {
    /// Tracks exactly the missing instances among a service's doubts.
    pub(super) fn follow(&mut self, service: &str, doubts: &[Doubt]) {
        let missing: HashSet<_> = doubts.iter().filter(|it| !it.cause.is_listed()).map(Doubt::key).collect();
        let before = self.of.remove(service).unwrap_or_default();
        for key in before.difference(&missing) {
            let place = (key.address.clone(), key.port);
            self.claims.remove(&(service.to_owned(), key.clone()));
            if let Some(at) = self.missing.get_mut(&place) {
                at.retain(|it| it.key.0 != service || it.key.1 != *key);
                if at.is_empty() {
                    self.missing.remove(&place);
                }
            }
        }
        for key in missing.difference(&before) {
            self.new = true;
            let at = self.missing.entry((key.address.clone(), key.port)).or_default();
            let key = (service.to_owned(), key.clone());
            at.push(Missing { key, since: Instant::now(), newest: None, shared: HashSet::new() });
        }
        if !missing.is_empty() {
            self.of.insert(service.to_owned(), missing);
        }
    }

    pub(super) fn any(&self) -> bool {
        !self.missing.is_empty()
    }

    /// True once after new ones were added.
    pub(super) fn is_new(&mut self) -> bool {
        std::mem::take(&mut self.new)
    }

    /// The services with missing instances.
    pub(super) fn services(&self) -> Vec<String> {
        self.of.keys().cloned().collect()
    }

    /// Applies the index of the catalog, from a read that began at `started`.
    pub(super) fn catalog(&mut self, index: Index, started: Instant) {
        for missing in self.missing.values_mut().flatten().filter(|it| it.since <= started) {
            // The index may go back again.
            missing.newest = Some(missing.newest.map_or(index, |it| it.min(index)));
        }
    }

    /// Applies the instances of a service that this node knew when the doubts began.
    pub(super) fn shared(&mut self, service: &str, known: &[Endpoint]) {
        for endpoint in known {
            for missing in self.missing.get_mut(&place(endpoint)).into_iter().flatten() {
                let claimed = self.claims.get(&missing.key).is_some_and(|it| is(&it.by, service, endpoint));
                if !claimed && !is(&missing.key, service, endpoint) {
                    missing.shared.insert((service.to_owned(), InstanceKey::of(endpoint)));
                }
            }
        }
    }

    /// Applies all registrations of a service.
    pub(super) fn claim(&mut self, service: &str, registered: &[Endpoint]) {
        self.claims.retain(|_, it| it.by.0 != service || registered.iter().any(|at| is(&it.by, service, at)));
        if self.missing.is_empty() {
            return;
        }
        for endpoint in registered {
            for missing in self.missing.get_mut(&place(endpoint)).into_iter().flatten() {
                if is(&missing.key, service, endpoint) {
                    continue;
                }
                let by = (service.to_owned(), InstanceKey::of(endpoint));
                if missing.newest.is_none_or(|newest| endpoint.create_index <= newest) {
                    missing.shared.insert(by);
                } else if !missing.shared.contains(&by) {
                    let claim = Claim { by, found: Instant::now() };
                    self.claims.entry(missing.key.clone()).or_insert(claim);
                }
            }
        }
    }

    /// The instances of a service whose places others have, found long enough before a read of it that began at
    /// `started`, and the names of those others.
    pub(super) fn proved(&self, service: &str, started: Instant) -> Vec<(InstanceKey, String)> {
        let settled = |it: &Claim| started.saturating_duration_since(it.found) >= SETTLED;
        let proofs = self.claims.iter().filter(|(of, claim)| of.0 == service && settled(claim));
        let named = proofs.map(|(of, Claim { by: (service, it), .. })| {
            (of.1.clone(), format!("{} of {service} (node {})", it.id, it.node))
        });
        named.collect()
    }

    /// Which of the catalog's services are to be read: those that are new in it, those with a claim, and from time to
    /// time all.
    pub(super) fn worth_reading(&mut self, names: &[String], known: &[String], now: Instant) -> Vec<String> {
        let all = self.all_at.is_none_or(|at| now >= at);
        if all {
            self.all_at = Some(now + ALL_EVERY);
        }
        let claimants: HashSet<_> = self.claims.values().map(|it| it.by.0.clone()).collect();
        let look = names.iter().filter(|it| all || known.binary_search(it).is_err());
        let look = look.filter(|it| !claimants.contains(*it)).cloned().collect::<Vec<_>>();
        look.into_iter().chain(claimants).collect()
    }
}

fn place(endpoint: &Endpoint) -> (String, u16) {
    (endpoint.address.clone(), endpoint.port)
}

fn is((of, key): &Key, service: &str, endpoint: &Endpoint) -> bool {
    of == service && *key == InstanceKey::of(endpoint)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        discovery::{Cause, doubtful},
        model::Moment,
    };

    fn missing() -> Doubt {
        doubtful(1, Cause::Missing, Moment(1))
    }

    fn registered(service: &str, id: &str, created: u64) -> Endpoint {
        let like = missing().endpoint;
        Endpoint { id: id.into(), service: service.into(), create_index: Index(created), ..like }
    }

    fn read(places: &Places) -> Vec<(InstanceKey, String)> {
        places.proved("web", Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_registration_elsewhere_is_proof_after_one_more_read() {
        let mut places = Places::default();
        places.follow("web", &[missing()]);
        assert!(places.is_new() && !places.is_new());
        places.catalog(Index(50), Instant::now());
        places.claim("db", &[registered("db", "shared-all-along", 40)]);
        tokio::time::advance(SETTLED).await;
        assert_eq!(read(&places), []);
        let before = Instant::now();
        places.claim("db", &[Endpoint { port: 9, ..registered("db", "elsewhere", 60) }]);
        places.claim("db", &[registered("db", "db-1", 60)]);
        assert_eq!(places.proved("web", before), [], "the read may be older");
        tokio::time::advance(SETTLED).await;
        assert_eq!(read(&places), [(missing().key(), "db-1 of db (node n1)".to_owned())]);
        places.follow("web", &[]);
        assert!(!places.any() && read(&places).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_shares_the_place_claims_nothing_even_after_it_registers_again() {
        let mut places = Places::default();
        places.follow("web", &[missing()]);
        // Of a followed service, known when the doubt began.
        places.shared("shop", &[registered("shop", "shop-1", 21)]);
        places.catalog(Index(300), Instant::now());
        // Of a service that is not in use, read only then.
        places.claim("db", &[registered("db", "db-1", 22)]);
        for (service, id) in [("shop", "shop-1"), ("db", "db-1")] {
            places.claim(service, &[]);
            places.claim(service, &[registered(service, id, 301)]);
        }
        tokio::time::advance(SETTLED).await;
        assert_eq!(read(&places), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_withdrawn_when_its_holder_leaves() {
        let mut places = Places::default();
        places.follow("web", &[missing()]);
        places.catalog(Index(50), Instant::now());
        places.claim("db", &[registered("db", "db-1", 60)]);
        let names = ["db".to_owned(), "shop".to_owned()];
        places.worth_reading(&names, &names, Instant::now());
        assert_eq!(places.worth_reading(&names, &names, Instant::now()), ["db"], "it is looked at again");
        places.claim("db", &[registered("db", "db-2", 40)]);
        tokio::time::advance(SETTLED).await;
        assert_eq!(read(&places), []);
        assert_eq!(places.worth_reading(&names, &names, Instant::now()), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_catalog_read_that_began_before_the_doubt_is_ignored() {
        let mut places = Places::default();
        let before = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        places.follow("web", &[missing()]);
        places.catalog(Index(10), before);
        places.claim("db", &[registered("db", "db-1", 20)]);
        tokio::time::advance(SETTLED).await;
        assert_eq!(read(&places), []);
    }

    /// What may happen to the registrations at the place of the missing one, and what is read of them.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Registers(usize),
        Leaves(usize),
        Reads(usize),
        Catalog,
        Waits,
    }

    const OTHERS: [(&str, &str); 4] =
        [("shop", "shop-1"), ("shop", "shop-2"), ("db", "db-1"), ("db", "db-2")];

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..OTHERS.len()).prop_map(Step::Registers),
            2 => (0..OTHERS.len()).prop_map(Step::Leaves),
            4 => (0..2_usize).prop_map(Step::Reads),
            2 => Just(Step::Catalog),
            3 => Just(Step::Waits),
        ]
    }

    /// The registry: what is at the place, by service and id, with its create index.
    #[derive(Default)]
    struct Registry {
        index: u64,
        rows: BTreeMap<(&'static str, &'static str), u64>,
    }

    impl Registry {
        fn register(&mut self, at: usize) {
            self.index += 1;
            self.rows.entry(OTHERS[at]).or_insert(self.index);
        }

        fn of(&self, service: &str) -> Vec<Endpoint> {
            let rows = self.rows.iter().filter(|((of, _), _)| *of == service);
            rows.map(|((service, id), created)| registered(service, id, *created)).collect()
        }
    }

    proptest! {
        /// Proof is a registration that was made since the doubt began, was not known at the place before, and was there
        /// when its service was last read.
        #[test]
        fn only_what_took_the_place_since_is_proof(
            before in vec(0..OTHERS.len(), 0..4),
            own in 0..4_usize,
            steps in vec(step(), 0..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let mut registry = Registry::default();
                for (n, at) in before.iter().enumerate() {
                    // The missing one was registered somewhere among them.
                    registry.index += u64::from(n == own);
                    registry.register(*at);
                }
                let all_along = registry.rows.clone();
                let mut places = Places::default();
                places.follow("web", &[missing()]);
                places.shared("shop", &registry.of("shop"));
                let mut shown: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
                let began = registry.index;
                for step in steps {
                    match step {
                        Step::Registers(at) => registry.register(at),
                        Step::Leaves(at) => {
                            registry.index += 1;
                            registry.rows.remove(&OTHERS[at]);
                        }
                        Step::Reads(at) => {
                            let service = ["shop", "db"][at];
                            places.claim(service, &registry.of(service));
                            shown.insert(service, registry.of(service));
                        }
                        Step::Catalog => places.catalog(Index(registry.index), Instant::now()),
                        Step::Waits => tokio::time::advance(SETTLED).await,
                    }
                    for (_, who) in read(&places) {
                        let by = OTHERS.iter().find(|(of, id)| who == format!("{id} of {of} (node n1)")).unwrap();
                        let known = all_along.contains_key(by) && by.0 == "shop";
                        let row = shown.get(by.0).and_then(|it| it.iter().find(|it| it.id == by.1));
                        prop_assert!(!known, "{who} was there all along");
                        prop_assert!(row.is_some_and(|it| it.create_index.0 > began), "{who}");
                    }
                }
                Ok(())
            })?;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_that_goes_back_in_the_doubt_counts_from_there() {
        let mut places = Places::default();
        places.follow("web", &[missing()]);
        places.catalog(Index(253), Instant::now());
        places.catalog(Index(61), Instant::now());
        places.claim("db", &[registered("db", "db-1", 70)]);
        tokio::time::advance(SETTLED).await;
        assert_eq!(read(&places).len(), 1);
    }
}
