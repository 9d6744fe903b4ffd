//! A prober whose own way is cut, over a rim that the test owns: time is paused, nothing is dialled.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test binary")]

use std::{
    borrow::Cow,
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

/// What is out of reach: since when, and for how long.
#[derive(Clone, Copy, Debug)]
struct Cut {
    from: Instant,
    lasts: Duration,
}

impl Cut {
    fn now(&self) -> bool {
        (self.from..self.from + self.lasts).contains(&Instant::now())
    }
}

#[derive(Debug)]
struct Rim {
    cut: Cut,
    targets: Vec<WorkTarget>,
    batches: Mutex<Vec<Batch>>,
}

#[async_trait]
impl Dialer for Rim {
    async fn dial(&self, _: &WorkTarget, _: &mut Phases) -> Result<Cow<'static, str>, Fault> {
        if self.cut.now() {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(5)).await;
        Ok(Cow::Borrowed("connected"))
    }

    async fn reach(&self, _: &Canary) -> Result<(), Fault> {
        if self.cut.now() {
            sleep(CANARY_TIMEOUT).await;
            return Err(Fault::Target("no answer".to_owned()));
        }
        sleep(Duration::from_millis(5)).await;
        Ok(())
    }
}

#[async_trait]
impl Admin for Rim {
    fn base(&self) -> &str {
        "test"
    }

    async fn report(&self, batch: &Batch) -> Result<BatchReply, Failed> {
        self.batches.lock().unwrap().push(batch.clone());
        Ok(BatchReply::Accepted)
    }

    async fn work(&self, index: u64) -> Result<Work, Failed> {
        if index > 0 {
            std::future::pending::<()>().await;
        }
        Ok(Work {
            index: 1,
            targets: Some(self.targets.iter().cloned().map(Arc::new).collect()),
            confirm: Vec::new(),
        })
    }
}

fn check(fall: u8) -> Check {
    let text = format!(
        "kind: Check\nname: web\ntype: tcp\nport: 80\ninterval: 1s\ntimeout: 500ms\nfall: {fall}\nrise: 2\n"
    );
    match parse("test.yaml", &text).unwrap().remove(0).value {
        Document::Check(check) => check,
        other => panic!("{other:?}"),
    }
}

/// The states of two targets that a vantage with a canary reports without withholding them, while its connection is cut
/// for so long.
async fn reported_states(fall: u8, lasts: Duration, phase: Duration) -> Vec<State> {
    let check = check(fall);
    let target = |n: u8| {
        let address = [10, 0, 0, n].into();
        WorkTarget {
            key: TargetKey::new(address, &check),
            address,
            site: "bj".parse().unwrap(),
            check: check.clone(),
        }
    };
    let cut = Cut { from: Instant::now() + Duration::from_secs(5) + phase, lasts };
    let rim = Arc::new(Rim { cut, targets: vec![target(1), target(2)], batches: Mutex::default() });
    let mut config = Config::new("v1".parse().unwrap(), vec!["test".to_owned()]);
    config.canaries = vec!["192.0.2.1:443".parse().unwrap()];
    let apis: Vec<Arc<dyn Admin>> = vec![rim.clone()];
    let prober = start_over(config, "boot".to_owned(), apis, rim.clone(), Clock::starting_at(Moment(1)));
    prober.run(sleep(Duration::from_secs(20))).await.unwrap();
    let batches = rim.batches.lock().unwrap();
    let open = batches.iter().filter(|batch| !batch.withheld);
    open.flat_map(|batch| batch.observations.iter().map(|seen| seen.state)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_vantage_whose_own_way_is_cut_tells_no_down() {
    for fall in 1..=4 {
        for lasts in [600, 1_200, 1_500, 2_500, 3_200, 6_000] {
            for phase in [0, 300, 700] {
                let (lasts, phase) = (Duration::from_millis(lasts), Duration::from_millis(phase));
                let states = reported_states(fall, lasts, phase).await;
                assert!(states.contains(&State::Up));
                assert!(!states.contains(&State::Down), "fall {fall}, cut for {lasts:?}, {phase:?} later");
            }
        }
    }
}
