//! The follower's dialer, made of the prober's checks: it finds out whether an instance in doubt answers.
//!
//! `store` may not depend on `prober`, so the binary joins them here.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use prober::check::{Outcome, Sockets, probe};
use store::{
    dial::{Answer, Dial, Dialer, Handshake},
    health::{TargetKey, WorkTarget},
    model::{Check, Name, Probe, Quorum, Span},
};

/// Time limit of a dial without a check of its own, and of resolving a host name.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The most addresses of a host name that are dialled, all at once; one that answers is enough.
const MAX_ADDRESSES: usize = 4;

/// Dials over real sockets.
#[derive(Debug)]
pub struct Checks {
    sockets: Sockets,
    connect: Check,
    site: Name,
    /// True if this node has certificate authorities for its checks beside the system's.
    knows_authorities: bool,
}

impl Checks {
    /// For a node at a site, with the external programs and authorities of its prober, if it has one.
    #[must_use]
    pub fn new(site: Name, prober: Option<&prober::Config>) -> Self {
        let (external, ca): (BTreeMap<Name, PathBuf>, _) =
            prober.map_or_else(Default::default, |it| (it.external.clone(), it.check_ca_pem.clone()));
        let connect = Check {
            name: site.clone(),
            probe: Probe::tcp(),
            port: 0,
            interval: Span(TIMEOUT),
            timeout: Span(TIMEOUT),
            fall: 3,
            rise: 1,
            quorum: Quorum::Majority,
            damping: Check::DAMPING,
        };
        let knows_authorities = ca.is_some();
        Self { sockets: Sockets::new(external, ca), connect, site, knows_authorities }
    }

    /// Trusts these authorities (PEM) from now on, as the prober of this node does.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn trust(&self, ca_pem: &[u8]) -> Result<(), String> {
        prober::check::Dialer::trust(&self.sockets, ca_pem)
    }

    /// Probes all of these at once; one that answers is enough.
    async fn any(&self, check: &Check, addresses: &[IpAddr], tls: Option<&Arc<dyn Handshake>>) -> Answer {
        let speaking = tls.map(|it| self.sockets.speaking(Arc::clone(it)));
        let sockets = speaking.as_ref().unwrap_or(&self.sockets);
        let probe_one = |address: &IpAddr| {
            let key = TargetKey::new(*address, check);
            let target = WorkTarget { key, address: *address, site: self.site.clone(), check: check.clone() };
            async move { probe(sockets, &target).await }
        };
        let mut probing: FuturesUnordered<_> = addresses.iter().map(probe_one).collect();
        let mut worst = Answer::Unable("there is no address".to_owned());
        while let Some(outcome) = probing.next().await {
            match outcome {
                Outcome::Success { .. } => return Answer::Answered,
                Outcome::Failure { reason } if tls.is_some() || self.may_judge(&reason) => {
                    worst = Answer::Failed(reason)
                }
                Outcome::Failure { .. } | Outcome::Inconclusive { .. } if is_failure(&worst) => {}
                Outcome::Failure { reason } | Outcome::Inconclusive { reason } => {
                    worst = Answer::Unable(reason);
                }
            }
        }
        worst
    }

    /// False if the probe failed because the authority is unknown and this node has no `[prober] check_ca_file`: without it
    /// a certificate of a private authority cannot be told from a wrong one. (The TLS settings of a service name theirs.)
    fn may_judge(&self, reason: &str) -> bool {
        self.knows_authorities || !reason.contains("UnknownIssuer")
    }
}

const fn is_failure(answer: &Answer) -> bool {
    matches!(answer, Answer::Failed(_))
}

#[async_trait]
impl Dialer for Checks {
    async fn dial(&self, dial: &Dial) -> Answer {
        let addresses = match resolve(&dial.address).await {
            Ok(addresses) => addresses,
            Err(answer) => return answer,
        };
        let on_port = |check: &Check| Check { port: dial.port, ..check.clone() };
        let connect = on_port(&self.connect);
        let Some(check) = &dial.check else { return self.any(&connect, &addresses, None).await };
        match self.any(&on_port(check), &addresses, dial.tls.as_ref()).await {
            // The node may not send ICMP, run the program, or judge the certificate. A dead instance must be found dead
            // nevertheless, so a plain connection decides.
            Answer::Unable(why) => match self.any(&connect, &addresses, None).await {
                Answer::Answered => Answer::Answered,
                Answer::Failed(reason) => Answer::Failed(reason),
                Answer::Unable(_) => Answer::Unable(why),
            },
            answer => answer,
        }
    }
}

/// The addresses of an IP address or host name; if there are none, what follows for the instance.
async fn resolve(address: &str) -> Result<Vec<IpAddr>, Answer> {
    if let Ok(ip) = address.parse() {
        return Ok(vec![ip]);
    }
    match tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((address, 0))).await {
        Ok(Ok(found)) => Ok(found.map(|it| it.ip()).take(MAX_ADDRESSES).collect()),
        Ok(Err(error)) => Err(unresolved(address, &error.to_string())),
        Err(_) => Err(Answer::Unable(format!("{address} was not resolved within {}", Span(TIMEOUT)))),
    }
}

/// Messages of `getaddrinfo` for a name that does not exist or has no address: glibc, musl, BSD.
const NO_SUCH_NAME: [&str; 5] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
    "nodename nor servname provided",
];

/// A name that does not exist is a failure: no gateway can reach an instance under it. If no name server answers, nothing
/// is known about the instance. The standard library distinguishes the two only by the message.
fn unresolved(address: &str, error: &str) -> Answer {
    let reason = format!("{address} cannot be resolved: {error}");
    let is_missing = NO_SUCH_NAME.iter().any(|it| error.contains(it));
    if is_missing { Answer::Failed(reason) } else { Answer::Unable(reason) }
}

