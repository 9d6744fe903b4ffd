//! Drains across sites: the copies of a record in the engines of other sites, and what these sites tell the one that leads it.
//!
//! A drain is led by the site in whose registry the instance is. The control of every other site copies the record to its
//! own engine, where its gateways obey it as if it were a drain of their own. They write their receipts there too, and
//! their control tells the leading site of them ([`Told`]). The leading site goes on once every site whose gateways may
//! pick the instance has the copy and all receipts, or is given up on ([`OtherSite`]).
//!
//! A copy only moves forward: it is replaced by a record with a greater [`Stamp`], and one that was cancelled stays so.
//! Messages may be lost, repeated, or come in any order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Drain, DrainId, Gateway, Phase, Receipt, ending::Ended};
use crate::{
    engine::{Endpoint, Index},
    model::{DarkSite, Moment, Name},
};

/// A site that has not answered for this long is dark.
pub const DARK_AFTER: Duration = Duration::from_secs(5);
/// The largest copy of a record, in octets of JSON.
pub const MAX_COPY: usize = 16 * 1024;
/// The longest text in the identity of an instance.
const MAX_WORD: usize = 512;
/// The longest `Meta.boot`.
const MAX_BOOT: usize = 1_024;
/// The most drains of one site that another one copies.
pub const MAX_COPIES: usize = 4_096;
/// The most gateways that a site may tell of, …
const MAX_GATEWAYS: usize = 10_000;
/// … and receipts of theirs, or ends that they saw.
const MAX_PROOFS: usize = 100_000;
/// The metadata by which instances of registries are distinguished, and processes of an instance.
const SITE: &str = "site";
const BOOT: &str = "boot";

/// How far a drain is. A record with a greater stamp replaces one with a smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Its phase; a cancelled drain stays cancelled.
    pub phase: Phase,
    /// Whether its instance is known to have ended.
    pub ended: bool,
    /// The index of the record in the engine of the site that leads it.
    pub index: Index,
}

/// A drain that a site leads, as it tells others which ones there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainHead {
    /// The drain.
    pub id: DrainId,
    /// How far it is.
    pub stamp: Stamp,
    /// Whether it still keeps its instance out.
    pub excludes: bool,
}

impl DrainHead {
    /// Of a record that is led here and was read at this index.
    #[must_use]
    pub fn of(drain: &Drain, index: Index, now: Moment) -> Self {
        Self { id: drain.id.clone(), stamp: drain.stamp(index), excludes: drain.excludes(now) }
    }

    /// True if a site needs this record: it is ahead of the copy, or keeps an instance out and there is no copy.
    #[must_use]
    pub fn is_wanted(&self, known: Option<&Drain>) -> bool {
        match known {
            None => self.excludes,
            Some(copy) => !copy.is_led_here() && copy.stamp(copy.revision) < self.stamp,
        }
    }
}

