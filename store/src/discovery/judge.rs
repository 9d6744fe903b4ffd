//! What one more answer of the registry, one more dial, or a drain record means for each instance of a service.
//!
//! Everything here is a pure function of what was known, what was learnt, and the time. An instance that was used is
//! dropped only with one of these proofs:
//!
//! - a drain record, or maintenance of the instance or its node;
//! - a deregistration, or a turn to critical, at a growing index while others of the service stay in use;
//! - its address and port registered for another;
//! - `fall` failed dials in a row while it is in doubt;
//! - the end of a bounded doubt: missing together with most others, at an index that grew.
//!
//! Without a proof it is in doubt ([`Doubt`]), and used as before for as long as it answers.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Duration,
};

use super::{
    Entry, Standing,
    doubt::{Cause, Doubt, Fate, InstanceKey, Recent, Sight},
};
use crate::{
    dial::Answer,
    engine::{CheckStatus, Endpoint, Index, Indexed, Reading},
    model::Moment,
};

/// How long the registry must go on saying that a service is gone before it is believed, unless configured.
pub const BELIEVE_AFTER: Duration = Duration::from_secs(60);
/// Instances deregistered one after the other within this time count as missing together.
pub const TOGETHER: Duration = Duration::from_secs(5);
/// Instances that turned critical one after the other within this time count as critical together: Consul finds the
/// death of many agents one by one.
pub const CRITICAL_TOGETHER: Duration = Duration::from_secs(60);

/// What a judgement needs to know beside the registry's answer.
pub struct Context<'a> {
    /// The time.
    pub now: Moment,
    /// How long a bounded doubt lasts.
    pub believe_after: Duration,
    /// True where doubtful instances are dialled: only then can anything wait for an answer.
    pub dials: bool,
    /// What the registry shows of other services.
    pub sight: Sight,
    /// True for an instance that a drain record shuts.
    pub drained: &'a dyn Fn(&Endpoint) -> bool,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("now", &self.now).field("sight", &self.sight).finish_non_exhaustive()
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The entry from now on.
    pub entry: Entry,
    /// What changed for which instances.
    pub fates: Vec<(InstanceKey, Fate)>,
}

/// Judges a reading of a service against what is known of it.
#[must_use]
pub fn judge(previous: &Entry, reading: Reading, context: &Context<'_>) -> Judgement {
    match reading {
        Reading::Unreachable(reason) => {
            let known = matches!(previous.standing, Standing::Unreachable { .. });
            let since = if known { previous.since } else { context.now };
            let entry = Entry { standing: Standing::Unreachable { reason }, since, ..previous.clone() };
            Judgement { entry, fates: Vec::new() }
        }
        Reading::Answered(answer) => Bench::new(previous, &answer, context).judge(),
    }
}

fn serves(endpoint: &Endpoint) -> bool {
    endpoint.status != CheckStatus::Critical && !endpoint.maintenance
}

fn place(endpoint: &Endpoint) -> (&str, u16) {
    (&endpoint.address, endpoint.port)
}

/// Whether an answer contradicts the one before: it lists a registration that is older than that and was not in it, or
/// an older form of one that was. After a snapshot was restored the next write may raise the index beyond what was seen,
/// so that the index alone looks well.
fn is_another_history(previous: &Entry, answer: &Indexed<Vec<Endpoint>>) -> bool {
    let known: HashMap<_, _> = previous
        .endpoints
        .iter()
        .chain(previous.doubts.iter().map(|it| &it.endpoint))
        .chain(previous.recent.iter().map(|it| &it.endpoint))
        .map(|it| (InstanceKey::of(it), it.modify_index))
        .collect();
    let contradicts = |it: &Endpoint| match known.get(&InstanceKey::of(it)) {
        Some(modified) => it.modify_index < *modified,
        None => it.modify_index <= previous.index,
    };
    previous.index > Index(0) && !known.is_empty() && answer.value.iter().any(contradicts)
}

