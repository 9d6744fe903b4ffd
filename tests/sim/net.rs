//! The simulated network: requests and answers that take their time, get lost, come twice or late, and links that are
//! cut. Every draw is a hash of the seed and of the message, so that the order of requests in an instant changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prober::Failed;
use store::{
    engine::{
        Endpoint, EngineError, Indexed, KvEntry, KvOp, Session, SessionId, SessionSpec, TxnOutcome, Wait,
    },
    health::{Batch, BatchReply, Work},
    keys,
    model::Name,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

/// Nodes run this long, in milliseconds of true time, without hearing of one another: the least latency.
pub const WINDOW: u64 = 20;

/// A node, a site, or the place of the canaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u16);

/// A request to an engine.
#[derive(Clone, Debug)]
pub enum Call {
    Get(String, Option<Wait>),
    List(String, Option<Wait>),
    Keys(String),
    Txn(Vec<KvOp>),
    SessionCreate(SessionSpec),
    SessionRenew(SessionId),
    SessionDestroy(SessionId),
    Sessions,
    Services(Option<Wait>),
    Health(String, Option<Wait>),
    Evict(Endpoint, String),
    Readmit(Endpoint),
}

/// A call of a site's control by the control of another site.
#[derive(Clone, Debug)]
pub struct SiteCall {
    pub path: String,
    pub body: Option<Vec<u8>>,
    /// The site that is meant, if the caller knows it.
    pub meant: Option<Name>,
    /// The secret that it sends, and the site in the certificate that it shows.
    pub secret: String,
    pub shown: Name,
}

/// The answer to it: the status of HTTP, the site that answers, and the body.
#[derive(Clone, Debug)]
pub struct SiteAnswer {
    pub status: u16,
    pub site: Option<String>,
    pub body: Vec<u8>,
}

/// The answer of an engine.
#[derive(Clone, Debug)]
pub enum Value {
    Entry(Indexed<Option<KvEntry>>),
    Entries(Indexed<Vec<KvEntry>>),
    Keys(Vec<String>),
    Outcome(TxnOutcome),
    Session(SessionId),
    Renewed(bool),
    Done,
    Sessions(Vec<Session>),
    Services(Indexed<BTreeMap<String, Vec<String>>>),
    Endpoints(Indexed<Vec<Endpoint>>),
}

/// A request between nodes.
#[derive(Clone, Debug)]
pub enum Request {
    Engine(Call),
    Report(Batch),
    Work { vantage: Name, index: u64 },
    Site(SiteCall),
}

impl Request {
    /// A digest of what it is about.
    fn about(&self, to: Id) -> u64 {
        let key = |op: &KvOp| match op {
            KvOp::Set { key, .. }
            | KvOp::Cas { key, .. }
            | KvOp::Delete { key }
            | KvOp::CheckIndex { key, .. }
            | KvOp::CheckSession { key, .. }
            | KvOp::Lock { key, .. }
            | KvOp::Unlock { key, .. } => key.clone(),
            KvOp::DeleteTree { prefix } => prefix.clone(),
        };
        // Drains and audit entries have a random id each.
        let key = |op: &KvOp| {
            let key = key(op);
            let random = [keys::DRAINS, keys::RECEIPTS].into_iter().find(|it| key.starts_with(it));
            random.map_or(key, str::to_owned)
        };
        let about = match self {
            Self::Engine(Call::Get(key, _)) => format!("get {key}"),
            Self::Engine(Call::List(prefix, _)) => format!("list {prefix}"),
            Self::Engine(Call::Keys(prefix)) => format!("keys {prefix}"),
            Self::Engine(Call::Txn(ops)) => {
                format!(
                    "txn {}",
                    ops.iter()
                        .filter(|it| !key(it).starts_with(keys::AUDIT))
                        .map(key)
                        .collect::<Vec<_>>()
                        .join(" ")
                )
            }
            Self::Engine(Call::SessionCreate(spec)) => format!("create {}", spec.name),
            Self::Engine(Call::SessionRenew(_)) => "renew".to_owned(),
            Self::Engine(Call::SessionDestroy(_)) => "destroy".to_owned(),
            Self::Engine(Call::Sessions) => "sessions".to_owned(),
            Self::Engine(Call::Services(_)) => "services".to_owned(),
            Self::Engine(Call::Health(service, _)) => format!("health {service}"),
            Self::Engine(Call::Evict(endpoint, _)) => format!("evict {}", endpoint.id),
            Self::Engine(Call::Readmit(endpoint)) => format!("readmit {}", endpoint.id),
            Self::Site(call) => format!("site {}", call.path),
            Self::Report(_) => "report".to_owned(),
            Self::Work { .. } => "work".to_owned(),
        };
        about.bytes().fold(0xcbf2_9ce4_8422_2325 ^ u64::from(to.0), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        })
    }
}

