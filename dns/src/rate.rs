//! Response-rate limiting, so that queries with a forged source address cannot make this server flood its owner.
//!
//! Our own, because general rate limiters keep a map that grows with the number of clients, and hickory limits
//! nothing by network and kind of answer.
//!
//! Over UDP a source address proves nothing. So the same kind of answer goes to the same network only so many times a
//! second; what is beyond that is dropped, and every n-th of it sent empty and truncated, so that a real client
//! comes again over TCP, where addresses are proven. BIND, NSD and Knot do the same. Clients with a valid
//! [cookie](crate::cookie) are not limited at all.
//!
//! The table is a fixed number of words: no lock, no allocation, one cache line per response. Each word is a
//! whole account, so that one compare-and-exchange changes it:
//!
//! ```text
//! tag: 20 bits | refused so far, modulo slip: 4 bits | paid up to: 40 bits of microseconds
//! ```
//!
//! *Paid up to* is the generic cell rate algorithm: each response moves it on by the time it costs (a second by
//! the rate), and it is never behind now. A response passes while it is at most a second ahead, which is the
//! burst; refused responses cost as well, up to `window` ahead, so that a client which goes on sending stays refused. An
//! account that is behind now is worth nothing, so its word is free: a flood of addresses with one query each
//! fills nothing up.
//!
//! What can go wrong, and how far: two keys of one line with the same tag (one in a million per pair) share an
//! account. A line with eight accounts ahead of now drops the least indebted one, counted as overflow: that
//! client begins anew. Under contention an account may miss a response. The time wraps after 12.7 days; an old
//! account then counts as at most a burst and a window. All of these err by little, and none lasts.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;
use store::{metrics::Count, model::Moment};

/// How much is sent to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Answers of one owner name per second and client network, 0 to 100,000; 0 does not limit them. Names that
    /// a wildcard covers count as one, and so do referrals out of a zone.
    pub responses_per_second: u32,
    /// Absences (NXDOMAIN, or no record of that type) in one zone per second and client network; as above.
    pub absences_per_second: u32,
    /// Errors (REFUSED, FORMERR, ...) per second and client network; as above.
    pub errors_per_second: u32,
    /// How long a client that went on sending stays refused at most; one second to an hour.
    pub window: Duration,
    /// Every n-th response beyond the rate is sent truncated, 0 to 10: 0 none, 1 all.
    pub slip: u8,
    /// Bits of an IPv4 address that make a client's network, 1 to 32.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that make a client's network, 1 to 64.
    pub ipv6_prefix: u8,
    /// Accounts kept, rounded up to a power of two; eight octets each.
    pub accounts: usize,
    /// Networks that are never limited.
    pub exempt: Vec<IpNet>,
}

impl Config {
    /// The highest rate.
    pub const MAX_PER_SECOND: u32 = 100_000;
    /// The most accounts.
    pub const MAX_ACCOUNTS: usize = 1 << 24;
    /// The most exempt networks: every response looks through them.
    pub const MAX_EXEMPT: usize = 64;
    /// The highest slip.
    pub const MAX_SLIP: u8 = 10;
    /// The longest window.
    pub const MAX_WINDOW: Duration = Duration::from_secs(3600);
}

impl Default for Config {
    fn default() -> Self {
        Self {
            responses_per_second: 1000,
            absences_per_second: 1000,
            errors_per_second: 200,
            window: Duration::from_secs(15),
            slip: 2,
            ipv4_prefix: 24,
            ipv6_prefix: 56,
            accounts: 1 << 16,
            exempt: ["127.0.0.0/8", "::1/128"].iter().filter_map(|it| it.parse().ok()).collect(),
        }
    }
}

/// What kind of response it is, and about what; each has its own account per network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Records of this owner, or of the zone where a wildcard answers or a referral leads out.
    Answer(Subject),
    /// No such name or type, in this zone.
    Absence(Subject),
    /// Anything but NOERROR and NXDOMAIN.
    Error,
}

/// A name as a number, which may be made ahead of the query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject(u64);

impl Subject {
    /// The number of a name in wire form and lower case, with the root's empty label at its end. Not keyed, so that it
    /// can be kept with what is looked up; the table's key is.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let (words, rest) = name.as_chunks::<8>();
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        let hash = words
            .iter()
            .chain([&last])
            .fold(name.len() as u64 ^ ODD, |hash, word| fold(hash ^ u64::from_le_bytes(*word), ODD));
        Self(hash)
    }
}

