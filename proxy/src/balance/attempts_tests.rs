//! A small simulation of requests with retries over instances that behave in certain ways, in virtual time: what failed
//! in the field, and more of the same kinds.

use std::collections::BTreeMap;

use super::{
    super::{
        lineup::hash,
        retry::{FailedAttempt, RequestBody, Retry, RetryPolicy, may_retry},
        view::{PickContext, tests::World},
    },
    *,
};
use crate::{
    health::{Condition, Sent},
    retry_budget::RetryBudget,
};

const OK: Outcome = Outcome::Answered { status: 200, retry_after: None };
const RESET: Outcome = Outcome::Reset(Sent::All);
const BROKEN: Outcome = Outcome::Answered { status: 500, retry_after: None };

/// What an instance makes of a target.
type Behaviour<'a> = &'a dyn Fn(&str, &str) -> Outcome;

struct Gateway {
    world: World,
    budget: RetryBudget,
    ejected: u32,
    downs: u32,
}

impl Gateway {
    fn of(instances: &[&str]) -> Self {
        Self {
            world: World::of(instances),
            budget: RetryBudget::new(20, 10, Moment(0)),
            ejected: 0,
            downs: 0,
        }
    }

    /// Two instances at home and one at another site.
    fn two_and_one() -> Self {
        Self::of(&["s1 passing a", "s1 passing b", "s0 passing z"])
    }

    fn note(&mut self, changed: Changed) {
        self.ejected += changed.ejected;
        self.downs += u32::from(changed.went_down);
    }

    /// One request; the last outcome and the instances that had it.
    fn request(&mut self, method: &str, path: &str, behaviour: Behaviour<'_>) -> (Outcome, String) {
        let mut attempts = Attempts::new(hash(&[method.as_bytes(), b"web.example.com", path.as_bytes()]));
        let (mut asked, mut repeated, mut last) = (String::new(), 0, None);
        self.world.pass(Duration::from_millis(20));
        self.budget.earn(None, self.world.now);
        while let Ok(instance) = self.world.pick(attempts.tried(), None) {
            let now = self.world.now;
            let _in_flight = self.world.instances.begin(&instance, Moment(0));
            let outcome = behaviour(&instance.endpoint.id, path);
            asked.push_str(&instance.endpoint.id);
            last = Some(outcome);
            if outcome.says() != Says::DialFailed {
                self.note(Attempts::connected(&instance, now));
            }
            let took = Some(Duration::from_millis(5));
            let changed = attempts.report(&instance, outcome, took, now);
            self.note(changed);
            let sent = if outcome.says() == Says::DialFailed { Sent::Nothing } else { Sent::All };
            let failed = FailedAttempt {
                outcome,
                sent,
                body: RequestBody::Empty,
                idempotent: crate::http1::Method::of(method.as_bytes()).is_idempotent(),
                repeated,
                another: true,
                answer_begun: false,
                left: Duration::from_secs(9),
            };
            if outcome == OK {
                break;
            }
            match may_retry(&failed, &RetryPolicy::default(), &mut self.budget, now, 0.0) {
                Retry::Anew => {}
                Retry::Now => repeated += 1,
                Retry::After(_) | Retry::No(_) => break,
            }
        }
        let changed = attempts.end(self.world.now);
        self.note(changed);
        (last.unwrap_or(Outcome::Excluded), asked)
    }

    /// So many requests; how many each instance answered, and `failed`.
    fn requests(
        &mut self,
        count: usize,
        (method, path): (&str, &str),
        behaviour: Behaviour<'_>,
    ) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..count {
            let (outcome, asked) = self.request(method, path, behaviour);
            let who = if outcome == OK { asked[asked.len() - 1..].to_owned() } else { "failed".to_owned() };
            *counts.entry(who).or_default() += 1;
        }
        counts
    }

    fn is_ejected(&self, id: &str) -> bool {
        let condition = self.world.instance(id).vitals.condition(self.world.now);
        matches!(condition, Condition::Ejected { .. })
    }
}

fn well(_: &str, _: &str) -> Outcome {
    OK
}

/// True if only these served.
fn only(counts: &BTreeMap<String, usize>, who: &[&str]) -> bool {
    counts.keys().all(|it| who.contains(&it.as_str()))
}

