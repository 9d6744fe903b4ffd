//! An epoch above that of a site which joins.
//!
//! A site that was restored from a backup has a higher epoch than a home that never was, and no site takes a generation below
//! its own. Such a site first finds that its documents may be replaced by those of the home: they are equal, or a person
//! has ordered it. Then it tells the home its generation, and the home founds an epoch above it, with the documents that it
//! has. The home cannot find this out by itself: before the site has joined it has no token that the site would accept.
//!
//! The site is believed, so what its word can do is bounded: a home gives no epoch that is far above its own, none to a
//! site that is connected already, and not more than one in a minute. Epochs are numbers of 32 bits, which last for 80
//! years at that rate. The number of the generation is not taken from the caller at all.

use std::time::Duration;

use store::{
    commit::{self, AuditEntry, CommitError, copy::HeadCopy},
    model::{Generation, Name, SiteTag},
};
use tokio::{sync::Mutex, time::Instant};

use super::{PATH, not_taken::NotTaken};
use crate::{
    api::{ExchangeAnswer, ExchangeQuery, exchange::Version},
    control::{ControlHandle, Refusal, Refused},
    repeats::Repeats,
    sites::{Peer, PeerError},
};

/// The longest that the home may take: it commits.
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How far above the present epoch that of a site may be.
const MOST_ABOVE: u32 = 100;
/// How much time is between two epochs that are founded for sites.
const PAUSE: Duration = Duration::from_secs(60);
/// Writes of others that a founding gives way to before it fails.
const TRIES: usize = 5;

/// What a control remembers of the epochs that it founded for sites.
#[derive(Debug, Default)]
pub(in crate::control) struct Founded {
    /// When it did so last. Locked while it does.
    last: Mutex<Option<Instant>>,
    refused: Repeats,
}

/// Asks the home for an epoch above our generation; its configuration after that.
pub(super) async fn ask(peer: &Peer, present: Generation) -> Result<HeadCopy, NotTaken> {
    let query = ExchangeQuery { v: Version, last: None, above: Some(present) };
    let answer = match peer.call::<_, ExchangeAnswer>(PATH, &query, DEADLINE, MAX_ANSWER).await {
        Ok(answer) => answer,
        Err(PeerError::Refused { text, .. }) => {
            let text = format!("this site has generation {present}, and no later one was made there: {text}");
            return Err(NotTaken::Failed(text));
        }
        Err(error) => return Err(NotTaken::Failed(error.to_string())),
    };
    let told = answer.state.generation;
    answer.head.filter(|head| head.generation() > present).ok_or_else(|| {
        NotTaken::Refused(format!(
            "it was asked for a generation above {present}, which this site has, and it answers with {told}: it may be an \
             earlier version, which has to be updated first"
        ))
    })
}

/// What a home decides from.
struct Question<'a> {
    /// The site that asks, and its generation as it says.
    site: &'a Name,
    asked: Generation,
    /// The generation here, and the site here.
    present: Generation,
    own: SiteTag,
    /// What this control has heard of the site by its own questions, if the site answers them.
    heard: Option<Generation>,
    /// The time since an epoch was founded last.
    since: Option<Duration>,
}

impl Question<'_> {
    /// True if an epoch is to be founded; false if the present generation is above that of the site already.
    fn decide(&self) -> Result<bool, Refused> {
        let Self { site, asked, present, own, heard, since } = self;
        let conflict = |text: String| Err(Refused::new(Refusal::Conflict, text));
        if !asked.site.is_empty() {
            return conflict(format!(
                "generation {asked} is one of connected sites, so {site} does not have to join"
            ));
        }
        if asked < present {
            return Ok(false);
        }
        if present.site != *own {
            let home = match present.site.name() {
                None => "and this site is not connected to others".to_owned(),
                Some(home) if home == **site => {
                    format!("which was {home} itself: make another site the home first (`waypost promote`)")
                }
                Some(home) => format!("the site {home}: name its control in `[control] join`"),
            };
            return conflict(format!("a later generation is made only at the home, {home}"));
        }
        if let Some(heard) = heard.filter(|it| !it.site.is_empty()) {
            return conflict(format!("{site} is connected already, with generation {heard}"));
        }
        let above = asked.epoch.saturating_sub(present.epoch);
        if asked.epoch == u32::MAX {
            return conflict(format!("there is no epoch above {}", asked.epoch));
        }
        if above > MOST_ABOVE {
            return conflict(format!(
                "the epoch {} is {above} above that of {present} here; expected at most {MOST_ABOVE}: restore a backup of {site} at \
                 the home if both have the same documents, or empty the engine of {site}",
                asked.epoch
            ));
        }
        if since.is_some_and(|it| it < PAUSE) {
            return Err(Refused::new(
                Refusal::Unavailable,
                "an epoch was founded for a site less than a minute ago: it is asked again",
            ));
        }
        Ok(true)
    }
}