/// One answer, laid beside what was known.
struct Bench<'a> {
    previous: &'a Entry,
    answer: &'a Indexed<Vec<Endpoint>>,
    context: &'a Context<'a>,
    /// What was known and not in doubt, by key.
    before: HashMap<InstanceKey, &'a Endpoint>,
    in_doubt: HashMap<InstanceKey, &'a Doubt>,
    listed: HashSet<InstanceKey>,
    /// Who else is registered at a place now, and was not known before.
    places: HashMap<(&'a str, u16), &'a Endpoint>,
    /// Node and id of registrations made since the last answer.
    made: HashSet<(&'a str, &'a str)>,
    all_critical: bool,
    went_back: bool,
    plain: Vec<Endpoint>,
    doubts: Vec<Doubt>,
    recent: Vec<Recent>,
    fates: Vec<(InstanceKey, Fate)>,
}

impl<'a> Bench<'a> {
    fn new(previous: &'a Entry, answer: &'a Indexed<Vec<Endpoint>>, context: &'a Context<'a>) -> Self {
        let in_doubt: HashMap<_, _> = previous.doubts.iter().map(|it| (it.key(), it)).collect();
        let known = previous.endpoints.iter().map(|it| (InstanceKey::of(it), it));
        let before: HashMap<_, _> = known.filter(|(key, _)| !in_doubt.contains_key(key)).collect();
        let mut judged = answer.value.iter().filter(|it| !it.maintenance).peekable();
        let new = || {
            let known = |it: &&Endpoint| {
                let key = InstanceKey::of(it);
                before.contains_key(&key) || in_doubt.contains_key(&key)
            };
            answer.value.iter().filter(move |it| !known(it))
        };
        let made = |it: &&Endpoint| it.modify_index > previous.index;
        // What a restored snapshot lists is older than what was known. It proves nothing against another at its place,
        // unless that place goes on being used by its name.
        let takes_over = |it: &&Endpoint| made(it) || serves(it);
        Self {
            went_back: answer.index < previous.index || is_another_history(previous, answer),
            listed: answer.value.iter().map(InstanceKey::of).collect(),
            places: new().filter(takes_over).map(|it| (place(it), it)).collect(),
            made: new().filter(made).map(|it| (it.node.as_str(), it.id.as_str())).collect(),
            all_critical: judged.peek().is_some() && judged.all(|it| it.status == CheckStatus::Critical),
            plain: Vec::new(),
            doubts: Vec::new(),
            recent: Vec::new(),
            fates: Vec::new(),
            before,
            in_doubt,
            previous,
            answer,
            context,
        }
    }

    fn grew(&self) -> bool {
        self.answer.index > self.previous.index && !self.went_back
    }

    /// The token reads: also an answer that is not empty shows it.
    fn sight(&self) -> Sight {
        if self.answer.value.is_empty() { self.context.sight } else { Sight::Sees }
    }

    fn judge(mut self) -> Judgement {
        self.recent = self.still_recent();
        for endpoint in &self.answer.value {
            self.take_listed(endpoint);
        }
        let newly = self.go_through_missing();
        self.decide_together(newly);
        self.let_the_dead_go();
        let entry =
            settle(self.previous, self.answer.index, self.plain, self.doubts, self.recent, self.context.now);
        Judgement { entry, fates: self.fates }
    }

    fn still_recent(&self) -> Vec<Recent> {
        let fits = |it: &&Recent| {
            let key = InstanceKey::of(&it.endpoint);
            let window = if self.listed.contains(&key) { CRITICAL_TOGETHER } else { TOGETHER };
            self.context.now.since(it.at) < window && !self.in_doubt.contains_key(&key)
        };
        self.previous.recent.iter().filter(fits).cloned().collect()
    }

    fn tell(&mut self, key: InstanceKey, fate: Fate) {
        self.fates.push((key, fate));
    }

    fn take_listed(&mut self, endpoint: &'a Endpoint) {
        let key = InstanceKey::of(endpoint);
        let doubt = self.in_doubt.get(&key).copied();
        let was_used = doubt.is_some_and(|it| it.held) || self.before.get(&key).is_some_and(|it| serves(it));
        if endpoint.maintenance {
            if was_used {
                self.tell(key, Fate::Maintenance);
            }
            self.plain.push(endpoint.clone());
        } else if endpoint.status == CheckStatus::Critical {
            self.take_critical(endpoint, key, doubt, was_used);
        } else {
            self.recent.retain(|it| InstanceKey::of(&it.endpoint) != key);
            self.take_serving(endpoint, key, doubt, was_used);
        }
    }

