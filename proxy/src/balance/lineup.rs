//! The instances of one site that may be picked now, and the policies that pick one of them.
//!
//! A lineup is built when a condition changes and then only read, so a pick allocates nothing and its cost does not depend
//! on how many services there are: drawing two of `n` by weight is two binary searches.
//!
//! **Weights at few requests.** Comparing `requests in flight / weight` gives an instance of a tenth of the weight a
//! third of three clients: whenever it is idle, it looks less loaded than the other one with two requests. So an
//! instance of weight `w` counts as `w / unit` *slots*, where `unit` is the least weight, its requests spread evenly over
//! them, and two slots are drawn instead of two instances. All slots are alike, so each gets the same share at any
//! load, and an instance as many shares as it has slots. Equal weights are one slot each, which is the plain power of two
//! choices. With 10:1 and 1, 3, 30 and 300 clients the shares are within 2 % of the weights.
//!
//! Ours and not a crate's: `tower`'s balancer draws from one set of equal services.

use std::{cmp::Reverse, collections::BinaryHeap};

use fastrand::Rng;

use super::settings::Policy;

/// What a policy asks about the instances, by their place.
pub(crate) trait Loads {
    /// Requests in flight.
    fn in_flight(&self, place: usize) -> u64;
    /// Recent latency in microseconds; zero while it is not known.
    fn latency(&self, place: usize) -> u32;
    /// True while requests fail there in a row.
    fn fails(&self, place: usize) -> bool;
    /// False for instances that this request must not use.
    fn usable(&self, place: usize) -> bool;
}

/// An instance in a lineup.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Its place among the site's instances.
    place: u32,
    weight: u32,
    /// The sum of the weights up to here, this one included.
    end: u64,
    /// A hash of what it is called, the same in every gateway.
    name: u64,
}

/// Instances that may be picked.
#[derive(Debug, Default)]
pub(crate) struct Lineup {
    entries: Vec<Entry>,
    /// The least weight: one slot of [`Policy::P2c`].
    unit: u32,
    /// The greatest common divisor of the weights: one slot of [`Policy::LeastRequests`].
    divisor: u32,
    /// When each has its next turn, earliest first, for [`Policy::RoundRobin`].
    turns: BinaryHeap<Reverse<(u64, u32)>>,
    passed_over: Vec<Reverse<(u64, u32)>>,
}

/// More instances than this are sampled by [`Policy::LeastRequests`], which looks at each otherwise.
const LOOKED_AT: usize = 16;
/// A latency is clearly higher from this many times the other one, and by this many microseconds. Below it is noise:
/// among equally fast instances the one with more requests sees more peaks.
const CLEARLY: u64 = 3;
const CLEARLY_MICROS: u64 = 1_000;
/// Requests in flight at one instance that a bounded load always allows, so that a quiet client's few stay together.
const ALWAYS_ALLOWED: u64 = 4;

impl Lineup {
    /// Takes other instances: place, weight (at least 1) and the hash of the name of each.
    pub(crate) fn set(
        &mut self,
        members: impl Iterator<Item = (usize, u32, u64)>,
        policy: Policy,
        rng: &mut Rng,
    ) {
        self.entries.clear();
        let mut end = 0;
        for (place, weight, name) in members {
            let weight = weight.max(1);
            end += u64::from(weight);
            self.entries.push(Entry { place: u32::try_from(place).unwrap_or(u32::MAX), weight, end, name });
        }
        self.unit = self.entries.iter().map(|it| it.weight).min().unwrap_or(1);
        self.divisor = self.entries.iter().fold(0, |divisor, it| gcd(divisor, it.weight)).max(1);
        self.turns.clear();
        if policy == Policy::RoundRobin {
            // Workers that all began with the same instance would send it their first requests together.
            for at in 0..self.entries.len() {
                self.turns.push(Reverse((rng.u64(..self.period(at)), at as u32)));
            }
        }
    }

    /// True if there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Their places, with the share of each in percent.
    pub(crate) fn shares(&self) -> impl Iterator<Item = (usize, f64)> {
        let total = self.total() as f64;
        self.entries.iter().map(move |it| (it.place as usize, 100.0 * f64::from(it.weight) / total))
    }

