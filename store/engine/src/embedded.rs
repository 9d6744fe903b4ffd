//! Consul's model in this process: the engine of a single machine, and of every simulation.
//!
//! Writes go through one task (`writer`) that decides them in order (`kv`, `catalog`, `sessions`: pure,
//! over `txn`), puts them on the disk with one sync for many (`disk`) and then shows them to the readers
//! (`view`). Without a disk it is the same engine in memory. What it keeps are `rows` in `tables`, apart
//! from the types of the trait and of Consul's JSON, so that the stored form depends on neither.

pub(crate) mod catalog;
mod changes;
mod codec;
mod disk;
pub(crate) mod kv;
mod lookups;
pub(crate) mod rows;
pub(crate) mod sessions;
pub(crate) mod tables;
pub(crate) mod txn;
pub(crate) mod view;
mod watching;
mod writer;

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::mpsc, time::Instant};

pub use self::disk::remove_unfinished_snapshots;
use self::{
    disk::Disk,
    kv::Miss,
    rows::{Behavior, CheckRow, NodeRow, SERF_HEALTH, ServiceRow, SessionRow, service_maintenance},
    tables::Tables,
    txn::Txn,
    view::View,
    writer::{Shared, Writer},
};
use super::{
    CheckStatus, Endpoint, Engine, EngineError, Index, Indexed, KvEntry, KvOp, MAX_TXN_BODY, MAX_TXN_OPS,
    MAX_VALUE, Registration, Result, ServiceChange, ServicesInUse, Session, SessionId, SessionSpec,
    TxnOutcome, Wait,
};

/// The engine's own entry in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name of its node, on which everything is that is registered at its agent.
    pub node: String,
    /// The node's address.
    pub address: IpAddr,
    /// The data centre's name.
    pub datacenter: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: "waypost".to_owned(),
            address: IpAddr::from([127, 0, 0, 1]),
            datacenter: "dc1".to_owned(),
        }
    }
}

/// The embedded engine.
#[derive(Debug)]
pub struct Embedded {
    options: Options,
    shared: Arc<Shared>,
    writer: Writer,
}

