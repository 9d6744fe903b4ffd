//! The messages that a reader received, kept beside it: the votes for a verdict are counted here a second time, from the
//! messages alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use store::{
    engine::KvEntry,
    health::{Heartbeat, ObservationShard, State, TargetKey, VerdictShard},
    keys,
    model::Name,
};
use tokio::time::Instant;

/// DESIGN §3.4: fresh means that the heartbeat moved within 6 s. What is looked at a little later may have been
/// decided within them.
const FRESH: Duration = Duration::from_millis(6_200);

/// The verdicts of another site are taken within this after it was read that they are adopted.
const ADOPTED: Duration = Duration::from_secs(4);

/// The reports of one vantage.
#[derive(Clone, Debug, Default)]
struct Reported {
    heartbeat: Option<Heartbeat>,
    moved: Option<Instant>,
    votes: BTreeMap<TargetKey, State>,
}

type Votes = BTreeMap<Name, Reported>;

/// All messages that a reader received since its start.
#[derive(Debug, Default)]
pub struct Inputs {
    reported: Votes,
    /// The reports before each message since the last look.
    before: Vec<Votes>,
    published: BTreeMap<TargetKey, State>,
    /// Every verdict that was read from the engine.
    ever_published: BTreeSet<(TargetKey, State)>,
    /// The adoption that was read last, and when it was a new one.
    adoption: (Option<Option<Vec<u8>>>, Option<Instant>),
    /// Counts the messages.
    pub count: u64,
    /// The engine could not be read.
    pub away: bool,
    /// Since when.
    cut: Option<Instant>,
    forged: u64,
    /// When a message last came, by true time.
    pub last: u64,
}

impl Inputs {
    /// A call had no answer.
    pub fn cut_off(&mut self) {
        self.away = true;
        self.cut.get_or_insert_with(Instant::now);
    }

    /// The configuration was read.
    pub fn configuration(&mut self, now: u64) {
        self.arrived(now);
    }

    fn arrived(&mut self, now: u64) {
        self.count += 1;
        // An adoption that was read right before the engine was lost takes effect once it is back.
        let began = self.cut.take().zip(self.adoption.1);
        if began.is_some_and(|(cut, read)| cut.duration_since(read) < ADOPTED) {
            self.adoption.1 = Some(Instant::now());
        }
        self.away = false;
        self.last = now;
    }

    /// A prefix was read.
    pub fn take_in(&mut self, prefix: &str, entries: &[KvEntry], now: u64) {
        match prefix {
            keys::HEARTBEATS => {
                self.before.push(self.reported.clone());
                entries.iter().for_each(|entry| self.heartbeat(entry));
            }
            keys::OBSERVATIONS => {
                self.before.push(self.reported.clone());
                self.reported.values_mut().for_each(|reported| reported.votes.clear());
                entries.iter().for_each(|entry| self.observations(entry));
            }
            keys::VERDICTS => {
                let shards =
                    entries.iter().filter_map(|it| serde_json::from_slice::<VerdictShard>(&it.value).ok());
                for (target, verdict) in shards.flat_map(|it| it.verdicts) {
                    self.ever_published.insert((target.clone(), verdict.state));
                    self.published.insert(target, verdict.state);
                }
            }
            _ if prefix.starts_with(keys::CONFIG_SHARDS) || prefix == keys::ORDERS => {}
            _ => return,
        }
        self.arrived(now);
    }

    fn heartbeat(&mut self, entry: &KvEntry) {
        let Some(vantage) = keys::parse_heartbeat(&entry.key) else { return };
        let Ok(heartbeat) = serde_json::from_slice::<Heartbeat>(&entry.value) else { return };
        let reported = self.reported.entry(vantage).or_default();
        let before = reported.heartbeat.replace(heartbeat.clone());
        if before.is_some_and(|it| (it.boot, it.number) != (heartbeat.boot, heartbeat.number)) {
            reported.moved = Some(Instant::now());
        }
    }

    fn observations(&mut self, entry: &KvEntry) {
        let Some((vantage, _)) = keys::parse_observations(&entry.key) else { return };
        let Ok(shard) = serde_json::from_slice::<ObservationShard>(&entry.value) else { return };
        let votes = &mut self.reported.entry(vantage).or_default().votes;
        votes.extend(shard.observations.into_iter().map(|it| (it.target, it.state)));
    }

    /// Sabotage: every heartbeat moves with every reading, so that the silent count too.
    pub fn revive(&mut self, entries: &mut [KvEntry]) {
        for entry in entries {
            let Ok(mut heartbeat) = serde_json::from_slice::<Heartbeat>(&entry.value) else { continue };
            self.forged += 1;
            heartbeat.number = self.forged;
            entry.value = serde_json::to_vec(&heartbeat).unwrap().into();
        }
    }

    /// True if these vantages gave the state its votes, at any time since the last look.
    pub fn justifies(
        &self,
        target: &TargetKey,
        state: State,
        vantages: &BTreeSet<Name>,
        needed: usize,
    ) -> bool {
        let now = Instant::now();
        let counts = |reported: &Reported| {
            reported.moved.is_some_and(|moved| now - moved < FRESH)
                && reported.heartbeat.as_ref().is_some_and(|it| !it.withheld)
                && reported.votes.get(target) == Some(&state)
        };
        let votes = |reported: &Votes| {
            reported.iter().filter(|(name, it)| vantages.contains(*name) && counts(it)).count() >= needed
        };
        votes(&self.reported) || self.before.iter().any(votes)
    }

    /// It was read which verdicts of another site this one has adopted.
    pub fn adoption(&mut self, read: Option<&KvEntry>) {
        let read = read.map(|it| it.value.to_vec());
        let before = self.adoption.0.replace(read.clone());
        // A node that could not read its engine when it started takes what is there at the first reading.
        if read.is_some() && before.is_none_or(|it| it != read) {
            self.adoption.1 = Some(Instant::now());
        }
    }

    /// True if an adoption was read so lately that it may take effect now.
    pub fn adopts(&self) -> bool {
        self.adoption.1.is_some_and(|at| at.elapsed() < ADOPTED)
    }

    /// True if the verdict was read from the engine.
    pub fn published(&self, target: &TargetKey, state: State) -> bool {
        self.published.get(target) == Some(&state)
    }

    /// True if the verdict was ever read from the engine: an adoption takes the verdicts that were read with it.
    pub fn was_published(&self, target: &TargetKey, state: State) -> bool {
        self.ever_published.contains(&(target.clone(), state))
    }

    /// The messages so far were looked at.
    pub fn looked(&mut self) {
        self.before.clear();
    }
}