#[test]
fn clients_that_stop_in_an_upload_eject_no_instance() {
    let mut gateway = Gateway::two_and_one();
    for outcome in [
        Outcome::ClientStalled,
        Outcome::ClientGone,
        Outcome::ClientInvalid,
        Outcome::ClientSlow,
        Outcome::AnsweredEarly { status: 500 },
        Outcome::AnsweredEarly { status: 413 },
        Outcome::HeadTooLarge,
        Outcome::FramingRefused,
        Outcome::IdleEnded,
    ] {
        for number in 0..60 {
            gateway.request("POST", &format!("/upload/{number}"), &|_, _| outcome);
        }
        assert_eq!((gateway.ejected, gateway.downs), (0, 0), "{outcome:?}");
    }
    let counts = gateway.requests(423, ("GET", "/"), &well);
    assert!(only(&counts, &["a", "b"]) && counts.values().all(|it| *it > 150), "{counts:?}");
}

#[test]
fn a_site_whose_instances_are_all_killed_fails_no_request() {
    for count in 1..=12 {
        let home: Vec<_> = (0..count).map(|number| format!("s1 passing i{number}")).collect();
        let all: Vec<_> = home.iter().map(String::as_str).chain(["s0 passing z"]).collect();
        let mut gateway = Gateway::of(&all);
        let killed = |id: &str, _: &str| if id == "z" { OK } else { Outcome::DialRefused };
        let counts = gateway.requests(50, ("POST", "/"), &killed);
        assert_eq!(counts, BTreeMap::from([("z".to_owned(), 50)]), "of {count}");
        assert_eq!(gateway.downs, count, "and all are known to be down");
    }
}

// The engine reports the head of an answer as soon as it is there, and then what became of its body.
#[test]
fn one_url_whose_answers_break_off_ejects_no_instance() {
    use Outcome::{BodyCut, BodyStalled, ClientGone, ClientSlow, ClientStalled};
    for broken in [[BodyCut, ClientStalled], [BodyStalled, ClientSlow], [BodyCut, ClientGone], [BodyCut; 2]] {
        let mut gateway = Gateway::of(&["s1 passing a", "s1 passing b", "s1 passing c", "s0 passing z"]);
        for round in 0..100 {
            gateway.world.pass(Duration::from_millis(20));
            let mut attempts = Attempts::new(7);
            let instance = gateway.world.pick(&[], None).unwrap();
            let now = gateway.world.now;
            for outcome in [OK, broken[round % 2]] {
                let changed = attempts.report(&instance, outcome, None, now);
                gateway.note(changed);
            }
            let changed = attempts.end(now);
            gateway.note(changed);
        }
        assert_eq!((gateway.ejected, gateway.downs), (0, 0), "{broken:?}");
    }
}

#[test]
fn one_url_that_ends_the_connection_ejects_no_instance() {
    for method in ["GET", "POST"] {
        for outcome in [RESET, BROKEN, Outcome::Late, Outcome::BodyCut, Outcome::NotHttp] {
            let mut gateway = Gateway::two_and_one();
            gateway.requests(10, ("GET", "/"), &well);
            let crash = |_: &str, path: &str| if path == "/crash" { outcome } else { OK };
            gateway.requests(8, (method, "/crash"), &crash);
            let counts = gateway.requests(60, ("GET", "/"), &crash);
            assert!(only(&counts, &["a", "b"]), "{method} {outcome:?}: {counts:?}");
            assert_eq!((gateway.ejected, gateway.downs), (0, 0), "{method} {outcome:?}");
        }
    }
}

#[test]
fn urls_that_differ_eject_no_site_either() {
    for method in ["GET", "POST"] {
        let mut gateway = Gateway::two_and_one();
        let crash = |_: &str, path: &str| if path.starts_with("/crash") { RESET } else { OK };
        for number in 0..200 {
            gateway.request(method, &format!("/crash/{number}"), &crash);
            if number % 10 == 0 {
                gateway.request("GET", "/", &crash);
            }
            let home = usize::from(gateway.is_ejected("a")) + usize::from(gateway.is_ejected("b"));
            assert!(home < 2, "one always stays");
        }
        let counts = gateway.requests(60, ("GET", "/"), &crash);
        assert!(only(&counts, &["a", "b"]), "{method}: {counts:?}");
    }
}

