//! Connecting to an instance that has several addresses: Happy Eyeballs, version 2 (RFC 8305).
//!
//! A host name is one instance, even if it has several addresses. The addresses are dialled one after
//! the other, families interleaved, each a little later than the one before, or at once when that one failed; the first
//! connection is used. Addresses that failed recently come last, so that a dead one delays a single connection.
//!
//! Ours and not hyper-util's connector: that one dials the addresses of a family strictly in turn and remembers no
//! failures, so that a dead address would delay every new connection.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use store::model::Moment;
use tokio::{net::TcpStream, time::Instant};

/// The connection attempt delay: how long an attempt runs alone before the next begins (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long an address that failed comes last.
const FAILED_RECENTLY: Duration = Duration::from_secs(60);
/// More addresses than this are not remembered.
const MAX_REMEMBERED: usize = 1_024;

/// The addresses at which an instance can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DialAddresses {
    /// Registered by its address.
    One(SocketAddr),
    /// Registered by a host name: its addresses, in the order in which they are dialled.
    Several(Vec<SocketAddr>),
}

impl DialAddresses {
    /// All of them.
    pub(crate) fn all(&self) -> &[SocketAddr] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Several(addresses) => addresses,
        }
    }
}

/// The addresses to which one worker failed to connect recently.
#[derive(Debug, Default)]
pub(crate) struct RecentFailures(HashMap<SocketAddr, Moment>);

impl RecentFailures {
    /// The order in which the addresses of a name are dialled: families interleaved, IPv6 first, those that failed
    /// recently last. `rotation` spreads connections over the addresses of a family.
    pub(crate) fn order(
        &self,
        addresses: &[IpAddr],
        port: u16,
        rotation: usize,
        now: Moment,
    ) -> Vec<SocketAddr> {
        let family = |v6: bool| {
            let mut all: Vec<&IpAddr> = addresses.iter().filter(|it| it.is_ipv6() == v6).collect();
            if !all.is_empty() {
                let by = rotation % all.len();
                all.rotate_left(by);
            }
            all
        };
        let (v6, v4) = (family(true), family(false));
        let mut ordered = Vec::with_capacity(addresses.len());
        for at in 0..v6.len().max(v4.len()) {
            let pair = [v6.get(at), v4.get(at)];
            ordered.extend(pair.into_iter().flatten().map(|ip| SocketAddr::new(**ip, port)));
        }
        ordered.sort_by_key(|address| self.failed_recently(address, now));
        ordered
    }

    fn failed_recently(&self, address: &SocketAddr, now: Moment) -> bool {
        self.0.get(address).is_some_and(|since| now.since(*since) < FAILED_RECENTLY)
    }

    /// Remembers the addresses that failed or were overtaken, and forgets the failure of the winner.
    pub(crate) fn learn(&mut self, losers: &[SocketAddr], winner: Option<SocketAddr>, now: Moment) {
        if let Some(winner) = winner {
            self.0.remove(&winner);
        }
        // When all of them failed, the instance is down, and no address is better than another.
        for address in losers.iter().filter(|_| winner.is_some()) {
            if self.0.len() < MAX_REMEMBERED || self.0.contains_key(address) {
                self.0.insert(*address, now);
            }
        }
    }

    /// Forgets failures that are too old to matter.
    pub(crate) fn forget(&mut self, now: Moment) {
        self.0.retain(|_, since| now.since(*since) < FAILED_RECENTLY);
    }
}

/// The result of a race.
#[derive(Debug)]
pub(crate) struct Race {
    /// The connection and its address, or the last failure.
    pub(crate) outcome: io::Result<(TcpStream, SocketAddr)>,
    /// The addresses that failed, or were overtaken by one that was tried later.
    pub(crate) losers: Vec<SocketAddr>,
}

/// Connects to the first of these addresses that accepts. All of them are dialled before the deadline, however many.
pub(crate) async fn connect(addresses: &[SocketAddr], deadline: Duration) -> Race {
    let end = Instant::now() + deadline;
    let pause = pause(addresses.len(), deadline);
    let mut waiting = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut under_way: Vec<SocketAddr> = Vec::new();
    let mut losers = Vec::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut next_at = Instant::now();
    loop {
        if Instant::now() >= next_at || running.is_empty() {
            match waiting.next() {
                Some(address) => {
                    under_way.push(address);
                    running.push(async move { (address, TcpStream::connect(address).await) });
                    next_at = Instant::now() + pause;
                }
                None if running.is_empty() => return Race { outcome: Err(failure), losers },
                None => next_at = end,
            }
        }
        tokio::select! {
            biased;
            Some((address, outcome)) = running.next() => {
                under_way.retain(|it| *it != address);
                match outcome {
                    Ok(stream) => {
                        losers.append(&mut under_way);
                        return Race { outcome: Ok((stream, address)), losers };
                    }
                    Err(error) => {
                        losers.push(address);
                        failure = error;
                        next_at = Instant::now();
                    }
                }
            }
            () = tokio::time::sleep_until(end) => {
                losers.append(&mut under_way);
                return Race { outcome: Err(io::ErrorKind::TimedOut.into()), losers };
            }
            () = tokio::time::sleep_until(next_at), if waiting.len() > 0 => {}
        }
    }
}

