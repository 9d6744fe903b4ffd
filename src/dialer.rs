//! The prober's checks as the follower's dialer: whether an instance in doubt answers.
//!
//! `store` may not name `prober`, so the program joins them here.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use prober::check::{Outcome, Sockets, probe};
use store::{
    dial::{Answer, Dial, Dialer},
    health::{TargetKey, WorkTarget},
    model::{Check, Name, Probe, Quorum, Span},
};

/// How long a dial without a check of its own may take, and the resolving of a host name.
const PATIENCE: Duration = Duration::from_secs(1);
/// Addresses of a host name that are tried; one that answers is enough.
const MOST_ADDRESSES: usize = 4;

/// Dials over real sockets.
#[derive(Debug)]
pub struct Checks {
    sockets: Sockets,
    connect: Check,
    site: Name,
}

impl Checks {
    /// For a node at a site, with what its prober (if it has one) may run and believes.
    #[must_use]
    pub fn new(site: Name, prober: Option<&prober::Config>) -> Self {
        let (external, ca): (BTreeMap<Name, PathBuf>, _) =
            prober.map_or_else(Default::default, |it| (it.external.clone(), it.check_ca_pem.clone()));
        let connect = Check {
            name: site.clone(),
            probe: Probe::tcp(),
            port: 0,
            interval: Span(PATIENCE),
            timeout: Span(PATIENCE),
            fall: 3,
            rise: 1,
            quorum: Quorum::Majority,
            damping: Check::DAMPING,
        };
        Self { sockets: Sockets::new(external, ca), connect, site }
    }

    /// Believes these authorities (PEM) from now on, as the prober of this node does.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn trust(&self, ca_pem: &[u8]) -> Result<(), String> {
        prober::check::Dialer::trust(&self.sockets, ca_pem)
    }
}

#[async_trait]
impl Dialer for Checks {
    async fn dial(&self, dial: &Dial) -> Answer {
        let check = Check { port: dial.port, ..dial.check.as_ref().unwrap_or(&self.connect).clone() };
        let addresses = match resolve(&dial.address).await {
            Ok(addresses) => addresses,
            Err(reason) => return Answer::Unable(reason),
        };
        let mut last = Answer::Unable(format!("{} has no address", dial.address));
        for address in addresses {
            let key = TargetKey::new(address, &check);
            let target = WorkTarget { key, address, site: self.site.clone(), check: check.clone() };
            match probe(&self.sockets, &target).await {
                Outcome::Success { .. } => return Answer::Answered,
                Outcome::Failure { reason } => last = Answer::Failed(reason),
                Outcome::Inconclusive { reason } if !matches!(last, Answer::Failed(_)) => {
                    last = Answer::Unable(reason);
                }
                Outcome::Inconclusive { .. } => {}
            }
        }
        last
    }
}

/// The addresses of an IP address or host name. That a name cannot be resolved is no word about the instance.
async fn resolve(address: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(ip) = address.parse() {
        return Ok(vec![ip]);
    }
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((address, 0))).await {
        Ok(Ok(found)) => Ok(found.map(|it| it.ip()).take(MOST_ADDRESSES).collect()),
        Ok(Err(error)) => Err(format!("{address} cannot be resolved: {error}")),
        Err(_) => Err(format!("{address} was not resolved within {}", Span(PATIENCE))),
    }
}

#[cfg(test)]
mod tests {
    use store::model::HttpProbe;

    use super::*;

    fn dial(address: &str, port: u16) -> Dial {
        Dial { address: address.to_owned(), port, check: None }
    }

    #[tokio::test]
    async fn an_open_port_answers_and_a_closed_one_has_failed() {
        let checks = Checks::new("bj".parse().unwrap(), None);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in ["127.0.0.1", "localhost"] {
            assert_eq!(checks.dial(&dial(address, port)).await, Answer::Answered, "{address}");
        }
        let unresolved = checks.dial(&dial("nowhere.invalid", port)).await;
        assert!(matches!(unresolved, Answer::Unable(_)), "{unresolved:?}");
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
}
