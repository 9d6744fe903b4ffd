//! The files that a node reads again while it runs, apart from certificates and tokens.

use std::sync::Arc;

use dns::zones_dir::ZonesDir;
use store::geo::Geo;
use tokio::sync::watch;

use crate::{
    config::{AnswerFiles, GeoIp},
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

/// Reads the files that replace the texts of the gateway's own answers, the first time and again; `None` if there is none.
pub(super) fn answers_part(files: &AnswerFiles, gateway: proxy::ProxyHandle) -> Option<Part> {
    let has_problem = files.problem.is_some();
    let paths: Vec<_> = files.problem.iter().chain(&files.page).cloned().collect();
    if paths.is_empty() {
        return None;
    }
    let names: Vec<String> = paths.iter().map(|it| it.display().to_string()).collect();
    let files = Files::new(paths, proxy::Answers::MAX_FILE);
    Some(Part::of_files("[proxy.answers]", files, None, move |contents| {
        let (problem, page) = match (has_problem, contents) {
            (true, [problem, rest @ ..]) => (Some(problem.as_slice()), rest.first()),
            (_, rest) => (None, rest.first()),
        };
        let replaced = gateway.replace_answers(problem, page.map(Vec::as_slice));
        replaced.map_err(|(key, error)| format!("{key}: {error}"))?;
        Ok(names.join(", "))
    }))
}

#[cfg(test)]
mod tests {
    use store::handle::{Clock, channel};

    use super::*;

    fn gateway() -> proxy::ProxyHandle {
        let config = proxy::Config {
            cluster: "main".parse().unwrap(),
            site: "bj".parse().unwrap(),
            node: "gw".to_owned(),
            boot: "boot".to_owned(),
            folder: std::path::PathBuf::new(),
            listeners: vec![proxy::Listener::plain("127.0.0.1:0".parse().unwrap())],
            tls: proxy::tls::ServerTls::default(),
            workers: 1,
            lameduck: std::time::Duration::ZERO,
            shutdown_deadline: std::time::Duration::ZERO,
            limits: proxy::Limits::default(),
        };
        proxy::bind(config, channel(Clock::default(), std::time::Duration::ZERO).0).unwrap().handle()
    }

    #[test]
    fn texts_of_answers_are_read_again_and_kept_if_they_cannot_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let (problem, page) = (folder.path().join("problem.json"), folder.path().join("page.html"));
        let files = AnswerFiles { problem: Some(problem.clone()), page: Some(page.clone()) };
        assert!(answers_part(&AnswerFiles::default(), gateway()).is_none());
        std::fs::write(&problem, "{\"error\": \"{{reason}}\"}").unwrap();
        std::fs::write(&page, "{{title}}").unwrap();
        let part = answers_part(&files, gateway()).unwrap();
        assert!(matches!(part.read_here(), Reread::Reread(_)));
        assert_eq!(part.read_here(), Reread::Unchanged);
        std::fs::write(&page, "{{title").unwrap();
        let Reread::Kept(why) = part.read_here() else { panic!("it cannot be used") };
        assert_eq!(why, "page_file: line 1: {{ without }} behind it on the same line");
        std::fs::write(&page, "{{detail}}").unwrap();
        assert!(matches!(part.read_here(), Reread::Reread(_)));
        let page_alone = AnswerFiles { problem: None, ..files };
        assert!(matches!(answers_part(&page_alone, gateway()).unwrap().read_here(), Reread::Reread(_)));
    }
}
