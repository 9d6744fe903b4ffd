//! The tour: plays every scene once and prints what was measured.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::post};
use store::drain::{DrainId, Phase};
use tokio::time::Instant;

use crate::{
    api::{DrainOrder, DrainView, OrderedDrain},
    out::outln,
};

use super::{
    client::{Admin, get, resolve},
    error::DemoError,
    layout::{InstanceLayout, Layout, ProcessLayout, SiteLayout},
    load::LoadGenerator,
    processes::Fleet,
    stage::{LOAD, ensure, near_and_far, title, until_answer},
    whole_site,
};

/// Plays every scene; an error is a scene that did not show what it should.
pub(super) async fn play(mut fleet: Fleet) -> Result<ExitCode, DemoError> {
    outln!("Waypost tour: six scenes on {} processes of this machine.", count(fleet.layout()));
    follow_the_names(&fleet).await?;
    gateway_dies(&mut fleet).await?;
    instance_dies(&mut fleet).await?;
    instance_leaves(&mut fleet).await?;
    whole_site::dies(&mut fleet, 5).await?;
    control_dies(&mut fleet).await?;
    outln!("\nAll six scenes showed what they should.");
    Ok(ExitCode::SUCCESS)
}

fn count(layout: &Layout) -> usize {
    layout.processes.len() + layout.sites.iter().map(|site| site.instances.len()).sum::<usize>()
}

async fn follow_the_names(fleet: &Fleet) -> Result<(), DemoError> {
    title(1, "A name leads to the nearest site, a request to an instance");
    let layout = fleet.layout();
    let answer = resolve(layout.dns, &layout.service.host)
        .await
        .map_err(|error| DemoError::io("asking DNS", error))?;
    let near = near(layout)?;
    outln!(
        "   {} -> {} -> {:?}, TTL {} s",
        layout.service.host,
        answer.chain.join(" -> "),
        answer.addresses,
        answer.ttl
    );
    ensure(answer.chain == [layout.gateway_domain.clone()] && answer.addresses == [near.ip()], || {
        format!("expected the gateway domain and {}, got {answer:?}", near.ip())
    })?;
    let reply = get(near, &layout.service.host, "/")
        .await
        .map_err(|error| DemoError::io("asking the gateway", error))?;
    outln!("   GET http://{near}/ -> {} from {}", reply.status, String::from_utf8_lossy(&reply.body).trim());
    ensure(reply.status == 200, || format!("the gateway answered {}", reply.status))
}

fn near(layout: &Layout) -> Result<SocketAddr, DemoError> {
    let site = layout.sites.first().ok_or_else(|| DemoError::Scene("no site".to_owned()))?;
    Ok(site.gateway.address)
}

fn config_of(layout: &Layout, pid: u32) -> Result<PathBuf, DemoError> {
    let process = layout.processes.iter().find(|it| it.pid == pid);
    process.map(|it| it.config.clone()).ok_or_else(|| DemoError::Scene(format!("no configuration of {pid}")))
}

async fn gateway_dies(fleet: &mut Fleet) -> Result<(), DemoError> {
    title(2, "The nearest gateway dies (SIGKILL)");
    let (near, far) = near_and_far(fleet.layout())?;
    let host = fleet.layout().service.host.clone();
    let config = config_of(fleet.layout(), near.gateway.pid)?;
    fleet.kill(near.gateway.pid).await?;
    let moved = until_answer(near.dns, &host, far.gateway.address.ip(), Duration::from_secs(10)).await?;
    outln!("   DNS answers {} ({}) after {} ms", far.gateway.address.ip(), far.name, moved.as_millis());
    fleet.restart(&config)?;
    let restarted = Instant::now();
    until_answer(near.dns, &host, near.gateway.address.ip(), Duration::from_secs(60)).await?;
    let back = restarted.elapsed();
    outln!(
        "   restarted; DNS answers {} again after {:.1} s (hold-down 10 s)",
        near.gateway.address.ip(),
        back.as_secs_f64()
    );
    ensure(back >= Duration::from_secs(10), || "it came back before its hold-down".to_owned())
}

fn gateways(layout: &Layout) -> Vec<SocketAddr> {
    layout.sites.iter().map(|site| site.gateway.address).collect()
}

fn instance(layout: &Layout, site: usize, at: usize) -> Result<InstanceLayout, DemoError> {
    let found = layout.sites.get(site).and_then(|it| it.instances.get(at)).cloned();
    found.ok_or_else(|| DemoError::Scene("no such instance".to_owned()))
}

async fn instance_dies(fleet: &mut Fleet) -> Result<(), DemoError> {
    title(3, "An instance dies (SIGKILL) under 500 requests a second");
    let victim = instance(fleet.layout(), 0, 2)?;
    let load = LoadGenerator::start(&gateways(fleet.layout()), &fleet.layout().service.host, "/", LOAD);
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet.kill(victim.pid).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let report = load.finish().await;
    outln!(
        "   {} killed: {} requests, {} failed, slowest {} ms",
        victim.id,
        report.sent,
        report.failed(),
        report.slowest.as_millis()
    );
    ensure(report.failed() == 0, || format!("requests failed: {:?}", report.failures))
}