    /// The place of the one that gets a request; `None` if none is usable.
    pub(crate) fn pick(
        &mut self,
        policy: Policy,
        key: Option<u64>,
        loads: &impl Loads,
        rng: &mut Rng,
    ) -> Option<usize> {
        let at = match (policy, key) {
            (Policy::RoundRobin, _) => self.turn(loads),
            (Policy::LeastRequests, _) => self.least(loads, rng),
            (Policy::Hash { bounded_percent }, Some(key)) => self.hashed(key, bounded_percent, loads),
            (Policy::P2c | Policy::Hash { .. }, _) => self.better_of_two(loads, rng),
        };
        at.map(|at| self.entries[at].place as usize)
    }

    fn total(&self) -> u64 {
        self.entries.last().map_or(0, |it| it.end)
    }

    /// The entry in whose part of the sum of the weights this number is.
    fn at(&self, drawn: u64) -> usize {
        self.entries.partition_point(|it| it.end <= drawn).min(self.entries.len().saturating_sub(1))
    }

    /// One that is usable, drawn by weight.
    fn draw(&self, loads: &impl Loads, rng: &mut Rng) -> Option<usize> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let first = self.at(rng.u64(..total));
        if loads.usable(self.entries[first].place as usize) {
            return Some(first);
        }
        // Few requests have tried an instance before, and then few instances.
        let usable = |it: &&Entry| loads.usable(it.place as usize);
        let left: u64 = self.entries.iter().filter(usable).map(|it| u64::from(it.weight)).sum();
        let mut drawn = (left > 0).then(|| rng.u64(..left))?;
        self.entries.iter().position(|it| {
            let here = usable(&it) && drawn < u64::from(it.weight);
            if usable(&it) && !here {
                drawn -= u64::from(it.weight);
            }
            here
        })
    }

    fn better_of_two(&self, loads: &impl Loads, rng: &mut Rng) -> Option<usize> {
        let one = self.draw(loads, rng)?;
        if self.entries.len() == 1 {
            return Some(one);
        }
        // Another slot: all but one of the first.
        let unit = u64::from(self.unit);
        let mut drawn = rng.u64(..self.total() - unit);
        if drawn >= self.entries[one].end - unit {
            drawn += unit;
        }
        let two = self.at(drawn);
        if one == two || !loads.usable(self.entries[two].place as usize) {
            return Some(one);
        }
        let [place_one, place_two] = [one, two].map(|at| self.entries[at].place as usize);
        let latencies = (u64::from(loads.latency(place_one)), u64::from(loads.latency(place_two)));
        // That it fails sooner than the other one answers does not make an instance the better one: it would get all requests, and
        // no other could show that it is the cause.
        let latency = |fails: bool, own: u64, other: u64| if fails { own.max(other) } else { own };
        let latency_one = latency(loads.fails(place_one), latencies.0, latencies.1);
        let latency_two = latency(loads.fails(place_two), latencies.1, latencies.0);
        let mut load = |at: usize, place| self.slot_load(&self.entries[at], loads.in_flight(place), rng);
        let (load_two, load_one) = (load(two, place_two), load(one, place_one));
        Some(if is_better((load_two, latency_two), (load_one, latency_one)) { two } else { one })
    }

    /// The requests at one slot, drawn at random, of an instance that has so many.
    fn slot_load(&self, entry: &Entry, in_flight: u64, rng: &mut Rng) -> u64 {
        let (all, weight) = (in_flight * u64::from(self.unit), u64::from(entry.weight));
        let (level, rest) = (all / weight, all % weight);
        level + u64::from(rest > 0 && rng.u64(..weight) < rest)
    }

    /// The one with the free slot nearest to the ground; of several free slots each is as likely.
    fn least(&self, loads: &impl Loads, rng: &mut Rng) -> Option<usize> {
        let count = self.entries.len();
        let (mut best, mut found, mut room) = (u64::MAX, None, 0);
        for number in 0..count.min(LOOKED_AT) {
            let at = if count <= LOOKED_AT { number } else { rng.usize(..count) };
            let entry = &self.entries[at];
            if !loads.usable(entry.place as usize) {
                continue;
            }
            let slots = u64::from(entry.weight / self.divisor);
            let in_flight = loads.in_flight(entry.place as usize);
            let (level, free) = (in_flight / slots, slots - in_flight % slots);
            if level < best {
                (best, found, room) = (level, Some(at), free);
            } else if level == best {
                room += free;
                if rng.u64(..room) < free {
                    found = Some(at);
                }
            }
        }
        found.or_else(|| self.draw(loads, rng))
    }

    /// The one whose turn it is. Turns of an instance come at even distances, by its weight: five of `a` and one each of
    /// `b` and `c` are `a a b a c a a` and not five at once.
    fn turn(&mut self, loads: &impl Loads) -> Option<usize> {
        let mut found = None;
        while let Some(Reverse((turn, at))) = self.turns.pop() {
            if loads.usable(self.entries[at as usize].place as usize) {
                self.turns.push(Reverse((turn + self.period(at as usize), at)));
                found = Some(at as usize);
                break;
            }
            self.passed_over.push(Reverse((turn, at)));
        }
        // Those that this request may not use have their turn with the next one.
        self.turns.extend(self.passed_over.drain(..));
        found
    }

    /// From one turn to the next; long enough that weights of any ratio are told apart.
    fn period(&self, at: usize) -> u64 {
        (u64::from(self.unit) << 20) / u64::from(self.entries[at].weight)
    }

    /// By weighted rendezvous hashing: of all pairs of key and instance the best one wins. So an instance that comes takes
    /// only what is its own, and one that goes leaves the others what they have. An instance at its bound is passed over.
    fn hashed(&self, key: u64, bounded_percent: u16, loads: &impl Loads) -> Option<usize> {
        let usable = |it: &&Entry| loads.usable(it.place as usize);
        let in_flight: u64 = self.entries.iter().map(|it| loads.in_flight(it.place as usize)).sum();
        let allowed = |entry: &Entry| {
            let share = u128::from(in_flight + 1) * u128::from(entry.weight) * u128::from(bounded_percent);
            let share = share.div_ceil(u128::from(self.total()) * 100);
            bounded_percent == 0
                || u128::from(loads.in_flight(entry.place as usize)) < share.max(ALWAYS_ALLOWED.into())
        };
        let best = |bounded: bool| {
            let all =
                self.entries.iter().enumerate().filter(|(_, it)| usable(it) && (!bounded || allowed(it)));
            let scored = all.map(|(at, it)| (at, score(key, it)));
            scored.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
        };
        best(true).or_else(|| best(false))
    }
}

