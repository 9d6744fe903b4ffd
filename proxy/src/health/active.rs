//! The gateway's own dials: of instances whose service has a check, and of all that are down until they answer again.
//!
//! One task for the whole gateway. The dialler is the one that discovery has (the program joins the prober's checks to
//! it); without one a TCP connection decides.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::FuturesUnordered};
use store::{
    dial::{Answer, Dial, Dialer, Handshake},
    model::{Check, Moment, Probe, TcpProbe},
};
use tokio::{net::TcpStream, time::Instant};

use super::{
    schedule::{Need, Schedule},
    vitals::{Changes, Dials, Vitals},
};

/// How often it is looked whether a dial is due.
const TICK: Duration = Duration::from_millis(100);
/// How often the instances in use are gone through when no condition changed.
const ROUND_EVERY: Duration = Duration::from_secs(2);
/// The most dials at once.
const AT_ONCE: usize = 64;
/// Limit of a dial without a check.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// An instance that can be dialled.
pub(crate) trait Dialled: fmt::Debug + Send + Sync + 'static {
    /// Its number; never reused.
    fn number(&self) -> u64;
    /// Its health.
    fn vitals(&self) -> &Vitals;
    /// Host and port.
    fn place(&self) -> (&str, u16);
    /// Its service's name in the registry, and its own id, for the log.
    fn called(&self) -> (&str, &str);
}

/// How the instances of a service are dialled.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The service's check; without one accepting a connection is enough. With a time, well instances are dialled too,
    /// so often; without, only those that are down.
    pub(crate) check: Option<(Option<Duration>, Arc<Check>)>,
    /// How many dials decide.
    pub(crate) dials: Dials,
}

impl Plan {
    /// Whether the check asks for more than a connection, which requests show as well. An instance that fails it is to get no
    /// requests, however well it answers them.
    fn proves_more(&self) -> bool {
        let connects = |it: &Check| matches!(&it.probe, Probe::Tcp(tcp) if *tcp == TcpProbe::default());
        self.check.as_ref().is_some_and(|(_, check)| !connects(check))
    }

    fn need(&self, vitals: &Vitals) -> Option<Need> {
        if vitals.is_in_trouble() {
            return Some(Need::Soon);
        }
        self.check.as_ref().and_then(|(every, _)| every.map(Need::Regular))
    }
}

/// What the task needs of its surroundings.
pub(crate) trait Surroundings {
    /// An instance.
    type Instance: Dialled;
    /// The time.
    fn now(&self) -> Moment;
    /// Counts changes of conditions.
    fn changes(&self) -> &Changes;
    /// Every instance in use.
    fn in_use(&self, each: &mut dyn FnMut(&Arc<Self::Instance>));
    /// How instances of this service are dialled; `None` if it is not known any more.
    fn plan(&self, instance: &Self::Instance) -> Option<Plan>;
    /// How TLS is spoken with an instance, if requests to it are sent over TLS.
    fn tls(&self, instance: &Self::Instance) -> Option<Arc<dyn Handshake>>;
}

/// Dials until it is dropped.
pub(crate) async fn run(surroundings: &impl Surroundings, dialer: &Arc<dyn Dialer>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut checks = Checks::default();
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = interval.tick() => {
                let now = surroundings.now();
                checks.look(surroundings, now);
                while running.len() < AT_ONCE
                    && let Some((instance, dial, plan)) = checks.next(surroundings, now)
                {
                    let dialer = Arc::clone(dialer);
                    running.push(async move { (dialer.dial(&dial).await, instance, plan) });
                }
            }
            Some((answer, instance, plan)) = running.next(), if !running.is_empty() => {
                checks.done(&*instance, &plan, &answer, surroundings.now());
            }
        }
    }
}

/// The instances in use and when they are dialled.
#[derive(Debug)]
struct Checks<T> {
    schedule: Schedule,
    instances: HashMap<u64, Weak<T>>,
    seen: Option<u64>,
    looked: Moment,
    /// How soon they are gone through again after a change.
    pace: Duration,
}

impl<T> Default for Checks<T> {
    fn default() -> Self {
        Self {
            schedule: Schedule::default(),
            instances: HashMap::new(),
            seen: None,
            looked: Moment(0),
            pace: Duration::ZERO,
        }
    }
}

