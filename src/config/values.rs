//! Single values of a configuration: addresses, durations, paths, files.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use store::model::{Name, Span, read::Reader};

use crate::small_file;

const ADDRESS: &str = "an address with its port, such as 127.0.0.1:8580 or [::1]:8580";
const URL: &str = "a URL such as http://127.0.0.1:8580";
pub(super) const MAX: usize = 4096;
const SPANS: std::ops::RangeInclusive<Span> = Span(Duration::ZERO)..=Span(Duration::from_secs(3600));

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
pub(super) fn name(at: Reader<'_>) -> Option<Name> {
    at.parse()
}

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
pub(super) fn span(at: Reader<'_>) -> Option<Duration> {
    at.span_within(SPANS).map(|span| span.0)
}

pub(super) fn address(at: &Reader<'_>) -> Option<SocketAddr> {
    at.parse_as(ADDRESS)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
pub(super) fn addresses(at: Reader<'_>) -> Option<Vec<SocketAddr>> {
    let all = at.distinct(|it| address(&it))?;
    if all.is_empty() && at.count() == 0 {
        at.error("is empty", ADDRESS);
    }
    Some(all)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape readers are passed in")]
pub(super) fn url(at: Reader<'_>) -> Option<String> {
    let text = at.text(MAX)?;
    let fits =
        reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if !fits {
        at.wrong(URL);
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}

pub(super) fn path(at: &Reader<'_>) -> Option<PathBuf> {
    at.text(MAX).map(PathBuf::from)
}

/// A folder that exists.
pub(super) fn folder(at: &Reader<'_>) -> Option<PathBuf> {
    let path = path(at)?;
    if !path.is_dir() {
        at.error(format!("{} is not a folder", path.display()), "a folder of zone files, ORIGIN.zone each");
    }
    Some(path)
}

/// The content of a file that exists.
pub(super) fn file(at: &Reader<'_>) -> Option<Vec<u8>> {
    let read = small_file::read(&path(at)?, small_file::MAX);
    read.map_err(|error| at.error(error.to_string(), small_file::EXPECTED)).ok()
}

/// Certificates to trust, in PEM: at least one.
pub(super) fn authorities(at: &Reader<'_>) -> Option<Vec<u8>> {
    let pem = file(at)?;
    if let Err(problem) = crate::certificate::authorities(&pem) {
        at.error(problem, "a file of certificates in PEM (BEGIN CERTIFICATE)");
        return None;
    }
    Some(pem)
}

/// The CPUs this process may use (the cgroup's, where one is set).
pub(super) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
