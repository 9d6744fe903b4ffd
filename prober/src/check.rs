//! One probe: it dials a target, measures its phases, and describes the outcome.
//!
//! The timeout of the whole probe is applied here, around the [`Dialer`], so that it works for a simulated dialer
//! too. A fault of this machine (no file descriptors, no free port) is not the target's: it is inconclusive and never
//! counts as a failure.

mod client;
mod dns;
mod external;
mod http;
mod icmp;
mod tcp;
mod tls;

use std::{
    borrow::Cow, collections::BTreeMap, fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use store::{
    dial::Handshake,
    health::WorkTarget,
    model::{HttpProbe, HttpVersion, Name, Probe, Span, Tls},
};
use tokio::time::{Instant, timeout};

use crate::config::Canary;

/// No probe waits longer than this, even if its check has a longer timeout.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// A canary that does not accept within this has failed.
pub const CANARY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the phases of a probe took. Names are not resolved, since targets are addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Until the connection was made; `None` if it was not.
    pub connect: Option<Duration>,
    /// The TLS handshake alone; `None` without one, or if it was not completed.
    pub tls: Option<Duration>,
    /// From the request until the first byte of the response; `None` if none came, or the check waits for none.
    pub first_byte: Option<Duration>,
    /// The whole probe.
    pub whole: Duration,
}

/// The outcome of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered as expected.
    Success {
        /// How long it took.
        phases: Phases,
        /// The result as text: `status 200`, `connected`.
        detail: Cow<'static, str>,
    },
    /// The target or the network failed.
    Failure {
        /// `connection refused`, `no answer within 800ms`, `status 503, expected 200`.
        reason: String,
    },
    /// This prober could not probe.
    Inconclusive {
        /// What was missing.
        reason: String,
    },
}

/// Why a dial failed, and on which side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The target or the network failed.
    Target(String),
    /// This machine failed.
    Local(String),
}

/// Dials targets. The simulation has an implementation of its own.
#[async_trait]
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// Dials the target once and returns the result as text. Sets each phase when it is reached, since the probe's
    /// timeout may drop the call at any moment.
    async fn dial(&self, target: &WorkTarget, phases: &mut Phases) -> Result<Cow<'static, str>, Fault>;

    /// Opens and closes a connection to a canary.
    async fn reach(&self, canary: &Canary) -> Result<(), Fault>;

    /// Trusts these authorities (PEM) in addition to the system's, for new dials; the error is why they cannot be
    /// used. Without TLS there is nothing to do.
    fn trust(&self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Runs one probe of `target` to its end, within its timeout.
pub async fn probe(dialer: &dyn Dialer, target: &WorkTarget) -> Outcome {
    let limit = target.check.timeout.0.clamp(Duration::from_millis(1), MAX_TIMEOUT);
    let started = Instant::now();
    let mut phases = Phases::default();
    let answer = timeout(limit, dialer.dial(target, &mut phases)).await;
    phases.whole = started.elapsed();
    match answer {
        Ok(Ok(detail)) => Outcome::Success { phases, detail },
        Ok(Err(Fault::Target(reason))) => Outcome::Failure { reason },
        Ok(Err(Fault::Local(reason))) => Outcome::Inconclusive { reason },
        // The program is this machine's, so its timeout shows nothing about the target.
        Err(_) if matches!(target.check.probe, Probe::External(_)) => Outcome::Inconclusive {
            reason: format!("the external program did not end within {} and was killed", Span(limit)),
        },
        Err(_) if phases.connect.is_some() => {
            Outcome::Failure { reason: format!("connected, but no answer within {}", Span(limit)) }
        }
        Err(_) => Outcome::Failure { reason: format!("no answer within {}", Span(limit)) },
    }
}

/// Dials over real sockets.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    programs: Arc<BTreeMap<Name, PathBuf>>,
    /// Replaced when other authorities are to be trusted; clones share it.
    trust: Arc<ArcSwap<tls::Trust>>,
    /// How TLS is spoken, in place of what checks say.
    handshake: Option<Arc<dyn Handshake>>,
}

impl Sockets {
    /// With the programs that external checks may run, and authorities (PEM) trusted in addition to the system's.
    #[must_use]
    pub fn new(programs: BTreeMap<Name, PathBuf>, ca_pem: Option<Vec<u8>>) -> Self {
        let trust = Arc::new(ArcSwap::from_pointee(tls::Trust::new(ca_pem)));
        Self { programs: Arc::new(programs), trust, handshake: None }
    }

    /// The same, but that all TLS is spoken in this way, whatever authorities, names and terms checks have.
    #[must_use]
    pub fn speaking(&self, handshake: Arc<dyn Handshake>) -> Self {
        Self { handshake: Some(handshake), ..self.clone() }
    }

    async fn session(
        &self,
        terms: (&Tls, Option<&str>, &[&[u8]]),
        address: SocketAddr,
        phases: &mut Phases,
    ) -> Result<tls::Session, Fault> {
        let stream = tcp::connect(address, phases).await?;
        if let Some(handshake) = &self.handshake {
            return tls::handshake_of(&**handshake, stream, terms.2, phases).await;
        }
        tls::handshake(&self.trust.load_full(), stream, terms, address.ip(), phases).await
    }

    async fn http(
        &self,
        probe: &HttpProbe,
        address: SocketAddr,
        phases: &mut Phases,
    ) -> Result<String, Fault> {
        let Some(terms) = &probe.tls else {
            let stream = tcp::connect(address, phases).await?;
            return http::send(probe, stream, address, phases).await;
        };
        let alpn: &[&[u8]] = match probe.http_version {
            HttpVersion::One => &[b"http/1.1"],
            HttpVersion::Two => &[b"h2"],
        };
        let session = self.session((terms, probe.host.as_deref(), alpn), address, phases).await?;
        let detail = http::send(probe, session.stream, address, phases).await?;
        Ok(with_warning(detail, session.warning))
    }

