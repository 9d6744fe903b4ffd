//! Follows what other sites tell of their instances, as this site's control writes it to this site's engine.
//!
//! One long poll follows the heads of all sites. What changed is read as batches, and only who starts or fell far behind
//! reads everything. A site whose head no longer changes is dark: what it sent last stays, on this node's disk too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::Shared;
use crate::{
    engine::{
        EngineError, KvEntry,
        follower::{Follower, News, Reading, Watched},
    },
    keys,
    model::{Name, Site},
    remote::{
        Head, State, Told,
        reader::{self, Copy},
    },
    snapshot::Snapshot,
};

/// A site whose head has not changed for this long is dark. While a site answers, the head moves every few seconds.
const STALE_AFTER: Duration = Duration::from_secs(15);
/// How often it is looked whether a site is dark, and a piece is written to the disk.
const EVERY: Duration = Duration::from_secs(1);
/// The pieces in which a site is kept on disk, …
const PIECES: usize = 64;
/// … and how many of them are written a second, if they changed.
const PIECES_AT_ONCE: usize = 2;
const MEMORY: &str = "remote";

/// What changed of other sites.
#[derive(Debug)]
pub(super) enum RemoteNews {
    /// What a site tells of services; `None`: nothing any more.
    Told(Name, Vec<(String, Option<Arc<Told>>)>),
    /// All that a site tells.
    Whole(Name, Vec<(String, Arc<Told>)>),
    /// A site is dark, for this reason, or not any more.
    Dark(Name, Option<String>),
    /// A site is forgotten: it has no document, and no control writes what it tells.
    Forgotten(Name),
}

/// One site.
#[derive(Debug)]
struct Followed {
    copy: Copy,
    head: Head,
    /// When the head moved last; `None` while only this node's memory is known.
    moved: Option<Instant>,
    dark: Option<String>,
    /// The pieces that differ from those on disk, the next to be written first.
    unkept: BTreeSet<usize>,
    next_piece: usize,
}

struct Remote {
    shared: Shared,
    sites: BTreeMap<Name, Followed>,
    news: mpsc::Sender<RemoteNews>,
    /// The heads that cannot be read, which are logged once.
    unreadable: BTreeSet<String>,
}

/// Follows until the receiver of the news is gone. Only gateways and controls use instances of other sites.
pub(super) async fn follow(shared: Shared, news: mpsc::Sender<RemoteNews>) {
    if !["proxy", "control"].iter().any(|it| shared.identity.roles.contains(*it)) {
        return;
    }
    let watched = Watched::Prefix(keys::REMOTE_HEADS.to_owned());
    let mut follower = Follower::new(Arc::clone(&shared.engine), watched, shared.options.wait)
        .reporting("reading what other sites tell", "what they told last stays");
    let mut remote = Remote { shared, sites: BTreeMap::new(), news, unreadable: BTreeSet::new() };
    remote.remembered().await;
    remote.need_others().await;
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = every.tick() => {
                remote.look_for_dark().await;
                remote.keep();
            }
            news = follower.next() => match news {
                News::Read(reading) => {
                    if let Err(error) = remote.read(&reading).await {
                        remote.shared.metrics.engine_failures.increment();
                        follower.failed(error);
                    }
                }
                News::Failed(_) => remote.shared.metrics.engine_failures.increment(),
            },
        }
        if remote.news.is_closed() {
            return;
        }
    }
}

impl Remote {
    async fn send(&self, news: RemoteNews) {
        // An error means that the follower ends.
        let _ = self.news.send(news).await;
    }

    /// Completes when there is another site that has a control. On Consul following a prefix without keys costs a read a
    /// second while anything is written, so an installation with one engine does not do it.
    async fn need_others(&self) {
        let ours = self.shared.identity.site.as_str();
        let tells = |it: &Arc<Site>| it.control.is_some() && it.name.as_str() != ours;
        let others = |it: &Option<Arc<Snapshot>>| it.as_ref().is_some_and(|it| it.sites.iter().any(tells));
        let mut snapshots = self.shared.publisher.handle().snapshots();
        // An error means that the follower ends.
        let _ = snapshots.wait_for(others).await;
    }

