//! Taking the verdicts of another site, after this one was cut off from the vantages or started anew.
//!
//! Verdicts have a history: when a site recovered decides on its hold-down and its ramp. A control that heard too few
//! vantages for a while, or that starts, lacks the part of it that others have. So the control that leads asks the controls
//! of the other sites before it publishes, and takes the verdicts of the one that has [heard most](most_heard). Until then,
//! or until it is known that no other is better, or none answers in time, its node's view is stale. An installation of one
//! site never asks.
//!
//! [`Reliance`] decides, purely; the exchange with the other sites is outside: it waits until verdicts are
//! [wanted](ControlHandle::wants_verdicts), asks the other sites, and hands their answers over.

use std::{sync::Arc, time::Duration};

use store::{
    health::{FRESH_FOR, VerdictShard},
    health_state::{Awaited, Hearing, SiteVerdicts, most_heard},
    model::{Moment, Name},
    snapshot::Snapshot,
};
use tokio::sync::watch;

use super::{ControlHandle, Shared, shards};

/// Too few vantages are heard for this long: others may have seen changes that this site has not.
const ALONE_AFTER: Duration = Duration::from_secs(3);
/// How long answers of the other sites are waited for, and then how long until this node has what was adopted.
const PATIENCE: Duration = Duration::from_secs(10);
/// A control that does not lead asks no other site. If it comes to lead later than this, the one that led has asked.
const LEFT_TO_THE_LEADER: Duration = Duration::from_secs(30);
/// How often the passing of time is looked at.
const TICK: Duration = Duration::from_millis(500);

/// How much this control relies on its node's own verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing was judged yet, or it is not known whether there are other sites.
    Starting,
    /// They are as good as those of any other site.
    Sure,
    /// Too few vantages are heard, since then.
    Deaf { since: Moment },
    /// Others may know more.
    Unsure {
        since: Moment,
        started: bool,
        /// The last adoption before that.
        adopted: u64,
    },
}

/// Whether verdicts of other sites are needed, and those that are to be adopted. Pure.
#[derive(Clone, Debug)]
struct Reliance {
    standing: Standing,
    /// There are other sites with a control; `None` until that is known.
    others: Option<bool>,
    /// This control publishes the verdicts of its site.
    leads: bool,
    /// An answer of another site that is better than what this one has.
    best: Option<Arc<SiteVerdicts>>,
}

/// What [`Reliance`] knows of this node.
#[derive(Clone, Copy, Debug)]
struct Seen {
    hearing: Hearing,
    /// The last adoption that this node took.
    adopted: u64,
    now: Moment,
}

impl Reliance {
    const fn new() -> Self {
        Self { standing: Standing::Starting, others: None, leads: false, best: None }
    }

    /// Takes in what this node hears now.
    fn look(&mut self, seen: Seen) {
        if self.others == Some(false) {
            (self.standing, self.best) = (Standing::Sure, None);
        }
        if self.others != Some(true) {
            return;
        }
        let Seen { hearing, adopted, now } = seen;
        let unsure = |started| Standing::Unsure { since: now, started, adopted };
        self.standing = match self.standing.clone() {
            Standing::Starting => unsure(true),
            Standing::Sure if !hearing.enough => Standing::Deaf { since: now },
            Standing::Deaf { since } if hearing.enough => {
                if now.since(since) >= ALONE_AFTER {
                    unsure(false)
                } else {
                    Standing::Sure
                }
            }
            Standing::Unsure { since, started, adopted: before } => {
                let patience = if self.leads { PATIENCE } else { LEFT_TO_THE_LEADER };
                if adopted > before || now.since(since) >= patience {
                    self.best = None;
                    // A control that started has the usual time to hear the vantages.
                    let hears_by = if started { now.after(FRESH_FOR) } else { now };
                    if hearing.enough { Standing::Sure } else { Standing::Deaf { since: hears_by } }
                } else {
                    return;
                }
            }
            same => same,
        };
    }

    /// Says whether this control leads. One that comes to lead has the whole time for asking.
    fn lead(&mut self, leads: bool, now: Moment) {
        self.leads = leads;
        if let Standing::Unsure { since, .. } = &mut self.standing {
            *since = now;
        }
    }

    /// Takes answers of other sites; the site whose verdicts are to be adopted.
    fn answered(
        &mut self,
        site: &Name,
        hearing: Hearing,
        answers: &[SiteVerdicts],
        now: Moment,
    ) -> Option<Name> {
        let Standing::Unsure { since, .. } = &mut self.standing else { return None };
        if answers.is_empty() || !self.leads || self.best.is_some() {
            return None;
        }
        match most_heard(site, hearing.told(now), answers) {
            Some(best) => {
                *since = now;
                self.best = Some(Arc::new(best.clone()));
                Some(best.site.clone())
            }
            None => {
                self.standing = Standing::Sure;
                None
            }
        }
    }

    /// True if the other sites are to be asked.
    const fn wants(&self) -> bool {
        self.leads && self.best.is_none() && matches!(self.standing, Standing::Unsure { .. })
    }

    /// False while what this node has must not be published.
    const fn may_publish(&self) -> bool {
        !matches!(self.standing, Standing::Unsure { .. })
    }

