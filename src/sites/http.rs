//! HTTP and HTTPS to the control of another site: its URLs one after the other, within one deadline and a bounded size.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant as Wall},
};

use async_trait::async_trait;
use reqwest::{Method, Response, header, tls::TlsInfo};
use rustls::pki_types::CertificateDer;
use store::model::{ControlUrl, Name};
use tokio::{sync::Mutex, time::Instant};

use super::{
    Answer, Carrier, PeerError, Request,
    error::{Cause, cause, is_of_this_server, of_all, words},
    exchange::{FOR_HEADER, SITE_HEADER, VERSION, VERSION_HEADER},
    files::{PeerFiles, Prepared},
};
use crate::{api::Problem, certificate::clients::sites_in, repeats::Repeats};

/// How often the files are looked at while there are calls.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The most octets that are read of a refusal, and the most characters of it that are shown.
const MAX_REFUSAL: usize = 4 * 1024;
const MAX_SHOWN: usize = 500;

/// The connections to the control of one site.
pub(super) struct Http {
    files: Arc<PeerFiles>,
    urls: Vec<ControlUrl>,
    /// The URL that a request begins with: the last that answered, or the one after the last that did not.
    first: AtomicUsize,
    looked: Mutex<Option<Looked>>,
    kept: Repeats,
}

struct Looked {
    prepared: Prepared,
    at: Instant,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("site", &self.files.site)
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// Why a URL gave no answer: the next one is tried, or the call ends.
enum Missed {
    Next(Cause, String),
    End(PeerError),
}

impl From<PeerError> for Missed {
    fn from(error: PeerError) -> Self {
        Self::End(error)
    }
}

#[async_trait]
impl Carrier for Http {
    fn urls(&self) -> &[ControlUrl] {
        &self.urls
    }

    async fn carry(&self, request: Request) -> Result<Answer, PeerError> {
        let trying = AtomicUsize::new(self.first.load(Ordering::Relaxed));
        let deadline = request.deadline;
        let asked = tokio::time::timeout(deadline, self.try_all(&request, &trying)).await;
        asked.unwrap_or_else(|_| {
            let at = trying.load(Ordering::Relaxed);
            // It may not answer any call, so the next one begins with another URL.
            self.first.store(at.wrapping_add(1), Ordering::Relaxed);
            let url = self.url(at).ok_or_else(no_url)?;
            Err(PeerError::Timeout { url: url.clone(), deadline })
        })
    }
}

impl Http {
    pub(super) fn new(files: PeerFiles, urls: Vec<ControlUrl>) -> Self {
        let (files, first, looked) = (Arc::new(files), AtomicUsize::new(0), Mutex::new(None));
        Self { files, urls, first, looked, kept: Repeats::default() }
    }

    fn site(&self) -> Option<&Name> {
        self.files.site.as_ref()
    }

    /// Lets the next request look at the files.
    #[cfg(test)]
    pub(super) async fn look_now(&self) {
        if let Some(looked) = &mut *self.looked.lock().await {
            looked.at -= LOOK_EVERY;
        }
    }

    fn url(&self, at: usize) -> Option<&ControlUrl> {
        self.urls.get(at.checked_rem(self.urls.len())?)
    }

    async fn try_all(&self, request: &Request, trying: &AtomicUsize) -> Result<Answer, PeerError> {
        let prepared = self.prepared().await?;
        let first = trying.load(Ordering::Relaxed);
        let mut failed = Vec::new();
        for n in 0..self.urls.len() {
            let at = first.wrapping_add(n);
            trying.store(at, Ordering::Relaxed);
            let url = self.url(at).ok_or_else(no_url)?;
            match self.try_one(&prepared, url, request).await {
                Ok(body) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(Answer { url: url.clone(), body });
                }
                Err(Missed::Next(cause, why)) => failed.push((cause, url.clone(), why)),
                Err(Missed::End(error)) => {
                    if let PeerError::Refused { status, .. } = &error
                        && is_of_this_server(*status)
                    {
                        self.first.store(at.wrapping_add(1), Ordering::Relaxed);
                    }
                    return Err(error);
                }
            }
        }
        Err(of_all(failed))
    }