#[cfg(test)]
mod tests {
    use store::model::HttpProbe;

    use super::*;

    /// Speaks TLS with `localhost`, by this authority.
    #[derive(Debug)]
    struct Trusting(rustls::pki_types::CertificateDer<'static>);

    #[async_trait]
    impl Handshake for Trusting {
        async fn shake(
            &self,
            stream: tokio::net::TcpStream,
            _: &[&[u8]],
        ) -> Result<Box<dyn store::dial::Secured>, store::dial::NotShaken> {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(self.0.clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect("localhost".try_into().unwrap(), stream).await;
            Ok(Box::new(stream.map_err(store::dial::NotShaken::There)?))
        }
    }

    fn dial(address: &str, port: u16) -> Dial {
        Dial { address: address.to_owned(), port, check: None, tls: None }
    }

    #[tokio::test]
    async fn an_open_port_answers_and_a_closed_one_has_failed() {
        let checks = Checks::new("bj".parse().unwrap(), None);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in ["127.0.0.1", "localhost"] {
            assert_eq!(checks.dial(&dial(address, port)).await, Answer::Answered, "{address}");
        }
        // The answer is `Failed` if a name server answers that there is no such name, and `Unable` if none can be reached.
        let unresolved = checks.dial(&dial("nowhere.invalid", port)).await;
        assert_ne!(unresolved, Answer::Answered);
        drop(listener);
        assert_eq!(checks.dial(&dial("127.0.0.1", port)).await, Answer::Failed("connection refused".into()));
    }

    #[tokio::test]
    async fn a_check_decides_at_the_port_of_the_instance() {
        let checks = Checks::new("bj".parse().unwrap(), None);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let router = axum::Router::new().route("/well", axum::routing::get(|| async { "well" }));
            axum::serve(listener, router).await.unwrap();
        });
        for (path, well) in [("/well", true), ("/ill", false)] {
            let probe = Probe::Http(Box::new(HttpProbe::get(path, None, vec!["200".parse().unwrap()])));
            let check = Some(Check { probe, port: 1, ..checks.connect.clone() });
            let answer = checks.dial(&Dial { check, ..dial("127.0.0.1", port) }).await;
            assert_eq!(answer == Answer::Answered, well, "{path}: {answer:?}");
        }
        served.abort();
    }

    #[test]
    fn a_name_that_does_not_exist_is_a_failure_and_a_name_server_that_is_away_is_none() {
        for (error, failed) in [
            ("failed to lookup address information: Name or service not known", true),
            ("failed to lookup address information: No address associated with hostname", true),
            ("failed to lookup address information: Name does not resolve", true),
            ("failed to lookup address information: Temporary failure in name resolution", false),
            ("failed to lookup address information: Try again", false),
            ("Too many open files (os error 24)", false),
        ] {
            let answer = unresolved("web.example.com", error);
            assert_eq!(matches!(answer, Answer::Failed(_)), failed, "{error}");
            assert_eq!(matches!(answer, Answer::Unable(_)), !failed, "{error}");
        }
    }

    /// A port that is open, and one that is closed.
    async fn ports() -> (tokio::net::TcpListener, u16, u16) {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let port = open.local_addr().unwrap().port();
        (open, port, closed)
    }

    #[tokio::test]
    async fn where_a_check_cannot_run_a_connection_decides() {
        let checks = Checks::new("bj".parse().unwrap(), None);
        let (_listener, open, closed) = ports().await;
        // A program that only the prober's configuration names.
        let probe =
            Probe::External(Box::new(store::model::ExternalProbe { program: "well".parse().unwrap() }));
        for (port, well) in [(open, true), (closed, false)] {
            let check = Some(Check { probe: probe.clone(), ..checks.connect.clone() });
            let answer = checks.dial(&Dial { check, ..dial("127.0.0.1", port) }).await;
            assert_eq!(answer == Answer::Answered, well, "{answer:?}");
            assert_eq!(matches!(answer, Answer::Failed(_)), !well, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_private_authority_that_this_node_does_not_know_is_no_failure() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let served = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(served));
        let (listener, port, _) = ports().await;
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        let tls = store::model::Tls { server_name: Some("localhost".parse().unwrap()), ..Default::default() };
        let probe = Probe::Tls(Box::new(store::model::TlsProbe { tls }));
        let ignorant = Checks::new("bj".parse().unwrap(), None);
        let check = Some(Check { probe, ..ignorant.connect.clone() });
        let dial = Dial { check, ..dial("127.0.0.1", port) };
        assert_eq!(ignorant.dial(&dial).await, Answer::Answered);
        // With authorities for its checks, an unknown authority is a failure.
        let other = rcgen::generate_simple_self_signed(["another".to_owned()]).unwrap();
        let with_authorities = Checks {
            sockets: Sockets::new(BTreeMap::new(), Some(other.cert.pem().into_bytes())),
            knows_authorities: true,
            ..Checks::new("bj".parse().unwrap(), None)
        };
        let answer = with_authorities.dial(&dial).await;
        assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
        // The TLS settings of a service count more than what the check says and this node knows.
        for (trusted, well) in [(made.cert.der(), true), (other.cert.der(), false)] {
            let tls: Option<Arc<dyn Handshake>> = Some(Arc::new(Trusting(trusted.clone())));
            let answer = ignorant.dial(&Dial { tls, ..dial.clone() }).await;
            assert_eq!(answer == Answer::Answered, well, "{answer:?}");
            assert_eq!(matches!(answer, Answer::Failed(_)), !well, "{answer:?}");
        }
        serving.abort();
    }
}
