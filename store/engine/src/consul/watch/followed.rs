//! One followed service: what was last sent about it, and when a reading is sent.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::{Endpoint, Indexed, Reading, Result, ServiceChange};

/// Where changes go; the watch ends when the receiver is dropped.
pub(super) type ChangeSender = mpsc::Sender<ServiceChange>;

/// The receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiverGone;

/// A service in use, or one whose last poll has not ended yet.
#[derive(Debug)]
pub(super) struct Followed {
    /// The service's name.
    pub(super) service: String,
    /// The number of the current subscription; zero while the service is not in use.
    subscription: AtomicU64,
    /// Locked by shared readers while they read and send, so that an older reading never follows a newer one.
    last: AsyncMutex<LastSent>,
    /// The nodes its instances are on, as last read: a check of a node concerns all of them.
    nodes: Mutex<Vec<String>>,
}

/// What the receiver was sent last, and for which subscription.
#[derive(Debug, Default)]
pub(super) struct LastSent {
    subscription: u64,
    known: Known,
}

#[derive(Debug, Default)]
enum Known {
    #[default]
    Nothing,
    Answer(Indexed<Vec<Endpoint>>),
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

    /// The service is in use (again): the next reading is sent even if it is equal to the last.
    pub(super) fn mark_wanted(&self, subscription: u64) {
        self.subscription.store(subscription, Ordering::Release);
    }

    pub(super) fn mark_unwanted(&self) {
        self.subscription.store(0, Ordering::Release);
    }

    pub(super) fn has_instance_on(&self, is_named: impl Fn(&str) -> bool) -> bool {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().any(|node| is_named(node))
    }

    /// Keeps other readers of the service waiting until what is read now was sent.
    pub(super) async fn lock(&self) -> tokio::sync::MutexGuard<'_, LastSent> {
        self.last.lock().await
    }

    /// As [`Followed::lock`], unless a reading is under way.
    pub(super) fn try_lock(&self) -> Option<tokio::sync::MutexGuard<'_, LastSent>> {
        self.last.try_lock().ok()
    }

    /// Sends what was read if it is new: other instances, the same instances at another index, the first reading, or
    /// the end or the start of an outage.
    pub(super) async fn send_if_new(
        &self,
        last: &mut LastSent,
        sender: &ChangeSender,
        read: Result<Indexed<Vec<Endpoint>>>,
    ) -> std::result::Result<(), ReceiverGone> {
        let subscription = self.subscription.load(Ordering::Acquire);
        if subscription == 0 {
            return Ok(());
        }
        if last.subscription != subscription {
            *last = LastSent { subscription, known: Known::Nothing };
        }
        let Some(reading) = last.known.update(read) else { return Ok(()) };
        if let Known::Answer(answer) = &last.known {
            let mut nodes: Vec<_> = answer.value.iter().map(|endpoint| endpoint.node.clone()).collect();
            nodes.dedup();
            *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        }
        let change = ServiceChange { service: self.service.clone(), reading };
        sender.send(change).await.map_err(|_| ReceiverGone)
    }
}

impl Known {
    /// The reading to send, if it is new. An index that moved without a change of the instances is new too: a later
    /// answer that lacks instances is judged by whether the index grew since they were last listed, and Consul raises it
    /// also for what is not shown here (the output of a check, another check of the node). Without instances it is not
    /// new: the index of a missing service moves with every other service.
    fn update(&mut self, read: Result<Indexed<Vec<Endpoint>>>) -> Option<Reading> {
        match (&*self, read) {
            (Self::Answer(before), Ok(answer))
                if before.value == answer.value
                    && (before.index == answer.index || answer.value.is_empty()) =>
            {
                None
            }
            (_, Ok(answer)) => {
                *self = Self::Answer(answer.clone());
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
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::{EngineError, Index};

    fn answer(index: u64) -> Result<Indexed<Vec<Endpoint>>> {
        Ok(Indexed { index: Index(index), value: Vec::new() })
    }

    fn outage() -> Result<Indexed<Vec<Endpoint>>> {
        Err(EngineError::Unreachable("gone".to_owned()))
    }

    #[tokio::test]
    async fn only_changes_are_sent_and_an_outage_once() {
        let (sender, mut changes) = mpsc::channel(16);
        let followed = Followed::new("web", 1);
        let mut last = followed.lock().await;
        for read in [answer(1), answer(2), outage(), outage(), answer(2), answer(3)] {
            followed.send_if_new(&mut last, &sender, read).await.unwrap();
        }
        followed.mark_wanted(2);
        followed.send_if_new(&mut last, &sender, answer(4)).await.unwrap();
        followed.mark_unwanted();
        followed.send_if_new(&mut last, &sender, outage()).await.unwrap();
        drop(sender);
        let mut received = Vec::new();
        while let Some(change) = changes.recv().await {
            received.push(match change.reading {
                Reading::Answered(answer) => answer.index.0,
                Reading::Unreachable(_) => 0,
            });
        }
        // The first, the outage, its end, and the first of the second subscription.
        assert_eq!(received, [1, 0, 2, 4]);
    }

    #[derive(Clone, Debug)]
    enum Read {
        Answers { index: u64, instances: Vec<Endpoint> },
        Fails,
    }

    fn read() -> impl Strategy<Value = Read> {
        let lists: Vec<Vec<Endpoint>> =
            (0..3_usize).map(|count| (0..count).map(endpoint).collect()).collect();
        prop_oneof![
            5 => (1..6_u64, select(lists)).prop_map(|(index, instances)| Read::Answers { index, instances }),
            1 => Just(Read::Fails),
        ]
    }

    fn endpoint(id: usize) -> Endpoint {
        crate::testing::endpoint("orders", &format!("o{id}"))
    }

    proptest! {
        /// The receiver has the instances as last read and, where there are any, the index they were read at, because
        /// the next answer is judged by it.
        #[test]
        fn the_receiver_has_what_was_read_last_and_its_index(reads in vec(read(), 1..30)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (sender, mut changes) = mpsc::channel(64);
                let followed = Followed::new("web", 1);
                let mut last = followed.lock().await;
                let mut received = None;
                for read in reads {
                    let answer = match &read {
                        Read::Answers { index, instances } => {
                            Ok(Indexed { index: Index(*index), value: instances.clone() })
                        }
                        Read::Fails => outage(),
                    };
                    followed.send_if_new(&mut last, &sender, answer).await.unwrap();
                    while let Ok(change) = changes.try_recv() {
                        prop_assert!(received.as_ref() != Some(&change.reading), "sent twice");
                        received = Some(change.reading);
                    }
                    match (&read, &received) {
                        (Read::Answers { index, instances }, Some(Reading::Answered(known))) => {
                            prop_assert_eq!(&known.value, instances);
                            prop_assert!(known.value.is_empty() || known.index == Index(*index), "{:?}", known.index);
                        }
                        (Read::Fails, Some(Reading::Unreachable(_))) => {}
                        (read, received) => prop_assert!(false, "{read:?}, and received was {received:?}"),
                    }
                }
                Ok(())
            })?;
        }
    }
}