impl ControlHandle {
    /// Founds an epoch above the generation of a site that joins, with the documents that are here, unless the present
    /// generation is above it already.
    pub(super) async fn found_above(&self, site: &Name, asked: Generation) -> Result<(), Refused> {
        let shared = &self.shared;
        let founded = self.try_found_above(site, asked).await;
        match &founded {
            Ok(None) => {}
            Ok(Some(generation)) => {
                shared.metrics.epochs_founded.increment();
                tracing::warn!(%site, %generation, %asked, "a higher epoch, so that a site can join");
            }
            Err(refused) => {
                shared.metrics.epochs_refused.increment();
                if let Some(before) = shared.founded.refused.is_due(site.as_str(), Instant::now().into_std())
                {
                    tracing::warn!(%site, %asked, before, "no higher epoch for a site that joins: {refused}");
                }
            }
        }
        founded.map(drop)
    }

    async fn try_found_above(&self, site: &Name, asked: Generation) -> Result<Option<Generation>, Refused> {
        let (shared, unavailable) =
            (&self.shared, |error: &dyn ToString| Refused::new(Refusal::Unavailable, error.to_string()));
        let engine = shared.engine.as_ref();
        let own = SiteTag::of(&shared.config.site);
        let mut last = shared.founded.last.lock().await;
        for _ in 0..TRIES {
            let stored = shared.basis.lock().await.read(engine).await.map_err(|it| unavailable(&it))?.clone();
            let seen = shared.sites.all().remove(site).filter(|it| it.error.is_none());
            let question = Question {
                site,
                asked,
                present: stored.generation(),
                own,
                heard: seen.and_then(|it| it.state).map(|it| it.generation),
                since: last.map(|it| it.elapsed()),
            };
            if !question.decide()? {
                return Ok(None);
            }
            let now = shared.handle.now();
            let plan = commit::plan_promotion(&stored, Generation::new(asked.epoch, 0), now, own);
            let entry = AuditEntry {
                at: now,
                who: format!("site {site}"),
                what: format!("an epoch above generation {asked}, which that site has before it joins"),
                generation: None,
            };
            match commit::commit(engine, plan, entry).await {
                Ok(generation) => {
                    *last = Some(Instant::now());
                    return Ok(Some(generation));
                }
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(unavailable(&CommitError::Conflict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(text: &str) -> Generation {
        text.parse().unwrap()
    }

    /// What the home bj decides when the site sh asks.
    fn decides(asked: &str, present: &str, heard: Option<&str>, since: Option<u64>) -> Result<bool, String> {
        let site: Name = "sh".parse().unwrap();
        let question = Question {
            site: &site,
            asked: generation(asked),
            present: generation(present),
            own: "bj".parse().unwrap(),
            heard: heard.map(generation),
            since: since.map(Duration::from_secs),
        };
        question.decide().map_err(|refused| refused.text)
    }

    #[test]
    fn a_home_founds_an_epoch_above_that_of_a_site_that_joins() {
        assert_eq!(decides("3.2", "1.7@bj", None, None), Ok(true));
        assert_eq!(decides("3.2", "1.7@bj", Some("3.2"), Some(60)), Ok(true));
        for below in ["1.9", "0.0", "1.18446744073709551615"] {
            assert_eq!(decides(below, "1.7@bj", None, None), Ok(false), "{below}");
        }
        assert_eq!(decides("3.2", "4.8@bj", Some("4.8@bj"), Some(1)), Ok(false), "it was founded already");
        assert_eq!(decides("3.2", "4.8@gz", None, None), Ok(false), "nor is it needed of another site");
    }

    #[test]
    fn a_caller_cannot_drive_the_epoch_up() {
        let refuses = |words: &str, answer: Result<bool, String>| {
            let text = answer.unwrap_err();
            assert!(text.contains(words), "{words}: {text}");
        };
        refuses("is one of connected sites", decides("3.2@sh", "1.7@bj", None, None));
        refuses("is one of connected sites", decides("3.2@bj", "1.7@bj", None, None));
        refuses("the site gz: name its control", decides("3.2", "1.7@gz", None, None));
        refuses("make another site the home first", decides("3.2", "1.7@sh", None, None));
        refuses("this site is not connected to others", decides("3.2", "1.7", None, None));
        refuses("connected already, with generation 1.6@bj", decides("3.2", "1.7@bj", Some("1.6@bj"), None));
        assert_eq!(decides("101.2", "1.7@bj", None, None), Ok(true));
        refuses(
            "101 above that of 1.7@bj here; expected at most 100",
            decides("102.2", "1.7@bj", None, None),
        );
        refuses("expected at most 100", decides("4294967294.1", "1.7@bj", None, None));
        refuses("no epoch above 4294967295", decides("4294967295.1", "4294967294.7@bj", None, None));
        assert_eq!(decides("4294967294.1", "4294967290.7@bj", None, None), Ok(true));
        refuses("less than a minute ago", decides("3.2", "1.7@bj", None, Some(59)));
    }
}
