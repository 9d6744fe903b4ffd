//! Instances that speak TLS, take PROXY headers and hold requests back, and documents that say how to speak with them.

use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::HandshakeKind;
use store::{
    engine::Endpoint,
    model::{BackendTls, ClientCertificate, Service, Sources},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use super::{
    instances::Instance,
    world::{World, alone},
};
use crate::{
    proxy_protocol::{self, Header},
    testing::{dns_names, sources},
    tls::{ClientCertificates, Identity, ServerSettings, ServerTls},
};

/// An authority of the test, with its files.
pub(super) struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
    pub(super) folder: tempfile::TempDir,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Self { issuer: Issuer::new(params, key), pem, folder }
    }

    pub(super) fn issue(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// What an instance of this name shows.
    pub(super) fn server(&self, name: &str, clients: ClientCertificates) -> ServerTls {
        let (chain, key) = self.issue(name);
        let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        let tls = ServerTls::default();
        tls.set(&ServerSettings { client_certificates: clients, ..ServerSettings::new(vec![identity]) })
            .unwrap();
        tls
    }

    /// What a document says to trust this authority.
    pub(super) fn trusted(&self) -> BackendTls {
        BackendTls { ca_file: Some(self.folder.path().join("ca.pem")), ..BackendTls::default() }
    }

    /// The same, with a certificate to show.
    pub(super) fn trusted_with(&self, name: &str) -> BackendTls {
        let (chain, own_key) = self.issue(name);
        let (certificate, key) = (self.folder.path().join("own.pem"), self.folder.path().join("own.key"));
        std::fs::write(&certificate, chain).unwrap();
        std::fs::write(&key, own_key).unwrap();
        BackendTls { client_certificate: Some(ClientCertificate { certificate, key }), ..self.trusted() }
    }
}

/// What an instance saw of a handshake.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) kind: Option<HandshakeKind>,
    pub(super) asked: Option<String>,
    pub(super) protocol: Option<Vec<u8>>,
    /// The names of the gateway's certificate.
    pub(super) client: Option<Vec<String>>,
    pub(super) header: Option<Header>,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// Answers requests: `/held` when `held` has a permit, `/echo` with the body, anything else with the id.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, id: &str, held: &Semaphore) {
    let mut unread = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = unread.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut unread).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(unread.drain(..end).collect()).unwrap();
        let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
        let length = length.map_or(0, |it| it.parse().unwrap());
        while unread.len() < length {
            if stream.read_buf(&mut unread).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = unread.drain(..length).collect();
        if head.contains(" /held ") {
            held.acquire().await.unwrap().forget();
        }
        let said = if head.contains(" /echo ") { body } else { id.as_bytes().to_vec() };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", said.len());
        if stream.write_all(&[head.as_bytes(), &said].concat()).await.is_err() {
            return;
        }
        let _ = stream.flush().await;
    }
}

/// An instance, with what it saw of each connection and the permits for its `/held`.
pub(super) struct Backend {
    pub(super) instance: Instance,
    pub(super) seen: Log,
    pub(super) held: Arc<Semaphore>,
}

impl Backend {
    /// It takes a PROXY header first, and speaks TLS, if it is to.
    pub(super) async fn of(id: &'static str, proxied: bool, tls: Option<ServerTls>) -> Self {
        let (seen, held) = (Log::default(), Arc::new(Semaphore::new(0)));
        let (log, waits) = (Arc::clone(&seen), Arc::clone(&held));
        let serve = move |mut stream: TcpStream, _| {
            let (log, waits, tls) = (Arc::clone(&log), Arc::clone(&waits), tls.clone());
            async move {
                let header =
                    if proxied { Some(proxy_protocol::receive(&mut stream).await.unwrap()) } else { None };
                let mut seen = Seen { kind: None, asked: None, protocol: None, client: None, header };
                let Some(tls) = tls else {
                    log.lock().unwrap().push(seen);
                    return answer(stream, id, &waits).await;
                };
                let Ok(stream) = tls.acceptor().unwrap().accept(stream).await else { return };
                let (_, session) = stream.get_ref();
                seen.kind = session.handshake_kind();
                seen.asked = session.server_name().map(str::to_owned);
                seen.protocol = session.alpn_protocol().map(<[u8]>::to_vec);
                seen.client = dns_names(session.peer_certificates());
                log.lock().unwrap().push(seen);
                answer(stream, id, &waits).await;
            }
        };
        Self { instance: Instance::scripted(id, serve).await, seen, held }
    }

    pub(super) async fn plain(id: &'static str) -> Self {
        Self::of(id, false, None).await
    }

    pub(super) async fn secured(id: &'static str, tls: ServerTls) -> Self {
        Self::of(id, false, Some(tls)).await
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        self.instance.endpoint.clone()
    }
}

pub(super) fn of_web(change: impl FnOnce(&mut Service)) -> Sources {
    let mut sources = sources();
    for (service, host) in sources.services.iter_mut().zip(["web.example.com", "shop.example.com"]) {
        service.hosts = vec![host.parse().unwrap()];
    }
    change(&mut sources.services[0]);
    sources
}

pub(super) fn with_tls(tls: BackendTls) -> Sources {
    of_web(|it| it.tls = Some(Box::new(tls)))
}

/// A gateway with one worker in front of one instance.
pub(super) async fn world(sources: Sources, backend: &Backend) -> World {
    World::start_with(alone(|_| {}), sources, &[backend.endpoint()]).await
}

/// The same in front of several.
pub(super) async fn world_of(sources: Sources, backends: &[&Backend]) -> World {
    let endpoints: Vec<_> = backends.iter().map(|it| it.endpoint()).collect();
    World::start_with(alone(|_| {}), sources, &endpoints).await
}