/// Why the copy of a record is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("drain {id:?}: {why}")]
pub struct CopyError {
    /// The drain.
    pub id: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl Drain {
    /// How far it is, if its record has this index in the engine of the site that leads it.
    #[must_use]
    pub const fn stamp(&self, index: Index) -> Stamp {
        Stamp { phase: self.phase, ended: self.ended.is_some(), index }
    }

    /// The record as it is sent to other sites: with as much of the instance as gateways need to recognise it.
    #[must_use]
    pub fn told(&self, index: Index) -> Self {
        let mut told = self.clone();
        told.endpoint.tags.clear();
        told.endpoint.meta.retain(|name, _| name == BOOT);
        told.revision = index;
        told
    }

    /// The copy of a record that this site told of.
    ///
    /// # Errors
    /// Its id is no UUID, or it is larger than a copy may be.
    pub fn copied(mut self, site: &Name) -> Result<Self, CopyError> {
        let wrong = |why: String| Err(CopyError { id: self.id.0.chars().take(64).collect(), why });
        if !uuid::Uuid::try_parse(&self.id.0).is_ok_and(|id| id.to_string() == self.id.0) {
            return wrong("the id is no UUID".to_owned());
        }
        if self.v > Self::VERSION {
            let most = Self::VERSION;
            return wrong(format!("version {}; expected at most {most}: update this control", self.v));
        }
        let endpoint = &self.endpoint;
        for word in [&self.service, &self.instance, &endpoint.node, &endpoint.id, &endpoint.address] {
            if word.len() > MAX_WORD {
                return wrong(format!("a text of {} octets; expected at most {MAX_WORD}", word.len()));
            }
        }
        let boot = endpoint.meta.get(BOOT).filter(|it| it.len() <= MAX_BOOT).cloned();
        self.endpoint.tags.clear();
        self.endpoint.meta = [(SITE.to_owned(), site.to_string())].into();
        self.endpoint.meta.extend(boot.map(|boot| (BOOT.to_owned(), boot)));
        self.site = Some(site.clone());
        let size = serde_json::to_vec(&self).map_or(usize::MAX, |text| text.len());
        if size > MAX_COPY {
            let id = self.id.0.clone();
            return Err(CopyError { id, why: format!("{size} octets; expected at most {MAX_COPY}") });
        }
        Ok(self)
    }

    /// True if this copy is to be written in the place of what the engine has for its id. A record that is led here, or by
    /// yet another site, is never replaced.
    #[must_use]
    pub fn replaces(&self, known: Option<&Self>, now: Moment) -> bool {
        match known {
            None => self.excludes(now),
            Some(known) => known.site == self.site && known.stamp(known.revision) < self.stamp(self.revision),
        }
    }
}

/// False if it is known that a registration is in another registry than the instance of a drain.
pub(super) fn may_be_of_one_registry(drain: &Drain, endpoint: &Endpoint) -> bool {
    let site = endpoint.meta.get(SITE);
    match &drain.site {
        Some(leads) => site.is_some_and(|site| site == leads.as_str()),
        None => drain.endpoint.meta.get(SITE).zip(site).is_none_or(|(drained, site)| drained == site),
    }
}

/// A gateway of another site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldGateway {
    /// Its process.
    pub boot: String,
    /// How long it has been silent, by the clock of its control, in milliseconds.
    pub silent_ms: u64,
}

/// The copy of a drain in the engine of another site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldCopy {
    /// Its phase.
    pub phase: Phase,
    /// Who cancelled it there, if it was cancelled there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
}

/// What a site tells the one that leads drains of their copies, its gateways and what these have proved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The nodes were watched for long enough that every gateway is known.
    pub settled: bool,
    /// Its gateways connect to the instances of the asking site, by the documents that it runs.
    pub direct: bool,
    /// The copies of the asking site's drains.
    #[serde(default)]
    pub copies: BTreeMap<DrainId, ToldCopy>,
    /// Its gateways, by node; absent while there is no copy.
    #[serde(default)]
    pub gateways: BTreeMap<String, ToldGateway>,
    /// Their receipts for these drains.
    #[serde(default)]
    pub receipts: Vec<Receipt>,
    /// What they saw end.
    #[serde(default)]
    pub endings: Vec<Ended>,
}

impl Told {
    /// Checks what another site told.
    ///
    /// # Errors
    /// It has more, or longer, parts than it may have.
    pub fn check(&self) -> Result<(), String> {
        for (what, count, most) in [
            ("gateways", self.gateways.len(), MAX_GATEWAYS),
            ("copies of drains", self.copies.len(), MAX_COPIES),
            ("receipts", self.receipts.len(), MAX_PROOFS),
            ("endings", self.endings.len(), MAX_PROOFS),
        ] {
            if count > most {
                return Err(format!("{count} {what}; expected at most {most}"));
            }
        }
        let names = self.gateways.keys().chain(self.receipts.iter().map(|it| &it.gateway));
        match names.chain(self.endings.iter().map(|it| &it.gateway)).find(|it| it.parse::<Name>().is_err()) {
            Some(name) => Err(format!("{:.64?} is not a name of a node", name)),
            None => Ok(()),
        }
    }
}

/// Another site whose gateways may pick instances of this one, as the control of this site knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherSite {
    /// How long it has not answered, by our own clock.
    pub silent: Duration,
    /// What it told last; absent: nothing since this control started.
    pub told: Option<Arc<Told>>,
}

