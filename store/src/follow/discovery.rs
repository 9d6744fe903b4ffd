//! Follows the services in use, and examines the instances whose removal is in doubt.
//!
//! One task owns all of this. The readings of the engine's watch are judged ([`crate::discovery::judge`]). While an
//! instance is in doubt, this task dials it ([`dials`]), reads its service repeatedly ([`rereads`]), and checks whether
//! its address and port were given to another ([`places`]). Every node that follows services does this itself, because
//! one node may reach an instance that another cannot.
//!
//! What other sites tell of their registries comes from [`super::remote`] and is a part of the entries of its own
//! ([`parts`]).

mod dials;
mod log;
mod memory;
mod parts;
mod places;
mod rereads;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::Instant,
};

use self::{
    dials::{Dials, Key},
    memory::Memory,
    parts::{About, Parts},
    places::Places,
    rereads::{NextRead, Rereads},
};
use super::{Shared, remote::RemoteNews};
use crate::{
    dial::{Answer, Dial},
    discovery::{Context, Doubt, Entry, Judgement, Sight, dialled, drained, judge, judge_part, reassigned},
    engine::{Endpoint, Index, Indexed, Reading, ServiceChange},
    handle::Handle,
    model::{Name, Reach},
    snapshot::Snapshot,
};

/// How often changed entries are written to the node's memory.
const REMEMBER_EVERY: Duration = Duration::from_secs(1);
/// The maximum number of dials under way; more wait.
const MAX_DIALS: usize = 512;
/// The maximum number of reads under way.
const MAX_READS: usize = 8;
/// Failed dials in a row that drop a doubtful instance, unless its check has another number.
const FALL: u32 = 3;
/// How long a reading of the catalog is valid.
const SIGHT_LASTS: Duration = Duration::from_secs(10);
/// A reading of the watch whose index goes back within this time of a read of our own may just be older than that.
const MAY_CROSS: Duration = Duration::from_secs(10);

/// Publishes the last known instances of every service, with their doubts and the index they were read at.
pub(super) fn publish_last_good(shared: &Shared) {
    for (service, entry) in memory::kept(&shared.memory) {
        shared.publisher.discovery().slot(&service).store(entry);
    }
    shared.publisher.discovery_changed();
}

/// Follows until the engine ends its watch.
pub(super) async fn follow(shared: Shared, told: mpsc::Receiver<RemoteNews>) {
    let in_use = shared.publisher.handle().services_in_use();
    let changes = Arc::clone(&shared.engine).watch(in_use);
    Discovery::new(shared).run(changes, told).await;
}

/// A dial that ended.
struct Dialled {
    key: Key,
    started: Instant,
    fall: u32,
    answer: Answer,
}

/// A read of our own that ended.
struct Read {
    next: NextRead,
    started: Instant,
    /// The entry's index when the read began.
    index: Index,
    result: ReadResult,
}

enum ReadResult {
    Catalog(Option<Indexed<Vec<String>>>),
    Service(Reading),
}

struct Discovery {
    shared: Shared,
    handle: Handle,
    /// The services in use, as last looked at.
    used: Arc<BTreeSet<String>>,
    dials: Dials,
    rereads: Rereads,
    places: Places,
    /// What other sites tell.
    parts: Parts,
    /// The other sites whose instances this node may not dial.
    barred: BTreeSet<Name>,
    /// The configuration for which it was determined which instances are never used.
    configured: Option<Arc<Snapshot>>,
    /// When this task last read a service itself.
    read_at: HashMap<String, Instant>,
    /// A digest of the instances that the watch delivered last. It delivers nothing until it reads others.
    watched: HashMap<String, u64>,
    /// The names in the catalog, and when they were read.
    catalog: Option<(Instant, Vec<String>)>,
    dialling: JoinSet<Dialled>,
    reading: JoinSet<Read>,
    log: log::Log,
}

