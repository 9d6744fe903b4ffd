//! The gateway's own dials over a simulated network, in virtual time.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use store::model::{HttpProbe, Name, Probe, Quorum, Span, TcpProbe};

use super::{super::vitals::Condition, *};

#[derive(Debug)]
struct Patient {
    number: u64,
    vitals: Vitals,
    host: String,
}

impl Dialled for Patient {
    fn number(&self) -> u64 {
        self.number
    }
    fn vitals(&self) -> &Vitals {
        &self.vitals
    }
    fn place(&self) -> (&str, u16) {
        (&self.host, 80)
    }
    fn called(&self) -> (&str, &str) {
        ("web", &self.host)
    }
}

/// A dialler by host, which counts.
#[derive(Debug, Default)]
struct Network {
    down: Mutex<BTreeMap<String, Answer>>,
    dialled: Mutex<Vec<String>>,
}

#[async_trait]
impl Dialer for Network {
    async fn dial(&self, dial: &Dial) -> Answer {
        self.dialled.lock().unwrap().push(dial.address.clone());
        self.down.lock().unwrap().get(&dial.address).cloned().unwrap_or(Answer::Answered)
    }
}

#[derive(Debug)]
struct World {
    now: AtomicU64,
    changes: Changes,
    patients: Mutex<Vec<Arc<Patient>>>,
    plan: Plan,
    network: Arc<Network>,
}

impl Surroundings for World {
    type Instance = Patient;
    fn now(&self) -> Moment {
        Moment(self.now.load(Ordering::Relaxed))
    }
    fn changes(&self) -> &Changes {
        &self.changes
    }
    fn in_use(&self, each: &mut dyn FnMut(&Arc<Patient>)) {
        self.patients.lock().unwrap().iter().for_each(each);
    }
    fn plan(&self, _: &Patient) -> Option<Plan> {
        Some(self.plan.clone())
    }
    fn tls(&self, _: &Patient) -> Option<Arc<dyn Handshake>> {
        None
    }
}

impl World {
    fn new(check: bool, hosts: &[&str]) -> Self {
        let changes = Changes::default();
        let patient = |(number, host): (u64, &&str)| {
            Arc::new(Patient { number, vitals: Vitals::new(changes.clone()), host: (*host).to_owned() })
        };
        let patients = (0..).zip(hosts).map(patient).collect();
        let check = check.then(|| Check {
            name: "tcp".parse::<Name>().unwrap(),
            probe: Probe::Tcp(TcpProbe::default()),
            port: 80,
            interval: Span(Duration::from_secs(10)),
            timeout: Span(Duration::from_secs(1)),
            fall: 3,
            rise: 2,
            quorum: Quorum::default(),
            damping: Check::DAMPING,
        });
        let plan =
            Plan { check: check.map(|it| (Some(it.interval.0), Arc::new(it))), dials: Dials::default() };
        let patients = Mutex::new(patients);
        Self { now: AtomicU64::new(1), changes, patients, plan, network: Arc::default() }
    }

    /// Lets so many seconds pass in virtual time.
    async fn pass(&self, seconds: u64) -> usize {
        self.pass_while(seconds, || {}).await
    }

    /// The same, while something goes on, twenty times a second.
    async fn pass_while(&self, seconds: u64, goes_on: impl Fn()) -> usize {
        let before = self.network.dialled.lock().unwrap().len();
        let dialer: Arc<dyn Dialer> = Arc::<Network>::clone(&self.network);
        let clock = async {
            for _ in 0..seconds * 20 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.now.fetch_add(50, Ordering::Relaxed);
                goes_on();
            }
        };
        tokio::select! {
            () = run(self, &dialer) => {}
            () = clock => {}
        }
        self.network.dialled.lock().unwrap().len() - before
    }

    fn set(&self, host: &str, answer: Option<Answer>) {
        let mut down = self.network.down.lock().unwrap();
        match answer {
            Some(answer) => down.insert(host.to_owned(), answer),
            None => down.remove(host),
        };
    }

    fn patient(&self, number: usize) -> Arc<Patient> {
        Arc::clone(&self.patients.lock().unwrap()[number])
    }

    fn is_down(&self, number: usize) -> bool {
        matches!(self.patient(number).vitals.condition(self.now()), Condition::Down { .. })
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_check_only_what_is_down_is_dialled_until_it_answers() {
    let world = World::new(false, &["a", "b"]);
    assert_eq!(world.pass(30).await, 0);
    world.set("a", Some(Answer::Failed("connection refused".into())));
    for _ in 0..3 {
        world.patient(0).vitals.dial_failed(Dials::default(), world.now());
    }
    let dials = world.pass(30).await;
    assert!((25..=33).contains(&dials) && world.is_down(0), "{dials}");
    world.set("a", None);
    let dials = world.pass(10).await;
    assert!((2..=3).contains(&dials) && !world.is_down(0), "{dials}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_check_is_repeated_soon_and_proves_it_down_and_up() {
    let world = World::new(true, &["a", "b"]);
    let dials = world.pass(100).await;
    assert!((16..=24).contains(&dials), "{dials}");
    world.set("b", Some(Answer::Failed("503".into())));
    world.pass(16).await;
    assert!(world.is_down(1) && !world.is_down(0));
    world.set("b", None);
    world.pass(4).await;
    assert!(!world.is_down(1));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_cannot_dial_proves_nothing() {
    let world = World::new(true, &["a"]);
    world.set("a", Some(Answer::Unable("too many open files".into())));
    world.pass(120).await;
    assert!(!world.is_down(0));
}

#[tokio::test(start_paused = true)]
async fn a_check_of_more_than_a_connection_is_asked_and_heard_under_traffic() {
    let mut world = World::new(true, &["a"]);
    let check = world.plan.check.as_mut().map(|(_, check)| Arc::make_mut(check)).unwrap();
    check.probe = Probe::Http(Box::new(HttpProbe::get("/readyz", None, Vec::new())));
    // Requests are answered, and connections made for them.
    let serve = || {
        let patient = world.patient(0);
        patient.vitals.answered_well(world.now());
        patient.vitals.dial_answered(Dials::default(), world.now());
    };
    let dials = world.pass_while(100, serve).await;
    assert!((8..=12).contains(&dials), "{dials}");
    world.set("a", Some(Answer::Failed("500".into())));
    world.pass_while(16, serve).await;
    assert!(world.is_down(0), "though its requests are answered");
    world.set("a", None);
    world.pass_while(4, serve).await;
    assert!(!world.is_down(0));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_traffic_proves_well_is_not_dialled() {
    let world = World::new(true, &["a"]);
    let patient = world.patient(0);
    for _ in 0..100 {
        patient.vitals.answered_well(world.now());
        world.pass(1).await;
    }
    assert_eq!(world.network.dialled.lock().unwrap().len(), 0);
    assert!(world.pass(30).await >= 2, "when traffic stops, it is");
}
