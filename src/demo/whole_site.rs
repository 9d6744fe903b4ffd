//! The scene in which a whole site dies: engine, control, DNS, gateway, prober and back ends, all at once. The other site goes
//! on without it and takes orders, and the site comes back to what was decided without it.

use std::time::Duration;

use store::model::Span;
use tokio::time::Instant;

use super::{
    client::{Admin, resolve},
    error::DemoError,
    layout::SiteLayout,
    load::LoadGenerator,
    processes::Fleet,
    stage::{LOAD, ensure, near_and_far, title, until, until_answer},
};
use crate::{
    api::{Applied, Explanation, Status},
    out::outln,
};

/// The hold-down of the demo's domain.
const HOLD_DOWN: Span = Span(Duration::from_secs(10));
/// How soon an order has to work, on a machine that may be busy. The first order of all takes up to a second, because a
/// prefix of the KV without a key is looked at once a second.
const AT_ONCE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);
const ORDER: &str = "stay-out";

/// The scene.
pub(super) async fn dies(fleet: &mut Fleet, number: u8) -> Result<(), DemoError> {
    let (near, far) = near_and_far(fleet.layout())?;
    title(number, &format!("Everything in {} dies (SIGKILL), its engine and its control too", near.name));
    let survivor = Admin::new(&far.admin);
    alone(fleet, &near, &far).await?;
    keep_out(&survivor, fleet, &near, &far).await?;
    returns(&survivor, fleet, &near, &far).await?;
    let_in(&survivor, fleet, &near, &far).await
}

/// The other site answers by itself, and fails no request of its own clients.
async fn alone(fleet: &mut Fleet, near: &SiteLayout, far: &SiteLayout) -> Result<(), DemoError> {
    let host = fleet.layout().service.host.clone();
    let load = LoadGenerator::start(&[far.gateway.address], &host, "/", LOAD);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = fleet.kill_site(&near.name).await?;
    let moved = until_answer(far.dns, &host, far.gateway.address.ip(), Duration::from_secs(10)).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = load.finish().await;
    outln!(
        "   {count} processes killed; DNS of {} answers {} after {} ms",
        far.name,
        far.gateway.address.ip(),
        moved.as_millis()
    );
    outln!("   {} requests to the gateway of {}, {} failed", report.sent, far.name, report.failed());
    ensure(report.failed() == 0, || format!("requests failed: {:?}", report.failures))
}

/// An order is given at the survivor, whose home is dark.
async fn keep_out(
    survivor: &Admin,
    fleet: &Fleet,
    near: &SiteLayout,
    far: &SiteLayout,
) -> Result<(), DemoError> {
    let order = format!(
        "kind: Override\nname: {ORDER}\ntarget: {{ site: {} }}\nstate: drain\nowner: tour\nreason: what died is looked at\n",
        near.name
    );
    let ordered = Instant::now();
    survivor.order(&order).await?;
    let name = fleet.layout().gateway_domain.clone();
    let in_force = async || {
        explained(survivor, &name).await.is_ok_and(|it| forced(&it, &near.name).is_some_and(|it| it == ORDER))
    };
    until(in_force, PATIENCE, || "the order is not in force".to_owned()).await?;
    let took = ordered.elapsed();
    outln!(
        "   ordered at {}: no clients to {} even if it comes back; in force after {} ms",
        far.name,
        near.name,
        took.as_millis()
    );
    ensure(took < AT_ONCE, || format!("the order took {took:?}"))
}