    fn take_serving(
        &mut self,
        endpoint: &'a Endpoint,
        key: InstanceKey,
        doubt: Option<&Doubt>,
        was_used: bool,
    ) {
        match doubt {
            // Registered again since the index went back: no longer a thing of the past.
            Some(it) if it.cause == Cause::Newcomer && endpoint.modify_index <= it.index => {
                self.doubts.push(Doubt { endpoint: endpoint.clone(), ..it.clone() });
            }
            // Also what was known to be down: that it passes is a thing of the past.
            _ if !was_used && self.is_of_the_past(endpoint) => {
                self.tell(key, Fate::Awaited);
                let newcomer = self.doubt(endpoint.clone(), Cause::Newcomer, false);
                let (failures, dialled) =
                    doubt.map(|it| (it.failures, it.dialled.clone())).unwrap_or_default();
                self.doubts.push(Doubt { failures, dialled, ..newcomer });
            }
            Some(_) => {
                self.tell(key, Fate::Cleared);
                self.plain.push(endpoint.clone());
            }
            None => self.plain.push(endpoint.clone()),
        }
    }

    /// Whether something in an answer that was not used has to answer first: the index went back, there are others to use
    /// meanwhile, and it is not at the place of one that is used.
    fn is_of_the_past(&self, endpoint: &Endpoint) -> bool {
        let mut used = self.previous.endpoints.iter().filter(|it| serves(it)).peekable();
        let registered_since =
            self.answer.index > self.previous.index && endpoint.modify_index > self.previous.index;
        self.went_back
            && !registered_since
            && self.context.dials
            && endpoint.port != 0
            && used.peek().is_some()
            && used.all(|it| place(it) != place(endpoint))
    }

    fn take_critical(
        &mut self,
        endpoint: &Endpoint,
        key: InstanceKey,
        doubt: Option<&Doubt>,
        was_used: bool,
    ) {
        let continued = doubt.filter(|it| it.cause == Cause::Critical);
        let turned = self.recent.iter().find(|it| InstanceKey::of(&it.endpoint) == key);
        let trusted = doubt
            .filter(|it| it.cause != Cause::Newcomer)
            .map(|it| it.endpoint.status)
            .or_else(|| self.before.get(&key).filter(|it| serves(it)).map(|it| it.status))
            .or_else(|| turned.map(|it| it.endpoint.status));
        // What turned critical as the index went back stays in doubt until the index moves on.
        let unconfirmed = continued.is_some_and(|it| self.answer.index <= it.index);
        let doubtful = self.all_critical || self.went_back || unconfirmed;
        let Some(status) = trusted.filter(|_| endpoint.port != 0) else {
            self.plain.push(endpoint.clone());
            return;
        };
        let as_trusted = Endpoint { status, ..endpoint.clone() };
        if !doubtful {
            if was_used {
                self.tell(key, Fate::Critical);
                self.recent.push(Recent { endpoint: as_trusted, at: self.context.now });
            }
            self.plain.push(endpoint.clone());
            return;
        }
        self.recent.retain(|it| InstanceKey::of(&it.endpoint) != key);
        match continued {
            Some(it) => self.doubts.push(Doubt { endpoint: as_trusted, ..it.clone() }),
            None => {
                self.tell(key, if was_used { Fate::Doubted } else { Fate::Awaited });
                self.doubts.push(self.doubt(as_trusted, Cause::Critical, was_used));
            }
        }
    }

    fn doubt(&self, endpoint: Endpoint, cause: Cause, held: bool) -> Doubt {
        let (since, index) = (self.context.now, self.answer.index);
        Doubt { endpoint, cause, since, index, held, failures: 0, dialled: String::new() }
    }

