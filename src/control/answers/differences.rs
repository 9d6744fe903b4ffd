//! The differences between two comparisons, as lines for the log. Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use store::{
    health::State,
    model::{DomainName, Family},
    steering::Tier,
};

use super::current::{Answer, Answers, AtSite, DomainAnswers, NOTHING, OTHERS, SharedAnswers, Text};

/// Lines of one comparison; the rest is counted.
pub(super) const MAX_LINES: usize = 20;
/// Domains that a line names; the others are counted.
const MAX_NAMES: usize = 5;

/// The differences, each with the domains that have it.
#[derive(Debug, Default)]
pub(super) struct Differences {
    answers: BTreeMap<Change, BTreeSet<DomainName>>,
    hold_downs: BTreeMap<(Text, HoldDown), BTreeSet<DomainName>>,
}

/// An answer that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Change {
    clients: Text,
    family: Family,
    from: Answer,
    to: Answer,
    why: Text,
}

/// What became of a hold-down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HoldDown {
    /// The site is up again and waits.
    Begins,
    /// The site is let back, by itself or by an override.
    LetBack(Text),
    /// It is over for another reason, this one.
    Ends(Text),
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Answer { domains: String, clients: String, family: Family, from: String, to: String, why: String },
    HoldDown { domains: String, site: String, what: HoldDown },
    More { kinds: usize, domains: usize },
}

impl Differences {
    pub(super) fn of(before: &Answers, after: &Answers) -> Self {
        let mut found = Self::default();
        let generation = (before.generation != after.generation).then_some(after.generation.as_str());
        // Equal pairs of shared values are compared once.
        let mut known: HashMap<[Option<*const DomainAnswers>; 2], Vec<Change>> = HashMap::new();
        let gone = before.domains.iter().filter(|(name, _)| !after.domains.contains_key(*name));
        let gone = gone.map(|(name, then)| (name, Some(then), None));
        let there = after.domains.iter().map(|(name, now)| (name, before.domains.get(name), Some(now)));
        for (name, then, now) in gone.chain(there) {
            if then == now {
                continue;
            }
            let pair = [then, now].map(|it| it.map(std::sync::Arc::as_ptr));
            let changes = known.entry(pair).or_insert_with(|| changes(then, now, generation));
            for change in changes.iter() {
                found.answers.entry(change.clone()).or_default().insert(name.clone());
            }
            for change in then.zip(now).map_or_else(Vec::new, |(then, now)| hold_downs(then, now)) {
                found.hold_downs.entry(change).or_default().insert(name.clone());
            }
        }
        found
    }

    /// The lines, those about most domains first.
    pub(super) fn lines(self) -> Vec<Line> {
        let Self { mut answers, hold_downs } = self;
        if answers.len() + hold_downs.len() > MAX_LINES {
            answers = without_addresses(answers);
        }
        let answers = answers.into_iter().map(|(Change { clients, family, from, to, why }, names)| {
            let [clients, from, to, why] = [clients, from.full, to.full, why].map(|it| it.to_string());
            (names.len(), Line::Answer { domains: list(&names), clients, family, from, to, why })
        });
        let hold_downs = hold_downs.into_iter().map(|((site, what), names)| {
            (names.len(), Line::HoldDown { domains: list(&names), site: site.to_string(), what })
        });
        let mut lines: Vec<_> = answers.chain(hold_downs).collect();
        lines.sort_by_key(|(names, _)| Reverse(*names));
        let rest = lines.split_off(lines.len().min(MAX_LINES));
        let mut lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
        if !rest.is_empty() {
            let domains = rest.iter().map(|(names, _)| names).sum();
            lines.push(Line::More { kinds: rest.len(), domains });
        }
        lines
    }
}

/// Domains of many clusters that leave a site have different addresses. They are logged together by the names of the
/// sites, where those differ.
fn without_addresses(
    answers: BTreeMap<Change, BTreeSet<DomainName>>,
) -> BTreeMap<Change, BTreeSet<DomainName>> {
    let mut brief: BTreeMap<Change, BTreeSet<DomainName>> = BTreeMap::new();
    for (mut change, names) in answers {
        if change.from.brief != change.to.brief {
            change.from.full = Text::clone(&change.from.brief);
            change.to.full = Text::clone(&change.to.brief);
        }
        brief.entry(change).or_default().extend(names);
    }
    brief
}

