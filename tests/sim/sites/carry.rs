//! How the controls of sites call one another: the program's own requests and handlers, with the simulated network in the
//! place of connections. The caller sends a secret and shows a certificate; whether that is enough is decided by the program.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{Request as HttpRequest, header},
};
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use store::{
    handle::Handle,
    model::{ControlUrl, Name, SiteControl},
};
use tokio::time::Instant;
use waypost::{
    admin::{self, Admin, Health},
    auth::Auth,
    certificate::clients::ClientCertificate,
    control::ControlHandle,
    sites::{
        Answer, Carrier, Carriers, Failures, Own, PeerError, Peers, Request,
        exchange::{FOR_HEADER, SITE_HEADER, VERSION, VERSION_HEADER},
    },
    telemetry::Metrics,
};

use crate::{
    net::{Id, Request as Message, Response, Seat, SiteAnswer, SiteCall},
    rim::Link,
    run::Sabotage,
    world::World,
};

/// The secret of a site's control.
pub fn secret_of(site: &str) -> String {
    format!("the-secret-of-{site}")
}

/// The URL of a control.
pub fn url_of(control: Id) -> String {
    format!("https://{}.sim:8580", World::name(control))
}

fn control_at(url: &ControlUrl) -> Option<Id> {
    let number = url.as_str().strip_prefix("https://control")?.strip_suffix(".sim:8580")?;
    Some(World::control(number.parse().ok()?))
}

/// Makes the ways of one control to the others.
#[derive(Clone, Debug)]
pub struct Ways {
    pub seat: Seat,
    pub link: Arc<Link>,
    pub sabotage: Sabotage,
}

impl Carriers for Ways {
    fn carrier(&self, own: &Own, site: Option<&Name>, control: &SiteControl) -> Arc<dyn Carrier> {
        let (ways, own, site) = (self.clone(), own.site.clone(), site.cloned());
        Arc::new(Way { ways, own, site, urls: control.urls.clone() })
    }
}

/// The way to the controls of one site.
#[derive(Debug)]
struct Way {
    ways: Ways,
    own: Name,
    site: Option<Name>,
    urls: Vec<ControlUrl>,
}

#[async_trait]
impl Carrier for Way {
    fn urls(&self) -> &[ControlUrl] {
        &self.urls
    }

    async fn carry(&self, request: Request) -> Result<Answer, PeerError> {
        let by = Instant::now() + request.deadline;
        let mut failed = Vec::new();
        for url in &self.urls {
            let Some(control) = control_at(url) else { continue };
            let call = SiteCall {
                path: request.path.clone(),
                body: request.body.clone(),
                meant: self.site.clone(),
                secret: secret_of(self.own.as_str()),
                shown: self.own.clone(),
            };
            let patience = by - Instant::now();
            match self.ways.seat.call(control, Message::Site(call), patience).await {
                Some(Response::Site(answer)) => return self.read(url, answer, request.max).await,
                _ if Instant::now() >= by => {
                    return Err(PeerError::Timeout { url: url.clone(), deadline: request.deadline });
                }
                _ => failed.push((url.clone(), "simulated".to_owned())),
            }
        }
        Err(PeerError::Unreachable(Failures(failed)))
    }
}

impl Way {
    async fn read(&self, url: &ControlUrl, answer: SiteAnswer, max: usize) -> Result<Answer, PeerError> {
        let url = url.clone();
        let is_of = |site: &Name| answer.site.as_deref() == Some(site.as_str());
        if self.site.as_ref().is_some_and(|it| !is_of(it)) {
            let why = format!("{:?} answers", answer.site);
            return Err(PeerError::OtherSite(Failures(vec![(url, why)])));
        }
        if !(200..300).contains(&answer.status) {
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(PeerError::Refused { url, status: answer.status, text });
        }
        if answer.body.len() > max {
            return Err(PeerError::TooLarge { url, max });
        }
        super::sabotage::tampers_with(&self.ways, &answer.body).await;
        Ok(Answer { url, body: super::sabotage::without_shares(&self.ways, answer.body) })
    }
}

/// The admin API of a control.
#[derive(Clone)]
pub struct Door {
    router: Router,
    pub peers: Peers,
    sabotage: Sabotage,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    pub fn new(link: Arc<Link>, handle: Handle, control: ControlHandle, own: Own) -> Self {
        let sabotage = link.sabotage;
        let ways = Ways { seat: link.seat.clone(), link: Arc::clone(&link), sabotage };
        let peers = Peers::over(own, handle.clone(), Arc::new(ways));
        let auth = Auth::new(handle.clone(), None);
        let admin = Admin::new(link, handle, control, auth, peers.clone());
        let metrics = Arc::new(Metrics::new("sim", Vec::new(), None).unwrap());
        let health = Health { metrics, unready: Arc::new(Vec::new), doubts: Arc::new(Vec::new) };
        Self { router: admin::router(admin, health), peers, sabotage }
    }

    /// Answers the control of another site, or who says to be one.
    pub async fn answer(&self, call: SiteCall) -> SiteAnswer {
        let mut shown = call.shown.clone();
        if self.sabotage == Sabotage::AcceptOtherNames {
            // The certificate is not looked at: whatever the token says counts.
            let own = call.secret.strip_prefix(&secret_of("")).and_then(|it| it.parse().ok());
            shown = own.unwrap_or(shown);
        }
        let method = if call.body.is_some() { "POST" } else { "GET" };
        let mut request = HttpRequest::builder()
            .method(method)
            .uri(&call.path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", call.secret))
            .header(VERSION_HEADER, VERSION)
            .extension(ClientCertificate::Trusted([shown].into()));
        if let Some(meant) = &call.meant {
            request = request.header(FOR_HEADER, meant.as_str());
        }
        self.send(request.body(Body::from(call.body.unwrap_or_default())).unwrap()).await
    }

    /// Answers an operator on the machine of this control.
    pub async fn ask(&self, method: &str, path: &str, body: String) -> SiteAnswer {
        let request = HttpRequest::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1:8580")
            .header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    async fn send(&self, request: HttpRequest<Body>) -> SiteAnswer {
        let answer = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        let site = answer.headers().get(SITE_HEADER).and_then(|it| it.to_str().ok()).map(str::to_owned);
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes().to_vec();
        SiteAnswer { status, site, body }
    }
}
