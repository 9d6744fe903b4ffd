//! What this site tells the control of another one of drains.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use store::{
    drain::{
        DrainId, Drains, Phase,
        across::{DrainHead, Told, ToldCopy, ToldGateway, qualified},
    },
    engine::Index,
    model::{Name, Reach, sha256_hex},
};
use tokio::time::Instant;

use super::MAX_RECORDS;
use crate::{
    api::{DrainsAnswer, DrainsQuery, Progress, exchange::Version},
    control::{ControlHandle, Refusal, Refused, drains::hook::shown},
};

/// The longest that an answer without news waits.
const WAIT: Duration = Duration::from_secs(1);
/// While our own engine cannot be read for longer than this, we cannot say what our gateways do.
const MAX_UNREADABLE: Duration = Duration::from_secs(5);

/// What the state of an answer is made of: all but what changes with time alone.
#[derive(Serialize)]
struct State<'a> {
    heads: &'a [DrainHead],
    awaited: BTreeMap<&'a DrainId, (Vec<&'a String>, usize)>,
    yours: Told,
}

impl ControlHandle {
    /// What is new of the drains that concern a site. Waits for up to a second for news.
    ///
    /// # Errors
    /// Wrong: too many records are wanted. Unavailable: the engine cannot be read.
    pub async fn drains_for(&self, site: &Name, query: DrainsQuery) -> Result<DrainsAnswer, Refused> {
        if !query.wanted.is_empty() {
            return self.records_for(&query.wanted);
        }
        let until = Instant::now() + WAIT;
        let (mut drains, mut evidence) = (self.shared.handle.drains(), self.shared.evidence.subscribe());
        loop {
            drains.borrow_and_update();
            evidence.borrow_and_update();
            let answer = self.drains_now(site)?;
            if query.last.as_ref() != Some(&answer.state) {
                return Ok(answer);
            }
            let changed = async {
                tokio::select! {
                    // In a fixed order, so that a simulation can repeat itself.
                    biased;
                    it = drains.changed() => it,
                    it = evidence.changed() => it,
                }
            };
            // An error means that the time is over, or that the node ends.
            if !matches!(tokio::time::timeout_at(until, changed).await, Ok(Ok(()))) {
                return Ok(DrainsAnswer { heads: None, ..answer });
            }
        }
    }

    fn drains_now(&self, site: &Name) -> Result<DrainsAnswer, Refused> {
        self.is_readable()?;
        let drains = Arc::clone(&self.shared.handle.drains().borrow());
        if drains.index == Index(0) {
            return Err(Refused::new(Refusal::Unavailable, "the drains were not read yet"));
        }
        let now = self.shared.handle.now();
        let led = drains.records.values().filter(|(_, drain)| drain.is_led_here());
        let heads: Vec<DrainHead> =
            led.clone().map(|(index, drain)| DrainHead::of(drain, *index, now)).collect();
        let progress: BTreeMap<DrainId, Progress> = led
            .filter(|(_, drain)| !drain.is_over())
            .map(|(_, drain)| (drain.id.clone(), self.progress(&drain.id)))
            .collect();
        let yours = self.told_of(site, &drains);
        let mut timeless = yours.clone();
        timeless.gateways.values_mut().for_each(|it| it.silent_ms = 0);
        let awaited = progress.iter().map(|(id, it)| (id, (it.awaited.iter().collect(), it.receipts.len())));
        let state = State { heads: &heads, awaited: awaited.collect(), yours: timeless };
        let state = sha256_hex(serde_json::to_vec(&state).unwrap_or_default());
        let yours = Some(yours);
        Ok(DrainsAnswer { v: Version, state, heads: Some(heads), progress, yours, records: Vec::new() })
    }

