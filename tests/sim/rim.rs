//! The rim of the program's nodes: the engine, the admin addresses and the targets, each over the simulated network.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use prober::{
    Admin, Canary, Failed,
    check::{Dialer, Fault, Phases},
};
use store::{
    dial::Dial,
    engine::{
        CheckStatus, Endpoint, Engine, EngineError, Indexed, KvEntry, KvOp, Reading, Registration,
        Result as Answer, ServiceChange, ServicesInUse, Session, SessionId, SessionSpec, TxnOutcome, Wait,
    },
    health::{Batch, BatchReply, State, TargetKey, Work, WorkTarget},
    keys,
    model::Name,
};
use tokio::sync::mpsc;

use crate::{
    net::{Call, Gone, Id, Request, Response, Seat, Value, draw, lock},
    oracle::Inputs,
    run::Sabotage,
    sites::sabotage,
};

/// The longest a poll waits at its other end.
pub const POLL: Duration = Duration::from_secs(8);
const GRACE: Duration = Duration::from_secs(3);
const PLAIN: Duration = Duration::from_secs(2);

/// A node's way to its engine.
#[derive(Debug)]
pub struct Link {
    pub seat: Seat,
    pub engine: Id,
    /// The messages that this node received, for the oracle.
    pub inputs: Arc<Mutex<Inputs>>,
    pub sabotage: Sabotage,
}

fn away() -> EngineError {
    EngineError::Unreachable("simulated".into())
}

fn strange() -> EngineError {
    EngineError::Unusable("simulated: an answer to something else".into())
}

impl Link {
    async fn ask(&self, call: Call) -> Answer<Value> {
        let wait = match &call {
            Call::Get(_, wait) | Call::List(_, wait) | Call::Services(wait) | Call::Health(_, wait) => {
                wait.filter(|wait| wait.after.0 > 0)
            }
            _ => None,
        };
        let patience = wait.map_or(PLAIN, |wait| wait.at_most + GRACE);
        match self.seat.call(self.engine, Request::Engine(call), patience).await {
            Some(Response::Engine(answer)) => answer,
            _ => {
                lock(&self.inputs).cut_off();
                Err(away())
            }
        }
    }
}

#[async_trait]
impl Engine for Link {
    async fn kv_get(&self, key: &str, wait: Option<Wait>) -> Answer<Indexed<Option<KvEntry>>> {
        let Value::Entry(read) = self.ask(Call::Get(key.to_owned(), wait)).await? else {
            return Err(strange());
        };
        let mut inputs = lock(&self.inputs);
        inputs.configuration(self.seat.true_now());
        if key == keys::ADOPTION {
            if self.sabotage == Sabotage::IgnoreAdoptions {
                return Ok(Indexed { value: None, ..read });
            }
            inputs.adoption(read.value.as_ref());
        }
        Ok(read)
    }

    async fn kv_list(&self, prefix: &str, wait: Option<Wait>) -> Answer<Indexed<Vec<KvEntry>>> {
        let Value::Entries(mut read) = self.ask(Call::List(prefix.to_owned(), wait)).await? else {
            return Err(strange());
        };
        let mut inputs = lock(&self.inputs);
        inputs.take_in(prefix, &read.value, self.seat.true_now());
        if self.sabotage == Sabotage::CountStale && prefix == keys::HEARTBEATS {
            inputs.revive(&mut read.value);
        }
        Ok(read)
    }

    async fn kv_keys(&self, prefix: &str) -> Answer<Vec<String>> {
        let Value::Keys(keys) = self.ask(Call::Keys(prefix.to_owned())).await? else { return Err(strange()) };
        Ok(keys)
    }

    async fn txn(&self, mut ops: Vec<KvOp>) -> Answer<TxnOutcome> {
        ops.retain(|it| !sabotage::loses_part(self.sabotage, it));
        if ops.is_empty() {
            return Ok(TxnOutcome::Committed(Vec::new()));
        }
        let Value::Outcome(outcome) = self.ask(Call::Txn(ops)).await? else { return Err(strange()) };
        Ok(outcome)
    }

    async fn services(&self, wait: Option<Wait>) -> Answer<Indexed<BTreeMap<String, Vec<String>>>> {
        let Value::Services(read) = self.ask(Call::Services(wait)).await? else { return Err(strange()) };
        Ok(read)
    }

    async fn health(&self, service: &str, wait: Option<Wait>) -> Answer<Indexed<Vec<Endpoint>>> {
        let Value::Endpoints(read) = self.ask(Call::Health(service.to_owned(), wait)).await? else {
            return Err(strange());
        };
        Ok(read)
    }

    fn watch(self: Arc<Self>, in_use: ServicesInUse) -> mpsc::Receiver<ServiceChange> {
        let (changes, received) = mpsc::channel(16);
        tokio::spawn(watch(self, in_use, changes));
        received
    }

    async fn register(&self, _: &Registration) -> Answer<()> {
        Err(away())
    }

    async fn ttl_update(&self, _: &str, _: CheckStatus, _: &str) -> Answer<()> {
        Err(away())
    }

