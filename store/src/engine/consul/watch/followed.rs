//! One service somebody wants to know about: what was last told of it, and how it is told.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::engine::{Endpoint, Indexed, Reading, Result, ServiceChange};

/// Where changes go; the watch ends when nobody receives them.
pub(super) type Outlet = mpsc::Sender<ServiceChange>;

/// The receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unheard;

/// A service in use, or one whose last poll is still running out.
#[derive(Debug)]
pub(super) struct Followed {
    /// The service's name.
    pub(super) service: String,
    /// Which time it is wanted; zero while it is not.
    subscription: AtomicU64,
    /// Held over reading and telling by shared readers, so that an older reading never follows a newer one.
    last: AsyncMutex<Told>,
    /// The nodes its instances stand on, as last read: a check of a node concerns all of them.
    nodes: Mutex<Vec<String>>,
}

/// What the receiver knows, and since which subscription.
#[derive(Debug, Default)]
pub(super) struct Told {
    subscription: u64,
    known: Known,
}

#[derive(Debug, Default)]
enum Known {
    #[default]
    Nothing,
    Answer(Vec<Endpoint>),
    Outage,
}

impl Followed {
    pub(super) fn new(service: &str, subscription: u64) -> Self {
        Self {
            service: service.to_owned(),
            subscription: AtomicU64::new(subscription),
            last: AsyncMutex::default(),
            nodes: Mutex::default(),
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.subscription.load(Ordering::Acquire) != 0
    }

    /// Wanted (again): the next reading is told even if it is as before.
    pub(super) fn want(&self, subscription: u64) {
        self.subscription.store(subscription, Ordering::Release);
    }

    pub(super) fn unwant(&self) {
        self.subscription.store(0, Ordering::Release);
    }

    pub(super) fn stands_on(&self, is_named: impl Fn(&str) -> bool) -> bool {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().any(|node| is_named(node))
    }

    /// Keeps other readers of the service waiting until what is read now was told.
    pub(super) async fn hold(&self) -> tokio::sync::MutexGuard<'_, Told> {
        self.last.lock().await
    }

    /// As [`Followed::hold`], unless a reading is under way.
    pub(super) fn try_hold(&self) -> Option<tokio::sync::MutexGuard<'_, Told>> {
        self.last.try_lock().ok()
    }

    /// Tells what was read if it is news: other instances, the first reading, or the end or the start of an
    /// outage.
    pub(super) async fn tell(
        &self,
        told: &mut Told,
        outlet: &Outlet,
        read: Result<Indexed<Vec<Endpoint>>>,
    ) -> std::result::Result<(), Unheard> {
        let subscription = self.subscription.load(Ordering::Acquire);
        if subscription == 0 {
            return Ok(());
        }
        if told.subscription != subscription {
            *told = Told { subscription, known: Known::Nothing };
        }
        let Some(reading) = told.known.news(read) else { return Ok(()) };
        if let Known::Answer(endpoints) = &told.known {
            let mut nodes: Vec<_> = endpoints.iter().map(|endpoint| endpoint.node.clone()).collect();
            nodes.dedup();
            *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        }
        let change = ServiceChange { service: self.service.clone(), reading };
        outlet.send(change).await.map_err(|_| Unheard)
    }
}

impl Known {
    /// The index alone is no news: it moves with every other service of the table when this one is missing.
    fn news(&mut self, read: Result<Indexed<Vec<Endpoint>>>) -> Option<Reading> {
        match (&*self, read) {
            (Self::Answer(before), Ok(answer)) if *before == answer.value => None,
            (_, Ok(answer)) => {
                *self = Self::Answer(answer.value.clone());
                Some(Reading::Answered(answer))
            }
            (Self::Outage, Err(_)) => None,
            (_, Err(error)) => {
                *self = Self::Outage;
                Some(Reading::Unreachable(error.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineError, Index};

    fn answer(index: u64) -> Result<Indexed<Vec<Endpoint>>> {
        Ok(Indexed { index: Index(index), value: Vec::new() })
    }

    fn outage() -> Result<Indexed<Vec<Endpoint>>> {
        Err(EngineError::Unreachable("gone".to_owned()))
    }

    #[tokio::test]
    async fn only_news_is_told_and_an_outage_once() {
        let (outlet, mut changes) = mpsc::channel(16);
        let followed = Followed::new("web", 1);
        let mut told = followed.hold().await;
        for read in [answer(1), answer(2), outage(), outage(), answer(2), answer(3)] {
            followed.tell(&mut told, &outlet, read).await.unwrap();
        }
        followed.want(2);
        followed.tell(&mut told, &outlet, answer(4)).await.unwrap();
        followed.unwant();
        followed.tell(&mut told, &outlet, outage()).await.unwrap();
        drop(outlet);
        let mut heard = Vec::new();
        while let Some(change) = changes.recv().await {
            heard.push(match change.reading {
                Reading::Answered(answer) => answer.index.0,
                Reading::Unreachable(_) => 0,
            });
        }
        // The first, the outage, its end, and the first of the second subscription.
        assert_eq!(heard, [1, 0, 2, 4]);
    }
}