/// The gateways and sites whose receipts a drain lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Those that it waits for.
    pub awaited: BTreeSet<String>,
    /// Those that it gives up on.
    pub unproven: BTreeSet<String>,
}

impl Missing {
    pub(super) fn add(&mut self, name: String, is_given_up: bool) {
        if is_given_up { &mut self.unproven } else { &mut self.awaited }.insert(name);
    }
}

/// A gateway of another site in lists: `SITE/NODE`. No name of a node has a slash.
#[must_use]
pub fn qualified(site: &Name, node: &str) -> String {
    format!("{site}/{node}")
}

impl OtherSite {
    /// True if it has not answered for too long to be there.
    #[must_use]
    pub fn is_dark(&self) -> bool {
        self.silent >= DARK_AFTER
    }

    /// What it told, if its gateways are known and it has a copy of the drain, so that they obey it.
    fn with_copy(&self, drain: &Drain) -> Option<&Told> {
        self.told.as_deref().filter(|it| it.settled && it.copies.contains_key(&drain.id))
    }

    /// Adds what is missing from this site. A site whose gateways have all proved is not needed any more, dark or not.
    pub(super) fn missing(&self, name: &Name, drain: &Drain, missing: &mut Missing) {
        let is_given_up =
            !drain.require_all && drain.dark_site == DarkSite::Unproven && self.silent >= drain.lease.0;
        let Some(told) = self.with_copy(drain) else {
            return missing.add(name.to_string(), is_given_up);
        };
        let proved = |node: &str, boot: &str| {
            told.receipts.iter().any(|it| it.drain == drain.id && it.gateway == node && it.boot == boot)
        };
        for (node, gateway) in told.gateways.iter().filter(|(node, it)| !proved(node, &it.boot)) {
            if self.is_dark() {
                missing.add(name.to_string(), is_given_up);
            } else {
                let lapsed = !drain.require_all && self.silence(gateway) >= drain.lease.0;
                missing.add(qualified(name, node), lapsed);
            }
        }
    }

    fn silence(&self, gateway: &ToldGateway) -> Duration {
        self.silent.saturating_add(Duration::from_millis(gateway.silent_ms))
    }

    /// True if it is known which gateways there are, or the site has been silent for longer than the lease: what is said of
    /// all gateways can then be said.
    #[must_use]
    pub fn is_settled_for(&self, drain: &Drain) -> bool {
        self.silent >= drain.lease.0 || self.told.as_ref().is_some_and(|it| it.settled)
    }

    /// Adds the gateways of this site, by their qualified names.
    pub fn add_gateways(&self, name: &Name, gateways: &mut BTreeMap<String, Gateway>) {
        for (node, gateway) in self.told.iter().flat_map(|it| &it.gateways) {
            let silent = self.silence(gateway);
            gateways.insert(qualified(name, node), Gateway { boot: gateway.boot.clone(), silent });
        }
    }

    /// The receipts for a drain, by qualified names.
    pub fn receipts<'a>(&'a self, name: &'a Name, drain: &'a DrainId) -> impl Iterator<Item = Receipt> + 'a {
        let all = self.told.iter().flat_map(|it| &it.receipts).filter(|it| it.drain == *drain);
        all.map(|it| Receipt { gateway: qualified(name, &it.gateway), ..it.clone() })
    }

    /// What its gateways saw end of a drain, by qualified names.
    pub fn endings<'a>(&'a self, name: &'a Name, drain: &'a DrainId) -> impl Iterator<Item = Ended> + 'a {
        let all = self.told.iter().flat_map(|it| &it.endings).filter(|it| it.drain == *drain);
        all.map(|it| Ended { gateway: qualified(name, &it.gateway), ..it.clone() })
    }
}

/// True if the copy of a drain may go that the site which leads it no longer has. Without a record no site could
/// prove that the instance has ended, so the copy stays while it keeps a registered instance out.
#[must_use]
pub fn is_spared(copy: &Drain, registered: bool, now: Moment) -> bool {
    !copy.excludes(now) || copy.ended.is_some() || !registered
}

#[cfg(test)]
mod tests;