/// The answers that differ: for whom, of which family, from what to what, why. `None`: there is no such domain.
fn changes(
    then: Option<&SharedAnswers>,
    now: Option<&SharedAnswers>,
    generation: Option<&str>,
) -> Vec<Change> {
    let absent = Answer { full: "no such domain".into(), brief: "no such domain".into() };
    let why = why(then.map_or(&[], |it| &it.sites), now.map_or(&[], |it| &it.sites), generation);
    let mut clients: Vec<&str> = Vec::new();
    for (who, ..) in now.into_iter().chain(then).flat_map(|it| &it.answers) {
        if !clients.contains(&&**who) {
            clients.push(who);
        }
    }
    let mut differences: BTreeMap<(Family, &Answer, &Answer), Vec<&str>> = BTreeMap::new();
    for family in Family::BOTH {
        for who in &clients {
            let from = then.and_then(|it| it.answer(who, family)).unwrap_or(&absent);
            let to = now.and_then(|it| it.answer(who, family)).unwrap_or(&absent);
            // A domain that is added or removed has no difference in a family that it does not have.
            let absent_family =
                (then.is_none() && &*to.full == NOTHING) || (now.is_none() && &*from.full == NOTHING);
            if from != to && !absent_family {
                differences.entry((family, from, to)).or_default().push(who);
            }
        }
    }
    let change = |((family, from, to), whose): ((Family, &Answer, &Answer), Vec<&str>)| {
        let clients = if whose.len() == clients.len() { "all clients".to_owned() } else { near(&whose) };
        Change { clients: clients.into(), family, from: from.clone(), to: to.clone(), why: Text::clone(&why) }
    };
    differences.into_iter().map(change).collect()
}

fn near(clients: &[&str]) -> String {
    let one = |it: &&str| if *it == OTHERS { OTHERS.to_owned() } else { format!("near {it}") };
    clients.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Why an answer differs: the sites that are more or less usable than before, of the others the addresses that are, and
/// the configuration.
fn why(then: &[AtSite], now: &[AtSite], generation: Option<&str>) -> Text {
    let mut reasons = Vec::new();
    // Of a domain that was added or removed, single sites are not named.
    let both = !then.is_empty() && !now.is_empty();
    for current in now.iter().filter(|_| both) {
        let site = &current.site;
        match then.iter().find(|was| was.site == *site) {
            Some(was) if was.tier != current.tier => {
                let (was, is, order) = (usability(was.tier), usability(current.tier), &current.order);
                reasons.push(format!("{site} was {was} and is {is}{order}"));
            }
            Some(was) => addresses(was, current, &mut reasons),
            None => reasons.push(format!("{site} is new")),
        }
    }
    for was in then.iter().filter(|was| both && now.iter().all(|it| it.site != was.site)) {
        reasons.push(format!("{} is no longer one of its sites", was.site));
    }
    if let Some(generation) = generation {
        reasons.push(format!("configuration {generation}"));
    }
    if reasons.is_empty() {
        reasons.push("the time of day, load, or the share of clients that has moved".to_owned());
    }
    reasons.join("; ").into()
}

/// What is different about the addresses of a site.
fn addresses(was: &AtSite, current: &AtSite, reasons: &mut Vec<String>) {
    let (site, or_unknown) = (&current.site, |state: Option<State>| state.unwrap_or_default());
    for (address, state) in &current.addresses {
        match was.addresses.iter().find(|(known, _)| known == address) {
            Some((_, before)) if before != state => {
                let (before, state) = (or_unknown(*before), or_unknown(*state));
                reasons.push(format!("{address} of {site} was {before} and is {state}"));
            }
            Some(_) => {}
            None => reasons.push(format!("{address} of {site} is new")),
        }
    }
    for (address, _) in &was.addresses {
        if current.addresses.iter().all(|(known, _)| known != address) {
            reasons.push(format!("{address} is no longer an address of {site}"));
        }
    }
}

const fn usability(tier: Tier) -> &'static str {
    match tier {
        Tier::Up => "up",
        Tier::Unknown => "unknown",
        Tier::HeldDown => "held down",
        Tier::Down => "down",
        Tier::Draining => "draining",
        Tier::ForcedDown => "forced down",
    }
}

/// The sites whose hold-down began or ended.
fn hold_downs(then: &DomainAnswers, now: &DomainAnswers) -> Vec<(Text, HoldDown)> {
    let held = |seen: &DomainAnswers, site: &Text| {
        seen.sites.iter().any(|it| it.site == *site && it.tier == Tier::HeldDown)
    };
    let begin = now.sites.iter().filter(|it| it.tier == Tier::HeldDown && !held(then, &it.site));
    let mut changes: Vec<_> = begin.map(|it| (Text::clone(&it.site), HoldDown::Begins)).collect();
    for was in then.sites.iter().filter(|it| it.tier == Tier::HeldDown && !held(now, &it.site)) {
        let end = end(now.sites.iter().find(|it| it.site == was.site));
        changes.push((Text::clone(&was.site), end));
    }
    changes
}

/// How the hold-down of a site ended; `None`: the domain does not have the site any more.
fn end(site: Option<&AtSite>) -> HoldDown {
    let Some(AtSite { tier, order, .. }) = site else {
        return HoldDown::Ends("the domain no longer has the site".into());
    };
    match tier {
        Tier::Up => HoldDown::LetBack(format!("let back{order}").into()),
        Tier::Down => HoldDown::Ends("it is down again".into()),
        Tier::Unknown => HoldDown::Ends("it is no longer known whether it is up".into()),
        Tier::HeldDown | Tier::Draining | Tier::ForcedDown => {
            HoldDown::Ends(format!("it is {}{order}", usability(*tier)).into())
        }
    }
}

fn list(names: &BTreeSet<DomainName>) -> String {
    let mut text = names.iter().take(MAX_NAMES).map(|it| it.as_str()).collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMES {
        text = format!("{text} and {} more", names.len() - MAX_NAMES);
    }
    text
}
