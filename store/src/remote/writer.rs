//! Writes what another site tells to the own engine.
//!
//! Everything is written under a fence that the caller passes, and the head is replaced by comparison with the one that
//! was read. So a writer that dies or is overtaken leaves a state with a head that fits, and the next one goes on from
//! there. Batches and shards that a head does not name yet are overwritten or removed later.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    layout::{
        Batch, Dark, Head, MAX_SHARDS, MIN_SHARDS, RING, Shard, VERSION, base_prefix, bases_prefix,
        batch_key, head_key, shard_key, shard_of, site_prefix,
    },
    log::Gathering,
    metrics::RemoteMetrics,
    page::{Cursor, Page, PageError},
    reader::load_all,
    told::{Change, Gateways, MAX_SERVICE, State, Told, Value, size},
};
use crate::{
    engine::{Engine, EngineError, Index, KvOp, TxnOutcome},
    model::Name,
};

/// The shortest time between two batches of a site.
const EVERY: Duration = Duration::from_millis(200);
/// The longest time without a write while the site answers.
const BEAT: Duration = Duration::from_secs(4);
/// The size of a batch; one with a single change may be larger.
const MAX_BATCH: usize = 48 * 1024;
/// The size of all values in one transaction; in base64 it stays below what engines take.
const MAX_VALUES: usize = 340 * 1024;
/// The largest shard that is written; a larger one means more shards.
const MAX_SHARD: usize = 160 * 1024;
/// The mean size of shards when a base is written.
const MEAN_SHARD: usize = 24 * 1024;
/// Changes larger than this, all together, are written as a new base.
const MAX_CHANGES: usize = 2 * 1024 * 1024;
/// Operations in one transaction.
const MAX_OPS: usize = 60;

/// Why a page was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// The page is refused.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The engine failed. It is unknown whether the write took effect; the next call reads what is there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine refused the write: another control has the lock, or wrote meanwhile.
    #[error("another control writes what this site tells: {0}")]
    Fenced(String),
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in the engine.
    Written,
    /// It is a part of the whole and waits for the others.
    Gathered,
    /// It does not continue what was taken before; ask with [`Writer::cursor`].
    Misplaced,
}

/// Writes what one site tells.
#[derive(Debug)]
pub struct Writer {
    engine: Arc<dyn Engine>,
    site: Name,
    metrics: Arc<RemoteMetrics>,
    written: Option<Written>,
    gathering: Option<Gathering>,
    last_write: Option<Instant>,
}

/// What is in the engine.
#[derive(Debug, Default)]
struct Written {
    head: Head,
    index: Index,
    state: State,
    /// The shards that lack changes, with the first batch that they lack.
    behind: HashMap<u32, u64>,
    oldest: BTreeSet<(u64, u32)>,
}

impl Written {
    /// A change of a batch belongs to a shard.
    fn lacks(&mut self, shard: u32, batch: u64) {
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.behind.entry(shard) {
            vacant.insert(batch);
            self.oldest.insert((batch, shard));
        }
    }

    fn rewritten(&mut self, shard: u32) {
        if let Some(batch) = self.behind.remove(&shard) {
            self.oldest.remove(&(batch, shard));
        }
    }

    fn floor(&self, next: u64) -> u64 {
        self.oldest.first().map_or(next, |(batch, _)| *batch)
    }

    /// The shards to rewrite with this batch, so that none lacks a batch that leaves the ring: none while the ring has
    /// room, and then so many that all are written within half a turn of it.
    fn due(&self, sequence: u64) -> usize {
        let oldest = self.floor(sequence);
        if sequence.saturating_sub(oldest) < RING / 4 {
            return 0;
        }
        let half = usize::try_from(RING / 2).unwrap_or(usize::MAX);
        self.behind.len().div_ceil(half)
    }
}