    /// Every known instance that the answer does not list: keeps what was in doubt already, drops what is proved
    /// gone, and returns the others.
    fn go_through_missing(&mut self) -> Vec<Endpoint> {
        let mut newly = Vec::new();
        for doubt in &self.previous.doubts {
            let key = doubt.key();
            if self.listed.contains(&key) || doubt.cause == Cause::Newcomer {
                continue;
            }
            if let Some(fate) = self.proof(&doubt.endpoint) {
                self.tell(key, fate);
            } else if doubt.cause == Cause::Critical {
                if doubt.held {
                    newly.push(doubt.endpoint.clone());
                }
            } else {
                self.go_on_doubting(doubt, key);
            }
        }
        for endpoint in &self.previous.endpoints {
            let key = InstanceKey::of(endpoint);
            if self.listed.contains(&key) || !self.before.contains_key(&key) {
                continue;
            }
            // What was not used loses nothing.
            if !serves(endpoint) || endpoint.port == 0 {
                continue;
            }
            match self.proof(endpoint) {
                Some(fate) => self.tell(key, fate),
                None => newly.push(endpoint.clone()),
            }
        }
        newly
    }

    /// What proves by itself that a missing instance is gone.
    fn proof(&self, endpoint: &Endpoint) -> Option<Fate> {
        if (self.context.drained)(endpoint) {
            return Some(Fate::Drained);
        }
        if let Some(other) = self.places.get(&place(endpoint)) {
            return Some(Fate::Reassigned(format!(
                "{} of {} (node {})",
                other.id, other.service, other.node
            )));
        }
        // The same id was registered elsewhere since. An older registration of it is one that a restored snapshot lists.
        let moved = self.grew() && self.made.contains(&(endpoint.node.as_str(), endpoint.id.as_str()));
        moved.then_some(Fate::Deregistered)
    }

    fn go_on_doubting(&mut self, doubt: &Doubt, key: InstanceKey) {
        let sight = self.sight();
        let cause = match (&doubt.cause, sight) {
            (Cause::Missing | Cause::Blind, _) if self.went_back => self.step_back(),
            (Cause::Missing, Sight::Blind) => Cause::Blind,
            (Cause::Blind, Sight::Sees) => Cause::Missing,
            (cause, _) => cause.clone(),
        };
        let ended = self.context.now.since(doubt.since) >= self.context.believe_after;
        if doubt.cause == Cause::Missing && cause == Cause::Missing && ended && sight == Sight::Sees {
            self.tell(key, Fate::Believed);
            return;
        }
        let mut doubt = doubt.clone();
        if cause != doubt.cause {
            self.tell(key, Fate::Recast);
            doubt.since = self.context.now;
            doubt.cause = cause;
        }
        self.doubts.push(doubt);
    }

    fn step_back(&self) -> Cause {
        Cause::StepBack { from: self.previous.index, to: self.answer.index }
    }

    /// Decides about those that this answer misses for the first time: all of them together, and with them those
    /// that went a moment ago.
    fn decide_together(&mut self, newly: Vec<Endpoint>) {
        if newly.is_empty() {
            return;
        }
        let cause = if self.went_back {
            self.step_back()
        } else if !self.grew() {
            Cause::NotGrown
        } else {
            let stays = |it: &&Endpoint| {
                serves(it) && self.before.get(&InstanceKey::of(it)).is_some_and(|it| serves(it))
            };
            // Those that were critical together with all others before are listed and in use, too. What turns critical
            // in this very answer is news itself, and says nothing for it.
            let was_critical =
                |it: &&Doubt| self.in_doubt.get(&it.key()).is_some_and(|it| it.cause == Cause::Critical);
            let critical = self.doubts.iter().filter(|it| it.cause == Cause::Critical && it.held);
            let critical = critical.filter(was_critical);
            let stay = self.plain.iter().filter(stays).count() + critical.count();
            let let_go =
                self.recent.iter().filter(|it| !self.listed.contains(&InstanceKey::of(&it.endpoint)));
            let missing = self.doubts.iter().filter(|it| !it.cause.is_listed());
            if stay >= newly.len() + let_go.count() + missing.count() {
                for endpoint in newly {
                    self.tell(InstanceKey::of(&endpoint), Fate::Deregistered);
                    self.recent.push(Recent { endpoint, at: self.context.now });
                }
                return;
            }
            if self.sight() == Sight::Blind { Cause::Blind } else { Cause::Missing }
        };
        for endpoint in newly {
            self.tell(InstanceKey::of(&endpoint), Fate::Doubted);
            self.doubts.push(self.doubt(endpoint, cause.clone(), true));
        }
        let (let_go, others) = std::mem::take(&mut self.recent)
            .into_iter()
            .partition::<Vec<_>, _>(|it| !self.listed.contains(&InstanceKey::of(&it.endpoint)));
        self.recent = others;
        for Recent { endpoint, .. } in let_go {
            // Without dials nothing would ever let it in or drop it.
            if self.context.dials && self.proof(&endpoint).is_none() {
                self.tell(InstanceKey::of(&endpoint), Fate::Awaited);
                self.doubts.push(self.doubt(endpoint, cause.clone(), false));
            }
        }
    }