impl Discovery {
    fn new(shared: Shared) -> Self {
        Self {
            handle: shared.publisher.handle(),
            shared,
            used: Arc::default(),
            dials: Dials::default(),
            rereads: Rereads::new(Instant::now()),
            places: Places::default(),
            parts: Parts::default(),
            barred: BTreeSet::new(),
            configured: None,
            read_at: HashMap::new(),
            watched: HashMap::new(),
            catalog: None,
            dialling: JoinSet::new(),
            reading: JoinSet::new(),
            log: log::Log::default(),
        }
    }

    async fn run(mut self, mut changes: mpsc::Receiver<ServiceChange>, mut told: mpsc::Receiver<RemoteNews>) {
        let mut remembered = Memory::default();
        let mut every = tokio::time::interval(REMEMBER_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut drains = self.handle.drains();
        let mut in_use = self.handle.services_in_use();
        in_use.mark_changed();
        let mut snapshots = self.handle.snapshots();
        // There may be one already: that which this node kept.
        snapshots.mark_changed();
        loop {
            self.start_dials();
            self.start_reads();
            let next = self.next_wake();
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Some(change) => self.take_watched(&change.service, change.reading),
                    None => return,
                },
                Some(news) = told.recv() => self.take_told(news),
                Some(done) = self.dialling.join_next() => self.dialled(propagate_panic(done)),
                Some(done) = self.reading.join_next() => self.read(propagate_panic(done)),
                Ok(()) = drains.changed() => self.take_drains(),
                Ok(()) = in_use.changed() => self.use_changed(),
                Ok(()) = snapshots.changed() => self.configured(),
                _ = every.tick() => {
                    self.settle_places();
                    let entries = self.shared.publisher.discovery().entries();
                    if let Err(error) = remembered.keep(&self.shared.memory, entries, &self.used) {
                        tracing::warn!(%error, "instances are not kept across a restart");
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let dial = self.dials.next_due().filter(|_| self.may_dial());
        let read = self.rereads.next_due().filter(|_| self.reading.len() < MAX_READS);
        dial.into_iter().chain(read).min()
    }

    fn may_dial(&self) -> bool {
        self.shared.options.dialer.is_some() && self.dialling.len() < MAX_DIALS
    }

    fn uses(&self, service: &str) -> bool {
        self.handle.services_in_use().borrow().contains(service)
    }

    /// Takes a reading of the watch.
    fn take_watched(&mut self, service: &str, reading: Reading) {
        // It may arrive after the service was released, and would restore an entry that was removed.
        if !self.uses(service) {
            return;
        }
        match &reading {
            Reading::Answered(answer) => self.watched.insert(service.to_owned(), digest(&answer.value)),
            // The watch delivers its next answer in any case.
            Reading::Unreachable(_) => self.watched.remove(service),
        };
        let now = Instant::now();
        let index = self.entry(service).index;
        let backwards = matches!(&reading, Reading::Answered(answer) if answer.index < index);
        let read_lately = self.read_at.get(service).is_some_and(|at| now.duration_since(*at) < MAY_CROSS);
        if backwards && read_lately {
            self.rereads.confirm(service, now);
        } else {
            self.judge(service, reading);
        }
    }

    fn entry(&self, service: &str) -> Arc<Entry> {
        self.shared.publisher.discovery().find(service).map(|it| it.load()).unwrap_or_default()
    }

    fn judge(&mut self, service: &str, reading: Reading) {
        let before = self.entry(service);
        let (drains, now) = (self.handle.drains(), self.handle.now());
        let drains = Arc::clone(&drains.borrow());
        let context = Context {
            now,
            believe_after: self.shared.options.believe_after,
            dials: self.shared.options.dialer.is_some(),
            sight: if before.doubts.is_empty() { Sight::Unknown } else { self.sight(service) },
            drained: &|endpoint| drains.excluding(endpoint, now).is_some(),
        };
        if let Reading::Answered(answer) = &reading {
            self.places.claim(service, &answer.value);
        }
        let judged = judge(&before, reading, &context);
        self.publish(service, &before, judged);
    }

    /// Whether the registry shows other services when it does not show this one.
    fn sight(&self, service: &str) -> Sight {
        if !self.shared.engine.may_filter() {
            return Sight::Sees;
        }
        let Some((at, names)) = &self.catalog else { return Sight::Unknown };
        if at.elapsed() > SIGHT_LASTS {
            return Sight::Unknown;
        }
        Sight::of(service, names)
    }

    /// Publishes a judgement, and starts or ends the dials and reads that follow from it.
    fn publish(&mut self, service: &str, before: &Entry, judged: Judgement) {
        if judged.entry.all_doubts().chain(before.all_doubts()).next().is_some() {
            self.follow_doubts(service, &judged.entry);
        }
        if judged.entry == *before {
            return;
        }
        self.log.changed(service, before, &judged);
        for (_, fate) in &judged.fates {
            self.shared.metrics.dropped(fate);
        }
        self.log.unused(service, &judged.entry, &self.handle);
        self.shared.metrics.unused.set(self.log.count_unused() as u64);
        let usable = judged.entry.endpoints != before.endpoints || judged.entry.standing != before.standing;
        self.shared.publisher.discovery().slot(service).store(judged.entry);
        if usable {
            self.shared.metrics.discovery_changes.increment();
            self.shared.publisher.discovery_changed();
        }
    }

    /// Dials and reads exactly the instances of a service that are in doubt.
    fn follow_doubts(&mut self, service: &str, entry: &Entry) {
        let now = Instant::now();
        let doubts: Vec<&Doubt> = entry.all_doubts().collect();
        self.dials.follow(service, &doubts, now, fastrand::f64);
        self.rereads.doubt(service, entry.doubts.iter().any(|it| it.needs_reading()), now);
        self.places.follow(service, &entry.doubts);
        self.rereads.missing(self.places.any(), now);
    }

    /// Takes news of another site.
    fn take_told(&mut self, news: RemoteNews) {
        let (site, about) = self.parts.take(news);
        let in_use = Arc::clone(&self.handle.services_in_use().borrow());
        match about {
            About::All => in_use.iter().for_each(|service| self.judge_part(service, &site)),
            About::These(services) => {
                let used = services.iter().filter(|it| in_use.contains(*it));
                used.for_each(|service| self.judge_part(service, &site));
            }
        }
    }

    /// Judges what another site tells of a service in use.
    fn judge_part(&mut self, service: &str, site: &Name) {
        let before = self.entry(service);
        let Some((told, dark)) = self.parts.told(site, service) else {
            if before.away.contains_key(site) {
                self.publish_part(service, &before, before.with_part(site, None));
            }
            return;
        };
        let part = before.away.get(site).map(AsRef::as_ref).cloned().unwrap_or_default();
        let dials = self.shared.options.dialer.is_some() && !self.barred.contains(site);
        let judged = judge_part(&part, told, dark, dials, self.handle.now());
        self.take_part(service, site, &before, judged);
    }

    fn take_part(&mut self, service: &str, site: &Name, before: &Entry, judged: Judgement) {
        if before.away.get(site).is_some_and(|it| **it == judged.entry) {
            return;
        }
        self.log.told(service, site, &judged);
        for (_, fate) in &judged.fates {
            self.shared.metrics.dropped(fate);
        }
        self.publish_part(service, before, before.with_part(site, Some(judged.entry)));
    }

    fn publish_part(&mut self, service: &str, before: &Entry, after: Entry) {
        if after.all_doubts().chain(before.all_doubts()).next().is_some() {
            self.follow_doubts(service, &after);
        }
        self.shared.publisher.discovery().slot(service).store(after);
        self.shared.metrics.discovery_changes.increment();
        self.shared.publisher.discovery_changed();
    }

    /// Takes over what a new snapshot changes: the instances that are used, and the sites whose instances are dialled.
    fn configured(&mut self) {
        let Some(snapshot) = self.handle.snapshot() else { return };
        self.look_for_unused(&snapshot);
        let ours = snapshot.sites.iter().find(|it| it.name.as_str() == self.shared.identity.site);
        let barred = |it: &&Name| ours.is_some_and(|ours| ours.reach_to(it) != Reach::Direct);
        let barred: BTreeSet<Name> =
            snapshot.sites.iter().map(|it| &it.name).filter(barred).cloned().collect();
        let before = std::mem::replace(&mut self.barred, barred.clone());
        for site in before.symmetric_difference(&barred) {
            let in_use = Arc::clone(&self.handle.services_in_use().borrow());
            in_use.iter().for_each(|service| self.judge_part(service, site));
        }
    }

    /// Determines again which instances are never used, because another configuration may use others: of the services that
    /// it changes, which mostly are few.
    fn look_for_unused(&mut self, snapshot: &Arc<Snapshot>) {
        let before = self.configured.replace(Arc::clone(snapshot));
        let changed = before.and_then(|before| snapshot.services_used_otherwise(&before));
        let in_use = Arc::clone(&self.handle.services_in_use().borrow());
        let concerned: Vec<&String> = match &changed {
            Some(changed) => changed.iter().filter(|it| in_use.contains(*it)).collect(),
            None => in_use.iter().collect(),
        };
        for service in concerned {
            self.log.unused(service, &self.entry(service), &self.handle);
        }
        self.shared.metrics.unused.set(self.log.count_unused() as u64);
    }

    fn take_drains(&mut self) {
        let drains = Arc::clone(&self.handle.drains().borrow());
        let now = self.handle.now();
        for service in self.places.services() {
            let before = self.entry(&service);
            if let Some(judged) = drained(&before, &|it| drains.excluding(it, now).is_some(), now) {
                self.publish(&service, &before, judged);
            }
        }
    }

    /// Ends all work for services that are no longer in use. For those that came into use, the doubts that were remembered
    /// are examined again.
    fn use_changed(&mut self) {
        let in_use = Arc::clone(&self.handle.services_in_use().borrow());
        let before = std::mem::replace(&mut self.used, Arc::clone(&in_use));
        for service in before.difference(&in_use) {
            self.follow_doubts(service, &Entry::default());
            self.rereads.forget(service);
            self.read_at.remove(service);
            self.watched.remove(service);
            self.log.forget(service);
        }
        for service in in_use.difference(&before) {
            let entry = self.entry(service);
            if !entry.doubts.is_empty() {
                self.follow_doubts(service, &entry);
            }
            self.log.unused(service, &entry, &self.handle);
            for site in self.parts.sites() {
                self.judge_part(service, &site);
            }
        }
        self.shared.metrics.unused.set(self.log.count_unused() as u64);
    }

    fn start_dials(&mut self) {
        let Some(dialer) = self.shared.options.dialer.clone() else { return };
        let now = Instant::now();
        let snapshot = self.handle.snapshot();
        while self.may_dial() {
            let Some(key) = self.dials.pop(now) else { return };
            let entry = self.entry(&key.0);
            let Some(doubt) = entry.all_doubts().find(|it| it.is_of(&key.1)) else { continue };
            let endpoint = &doubt.endpoint;
            let check = snapshot.as_ref().and_then(|it| it.check_of(endpoint)).map(|it| it.as_ref().clone());
            let fall = check.as_ref().map_or(FALL, |it| it.fall.into());
            let dial = Dial { address: endpoint.address.clone(), port: endpoint.port, check, tls: None };
            let dialer = Arc::clone(&dialer);
            self.dialling
                .spawn(async move { Dialled { key, started: now, fall, answer: dialer.dial(&dial).await } });
        }
    }

    fn dialled(&mut self, done: Dialled) {
        let Dialled { key, started, fall, answer } = done;
        self.shared.metrics.dialled(&answer);
        let (before, now) = (self.entry(&key.0), self.handle.now());
        if let Some(judged) = dialled(&before, &key.1, &answer, fall, now) {
            self.publish(&key.0, &before, judged);
        }
        for (site, part) in &before.away {
            if let Some(judged) = dialled(part, &key.1, &answer, fall, now) {
                self.take_part(&key.0, site, &self.entry(&key.0), judged);
            }
        }
        self.dials.done(key, started, Instant::now());
    }

    fn start_reads(&mut self) {
        let now = Instant::now();
        while self.reading.len() < MAX_READS {
            let Some(next) = self.rereads.pop(now) else { return };
            let index = match &next {
                NextRead::Service(service) => self.entry(service).index,
                NextRead::Catalog | NextRead::Unfollowed(_) => Index(0),
            };
            let engine = Arc::clone(&self.shared.engine);
            self.shared.metrics.rereads.increment();
            self.reading.spawn(async move {
                let result = match &next {
                    NextRead::Catalog => {
                        let names = engine.services(None).await;
                        ReadResult::Catalog(
                            names
                                .ok()
                                .map(|it| Indexed { index: it.index, value: it.value.into_keys().collect() }),
                        )
                    }
                    NextRead::Service(service) | NextRead::Unfollowed(service) => {
                        ReadResult::Service(reading(engine.health(service, None).await))
                    }
                };
                Read { next, started: now, index, result }
            });
        }
    }

    fn read(&mut self, read: Read) {
        let now = Instant::now();
        match (read.next, read.result) {
            (NextRead::Catalog, ReadResult::Catalog(Some(names))) => {
                self.places.catalog(names.index, read.started);
                self.take_catalog(names.value, now);
            }
            (NextRead::Service(service), ReadResult::Service(reading)) => {
                self.rereads.done(&service, read.started, now);
                self.take_reread(service, read.started, read.index, reading);
            }
            (NextRead::Unfollowed(service), ReadResult::Service(Reading::Answered(answer))) => {
                self.places.claim(&service, &answer.value);
            }
            // Outages are reported by the watch.
            _ => {}
        }
    }

    fn take_reread(&mut self, service: String, started: Instant, index: Index, reading: Reading) {
        // A failed read is ignored, too: the watch reports outages, once.
        let Reading::Answered(answer) = &reading else { return };
        if !self.uses(&service) {
            return;
        }
        let current = self.entry(&service).index;
        if answer.index < current && current != index {
            // The watch delivered a newer reading meanwhile.
            self.rereads.confirm(&service, Instant::now());
            return;
        }
        let seen = digest(&answer.value);
        self.judge(&service, reading);
        if self.watched.get(&service).is_some_and(|watched| *watched != seen) {
            // The watch does not repeat what it delivered last, so it would not report the end of this difference.
            self.rereads.extend(&service, Instant::now());
        }
        for (key, to) in self.places.proved(&service, started) {
            let before = self.entry(&service);
            if let Some(judged) = reassigned(&before, &key, &to, self.handle.now()) {
                self.publish(&service, &before, judged);
            }
        }
        self.read_at.insert(service, Instant::now());
    }

    fn take_catalog(&mut self, mut names: Vec<String>, now: Instant) {
        names.sort();
        let known = self.catalog.take().map(|(_, names)| names).unwrap_or_default();
        let in_use = Arc::clone(&self.handle.services_in_use().borrow());
        for service in self.places.worth_reading(&names, &known, now) {
            if !in_use.contains(&service) {
                self.rereads.read_unfollowed(service);
            }
        }
        self.catalog = Some((now, names));
    }

    /// After new doubts, notes once which instances of followed services share an address with the missing ones.
    fn settle_places(&mut self) {
        if self.places.is_new() {
            for (service, entry) in self.shared.publisher.discovery().entries() {
                self.places.shared(&service, &entry.endpoints);
            }
        }
    }
}

fn digest(instances: &[Endpoint]) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    instances.hash(&mut hasher);
    hasher.finish()
}

fn reading(answer: engine::Result<Indexed<Vec<Endpoint>>>) -> Reading {
    match answer {
        Ok(answer) => Reading::Answered(answer),
        Err(error) => Reading::Unreachable(error.to_string()),
    }
}

async fn sleep_until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

/// What a task returned. If it panicked, this task panics, too.
fn propagate_panic<T>(joined: Result<T, JoinError>) -> T {
    match joined {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests;