    /// Why this node's view is stale.
    fn awaited(&self) -> Option<Awaited> {
        let Standing::Unsure { since, started, .. } = self.standing else { return None };
        let why = if started { "this control started" } else { "too few vantages were heard for a while" };
        let what = match &self.best {
            Some(best) => format!("those of site {} are being taken", best.site),
            None => "other sites are asked for theirs".to_owned(),
        };
        let reason = format!("{why}, so its verdicts may lack what other sites saw: {what}");
        self.leads.then_some(Awaited { since, reason })
    }
}

/// What the parts of control share of it.
#[derive(Debug)]
pub(super) struct Company(watch::Sender<Reliance>);

impl Company {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Reliance::new()))
    }

    /// Signals changes.
    pub(super) fn changes(&self) -> Changes {
        Changes(self.0.subscribe())
    }

    /// False while the verdicts of this node must not be published. A control that starts may see its first documents here
    /// before [`follow`] has looked at them; if these name other sites, those are asked first.
    pub(super) fn may_publish(&self, snapshot: &Snapshot, site: &Name) -> bool {
        let reliance = self.0.borrow();
        let starts = reliance.standing == Standing::Starting;
        reliance.may_publish() && !(starts && names_others(snapshot, site))
    }

    /// The answer of another site that is to be adopted.
    pub(super) fn best(&self) -> Option<Arc<SiteVerdicts>> {
        self.0.borrow().best.clone()
    }

    /// This control leads for as long as the guard lives.
    pub(super) fn lead(shared: &Arc<Shared>) -> Leading {
        shared.adoption.change(shared, |reliance, now| reliance.lead(true, now));
        Leading(Arc::clone(shared))
    }

    fn change<T>(&self, shared: &Shared, change: impl FnOnce(&mut Reliance, Moment) -> T) -> T {
        let mut outcome = None;
        self.0.send_if_modified(|reliance| {
            let shown = |it: &Reliance| (it.wants(), it.may_publish(), it.best.is_some(), it.awaited());
            let before = shown(reliance);
            outcome = Some(change(reliance, shared.handle.now()));
            let after = shown(reliance);
            if before.3 != after.3 {
                shared.handle.await_verdicts(after.3.clone());
            }
            before != after
        });
        outcome.expect("the change was made")
    }
}

/// Signals changes of [`Company`].
pub(super) struct Changes(watch::Receiver<Reliance>);

impl Changes {
    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// See [`Company::lead`].
pub(super) struct Leading(Arc<Shared>);

impl Drop for Leading {
    fn drop(&mut self) {
        self.0.adoption.change(&self.0, |reliance, now| reliance.lead(false, now));
    }
}

/// True if the documents name another site that has a control.
fn names_others(snapshot: &Snapshot, site: &Name) -> bool {
    snapshot.sites.iter().any(|it| it.control.is_some() && it.name != *site)
}

/// Looks at what this node hears, for ever.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut hearing = shared.handle.hearing();
    let mut adopted = shared.handle.adopted();
    let mut snapshots = shared.handle.snapshots();
    loop {
        let seen = Seen {
            hearing: *hearing.borrow_and_update(),
            adopted: *adopted.borrow_and_update(),
            now: shared.handle.now(),
        };
        let others = shared.handle.snapshot().map(|it| names_others(&it, &shared.config.site));
        shared.adoption.change(&shared, |reliance, _| {
            reliance.others = others.or(reliance.others);
            reliance.look(seen);
        });
        // The other ends live as long as the node.
        tokio::select! {
            biased;
            Ok(()) = hearing.changed() => {}
            Ok(()) = adopted.changed() => {}
            Ok(()) = snapshots.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

impl ControlHandle {
    /// Waits until the verdicts of the other sites are wanted. May be dropped at any time.
    pub async fn wants_verdicts(&self) {
        let mut changes = self.shared.adoption.0.subscribe();
        // The other end is held by this handle.
        let _ = changes.wait_for(Reliance::wants).await;
    }

    /// The verdicts of this site with their history, and how many vantages this control has heard: what it answers to the
    /// control of another site.
    pub async fn heard(&self) -> SiteVerdicts {
        let shared = &self.shared;
        let verdicts = shared.handle.health_view().await.verdicts;
        let now = shared.handle.now();
        SiteVerdicts {
            v: SiteVerdicts::VERSION,
            site: shared.config.site.clone(),
            now,
            heard: shared.handle.hearing().borrow().told(now),
            shards: vec![VerdictShard { v: shards::VERDICTS_VERSION, verdicts }],
        }
    }

    /// Hands over what the other sites answered; those that did not answer are left out. The verdicts of the one that has
    /// heard most are adopted, unless this site has; returns its name. An answer that cannot be used counts as none.
    ///
    /// Without any answer for ten seconds this control goes on with its own verdicts.
    pub fn adopt(&self, answers: Vec<SiteVerdicts>) -> Option<Name> {
        let shared = &self.shared;
        let usable = |answer: &SiteVerdicts| {
            let checked = answer.check();
            if let Err(error) = &checked {
                shared.metrics.answers_refused.increment();
                tracing::warn!(site = %answer.site, error, "the verdicts of another site cannot be used");
            }
            checked.is_ok()
        };
        let answers: Vec<SiteVerdicts> = answers.into_iter().filter(usable).collect();
        let hearing = *shared.handle.hearing().borrow();
        let from = shared
            .adoption
            .change(shared, |reliance, now| reliance.answered(&shared.config.site, hearing, &answers, now));
        if let Some(site) = &from {
            tracing::info!(%site, "another site has heard more vantages, or for longer: its verdicts are adopted");
        }
        from
    }
}

#[cfg(test)]
mod tests;
