//! Tells the log of every answer that changed: which domain, for whom, from what to what, and why; and of hold-downs.
//!
//! One control does so, the one that publishes the verdicts, because every DNS node would say the same. It ranks every
//! domain for clients near each site, at most once a second and for at most a twentieth of one core's time. Domains that
//! change alike are logged together, so that the death of a data centre with a hundred thousand domains is a few lines.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use store::{
    board::Board,
    model::{DomainName, Moment, OverrideState},
    snapshot::{SiteId, Snapshot, SteeredDomain},
    steering::{self, Outcome, Tier},
    vital,
};

use tokio::time::Instant;

use super::Shared;

/// The shortest time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A look that takes long is followed by a pause of so many times as long.
const REST: u32 = 20;
/// So many domains are looked at aside, so that nothing waits for it.
const MANY: usize = 1_000;
/// Lines of one look; what is left is counted.
const MOST_LINES: usize = 20;
/// Domains that a line names; the others are counted.
const MOST_NAMES: usize = 5;

/// Looks until the lock is lost, and this future dropped.
pub(super) async fn tell(shared: Arc<Shared>) {
    let mut before: Option<Seen> = None;
    loop {
        let started = Instant::now();
        if let Some(snapshot) = shared.handle.snapshot() {
            let (board, now) = (Arc::clone(shared.handle.board()), shared.handle.now());
            let last = before.take();
            before = if snapshot.domains.len() < MANY {
                Some(look(&snapshot, &board, now, last.as_ref()))
            } else {
                // A defect here costs its line in the log, and the story begins anew.
                let looking =
                    tokio::task::spawn_blocking(move || look(&snapshot, &board, now, last.as_ref()));
                vital::attempt("the log's story of changed answers", looking.await)
            };
        }
        tokio::time::sleep(EVERY.max(started.elapsed().saturating_mul(REST))).await;
    }
}

/// Sees what is answered now, and tells what became different.
fn look(snapshot: &Snapshot, board: &Board, now: Moment, before: Option<&Seen>) -> Seen {
    let seen = Seen::at(snapshot, board, now);
    if let Some(before) = before {
        for line in Story::of(before, &seen).lines() {
            match line {
                Line::Answer { domains, clients, from, to, why } => {
                    tracing::info!(domains, clients, from, to, why, "answer changed");
                }
                Line::HoldDown { domains, site, begins: true } => {
                    tracing::info!(
                        domains,
                        site,
                        "hold-down begins: the site is up again and not yet let back"
                    );
                }
                Line::HoldDown { domains, site, begins: false } => {
                    tracing::info!(domains, site, "hold-down is over");
                }
                Line::More { kinds, domains } => {
                    tracing::info!(kinds, domains, "more changed at the same time");
                }
            }
        }
    }
    seen
}

/// A text that many domains share.
type Text = Arc<str>;

/// What all domains answer at a moment.
#[derive(Debug, Default)]
struct Seen {
    generation: String,
    domains: HashMap<DomainName, OneSeen>,
}

/// What one domain answers. Shared by all that are alike.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Alike {
    /// The answer for clients near a site; the last one is for all others.
    answers: Vec<(Text, Text)>,
    /// How usable each site is, and the order in force there.
    sites: Vec<(Text, Tier, Text)>,
}

type OneSeen = Arc<Alike>;

/// What a long run of domains shares.
#[derive(Default)]
struct Shelf {
    texts: BTreeSet<Text>,
    alike: HashMap<OneSeen, ()>,
}

impl Shelf {
    fn text(&mut self, text: &str) -> Text {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let new: Text = text.into();
        self.texts.insert(Arc::clone(&new));
        new
    }

    fn share(&mut self, seen: Alike) -> OneSeen {
        if let Some((known, ())) = self.alike.get_key_value(&seen) {
            return Arc::clone(known);
        }
        let new = Arc::new(seen);
        self.alike.insert(Arc::clone(&new), ());
        new
    }
}

