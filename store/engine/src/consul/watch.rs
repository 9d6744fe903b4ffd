//! Following any number of services over a bounded number of long polls.
//!
//! As many services as there are places (64) have a long poll of their own. The others share two feeds that
//! report which of them to read again: see [`feeds`]. Readings of those go through one [`queue`], eight at a
//! time. A slow round over all of them makes up for changes that the feeds do not report.
//!
//! A poll is never cancelled because its service is no longer in use: the server would keep its place anyway. It
//! runs to its end, and its place then goes to a service that had none. Long polls are dropped only with the watch.

mod feeds;
mod followed;
mod queue;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use self::{
    feeds::{Changed, Feed, FeedEvent},
    followed::{ChangeSender, Followed, ReceiverGone},
    queue::{Lane, Queue},
};
use super::{
    Consul, INSTANCES,
    client::{Place, read},
    wire,
};
use crate::{
    Backoff, Endpoint, Engine, EngineError, Index, Indexed, Result, Retry, ServiceChange, ServicesInUse,
    Wait, follower::cursor::Cursor, pace::Bucket, vital,
};

/// How long a poll waits: long enough to be cheap, short enough for its place to come free again soon.
const WAIT: Duration = Duration::from_secs(55);
/// Answers to one poll that may follow one another at once, …
const BURST: u32 = 5;
/// … and then this many a second.
const PER_SECOND: u32 = 10;
/// Readings of shared services at once, …
const READINGS: usize = 8;
/// … that may be begun at once, so that a sweep of an ordinary cluster takes no longer than it must, …
const READINGS_BURST: u32 = 2_000;
/// … and then this many a second, …
const READINGS_PER_SECOND: u32 = 500;
/// … or this many while a feed fails, to be no burden to a cluster in trouble.
const READINGS_PER_SECOND_IN_TROUBLE: u32 = 20;
/// In this time every shared service is read once, even if the feeds report nothing.
const ROUND: Duration = Duration::from_secs(300);
/// How often free places are given away and the slow round continues.
const TICK: Duration = Duration::from_secs(1);
/// Changes on their way to the receiver.
const CHANGES: usize = 256;

/// The wait after a failure: from 100 ms, so that the watchers of a cluster in trouble are no burden to it.
fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
}

/// A cursor for one long poll. Failures are passed on to the follower of services, which logs them by service.
fn cursor() -> Cursor {
    Cursor::new(BURST, PER_SECOND, Retry::default().backoff(backoff()))
}

/// Starts the watch; it ends when the receiver is dropped.
pub(super) fn start(consul: Arc<Consul>, in_use: ServicesInUse) -> mpsc::Receiver<ServiceChange> {
    let (sender, changes) = mpsc::channel(CHANGES);
    let following = ServiceWatch::new(consul, sender).run(in_use);
    tokio::spawn(vital::task("the watch of Consul's services", following));
    changes
}

/// How a service's own poll ended: its place can serve another.
type Ended = (String, Place);
/// How a reading ended: the service, and whether it succeeded.
type Done = (String, std::result::Result<bool, ReceiverGone>);

struct ServiceWatch {
    consul: Arc<Consul>,
    sender: ChangeSender,
    /// Services in use, and those whose own poll is still running out.
    services: BTreeMap<String, Arc<Followed>>,
    /// Services in use without a poll of their own.
    shared: BTreeSet<String>,
    /// Services with a poll of their own, in use or not.
    own: HashSet<String>,
    polls: JoinSet<Ended>,
    readings: JoinSet<Done>,
    queue: Queue,
    bucket: Bucket,
    needed: watch::Sender<bool>,
    events: mpsc::Receiver<(Feed, FeedEvent)>,
    _feeds: JoinSet<()>,
    failing: Vec<Feed>,
    subscriptions: u64,
    /// Where the slow round has come to.
    round_at: String,
}

impl ServiceWatch {
    fn new(consul: Arc<Consul>, sender: ChangeSender) -> Self {
        let (needed, need) = watch::channel(false);
        let (event_sender, events) = mpsc::channel(1);
        let mut running = JoinSet::new();
        for feed in [Feed::Checks, Feed::Services] {
            let following = feeds::run(feed, consul.clone(), need.clone(), event_sender.clone());
            running.spawn(vital::task("a feed of Consul's services", following));
        }
        Self {
            consul,
            sender,
            services: BTreeMap::new(),
            shared: BTreeSet::new(),
            own: HashSet::new(),
            polls: JoinSet::new(),
            readings: JoinSet::new(),
            queue: Queue::default(),
            bucket: Bucket::new(READINGS_BURST, READINGS_PER_SECOND, Instant::now()),
            needed,
            events,
            _feeds: running,
            failing: Vec::new(),
            subscriptions: 0,
            round_at: String::new(),
        }
    }

