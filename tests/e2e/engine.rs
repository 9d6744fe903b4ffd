//! The Consul engine against a real agent: what every engine must do, a thousand services in one watch, and an
//! agent that goes away and comes back with its history forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use store::engine::{
    CheckStatus, Engine, KvOp, MAX_TXN_OPS, Reading, Registration, ServiceChange, SessionSpec, conformance,
    consul::{Config, Consul},
};
use tokio::sync::{mpsc, watch};

use crate::{
    components::Components,
    harness::{ConsulAgent, ensure, runtime},
};

const PATIENCE: Duration = Duration::from_secs(60);

pub fn trials(components: &Components) -> Vec<Trial> {
    let mut trials = Vec::new();
    type Test = fn(PathBuf) -> Result<(), Failed>;
    let all: [(&str, Test); 4] = [
        ("consul::engine_does_what_every_engine_must", conforms),
        ("consul::one_watch_follows_a_thousand_services", thousand),
        ("consul::a_restarted_agent_is_followed_although_its_index_went_back", restarted),
        ("consul::a_server_that_reads_its_log_is_never_taken_for_empty", reads_its_log),
    ];
    for (name, test) in all {
        trials.push(components.needs_consul(name.to_owned(), test));
    }
    trials
}

fn client(agent: &ConsulAgent) -> Arc<Consul> {
    let config = Config { url: agent.url.clone(), token: None, ca_pem: None, datacenter: None };
    Arc::new(Consul::new(&config).unwrap())
}

fn conforms(consul: PathBuf) -> Result<(), Failed> {
    let agent = ConsulAgent::start(&consul);
    let cases = conformance::cases();
    let count = cases.len();
    let engine = client(&agent);
    let runtime = runtime();
    let running: Vec<_> =
        cases.into_iter().map(|case| (case.name, runtime.spawn(case.run(engine.clone())))).collect();
    let failed: Vec<&str> = running
        .into_iter()
        .filter_map(|(name, task)| runtime.block_on(task).is_err().then_some(name))
        .collect();
    println!("{count} cases");
    ensure(failed.is_empty(), || format!("the real agent does otherwise: {failed:?}"))
}

fn registration(service: &str) -> Registration {
    Registration {
        service: service.to_owned(),
        id: service.to_owned(),
        address: ([127, 0, 0, 1], 80).into(),
        tags: vec![],
        meta: BTreeMap::new(),
        ttl: Some(Duration::from_secs(600)),
        status: CheckStatus::Passing,
    }
}

/// Reads changes until one is about a service and fits.
async fn until(
    changes: &mut mpsc::Receiver<ServiceChange>,
    service: &str,
    what: &str,
    fits: impl Fn(&Reading) -> bool,
) -> Result<(), Failed> {
    let wanted = async {
        while let Some(change) = changes.recv().await {
            if change.service == service && fits(&change.reading) {
                return Ok(());
            }
        }
        Err("the watch ended")
    };
    match tokio::time::timeout(PATIENCE, wanted).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(why)) => Err(format!("{service}: {what}: {why}").into()),
        Err(_) => Err(format!("{service}: {what}: not within {PATIENCE:?}").into()),
    }
}

fn with_instances(count: usize) -> impl Fn(&Reading) -> bool {
    move |reading| matches!(reading, Reading::Answered(read) if read.value.len() == count)
}

fn connections_to(port: u16) -> usize {
    let wanted = format!(":{port:04X} ");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // The remote address is the third field; 01 is an established connection.
    let ours = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(2);
        Some((fields.next()?, fields.next()?))
    });
    ours.filter(|(remote, state)| format!("{remote} ").contains(&wanted) && *state == "01").count()
}

fn thousand(consul: PathBuf) -> Result<(), Failed> {
    let agent = ConsulAgent::start(&consul);
    let engine = client(&agent);
    let port: u16 = agent.url.rsplit(':').next().unwrap().parse().unwrap();
    let names: BTreeSet<String> = (0..1_000).map(|n| format!("s{n:04}")).collect();
    runtime().block_on(async {
        for name in &names {
            engine.register(&registration(name)).await?;
        }
        let (_in_use, receiver) = watch::channel(Arc::new(names.clone()));
        let mut changes = engine.clone().watch(receiver);
        let mut read = BTreeSet::new();
        while read.len() < names.len() {
            let change = tokio::time::timeout(PATIENCE, changes.recv()).await?.ok_or("the watch ended")?;
            if with_instances(1)(&change.reading) {
                read.insert(change.service);
            }
        }
        let polls = connections_to(port);
        ensure(polls <= 100, || format!("{polls} connections for 1,000 services"))?;
        for name in ["s0001", "s0500", "s0999"] {
            engine.ttl_update(&format!("service:{name}"), CheckStatus::Critical, "down").await?;
            let critical = |reading: &Reading| {
                let critical = |it: &store::engine::Endpoint| it.status == CheckStatus::Critical;
                matches!(reading, Reading::Answered(read) if read.value.iter().all(critical))
            };
            until(&mut changes, name, "its check went critical", critical).await?;
            engine.deregister(name).await?;
            until(&mut changes, name, "it left", with_instances(0)).await?;
        }
        println!("1,000 services over {polls} connections");
        Ok(())
    })
}