/// What becomes of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is sent.
    Send,
    /// A truncated one without records is sent instead.
    Slip,
    /// Nothing is sent.
    Drop,
}

/// What was held back.
#[derive(Debug, Default)]
pub struct Counts {
    /// Responses sent truncated instead of whole.
    pub slipped: Count,
    /// Responses not sent.
    pub dropped: Count,
    /// Accounts dropped before they were free, for lack of room.
    pub overflow: Count,
}

/// Accounts that share a cache line.
const WAYS: usize = 8;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; WAYS]);

/// The accounts; shared by everything that answers over UDP.
#[derive(Debug)]
pub struct Table {
    lines: Box<[Line]>,
    seeds: [u64; 2],
    /// Microseconds one response costs, by [`Kind`]; 0 where it is not limited.
    costs: [u64; 3],
    /// Microseconds.
    window: u64,
    slip: u64,
    prefixes: (u32, u64),
    exempt: Box<[(u128, u128)]>,
    counts: Arc<Counts>,
}

/// Microseconds an account may be ahead before responses are held back: a second's worth of responses.
const BURST: u64 = 1_000_000;

impl Table {
    /// An empty table.
    ///
    /// # Errors
    /// The system has no random numbers, which keep clients from choosing names that share an account.
    pub fn new(config: &Config, counts: Arc<Counts>) -> Result<Self, getrandom::Error> {
        let accounts = config.accounts.clamp(WAYS, Config::MAX_ACCOUNTS).next_power_of_two();
        let cost = |rate: u32| match u64::from(rate.min(Config::MAX_PER_SECOND)) {
            0 => 0,
            rate => BURST / rate,
        };
        let window = config.window.min(Config::MAX_WINDOW).as_micros();
        Ok(Self {
            lines: (0..accounts / WAYS).map(|_| Line::default()).collect(),
            seeds: [getrandom::u64()?, getrandom::u64()?],
            costs: [config.responses_per_second, config.absences_per_second, config.errors_per_second]
                .map(cost),
            window: u64::try_from(window).unwrap_or_default(),
            slip: config.slip.min(Config::MAX_SLIP).into(),
            prefixes: (
                u32::MAX.checked_shl(32_u32.saturating_sub(config.ipv4_prefix.into())).unwrap_or_default(),
                u64::MAX.checked_shl(64_u32.saturating_sub(config.ipv6_prefix.into())).unwrap_or_default(),
            ),
            exempt: config.exempt.iter().map(|net| range(*net)).collect(),
            counts,
        })
    }

    /// Decides about a response over UDP to a client whose address is not proven, and counts it.
    #[must_use]
    pub fn admit(&self, client: IpAddr, kind: Kind, now: Moment) -> Decision {
        let (index, subject) = match kind {
            Kind::Answer(subject) => (0, subject.0),
            Kind::Absence(subject) => (1, subject.0),
            Kind::Error => (2, 0),
        };
        let cost = self.costs[index];
        if cost == 0 || self.is_exempt(client) {
            return Decision::Send;
        }
        let key = self.key(self.network(client), index as u64, subject);
        let decision = self.book(key, cost, now.0.wrapping_mul(1000) & PAID);
        match decision {
            Decision::Send => {}
            Decision::Slip => self.counts.slipped.increment(),
            Decision::Drop => self.counts.dropped.increment(),
        }
        decision
    }

    fn is_exempt(&self, client: IpAddr) -> bool {
        let bits = bits(client);
        self.exempt.iter().any(|(network, mask)| bits & mask == *network)
    }