impl Seen {
    fn at(snapshot: &Snapshot, board: &Board, now: Moment) -> Self {
        let mut shelf = Shelf::default();
        let homes = (0..).map(SiteId).zip(&snapshot.sites).filter(|(_, site)| !site.networks.is_empty());
        let homes: Vec<_> =
            homes.map(|(id, site)| (Some(id), site.name.as_str())).chain([(None, OTHERS)]).collect();
        let mut domains = HashMap::with_capacity(snapshot.domains.len());
        for (name, domain) in &snapshot.domains {
            let mut seen = Alike { answers: Vec::new(), sites: Vec::new() };
            for (home, called) in &homes {
                let ranking = steering::rank(domain, &snapshot.locality.at_home(*home), board, now);
                let answer = answer(snapshot, steering::outcome(domain, &ranking));
                seen.answers.push((shelf.text(called), shelf.text(&answer)));
                if home.is_none() {
                    for it in ranking.all() {
                        let order = order(domain, usize::from(it.at), now);
                        let site = shelf.text(site_name(snapshot, it.site));
                        seen.sites.push((site, it.tier, shelf.text(&order)));
                    }
                }
            }
            seen.sites.sort();
            domains.insert(name.clone(), shelf.share(seen));
        }
        Self { generation: snapshot.generation.to_string(), domains }
    }
}

const OTHERS: &str = "all others";

fn site_name(snapshot: &Snapshot, site: SiteId) -> &str {
    snapshot.sites.get(usize::from(site.0)).map_or("?", |it| it.name.as_str())
}

/// An answer in words: its sites, best first.
fn answer(snapshot: &Snapshot, outcome: Outcome<'_>) -> String {
    match outcome {
        Outcome::Sites(sites) => {
            sites.iter().map(|it| site_name(snapshot, it.site)).collect::<Vec<_>>().join(", ")
        }
        Outcome::Backup(_) => "the backup addresses".to_owned(),
        Outcome::Nodata => "nothing (NODATA)".to_owned(),
    }
}

/// The order in force for a domain at a site, in words.
fn order(domain: &SteeredDomain, at: usize, now: Moment) -> String {
    let Some(order) = domain.sites.get(at).and_then(|site| steering::override_in_force(site, now)) else {
        return String::new();
    };
    let state = match order.state {
        OverrideState::Up => "up",
        OverrideState::Down => "down",
        OverrideState::Drain => "drain",
        OverrideState::Release => "release",
    };
    format!(" (override {}: {state}, by {}: {})", order.name, order.owner, order.reason)
}

const fn said(tier: Tier) -> &'static str {
    match tier {
        Tier::Up => "up",
        Tier::Unknown => "unknown",
        Tier::HeldDown => "held down",
        Tier::Down => "down",
        Tier::Draining => "draining",
        Tier::ForcedDown => "forced down",
    }
}

/// What became different, by what is said of it; and the domains it is said of.
#[derive(Debug, Default)]
struct Story {
    answers: BTreeMap<[Text; 4], BTreeSet<DomainName>>,
    hold_downs: BTreeMap<(Text, bool), BTreeSet<DomainName>>,
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Answer { domains: String, clients: String, from: String, to: String, why: String },
    HoldDown { domains: String, site: String, begins: bool },
    More { kinds: usize, domains: usize },
}

impl Story {
    fn of(before: &Seen, after: &Seen) -> Self {
        let mut story = Self::default();
        let reconfigured = before.generation != after.generation;
        // Equal pairs of shared values are looked at once.
        let mut known: HashMap<(*const Alike, *const Alike), Vec<[Text; 4]>> = HashMap::new();
        for (name, now) in &after.domains {
            let Some(then) = before.domains.get(name).filter(|then| *then != now) else { continue };
            let pair = (Arc::as_ptr(then), Arc::as_ptr(now));
            let changes = known.entry(pair).or_insert_with(|| {
                let why = why(then, now, reconfigured.then_some(after.generation.as_str()));
                changes(then, now, &why)
            });
            for change in changes.iter() {
                story.answers.entry(change.clone()).or_default().insert(name.clone());
            }
            for (site, begins) in hold_downs(then, now) {
                story.hold_downs.entry((site, begins)).or_default().insert(name.clone());
            }
        }
        story
    }