/// The answer to it.
#[derive(Clone, Debug)]
pub enum Response {
    Engine(Result<Value, EngineError>),
    Report(Result<BatchReply, Failed>),
    Work(Result<Work, Failed>),
    Site(SiteAnswer),
    /// The connection broke.
    Reset,
}

#[derive(Clone, Debug)]
pub enum Body {
    Request(Request),
    Response(Response),
}

#[derive(Clone, Debug)]
pub struct Message {
    pub from: Id,
    pub to: Id,
    pub number: u64,
    pub body: Body,
}

/// How a link or a site is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Packets vanish.
    Silent,
    /// Connections break and are refused.
    Refused,
}

type Pair = (Id, Id);

fn pair(a: Id, b: Id) -> Pair {
    if a < b { (a, b) } else { (b, a) }
}

/// The state of the network and of what is outside of it.
#[derive(Debug, Default)]
pub struct State {
    seed: u64,
    /// The number of requests of a node about one subject.
    numbers: BTreeMap<(Id, u64), u64>,
    in_flight: BTreeMap<(u64, Id, Id, u64, bool), Message>,
    waiting: BTreeMap<(Id, u64), oneshot::Sender<Response>>,
    requests: BTreeMap<(Id, u64), Id>,
    cuts: BTreeMap<Pair, Gone>,
    /// What is sent the one way vanishes.
    deaf: BTreeSet<(Id, Id)>,
    slow: BTreeMap<Pair, u64>,
    lossy: BTreeMap<Pair, f64>,
    down: BTreeSet<Id>,
    /// Sites that do not serve.
    pub dead: BTreeMap<Id, Gone>,
}

/// A draw that depends on nothing but what it is about.
pub fn draw(seed: u64, parts: &[u64]) -> fastrand::Rng {
    let mut mixed = seed ^ 0x9e37_79b9_7f4a_7c15;
    for part in parts {
        mixed = (mixed ^ part).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^= mixed >> 32;
    }
    fastrand::Rng::with_seed(mixed)
}

impl State {
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub fn cut(&mut self, a: Id, b: Id, how: Gone) {
        self.cuts.insert(pair(a, b), how);
        if how == Gone::Refused {
            let broken: Vec<_> = self
                .requests
                .iter()
                .filter(|((from, _), to)| pair(*from, **to) == pair(a, b))
                .map(|(it, _)| *it)
                .collect();
            broken.into_iter().for_each(|request| self.reset(request));
        }
    }

    /// Everything that `from` sends to `to` vanishes.
    pub fn cut_one_way(&mut self, from: Id, to: Id) {
        self.deaf.insert((from, to));
    }

    pub fn heal(&mut self, a: Id, b: Id) {
        self.deaf.remove(&(a, b));
        self.deaf.remove(&(b, a));
        self.cuts.remove(&pair(a, b));
        self.slow.remove(&pair(a, b));
        self.lossy.remove(&pair(a, b));
    }

    pub fn heal_all(&mut self) {
        self.cuts.clear();
        self.deaf.clear();
        self.slow.clear();
        self.lossy.clear();
    }

    /// True if some link or node is not as it should be.
    pub fn is_disturbed(&self) -> bool {
        let links = [self.cuts.is_empty(), self.slow.is_empty(), self.lossy.is_empty(), self.deaf.is_empty()];
        links.contains(&false) || !self.down.is_empty()
    }

    pub fn slow(&mut self, a: Id, b: Id, millis: u64) {
        self.slow.insert(pair(a, b), millis);
    }

    pub fn lossy(&mut self, a: Id, b: Id, share: f64) {
        self.lossy.insert(pair(a, b), share);
    }

    /// Whether a connection is possible.
    pub fn is_cut(&self, a: Id, b: Id) -> Option<Gone> {
        self.is_cut_on_the_way(a, b).or_else(|| self.is_cut_on_the_way(b, a))
    }

    fn is_cut_on_the_way(&self, from: Id, to: Id) -> Option<Gone> {
        let deaf = self.deaf.contains(&(from, to)).then_some(Gone::Silent);
        self.cuts.get(&pair(from, to)).copied().or(deaf)
    }

    /// The node died: its requests are forgotten, and those that wait for it get a reset or nothing.
    pub fn crash(&mut self, node: Id, how: Gone) {
        self.down.insert(node);
        self.waiting.retain(|(from, _), _| *from != node);
        let requests: Vec<_> =
            self.requests.iter().filter(|(_, to)| **to == node).map(|(it, _)| *it).collect();
        self.requests.retain(|(from, _), to| *from != node && *to != node);
        self.in_flight.retain(|_, message| message.from != node && message.to != node);
        if how == Gone::Refused {
            requests.into_iter().for_each(|request| self.reset(request));
        }
    }

    pub fn restart(&mut self, node: Id) {
        self.down.remove(&node);
    }

    pub fn is_down(&self, node: Id) -> bool {
        self.down.contains(&node)
    }