    /// The client's network as a word; IPv4 networks lie where no IPv6 unicast network does (RFC 4291 §2.5).
    fn network(&self, client: IpAddr) -> u64 {
        match client.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits() & self.prefixes.0),
            IpAddr::V6(ip) => {
                let [high, _] = halves(ip.to_bits());
                high & self.prefixes.1
            }
        }
    }

    fn key(&self, network: u64, kind: u64, subject: u64) -> u64 {
        let [first, second] = self.seeds;
        fold(fold(network ^ first, subject ^ second ^ (kind << 62)) ^ first, ODD)
    }

    /// Books a response on its account.
    fn book(&self, key: u64, cost: u64, now: u64) -> Decision {
        // Lines by the low bits, tags by the high ones: they are independent.
        let at = key as usize & (self.lines.len() - 1);
        let Some(Line(words)) = self.lines.get(at) else { return Decision::Send };
        // Zero is an unused word's tag.
        let tag = (key >> TAG_AT).max(1);
        let mut decision = Decision::Send;
        for _ in 0..TRIES {
            let (word, old) = self.find(words, tag, now);
            let account = Account::read(old).filter(|it| it.tag == tag);
            let before = account.unwrap_or(Account { tag, refused: 0, paid: now });
            let after;
            (after, decision) = self.charge(before, cost, now);
            let exchanged =
                word.compare_exchange_weak(old, after.word(), Ordering::Relaxed, Ordering::Relaxed);
            if exchanged.is_ok() {
                if account.is_none() && self.ahead(old, now) > 0 {
                    self.counts.overflow.increment();
                }
                break;
            }
        }
        decision
    }

    /// The account with this tag, or the word that is missed least.
    fn find<'a>(&self, words: &'a [AtomicU64; WAYS], tag: u64, now: u64) -> (&'a AtomicU64, u64) {
        let [first, ..] = words;
        let mut least = (first, u64::MAX, u64::MAX);
        for word in words {
            let value = word.load(Ordering::Relaxed);
            if value >> TAG_AT == tag {
                return (word, value);
            }
            let ahead = self.ahead(value, now);
            if ahead < least.2 {
                least = (word, value, ahead);
            }
        }
        (least.0, least.1)
    }

    /// How far an account is ahead of now, at most as far as one can be.
    fn ahead(&self, word: u64, now: u64) -> u64 {
        let ahead = (word & PAID).wrapping_sub(now) & PAID;
        // Further than any account goes: it is behind.
        if word == 0 || ahead > BURST + self.window { 0 } else { ahead }
    }

    /// An account after one more response, and what becomes of that.
    fn charge(&self, account: Account, cost: u64, now: u64) -> (Account, Decision) {
        let ahead = self.ahead(account.word(), now);
        let paid = |ahead: u64| (now + ahead.min(BURST + self.window)) & PAID;
        if ahead + cost <= BURST {
            return (Account { refused: 0, paid: paid(ahead + cost), ..account }, Decision::Send);
        }
        let refused = account.refused + 1;
        let slips = self.slip > 0 && refused >= self.slip;
        let after =
            Account { refused: if slips { 0 } else { refused.min(15) }, paid: paid(ahead + cost), ..account };
        (after, if slips { Decision::Slip } else { Decision::Drop })
    }
}

/// How often an account that changes at the same time is tried before the response is left unbooked.
const TRIES: usize = 4;
/// Bits below the tag.
const TAG_AT: u32 = 44;
/// Bits below the count of refusals, which are the time.
const REFUSED_AT: u32 = 40;
const PAID: u64 = (1 << REFUSED_AT) - 1;

/// A word of the table, taken apart.
#[derive(Clone, Copy)]
struct Account {
    tag: u64,
    refused: u64,
    paid: u64,
}

impl Account {
    const fn read(word: u64) -> Option<Self> {
        if word == 0 {
            return None;
        }
        Some(Self { tag: word >> TAG_AT, refused: (word >> REFUSED_AT) & 15, paid: word & PAID })
    }

    const fn word(self) -> u64 {
        self.tag << TAG_AT | self.refused << REFUSED_AT | self.paid
    }
}

/// An odd number with as many ones as zeros (the fractional part of the golden ratio).
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Both halves of a product, laid over each other: every bit of it depends on every bit of both factors.
const fn fold(a: u64, b: u64) -> u64 {
    let [high, low] = halves((a as u128).wrapping_mul(b as u128));
    high ^ low
}

const fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

/// An address as IPv6 has it, IPv4 mapped.
const fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A network as its first address and its mask.
fn range(net: IpNet) -> (u128, u128) {
    let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
    (bits(net.network()), u128::MAX.checked_shl(host_bits).unwrap_or_default())
}

#[cfg(test)]
mod tests;
