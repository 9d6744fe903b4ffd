//! The two long polls that all shared services use, and which of the services an answer shows to have changed.
//!
//! `health/state/any` shows which check of which service or node changed, but not a registration whose checks stay as
//! they are. `catalog/services` wakes for every registration, but shows only names and tags. Together they miss only a
//! node's own address and metadata.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{WAIT, cursor};
use crate::follower::cursor::Cursor;
use crate::{
    CheckStatus, EngineError, Indexed,
    consul::{
        Consul,
        client::{Place, Request, read},
        wire::Check,
    },
};

/// Which feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// `health/state/any`.
    Checks,
    /// `catalog/services`.
    Services,
}

/// What a feed reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FeedEvent {
    /// These changed.
    Changed(Changed),
    /// The feed fails from now on; the reason, for people.
    Failed(String),
}

/// What a feed's answer shows about the services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Surely changed.
    pub(super) services: BTreeSet<String>,
    /// Every service with an instance on these changed.
    pub(super) nodes: BTreeSet<String>,
    /// Any other may have changed: nothing to compare with, or a change the feed does not attribute.
    pub(super) perhaps_all: bool,
    /// The feed's first answer, or its first after a failure.
    pub(super) works_again: bool,
}

/// What a feed remembers of its last answer, to find what changed.
trait Memory: Send {
    type Answer: Default + serde::de::DeserializeOwned + Send + 'static;
    const EXPECTED: &'static str;
    fn request() -> Request;
    fn differ(&mut self, answer: Self::Answer) -> Changed;
}

/// What matters of one check: its service and its status. Its output does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    service: String,
    service_id: String,
    status: CheckStatus,
}

/// The cluster's checks, by node and check id.
#[derive(Debug, Default)]
struct Checks(HashMap<(String, String), Mark>);

impl Checks {
    fn touch(changed: &mut Changed, node: &str, mark: &Mark) {
        if mark.service.is_empty() {
            changed.nodes.insert(node.to_owned());
        } else {
            changed.services.insert(mark.service.clone());
        }
    }
}

impl Memory for Checks {
    type Answer = Vec<Check>;
    const EXPECTED: &'static str = "a JSON list of checks";

    fn request() -> Request {
        Request::get("v1/health/state/any")
    }

    fn differ(&mut self, answer: Vec<Check>) -> Changed {
        let mut changed = Changed::default();
        let mut gone = std::mem::take(&mut self.0);
        for check in answer {
            let status = check.status();
            let mark = Mark { service: check.service_name, service_id: check.service_id, status };
            let key = (check.node, check.id);
            let before = gone.remove(&key);
            if before.as_ref() != Some(&mark) {
                before.iter().chain([&mark]).for_each(|mark| Self::touch(&mut changed, &key.0, mark));
            }
            self.0.insert(key, mark);
        }
        for ((node, _), mark) in &gone {
            Self::touch(&mut changed, node, mark);
        }
        changed
    }
}

/// The catalog's services with their tags, sorted.
#[derive(Debug, Default)]
struct Services(BTreeMap<String, Vec<String>>);

impl Memory for Services {
    type Answer = BTreeMap<String, Option<Vec<String>>>;
    const EXPECTED: &'static str = "a JSON object of services and tags";

    fn request() -> Request {
        Request::get("v1/catalog/services")
    }

    /// Names and tags show which services to read first. All others are read as well, because the feed woke.
    fn differ(&mut self, answer: Self::Answer) -> Changed {
        let mut changed = Changed { perhaps_all: true, ..Changed::default() };
        let mut gone = std::mem::take(&mut self.0);
        for (service, tags) in answer {
            let mut tags = tags.unwrap_or_default();
            tags.sort();
            if gone.remove(&service).as_ref() != Some(&tags) {
                changed.services.insert(service.clone());
            }
            self.0.insert(service, tags);
        }
        changed.services.extend(gone.into_keys());
        changed
    }
}

/// Runs a feed for as long as its receiver lives. It polls only while it is needed; when it is not, its last poll
/// runs to its end.
pub(super) async fn run(
    feed: Feed,
    consul: Arc<Consul>,
    needed: watch::Receiver<bool>,
    events: mpsc::Sender<(Feed, FeedEvent)>,
) {
    match feed {
        Feed::Checks => FeedLoop::new(feed, consul, needed, events, Checks::default()).run().await,
        Feed::Services => FeedLoop::new(feed, consul, needed, events, Services::default()).run().await,
    }
}

struct FeedLoop<M> {
    feed: Feed,
    consul: Arc<Consul>,
    needed: watch::Receiver<bool>,
    events: mpsc::Sender<(Feed, FeedEvent)>,
    memory: M,
    cursor: Cursor,
    works: bool,
}

