//! How many vantages a reader hears and for how long: by this the controls of an installation decide whose verdicts are
//! taken by a site that was cut off.
//!
//! Readers that hear the same vantages reach the same verdicts from then on, but not the same history: a reader that was
//! cut off while a site failed and recovered knows of no hold-down. So such a site takes the verdicts, with their history,
//! of the site that has [heard most](most_heard). Everything here is pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    health::{TargetKey, Verdict, VerdictShard},
    model::{Moment, Name, Span},
};

/// Times that differ by less count as equal, and then the names of the sites decide. Otherwise two sites that began to
/// hear at the same time could each take the other one for the better, because an answer is a little old when it arrives.
const ALIKE: Duration = Duration::from_secs(2);

/// Which vantages a reader hears at present, by its own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hearing {
    /// The number of configured vantages that are fresh and do not withhold their votes.
    pub vantages: u32,
    /// Since when at least as many have been heard without interruption; the present moment if none is.
    pub since: Option<Moment>,
    /// Enough are heard for every verdict to change; also true where nothing is probed.
    pub enough: bool,
}

/// What a reader has heard, as it tells others: a length of time, because their clocks are not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The number of configured vantages that are fresh and do not withhold their votes.
    pub vantages: u32,
    /// For how long at least as many have been heard without interruption.
    pub lasting: Span,
}

impl Hearing {
    /// As other sites receive it now.
    #[must_use]
    pub fn told(&self, now: Moment) -> Heard {
        let lasting = self.since.map_or(Duration::ZERO, |since| now.since(since));
        Heard { vantages: self.vantages, lasting: Span(lasting) }
    }
}

/// Keeps since when how many vantages have been heard.
#[derive(Clone, Debug, Default)]
pub(super) struct HearingMonitor {
    /// The entry at `n`: since when more than `n` have been heard without interruption.
    since: Vec<Moment>,
    enough: bool,
}

impl HearingMonitor {
    pub(super) fn update(&mut self, vantages: usize, enough: bool, now: Moment) {
        self.since.resize(vantages, now);
        self.enough = enough;
    }

    pub(super) fn hearing(&self) -> Hearing {
        let vantages = u32::try_from(self.since.len()).unwrap_or(u32::MAX);
        Hearing { vantages, since: self.since.last().copied(), enough: self.enough }
    }
}

/// The verdicts of one site with their history, and what its control has heard: its answer to another site's control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteVerdicts {
    /// Version of this form.
    pub v: u32,
    /// The site.
    pub site: Name,
    /// The present moment by that control's clock. The moments in the verdicts are by the same clock.
    pub now: Moment,
    /// What it has heard.
    pub heard: Heard,
    /// Its verdicts.
    pub shards: Vec<VerdictShard>,
}

impl SiteVerdicts {
    /// The version this program writes.
    pub const VERSION: u32 = 1;
    /// The maximum number of verdicts in one answer.
    pub const MAX: usize = 500_000;

    /// Checks an answer of another site.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        let site = &self.site;
        let newest = self.shards.iter().map(|it| it.v).chain([self.v]).max().unwrap_or_default();
        if newest > Self::VERSION {
            return Err(format!(
                "site {site} sent its verdicts in the form of version {newest}, and this program reads up to {}: update it",
                Self::VERSION
            ));
        }
        let all = || self.shards.iter().flat_map(|it| &it.verdicts);
        let count = all().count();
        if count > Self::MAX {
            return Err(format!("site {site} sent {count} verdicts, expected at most {}", Self::MAX));
        }
        if let Some((target, it)) = all().find(|(_, it)| it.history.len() > Verdict::HISTORY) {
            let (changes, most) = (it.history.len(), Verdict::HISTORY);
            return Err(format!("site {site} sent {changes} changes of {target}, expected at most {most}"));
        }
        Ok(())
    }

    /// The verdicts with their moments by our clock: as long ago as they are by the other one.
    #[must_use]
    pub fn by_our_clock(&self, ours: Moment) -> BTreeMap<TargetKey, Verdict> {
        let moved = |at: Moment| {
            let ago = u64::try_from(self.now.since(at).as_millis()).unwrap_or(u64::MAX);
            // Zero is no moment: the verdict has never changed.
            if at == Moment::default() { at } else { Moment(ours.0.saturating_sub(ago)) }
        };
        let verdict = |verdict: &Verdict| {
            let mut verdict = verdict.clone();
            verdict.since = moved(verdict.since);
            verdict.history.iter_mut().for_each(|change| change.at = moved(change.at));
            verdict
        };
        let all = self.shards.iter().flat_map(|it| &it.verdicts);
        all.map(|(target, it)| (target.clone(), verdict(it))).collect()
    }
}

/// The one of these answers whose verdicts are better than our own: of a site that hears more vantages, or as many for
/// longer, or for as long and its name sorts first. `None`: our own are the best.
#[must_use]
pub fn most_heard<'a>(site: &Name, heard: Heard, others: &'a [SiteVerdicts]) -> Option<&'a SiteVerdicts> {
    let ours = (site, heard, None);
    let all = || std::iter::once(ours).chain(others.iter().map(|it| (&it.site, it.heard, Some(it))));
    let most = all().map(|(_, heard, _)| heard.vantages).max()?;
    let of_most = || all().filter(|(_, heard, _)| heard.vantages == most);
    let longest = of_most().map(|(_, heard, _)| heard.lasting.0).max()?;
    let alike = of_most().filter(|(_, heard, _)| longest.saturating_sub(heard.lasting.0) < ALIKE);
    // Ours comes first, so an answer under our own name is not better.
    alike.min_by_key(|(site, _, _)| *site)?.2.filter(|_| most > 0)
}

#[cfg(test)]
mod tests;
