//! Checks, targets and dialers for tests.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use store::{
    health::{TargetKey, WorkTarget},
    model::{Check, HttpProbe, Probe, Quorum},
};

use crate::{
    check::{Dialer, Fault, Outcome, Phases},
    config::Canary,
};

/// A TCP check with `fall` 4 and `rise` 2.
pub(crate) fn check(interval: &str, timeout: &str) -> Check {
    Check {
        name: "web".parse().unwrap(),
        probe: Probe::tcp(),
        port: 80,
        interval: interval.parse().unwrap(),
        timeout: timeout.parse().unwrap(),
        fall: 4,
        rise: 2,
        quorum: Quorum::Majority,
        damping: Check::DAMPING,
    }
}

fn target(address: SocketAddr, check: Check) -> WorkTarget {
    let check = Check { port: address.port(), ..check };
    WorkTarget {
        key: TargetKey::new(address.ip(), &check),
        address: address.ip(),
        site: "bj".parse().unwrap(),
        check,
    }
}

pub(crate) fn tcp_target(ip: &str, interval: &str, timeout: &str) -> WorkTarget {
    target(SocketAddr::new(ip.parse().unwrap(), 80), check(interval, timeout))
}

pub(crate) fn tcp_target_at(address: SocketAddr) -> WorkTarget {
    target(address, check("1s", "800ms"))
}

pub(crate) fn http_target_at(address: SocketAddr) -> WorkTarget {
    let statuses = ["200", "204"].map(|status| status.parse().unwrap());
    let get = HttpProbe::get("/readyz", Some("gw.example.com".into()), statuses.into());
    let probe = Probe::Http(Box::new(get));
    target(address, Check { probe, ..check("1s", "800ms") })
}

/// A target with a probe of any kind.
pub(crate) fn target_of(address: SocketAddr, probe: Probe) -> WorkTarget {
    target(address, Check { probe, ..check("1s", "800ms") })
}

pub(crate) fn ok() -> Outcome {
    let phases = Phases { whole: Duration::from_millis(3), ..Phases::default() };
    Outcome::Success { phases, detail: Cow::Borrowed("connected") }
}

pub(crate) fn failed(reason: &str) -> Outcome {
    Outcome::Failure { reason: reason.to_owned() }
}

pub(crate) fn unable() -> Outcome {
    Outcome::Inconclusive { reason: "no free local port or address".to_owned() }
}

/// A dialer that returns prepared outcomes.
#[derive(Debug)]
pub(crate) struct Scripted;

impl Scripted {
    /// Never answers.
    pub(crate) const fn black_hole() -> Self {
        Self
    }
}

#[async_trait]
impl Dialer for Scripted {
    async fn dial(&self, _: &WorkTarget, _: &mut Phases) -> Result<Cow<'static, str>, Fault> {
        std::future::pending().await
    }

    async fn reach(&self, _: &Canary) -> Result<(), Fault> {
        std::future::pending().await
    }
}