    /// A registry whose index has grown since, and that lists others in use, works again. Those that it still misses and
    /// that do not answer are gone after the same time as any bounded doubt: nothing else would ever end theirs.
    fn let_the_dead_go(&mut self) {
        if self.went_back || !self.plain.iter().any(serves) {
            return;
        }
        let (now, index, long) = (self.context.now, self.answer.index, self.context.believe_after);
        let dead = |it: &Doubt| {
            let left_out = !it.cause.is_listed() && !it.held && it.failures > 0;
            left_out && index > it.index && now.since(it.since) >= long
        };
        let (gone, stay) = std::mem::take(&mut self.doubts).into_iter().partition::<Vec<_>, _>(dead);
        self.doubts = stay;
        for doubt in gone {
            self.tell(doubt.key(), Fate::Dead);
        }
    }
}

/// The entry of what is certain and what is in doubt.
fn settle(
    previous: &Entry,
    index: Index,
    plain: Vec<Endpoint>,
    mut doubts: Vec<Doubt>,
    recent: Vec<Recent>,
    now: Moment,
) -> Entry {
    doubts.sort_by_cached_key(Doubt::key);
    let mut endpoints = plain;
    for doubt in &doubts {
        match (&doubt.cause, doubt.held) {
            (_, true) => endpoints.push(doubt.endpoint.clone()),
            (Cause::Critical, false) => {
                endpoints.push(Endpoint { status: CheckStatus::Critical, ..doubt.endpoint.clone() });
            }
            (_, false) => {}
        }
    }
    endpoints.sort_by(|a, b| (&a.node, &a.id, place(a)).cmp(&(&b.node, &b.id, place(b))));
    let standing = standing(&endpoints, &doubts);
    let same = std::mem::discriminant(&standing) == std::mem::discriminant(&previous.standing);
    let since = if same { previous.since } else { now };
    Entry { index, endpoints, standing, since, doubts, recent }
}

fn standing(endpoints: &[Endpoint], doubts: &[Doubt]) -> Standing {
    // What is left out does no harm while others are in use. Without them it is the reason why nothing is left.
    let in_use = endpoints.iter().any(serves);
    let alarms = |it: &&Doubt| it.held || it.cause == Cause::Critical || !in_use;
    let doubts: Vec<_> = doubts.iter().filter(alarms).collect();
    let worst = doubts.iter().find(|it| it.cause.is_unreachable()).or_else(|| doubts.first());
    let Some(worst) = worst else {
        return if endpoints.is_empty() { Standing::Gone } else { Standing::Present };
    };
    let alike = doubts.iter().filter(|it| it.cause == worst.cause).count();
    let reason = format!("{alike} {}: {}", if alike == 1 { "instance" } else { "instances" }, worst.cause);
    if worst.cause.is_unreachable() {
        return Standing::Unreachable { reason };
    }
    let count = endpoints.len();
    Standing::Suspicious { reason, index: worst.index, count }
}

