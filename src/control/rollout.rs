//! How far a generation has come: which nodes of which sites run it.
//!
//! This site's nodes are known from their heartbeats, those of other sites from what their controls tell. Who is lost is not
//! waited for, because it may never come back; it is named.

use std::time::Duration;

use store::model::{Generation, Moment, Name, SiteTag};
use tokio::time::Instant;

use super::{ControlHandle, SeenSite, exchange, orders::SEEN_WITHIN};
use crate::api::{Rollout, RolloutQuery, SiteNode, SiteRollout};

/// The longest that one question waits.
const MAX_WAIT: Duration = Duration::from_secs(10);

impl ControlHandle {
    /// How far a generation has come. Waits until it is where it is wanted, or the time of the question is over.
    pub async fn rollout(&self, query: RolloutQuery) -> Rollout {
        let deadline = Instant::now() + query.wait.map_or(Duration::ZERO, |it| it.0).min(MAX_WAIT);
        let mut nodes = self.shared.nodes.subscribe();
        let mut sites = self.shared.sites.subscribe();
        loop {
            nodes.mark_unchanged();
            sites.mark_unchanged();
            let rollout = self.rollout_now(&query);
            if rollout.done || Instant::now() >= deadline {
                return rollout;
            }
            tokio::select! {
                // In a fixed order, so that a simulation can repeat itself.
                biased;
                Ok(()) = nodes.changed() => {}
                Ok(()) = sites.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    fn rollout_now(&self, query: &RolloutQuery) -> Rollout {
        let shared = &self.shared;
        let snapshot = shared.handle.snapshot().unwrap_or_default();
        let seen = shared.sites.all();
        let now = shared.handle.now();
        let own = own_site(
            &shared.config.site,
            &exchange::nodes_of(&shared.nodes.borrow()),
            shared.nodes.borrow().failure().map(|(error, _)| error.to_owned()),
            query.generation,
        );
        let named = snapshot.sites.iter().filter(|it| it.control.is_some() && it.name != shared.config.site);
        let others = named.map(|site| {
            let seen = seen.get(&site.name).cloned().unwrap_or_default();
            other_site(&site.name, &seen, query.generation, now)
        });
        let mut sites: Vec<SiteRollout> = std::iter::once(own).chain(others).collect();
        let home = snapshot.generation.site;
        for site in &mut sites {
            site.home = !home.is_empty() && site.site.parse().is_ok_and(|site: SiteTag| site == home);
        }
        sites.sort_by(|a, b| a.site.cmp(&b.site));
        let done = query.enough.is_reached(sites.iter().filter(|it| it.done).count(), sites.len());
        Rollout { generation: query.generation, done, sites }
    }
}

fn own_site(site: &Name, nodes: &[SiteNode], failure: Option<String>, wanted: Generation) -> SiteRollout {
    judged(site, nodes, failure.map(|it| format!("its engine cannot be read: {it}")), wanted)
}

fn other_site(site: &Name, seen: &SeenSite, wanted: Generation, now: Moment) -> SiteRollout {
    let silent = seen.heard.is_none_or(|at| now.since(at) > SEEN_WITHIN);
    let has = seen.state.as_ref().map(|it| it.generation);
    let pending = match (&seen.error, &seen.refused) {
        (Some(error), _) => Some(format!("it does not answer: {error}")),
        _ if silent => Some("it has not answered yet".to_owned()),
        // What it refuses of ours is known to it alone; what we refuse of it does not hold it up.
        _ => has.filter(|has| *has < wanted).map(|has| format!("it has generation {has}")),
    };
    judged(site, &seen.nodes, pending, wanted)
}

/// The state of a site by its nodes, unless something is known that holds the whole site up.
fn judged(site: &Name, nodes: &[SiteNode], pending: Option<String>, wanted: Generation) -> SiteRollout {
    let (lost, living): (Vec<&SiteNode>, Vec<_>) = nodes.iter().partition(|it| it.lost);
    let behind = |node: &&&SiteNode| node.generation.is_none_or(|runs| runs < wanted);
    let names = |nodes: &[&SiteNode]| nodes.iter().map(|it| it.node.clone()).collect::<Vec<_>>();
    let waits_for: Vec<&SiteNode> = living.iter().filter(behind).copied().collect();
    SiteRollout {
        site: site.to_string(),
        home: false,
        done: pending.is_none() && waits_for.is_empty(),
        nodes: living.len(),
        waits_for: names(&waits_for),
        lost: names(&lost),
        pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Enough, SiteState};

    fn node(name: &str, runs: Option<u64>, lost: bool) -> SiteNode {
        let generation = runs.map(|number| Generation::new(1, number));
        SiteNode { node: name.into(), roles: vec!["dns".into()], generation, lost }
    }

    #[test]
    fn a_site_is_done_when_every_node_that_lives_runs_the_generation_or_a_later_one() {
        let wanted = Generation::new(1, 7);
        let site: Name = "sh".parse().unwrap();
        let nodes = [node("a", Some(7), false), node("b", Some(8), false), node("gone", Some(3), true)];
        let all = judged(&site, &nodes, None, wanted);
        assert_eq!((all.done, all.nodes, all.lost), (true, 2, vec!["gone".to_owned()]));
        let nodes = [node("a", Some(6), false), node("new", None, false), node("c", Some(7), false)];
        let some = judged(&site, &nodes, None, wanted);
        assert_eq!((some.done, some.waits_for), (false, vec!["a".to_owned(), "new".to_owned()]));
        assert!(!judged(&site, &[], Some("dark".into()), wanted).done);
    }

    #[test]
    fn a_site_that_does_not_answer_is_pending_whatever_it_told() {
        let (wanted, site): (_, Name) = (Generation::new(1, 7), "sh".parse().unwrap());
        let state = SiteState { generation: wanted, ..SiteState::default() };
        let at = Moment(1_000_000);
        let seen = SeenSite { state: Some(state), heard: Some(at), ..SeenSite::default() };
        assert!(other_site(&site, &seen, wanted, at.after(Duration::from_secs(1))).done);
        let late = other_site(&site, &seen, wanted, at.after(Duration::from_secs(6)));
        assert_eq!(late.pending.as_deref(), Some("it has not answered yet"));
        let refused = SeenSite { error: Some("connection refused".into()), ..seen.clone() };
        let dark = other_site(&site, &refused, wanted, at);
        assert_eq!(dark.pending.as_deref(), Some("it does not answer: connection refused"));
        let later = other_site(&site, &seen, Generation::new(1, 8), at);
        assert_eq!(later.pending.as_deref(), Some("it has generation 1.7"));
    }

    #[test]
    fn a_quorum_is_more_than_half_of_the_sites() {
        for (done, of, all, quorum) in [
            (1, 1, true, true),
            (1, 2, false, false),
            (2, 3, false, true),
            (2, 4, false, false),
            (3, 4, false, true),
        ] {
            assert_eq!(Enough::All.is_reached(done, of), all, "{done} of {of}");
            assert_eq!(Enough::Quorum.is_reached(done, of), quorum, "{done} of {of}");
        }
    }
}