    fn lines(self) -> Vec<Line> {
        let answers = self.answers.into_iter().map(|([clients, from, to, why], names)| {
            let [clients, from, to, why] = [clients, from, to, why].map(|it| it.to_string());
            (names.len(), Line::Answer { domains: list(&names), clients, from, to, why })
        });
        let hold_downs = self.hold_downs.into_iter().map(|((site, begins), names)| {
            (names.len(), Line::HoldDown { domains: list(&names), site: site.to_string(), begins })
        });
        let mut lines: Vec<_> = answers.chain(hold_downs).collect();
        let rest = lines.split_off(lines.len().min(MOST_LINES));
        let mut lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
        if !rest.is_empty() {
            let domains = rest.iter().map(|(names, _)| names).sum();
            lines.push(Line::More { kinds: rest.len(), domains });
        }
        lines
    }
}

/// The answers that differ: for whom, from what to what, why.
fn changes(then: &Alike, now: &Alike, why: &Text) -> Vec<[Text; 4]> {
    let mut turns: BTreeMap<(Text, Text), Vec<&str>> = BTreeMap::new();
    for (clients, to) in &now.answers {
        let from = then.answers.iter().find(|(name, _)| name == clients).map(|(_, from)| from);
        if let Some(from) = from.filter(|from| *from != to) {
            turns.entry((Arc::clone(from), Arc::clone(to))).or_default().push(clients);
        }
    }
    let turn = |((from, to), clients): ((Text, Text), Vec<&str>)| {
        let clients = if clients.len() == now.answers.len() {
            "everybody".to_owned()
        } else {
            clients
                .iter()
                .map(|it| if *it == OTHERS { OTHERS.to_owned() } else { format!("near {it}") })
                .collect::<Vec<_>>()
                .join(", ")
        };
        [clients.into(), from, to, Arc::clone(why)]
    };
    turns.into_iter().map(turn).collect()
}

/// Why an answer differs: the sites that are more or less usable than before, else the configuration.
fn why(then: &Alike, now: &Alike, generation: Option<&str>) -> Text {
    let mut reasons = Vec::new();
    for (site, tier, order) in &now.sites {
        let before = then.sites.iter().find(|(name, ..)| name == site);
        match before {
            Some((_, was, _)) if was != tier => {
                reasons.push(format!("{site} was {} and is {}{order}", said(*was), said(*tier)));
            }
            None => reasons.push(format!("{site} is new")),
            Some(_) => {}
        }
    }
    for (site, ..) in then.sites.iter().filter(|(was, ..)| now.sites.iter().all(|(is, ..)| is != was)) {
        reasons.push(format!("{site} is no site of it any more"));
    }
    if let Some(generation) = generation {
        reasons.push(format!("configuration {generation}"));
    }
    if reasons.is_empty() {
        reasons.push("the time of day, load, or the share of clients that has moved".to_owned());
    }
    reasons.join("; ").into()
}

/// The sites whose hold-down began (true) or ended (false).
fn hold_downs(then: &Alike, now: &Alike) -> Vec<(Text, bool)> {
    let held = |seen: &Alike| -> BTreeSet<Text> {
        let held = seen.sites.iter().filter(|(_, tier, _)| *tier == Tier::HeldDown);
        held.map(|(site, ..)| Arc::clone(site)).collect()
    };
    let (then, now) = (held(then), held(now));
    let began = now.difference(&then).map(|site| (Arc::clone(site), true));
    let ended = then.difference(&now).map(|site| (Arc::clone(site), false));
    began.chain(ended).collect()
}

fn list(names: &BTreeSet<DomainName>) -> String {
    let mut text = names.iter().take(MOST_NAMES).map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
    if names.len() > MOST_NAMES {
        text = format!("{text} and {} more", names.len() - MOST_NAMES);
    }
    text
}

#[cfg(test)]
mod tests;