    async fn run(mut self, mut in_use: ServicesInUse) {
        let first = in_use.borrow_and_update().clone();
        self.set_wanted(&first);
        let mut holder_lives = true;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sender = self.sender.clone();
        loop {
            let pause = self.start_readings();
            let outcome = tokio::select! {
                () = sender.closed() => return,
                changed = in_use.changed(), if holder_lives => {
                    // Without a holder the set stays as it is.
                    holder_lives = changed.is_ok();
                    let wanted = in_use.borrow_and_update().clone();
                    self.set_wanted(&wanted);
                    Ok(())
                }
                Some(ended) = self.polls.join_next() => {
                    match propagate_panic(ended) {
                        Some(ended) => self.poll_ended(ended),
                        None => return,
                    }
                    Ok(())
                }
                Some(done) = self.readings.join_next() => match propagate_panic(done) {
                    Some(done) => self.reading_done(done),
                    None => return,
                },
                Some((feed, event)) = self.events.recv() => self.handle_event(feed, event).await,
                _ = tick.tick() => {
                    self.continue_round();
                    Ok(())
                }
                () = sleep_if(pause) => Ok(()),
            };
            if outcome == Err(ReceiverGone) {
                return;
            }
        }
    }

    /// Follows exactly these services from now on.
    fn set_wanted(&mut self, wanted: &BTreeSet<String>) {
        let gone: Vec<_> = self.services.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in gone {
            self.abandon(&name);
        }
        let new: Vec<_> = wanted
            .iter()
            .filter(|name| !self.services.get(*name).is_some_and(|followed| followed.is_wanted()))
            .cloned()
            .collect();
        // Without jitter, many new services would all send their queries at once, now and after the first wait.
        let jitter = Duration::from_millis(if new.len() > 8 { 300 } else { 0 });
        for name in new {
            self.follow(&name, jitter);
        }
        self.set_needed();
    }

    fn follow(&mut self, name: &str, jitter: Duration) {
        self.subscriptions += 1;
        if let Some(followed) = self.services.get(name) {
            // Its own poll has not ended yet and simply continues; the first reading must not wait for it.
            followed.mark_wanted(self.subscriptions);
            self.queue.push(Lane::Urgent, name);
            return;
        }
        let followed = Arc::new(Followed::new(name, self.subscriptions));
        self.services.insert(name.to_owned(), followed.clone());
        match self.consul.client.own_place() {
            Some(place) => self.start_poll(followed, place, jitter),
            None => {
                self.shared.insert(name.to_owned());
                self.queue.push(Lane::Sweep, name);
            }
        }
    }

    fn abandon(&mut self, name: &str) {
        if let Some(followed) = self.services.get(name) {
            followed.mark_unwanted();
        }
        self.queue.forget(name);
        self.shared.remove(name);
        if !self.own.contains(name) {
            self.services.remove(name);
        }
    }

    fn start_poll(&mut self, followed: Arc<Followed>, place: Place, jitter: Duration) {
        self.own.insert(followed.service.clone());
        let polling = poll(self.consul.clone(), followed, self.sender.clone(), place, jitter);
        self.polls.spawn(vital::task("a poll of a service at Consul", polling));
    }

    fn poll_ended(&mut self, (name, place): Ended) {
        self.own.remove(&name);
        match self.services.get(&name).cloned() {
            // It came into use again just when its poll had stopped.
            Some(followed) if followed.is_wanted() => self.start_poll(followed, place, Duration::ZERO),
            _ => {
                self.services.remove(&name);
                self.promote(Some(place));
            }
        }
    }

    /// Gives free places to services that have none.
    fn promote(&mut self, mut place: Option<Place>) {
        while let Some(name) = self.shared.first().cloned() {
            let Some(free) = place.take().or_else(|| self.consul.client.own_place()) else { break };
            self.shared.remove(&name);
            if let Some(followed) = self.services.get(&name).cloned() {
                self.start_poll(followed, free, Duration::ZERO);
            }
        }
        self.set_needed();
    }

    /// The feeds poll for shared services only.
    fn set_needed(&self) {
        let need = !self.shared.is_empty();
        self.needed.send_if_modified(|needed| std::mem::replace(needed, need) != need);
    }

    /// Starts the readings that may be started now. Returns when the next may start, if it only has to wait.
    fn start_readings(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while self.readings.len() < READINGS && !self.queue.is_idle(now) {
            if let Err(wait) = self.bucket.take(now) {
                return Some(now + wait);
            }
            let Some(name) = self.queue.pop(now) else { break };
            let Some(followed) = self.services.get(&name).cloned() else {
                self.queue.done(&name, true, now);
                continue;
            };
            self.readings.spawn(reading(self.consul.clone(), followed, self.sender.clone()));
        }
        // With all readings under way the end of one of them wakes us.
        self.queue.next_due().filter(|_| self.readings.len() < READINGS)
    }

    fn reading_done(&mut self, (name, outcome): Done) -> std::result::Result<(), ReceiverGone> {
        let in_use = self.services.get(&name).is_some_and(|followed| followed.is_wanted());
        // A service with a poll of its own needs no second try.
        self.queue.done(&name, outcome? || !in_use || self.own.contains(&name), Instant::now());
        Ok(())
    }