impl<M: Memory> FeedLoop<M> {
    fn new(
        feed: Feed,
        consul: Arc<Consul>,
        needed: watch::Receiver<bool>,
        events: mpsc::Sender<(Feed, FeedEvent)>,
        memory: M,
    ) -> Self {
        Self { feed, consul, needed, events, memory, cursor: cursor(), works: false }
    }

    async fn run(mut self) {
        loop {
            if self.needed.wait_for(|needed| *needed).await.is_err() {
                return;
            }
            let mut place = self.consul.client.feed_place().await;
            while *self.needed.borrow() {
                if self.round(&mut place).await.is_err() {
                    return;
                }
            }
            // What was remembered is too old to compare with when the feed is needed again.
            self.works = false;
            self.cursor.start_over();
        }
    }

    async fn round(&mut self, place: &mut Place) -> Result<(), ()> {
        self.cursor.ready().await;
        let request = self.consul.client.committed(M::request());
        let wait = self.cursor.wait(WAIT);
        let answer = self.consul.client.poll(request, wait, place).await;
        let started = Instant::now();
        let read = match answer {
            Ok(answer) => read::<M::Answer>(answer, M::EXPECTED).await,
            Err(error) => Err(error),
        };
        match read {
            Ok(answer) => {
                if let Some(changed) = self.compare(answer) {
                    self.events.send((self.feed, FeedEvent::Changed(changed))).await.map_err(drop)?;
                }
                // A cluster of many thousand checks answers with megabytes: leave most of the core to others.
                tokio::time::sleep((started.elapsed() * 3).min(Duration::from_secs(2))).await;
            }
            Err(error) => self.failed(&error).await?,
        }
        Ok(())
    }

    /// What the answer shows; nothing if the poll only ran out.
    fn compare(&mut self, answer: Indexed<Option<M::Answer>>) -> Option<Changed> {
        let before = self.cursor.after();
        let stepped_back = self.cursor.went_back(answer.index);
        self.cursor.succeeded();
        if self.cursor.after() == before && self.works {
            return None;
        }
        let mut changed = self.memory.differ(answer.value.unwrap_or_default());
        changed.works_again = !self.works;
        changed.perhaps_all |= stepped_back || !self.works;
        self.works = true;
        Some(changed)
    }

    async fn failed(&mut self, error: &EngineError) -> Result<(), ()> {
        self.works = false;
        let first = !self.cursor.is_failing();
        let pause = self.cursor.failed(error);
        if first {
            self.events.send((self.feed, FeedEvent::Failed(error.to_string()))).await.map_err(drop)?;
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(node: &str, id: &str, service: &str, status: &str) -> Check {
        let json = serde_json::json!({"Node": node, "CheckID": id, "Status": status, "ServiceName": service, "ServiceID": format!("{service}-1")});
        serde_json::from_value(json).unwrap()
    }

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn checks_name_the_service_or_the_node_that_changed() {
        let mut memory = Checks::default();
        let all = |web: &str, serf: &str| {
            vec![
                check("n1", "serfHealth", "", serf),
                check("n1", "web-1", "web", web),
                check("n2", "db-1", "db", "passing"),
            ]
        };
        let first = memory.differ(all("passing", "passing"));
        assert_eq!((names(&first.services), names(&first.nodes)), (vec!["db", "web"], vec!["n1"]));
        assert_eq!(memory.differ(all("passing", "passing")), Changed::default());
        let flipped = memory.differ(all("critical", "passing"));
        assert_eq!((names(&flipped.services), names(&flipped.nodes)), (vec!["web"], vec![]));
        let node = memory.differ(all("critical", "critical"));
        assert_eq!((names(&node.services), names(&node.nodes)), (vec![], vec!["n1"]));
        let gone = memory.differ(vec![]);
        assert_eq!((names(&gone.services), names(&gone.nodes)), (vec!["db", "web"], vec!["n1"]));
    }

    #[test]
    fn a_check_that_moves_touches_both_services() {
        let mut memory = Checks::default();
        memory.differ(vec![check("n1", "c", "old", "passing")]);
        let moved = memory.differ(vec![check("n1", "c", "new", "passing")]);
        assert_eq!(names(&moved.services), ["new", "old"]);
    }

    #[test]
    fn services_may_change_all_and_name_new_removed_and_retagged_ones() {
        let mut memory = Services::default();
        let catalog = |entries: &[(&str, &[&str])]| {
            let tags = |tags: &[&str]| Some(tags.iter().map(|tag| (*tag).to_owned()).collect());
            entries.iter().map(|(name, list)| ((*name).to_owned(), tags(list))).collect()
        };
        memory.differ(catalog(&[("a", &["x", "y"]), ("b", &[]), ("c", &[])]));
        let changed = memory.differ(catalog(&[("a", &["y", "x"]), ("b", &["new"]), ("d", &[])]));
        assert_eq!(names(&changed.services), ["b", "c", "d"]);
        assert!(changed.perhaps_all);
    }
}