    /// Takes over what this node knew last.
    async fn remembered(&mut self) {
        let sites = self.shared.memory.get::<BTreeSet<Name>>(MEMORY).unwrap_or_default();
        for name in sites.into_iter().filter(|it| it.as_str() != self.shared.identity.site) {
            let pieces = (0..PIECES).filter_map(|piece| {
                self.shared.memory.get::<BTreeMap<String, Arc<Told>>>(&piece_key(&name, piece))
            });
            let state: State = pieces.flatten().collect();
            let dark = Some("nothing was heard of it since this node started".to_owned());
            let whole = whole(&state);
            self.send(RemoteNews::Dark(name.clone(), dark.clone())).await;
            self.send(RemoteNews::Whole(name.clone(), whole)).await;
            let copy = Copy { state, ..Copy::default() };
            self.sites.insert(name, Followed { copy, dark, ..Followed::new() });
        }
    }

    fn head_of(&mut self, entry: &KvEntry) -> Option<(Name, Head)> {
        let read = reader::head_of(entry);
        if read.is_some() {
            self.unreadable.remove(&entry.key);
        } else if self.unreadable.insert(entry.key.clone()) {
            tracing::warn!(
                key = entry.key,
                "what another site tells cannot be read: is it of a newer version?"
            );
        }
        read
    }

    /// Reads what changed of every site whose head moved.
    async fn read(&mut self, reading: &Reading) -> Result<(), EngineError> {
        if !reading.changed {
            return Ok(());
        }
        let heads: BTreeMap<_, _> = reading.read.value.iter().filter_map(|it| self.head_of(it)).collect();
        for (name, head) in &heads {
            if name.as_str() != self.shared.identity.site {
                self.read_site(name, head).await?;
            }
        }
        self.forget_others(&heads).await;
        let gateways = self.sites.iter().map(|(name, it)| (name.clone(), it.head.gateways.clone()));
        self.shared.publisher.publish_gateways(gateways.collect());
        Ok(())
    }

    async fn read_site(&mut self, name: &Name, head: &Head) -> Result<(), EngineError> {
        let mut site = match self.sites.remove(name) {
            Some(site) => site,
            None => {
                self.keep_names(Some(name));
                Followed::new()
            }
        };
        let read = if site.head == *head && site.moved.is_some() {
            Ok(None)
        } else {
            read_changes(&self.shared, name, &mut site, head).await
        };
        let dark =
            head.dark.as_ref().map(|it| format!("it is dark since {}: {}", it.since.rfc3339(), it.reason));
        if read.is_ok() && (site.head != *head || site.moved.is_none()) {
            (site.head, site.moved) = (head.clone(), Some(Instant::now()));
        }
        let news = read.map(|news| news.into_iter().chain(site.darkens(name, dark)).collect::<Vec<_>>());
        self.sites.insert(name.clone(), site);
        for news in news? {
            self.send(news).await;
        }
        self.count_dark();
        Ok(())
    }

    /// Forgets the sites that have neither a head nor a document. An empty answer alone proves nothing.
    async fn forget_others(&mut self, heads: &BTreeMap<Name, Head>) {
        let Some(snapshot) = self.shared.publisher.handle().snapshot() else { return };
        let gone: Vec<_> = self.sites.keys().filter(|it| !heads.contains_key(*it)).cloned().collect();
        for name in gone.into_iter().filter(|it| snapshot.site_id(it).is_none()) {
            self.sites.remove(&name);
            for piece in 0..PIECES {
                let _ = self.shared.memory.remove(&piece_key(&name, piece));
            }
            self.keep_names(None);
            tracing::info!(site = %name, "site forgotten: it has no document any more");
            self.send(RemoteNews::Forgotten(name)).await;
        }
        self.count_dark();
    }

    async fn look_for_dark(&mut self) {
        let mut all = Vec::new();
        for (name, site) in &mut self.sites {
            let still = site.moved.is_some_and(|it| it.elapsed() >= STALE_AFTER);
            if still && site.dark.is_none() {
                let reason = format!("nothing was heard of it for {} s", STALE_AFTER.as_secs());
                all.extend(site.darkens(name, Some(reason)));
            }
        }
        for news in all {
            self.send(news).await;
        }
        self.count_dark();
    }