impl<T: Dialled> Checks<T> {
    /// Goes through the instances in use if a condition changed or some time has passed. Among a hundred thousand instances a
    /// condition changes all the time, so this takes a twentieth of a processor at most.
    fn look(&mut self, surroundings: &impl Surroundings<Instance = T>, now: Moment) {
        let changes = surroundings.changes().count();
        let pause = if self.seen == Some(changes) { ROUND_EVERY } else { self.pace };
        if now.since(self.looked) < pause {
            return;
        }
        let began = Instant::now();
        (self.seen, self.looked) = (Some(changes), now);
        self.schedule.begin_round();
        self.instances.clear();
        surroundings.in_use(&mut |instance| {
            let need = surroundings.plan(instance).and_then(|plan| plan.need(instance.vitals()));
            if let Some(need) = need {
                self.schedule.follow(instance.number(), need, now, fastrand::f64());
                self.instances.insert(instance.number(), Arc::downgrade(instance));
            }
        });
        self.schedule.end_round();
        self.pace = (began.elapsed() * 20).min(ROUND_EVERY);
    }

    /// The next dial that is due and needed.
    fn next(
        &mut self,
        surroundings: &impl Surroundings<Instance = T>,
        now: Moment,
    ) -> Option<(Arc<T>, Dial, Plan)> {
        while let Some(number) = self.schedule.pop(now) {
            let Some(instance) = self.instances.get(&number).and_then(Weak::upgrade) else { continue };
            let Some(plan) = surroundings.plan(&instance) else { continue };
            match plan.need(instance.vitals()) {
                // Traffic shows what the check would, or it came up by itself and has no check.
                Some(Need::Regular(interval))
                    if !plan.proves_more()
                        && instance.vitals().unseen_for(now).is_some_and(|it| it < interval) =>
                {
                    self.schedule.done(number, Need::Regular(interval), now, fastrand::f64());
                }
                None => {}
                Some(_) => {
                    let (host, port) = instance.place();
                    let dial = Dial {
                        address: host.to_owned(),
                        port,
                        check: plan.check.as_ref().map(|(_, check)| Check::clone(check)),
                        tls: surroundings.tls(&instance),
                    };
                    return Some((instance, dial, plan));
                }
            }
        }
        None
    }

    /// Notes what a dial showed.
    fn done(&mut self, instance: &T, plan: &Plan, answer: &Answer, now: Moment) {
        let vitals = instance.vitals();
        let (service, id) = instance.called();
        match answer {
            Answer::Answered => {
                let connected = vitals.dial_answered(plan.dials, now);
                let passed = if plan.proves_more() {
                    vitals.check_passed(plan.dials, now)
                } else {
                    vitals.forget_checks(now)
                };
                if (connected || passed) && !vitals.is_down() {
                    tracing::info!(service, instance = id, "instance answers again and gets requests");
                }
            }
            Answer::Failed(reason) => {
                let went_down = if plan.proves_more() {
                    vitals.check_failed(plan.dials, now)
                } else {
                    vitals.dial_failed(plan.dials, now)
                };
                if went_down {
                    tracing::warn!(service, instance = id, reason, "instance is down: its check fails");
                }
            }
            Answer::Unable(_) => {}
        }
        if let Some(need) = plan.need(vitals) {
            self.schedule.done(instance.number(), need, now, fastrand::f64());
        }
    }
}

/// Dials by TCP alone, where the program passes no dialler in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Connections;

#[async_trait]
impl Dialer for Connections {
    async fn dial(&self, dial: &Dial) -> Answer {
        let connecting = TcpStream::connect((dial.address.as_str(), dial.port));
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => {
                // Closed by a reset, so that repeated dials leave no sockets in TIME_WAIT.
                let _ = stream.set_zero_linger();
                Answer::Answered
            }
            Ok(Err(error)) if is_own(&error) => Answer::Unable(error.to_string()),
            Ok(Err(error)) => Answer::Failed(error.to_string()),
            Err(_) => Answer::Failed("no answer in time".to_owned()),
        }
    }
}

/// True for failures of this machine rather than of the instance: no descriptor, no port, no such address family.
pub(crate) fn is_own(error: &io::Error) -> bool {
    /// `ENFILE`, `EMFILE`, `ENOBUFS`, `ENOMEM`, `EAFNOSUPPORT`.
    const OWN: [i32; 5] = [23, 24, 105, 12, 97];
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error().is_some_and(|it| OWN.contains(&it))
}

#[cfg(test)]
#[path = "active_tests.rs"]
mod tests;