impl Embedded {
    /// Opens the engine kept in a folder, making it if absent.
    ///
    /// # Errors
    /// [`EngineError::Storage`] when the folder cannot be used, or what it holds is damaged: the file and the
    /// command that puts a backup back are named.
    pub async fn open(dir: &Path, options: Options) -> Result<Arc<Self>> {
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Disk::open(&dir)).await;
        let (disk, tables) = opened.map_err(|error| EngineError::Storage(error.to_string()))??;
        Self::start(tables, Some(disk), options).await
    }

    /// An empty engine without a disk. It needs a tokio runtime and uses its clock, also when that is paused.
    pub async fn in_memory(options: Options) -> Arc<Self> {
        Self::start(Tables::default(), None, options).await.expect("only a disk can fail")
    }

    async fn start(tables: Tables, disk: Option<Disk>, options: Options) -> Result<Arc<Self>> {
        let (shared, writer) = writer::start(tables, disk);
        let engine = Arc::new(Self { options, shared, writer });
        let (name, address) = (engine.options.node.clone(), engine.options.address.to_string());
        engine.write(move |txn| register_own_node(txn, name, address)).await?;
        Ok(engine)
    }

    /// Its own entry in the catalog.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Ends the engine and releases its folder. Every acknowledged write is stored.
    pub async fn close(&self) {
        self.writer.close().await;
    }

    /// A write that cannot be refused.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Txn<'_>) -> T + Send + 'static,
    ) -> Result<T> {
        let decided = self.try_write(|txn| Ok::<_, std::convert::Infallible>(decide(txn))).await?;
        match decided {
            Ok(done) => Ok(done),
            Err(never) => match never {},
        }
    }

    /// A write; it is undone if `decide` returns an error.
    pub(crate) async fn try_write<T: Send + 'static, E: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Txn<'_>) -> std::result::Result<T, E> + Send + 'static,
    ) -> Result<std::result::Result<T, E>> {
        self.writer.write(decide).await
    }

    /// A look at the committed state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        self.shared.read(look)
    }

    /// A blocking query: looks again after every commit until the index that `look` gives passes the one to
    /// wait after, or the wait is over.
    pub(crate) async fn blocking<T>(
        &self,
        wait: Option<Wait>,
        look: impl Fn(&View) -> (u64, T) + Send,
    ) -> Indexed<T> {
        let mut committed = self.shared.committed();
        let until = wait.filter(|wait| wait.after > Index(0)).map(|wait| {
            let at_most = wait.at_most.min(MAX_WAIT);
            (wait.after, Instant::now() + at_most + at_most.mul_f64(fastrand::f64() / 16.0))
        });
        loop {
            committed.borrow_and_update();
            let (index, value) = self.read(&look);
            let index = Index(index);
            let Some((after, deadline)) =
                until.filter(|(after, deadline)| index <= *after && Instant::now() < *deadline)
            else {
                return Indexed { index, value };
            };
            drop(value);
            debug_assert!(after >= index);
            tokio::select! {
                changed = committed.changed() => if changed.is_err() { tokio::time::sleep_until(deadline).await },
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }
}

/// Consul caps waits at ten minutes.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// Registers the engine's own node, with the check that every live node has.
fn register_own_node(txn: &mut Txn<'_>, name: String, address: String) {
    let there = txn.tables().nodes.get(&name).map(|it| it.id.clone());
    let lan = [("lan", &address), ("wan", &address)].map(|(name, it)| (name.to_owned(), it.clone()));
    let node = NodeRow {
        id: there.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        name: name.clone(),
        tagged_addresses: BTreeMap::from(lan),
        address,
        ..NodeRow::default()
    };
    catalog::put_node(txn, node);
    let alive = CheckRow {
        name: "Serf Health Status".to_owned(),
        output: "Agent alive and reachable".to_owned(),
        ..CheckRow::of_node(name, SERF_HEALTH.to_owned(), CheckStatus::Passing)
    };
    catalog::put_check(txn, alive).expect("it names no instance");
}

/// Registers an instance that came through the trait.
fn register_instance(txn: &mut Txn<'_>, node: String, registration: Registration) {
    let Registration { service, id, address, tags, meta, ttl, status } = registration;
    let row = ServiceRow {
        node: node.clone(),
        id: id.clone(),
        name: service.clone(),
        tags,
        address: address.ip().to_string(),
        port: address.port(),
        tagged_addresses: BTreeMap::new(),
        meta,
        weight_passing: 1,
        weight_warning: 1,
        enable_tag_override: false,
        create: 0,
        modify: 0,
    };
    catalog::put_service(txn, row);
    if let Some(ttl) = ttl {
        let check = CheckRow {
            name: format!("Service '{service}' check"),
            service_id: id.clone(),
            kind: "ttl".to_owned(),
            ttl: Some(ttl),
            ..CheckRow::of_node(node, format!("service:{id}"), status)
        };
        put_check_with_its_state(txn, check);
    }
}

/// Registers a check; one that exists keeps its state.
pub(crate) fn put_check_with_its_state(txn: &mut Txn<'_>, mut check: CheckRow) {
    if let Some(there) = txn.tables().check(&check.node, &check.id) {
        check.status = there.status;
        check.output.clone_from(&there.output);
    }
    // Its instance was registered before it, so this cannot fail.
    let _ = catalog::put_check(txn, check);
}

/// The size of a transaction as JSON in octets, for which Consul has a limit.
fn json_size(ops: &[KvOp]) -> usize {
    let of = |op: &KvOp| match op {
        KvOp::Set { key, value }
        | KvOp::Cas { key, value, .. }
        | KvOp::Lock { key, value, .. }
        | KvOp::Unlock { key, value, .. } => key.len() + value.len().div_ceil(3) * 4,
        KvOp::Delete { key } | KvOp::CheckIndex { key, .. } | KvOp::CheckSession { key, .. } => key.len(),
        KvOp::DeleteTree { prefix } => prefix.len(),
    };
    ops.iter().map(|op| of(op) + 64).sum()
}

fn check_limits(ops: &[KvOp]) -> Result<()> {
    let refused = |text: String| Err(EngineError::Refused(text));
    if ops.len() > MAX_TXN_OPS {
        return refused(format!("transaction of {} operations: expected at most {MAX_TXN_OPS}", ops.len()));
    }
    if json_size(ops) > MAX_TXN_BODY {
        return refused(format!("transaction of {} octets: expected at most {MAX_TXN_BODY}", json_size(ops)));
    }
    for op in ops {
        if let KvOp::Set { key, value } | KvOp::Cas { key, value, .. } = op
            && value.len() > MAX_VALUE
        {
            return refused(format!(
                "value of {key:?} has {} octets: expected at most {MAX_VALUE}",
                value.len()
            ));
        }
    }
    Ok(())
}

fn run_all(
    txn: &mut Txn<'_>,
    ops: Vec<KvOp>,
) -> std::result::Result<Vec<Option<Index>>, Vec<(usize, String)>> {
    let (mut indexes, mut missed) = (Vec::with_capacity(ops.len()), Vec::new());
    for (at, op) in ops.into_iter().enumerate() {
        let (key, verb) = kv::from_trait(op);
        match kv::run(txn, &key, verb) {
            Ok(entries) => indexes.push(entries.first().map(|entry| entry.modify_index)),
            Err(miss) => missed.push((at, Miss::into_text(miss))),
        }
    }
    if missed.is_empty() { Ok(indexes) } else { Err(missed) }
}

#[async_trait]
impl Engine for Embedded {
    async fn kv_get(&self, key: &str, wait: Option<Wait>) -> Result<Indexed<Option<KvEntry>>> {
        let look = |view: &View| (view.key_index(key), view.tables.kv.get(key).cloned());
        let read = self.blocking(wait, look).await;
        Ok(Indexed { index: read.index, value: read.value.map(Arc::unwrap_or_clone) })
    }

    async fn kv_list(&self, prefix: &str, wait: Option<Wait>) -> Result<Indexed<Vec<KvEntry>>> {
        let all = |view: &View| view.tables.below(prefix).map(|it| KvEntry::clone(it)).collect();
        Ok(self.blocking(wait, |view| (view.prefix_index(prefix), all(view))).await)
    }

    async fn kv_keys(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.read(|view| view.tables.below(prefix).map(|entry| entry.key.clone()).collect()))
    }

    async fn txn(&self, ops: Vec<KvOp>) -> Result<TxnOutcome> {
        check_limits(&ops)?;
        Ok(match self.try_write(move |txn| run_all(txn, ops)).await? {
            Ok(indexes) => TxnOutcome::Committed(indexes),
            Err(missed) => TxnOutcome::Refused(missed),
        })
    }

    /// No token limits what a node reads of its own tables.
    fn may_filter(&self) -> bool {
        false
    }

    async fn services(&self, wait: Option<Wait>) -> Result<Indexed<BTreeMap<String, Vec<String>>>> {
        Ok(self.blocking(wait, |view| (view.catalog_index(), view.services())).await)
    }

    async fn health(&self, service: &str, wait: Option<Wait>) -> Result<Indexed<Vec<Endpoint>>> {
        Ok(self.blocking(wait, |view| (view.service_index(service), view.endpoints(service))).await)
    }

    fn watch(self: Arc<Self>, in_use: ServicesInUse) -> mpsc::Receiver<ServiceChange> {
        watching::start(Arc::clone(&self.shared), in_use)
    }

    async fn register(&self, registration: &Registration) -> Result<()> {
        let (node, registration) = (self.options.node.clone(), registration.clone());
        self.write(move |txn| register_instance(txn, node, registration)).await
    }

    async fn ttl_update(&self, check_id: &str, status: CheckStatus, note: &str) -> Result<()> {
        let (node, id, note) = (self.options.node.clone(), check_id.to_owned(), note.to_owned());
        let reported = self.write(move |txn| catalog::report(txn, &node, &id, status, &note)).await?;
        let unknown = || EngineError::Refused(format!("CheckID {check_id:?} does not have associated TTL"));
        reported.then_some(()).ok_or_else(unknown)
    }

    async fn deregister(&self, id: &str) -> Result<()> {
        let (node, id) = (self.options.node.clone(), id.to_owned());
        self.write(move |txn| catalog::remove_service(txn, &node, &id)).await
    }

    async fn evict(&self, endpoint: &Endpoint, _reason: &str) -> Result<()> {
        // Here the catalog is the agent: no maintenance is needed for an instance that leaves at once.
        let (node, id) = (endpoint.node.clone(), endpoint.id.clone());
        self.write(move |txn| catalog::remove_service(txn, &node, &id)).await
    }

    async fn readmit(&self, endpoint: &Endpoint) -> Result<()> {
        let (node, check) = (endpoint.node.clone(), service_maintenance(&endpoint.id));
        self.write(move |txn| catalog::remove_check(txn, &node, &check)).await
    }

    async fn session_create(&self, spec: &SessionSpec) -> Result<SessionId> {
        if spec.ttl < sessions::TTL.0 || spec.ttl > sessions::TTL.1 {
            return Err(EngineError::Refused(format!("session TTL {:?}: expected 10 s to 24 h", spec.ttl)));
        }
        let id = uuid::Uuid::new_v4().to_string();
        let row = SessionRow {
            id: id.clone(),
            name: spec.name.clone(),
            node: self.options.node.clone(),
            ttl: Some(spec.ttl),
            ttl_text: None,
            lock_delay: spec.lock_delay,
            behavior: Behavior::Release,
            node_checks: Vec::new(),
            service_checks: Vec::new(),
            create: 0,
            modify: 0,
        };
        let created = self.try_write(move |txn| sessions::create(txn, row)).await?;
        created.map(|()| SessionId(id)).map_err(EngineError::Refused)
    }

    async fn session_renew(&self, id: &SessionId) -> Result<bool> {
        let id = id.0.clone();
        self.write(move |txn| sessions::renew(txn, &id).is_some()).await
    }

    async fn session_destroy(&self, id: &SessionId) -> Result<()> {
        let id = id.0.clone();
        self.write(move |txn| sessions::destroy(txn, &id)).await
    }

    async fn sessions(&self) -> Result<Vec<Session>> {
        let shown = |row: &Arc<SessionRow>| Session { id: SessionId(row.id.clone()), name: row.name.clone() };
        Ok(self.read(|view| view.tables.sessions.values().map(shown).collect()))
    }
}

impl super::catalog::Catalog for Embedded {
    fn look(&self, look: &mut dyn FnMut(&dyn super::catalog::View)) {
        self.read(|view| look(view));
    }
}

#[cfg(test)]
mod tests;