/// The platform that would stop the process when its hook is called.
#[derive(Clone, Default)]
struct Platform {
    called: Arc<Mutex<Vec<(Instant, serde_json::Value)>>>,
}

async fn hook(State(platform): State<Platform>, Json(body): Json<serde_json::Value>) {
    platform.called.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), body));
}

async fn instance_leaves(fleet: &mut Fleet) -> Result<(), DemoError> {
    title(4, "An instance leaves under load, with receipts");
    let leaver = instance(fleet.layout(), 0, 0)?;
    let platform = Platform::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|error| DemoError::io("listening for the hook", error))?;
    let address = listener.local_addr().map_err(|error| DemoError::io("listening for the hook", error))?;
    let router = Router::new().route("/stop", post(hook)).with_state(platform.clone());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let load = LoadGenerator::start(&gateways(fleet.layout()), &fleet.layout().service.host, "/", LOAD);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let admin = Admin::new(&fleet.layout().admin);
    let order = DrainOrder {
        service: leaver.service.clone(),
        instance: leaver.id.clone(),
        hook: Some(format!("http://{address}/stop")),
        ..DrainOrder::default()
    };
    let started = Instant::now();
    let ordered: OrderedDrain = admin.post("/v1/drains", &order).await?;
    let done = wait_for_drain(&admin, &ordered.drain.id).await?;
    let calls = platform.called.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let before = load.so_far().answers.get(&leaver.id).copied().unwrap_or(0);
    fleet.kill(leaver.pid).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let report = load.finish().await;
    server.abort();
    let after = report.answers.get(&leaver.id).copied().unwrap_or(0);
    outln!(
        "   receipts from {} after {} ms; hook called {} time(s), then the process was stopped",
        receipts(&done).join(", "),
        started.elapsed().as_millis(),
        calls.len()
    );
    outln!(
        "   {} requests, {} failed, {} reached {} after its receipts",
        report.sent,
        report.failed(),
        after - before,
        leaver.id
    );
    // As the site that leads the drain names them: its own, and those of other sites after the site.
    let name = |(at, site): (usize, &SiteLayout)| match at {
        0 => format!("gateway-{}", site.name),
        _ => format!("{0}/gateway-{0}", site.name),
    };
    let gateways: BTreeSet<_> = fleet.layout().sites.iter().enumerate().map(name).collect();
    ensure(receipts(&done).into_iter().collect::<BTreeSet<_>>() == gateways, || {
        format!("receipts are missing: {done:?}")
    })?;
    ensure(!calls.is_empty(), || "the hook was not called".to_owned())?;
    ensure(report.failed() == 0 && after == before, || format!("requests failed: {:?}", report.failures))
}

async fn wait_for_drain(admin: &Admin, id: &DrainId) -> Result<DrainView, DemoError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let view: DrainView = admin.get(&format!("/v1/drains/{id}")).await?;
        if view.drain.phase == Phase::Done {
            return Ok(view);
        }
        ensure(Instant::now() < deadline, || format!("the drain does not end: {view:?}"))?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn receipts(view: &DrainView) -> Vec<String> {
    view.receipts.iter().map(|receipt| receipt.gateway.clone()).collect()
}

async fn control_dies(fleet: &mut Fleet) -> Result<(), DemoError> {
    title(6, "Every control and engine dies; DNS and gateways serve on, also when restarted");
    let layout = fleet.layout().clone();
    let killed: Vec<_> =
        layout.processes.iter().filter(|it| it.role == "engine" || it.role == "control").collect();
    for process in &killed {
        fleet.kill(process.pid).await?;
    }
    let near = near(&layout)?;
    let load = LoadGenerator::start(&gateways(&layout), &layout.service.host, "/", LOAD);
    let answer = until_answer(layout.dns, &layout.service.host, near.ip(), Duration::from_secs(2)).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let report = load.finish().await;
    let name = |it: &&ProcessLayout| format!("{}-{}", it.role, it.site.as_deref().unwrap_or_default());
    let who = killed.iter().map(name).collect::<Vec<_>>().join(", ");
    outln!(
        "   {who} killed; DNS answered in {} ms; {} requests, {} failed",
        answer.as_millis(),
        report.sent,
        report.failed()
    );
    ensure(report.failed() == 0, || format!("requests failed: {:?}", report.failures))?;

    let dns = layout
        .processes
        .iter()
        .find(|it| it.role == "dns")
        .ok_or_else(|| DemoError::Scene("no DNS".to_owned()))?;
    fleet.kill(dns.pid).await?;
    fleet.restart(&dns.config)?;
    let dns_back = until_answer(layout.dns, &layout.service.host, near.ip(), Duration::from_secs(30)).await?;
    let pid = layout.sites.first().map(|it| it.gateway.pid).unwrap_or_default();
    let config = config_of(&layout, pid)?;
    fleet.kill(pid).await?;
    fleet.restart(&config)?;
    let started = Instant::now();
    let host = layout.service.host.clone();
    fleet
        .wait_for("the restarted gateway's first answer", || {
            let host = host.clone();
            async move { get(near, &host, "/").await.is_ok_and(|it| it.status == 200) }
        })
        .await?;
    outln!(
        "   restarted with nothing else reachable: DNS answers after {} ms, the gateway after {} ms",
        dns_back.as_millis(),
        started.elapsed().as_millis()
    );
    Ok(())
}