/// The time between two attempts: that of the RFC, but short enough that the last attempt has a quarter of the
/// deadline.
fn pause(count: usize, deadline: Duration) -> Duration {
    let attempts = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    HEAD_START.min(deadline.mul_f64(0.75) / attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split(' ').filter(|it| !it.is_empty()).map(|it| it.parse().unwrap()).collect()
    }

    fn ordered(recent_failures: &RecentFailures, addresses: &str, rotation: usize, now: u64) -> String {
        let addresses = recent_failures.order(&ips(addresses), 80, rotation, Moment(now));
        addresses.iter().map(|it| it.ip().to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn families_are_interleaved_and_what_failed_comes_last_for_a_while() {
        let mut recent_failures = RecentFailures::default();
        let all = "10.0.0.1 10.0.0.2 10.0.0.3 fd00::1 fd00::2";
        assert_eq!(ordered(&recent_failures, all, 0, 0), "fd00::1 10.0.0.1 fd00::2 10.0.0.2 10.0.0.3");
        assert_eq!(ordered(&recent_failures, all, 1, 0), "fd00::2 10.0.0.2 fd00::1 10.0.0.3 10.0.0.1");
        let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 80);
        recent_failures.learn(&[at("fd00::1")], Some(at("10.0.0.1")), Moment(0));
        assert_eq!(ordered(&recent_failures, all, 0, 59_999), "10.0.0.1 fd00::2 10.0.0.2 10.0.0.3 fd00::1");
        assert!(ordered(&recent_failures, all, 0, 60_000).starts_with("fd00::1 "), "then it is tried again");
        recent_failures.learn(&[], Some(at("fd00::1")), Moment(1));
        assert!(ordered(&recent_failures, all, 0, 2).starts_with("fd00::1 "), "it answered");
        assert_eq!(ordered(&recent_failures, "", 7, 0), "");
    }

    #[test]
    fn an_instance_that_is_down_says_nothing_about_its_addresses() {
        let mut recent_failures = RecentFailures::default();
        recent_failures.learn(&["10.0.0.1:80".parse().unwrap()], None, Moment(0));
        assert!(recent_failures.0.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgotten() {
        let mut recent_failures = RecentFailures::default();
        let address = |port: u16| SocketAddr::new([10, 0, 0, 1].into(), port);
        for port in 1..5_000 {
            recent_failures.learn(&[address(port)], Some(address(0)), Moment(0));
        }
        assert_eq!(recent_failures.0.len(), MAX_REMEMBERED);
        recent_failures.forget(Moment(60_000));
        assert!(recent_failures.0.is_empty());
    }

    #[test]
    fn every_address_has_its_turn_before_the_deadline() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(2, second), HEAD_START);
        for addresses in [1, 3, 8, 32] {
            let last_begins = pause(addresses, second) * u32::try_from(addresses - 1).unwrap();
            assert!(last_begins <= second.mul_f64(0.75), "{addresses}: {last_begins:?}");
        }
    }

    /// An address that neither accepts nor refuses connections: its queue is full.
    async fn black_hole(ip: IpAddr) -> (tokio::net::TcpListener, Vec<TcpStream>) {
        let socket =
            if ip.is_ipv6() { tokio::net::TcpSocket::new_v6() } else { tokio::net::TcpSocket::new_v4() };
        let socket = socket.unwrap();
        socket.bind(SocketAddr::new(ip, 0)).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            held.push(stream);
        }
        (listener, held)
    }

    #[tokio::test]
    async fn a_silent_address_costs_its_head_start_and_a_refusing_one_nothing() {
        let (hole, _held) = black_hole("::1".parse().unwrap()).await;
        let living = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (hole, living) = (hole.local_addr().unwrap(), living);
        let good = living.local_addr().unwrap();
        let race = connect(&[hole, good], Duration::from_secs(5)).await;
        assert_eq!(race.outcome.unwrap().1, good);
        assert_eq!(race.losers, [hole]);

        let refusing = SocketAddr::new([127, 0, 0, 1].into(), super::super::testing::unused_port());
        let race = connect(&[refusing, good], Duration::from_secs(5)).await;
        assert_eq!((race.outcome.unwrap().1, race.losers), (good, vec![refusing]));

        let race = connect(&[refusing, hole], Duration::from_millis(300)).await;
        assert_eq!(race.outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let race = connect(&[refusing], Duration::from_secs(5)).await;
        assert_eq!(race.outcome.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect(&[], Duration::from_secs(5)).await.outcome.is_err());
    }
}
