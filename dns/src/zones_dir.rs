//! Zones from a folder: every `ORIGIN.zone` in it, without documents and without an engine.
//!
//! [`Zones`] is what is served: immutable, swapped whole. [`ZonesDir`] is the folder behind it; reading it again
//! keeps the views of files that did not change, and the old view of a file that has an error now. A zone may
//! span several files (`$INCLUDE`), so a change is detected by the content of all of them.

mod files;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use store::{
    metrics::{Descriptor, Sample, Source},
    model::DomainName,
    snapshot::ZoneView,
};
use tokio::sync::watch;

use files::{Listed, Loaded};

/// Zones by apex; immutable.
#[derive(Debug, Default)]
pub struct Zones(HashMap<DomainName, Loaded>);

static NONE: LazyLock<Zones> = LazyLock::new(Zones::default);

impl Zones {
    /// No zones.
    #[must_use]
    pub fn none() -> &'static Self {
        &NONE
    }

    /// The zone a name lies in: the longest apex above it.
    #[must_use]
    pub fn zone_of(&self, name: &str) -> Option<&Arc<ZoneView>> {
        if self.0.is_empty() {
            return None;
        }
        let mut rest = name;
        loop {
            if let Some(loaded) = self.0.get(rest) {
                return Some(&loaded.view);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    /// Every zone, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ZoneView>> {
        self.0.values().map(|loaded| &loaded.view)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The result of reading the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The zones that are served now.
    pub zones: usize,
    /// Those of them whose view is new.
    pub changed: usize,
    /// Those that are gone.
    pub removed: usize,
    /// Files that could not be taken; where an older version was served, it still is.
    pub failed: usize,
    /// What is wrong with them, a line each; at most [`Report::MAX`].
    pub errors: Vec<String>,
    /// What was passed over, in the files that are new and in the folder, a line each; at most [`Report::MAX`].
    pub warnings: Vec<String>,
}

impl Report {
    /// More lines than this are not kept.
    pub const MAX: usize = 200;

    fn fail(&mut self, errors: impl IntoIterator<Item = String>) {
        self.failed += 1;
        let room = Self::MAX.saturating_sub(self.errors.len());
        self.errors.extend(errors.into_iter().take(room));
    }

    fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        let room = Self::MAX.saturating_sub(self.warnings.len());
        self.warnings.extend(warnings.into_iter().take(room));
    }

    /// Reports files that are neither zones nor part of one.
    fn pass_over(&mut self, others: &[PathBuf]) {
        const NAMED: usize = 10;
        let Some(first) = others.first() else { return };
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names: Vec<_> = others.iter().take(NAMED).map(name).collect();
        let more = if others.len() > NAMED { ", …" } else { "" };
        let folder = first.parent().unwrap_or(first).display();
        self.warn([format!(
            "{folder}: {} files are not served, for their names do not end in .zone: {}{more}; expected ORIGIN.zone",
            others.len(),
            names.join(", ")
        )]);
    }

    /// Writes the report to the log.
    pub fn log(&self) {
        for error in &self.errors {
            tracing::error!("[dns] zones_dir: {error}");
        }
        for warning in &self.warnings {
            tracing::warn!("[dns] zones_dir: {warning}");
        }
        let Self { zones, changed, removed, failed, .. } = self;
        tracing::info!(zones, changed, removed, failed, "read the folder of zones");
    }
}

/// A folder of zone files.
#[derive(Debug)]
pub struct ZonesDir {
    dir: PathBuf,
    zones: Arc<ArcSwap<Zones>>,
    changes: watch::Sender<u64>,
    one_at_a_time: Mutex<()>,
    metrics: Metrics,
}

impl ZonesDir {
    /// Reads a folder for the first time.
    ///
    /// # Errors
    /// Why the folder itself cannot be read. Files with errors are left out and reported.
    pub fn open(dir: &Path) -> Result<(Self, Report), std::io::Error> {
        let zones = Arc::new(ArcSwap::from_pointee(Zones::default()));
        let changes = watch::Sender::new(0);
        let dir = Self {
            dir: dir.to_owned(),
            zones,
            changes,
            one_at_a_time: Mutex::default(),
            metrics: Metrics::default(),
        };
        let report = dir.take_in()?;
        Ok((dir, report))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What is served now, also after later rereads.
    #[must_use]
    pub fn zones(&self) -> &Arc<ArcSwap<Zones>> {
        &self.zones
    }

    /// Wakes with every reading of the folder that found other zones; the number only grows.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Reads the folder again; blocks as long as that takes.
    pub fn reread(&self) -> Report {
        self.take_in().unwrap_or_else(|error| {
            self.metrics.failures.increment();
            let mut report = Report { zones: self.zones.load().len(), ..Report::default() };
            report.fail([format!("{}: {error}; every zone stays as it is", self.dir.display())]);
            report
        })
    }

    fn take_in(&self) -> Result<Report, std::io::Error> {
        // The lock guards no data: a reader that panicked has left nothing half done.
        let _one = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let (listed, others) = files::list(&self.dir)?;
        let (zones, parts, mut report) = update(&self.zones.load(), listed);
        let part = |file: &PathBuf| file.canonicalize().is_ok_and(|file| parts.contains(&file));
        let others: Vec<PathBuf> = others.into_iter().filter(|file| !part(file)).collect();
        report.pass_over(&others);
        self.metrics.loaded.set(u64::try_from(zones.len()).unwrap_or(u64::MAX));
        self.metrics.failures.add(u64::try_from(report.failed).unwrap_or(u64::MAX));
        // What was compiled from the same zones is right as it is.
        if report.changed + report.removed > 0 {
            self.zones.store(Arc::new(zones));
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(report)
    }
}

/// The zones of the listed files, unchanged ones taken over from before, and the files that are included in one.
fn update(old: &Zones, listed: Vec<Listed>) -> (Zones, HashSet<PathBuf>, Report) {
    let mut report = Report::default();
    let mut zones = HashMap::with_capacity(listed.len());
    let (mut parts, mut failures) = (HashSet::new(), Vec::new());
    for Listed { path, origin } in listed {
        let origin = match origin {
            Ok(origin) if !zones.contains_key(&origin) => origin,
            Ok(origin) => {
                failures.push((
                    vec![format!("{}: a second file for {origin}; expected one", path.display())],
                    path,
                ));
                continue;
            }
            Err(problem) => {
                failures.push((vec![problem], path));
                continue;
            }
        };
        let before = old.0.get(&origin);
        let (loaded, included) = files::load(&path, &origin, before);
        parts.extend(included.iter().filter_map(|part| part.canonicalize().ok()));
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(mut errors) => {
                let stays = before.map_or("is not served", |_| "is served as it was");
                errors.push(format!("{}: the zone {origin} {stays}", path.display()));
                match before {
                    Some(before) => {
                        report.fail(errors);
                        before.clone()
                    }
                    None => {
                        failures.push((errors, path));
                        continue;
                    }
                }
            }
        };
        let same = before.is_some_and(|before| Arc::ptr_eq(&before.view, &loaded.view));
        report.changed += usize::from(!same);
        if !same {
            report.warn(loaded.warnings.iter().cloned());
        }
        zones.insert(origin, loaded);
    }
    // A file that is no zone by itself and is included in one is a part of it, under any name.
    let part = |path: &Path| path.canonicalize().is_ok_and(|path| parts.contains(&path));
    for (errors, _) in failures.into_iter().filter(|(_, path)| !part(path)) {
        report.fail(errors);
    }
    report.zones = zones.len();
    report.removed = old.0.keys().filter(|origin| !zones.contains_key(*origin)).count();
    (Zones(zones), parts, report)
}

store::metrics! {
    /// What a folder of zone files counts.
    struct Metrics {
        loaded: gauge("waypost.dns.zones_dir.zones", "{zone}", "Zones served from zones_dir.");
        failures: counter(
            "waypost.dns.zones_dir.failures",
            "{file}",
            "Files in zones_dir that could not be taken when it was read; an older version of them stays."
        );
    }
}

impl Source for ZonesDir {
    fn descriptors(&self) -> &'static [Descriptor] {
        self.metrics.descriptors()
    }

    fn collect(&self, emit: &mut dyn FnMut(Sample<'_>)) {
        self.metrics.collect(emit);
    }
}

#[cfg(test)]
mod tests;
