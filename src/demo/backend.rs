//! A back end of the demo: a small HTTP server that registers itself with a TTL check, as a real one would.
//!
//! It renews its check every second and registers itself again if it is no longer registered, also while it is being
//! drained: the gateways must go on refusing it nevertheless.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use store::{
    engine::{
        CheckStatus, Engine, Registration,
        consul::{Config, Consul, Credential},
    },
    vital,
};
use tokio::net::TcpListener;

use super::error::DemoError;
use crate::{reread::Rereads, token_file::TokenFile};

/// Options of a back end.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its service in the registry.
    pub service: String,
    /// Its id there, which is also the answer to `GET /`.
    pub id: String,
    /// Where it serves.
    pub listen: SocketAddr,
    /// Its site.
    pub site: String,
    /// The registry.
    pub engine: String,
    /// File with the registrar's token; it may be created later.
    pub token_file: PathBuf,
}

const TTL: Duration = Duration::from_secs(5);
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// The longest sleep of `/slow`.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// Serves until the process is ended.
///
/// # Errors
/// When it cannot listen, or the address of the registry is invalid.
pub async fn run(options: Options) -> Result<(), DemoError> {
    let listener = TcpListener::bind(options.listen).await.map_err(|error| DemoError::AddressInUse {
        address: options.listen,
        by: "demo-backend --listen",
        error,
    })?;
    let credential = Credential::default();
    let token = Some(credential.clone());
    let config = Config { url: options.engine.clone(), token, ca_pem: None, datacenter: None };
    let engine = Consul::new(&config).map_err(|error| DemoError::Admin(error.to_string()))?;
    let path = options.token_file.clone();
    let token_file = TokenFile { what: "--token-file", path, credential };
    let mut rereads = Rereads::default();
    rereads.extend([token_file.part()]);
    tokio::spawn(vital::task("the registration", stay_registered(Arc::new(engine), options.clone())));
    tokio::spawn(vital::task("rereading files", rereads.run()));
    let id = Bytes::from(format!("{}\n", options.id));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            name = vital::lost() => return Err(DemoError::Scene(format!("a defect: {name} panicked"))),
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors: some will be closed soon.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let id = id.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(id.clone(), request));
            let mut server = hyper::server::conn::http1::Builder::new();
            let connection = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            // An error here means that the client closed the connection.
            let _ = connection.await;
        });
    }
}

/// Answers a whole request; one whose body ends early gets no answer.
async fn answer(id: Bytes, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (request, mut body) = request.into_parts();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let mut response = Response::new(Full::new(id));
    match request.uri.path() {
        "/slow" => {
            let ms = request.uri.query().and_then(|it| it.strip_prefix("ms=")).and_then(|it| it.parse().ok());
            tokio::time::sleep(Duration::from_millis(ms.unwrap_or(0)).min(MAX_SLEEP)).await;
        }
        "/" => {}
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

async fn stay_registered(engine: Arc<dyn Engine>, options: Options) {
    let registration = Registration {
        service: options.service.clone(),
        id: options.id.clone(),
        address: options.listen,
        tags: vec![],
        meta: [("site".to_owned(), options.site.clone())].into(),
        ttl: Some(TTL),
        status: CheckStatus::Passing,
    };
    let check = format!("service:{}", options.id);
    let mut registered = false;
    let mut every = tokio::time::interval(RENEW_EVERY);
    loop {
        every.tick().await;
        let outcome = if registered {
            engine.ttl_update(&check, CheckStatus::Passing, "serving").await
        } else {
            engine.register(&registration).await
        };
        if let Err(error) = &outcome {
            tracing::debug!(%error, "registry");
        }
        registered = outcome.is_ok();
    }
}
