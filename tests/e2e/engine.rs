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
    CheckStatus, Engine, Reading, Registration, ServiceChange, conformance,
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
    let all: [(&str, Test); 3] = [
        ("consul::engine_does_what_every_engine_must", conforms),
        ("consul::one_watch_follows_a_thousand_services", thousand),
        ("consul::a_restarted_agent_is_followed_although_its_index_went_back", restarted),
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