    /// A site whose engine does not answer its control is dark to its gateways' drains too.
    fn is_readable(&self) -> Result<(), Refused> {
        let nodes = self.shared.nodes.borrow();
        match nodes.failure().filter(|(_, since)| since.elapsed() >= MAX_UNREADABLE) {
            Some((error, _)) => {
                let text = format!("the engine of this site cannot be read: {error}");
                Err(Refused::new(Refusal::Unavailable, text))
            }
            None => Ok(()),
        }
    }

    /// How far a drain of ours is, for people at other sites.
    fn progress(&self, id: &DrainId) -> Progress {
        let own = &self.shared.config.site;
        let named = |it: &str| if it.contains('/') { it.to_owned() } else { qualified(own, it) };
        let Some(view) = self.drain_orders.seen(id) else { return Progress::default() };
        let evidence = Arc::clone(&self.shared.evidence.borrow());
        let is_site = |it: &String| evidence.site(it).is_some();
        Progress {
            awaited: view.awaited.iter().map(|it| if is_site(it) { it.clone() } else { named(it) }).collect(),
            receipts: view
                .receipts
                .iter()
                .map(|it| store::drain::Receipt { gateway: named(&it.gateway), ..it.clone() })
                .collect(),
            stuck: view.stuck,
        }
    }

    /// Our copies of a site's drains, and what our gateways have proved of them.
    fn told_of(&self, site: &Name, drains: &Drains) -> Told {
        let own = &self.shared.config.site;
        let snapshot = self.shared.handle.snapshot();
        let ours = snapshot.as_ref().and_then(|it| it.sites.iter().find(|it| it.name == *own));
        let direct = ours.map(|it| it.reach_to(site)).unwrap_or_default() == Reach::Direct;
        let copies = drains.records.values().map(|(_, drain)| drain);
        let copies: Vec<_> = copies.filter(|it| it.site.as_ref() == Some(site)).collect();
        let nodes = self.shared.nodes.borrow();
        let settled = nodes.is_settled();
        let is_needed =
            copies.iter().any(|it| !it.is_over() || (it.phase == Phase::Done && it.ended.is_none()));
        let gateways = if is_needed { nodes.gateways() } else { BTreeMap::new() };
        drop(nodes);
        let gateways = gateways.into_iter().map(|(node, it)| {
            let silent_ms = u64::try_from(it.silent.as_millis()).unwrap_or(u64::MAX);
            (node, ToldGateway { boot: it.boot, silent_ms })
        });
        let copies: BTreeMap<DrainId, ToldCopy> = copies
            .into_iter()
            .map(|it| {
                let cancelled_by = it.note.clone().filter(|_| it.phase == Phase::Cancelled);
                (it.id.clone(), ToldCopy { phase: it.phase, cancelled_by })
            })
            .collect();
        let evidence = self.shared.evidence.borrow();
        let receipts = evidence.receipts.iter().filter(|it| copies.contains_key(&it.drain)).cloned();
        let endings = evidence.endings.iter().filter(|it| copies.contains_key(&it.drain)).cloned();
        let (receipts, endings) = (receipts.collect(), endings.collect());
        Told { settled, direct, gateways: gateways.collect(), receipts, endings, copies }
    }

    fn records_for(&self, wanted: &[DrainId]) -> Result<DrainsAnswer, Refused> {
        if wanted.len() > MAX_RECORDS {
            let text = format!("{} drains are wanted at once; expected at most {MAX_RECORDS}", wanted.len());
            return Err(Refused::new(Refusal::Wrong, text));
        }
        let drains = Arc::clone(&self.shared.handle.drains().borrow());
        let led = wanted.iter().filter_map(|id| drains.records.get(id)).filter(|(_, it)| it.is_led_here());
        let records = led.map(|(index, drain)| {
            let mut told = drain.told(*index);
            // The hook's URL may hold secrets, and only this site calls it.
            told.hook = told.hook.as_deref().map(shown);
            told
        });
        Ok(DrainsAnswer { records: records.collect(), ..DrainsAnswer::default() })
    }
}