    async fn try_one(
        &self,
        prepared: &Prepared,
        url: &ControlUrl,
        request: &Request,
    ) -> Result<Vec<u8>, Missed> {
        let next = |error: reqwest::Error| Missed::Next(cause(&error), words(error));
        let mut sent = prepared
            .client
            .request(
                request.body.as_ref().map_or(Method::GET, |_| Method::POST),
                format!("{url}{}", request.path),
            )
            .bearer_auth(prepared.token.expose())
            .header(VERSION_HEADER, VERSION);
        if let Some(site) = self.site() {
            sent = sent.header(FOR_HEADER, site.as_str());
        }
        if let Some(body) = &request.body {
            sent = sent.header(header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let response = sent.send().await.map_err(next)?;
        self.check_site(url, &response)?;
        let status = response.status();
        if !status.is_success() {
            let body = read(response, MAX_REFUSAL, true).await.map_err(next)?.unwrap_or_default();
            let (url, text) = (url.clone(), refusal(&body));
            return Err(PeerError::Refused { url, status: status.as_u16(), text }.into());
        }
        check_version(url, &response)?;
        let body = read(response, request.max, false).await.map_err(next)?;
        body.ok_or_else(|| PeerError::TooLarge { url: url.clone(), max: request.max }.into())
    }

    /// The server must be of the site that is called. Over TLS its certificate has said so; the header says it for both.
    fn check_site(&self, url: &ControlUrl, response: &Response) -> Result<(), Missed> {
        let said = response.headers().get(SITE_HEADER).map(|it| it.to_str().unwrap_or_default());
        let other = |why: String| Err(Missed::Next(Cause::OtherSite, why));
        match (said, self.site()) {
            // A refusal of a program that knows no sites is reported as it is.
            (None, _) if !response.status().is_success() => Ok(()),
            (None, _) => {
                let why = format!("there is no header {SITE_HEADER}, so it is no control that knows sites");
                Err(PeerError::Malformed { url: url.clone(), why }.into())
            }
            (Some(said), Some(site)) if said != site.as_str() => {
                other(format!("the server says that it is in the site {:?}, not in {site}", short(said)))
            }
            (Some(said), None) => {
                let shown = response.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
                match shown.map(|der| sites_in(&CertificateDer::from(der))) {
                    Some(named) if !named.iter().any(|it| it.as_str() == said) => other(format!(
                        "the server says that it is in the site {:?}, which its certificate does not name",
                        short(said)
                    )),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// What calls are made with, read again when a file has changed.
    async fn prepared(&self) -> Result<Prepared, PeerError> {
        let mut looked = self.looked.lock().await;
        if let Some(it) = &*looked
            && it.at.elapsed() < LOOK_EVERY
        {
            return Ok(it.prepared.clone());
        }
        let (files, before) = (Arc::clone(&self.files), looked.as_ref().map(|it| it.prepared.clone()));
        let reading = tokio::task::spawn_blocking(move || files.prepare(before.as_ref()));
        let read = reading.await.unwrap_or_else(|_| Err("a defect: the reader of files panicked".to_owned()));
        let at = Instant::now();
        match (read, looked.as_mut()) {
            (Ok(prepared), _) => {
                *looked = Some(Looked { prepared: prepared.clone(), at });
                Ok(prepared)
            }
            (Err(why), Some(before)) => {
                before.at = at;
                if let Some(times) = self.kept.is_due(&why, Wall::now()) {
                    let site = self.site().map(Name::as_str);
                    tracing::error!(site, times, "calls to another site: kept what was in use: {why}");
                }
                Ok(before.prepared.clone())
            }
            (Err(why), None) => Err(PeerError::Files(why)),
        }
    }
}

fn no_url() -> PeerError {
    PeerError::Files("the site has no URL".to_owned())
}

fn check_version(url: &ControlUrl, response: &Response) -> Result<(), PeerError> {
    let said = response.headers().get(VERSION_HEADER).map(|it| it.to_str().unwrap_or_default().parse());
    match said {
        Some(Ok(1..=VERSION)) => Ok(()),
        Some(Ok(version)) if version > VERSION => Err(PeerError::Newer { url: url.clone(), version }),
        _ => {
            let why = format!("the header {VERSION_HEADER} is no version of the exchange");
            Err(PeerError::Malformed { url: url.clone(), why })
        }
    }
}

/// Reads a body of at most `max` octets; `None` if it is longer, or only its beginning if that is enough.
async fn read(mut response: Response, max: usize, cut: bool) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let rest = max - body.len();
        if piece.len() > rest {
            body.extend_from_slice(piece.get(..rest).unwrap_or_default());
            return Ok(cut.then_some(body));
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}

/// The reason in a refusal: the error of a problem of ours, or the beginning of the text.
fn refusal(body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => short(&problem.error),
        Err(_) => short(&String::from_utf8_lossy(body)),
    }
}

/// A text of another server for one line of a log.
fn short(text: &str) -> String {
    text.trim().chars().map(|it| if it.is_control() { ' ' } else { it }).take(MAX_SHOWN).collect()
}
