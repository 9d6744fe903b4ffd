//! The TLS settings of services, whose files are on this machine.
//!
//! A setting is prepared when a route first leads to it, and kept for as long as the table has it: services with the same
//! settings share it, and its sessions. Files are looked at again every few seconds ([`Backends::reread`]); one that cannot
//! be used leaves what was in use.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use store::model::{BackendTls, ClientCertificate};

use super::{ClientSettings, ClientTls, Identity};

/// The largest file of certificates or a key, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The settings of one or more services: ready, or what is wrong with them.
#[derive(Debug)]
pub(crate) struct Backend {
    tls: ArcSwap<Result<ClientTls, String>>,
    files: Vec<PathBuf>,
    seen: Mutex<Vec<Stamp>>,
}

/// The state of a file, to notice a change: time of change and length.
type Stamp = Option<(SystemTime, u64)>;

impl Backend {
    /// What connections use from now on.
    ///
    /// # Errors
    /// Why there is nothing that they could use, with the file.
    pub(crate) fn tls(&self) -> Result<ClientTls, String> {
        self.tls.load().as_ref().clone()
    }
}

/// All of them, by their settings without the name that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    /// Where relative paths begin.
    folder: PathBuf,
    all: Mutex<HashMap<BackendTls, Arc<Backend>>>,
}

impl Backends {
    /// None yet. Relative paths begin at `folder`.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, all: Mutex::default() }
    }

    /// The backend of these settings. Reads files if they are new.
    pub(crate) fn get(&self, settings: &BackendTls) -> Arc<Backend> {
        let here = |path: &PathBuf| self.folder.join(path);
        let key = BackendTls {
            server_name: None,
            verify: settings.verify,
            ca_file: settings.ca_file.as_ref().map(here),
            client_certificate: settings
                .client_certificate
                .as_ref()
                .map(|it| ClientCertificate { certificate: here(&it.certificate), key: here(&it.key) }),
        };
        Arc::clone(self.all().entry(key).or_insert_with_key(|key| Arc::new(prepare(key))))
    }

    /// Reads files again that have changed, and forgets what is not used any more. May block on the disk.
    pub(crate) fn reread(&self) {
        let all: Vec<_> = {
            let mut all = self.all();
            all.retain(|_, backend| Arc::strong_count(backend) > 1);
            all.iter().map(|(settings, backend)| (settings.clone(), Arc::clone(backend))).collect()
        };
        for (settings, backend) in all {
            reread(&settings, &backend);
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<BackendTls, Arc<Backend>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepare(settings: &BackendTls) -> Backend {
    let mut files: Vec<PathBuf> = settings.ca_file.iter().cloned().collect();
    if let Some(shown) = &settings.client_certificate {
        files.extend([shown.certificate.clone(), shown.key.clone()]);
    }
    // Before they are read, so that a change in between is seen as one later.
    let seen = stamps(&files);
    let tls = read(settings);
    if let Err(error) = &tls {
        tracing::error!("TLS with instances: {error}");
    }
    Backend { tls: ArcSwap::from_pointee(tls), files, seen: Mutex::new(seen) }
}

fn reread(settings: &BackendTls, backend: &Backend) {
    let now = stamps(&backend.files);
    {
        let mut seen = backend.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return;
        }
        *seen = now;
    }
    match read(settings) {
        Ok(tls) => {
            tracing::info!(files = ?backend.files, "TLS with instances: read again");
            backend.tls.store(Arc::new(Ok(tls)));
        }
        Err(error) if backend.tls.load().is_err() => {
            tracing::error!("TLS with instances: {error}");
            backend.tls.store(Arc::new(Err(error)));
        }
        Err(error) => tracing::error!("TLS with instances: kept what was in use: {error}"),
    }
}

fn read(settings: &BackendTls) -> Result<ClientTls, String> {
    let authorities = settings.ca_file.as_deref().map(file).transpose()?;
    let identity = match &settings.client_certificate {
        None => None,
        Some(shown) => {
            let identity = Identity::from_pem(&file(&shown.certificate)?, &file(&shown.key)?);
            let named = |error| {
                format!("certificate {}, key {}: {error}", shown.certificate.display(), shown.key.display())
            };
            Some(identity.map_err(named)?)
        }
    };
    let prepared = ClientTls::new(&ClientSettings {
        authorities,
        identity,
        unverified: !settings.verify,
        ..ClientSettings::default()
    });
    let of_file = |error| match &settings.ca_file {
        Some(path) => format!("{}: {error}", path.display()),
        None => error,
    };
    prepared.map_err(of_file)
}

fn file(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let metadata = fs::metadata(path).map_err(|error| failed(&error))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(failed(&"it is not a file of at most 1 MiB"));
    }
    fs::read(path).map_err(|error| failed(&error))
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(stamp).collect()
}