    async fn deregister(&self, _: &str) -> Answer<()> {
        Err(away())
    }

    async fn evict(&self, endpoint: &Endpoint, reason: &str) -> Answer<()> {
        self.ask(Call::Evict(endpoint.clone(), reason.to_owned())).await.map(drop)
    }

    async fn readmit(&self, endpoint: &Endpoint) -> Answer<()> {
        self.ask(Call::Readmit(endpoint.clone())).await.map(drop)
    }

    async fn session_create(&self, spec: &SessionSpec) -> Answer<SessionId> {
        let Value::Session(id) = self.ask(Call::SessionCreate(spec.clone())).await? else {
            return Err(strange());
        };
        Ok(id)
    }

    async fn session_renew(&self, id: &SessionId) -> Answer<bool> {
        let Value::Renewed(renewed) = self.ask(Call::SessionRenew(id.clone())).await? else {
            return Err(strange());
        };
        Ok(renewed)
    }

    async fn session_destroy(&self, id: &SessionId) -> Answer<()> {
        self.ask(Call::SessionDestroy(id.clone())).await.map(drop)
    }

    async fn sessions(&self) -> Answer<Vec<Session>> {
        let Value::Sessions(sessions) = self.ask(Call::Sessions).await? else { return Err(strange()) };
        Ok(sessions)
    }
}

/// Follows each service that is in use over a poll of its own.
async fn watch(link: Arc<Link>, mut in_use: ServicesInUse, changes: mpsc::Sender<ServiceChange>) {
    let mut polls: BTreeMap<String, tokio::task::AbortHandle> = BTreeMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let wanted = Arc::clone(&in_use.borrow_and_update());
        polls.retain(|service, poll| {
            let stays = wanted.contains(service);
            if !stays {
                poll.abort();
            }
            stays
        });
        for service in wanted.iter() {
            polls.entry(service.clone()).or_insert_with(|| {
                tasks.spawn(follow_service(Arc::clone(&link), service.clone(), changes.clone()))
            });
        }
        tokio::select! {
            biased;
            changed = in_use.changed() => if changed.is_err() { return },
            () = changes.closed() => return,
        }
    }
}

async fn follow_service(link: Arc<Link>, service: String, changes: mpsc::Sender<ServiceChange>) {
    let (mut after, mut away) = (None, false);
    loop {
        let wait = after.map(|after| Wait { after, at_most: POLL });
        let reading = match link.health(&service, wait).await {
            Ok(read) => {
                let news = away || after != Some(read.index);
                (after, away) = (Some(read.index), false);
                news.then_some(Reading::Answered(read))
            }
            Err(error) => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let news = !std::mem::replace(&mut away, true);
                after = None;
                news.then(|| Reading::Unreachable(error.to_string()))
            }
        };
        let Some(reading) = reading else { continue };
        if changes.send(ServiceChange { service: service.clone(), reading }).await.is_err() {
            return;
        }
    }
}

/// The engine's other end.
pub async fn serve(engine: &dyn Engine, call: Call) -> Answer<Value> {
    Ok(match call {
        Call::Get(key, wait) => Value::Entry(engine.kv_get(&key, wait).await?),
        Call::List(prefix, wait) => Value::Entries(engine.kv_list(&prefix, wait).await?),
        Call::Keys(prefix) => Value::Keys(engine.kv_keys(&prefix).await?),
        Call::Txn(ops) => Value::Outcome(engine.txn(ops).await?),
        Call::SessionCreate(spec) => Value::Session(engine.session_create(&spec).await?),
        Call::SessionRenew(id) => Value::Renewed(engine.session_renew(&id).await?),
        Call::SessionDestroy(id) => {
            engine.session_destroy(&id).await?;
            Value::Done
        }
        Call::Sessions => Value::Sessions(engine.sessions().await?),
        Call::Services(wait) => Value::Services(engine.services(wait).await?),
        Call::Health(service, wait) => Value::Endpoints(engine.health(&service, wait).await?),
        Call::Evict(endpoint, reason) => {
            engine.evict(&endpoint, &reason).await?;
            Value::Done
        }
        Call::Readmit(endpoint) => {
            engine.readmit(&endpoint).await?;
            Value::Done
        }
    })
}

/// The failed probes that justify the reports of a vantage.
#[derive(Debug, Default)]
pub struct Evidence {
    /// When a target last failed while this vantage could reach others, by true time.
    failed: BTreeMap<TargetKey, u64>,
    reported_down: BTreeSet<TargetKey>,
    /// Reports of Down that were not withheld, without any such failure.
    pub slander: Vec<String>,
}

impl Evidence {
    /// After this long, a failure has been reported, or was this vantage's own.
    const KEPT: u64 = 12_000;

    fn reported(&mut self, batch: &Batch, now: u64) {
        for seen in batch.observations.iter().filter(|_| !batch.withheld) {
            if seen.state != State::Down {
                self.reported_down.remove(&seen.target);
            } else if self.reported_down.insert(seen.target.clone())
                && self.failed.get(&seen.target).is_none_or(|at| at + Self::KEPT < now)
            {
                self.slander.push(format!("{} reported {}: {}", batch.vantage, seen.target, seen.reason));
            }
        }
    }
}

