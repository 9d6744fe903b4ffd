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
    check::{Dialer, Fault, Phases},
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

/// All targets are down between [`DOWN_AT`] and [`UP_AT`]; the canary is not.
#[derive(Debug)]
struct Rim {
    start: Instant,
    targets: Vec<Arc<WorkTarget>>,
    /// What was told of each last, and when.
    told: Mutex<HashMap<TargetKey, (State, Duration)>>,
    largest: Mutex<usize>,
}

#[async_trait]
impl Dialer for Rim {
    async fn dial(&self, _: &WorkTarget, _: &mut Phases) -> Result<Cow<'static, str>, Fault> {
        let down = (DOWN_AT..UP_AT).contains(&self.start.elapsed());
        sleep(Duration::from_millis(1)).await;
        if down {
            Err(Fault::Target("connection refused".to_owned()))
        } else {
            Ok(Cow::Borrowed("connected"))
        }
    }

    async fn reach(&self, _: &Canary) -> Result<(), Fault> {
        sleep(Duration::from_millis(1)).await;
        Ok(())
    }
}

#[async_trait]
impl Admin for Rim {
    fn base(&self) -> &str {
        "test"
    }

    async fn report(&self, batch: &Batch) -> Result<BatchReply, Failed> {
        sleep(Duration::from_millis(50)).await;
        let mut told = self.told.lock().unwrap();
        for seen in &batch.observations {
            told.insert(seen.target.clone(), (seen.state, self.start.elapsed()));
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

fn targets(count: u32) -> Vec<Arc<WorkTarget>> {
    let text =
        "kind: Check\nname: web\ntype: tcp\nport: 80\ninterval: 5s\ntimeout: 500ms\nfall: 4\nrise: 1\n";
    let check: Check = match parse("test.yaml", text).unwrap().remove(0).value {
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

/// Until when the last of so many targets was told to be down, and up again; and how long that took this machine.
fn play(count: u32) -> (Duration, Duration, Duration) {
    let began = std::time::Instant::now();
    let rim =
        |start| Rim { start, targets: targets(count), told: Mutex::default(), largest: Mutex::default() };
    let (down, up) = runtime().block_on(async {
        let rim = Arc::new(rim(Instant::now()));
        let mut config = Config::new("v1".parse().unwrap(), vec!["test".to_owned()]);
        config.canaries = vec!["192.0.2.1:443".parse().unwrap()];
        let apis: Vec<Arc<dyn Admin>> = vec![rim.clone()];
        let prober = start_over(config, "boot".to_owned(), apis, rim.clone(), Clock::starting_at(Moment(1)));
        let running = tokio::spawn(prober.run(sleep(Duration::from_secs(24))));
        let all = |state| {
            let told = rim.told.lock().unwrap();
            assert_eq!(told.len(), count as usize);
            assert!(told.values().all(|it| it.0 == state), "not all {state} at {:?}", rim.start.elapsed());
            told.values().map(|it| it.1).max().unwrap()
        };
        sleep(DOWN_AT).await;
        all(State::Up);
        sleep(UP_AT - DOWN_AT).await;
        let down = all(State::Down) - DOWN_AT;
        running.await.unwrap().unwrap();
        assert!(*rim.largest.lock().unwrap() <= 5_000);
        (down, all(State::Up) - UP_AT)
    });
    (down, up, began.elapsed())
}

#[test]
fn when_all_go_down_at_once_each_is_told_in_time_and_costs_what_it_costs_alone() {
    let (.., few) = play(1_000);
    let (down, up, many) = play(20_000);
    // The interval, the confirmations, a report.
    assert!(down < Duration::from_millis(5_500), "{down:?}");
    assert!(up < Duration::from_millis(5_200), "{up:?}");
    assert!(many < few * 80, "1,000 took {few:?}, 20,000 took {many:?}");
}