    fn reset(&mut self, request: (Id, u64)) {
        self.requests.remove(&request);
        if let Some(answer) = self.waiting.remove(&request) {
            // The node that sent the request may have given up.
            let _ = answer.send(Response::Reset);
        }
    }

    fn latency(&self, from: Id, to: Id, random: &mut fastrand::Rng) -> u64 {
        WINDOW
            + random.u64(0..40)
            + self.slow.get(&pair(from, to)).map_or(0, |most| random.u64(most / 2..=*most))
    }

    /// True if something that is sent now is lost on the way.
    pub fn loses(&self, from: Id, to: Id, random: &mut fastrand::Rng) -> bool {
        self.lossy.get(&pair(from, to)).is_some_and(|share| random.f64() < *share)
    }

    fn post(&mut self, at: u64, message: Message) {
        let response = matches!(message.body, Body::Response(_));
        self.in_flight.insert((at, message.from, message.to, message.number, response), message);
    }

    fn send(&mut self, from: Id, to: Id, request: Request, at: u64) -> oneshot::Receiver<Response> {
        // Numbered by what it is about, so that the order of two tasks of a node does not matter.
        let about = request.about(to);
        let count = self.numbers.entry((from, about)).or_default();
        *count += 1;
        let number = (about << 24) | *count;
        let (answer, answered) = oneshot::channel();
        let mut random = draw(self.seed, &[from.0.into(), to.0.into(), number]);
        let latency = self.latency(from, to, &mut random);
        let refused = match self.is_cut_on_the_way(from, to) {
            Some(how) => Some(how),
            None if self.is_down(to) => Some(if random.f64() < 0.8 { Gone::Refused } else { Gone::Silent }),
            None if self.loses(from, to, &mut random) => Some(Gone::Silent),
            None => None,
        };
        self.waiting.insert((from, number), answer);
        self.requests.insert((from, number), to);
        let reply = |body| Message { from: to, to: from, number, body };
        match refused {
            Some(Gone::Silent) => {}
            Some(Gone::Refused) => self.post(at + latency, reply(Body::Response(Response::Reset))),
            None => {
                let repeated = matches!(request, Request::Report(_)) && random.f64() < 0.03;
                let message = Message { from, to, number, body: Body::Request(request) };
                if repeated {
                    self.post(at + latency + random.u64(1..3_000), message.clone());
                }
                self.post(at + latency, message);
            }
        }
        answered
    }

    /// Sends an answer back.
    pub fn respond(&mut self, from: Id, to: Id, number: u64, response: Response, at: u64) {
        let mut random = draw(self.seed, &[1 << 32, from.0.into(), to.0.into(), number]);
        let response = match self.is_cut_on_the_way(from, to) {
            Some(Gone::Silent) => return,
            Some(Gone::Refused) => Response::Reset,
            None if self.is_down(from) || self.loses(from, to, &mut random) => return,
            None => response,
        };
        let latency = self.latency(from, to, &mut random);
        self.post(at + latency, Message { from, to, number, body: Body::Response(response) });
    }

    /// What arrives by `now`, in order.
    pub fn arrived(&mut self, now: u64) -> Vec<Message> {
        let later = self.in_flight.split_off(&(now + 1, Id(0), Id(0), 0, false));
        std::mem::replace(&mut self.in_flight, later).into_values().collect()
    }

    /// Gives an answer to the task that waits for it.
    pub fn answer(&mut self, to: Id, number: u64, response: Response) {
        self.requests.remove(&(to, number));
        if let Some(answer) = self.waiting.remove(&(to, number)) {
            // The node that sent the request may have given up.
            let _ = answer.send(response);
        }
    }
}

/// The network, shared by all nodes.
pub type Net = Arc<Mutex<State>>;

pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node's place in the network and in time.
#[derive(Clone, Debug)]
pub struct Seat {
    pub id: Id,
    pub net: Net,
    /// Its clock showed this at that true time, in milliseconds, and runs at this rate.
    pub began: (Instant, u64),
    pub rate: f64,
}

impl Seat {
    /// True time, in milliseconds, as far as this node has come.
    pub fn true_now(&self) -> u64 {
        let (began, at) = self.began;
        at + (began.elapsed().as_secs_f64() * 1_000.0 / self.rate) as u64
    }

    /// What this node's clock shows at a true time.
    pub fn local(&self, at: u64) -> Instant {
        let (began, since) = self.began;
        began + Duration::from_secs_f64((at - since) as f64 / 1_000.0 * self.rate)
    }

    /// Sends a request and waits; `None` without an answer.
    pub async fn call(&self, to: Id, request: Request, patience: Duration) -> Option<Response> {
        let answered = lock(&self.net).send(self.id, to, request, self.true_now());
        match timeout(patience, answered).await {
            Ok(Ok(Response::Reset) | Err(_)) | Err(_) => None,
            Ok(Ok(response)) => Some(response),
        }
    }
}