/// The dead site starts again, and knows what was ordered without it.
async fn returns(
    survivor: &Admin,
    fleet: &mut Fleet,
    near: &SiteLayout,
    far: &SiteLayout,
) -> Result<(), DemoError> {
    let host = fleet.layout().service.host.clone();
    let started = Instant::now();
    fleet.restart_site(&near.name)?;
    let back = Admin::new(&near.admin);
    let mut seen = None;
    let equal = async || {
        let (Ok(here), Ok(there)) = (state(survivor).await, state(&back).await) else { return false };
        let equal = here == there && here.orders == [ORDER];
        seen = Some((here, there));
        equal
    };
    if let Err(error) = until(equal, PATIENCE, || "the sites are not the same".to_owned()).await {
        return Err(DemoError::Scene(format!("{error}: {seen:?}")));
    }
    let state = seen.map(|(here, _)| here).unwrap_or_default();
    outln!(
        "   {} starts again: after {:.1} s both sites have generation {}, the order {}, and the verdicts {}",
        near.name,
        started.elapsed().as_secs_f64(),
        state.generation,
        state.orders.join(", "),
        state.verdicts.join(", ")
    );
    let name = fleet.layout().gateway_domain.clone();
    let held =
        async || explained(survivor, &name).await.is_ok_and(|it| is_over_its_hold_down(&it, &near.name));
    until(held, PATIENCE, || format!("{} is not up again", near.name)).await?;
    for site in [near, far] {
        let answer = resolve(site.dns, &host).await.map_err(|error| DemoError::io("asking DNS", error))?;
        ensure(answer.addresses == [far.gateway.address.ip()], || {
            format!("DNS of {} answers {answer:?} against the order", site.name)
        })?;
    }
    outln!(
        "   {} is up beyond its hold-down; DNS of both sites answers {} as ordered",
        near.name,
        far.gateway.address.ip()
    );
    Ok(())
}

/// The order is ended, again at the survivor.
async fn let_in(
    survivor: &Admin,
    fleet: &Fleet,
    near: &SiteLayout,
    far: &SiteLayout,
) -> Result<(), DemoError> {
    let (host, wanted) = (fleet.layout().service.host.clone(), near.gateway.address.ip());
    let ordered = Instant::now();
    let _: Applied = survivor.delete(&format!("/v1/documents/override/{ORDER}")).await?;
    until_answer(far.dns, &host, wanted, PATIENCE).await?;
    let there = ordered.elapsed();
    until_answer(near.dns, &host, wanted, PATIENCE).await?;
    let here = ordered.elapsed();
    outln!(
        "   order ended at {}: its DNS answers {wanted} after {} ms, DNS of {} after {} ms",
        far.name,
        there.as_millis(),
        near.name,
        here.as_millis()
    );
    ensure(there < AT_ONCE, || format!("the end of the order took {there:?}"))
}

/// What must be equal at all sites.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    generation: String,
    /// The overrides in force.
    orders: Vec<String>,
    /// The verdicts, by site.
    verdicts: Vec<String>,
    /// The instances that it knows of the service.
    instances: Vec<(String, usize)>,
}

async fn state(admin: &Admin) -> Result<State, DemoError> {
    let status: Status = admin.get("/v1/status").await?;
    let overrides: Vec<serde_json::Value> = admin.get("/v1/documents?kind=Override").await?;
    let name = |it: &serde_json::Value| it["document"]["name"].as_str().unwrap_or_default().to_owned();
    let verdict = |it: &crate::api::TargetStatus| format!("{} {}", it.site, it.verdict.state);
    let count = |it: &crate::api::ServiceStatus| (it.name.clone(), it.known.unwrap_or_default().all);
    Ok(State {
        generation: status.generation.to_string(),
        orders: overrides.iter().map(name).collect(),
        verdicts: status.targets.iter().map(verdict).collect(),
        instances: status.services.iter().map(count).collect(),
    })
}

async fn explained(admin: &Admin, name: &str) -> Result<Explanation, DemoError> {
    admin.get(&format!("/v1/explain?name={name}&client=127.0.0.1")).await
}

/// The name of the override that is in force for a site.
fn forced<'a>(explained: &'a Explanation, site: &str) -> Option<&'a str> {
    let site = explained.sites.iter().find(|it| it.site == site)?;
    site.forced.as_ref().map(|it| it.name.as_str())
}

/// True if nothing but an order keeps a site out of the answers.
fn is_over_its_hold_down(explained: &Explanation, site: &str) -> bool {
    let site = explained.sites.iter().find(|it| it.site == site);
    site.is_some_and(|it| {
        it.real == "up" && it.addresses.iter().all(|it| it.lasting.is_some_and(|lasting| lasting > HOLD_DOWN))
    })
}
