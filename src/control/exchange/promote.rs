//! Makes another site the home, when the home is lost for good.

use std::{collections::BTreeMap, time::Duration};

use store::{
    commit::{self, CommitError},
    model::{Generation, SiteTag},
};
use tokio::task::JoinSet;

use super::{PATH, lost};
use crate::{
    api::{ExchangeAnswer, ExchangeQuery, LostConfiguration, Promoted, Promotion, exchange::Version},
    control::{ChangeError, ControlHandle, Requester, documents::wait_until_followed},
    sites::Peers,
};

/// The longest that a site may take to say which generation it has.
const DEADLINE: Duration = Duration::from_secs(3);
const MAX_ANSWER: usize = 16 * 1024 * 1024;

impl ControlHandle {
    /// Makes this site the home: the same documents in a new epoch, which this site gives. Every other site copies them.
    ///
    /// # Errors
    /// Conflict: it is the home, the present home still answers (unless that is forced), or another site has a later
    /// generation. Otherwise as [`ControlHandle::apply`].
    pub async fn promote(
        &self,
        by: Requester<'_>,
        peers: &Peers,
        wanted: Promotion,
    ) -> Result<Promoted, ChangeError> {
        let shared = &self.shared;
        let own = SiteTag::of(&shared.config.site);
        let stored = commit::read(shared.engine.as_ref(), None).await?;
        let present = stored.generation();
        if present.site == own {
            let text = format!("{} is the home already, with generation {present}", shared.config.site);
            return Err(ChangeError::conflict(text));
        }
        if present == Generation::default() {
            return Err(ChangeError::conflict(
                "there are no documents here: this site has nothing to go on with",
            ));
        }
        let (generations, not_asked) = ask_all(peers).await;
        if let Some(home) = present.site.name().filter(|home| generations.contains_key(home.as_str()))
            && !wanted.force
        {
            let text = format!(
                "the home, the site {home}, answers: documents can be committed there; --force makes this site the home \
                 all the same"
            );
            return Err(ChangeError::conflict(text));
        }
        // A generation without a home is that of a site which has not joined.
        let is_later = |it: &Generation| *it > present && !it.site.is_empty();
        if let Some((site, later)) = generations.iter().find(|(_, generation)| is_later(generation)) {
            let text = format!(
                "the site {site} has generation {later}, which is later than {present} here: wait until it was copied"
            );
            return Err(ChangeError::conflict(text));
        }
        let now = shared.handle.now();
        let plan = commit::plan_promotion(&stored, present, now, own);
        let entry = by
            .entry(now, format!("promotion of {}, in the place of generation {present}", shared.config.site));
        let generation = match commit::commit(shared.engine.as_ref(), plan, entry).await {
            Ok(generation) => generation,
            Err(error @ CommitError::Conflict) => return Err(ChangeError::conflict(error.to_string())),
            Err(error) => return Err(error.into()),
        };
        tracing::warn!(%generation, before = %present, who = by.name, "this site is the home now");
        wait_until_followed(shared, generation).await;
        Ok(Promoted { generation, not_asked })
    }

    /// Waits for a short time until this node runs a generation.
    pub async fn wait_for_generation(&self, generation: Generation) {
        wait_until_followed(&self.shared, generation).await;
    }

    /// The configurations that were replaced by one which does not contain them, by file.
    pub async fn lost_configurations(&self) -> Vec<LostConfiguration> {
        let folder = self.shared.config.lost.clone();
        let read = move || {
            let files = folder.as_deref().map(lost::list).unwrap_or_default();
            let read = |file: std::path::PathBuf| {
                let text = std::fs::read_to_string(&file).ok()?;
                Some(LostConfiguration { file: file.display().to_string(), text })
            };
            files.into_iter().filter_map(read).collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }
}

/// Asks every other site for its generation; those that cannot be asked, and why.
async fn ask_all(peers: &Peers) -> (BTreeMap<String, Generation>, BTreeMap<String, String>) {
    let mut calls = JoinSet::new();
    for peer in peers.all() {
        calls.spawn(async move {
            let query = ExchangeQuery { v: Version, ..ExchangeQuery::default() };
            let answer = peer.call::<_, ExchangeAnswer>(PATH, &query, DEADLINE, MAX_ANSWER).await;
            let site = peer.site().map(ToString::to_string).unwrap_or_default();
            (site, answer.map(|it| it.state.generation))
        });
    }
    let (mut generations, mut not_asked) = (BTreeMap::new(), BTreeMap::new());
    for (site, answer) in calls.join_all().await {
        match answer {
            Ok(generation) => drop(generations.insert(site, generation)),
            Err(error) => drop(not_asked.insert(site, error.to_string())),
        }
    }
    (generations, not_asked)
}