    fn count_dark(&self) {
        let dark = self.sites.values().filter(|it| it.dark.is_some()).count();
        self.shared.metrics.sites_dark.set(dark as u64);
    }

    /// Keeps the names of the sites on disk.
    fn keep_names(&self, new: Option<&Name>) {
        let names: BTreeSet<&Name> = self.sites.keys().chain(new).collect();
        if let Err(error) = self.shared.memory.put(MEMORY, &names) {
            tracing::warn!(%error, "what other sites tell is not kept across a restart");
        }
    }

    /// Keeps some of what changed on disk. What a site tells may have many megabytes, so it is written piece by piece.
    fn keep(&mut self) {
        for (name, site) in &mut self.sites {
            for _ in 0..PIECES_AT_ONCE {
                let next = site.unkept.range(site.next_piece..).next().or_else(|| site.unkept.first());
                let Some(piece) = next.copied() else { break };
                let services = site.copy.state.iter().filter(|(service, _)| piece_of(service) == piece);
                let services: BTreeMap<_, _> = services.collect();
                if let Err(error) = self.shared.memory.put(&piece_key(name, piece), &services) {
                    tracing::warn!(%error, "what other sites tell is not kept across a restart");
                    break;
                }
                site.unkept.remove(&piece);
                site.next_piece = piece + 1;
            }
        }
    }
}

impl Followed {
    fn new() -> Self {
        Self {
            copy: Copy::default(),
            head: Head::default(),
            moved: None,
            dark: None,
            unkept: BTreeSet::new(),
            next_piece: 0,
        }
    }

    /// Takes over whether the site is dark; the news if that changed.
    fn darkens(&mut self, name: &Name, dark: Option<String>) -> Option<RemoteNews> {
        if self.dark == dark {
            return None;
        }
        let services = self.copy.state.len();
        match &dark {
            Some(reason) => {
                tracing::warn!(site = %name, reason, services, "site is dark, its instances stay")
            }
            None => tracing::info!(site = %name, services, "site tells of its instances"),
        }
        self.dark.clone_from(&dark);
        Some(RemoteNews::Dark(name.clone(), dark))
    }
}

/// Reads the changes of a site, or everything; the news if there are any.
async fn read_changes(
    shared: &Shared,
    name: &Name,
    site: &mut Followed,
    head: &Head,
) -> Result<Option<RemoteNews>, EngineError> {
    let engine = shared.engine.as_ref();
    let before = (site.copy.reads, site.copy.bytes);
    let advanced = reader::advance(engine, name, &mut site.copy, head).await;
    shared.metrics.remote_reads.add(site.copy.reads - before.0);
    shared.metrics.remote_bytes.add(site.copy.bytes - before.1);
    if let Some(changes) = advanced? {
        let services: BTreeSet<_> = changes.into_iter().map(|it| it.service).collect();
        site.unkept.extend(services.iter().map(|it| piece_of(it)));
        let told = services.into_iter().map(|it| {
            let told = site.copy.state.get(&it).cloned();
            (it, told)
        });
        let told: Vec<_> = told.collect();
        return Ok((!told.is_empty()).then(|| RemoteNews::Told(name.clone(), told)));
    }
    let Some(copy) = reader::load(engine, name).await? else { return Ok(None) };
    shared.metrics.remote_wholes.increment();
    shared.metrics.remote_reads.add(copy.reads);
    shared.metrics.remote_bytes.add(copy.bytes);
    site.copy = copy;
    site.unkept.extend(0..PIECES);
    Ok(Some(RemoteNews::Whole(name.clone(), whole(&site.copy.state))))
}

fn whole(state: &State) -> Vec<(String, Arc<Told>)> {
    state.iter().map(|(name, told)| (name.clone(), Arc::clone(told))).collect()
}

fn piece_of(service: &str) -> usize {
    // FNV-1a: small, and the same in every version of the program.
    let hash = service
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    hash as usize % PIECES
}

fn piece_key(site: &Name, piece: usize) -> String {
    format!("{MEMORY}/{site}/{piece}")
}

#[cfg(test)]
mod tests;