/// A prober's way to one control.
#[derive(Debug)]
pub struct Office {
    pub seat: Seat,
    pub name: String,
    pub control: Id,
    pub vantage: Name,
    pub canaries: bool,
    pub evidence: Arc<Mutex<Evidence>>,
}

#[async_trait]
impl Admin for Office {
    fn base(&self) -> &str {
        &self.name
    }

    async fn report(&self, batch: &Batch) -> Result<BatchReply, Failed> {
        // Without canaries, a vantage that is cut off from some of its targets does not notice it; the quorum decides.
        if self.canaries {
            lock(&self.evidence).reported(batch, self.seat.true_now());
        }
        let patience = if batch.full { PLAIN * 5 } else { PLAIN };
        match self.seat.call(self.control, Request::Report(batch.clone()), patience).await {
            Some(Response::Report(answer)) => answer,
            _ => Err(Failed::Unanswered("simulated".into())),
        }
    }

    async fn work(&self, index: u64) -> Result<Work, Failed> {
        let request = Request::Work { vantage: self.vantage.clone(), index };
        match self.seat.call(self.control, request, POLL + POLL / 2).await {
            Some(Response::Work(answer)) => answer,
            _ => Err(Failed::Unanswered("simulated".into())),
        }
    }
}

/// A reader's way to instances in doubt: it meets the same network as a probe.
#[derive(Debug)]
pub struct Doors {
    pub seat: Seat,
    pub sites: BTreeMap<IpAddr, Id>,
}

#[async_trait]
impl store::dial::Dialer for Doors {
    async fn dial(&self, dial: &Dial) -> store::dial::Answer {
        if dial.address.starts_with("192.0.3.") {
            // Instances of connected sites are reached whatever is cut between the sites.
            tokio::time::sleep(Duration::from_millis(15)).await;
            return store::dial::Answer::Answered;
        }
        let site = dial.address.parse().ok().and_then(|address: IpAddr| self.sites.get(&address).copied());
        let gone = {
            let net = lock(&self.seat.net);
            site.map_or(Some(Gone::Refused), |site| {
                net.is_cut(self.seat.id, site).or_else(|| net.dead.get(&site).copied())
            })
        };
        let patience = if gone == Some(Gone::Silent) { 1_000 } else { 15 };
        tokio::time::sleep(Duration::from_millis(patience)).await;
        match gone {
            Some(_) => store::dial::Answer::Failed("simulated".to_owned()),
            None => store::dial::Answer::Answered,
        }
    }
}

/// A vantage's way to the targets.
#[derive(Debug)]
pub struct Roads {
    pub seat: Seat,
    pub seed: u64,
    pub sites: BTreeMap<IpAddr, Id>,
    pub canaries: Id,
    pub evidence: Arc<Mutex<Evidence>>,
    pub sabotage: Sabotage,
    pub dials: Mutex<BTreeMap<IpAddr, u64>>,
}

impl Roads {
    fn random(&self, to: IpAddr) -> fastrand::Rng {
        let mut dials = lock(&self.dials);
        let count = dials.entry(to).or_default();
        *count += 1;
        let host = match to {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(_) => 0,
        };
        draw(self.seed, &[2 << 32, self.seat.id.0.into(), host, *count, self.seat.began.1])
    }
}

#[async_trait]
impl Dialer for Roads {
    async fn dial(&self, target: &WorkTarget, _: &mut Phases) -> Result<Cow<'static, str>, Fault> {
        let mut random = self.random(target.address);
        let gone = {
            let net = lock(&self.seat.net);
            let site = self.sites.get(&target.address).copied();
            let gone = site.map_or(Some(Gone::Refused), |site| {
                net.is_cut(self.seat.id, site).or_else(|| net.dead.get(&site).copied())
            });
            let lost = site.is_some_and(|site| net.loses(self.seat.id, site, &mut random));
            let gone = if lost { gone.or(Some(Gone::Silent)) } else { gone };
            let cut_off = net.is_cut(self.seat.id, self.canaries).is_some();
            if gone.is_some() && !cut_off {
                lock(&self.evidence).failed.insert(target.key.clone(), self.seat.true_now());
            }
            gone
        };
        if gone == Some(Gone::Silent) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(2..40))).await;
        match gone {
            Some(_) => Err(Fault::Target("connection refused".to_owned())),
            None => Ok(Cow::Borrowed("connected")),
        }
    }

    async fn reach(&self, _: &Canary) -> Result<(), Fault> {
        let gone = lock(&self.seat.net).is_cut(self.seat.id, self.canaries);
        if self.sabotage == Sabotage::BlindToItself {
            return Ok(());
        }
        let patience = if gone == Some(Gone::Silent) {
            prober::check::CANARY_TIMEOUT
        } else {
            Duration::from_millis(15)
        };
        tokio::time::sleep(patience).await;
        if gone.is_some() { Err(Fault::Target("simulated".to_owned())) } else { Ok(()) }
    }
}
