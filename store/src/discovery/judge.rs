//! What an answer of the registry, a dial, or a drain record means for each instance of a service.
//!
//! Pure functions of the previous entry, the new information, and the time. An instance in use is dropped only with
//! one of these proofs:
//!
//! - a drain record, or maintenance of the instance or its node;
//! - a deregistration, or a change to critical, at a growing index while others of the service stay in use;
//! - its address and port are registered for another;
//! - `fall` failed dials in a row while it is in doubt;
//! - the end of a bounded doubt: missing together with most others, at an index that grew.
//!
//! Without a proof it is in doubt ([`Doubt`]), and used as before while it answers.

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

/// How long a service must be missing in the registry before that is accepted, unless configured.
pub const BELIEVE_AFTER: Duration = Duration::from_secs(60);
/// Instances deregistered one after the other within this time count as missing together.
pub const TOGETHER: Duration = Duration::from_secs(5);
/// Instances that became critical one after the other within this time count as critical together: Consul detects the
/// failure of many agents one by one.
pub const CRITICAL_TOGETHER: Duration = Duration::from_secs(60);

/// What a judgement needs in addition to the registry's answer.
pub struct Context<'a> {
    /// The time.
    pub now: Moment,
    /// How long a bounded doubt lasts.
    pub believe_after: Duration,
    /// True where doubtful instances are dialled; only then can an instance wait for a successful dial.
    pub dials: bool,
    /// What the registry shows about other services.
    pub sight: Sight,
    /// True for an instance that a drain record excludes.
    pub drained: &'a dyn Fn(&Endpoint) -> bool,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("now", &self.now).field("sight", &self.sight).finish_non_exhaustive()
    }
}

/// The result of a judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The new entry.
    pub entry: Entry,
    /// What changed, by instance.
    pub fates: Vec<(InstanceKey, Fate)>,
}

/// Judges a reading of a service against the previous entry.
#[must_use]
pub fn judge(previous: &Entry, reading: Reading, context: &Context<'_>) -> Judgement {
    match reading {
        Reading::Unreachable(reason) => {
            let known = matches!(previous.standing, Standing::Unreachable { .. });
            let since = if known { previous.since } else { context.now };
            let entry = Entry { standing: Standing::Unreachable { reason }, since, ..previous.clone() };
            Judgement { entry, fates: Vec::new() }
        }
        Reading::Answered(answer) => Comparison::new(previous, &answer, context).judge(),
    }
}

pub(super) fn serves(endpoint: &Endpoint) -> bool {
    endpoint.status != CheckStatus::Critical && !endpoint.maintenance
}

fn address_of(endpoint: &Endpoint) -> (&str, u16) {
    (&endpoint.address, endpoint.port)
}

/// Whether an answer contradicts the one before: it lists a registration that is older than that answer and was not
/// in it, or an older form of one that was. After a snapshot was restored, the next write may raise the index beyond
/// the last one seen, so the index alone does not show it.
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

/// One answer, compared with the previous entry.
struct Comparison<'a> {
    previous: &'a Entry,
    answer: &'a Indexed<Vec<Endpoint>>,
    context: &'a Context<'a>,
    /// The known instances that were not in doubt, by key.
    before: HashMap<InstanceKey, &'a Endpoint>,
    in_doubt: HashMap<InstanceKey, &'a Doubt>,
    listed: HashSet<InstanceKey>,
    /// New registrations by address and port.
    new_at: HashMap<(&'a str, u16), &'a Endpoint>,
    /// Node and id of the registrations made since the last answer.
    made: HashSet<(&'a str, &'a str)>,
    all_critical: bool,
    went_back: bool,
    plain: Vec<Endpoint>,
    doubts: Vec<Doubt>,
    recent: Vec<Recent>,
    fates: Vec<(InstanceKey, Fate)>,
}