/// Whether requests are better off with the first of two (load of a slot, latency).
const fn is_better(one: (u64, u64), two: (u64, u64)) -> bool {
    let ((load_one, latency_one), (load_two, latency_two)) = (one, two);
    let known = latency_one > 0 && latency_two > 0;
    let differ = latency_one > CLEARLY * latency_two + CLEARLY_MICROS
        || latency_two > CLEARLY * latency_one + CLEARLY_MICROS;
    if known && differ {
        (load_one + 1).saturating_mul(latency_one) < (load_two + 1).saturating_mul(latency_two)
    } else {
        load_one < load_two
    }
}

/// The less the better: exponentially distributed with the weight as its rate, so that shares are as the weights.
fn score(key: u64, entry: &Entry) -> f64 {
    let hash = mix(key ^ entry.name);
    // 53 bits, never zero.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln() / f64::from(entry.weight)
}

/// Every bit of the result depends on every bit of the number (the finaliser of splitmix64).
pub(crate) const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hash of bytes that is the same in every gateway and version (FNV-1a, mixed). For the key of [`Policy::Hash`] and for
/// targets.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        for byte in *part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // So that ("ab", "c") is not ("a", "bc").
        hash = (hash ^ 0xff).wrapping_mul(0x0100_0000_01b3);
    }
    mix(hash)
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[path = "lineup_tests.rs"]
mod tests;
