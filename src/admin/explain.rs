//! `/v1/explain`: how one answer of DNS came about: where the client is, what is known of each site, how the sites rank,
//! and the answer with its TTL.
//!
//! The answer comes from `dns` and the ranking from `store::steering`, so that an explanation cannot differ from what DNS
//! would answer.

mod past;
pub(super) mod request;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use store::{
    board::Board,
    locality::Located,
    model::{Moment, Span},
    snapshot::{Snapshot, SteeredAddress, SteeredDomain},
    steering::{self, Family, FamilyOutcome, Look},
};

use super::{
    Admin, Caller, Problem, QueryParams,
    shown::{failover, forced, seen, site_name, tier, view},
};
use crate::{
    api::{ExplainQuery, ExplainedAddress, ExplainedSite, Explanation, ViewStatus},
    auth::Right,
};

pub(super) async fn explain(
    State(admin): State<Admin>,
    caller: Caller,
    QueryParams(query): QueryParams<ExplainQuery>,
) -> Result<Json<Explanation>, Problem> {
    caller.needs(Right::Read)?;
    let snapshot = admin.handle.snapshot();
    let snapshot = snapshot.ok_or_else(|| Problem::not_found("this node has no configuration yet"))?;
    let name: dns::QueryName =
        query.name.parse().map_err(|error| Problem::wrong(format!("name: {error}")))?;
    let record_type = query.record_type.as_deref().unwrap_or("A").parse::<dns::RecordType>();
    let record_type = record_type.map_err(|error| Problem::wrong(format!("type: {error}")))?;
    let client = query.client.unwrap_or_else(|| IpAddr::from([127, 0, 0, 1]));
    let past = match query.at {
        Some(at) => Some(past::at(&admin, at).await?),
        None => None,
    };
    let snapshot = past.as_ref().map_or(snapshot, |past| Arc::clone(&past.snapshot));
    let (board, now) = match &past {
        Some(past) => (&past.board, past.moment),
        None => (&**admin.handle.board(), admin.handle.now()),
    };
    let health_view = admin.handle.health_view().await;
    let (zones, targets) = (admin.zones.load(), admin.targets.load());
    let world = dns::Lookup { snapshot: &snapshot, zones: &zones, targets: &targets, board, now };
    let family = match record_type {
        dns::RecordType::A => Some(Family::V4),
        dns::RecordType::AAAA => Some(Family::V6),
        _ => None,
    };
    let question = dns::Question { name, record_type, class: dns::Question::IN };
    let explanation = dns::explain(world, &question, &dns::Client::at(client));
    drop(zones);
    let located = snapshot.locality.locate(client);
    let steered = explanation.steered.as_deref();
    let rule = steered.and_then(|steered| steering::rule_for(steered, &located, now));
    let sites = steered
        .map(|steered| {
            let health_view = past.is_none().then_some(&health_view);
            sites(&snapshot, steered, &located, (board, now), (family, health_view))
        })
        .unwrap_or_default();
    let alias =
        |step: &dns::Step| format!("{} -> {} ({}, TTL {})", step.name, step.target, step.why, step.ttl);
    Ok(Json(Explanation {
        generation: snapshot.generation,
        past: past.as_ref().map(|past| past.shown.clone()),
        view: if past.is_none() { view(&admin) } else { ViewStatus::default() },
        client,
        home: located.home.map(|id| site_name(&snapshot, id)),
        near: located.near.filter(|_| located.home.is_none()).map(|id| site_name(&snapshot, id)),
        country: located.country.map(|country| country.to_string()),
        geoip: snapshot.locality.knows_countries(),
        scope: explanation.scope,
        order: located.order.iter().map(|id| site_name(&snapshot, *id)).collect(),
        zone: explanation.zone.as_ref().map(ToString::to_string),
        chain: explanation.chain.iter().map(alias).collect(),
        domain: steered.map(|steered| steered.domain.name.to_string()),
        policy: steered.map(|steered| {
            let rule = rule.and_then(|rule| steered.domain.rules.get(rule));
            rule.map_or(&steered.domain.policy, |rule| &rule.policy).as_str().to_owned()
        }),
        rule: rule.map(|rule| rule + 1),
        failover: steered.and_then(|steered| failover(&snapshot, steered)),
        sites: sites.0,
        taken_out: sites.1,
        rcode: explanation.rcode.to_owned(),
        answer: explanation.answer,
        authority: explanation.authority,
    }))
}

/// The sites, best first, and whether overrides take out all that have addresses of the family. `health_view` is what the
/// vantages see at present; without it only the verdicts on the board are known.
fn sites(
    snapshot: &Snapshot,
    steered: &SteeredDomain,
    asker: &Located<'_>,
    (board, now): (&Board, Moment),
    (family, health_view): (Option<Family>, Option<&store::health_state::HealthView>),
) -> (Vec<ExplainedSite>, bool) {
    let ranking = steering::rank(steered, asker, board, now);
    let look = family.map(|family| Look { family, region: asker.region, board });
    let outcome = look.map(|look| steering::for_family(steered, &ranking, look));
    let taken_out = matches!(outcome, Some(FamilyOutcome::TakenOut));
    let usable = ranking.usable().len();
    let of = |(place, ranked): (usize, &steering::Ranked)| {
        let site = steered.sites.get(usize::from(ranked.at))?;
        let address = |address: &SteeredAddress| {
            let target = snapshot.targets.values().find(|target| Some(target.slot) == address.slot);
            let reading = address.slot.map(|slot| board.read(slot));
            let since = reading.map(|reading| reading.since).filter(|since| *since > Moment(0));
            let observations =
                target.zip(health_view).map(|(target, health_view)| seen(health_view, &target.key));
            ExplainedAddress {
                address: address.ip,
                verdict: reading.map(|reading| reading.state.as_str().to_owned()),
                lasting: since.map(|since| Span(Duration::from_secs(now.since(since).as_secs()))),
                observations: observations.unwrap_or_default(),
            }
        };
        Some(ExplainedSite {
            site: site_name(snapshot, ranked.site),
            tier: tier(ranked.tier, steered),
            real: ranked.real.as_str().to_owned(),
            forced: steering::override_in_force(site, now).map(forced),
            full: ranked.overflows,
            usable: place < usable,
            lacks: look.and_then(|look| steering::lacks(site, look)),
            addresses: site.addresses.iter().map(address).collect(),
        })
    };
    (ranking.all().iter().enumerate().filter_map(of).collect(), taken_out)
}