/// What one more dial of a doubtful instance means; `None` if it changes nothing, or the instance is not in doubt.
#[must_use]
pub fn dialled(
    previous: &Entry,
    key: &InstanceKey,
    answer: &Answer,
    fall: u32,
    now: Moment,
) -> Option<Judgement> {
    let at = previous.doubts.iter().position(|it| it.is_of(key))?;
    // The usual case, once a second for each: nothing is copied for it.
    if previous.doubts.get(at).is_some_and(|it| says_nothing_new(it, answer, fall)) {
        return None;
    }
    let mut doubts = previous.doubts.clone();
    let mut plain = certain(previous);
    let doubt = doubts.get_mut(at)?;
    let mut fate = None;
    match answer {
        Answer::Answered => {
            doubt.failures = 0;
            ANSWERS.clone_into(&mut doubt.dialled);
            if doubt.cause == Cause::Newcomer {
                plain.push(doubt.endpoint.clone());
                doubts.remove(at);
                fate = Some(Fate::TakenIn);
            } else if !doubt.held {
                doubt.held = true;
                fate = Some(Fate::TakenIn);
            }
        }
        Answer::Failed(reason) => {
            doubt.failures = doubt.failures.saturating_add(1).min(fall.max(1));
            doubt.dialled.clone_from(reason);
            let failed = doubt.failures >= fall.max(1);
            if failed && doubt.cause == Cause::Missing {
                doubts.remove(at);
                fate = Some(Fate::Dead);
            } else if failed && doubt.held {
                doubt.held = false;
                fate = Some(Fate::LeftOut);
            }
        }
        Answer::Unable(reason) => doubt.dialled = format!("could not be dialled: {reason}"),
    }
    let entry = resettle(previous, plain, doubts, now);
    (entry != *previous)
        .then(|| Judgement { entry, fates: fate.map(|it| (key.clone(), it)).into_iter().collect() })
}

const ANSWERS: &str = "it answers";

fn says_nothing_new(doubt: &Doubt, answer: &Answer, fall: u32) -> bool {
    match answer {
        Answer::Answered => {
            doubt.held && doubt.cause != Cause::Newcomer && doubt.failures == 0 && doubt.dialled == ANSWERS
        }
        Answer::Failed(reason) => !doubt.held && doubt.failures >= fall.max(1) && doubt.dialled == *reason,
        Answer::Unable(_) => false,
    }
}

/// A doubtful instance's place is registered for another, which is named. `None` if it is not in doubt.
#[must_use]
pub fn reassigned(previous: &Entry, key: &InstanceKey, to: &str, now: Moment) -> Option<Judgement> {
    previous.doubts.iter().find(|it| it.is_of(key) && !it.cause.is_listed())?;
    let doubts = previous.doubts.iter().filter(|it| !it.is_of(key)).cloned().collect();
    let entry = resettle(previous, certain(previous), doubts, now);
    Some(Judgement { entry, fates: vec![(key.clone(), Fate::Reassigned(to.to_owned()))] })
}

/// Drops doubtful instances that a drain record shuts. `None` if there are none.
#[must_use]
pub fn drained(previous: &Entry, shut: &dyn Fn(&Endpoint) -> bool, now: Moment) -> Option<Judgement> {
    let gone = |it: &Doubt| !it.cause.is_listed() && shut(&it.endpoint);
    let (out, doubts): (Vec<_>, Vec<_>) = previous.doubts.iter().cloned().partition(gone);
    let fates: Vec<_> = out.iter().map(|it| (it.key(), Fate::Drained)).collect();
    (!fates.is_empty())
        .then(|| Judgement { entry: resettle(previous, certain(previous), doubts, now), fates })
}

/// What is known and not in doubt.
fn certain(entry: &Entry) -> Vec<Endpoint> {
    let in_doubt: HashSet<_> = entry.doubts.iter().map(Doubt::key).collect();
    entry.endpoints.iter().filter(|it| !in_doubt.contains(&InstanceKey::of(it))).cloned().collect()
}

fn resettle(previous: &Entry, plain: Vec<Endpoint>, doubts: Vec<Doubt>, now: Moment) -> Entry {
    let settled = settle(previous, previous.index, plain, doubts, previous.recent.clone(), now);
    // While the registry cannot be asked, that is the reason people must see.
    let asked = !matches!(previous.standing, Standing::Unreachable { .. })
        || previous.doubts.iter().any(|it| it.cause.is_unreachable());
    if asked {
        settled
    } else {
        Entry { standing: previous.standing.clone(), since: previous.since, ..settled }
    }
}