impl<'a> Comparison<'a> {
    fn new(previous: &'a Entry, answer: &'a Indexed<Vec<Endpoint>>, context: &'a Context<'a>) -> Self {
        let in_doubt: HashMap<_, _> = previous.doubts.iter().map(|it| (it.key(), it)).collect();
        let known = previous.endpoints.iter().map(|it| (InstanceKey::of(it), it));
        let before: HashMap<_, _> = known.filter(|(key, _)| !in_doubt.contains_key(key)).collect();
        let mut judged = answer.value.iter().filter(|it| !it.maintenance).peekable();
        let new = || {
            let known = |endpoint: &&Endpoint| {
                let key = InstanceKey::of(endpoint);
                before.contains_key(&key) || in_doubt.contains_key(&key)
            };
            answer.value.iter().filter(move |it| !known(it))
        };
        let made = |it: &&Endpoint| it.modify_index > previous.index;
        // A registration from a restored snapshot is older than the known ones. It proves nothing against another one
        // at its address, unless it serves there.
        let takes_over = |it: &&Endpoint| made(it) || serves(it);
        Self {
            went_back: answer.index < previous.index || is_another_history(previous, answer),
            listed: answer.value.iter().map(InstanceKey::of).collect(),
            new_at: new().filter(takes_over).map(|it| (address_of(it), it)).collect(),
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

    /// Whether the token can read. An answer that is not empty shows that as well.
    fn sight(&self) -> Sight {
        if self.answer.value.is_empty() { self.context.sight } else { Sight::Sees }
    }

    fn judge(mut self) -> Judgement {
        self.recent = self.still_recent();
        for endpoint in &self.answer.value {
            self.take_listed(endpoint);
        }
        let newly = self.judge_missing();
        self.decide_together(newly);
        self.drop_the_dead();
        let entry =
            settle(self.previous, self.answer.index, self.plain, self.doubts, self.recent, self.context.now);
        Judgement { entry, fates: self.fates }
    }

    fn still_recent(&self) -> Vec<Recent> {
        let fits = |recent: &&Recent| {
            let key = InstanceKey::of(&recent.endpoint);
            let window = if self.listed.contains(&key) { CRITICAL_TOGETHER } else { TOGETHER };
            self.context.now.since(recent.at) < window && !self.in_doubt.contains_key(&key)
        };
        self.previous.recent.iter().filter(fits).cloned().collect()
    }

    fn note(&mut self, key: InstanceKey, fate: Fate) {
        self.fates.push((key, fate));
    }

    fn take_listed(&mut self, endpoint: &'a Endpoint) {
        let key = InstanceKey::of(endpoint);
        let doubt = self.in_doubt.get(&key).copied();
        let was_used = doubt.is_some_and(|it| it.held) || self.before.get(&key).is_some_and(|it| serves(it));
        if endpoint.maintenance {
            if was_used {
                self.note(key, Fate::Maintenance);
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
            // Not registered again since the index went back, so it still has to answer first.
            Some(doubt) if doubt.cause == Cause::Newcomer && endpoint.modify_index <= doubt.index => {
                self.doubts.push(Doubt { endpoint: endpoint.clone(), ..doubt.clone() });
            }
            // This includes known instances that were critical: that they pass may be old data.
            _ if !was_used && self.must_answer_first(endpoint) => {
                self.note(key, Fate::Awaited);
                let newcomer = self.doubt(endpoint.clone(), Cause::Newcomer, false);
                let (failures, dialled) =
                    doubt.map(|it| (it.failures, it.dialled.clone())).unwrap_or_default();
                self.doubts.push(Doubt { failures, dialled, ..newcomer });
            }
            Some(_) => {
                self.note(key, Fate::Cleared);
                self.plain.push(endpoint.clone());
            }
            None => self.plain.push(endpoint.clone()),
        }
    }

    /// Whether an instance that was not used has to answer a dial first: the index went back, other instances are in
    /// use meanwhile, and none of them has the same address.
    fn must_answer_first(&self, endpoint: &Endpoint) -> bool {
        let mut used = self.previous.endpoints.iter().filter(|it| serves(it)).peekable();
        let registered_since =
            self.answer.index > self.previous.index && endpoint.modify_index > self.previous.index;
        self.went_back
            && !registered_since
            && self.context.dials
            && endpoint.port != 0
            && used.peek().is_some()
            && used.all(|it| address_of(it) != address_of(endpoint))
    }

    fn take_critical(
        &mut self,
        endpoint: &Endpoint,
        key: InstanceKey,
        doubt: Option<&Doubt>,
        was_used: bool,
    ) {
        let continued = doubt.filter(|it| it.cause == Cause::Critical);
        let changed = self.recent.iter().find(|it| InstanceKey::of(&it.endpoint) == key);
        let trusted = doubt
            .filter(|it| it.cause != Cause::Newcomer)
            .map(|it| it.endpoint.status)
            .or_else(|| self.before.get(&key).filter(|it| serves(it)).map(|it| it.status))
            .or_else(|| changed.map(|it| it.endpoint.status));
        // An instance that became critical when the index went back stays in doubt until the index grows.
        let unconfirmed = continued.is_some_and(|it| self.answer.index <= it.index);
        let doubtful = self.all_critical || self.went_back || unconfirmed;
        let Some(status) = trusted.filter(|_| endpoint.port != 0) else {
            self.plain.push(endpoint.clone());
            return;
        };
        let as_trusted = Endpoint { status, ..endpoint.clone() };
        if !doubtful {
            if was_used {
                self.note(key, Fate::Critical);
                self.recent.push(Recent { endpoint: as_trusted, at: self.context.now });
            }
            self.plain.push(endpoint.clone());
            return;
        }
        self.recent.retain(|it| InstanceKey::of(&it.endpoint) != key);
        match continued {
            Some(doubt) => self.doubts.push(Doubt { endpoint: as_trusted, ..doubt.clone() }),
            None => {
                self.note(key, if was_used { Fate::Doubted } else { Fate::Awaited });
                self.doubts.push(self.doubt(as_trusted, Cause::Critical, was_used));
            }
        }
    }

    fn doubt(&self, endpoint: Endpoint, cause: Cause, held: bool) -> Doubt {
        let (since, index) = (self.context.now, self.answer.index);
        Doubt { endpoint, cause, since, index, held, failures: 0, dialled: String::new() }
    }

    /// Judges every known instance that the answer does not list: keeps those in doubt, drops those with a proof, and
    /// returns the others.
    fn judge_missing(&mut self) -> Vec<Endpoint> {
        let mut newly = Vec::new();
        for doubt in &self.previous.doubts {
            let key = doubt.key();
            if self.listed.contains(&key) || doubt.cause == Cause::Newcomer {
                continue;
            }
            if let Some(fate) = self.proof(&doubt.endpoint) {
                self.note(key, fate);
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
            // An instance that was not used needs no proof.
            if !serves(endpoint) || endpoint.port == 0 {
                continue;
            }
            match self.proof(endpoint) {
                Some(fate) => self.note(key, fate),
                None => newly.push(endpoint.clone()),
            }
        }
        newly
    }

    /// A proof for a missing instance that needs no comparison with others.
    fn proof(&self, endpoint: &Endpoint) -> Option<Fate> {
        if (self.context.drained)(endpoint) {
            return Some(Fate::Drained);
        }
        if let Some(other) = self.new_at.get(&address_of(endpoint)) {
            return Some(Fate::Reassigned(format!(
                "{} of {} (node {})",
                other.id, other.service, other.node
            )));
        }
        // The same id was registered at another address since. An older registration would come from a restored
        // snapshot.
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
            self.note(key, Fate::Believed);
            return;
        }
        let mut doubt = doubt.clone();
        if cause != doubt.cause {
            self.note(key, Fate::Recast);
            doubt.since = self.context.now;
            doubt.cause = cause;
        }
        self.doubts.push(doubt);
    }

    fn step_back(&self) -> Cause {
        Cause::StepBack { from: self.previous.index, to: self.answer.index }
    }

    /// Decides about the instances that are missing for the first time, all of them together, and with them those
    /// that were dropped recently.
    fn decide_together(&mut self, newly: Vec<Endpoint>) {
        if newly.is_empty() {
            return;
        }
        let cause = if self.went_back {
            self.step_back()
        } else if !self.grew() {
            Cause::NotGrown
        } else {
            let stays = |endpoint: &&Endpoint| {
                serves(endpoint) && self.before.get(&InstanceKey::of(endpoint)).is_some_and(|it| serves(it))
            };
            // Instances that were critical together with all others before are listed and in use, too. Those that
            // become critical in this answer are themselves part of the change and do not count.
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
                    self.note(InstanceKey::of(&endpoint), Fate::Deregistered);
                    self.recent.push(Recent { endpoint, at: self.context.now });
                }
                return;
            }
            if self.sight() == Sight::Blind { Cause::Blind } else { Cause::Missing }
        };
        for endpoint in newly {
            self.note(InstanceKey::of(&endpoint), Fate::Doubted);
            self.doubts.push(self.doubt(endpoint, cause.clone(), true));
        }
        let (let_go, others) = std::mem::take(&mut self.recent)
            .into_iter()
            .partition::<Vec<_>, _>(|it| !self.listed.contains(&InstanceKey::of(&it.endpoint)));
        self.recent = others;
        for Recent { endpoint, .. } in let_go {
            // Without dials nothing would ever readmit or drop it.
            if self.context.dials && self.proof(&endpoint).is_none() {
                self.note(InstanceKey::of(&endpoint), Fate::Awaited);
                self.doubts.push(self.doubt(endpoint, cause.clone(), false));
            }
        }
    }

    /// A registry whose index has grown since, and that lists other instances in use, works again. Instances that are
    /// still missing and do not answer are dropped after the same time as a bounded doubt; nothing else would end
    /// their doubt.
    fn drop_the_dead(&mut self) {
        if self.went_back || !self.plain.iter().any(serves) {
            return;
        }
        let (now, index, long) = (self.context.now, self.answer.index, self.context.believe_after);
        let dead = |doubt: &Doubt| {
            let left_out = !doubt.cause.is_listed() && !doubt.held && doubt.failures > 0;
            left_out && index > doubt.index && now.since(doubt.since) >= long
        };
        let (gone, stay) = std::mem::take(&mut self.doubts).into_iter().partition::<Vec<_>, _>(dead);
        self.doubts = stay;
        for doubt in gone {
            self.note(doubt.key(), Fate::Dead);
        }
    }
}

/// The entry with the certain instances and those in doubt.
pub(super) fn settle(
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
    endpoints.sort_by(|a, b| (&a.node, &a.id, address_of(a)).cmp(&(&b.node, &b.id, address_of(b))));
    let standing = standing(&endpoints, &doubts);
    let same = std::mem::discriminant(&standing) == std::mem::discriminant(&previous.standing);
    let since = if same { previous.since } else { now };
    Entry { index, endpoints, standing, since, doubts, recent, away: previous.away.clone() }
}

fn standing(endpoints: &[Endpoint], doubts: &[Doubt]) -> Standing {
    // Instances that are left out do not matter while others are in use. Otherwise they are the reason that none is
    // left.
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

/// Judges the result of dialling an instance in doubt; `None` if nothing changes, or the instance is not in doubt.
#[must_use]
pub fn dialled(
    previous: &Entry,
    key: &InstanceKey,
    answer: &Answer,
    fall: u32,
    now: Moment,
) -> Option<Judgement> {
    let at = previous.doubts.iter().position(|it| it.is_of(key))?;
    // The usual case, once a second for each instance, copies nothing.
    if previous.doubts.get(at).is_some_and(|it| changes_nothing(it, answer, fall)) {
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

fn changes_nothing(doubt: &Doubt, answer: &Answer, fall: u32) -> bool {
    match answer {
        Answer::Answered => {
            doubt.held && doubt.cause != Cause::Newcomer && doubt.failures == 0 && doubt.dialled == ANSWERS
        }
        Answer::Failed(reason) => !doubt.held && doubt.failures >= fall.max(1) && doubt.dialled == *reason,
        Answer::Unable(_) => false,
    }
}

/// Drops an instance in doubt whose address is registered for another, which is named. `None` if it is not in doubt.
#[must_use]
pub fn reassigned(previous: &Entry, key: &InstanceKey, to: &str, now: Moment) -> Option<Judgement> {
    previous.doubts.iter().find(|it| it.is_of(key) && !it.cause.is_listed())?;
    let doubts = previous.doubts.iter().filter(|it| !it.is_of(key)).cloned().collect();
    let entry = resettle(previous, certain(previous), doubts, now);
    Some(Judgement { entry, fates: vec![(key.clone(), Fate::Reassigned(to.to_owned()))] })
}

/// Drops the instances in doubt that a drain record excludes. `None` if there are none.
#[must_use]
pub fn drained(previous: &Entry, excluded: &dyn Fn(&Endpoint) -> bool, now: Moment) -> Option<Judgement> {
    let gone = |it: &Doubt| !it.cause.is_listed() && excluded(&it.endpoint);
    let (out, doubts): (Vec<_>, Vec<_>) = previous.doubts.iter().cloned().partition(gone);
    let fates: Vec<_> = out.iter().map(|it| (it.key(), Fate::Drained)).collect();
    (!fates.is_empty())
        .then(|| Judgement { entry: resettle(previous, certain(previous), doubts, now), fates })
}

/// The known instances that are not in doubt.
fn certain(entry: &Entry) -> Vec<Endpoint> {
    let in_doubt: HashSet<_> = entry.doubts.iter().map(Doubt::key).collect();
    entry.endpoints.iter().filter(|it| !in_doubt.contains(&InstanceKey::of(it))).cloned().collect()
}

fn resettle(previous: &Entry, plain: Vec<Endpoint>, doubts: Vec<Doubt>, now: Moment) -> Entry {
    let settled = settle(previous, previous.index, plain, doubts, previous.recent.clone(), now);
    // While the registry is unreachable, that is the reason to show.
    let applies = !matches!(previous.standing, Standing::Unreachable { .. })
        || previous.doubts.iter().any(|it| it.cause.is_unreachable());
    if applies {
        settled
    } else {
        Entry { standing: previous.standing.clone(), since: previous.since, ..settled }
    }
}
