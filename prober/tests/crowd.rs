//! Many targets at their worst moment, over a rim that the test owns: time is paused, nothing is dialled.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test binary")]

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use prober::{
    Admin, Canary, Config, Failed,
    check::{CANARY_TIMEOUT, Dialer, Fault, Phases},
    start_over,
};
use store::{
    handle::Clock,
    health::{Batch, BatchReply, State, TargetKey, Work, WorkTarget},
    model::{Check, Document, Moment, parse},
};
use tokio::time::{Instant, sleep};

const DOWN_AT: Duration = Duration::from_secs(8);
const UP_AT: Duration = Duration::from_secs(16);

/// What is wrong at a moment.
enum Wrong {
    Nothing,
    /// All targets refuse; the canary answers.
    Targets,
    /// Nothing that is sent arrives.
    OurOwnWay,
}

type Ask = Box<dyn Fn(Duration) -> Wrong + Send + Sync>;

struct Rim {
    start: Instant,
    wrong: Ask,
    targets: Vec<Arc<WorkTarget>>,
    /// The last reported state of each, and when.
    reported: Mutex<HashMap<TargetKey, (State, Duration)>>,
    largest: Mutex<usize>,
}

impl std::fmt::Debug for Rim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rim")
    }
}

#[async_trait]
impl Dialer for Rim {
    async fn dial(&self, _: &WorkTarget, _: &mut Phases) -> Result<Cow<'static, str>, Fault> {
        let wrong = (self.wrong)(self.start.elapsed());
        sleep(Duration::from_millis(1)).await;
        match wrong {
            Wrong::Nothing => Ok(Cow::Borrowed("connected")),
            Wrong::Targets => Err(Fault::Target("connection refused".to_owned())),
            Wrong::OurOwnWay => std::future::pending().await,
        }
    }

    async fn reach(&self, _: &Canary) -> Result<(), Fault> {
        let wrong = (self.wrong)(self.start.elapsed());
        sleep(Duration::from_millis(1)).await;
        if !matches!(wrong, Wrong::OurOwnWay) {
            return Ok(());
        }
        sleep(CANARY_TIMEOUT).await;
        Err(Fault::Target("no answer".to_owned()))
    }
}

#[async_trait]
impl Admin for Rim {
    fn base(&self) -> &str {
        "test"
    }

    async fn report(&self, batch: &Batch) -> Result<BatchReply, Failed> {
        sleep(Duration::from_millis(50)).await;
        let mut reported = self.reported.lock().unwrap();
        for seen in batch.observations.iter().filter(|_| !batch.withheld) {
            reported.insert(seen.target.clone(), (seen.state, self.start.elapsed()));
        }
        if !batch.full {
            let mut largest = self.largest.lock().unwrap();
            *largest = (*largest).max(batch.observations.len());
        }
        Ok(BatchReply::Accepted)
    }

    async fn work(&self, index: u64) -> Result<Work, Failed> {
        if index > 0 {
            std::future::pending::<()>().await;
        }
        Ok(Work { index: 1, targets: Some(self.targets.clone()), confirm: Vec::new() })
    }
}

fn targets(count: u32, timeout: &str) -> Vec<Arc<WorkTarget>> {
    let text = format!(
        "kind: Check\nname: web\ntype: tcp\nport: 80\ninterval: 5s\ntimeout: {timeout}\nfall: 4\nrise: 1\n"
    );
    let check: Check = match parse("test.yaml", &text).unwrap().remove(0).value {
        Document::Check(check) => check,
        other => panic!("{other:?}"),
    };
    let target = |n: u32| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + n).into();
        let (key, site) = (TargetKey::new(address, &check), "bj".parse().unwrap());
        Arc::new(WorkTarget { key, address, site, check: check.clone() })
    };
    (0..count).map(target).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A prober of these targets that runs for a while.
fn start(
    targets: Vec<Arc<WorkTarget>>,
    wrong: impl Fn(Duration) -> Wrong + Send + Sync + 'static,
    length: Duration,
) -> (Arc<Rim>, tokio::task::JoinHandle<()>) {
    let (reported, largest) = (Mutex::default(), Mutex::default());
    let rim = Arc::new(Rim { start: Instant::now(), wrong: Box::new(wrong), targets, reported, largest });
    let mut config = Config::new("v1".parse().unwrap(), vec!["test".to_owned()]);
    config.canaries = vec!["192.0.2.1:443".parse().unwrap()];
    let apis: Vec<Arc<dyn Admin>> = vec![rim.clone()];
    let prober = start_over(config, "boot".to_owned(), apis, rim.clone(), Clock::starting_at(Moment(1)));
    let running = tokio::spawn(async move { prober.run(sleep(length)).await.unwrap() });
    (rim, running)
}

#[test]
fn when_all_go_down_at_once_each_is_told_in_time() {
    let wrong = |at: Duration| if (DOWN_AT..UP_AT).contains(&at) { Wrong::Targets } else { Wrong::Nothing };
    let (down, up) = runtime().block_on(async {
        let (rim, running) = start(targets(20_000, "500ms"), wrong, Duration::from_secs(24));
        let all = |state| {
            let reported = rim.reported.lock().unwrap();
            assert_eq!(reported.len(), 20_000);
            assert!(
                reported.values().all(|it| it.0 == state),
                "not all {state} at {:?}",
                rim.start.elapsed()
            );
            reported.values().map(|it| it.1).max().unwrap()
        };
        sleep(DOWN_AT).await;
        all(State::Up);
        sleep(UP_AT - DOWN_AT).await;
        let down = all(State::Down) - DOWN_AT;
        running.await.unwrap();
        assert!(*rim.largest.lock().unwrap() <= 5_000);
        (down, all(State::Up) - UP_AT)
    });
    // The interval, the confirmations, a report.
    assert!(down < Duration::from_millis(5_500), "{down:?}");
    assert!(up < Duration::from_millis(5_200), "{up:?}");
}

/// Two outages of our own with a moment between them that is long enough to trust ourselves again: a dial of the first
/// that ends in that moment, and those of the second, are no run of failures.
#[test]
fn outages_of_our_own_in_a_row_put_nobody_down() {
    for pause in (100..2_000).step_by(50) {
        let ours = move |at: Duration| {
            let within = |from, until| (from..until).contains(&at.as_millis());
            let cut = within(8_000, 16_000) || within(16_000 + pause, 25_000);
            if cut { Wrong::OurOwnWay } else { Wrong::Nothing }
        };
        runtime().block_on(async {
            let (rim, mut running) = start(targets(50, "2s"), ours, Duration::from_secs(30));
            while tokio::time::timeout(Duration::from_millis(20), &mut running).await.is_err() {
                let reported = rim.reported.lock().unwrap();
                let down = reported.iter().find(|(_, it)| it.0 == State::Down);
                assert_eq!(down, None, "with {pause} ms between them");
            }
            assert_eq!(rim.reported.lock().unwrap().len(), 50);
        });
    }
}
