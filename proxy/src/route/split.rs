//! Which of the services of a route gets a request: by weight, and for a client that has to stay where it was, always the
//! same one.
//!
//! A sticky choice is by weighted rendezvous (Mosharaf and others call it highest random weight): each target draws a number
//! from the client's key and its own name, scaled by its weight, and the highest wins. So a client moves only if the target
//! it moves to gained weight, or the one it leaves lost some, and every gateway decides alike without a table.

use std::{fmt::Write as _, hash::Hasher as _, net::IpAddr};

use siphasher::sip::SipHasher13;
use store::model::{CookieName, Name, RouteTarget, SessionPersistence};

use super::request::Request;
use crate::cookies::cookie;

/// Where a route leads: services by weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    shares: Box<[Share]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    /// The upper end of its share of the numbers that are drawn.
    end: u32,
    weight: u16,
    backend: usize,
    /// What it draws its number from for a client: a hash of the service's name, equal on every gateway.
    seed: u64,
}

impl Split {
    /// The shares of the targets that have a number and a weight.
    pub(super) fn new(targets: &[RouteTarget], number: impl Fn(&Name) -> Option<usize>) -> Self {
        let mut end = 0u32;
        let shares = targets.iter().filter(|target| target.weight.0 > 0).filter_map(|target| {
            let backend = number(&target.service)?;
            end = end.saturating_add(u32::from(target.weight.0));
            let seed = stable_hash(0, target.service.as_str().as_bytes());
            Some(Share { end, weight: target.weight.0, backend, seed })
        });
        Self { shares: shares.collect() }
    }

    /// The backend for a number drawn below the given bound; `None` when every share is zero.
    pub(crate) fn draw(&self, draw: impl FnOnce(u32) -> u32) -> Option<usize> {
        let last = self.shares.last()?;
        if self.shares.len() == 1 {
            return Some(last.backend);
        }
        let drawn = draw(last.end);
        self.shares.iter().find(|share| drawn < share.end).map(|share| share.backend)
    }

    /// The backends that it leads to.
    pub(crate) fn backends(&self) -> impl Iterator<Item = usize> {
        self.shares.iter().map(|share| share.backend)
    }

    /// The backend of the client with this key; `None` when every share is zero.
    pub(crate) fn stick(&self, key: u64) -> Option<usize> {
        let score = |share: &Share| {
            let drawn = stable_hash(share.seed, &key.to_le_bytes());
            // Between 0 and 1, and neither of them.
            #[allow(clippy::cast_precision_loss, reason = "53 bits are exact")]
            let drawn = ((drawn >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            drawn.ln() / f64::from(share.weight)
        };
        let scored = self.shares.iter().map(|share| (score(share), share.backend));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, backend)| backend)
    }
}

/// The same on every gateway and in every version.
pub(crate) fn stable_hash(seed: u64, octets: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, 0);
    hasher.write(octets);
    hasher.finish()
}

/// What a client is known by where a route keeps it at one service: a hash of its header field, of its cookie or of its
/// network. `None` if it has not shown any.
pub(crate) fn session_key(persistence: &SessionPersistence, request: &impl Request) -> Option<u64> {
    match persistence {
        SessionPersistence::Header { session_name } => {
            request.fields(session_name.as_str()).next().map(|value| stable_hash(0, value))
        }
        SessionPersistence::Cookie { session_name, .. } => {
            cookie(request.fields("cookie"), session_name.as_str().as_bytes())
                .map(|value| stable_hash(0, value))
        }
        SessionPersistence::Client {} => Some(stable_hash(0, &network(request.client()))),
    }
}

/// The client's network, whose addresses one client may change between: /24 or /56.
fn network(client: IpAddr) -> [u8; 8] {
    let mut network = [0; 8];
    match client.to_canonical() {
        IpAddr::V4(ip) => network[..3].copy_from_slice(&ip.octets()[..3]),
        IpAddr::V6(ip) => network[..7].copy_from_slice(&ip.octets()[..7]),
    }
    network
}

/// A new session of a client that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewSession {
    /// What the client is known by from now on; for [`Split::stick`]. It is the hash of the cookie's value.
    pub(crate) key: u64,
    /// The value of the `Set-Cookie` field that makes it so (RFC 6265 §4.1).
    pub(crate) set_cookie: String,
}

impl NewSession {
    /// Begins one, if the route keeps clients by a cookie. `random` should not be foreseeable.
    pub(crate) fn begin(persistence: &SessionPersistence, random: u64, https: bool) -> Option<Self> {
        let SessionPersistence::Cookie { session_name, absolute_timeout } = persistence else { return None };
        let value = format!("{random:016x}");
        let mut set_cookie = format!("{session_name}={value}; Path=/; HttpOnly; SameSite=Lax");
        if let Some(lasts) = absolute_timeout {
            let _ = write!(set_cookie, "; Max-Age={}", lasts.0.as_secs());
        }
        if https {
            set_cookie.push_str("; Secure");
        }
        Some(Self { key: stable_hash(0, value.as_bytes()), set_cookie })
    }

    /// True if its cookie has this name.
    pub(crate) fn is_named(&self, name: &CookieName) -> bool {
        self.set_cookie.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('='))
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