// What a client asks for fails everywhere: other paths, another query, another body.
#[test]
fn urls_that_fail_everywhere_eject_no_instance() {
    type Kind = (&'static str, fn(usize) -> String, fn(&str) -> bool);
    let kinds: [Kind; 3] = [
        ("GET", |number| format!("/status/{}", 500 + number % 5), |path| path.starts_with("/status")),
        ("POST", |number| format!("/crash/{number}"), |path| path.starts_with("/crash")),
        ("POST", |number| format!("/item?crash={number}"), |path| path.contains("crash")),
    ];
    for (method, path, fails) in kinds {
        for outcome in [BROKEN, Outcome::Late, RESET] {
            // From one honest request for each that fails to thirty.
            for honest in [1, 3, 10, 30] {
                for home in [2, 3, 5] {
                    let home: Vec<_> = (0..home).map(|number| format!("s1 passing i{number}")).collect();
                    let all: Vec<_> = home.iter().map(String::as_str).chain(["s0 passing z"]).collect();
                    let mut gateway = Gateway::of(&all);
                    let behaviour = |_: &str, path: &str| if fails(path) { outcome } else { OK };
                    for number in 0..300 {
                        gateway.request(method, &path(number), &behaviour);
                        for _ in 0..honest {
                            gateway.request(method, "/item", &behaviour);
                        }
                    }
                    let of = (method, path(1), outcome, honest, all.len());
                    assert_eq!(gateway.ejected, 0, "{of:?}");
                }
            }
        }
    }
}

#[test]
fn one_that_fails_quicker_than_others_answer_does_not_get_all_requests() {
    for (method, outcome) in [("GET", BROKEN), ("POST", RESET)] {
        for paths in [1, 100] {
            let mut gateway = Gateway::two_and_one();
            for _ in 0..10 {
                let now = gateway.world.now;
                gateway.world.instance("a").vitals.latency.observe(Duration::from_micros(100), now);
                gateway.world.instance("b").vitals.latency.observe(Duration::from_millis(50), now);
            }
            let ill = |id: &str, _: &str| if id == "a" { outcome } else { OK };
            let mut failed = 0;
            for number in 0..500 {
                failed += usize::from(gateway.request(method, &format!("/{}", number % paths), &ill).0 != OK);
            }
            assert!(failed < 100, "{method} {outcome:?}: {failed} of 500 failed");
            assert!(gateway.ejected > 0);
        }
    }
}

#[test]
fn an_ill_instance_is_ejected_and_no_other() {
    let home = ["s1 passing a", "s1 passing b", "s1 passing c", "s0 passing z"];
    for (method, outcome) in
        [("GET", RESET), ("POST", RESET), ("POST", BROKEN), ("GET", BROKEN), ("GET", Outcome::Late)]
    {
        let mut gateway = Gateway::of(&home);
        let ill = |id: &str, _: &str| if id == "b" { outcome } else { OK };
        let mut requests = 0;
        // A service with one URL.
        while gateway.ejected == 0 && requests < 100 {
            gateway.request(method, "/graphql", &ill);
            requests += 1;
        }
        assert!(gateway.is_ejected("b"), "{method} {outcome:?}");
        assert!(requests < 60, "{method} {outcome:?}: after {requests}");
        let counts = gateway.requests(100, (method, "/graphql"), &ill);
        assert!(only(&counts, &["a", "c"]), "{method} {outcome:?}: {counts:?}");
    }
}

#[test]
fn when_all_answer_badly_none_is_ejected_and_no_request_leaves_the_site() {
    let mut gateway = Gateway::two_and_one();
    let all_ill = |_: &str, _: &str| BROKEN;
    for number in 0..100 {
        let (_, asked) = gateway.request("POST", &format!("/{}", number % 7), &all_ill);
        assert!(!asked.contains('z'), "{asked}");
    }
    assert_eq!(gateway.ejected, 0);
}

#[test]
fn an_instance_that_is_killed_is_down_and_costs_no_request() {
    let home = ["s1 passing a", "s1 passing b", "s1 passing c", "s1 passing d", "s0 passing z"];
    let mut gateway = Gateway::of(&home);
    let dead = |id: &str, _: &str| if id == "b" { Outcome::DialRefused } else { OK };
    let counts = gateway.requests(100, ("POST", "/"), &dead);
    assert!(only(&counts, &["a", "c", "d"]), "{counts:?}");
    assert_eq!((gateway.downs, gateway.ejected), (1, 0));
}

#[test]
fn a_site_that_is_killed_is_left_at_once_without_a_failed_request() {
    let mut gateway = Gateway::of(&["s1 passing a", "s1 passing b", "s0 passing z", "s0 passing y"]);
    let dead = |id: &str, _: &str| if "ab".contains(id) { Outcome::DialRefused } else { OK };
    let counts = gateway.requests(200, ("POST", "/"), &dead);
    assert!(only(&counts, &["y", "z"]), "{counts:?}");
    assert_eq!((gateway.downs, gateway.ejected), (2, 0), "no cap on those that are down");
    let (_, asked) = gateway.request("GET", "/", &dead);
    assert_eq!(asked.len(), 1, "and they are not dialled for requests");
}

#[test]
fn when_all_are_down_one_answer_proves_one_up() {
    let mut gateway = Gateway::of(&["s1 passing a", "s1 passing b"]);
    gateway.requests(20, ("GET", "/"), &|_, _| Outcome::DialTimedOut);
    assert_eq!(gateway.downs, 2);
    let counts = gateway.requests(20, ("GET", "/"), &well);
    assert_eq!(counts.values().sum::<usize>(), 20);
    assert!(!counts.contains_key("failed"), "{counts:?}");
}

#[test]
fn the_count_of_failures_is_the_gateways_and_not_a_workers() {
    let world = World::of(&["s1 passing a", "s1 passing b"]);
    let mut workers = [world.build(), world.build(), world.build()];
    let a = world.instance("a");
    for worker in 0..3 {
        let mut attempts = Attempts::new(1);
        attempts.report(&a, Outcome::DialRefused, None, world.now);
        assert_eq!(a.vitals.is_down(), worker == 2, "three dials of three workers");
    }
    for view in &mut workers {
        let context = PickContext { tried: &[], key: None, now: world.now };
        let changes = world.instances.changes.count();
        for _ in 0..20 {
            let picked = view.pick(&context, changes, |_| {}, &mut fastrand::Rng::with_seed(1)).unwrap();
            assert_eq!(picked.instance.endpoint.id, "b");
        }
    }
}

#[test]
fn one_that_asks_to_be_left_alone_gets_less_when_others_answer() {
    let mut gateway = Gateway::two_and_one();
    let asks = Some(Duration::from_secs(5));
    let busy = |id: &str, _: &str| match id {
        "a" => Outcome::Answered { status: 503, retry_after: asks },
        _ => OK,
    };
    gateway.requests(6, ("POST", "/"), &busy);
    let counts = gateway.requests(100, ("POST", "/"), &busy);
    assert!(counts.get("failed").copied().unwrap_or_default() <= 2, "{counts:?}");
    let counts =
        gateway.requests(50, ("GET", "/"), &|_, _| Outcome::Answered { status: 429, retry_after: asks });
    assert_eq!((counts["failed"], gateway.is_ejected("b")), (50, false), "a 429 is a client's matter");
}

#[test]
fn an_ejected_instance_comes_back_and_is_ejected_for_longer_if_it_fails_again() {
    let mut gateway = Gateway::two_and_one();
    let ill = |id: &str, _: &str| if id == "a" { RESET } else { OK };
    let mut rests = Vec::new();
    for _ in 0..3 {
        for _ in 0..200 {
            if !gateway.is_ejected("a") {
                gateway.request("GET", "/", &ill);
            }
        }
        let begun = gateway.world.now;
        while gateway.is_ejected("a") {
            gateway.world.pass(Duration::from_millis(100));
        }
        rests.push(gateway.world.now.since(begun).as_secs_f64().round() as u64);
    }
    assert_eq!(rests, [5, 10, 20]);
}

#[test]
fn an_instance_whose_answers_break_off_is_ejected_though_they_begin_well() {
    let world = World::of(&["s1 passing a", "s1 passing b"]);
    let (a, b) = (world.instance("a"), world.instance("b"));
    for number in 1..=5 {
        let mut attempts = Attempts::new(7);
        attempts.report(&a, OK, None, world.now);
        attempts.report(&a, Outcome::BodyCut, None, world.now);
        assert_eq!(attempts.end(world.now).ejected, u32::from(number == 5));
        for _ in 0..3 {
            let mut attempts = Attempts::new(7);
            attempts.report(&b, OK, None, world.now);
            attempts.end(world.now);
        }
    }
}

#[test]
fn a_connection_ends_a_row_of_failed_dials_whatever_comes_of_the_request() {
    let world = World::of(&["s1 passing a"]);
    let a = world.instance("a");
    for outcome in [
        RESET,
        BROKEN,
        Outcome::HeadTooLarge,
        Outcome::FramingRefused,
        Outcome::AnsweredEarly { status: 500 },
    ] {
        for _ in 0..2 {
            Attempts::new(7).report(&a, Outcome::DialRefused, None, world.now);
        }
        Attempts::new(7).report(&a, outcome, None, world.now);
        assert!(!a.vitals.is_in_trouble(), "{outcome:?}");
    }
    for outcome in [Outcome::ClientGone, Outcome::IdleEnded, Outcome::DialUnable] {
        Attempts::new(7).report(&a, Outcome::DialRefused, None, world.now);
        Attempts::new(7).report(&a, outcome, None, world.now);
        assert!(a.vitals.is_in_trouble(), "{outcome:?} shows no connection");
        Attempts::connected(&a, world.now);
    }
}