    /// Takes in what a feed reports.
    async fn handle_event(&mut self, feed: Feed, event: FeedEvent) -> std::result::Result<(), ReceiverGone> {
        match event {
            FeedEvent::Changed(changed) => self.read_again(feed, &changed),
            FeedEvent::Failed(reason) => {
                if !self.failing.contains(&feed) {
                    self.failing.push(feed);
                }
                self.bucket.set_rate(READINGS_PER_SECOND_IN_TROUBLE);
                self.send_outage(&reason).await?;
            }
        }
        Ok(())
    }

    fn read_again(&mut self, feed: Feed, changed: &Changed) {
        if changed.works_again {
            self.failing.retain(|failing| *failing != feed);
            if self.failing.is_empty() {
                self.bucket.set_rate(READINGS_PER_SECOND);
            }
        }
        for name in &self.shared {
            let on_changed_node = || {
                let followed = self.services.get(name);
                followed.is_some_and(|followed| followed.has_instance_on(|node| changed.nodes.contains(node)))
            };
            let surely = changed.services.contains(name) || (!changed.nodes.is_empty() && on_changed_node());
            if surely && !changed.works_again {
                self.queue.push(Lane::Urgent, name);
            } else if surely || changed.perhaps_all {
                self.queue.push(Lane::Sweep, name);
            }
        }
    }

    /// Reports every shared service as unreachable: without a feed a change would be missed.
    async fn send_outage(&self, reason: &str) -> std::result::Result<(), ReceiverGone> {
        for followed in self.shared.iter().filter_map(|name| self.services.get(name)) {
            // A reading that is under way reports its own result.
            if let Some(mut last) = followed.try_lock() {
                let outage = Err(EngineError::Unreachable(reason.to_owned()));
                followed.send_if_new(&mut last, &self.sender, outage).await?;
            }
        }
        Ok(())
    }

    /// Reads the next few of the shared services, so that all are read within [`ROUND`].
    fn continue_round(&mut self) {
        self.promote(None);
        let ticks = usize::try_from(ROUND.as_secs() / TICK.as_secs()).unwrap_or(1);
        let share = self.shared.len().div_ceil(ticks);
        let after = (std::ops::Bound::Excluded(self.round_at.as_str()), std::ops::Bound::Unbounded);
        let next: Vec<_> = self.shared.range::<str, _>(after).take(share).cloned().collect();
        self.round_at = next.last().cloned().unwrap_or_default();
        for name in next {
            self.queue.push(Lane::Sweep, &name);
        }
    }
}

/// Long-polls one service until it is no longer wanted.
async fn poll(
    consul: Arc<Consul>,
    followed: Arc<Followed>,
    sender: ChangeSender,
    mut place: Place,
    jitter: Duration,
) -> Ended {
    tokio::time::sleep(jitter.mul_f64(fastrand::f64())).await;
    let mut cursor = cursor();
    let mut at_most = WAIT.mul_f64(0.5 + fastrand::f64() / 2.0);
    while followed.is_wanted() {
        cursor.ready().await;
        let wait = cursor.wait(at_most);
        let read = read_service(&consul, &followed.service, wait, &mut place).await;
        let pause = match &read {
            Ok(answer) => {
                cursor.went_back(answer.index);
                cursor.succeeded();
                if wait.after > Index(0) {
                    at_most = WAIT;
                }
                None
            }
            Err(error) => Some(cursor.failed(error)),
        };
        let mut last = followed.lock().await;
        if followed.send_if_new(&mut last, &sender, read).await == Err(ReceiverGone) {
            break;
        }
        drop(last);
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    (followed.service.clone(), place)
}

async fn read_service(
    consul: &Consul,
    service: &str,
    wait: Wait,
    place: &mut Place,
) -> Result<Indexed<Vec<Endpoint>>> {
    let answer = consul.client.poll(consul.health_request(service), wait, place).await?;
    let answer = read::<Vec<wire::Instance>>(answer, INSTANCES).await?;
    Ok(Indexed { index: answer.index, value: wire::endpoints(answer.value.unwrap_or_default()) })
}

/// Reads one service once and sends what is new.
async fn reading(consul: Arc<Consul>, followed: Arc<Followed>, sender: ChangeSender) -> Done {
    let mut last = followed.lock().await;
    let read = consul.health(&followed.service, None).await;
    let succeeded = read.is_ok();
    let outcome = followed.send_if_new(&mut last, &sender, read).await;
    (followed.service.clone(), outcome.map(|()| succeeded))
}

async fn sleep_if(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// What a task returned; nothing if the runtime ended it. A panic of the task continues here, so that the holder sees
/// the watch end.
fn propagate_panic<T>(joined: std::result::Result<T, tokio::task::JoinError>) -> Option<T> {
    joined.map_err(|error| error.try_into_panic().map(std::panic::resume_unwind)).ok()
}
