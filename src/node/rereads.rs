//! The files that a node reads again while it runs, apart from certificates and tokens.

use std::sync::Arc;

use dns::zones_dir::ZonesDir;
use store::geo::Geo;
use tokio::sync::watch;

use crate::{
    config::GeoIp,
    reread::{Content, FileInUse, Files, Outcome as Reread, Part, Signature},
    small_file,
};

/// Reports that the configuration file differs from the one that the node was started with.
pub(super) fn configuration_part(file: &FileInUse) -> Part {
    let (FileInUse { path, content }, looked_at) = (file.clone(), file.path.clone());
    let look = move || Signature::of_files(&[&looked_at]);
    Part::new("the configuration file", look, move || {
        match small_file::read_at_once(&path, small_file::MAX) {
            Ok(now) if Content::of(&[&now]) == content => Reread::Unchanged,
            Ok(_) => {
                let file = path.display();
                Reread::Waits(format!(
                    "{file} takes effect at a restart; `waypost check {file}` tells whether it is right"
                ))
            }
            Err(error) => Reread::Kept(error.to_string()),
        }
    })
}

/// Reads the database of where addresses are again.
pub(super) fn geoip_part(geoip: &GeoIp, into: watch::Sender<Option<Arc<Geo>>>) -> Part {
    let path = geoip.file.path.clone();
    let files = Files::new(vec![path.clone()], GeoIp::MAX);
    Part::of_files("[dns] geoip", files, Some(geoip.file.content), move |contents| {
        let geo = contents.first().ok_or("expected a file").map_err(str::to_owned);
        let geo = Geo::read(geo?).map_err(|error| format!("{}: {error}", path.display()))?;
        let what = format!("{geo:?}");
        into.send_replace(Some(Arc::new(geo)));
        Ok(what)
    })
}

/// Reads the secrets of DNS cookies again.
pub(super) fn cookie_part(file: &FileInUse, gate: Arc<dns::Gate>) -> Part {
    let path = file.path.clone();
    let files = Files::new(vec![path.clone()], small_file::MAX);
    Part::of_files("[dns] cookie_secret_file", files, Some(file.content), move |contents| {
        let text = contents.first().map(|it| String::from_utf8_lossy(it)).unwrap_or_default();
        let secrets: dns::cookie::Secrets =
            text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
        gate.set_cookies(secrets);
        Ok(path.display().to_string())
    })
}

/// Reads authorities again, and gives them to `trust`.
pub(super) fn authorities_part(
    name: &'static str,
    file: &FileInUse,
    trust: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static,
) -> Part {
    let path = file.path.clone();
    let files = Files::new(vec![path.clone()], small_file::MAX);
    Part::of_files(name, files, Some(file.content), move |contents| {
        let pem = contents.first().map(Vec::as_slice).unwrap_or_default();
        trust(pem).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path.display().to_string())
    })
}

/// Reads the folder of zones again.
pub(super) fn zones_part(zones: Arc<ZonesDir>) -> Part {
    let folder = zones.path().to_owned();
    let look = move || Signature::of_folder(&folder);
    Part::new("[dns] zones_dir", look, move || {
        let report = zones.reread();
        for error in &report.errors {
            tracing::error!("[dns] zones_dir: {error}");
        }
        for warning in &report.warnings {
            tracing::warn!("[dns] zones_dir: {warning}");
        }
        let dns::zones_dir::Report { zones, changed, removed, failed, .. } = report;
        let what = format!("{zones} zones, {changed} of them changed, {removed} removed");
        match (failed, changed + removed) {
            (0, 0) => Reread::Unchanged,
            (0, _) => Reread::Reread(what),
            _ => Reread::Kept(format!("{failed} files cannot be used; {what}")),
        }
    })
}

/// Opens the access log again on SIGHUP. The file itself is not looked at: it changes with every request.
pub(super) fn access_log_part(log: Arc<proxy::LogWriter>) -> Part {
    let look = || Signature::of_files(&[] as &[&std::path::Path]);
    Part::new("[proxy.access_log]", look, move || match (log.path(), log.reopen()) {
        (None, _) => Reread::Unchanged,
        (Some(path), Ok(())) => Reread::Reread(path.display().to_string()),
        (Some(path), Err(error)) => Reread::Kept(format!("{}: {error}", path.display())),
    })
}