impl Writer {
    /// A writer of what a site tells. It reads what is in the engine when it is first used.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, site: Name, metrics: Arc<RemoteMetrics>) -> Self {
        Self { engine, site, metrics, written: None, gathering: None, last_write: None }
    }

    /// The cursor with which the next page is requested; `None`: from the beginning.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn cursor(&mut self) -> Result<Option<Cursor>, EngineError> {
        if let Some(gathering) = &self.gathering {
            return Ok(Some(gathering.next.clone()));
        }
        let cursor = self.written().await?.head.cursor.clone();
        Ok((!cursor.boot.is_empty()).then_some(cursor))
    }

    async fn written(&mut self) -> Result<&mut Written, EngineError> {
        if self.written.is_none() {
            let loaded = load_all(self.engine.as_ref(), &self.site).await?.unwrap_or_default();
            let mut written = Written {
                head: loaded.head,
                index: loaded.index,
                state: loaded.copy.state,
                ..Written::default()
            };
            for (shard, batch) in loaded.behind {
                written.lacks(shard, batch);
            }
            self.written = Some(written);
        }
        Ok(self.written.get_or_insert_default())
    }

    /// Writes a page. Waits as long as is needed to write five times a second at most. `fence` fails the write once this
    /// control may not write any longer. `names` is true for the services that this site's own documents name: their
    /// instances stay also when the other site tells of them no longer, because its documents may be older.
    ///
    /// # Errors
    /// When the page is refused, the engine fails or refuses. Nothing of the page is taken then, or all of it.
    pub async fn take(
        &mut self,
        page: Page,
        fence: &KvOp,
        names: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Taken, TakeError> {
        if let Err(error) = page.check() {
            self.metrics.pages_refused.increment();
            return Err(error.into());
        }
        let taken = self.take_checked(page, fence, names).await;
        if taken.is_err() {
            (self.written, self.gathering) = (None, None);
        }
        taken
    }

    async fn take_checked(
        &mut self,
        page: Page,
        fence: &KvOp,
        names: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Taken, TakeError> {
        let (cursor, gateways) = (page.next.clone(), page.gateways.clone());
        let mut changes = if page.whole {
            if !self.gather(page) {
                return Ok(Taken::Misplaced);
            }
            if cursor.after.is_some() {
                return Ok(Taken::Gathered);
            }
            let services = self.gathering.take().map(|it| it.services).unwrap_or_default();
            differences(&self.written().await?.state, &services)
        } else {
            if self.gathering.is_some() || page.from.as_ref() != Some(&self.written().await?.head.cursor) {
                return Ok(Taken::Misplaced);
            }
            page.changes
        };
        for change in &mut changes {
            keep_named(change, names);
        }
        self.check_sizes(&changes).await?;
        self.write(changes, cursor, gateways, fence).await?;
        Ok(Taken::Written)
    }

    /// Adds a page to the whole; false if it does not continue it.
    fn gather(&mut self, page: Page) -> bool {
        if page.from.is_none() {
            self.gathering = Some(Gathering { next: page.next.clone(), services: BTreeMap::new() });
        } else if self.gathering.as_ref().map(|it| &it.next) != page.from.as_ref() {
            self.gathering = None;
            return false;
        }
        let Some(gathering) = &mut self.gathering else { return false };
        for change in page.changes {
            let mut alone = State::default();
            alone.apply(&change);
            if gathering.services.len() < super::told::MAX_SERVICES {
                let told = alone.get(&change.service).cloned().unwrap_or_default();
                gathering.services.insert(change.service, told);
            } else {
                self.metrics.services_cut.increment();
            }
        }
        gathering.next = page.next;
        true
    }

    /// Refuses changes after which a service would be too large to be written.
    async fn check_sizes(&mut self, changes: &[Change]) -> Result<(), TakeError> {
        let state = &self.written().await?.state;
        let mut after = State::default();
        for change in changes {
            if after.get(&change.service).is_none()
                && let Some(told) = state.get(&change.service)
            {
                after.put(change.service.clone(), Arc::clone(told));
            }
            after.apply(change);
            let told = after.get(&change.service);
            if told.is_some_and(|it| it.instances.len() > 100 && size(it.as_ref()) > MAX_SERVICE + 16 * 1024)
            {
                self.metrics.pages_refused.increment();
                let reason = format!("the service {:?} has too many instances", change.service);
                return Err(PageError::Unusable(reason).into());
            }
        }
        Ok(())
    }

    /// Notes in the engine that the site answers, if nothing was written for some time.
    ///
    /// # Errors
    /// When the engine fails or refuses.
    pub async fn beat(&mut self, fence: &KvOp) -> Result<(), TakeError> {
        let due = self.last_write.is_none_or(|it| it.elapsed() >= BEAT);
        let written = self.written().await?;
        if written.head.base.is_empty() || (!due && written.head.dark.is_none()) {
            return Ok(());
        }
        let (cursor, gateways) = (written.head.cursor.clone(), written.head.gateways.clone());
        let wrote = self.write(Vec::new(), cursor, gateways, fence).await;
        self.forget_unless(wrote)
    }

    /// Notes in the engine that the site does not answer. What it told stays.
    ///
    /// # Errors
    /// When the engine fails or refuses.
    pub async fn dark(&mut self, dark: Dark, fence: &KvOp) -> Result<(), TakeError> {
        let written = self.written().await?;
        if written.head.base.is_empty() || written.head.dark.is_some() {
            return Ok(());
        }
        let head = Head { dark: Some(dark), ..written.head.clone() };
        let wrote = self.commit(head, Vec::new(), fence).await;
        self.forget_unless(wrote)
    }

    /// Removes everything that the site told, because no document names the site any longer.
    ///
    /// # Errors
    /// When the engine fails or refuses.
    pub async fn remove(&mut self, fence: &KvOp) -> Result<(), TakeError> {
        (self.written, self.gathering) = (None, None);
        let ops = vec![
            fence.clone(),
            KvOp::Delete { key: head_key(&self.site) },
            KvOp::DeleteTree { prefix: site_prefix(&self.site) },
        ];
        self.transact(ops).await.map(drop)
    }

    fn forget_unless<T>(&mut self, wrote: Result<T, TakeError>) -> Result<T, TakeError> {
        if wrote.is_err() {
            (self.written, self.gathering) = (None, None);
        }
        wrote
    }

    /// Writes changes, so that the cursor is in the engine only together with the last of them.
    async fn write(
        &mut self,
        changes: Vec<Change>,
        cursor: Cursor,
        gateways: Gateways,
        fence: &KvOp,
    ) -> Result<(), TakeError> {
        let metrics = Arc::clone(&self.metrics);
        let written = self.written().await?;
        let new = written.head.base.is_empty();
        let fresh =
            Head { cursor, gateways, dark: None, beat: written.head.beat + 1, ..written.head.clone() };
        if new || size(&changes) > MAX_CHANGES {
            for change in &changes {
                if !written.state.apply(change) {
                    metrics.services_cut.increment();
                }
            }
            return self.write_base(fresh, fence).await;
        }
        let mut batches = split(changes);
        let last = batches.pop().unwrap_or_default();
        for batch in batches {
            let written = self.written().await?;
            let head = Head { cursor: written.head.cursor.clone(), ..written.head.clone() };
            self.write_batch(batch, head, fence).await?;
        }
        let written = self.written().await?;
        let Head { cursor, gateways, dark, beat, .. } = fresh;
        let head = Head { cursor, gateways, dark, beat, ..written.head.clone() };
        self.pace().await;
        if last.is_empty() {
            return self.commit(head, Vec::new(), fence).await;
        }
        self.write_batch(last, head, fence).await
    }

    async fn pace(&self) {
        if let Some(last) = self.last_write {
            tokio::time::sleep_until(last + EVERY).await;
        }
    }

    /// Writes one batch, with some of the shards that lack changes.
    async fn write_batch(&mut self, changes: Vec<Change>, head: Head, fence: &KvOp) -> Result<(), TakeError> {
        let sequence = head.sequence + 1;
        while self.written().await?.floor(sequence) + RING <= sequence + 1 {
            // So much changed that shards have to be rewritten before the ring has turned.
            let head = self.written().await?.head.clone();
            if !self.rewrite(head, Vec::new(), 0, fence).await? {
                break;
            }
        }
        let metrics = Arc::clone(&self.metrics);
        let written = self.written().await?;
        for change in &changes {
            if !written.state.apply(change) {
                metrics.services_cut.increment();
                continue;
            }
            written.lacks(shard_of(&change.service, head.shards), sequence);
        }
        let (after, link) = (head.link, fastrand::u64(..));
        let batch = Batch { v: VERSION, sequence, base: head.base.clone(), after, link, changes };
        let op = KvOp::Set { key: batch_key(&self.site, sequence), value: json(&batch) };
        self.metrics.batches_written.increment();
        self.rewrite(Head { sequence, link, ..head }, vec![op], sequence, fence).await.map(drop)
    }

    /// Commits a head with these operations and the shards that are due; those at least that a batch due to be overwritten
    /// is in. False if a shard was too large, and a new base was written.
    async fn rewrite(
        &mut self,
        head: Head,
        mut ops: Vec<KvOp>,
        sequence: u64,
        fence: &KvOp,
    ) -> Result<bool, TakeError> {
        let site = self.site.clone();
        let written = self.written().await?;
        let due = if sequence == 0 { MAX_OPS - 4 } else { written.due(sequence) };
        let mut room = MAX_VALUES.saturating_sub(ops.iter().map(weight).sum());
        let mut done = Vec::new();
        for (_, shard) in written.oldest.iter().take(due.min(MAX_OPS - 4)) {
            let services = services_in(&written.state, *shard, head.shards);
            let value = json(&Shard { v: VERSION, at: head.sequence, services });
            if value.len() > MAX_SHARD {
                return self.write_base(head, fence).await.map(|()| false);
            }
            if value.len() > room && !done.is_empty() {
                break;
            }
            room = room.saturating_sub(value.len());
            ops.push(KvOp::Set { key: shard_key(&site, &head.base, *shard), value });
            done.push(*shard);
        }
        for shard in done {
            written.rewritten(shard);
        }
        let floor = written.floor(head.sequence + 1);
        self.commit(Head { floor, ..head }, ops, fence).await.map(|()| true)
    }

    /// Writes everything anew. The head names it only when it is complete.
    async fn write_base(&mut self, head: Head, fence: &KvOp) -> Result<(), TakeError> {
        self.remove_abandoned(&head.base, fence).await?;
        let site = self.site.clone();
        let written = self.written().await?;
        let base = format!("{:016x}", fastrand::u64(..));
        let (shards, values) = divide(&written.state, head.sequence);
        let (mut ops, mut room) = (vec![fence.clone()], MAX_VALUES);
        for (shard, value) in values {
            if value.len() > room || ops.len() >= MAX_OPS {
                self.transact(std::mem::replace(&mut ops, vec![fence.clone()])).await?;
                room = MAX_VALUES;
            }
            room = room.saturating_sub(value.len());
            ops.push(KvOp::Set { key: shard_key(&site, &base, shard), value });
        }
        self.transact(ops).await?;
        let former = base_prefix(&site, &head.base);
        let ops = if head.base.is_empty() { Vec::new() } else { vec![KvOp::DeleteTree { prefix: former }] };
        let head = Head { v: VERSION, base, shards, floor: head.sequence + 1, ..head };
        self.commit(head, ops, fence).await?;
        let written = self.written().await?;
        (written.behind, written.oldest) = (HashMap::new(), BTreeSet::new());
        self.metrics.bases_written.increment();
        Ok(())
    }

    /// Removes bases that a writer began and did not complete.
    async fn remove_abandoned(&self, used: &str, fence: &KvOp) -> Result<(), TakeError> {
        let prefix = bases_prefix(&self.site);
        let keys = self.engine.kv_keys(&prefix).await?;
        let ids = keys.iter().filter_map(|it| it.strip_prefix(&prefix)?.split('/').next());
        for id in ids.filter(|it| *it != used).collect::<BTreeSet<_>>() {
            let prefix = base_prefix(&self.site, id);
            self.transact(vec![fence.clone(), KvOp::DeleteTree { prefix }]).await?;
        }
        Ok(())
    }

    /// Replaces the head, together with other operations.
    async fn commit(&mut self, head: Head, ops: Vec<KvOp>, fence: &KvOp) -> Result<(), TakeError> {
        let expected = self.written().await?.index;
        let cas = KvOp::Cas { key: head_key(&self.site), value: json(&head), expected };
        let all = [fence.clone(), cas].into_iter().chain(ops).collect();
        let indexes = self.transact(all).await?;
        let index = indexes.get(1).copied().flatten().unwrap_or_default();
        self.last_write = Some(Instant::now());
        let written = self.written().await?;
        (written.head, written.index) = (head, index);
        Ok(())
    }

    async fn transact(&self, ops: Vec<KvOp>) -> Result<Vec<Option<Index>>, TakeError> {
        let bytes: usize = ops.iter().map(weight).sum();
        match self.engine.txn(ops).await? {
            TxnOutcome::Committed(indexes) => {
                self.metrics.bytes_written.add(bytes as u64);
                Ok(indexes)
            }
            TxnOutcome::Refused(reasons) => Err(TakeError::Fenced(format!("{reasons:?}"))),
        }
    }
}

/// What has to change so that a state tells exactly these services.
fn differences(state: &State, services: &BTreeMap<String, Arc<Told>>) -> Vec<Change> {
    let dropped = state.iter().filter(|(name, _)| !services.contains_key(*name));
    let dropped = dropped.filter_map(|(name, told)| Change::between(name, Some(told), None));
    let others = services.iter().filter_map(|(name, told)| {
        let previous = state.get(name).map(AsRef::as_ref);
        Change::between(name, previous, Some(told))
    });
    dropped.chain(others).collect()
}

/// A service that our documents name is not dropped: it is not read there.
fn keep_named(change: &mut Change, names: &dyn Fn(&str) -> bool) {
    if change.dropped && names(&change.service) {
        change.dropped = false;
        change.value = Some((Value::Unread, "its site tells of it no longer".to_owned()));
    }
}

/// Changes in batches of bounded size.
fn split(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let (mut batches, mut room) = (Vec::new(), 0);
    for change in changes {
        let bytes = size(&change) + 1;
        if bytes > room || batches.is_empty() {
            batches.push(Vec::new());
            room = MAX_BATCH;
        }
        room = room.saturating_sub(bytes);
        if let Some(last) = batches.last_mut() {
            last.push(change);
        }
    }
    batches
}

fn services_in(state: &State, shard: u32, shards: u32) -> BTreeMap<String, Told> {
    let within = state.iter().filter(|(name, _)| shard_of(name, shards) == shard);
    within.map(|(name, told)| (name.clone(), told.as_ref().clone())).collect()
}

/// All shards of a state, as many as are needed for none to be too large.
fn divide(state: &State, at: u64) -> (u32, Vec<(u32, Bytes)>) {
    let bytes: usize = state.iter().map(|(name, told)| name.len() + size(told.as_ref()) + 8).sum();
    let wanted = u32::try_from(bytes / MEAN_SHARD).unwrap_or(MAX_SHARDS).next_power_of_two();
    let mut shards = wanted.clamp(MIN_SHARDS, MAX_SHARDS);
    loop {
        let mut all: BTreeMap<u32, BTreeMap<String, Told>> = BTreeMap::new();
        for (name, told) in state.iter() {
            let shard = all.entry(shard_of(name, shards)).or_default();
            shard.insert(name.clone(), told.as_ref().clone());
        }
        let values: Vec<_> = all
            .into_iter()
            .map(|(shard, services)| (shard, json(&Shard { v: VERSION, at, services })))
            .collect();
        let fits = values.iter().all(|(_, value)| value.len() <= MAX_SHARD);
        if fits || shards >= MAX_SHARDS {
            return (shards, values);
        }
        shards *= 2;
    }
}

fn weight(op: &KvOp) -> usize {
    match op {
        KvOp::Set { key, value } | KvOp::Cas { key, value, .. } => key.len() + value.len(),
        _ => 64,
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // Texts and numbers have no failing serialiser.
    serde_json::to_vec(value).unwrap_or_default().into()
}