    async fn grpc(
        &self,
        probe: &store::model::GrpcProbe,
        address: SocketAddr,
        phases: &mut Phases,
    ) -> Result<String, Fault> {
        let Some(terms) = &probe.tls else {
            let stream = tcp::connect(address, phases).await?;
            return client::grpc(probe, stream, address, phases).await;
        };
        let session = self.session((terms, probe.host.as_deref(), &[b"h2"]), address, phases).await?;
        let detail = client::grpc(probe, session.stream, address, phases).await?;
        Ok(with_warning(detail, session.warning))
    }

    async fn external(&self, name: &Name, address: SocketAddr) -> Result<String, Fault> {
        let unlisted = || {
            Fault::Local(format!(
                "this prober has no program {name}: expected one listed in [prober.external]"
            ))
        };
        let program = self.programs.get(name).ok_or_else(unlisted)?;
        external::run(name.as_str(), program, address).await
    }
}

fn with_warning(detail: String, warning: Option<String>) -> String {
    match warning {
        Some(warning) => format!("{detail}; {warning}"),
        None => detail,
    }
}

#[async_trait]
impl Dialer for Sockets {
    fn trust(&self, ca_pem: &[u8]) -> Result<(), String> {
        self.trust.store(Arc::new(tls::Trust::in_authorities(ca_pem)?));
        Ok(())
    }

    async fn dial(&self, target: &WorkTarget, phases: &mut Phases) -> Result<Cow<'static, str>, Fault> {
        let address = SocketAddr::new(target.address, target.check.port);
        // All but the smallest are boxed, because otherwise every probe in flight would be as large as the largest.
        match &target.check.probe {
            Probe::Tcp(probe) => tcp::check(probe, address, phases).await,
            Probe::Tls(probe) => {
                let session = Box::pin(self.session((&probe.tls, None, &[]), address, phases)).await?;
                Ok(with_warning("TLS agreed".to_owned(), session.warning).into())
            }
            Probe::Http(probe) => Box::pin(self.http(probe, address, phases)).await.map(Cow::Owned),
            Probe::Dns(probe) => Box::pin(dns::query(probe, address, phases)).await.map(Cow::Owned),
            Probe::Grpc(probe) => Box::pin(self.grpc(probe, address, phases)).await.map(Cow::Owned),
            Probe::Icmp {} => Box::pin(icmp::echo(target.address, phases)).await.map(Cow::Borrowed),
            Probe::External(probe) => Box::pin(self.external(&probe.program, address)).await.map(Cow::Owned),
        }
    }

    async fn reach(&self, canary: &Canary) -> Result<(), Fault> {
        let connect = tokio::net::TcpStream::connect((canary.host(), canary.port()));
        match timeout(CANARY_TIMEOUT, connect).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(fault(&error)),
            Err(_) => Err(Fault::Target(format!("no answer within {}", Span(CANARY_TIMEOUT)))),
        }
    }
}

/// Which side an I/O error is the fault of, with a description.
fn fault(error: &io::Error) -> Fault {
    // Linux error numbers without a kind in std, which all mean that this machine lacks a resource.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    let scarce = matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS));
    let target = |text: &str| Fault::Target(text.to_owned());
    match error.kind() {
        io::ErrorKind::ConnectionRefused => target("connection refused"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => target("connection reset"),
        io::ErrorKind::ConnectionAborted => target("connection aborted"),
        io::ErrorKind::HostUnreachable => target("host unreachable"),
        io::ErrorKind::NetworkUnreachable => target("network unreachable"),
        io::ErrorKind::TimedOut => target("connecting timed out"),
        io::ErrorKind::AddrNotAvailable => Fault::Local("no free local port or address".to_owned()),
        io::ErrorKind::OutOfMemory => Fault::Local("out of memory".to_owned()),
        io::ErrorKind::PermissionDenied => Fault::Local(format!("not permitted here: {error}")),
        _ if scarce => Fault::Local(format!("this prober is short of resources: {error}")),
        _ => Fault::Target(error.to_string()),
    }
}

#[cfg(test)]
#[path = "check/sessions_tests.rs"]
mod sessions_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scripted, tcp_target};

    #[tokio::test(start_paused = true)]
    async fn a_dial_that_never_ends_fails_at_its_timeout() {
        let target = tcp_target("10.0.0.1", "1s", "800ms");
        let before = Instant::now();
        let outcome = probe(&Scripted::black_hole(), &target).await;
        assert_eq!(outcome, Outcome::Failure { reason: "no answer within 800ms".to_owned() });
        assert_eq!(before.elapsed(), Duration::from_millis(800));
    }

    #[test]
    fn missing_resources_here_are_not_the_targets_fault() {
        for number in [23, 24, 105, 99, 12, 13, 1] {
            assert!(
                matches!(fault(&io::Error::from_raw_os_error(number)), Fault::Local(_)),
                "errno {number}"
            );
        }
        for number in [111, 104, 113, 101, 110] {
            assert!(
                matches!(fault(&io::Error::from_raw_os_error(number)), Fault::Target(_)),
                "errno {number}"
            );
        }
    }

    #[tokio::test]
    async fn canaries_are_reached_by_address_or_by_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            let canary: Canary = format!("{host}:{port}").parse().unwrap();
            assert_eq!(Sockets::default().reach(&canary).await, Ok(()), "{host}");
        }
        drop(listener);
        let canary: Canary = format!("127.0.0.1:{port}").parse().unwrap();
        assert_eq!(
            Sockets::default().reach(&canary).await,
            Err(Fault::Target("connection refused".to_owned()))
        );
    }
}