fn restarted(consul: PathBuf) -> Result<(), Failed> {
    let mut agent = ConsulAgent::start(&consul);
    let engine = client(&agent);
    let runtime = runtime();
    let (_in_use, receiver) = watch::channel(Arc::new(BTreeSet::from(["orders".to_owned()])));
    let mut changes = runtime.block_on(async {
        for _ in 0..20 {
            engine.register(&registration("other")).await?;
            engine.deregister("other").await?;
        }
        engine.register(&registration("orders")).await?;
        let mut changes = engine.clone().watch(receiver);
        until(&mut changes, "orders", "first reading", with_instances(1)).await?;
        Ok::<_, Failed>(changes)
    })?;
    agent.restart(&consul);
    runtime.block_on(async {
        let away = |reading: &Reading| matches!(reading, Reading::Unreachable(_));
        until(&mut changes, "orders", "the outage", away).await?;
        until(&mut changes, "orders", "the agent that forgot everything", with_instances(0)).await?;
        engine.register(&registration("orders")).await?;
        until(&mut changes, "orders", "its return", with_instances(1)).await
    })
}

/// What is asked of a server all the time while it starts.
#[derive(Clone, Copy, Debug)]
enum Asked {
    LastKey,
    Prefix,
    Keys,
    Services,
    Instances,
    Sessions,
    Renewal,
}

/// A server answers as soon as it leads, also before it has read its log. However often it is asked meanwhile, it gives what
/// was there before it was killed, or fails.
fn reads_its_log(consul: PathBuf) -> Result<(), Failed> {
    const KEYS: usize = 3_000;
    let all = [
        Asked::LastKey,
        Asked::Prefix,
        Asked::Keys,
        Asked::Services,
        Asked::Instances,
        Asked::Sessions,
        Asked::Renewal,
    ];
    let mut agent = ConsulAgent::durable(&consul);
    let engine = client(&agent);
    let runtime = runtime();
    let session = runtime.block_on(async {
        let sets: Vec<KvOp> = (0..KEYS)
            .map(|n| KvOp::Set { key: format!("log/{n:04}"), value: b"x".repeat(100).into() })
            .collect();
        for some in sets.chunks(MAX_TXN_OPS) {
            engine.txn(some.to_vec()).await?;
        }
        engine.register(&registration("orders")).await?;
        let spec = SessionSpec {
            name: "the log".to_owned(),
            ttl: Duration::from_secs(600),
            lock_delay: Duration::ZERO,
        };
        engine.session_create(&spec).await
    })?;
    agent.begin_again(&consul);
    runtime.block_on(async {
        // A read that comes before there is a leader waits for up to half a second: many of them arrive at any moment.
        let reading = (0..4 * all.len()).map(|n| {
            let (asked, engine, session) = (all[n % all.len()], Arc::clone(&engine), session.clone());
            tokio::spawn(async move {
                let began = tokio::time::Instant::now();
                let mut answered = 0;
                while answered < 30 && began.elapsed() < PATIENCE {
                    let whole = match asked {
                        Asked::LastKey => engine
                            .kv_get(&format!("log/{:04}", KEYS - 1), None)
                            .await
                            .map(|it| it.value.is_some()),
                        Asked::Prefix => engine.kv_list("log/", None).await.map(|it| it.value.len() == KEYS),
                        Asked::Keys => engine.kv_keys("log/").await.map(|it| it.len() == KEYS),
                        Asked::Services => {
                            engine.services(None).await.map(|it| it.value.contains_key("orders"))
                        }
                        Asked::Instances => engine.health("orders", None).await.map(|it| it.value.len() == 1),
                        Asked::Sessions => engine.sessions().await.map(|it| it.len() == 1),
                        Asked::Renewal => engine.session_renew(&session).await,
                    };
                    match whole {
                        Ok(true) => answered += 1,
                        Ok(false) => return Err(format!("{asked:?} after {:?}", began.elapsed())),
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                if answered == 0 { Err(format!("{asked:?} was never answered")) } else { Ok(()) }
            })
        });
        let mut failed = Vec::new();
        for task in reading.collect::<Vec<_>>() {
            failed.extend(task.await?.err());
        }
        ensure(failed.is_empty(), || format!("taken for empty: {failed:?}"))
    })
}
